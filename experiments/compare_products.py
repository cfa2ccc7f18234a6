"""Every candidate model beside every other on public logs, split by time; writes results/products_*.csv.

    python experiments/compare_products.py [retailrocket] [taobao] [completejourney] [--set key=value ...]
        [--validate]

Hyper-parameters are the committed defaults; the combiner and the training lengths are chosen on the
validation window, and the table is over the test window. With --validate the log ends where the test window
begins, so that the validation window judges; nothing is written. A data set that is absent is said so.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import pandas as pd
from rich.console import Console

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.sources import import_source
from recsys.data.split import split_by_time
from recsys.evaluation.bootstrap import paired_bootstrap
from recsys.reports import show_products
from recsys.types import Target
from training.config import TrainingConfig
from training.judging import run_trial
from training.pipeline import comparison_table

RESULTS = Path(__file__).parent / "results"
RAW = {"retailrocket": "retailrocket", "taobao": "taobao_userbehavior", "completejourney": None}
IMPLICIT = ("als", "bpr", "item_knn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RAW))
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
            config = TrainingConfig.load(None, arguments.overrides)
            if arguments.validate:
                dataset = dataset.until(split_by_time(dataset, config.split).test.fit_end_us)
            table = compare(name, dataset, config, console)
            if not arguments.validate:
                RESULTS.mkdir(exist_ok=True)
                table.to_csv(RESULTS / f"products_{name}.csv", index=False, float_format="%.5f")


def compare(name: str, dataset: Dataset, config: TrainingConfig, console: Console) -> pd.DataFrame:
    begin = time.perf_counter()

    def tell(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.perf_counter() - last > 20:
            last = time.perf_counter()
            console.print(f"{last - begin:6.0f} s  {done}/{total} {text}", style="dim")

    last = begin
    trial = run_trial(config, dataset, Target.ITEM, progress=tell)
    seconds = time.perf_counter() - begin
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"[bold]{name}[/]: {seconds:.0f} s, {memory_gib:.1f} GiB, {trial.fusion}")
    show_products(console, trial.comparison.rows)
    reports = trial.comparison.reports
    best = max(
        (model for model in IMPLICIT if model in reports), key=lambda m: reports[m].by_user["ndcg@20"].mean()
    )
    for model in ("two_tower", "fused"):
        if model in reports:
            difference = paired_bootstrap(reports[model].by_user["ndcg@20"], reports[best].by_user["ndcg@20"])
            console.print(
                f"{model} - {best} (the best of implicit), NDCG@20: {difference.mean:+.4f} "
                f"({difference.lower:+.4f} to {difference.upper:+.4f})"
            )
    table = comparison_table(trial.comparison.rows)
    table.insert(0, "data", name)
    table["seconds"], table["memory_gib"] = round(seconds, 1), round(memory_gib, 2)
    return table


if __name__ == "__main__":
    main()
