"""Every candidate model beside every other on public logs, split by time; writes results/products_*.csv.

    python experiments/compare_products.py [retailrocket] [taobao] [completejourney] [--seeds 0 1 2]
        [--set key=value ...] [--validate]

Hyper-parameters are the committed defaults; the combiner and the training lengths are chosen on the
validation window, and the table is over the test window. Beside them stand the models of `implicit` with the
settings that `recsys tune` found on the validation windows, of tuned/<data>_<model>.yaml, each with or
without what a user consumed, as was better in the validation window. With --validate the log ends where the
test window begins, so that the validation window judges, and nothing is written; nor is it with --set. A data
set that is absent is said so.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.sources import import_source
from recsys.data.split import Window, split_by_time
from recsys.evaluation.bootstrap import paired_bootstrap
from recsys.evaluation.protocol import Report, evaluate, judge
from recsys.evaluation.table import Row
from recsys.evaluation.table import compare as compare_reports
from recsys.models.fusion_training import consumption
from recsys.models.popular import Popular
from recsys.reports import show_products
from recsys.types import Progress, Target
from training.candidates import build_model
from training.config import TrainingConfig
from training.judging import Trial, answering, run_trial

HERE = Path(__file__).parent
RAW = {"retailrocket": "retailrocket", "taobao": "taobao_userbehavior", "completejourney": None}
IMPLICIT = ("als", "bpr", "item_knn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RAW))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--validate", action="store_true")
    arguments = parser.parse_args()
    console = Console()
    root = Path(os.environ.get("RECSYS_DATA", "../shared/data"))
    for name in arguments.names:
        folder = RAW[name]
        if folder is not None and not (root / folder).exists():
            console.print(
                f"{name}: {root / folder} is absent; set RECSYS_DATA to the folder of the data sets"
            )
            continue
        with tempfile.TemporaryDirectory() as work:
            raw = None if folder is None else root / folder
            import_source(name, raw, Path(work) / "logs")
            prepare(Path(work) / "logs", Path(work) / "dataset")
            dataset = Dataset.load(Path(work) / "dataset")
            if arguments.validate:
                split = TrainingConfig.load(None, arguments.overrides).split
                dataset = dataset.until(split_by_time(dataset, split).test.fit_end_us)
            lines: list[dict[str, object]] = []
            for seed in arguments.seeds:
                lines += compare(name, dataset, [*arguments.overrides, f"seed={seed}"], seed, console)
                if not (arguments.validate or arguments.overrides):
                    results = HERE / "results" / f"products_{name}.csv"
                    pd.DataFrame(lines).to_csv(results, index=False, float_format="%.4f")


def compare(
    name: str, dataset: Dataset, overrides: list[str], seed: int, console: Console
) -> list[dict[str, object]]:
    """Fit and judge everything once; returns the lines of the table."""
    begin = time.perf_counter()

    def tell(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.perf_counter() - last > 20:
            last = time.perf_counter()
            console.print(f"{last - begin:6.0f} s  {done}/{total} {text}", style="dim")

    last = begin
    config = TrainingConfig.load(None, overrides)
    trial = run_trial(config, dataset, Target.ITEM, progress=tell)
    seconds = time.perf_counter() - begin
    judged = tuned(name, dataset, trial, overrides, tell)
    reports = {**trial.comparison.reports, **judged}
    rows = compare_reports(
        reports, trial.comparison.segments, samples=config.evaluation.samples, seed=config.seed
    )
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"[bold]{name}[/], seed {seed}: {seconds:.0f} s, {memory_gib:.1f} GiB, {trial.fusion}")
    show_products(console, rows)
    beside = {model.partition(",")[0] for model in judged} | set(IMPLICIT)
    best = max(
        (model for model in reports if model.partition(",")[0] in beside),
        key=lambda model: np.mean(reports[model].by_user["ndcg@20"]),
    )
    for model in ("two_tower", "fused"):
        if model in reports:
            ours, theirs = reports[model].by_user["ndcg@20"], reports[best].by_user["ndcg@20"]
            difference = paired_bootstrap(ours, theirs)
            console.print(
                f"{model} against {best} (the best of implicit), NDCG@20: {ours.mean() / theirs.mean():.2f}"
                f" times, {difference.mean:+.4f} ({difference.lower:+.4f} to {difference.upper:+.4f})"
            )
    return [
        {
            "data": name,
            "seed": seed,
            **_line(row),
            "seconds": round(seconds),
            "memory_gib": round(memory_gib, 2),
        }
        for row in rows
    ]


def tuned(
    name: str, dataset: Dataset, trial: Trial, overrides: list[str], tell: Progress
) -> dict[str, Report]:
    """The models of `implicit` as tuned, each with its better policy on repeats in the validation window."""
    found: dict[str, Report] = {}
    for model in IMPLICIT:
        fragment = HERE / "tuned" / f"{name}_{model}.yaml"
        if not fragment.exists():
            continue
        config = TrainingConfig.load(fragment, overrides)
        tell(0, 1, f"{model}, tuned")
        on_validation = _with_and_without_repeats(model, config, dataset, trial, trial.split.validation)
        better = int(np.argmax([report.by_user["ndcg@20"].mean() for report in on_validation]))
        on_test = _with_and_without_repeats(model, config, dataset, trial, trial.split.test)
        found[f"{model}, tuned"] = on_test[better]
    return found


def _with_and_without_repeats(
    model: str, config: TrainingConfig, dataset: Dataset, trial: Trial, window: Window
) -> list[Report]:
    """A model over a window: consumed products allowed, and left out."""
    before = dataset.until(window.fit_end_us)
    popular = Popular(config.models.popular).fit(before)
    fitted = build_model(model, config, Target.ITEM).fit(before)
    judged = judge(
        dataset,
        window,
        target=Target.ITEM,
        goals=trial.goals,
        max_users=config.evaluation.max_users,
        seed=config.seed,
    )
    consumed = before.done(Target.ITEM, consumption(before))
    ks = config.evaluation.k
    return [
        evaluate(answering(fitted, popular, k=max(ks), consumed=out), judged, ks=ks)
        for out in (None, consumed)
    ]


def _line(row: Row) -> dict[str, object]:
    """A row of the table with its means, and the interval of NDCG@20."""
    line: dict[str, object] = {"model": row.model, "segment": row.segment, "users": row.n_users}
    for metric, value in row.values.items():
        line[metric] = value.mean
        if metric == "ndcg@20":
            line |= {"ndcg@20_lower": value.lower, "ndcg@20_upper": value.upper}
    return line


if __name__ == "__main__":
    main()
