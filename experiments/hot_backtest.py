"""Backtest of the hot-item potential, beside the rules of operators: two shops, and the simulated platform.

    python experiments/hot_backtest.py [completejourney] [onlineretail] [simulated1] [--target breakout hot]

`simulated` and a seed is the simulated platform at its defaults, judged as the shops are, by its log. Horizon
7:14, every weekly origin of the last half of the log, refitted every four weeks; beside the rules a
forecaster, where the extra [forecast] is installed: one to two hours of a core for Complete Journey. Writes
results/hot_<data>_<target>.csv: ranking, metric, mean, lower, upper (95 %, bootstrap over origins) and the
mean over the best rule's.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

import pyarrow.csv as csv
from hot_forecaster import Imapa
from rich.progress import Progress

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.simulate import SimulationParams, simulate
from recsys.data.sources import import_source
from recsys.hot.backtest import LAGS, MODEL, Rule, backtest
from recsys.hot.params import HotParams, HotTarget, LearnerParams, TargetParams

DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data"))
RESULTS = Path(__file__).parent / "results"
RAW = {"completejourney": None, "onlineretail": DATA / "online_retail2"}
SIMULATED = "simulated"


def prepared(source: str, folder: Path) -> Dataset | None:
    """The Dataset of a source; None where its raw files are absent."""
    raw = RAW.get(source)
    if source.startswith(SIMULATED):
        simulate(folder / "logs", SimulationParams(seed=int(source.removeprefix(SIMULATED))))
    elif raw is not None and not raw.is_dir():
        print(f"{source}: {raw} is absent; skipped")
        return None
    else:
        import_source(source, raw, folder / "logs")
    prepare(folder / "logs", folder / "dataset")
    return Dataset.load(folder / "dataset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", default=[*RAW, *(f"{SIMULATED}{seed}" for seed in (1, 2, 3))])
    parser.add_argument("--target", nargs="+", default=["breakout", "newly_hot", "hot"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forecasts", type=Path, help="folder in which forecasts are kept, to go on")
    asked = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if asked.forecasts is not None:
        asked.forecasts.mkdir(parents=True, exist_ok=True)
    others: dict[str, Rule] = {}
    if importlib.util.find_spec("statsforecast") is None:
        print("without the forecaster: statsforecast is not installed; pip install '.[forecast]'")
    for source in asked.sources:
        with tempfile.TemporaryDirectory() as folder:
            dataset = prepared(source, Path(folder))
            if dataset is None:
                continue
            if importlib.util.find_spec("statsforecast") is not None:
                kept = None if asked.forecasts is None else asked.forecasts / f"{source}.npz"
                others = {"imapa": Imapa(asked.threads, kept)}
            for target in asked.target:
                params = HotParams(
                    target=TargetParams(target=HotTarget(target), horizon_last_day=14),
                    learner=LearnerParams(threads=asked.threads),
                )
                with Progress(transient=True) as bar:
                    task = bar.add_task(f"{source} {target}")
                    report = backtest(
                        dataset,
                        params=params,
                        others=others,
                        progress=lambda done, total, text, bar=bar, task=task: bar.update(
                            task, completed=done, total=total, description=text
                        ),
                    )
                csv.write_csv(report.summary, RESULTS / f"hot_{source}_{target}.csv")
                print(f"\n{source}, {target}: {len(set(report.by_origin['origin'].to_pylist()))} origins")
                for row in report.summary.to_pylist():
                    if row["ranking"] in (MODEL, LAGS) or row["metric"] == "average_precision":
                        print(
                            f"  {row['ranking']:20} {row['metric']:24} {row['mean']:8.4f}"
                            f" [{row['lower']:.4f}, {row['upper']:.4f}]  {row['over_best_rule']:.2f}"
                        )


if __name__ == "__main__":
    main()
