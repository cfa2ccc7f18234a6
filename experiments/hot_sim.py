"""Hot items on the simulated platform at its defaults: precision@50 against the known truth.

    python experiments/hot_sim.py --seed 1

Weekly origins of the last half of the log for which there is enough to learn from, horizon 7:15, the model
fitted anew at each. Right is a product that is not hot yet and is hot in at least half of the horizon's days;
the truth is read here and nowhere else. Beside it the best ranking by sales alone, and by the truth itself.
Adds a line a seed to results/hot_sim.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from records import add

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.simulate import SimulationParams, simulate
from recsys.durations import DAY_US
from recsys.errors import ModelError
from recsys.hot.baselines import decayed_units, rankings
from recsys.hot.panel import Panel, build_panel
from recsys.hot.params import HotParams
from recsys.hot.samples import samples_at
from recsys.hot.score import score_hot

RESULTS = Path(__file__).parent / "results" / "hot_sim.csv"
K = 50
HORIZON = HotParams().target.horizon


def true_hot(logs: Path, as_of: date) -> set[str]:
    """Products that turn hot at or after the day, and are hot in half of the horizon's days and more."""
    table = pq.read_table(logs / "truth" / "hot_items.parquet").to_pandas()
    origin = np.datetime64(as_of)
    turn, end = (
        (table[name].dt.tz_localize(None).to_numpy() - origin) / np.timedelta64(1, "D")
        for name in ("turn_at", "ends_at")
    )
    first, last = HORIZON.first, HORIZON.last + 1
    covered = np.minimum(end, last) - np.maximum(turn, first)
    return set(table["item_id"][(turn >= 0) & (covered >= (last - first) / 2)])


def precision(items: npt.NDArray[np.object_], score: npt.NDArray[np.float64], right: set[str]) -> float:
    """Share of the best K that is right."""
    best = np.argsort(-score, kind="stable")[:K]
    return float(np.mean([item in right for item in items[best]]))


def by_sales(panel: Panel, dataset: Dataset, right: set[str]) -> dict[str, float]:
    """Precision of every rule that reads sales alone, at the panel's end."""
    samples = samples_at(panel, np.array([panel.n_days], np.int32), 10_000)
    items = np.array(dataset.items.ids.external(samples.item_idx).to_pylist(), dtype=object)
    rules = rankings(panel, HotParams().target, samples)
    rules |= {f"ewma_{days}d": score for days, score in decayed_units(panel, samples).items()}
    return {name: precision(items, score, right) for name, score in rules.items()}


def run(seed: int) -> dict[str, object]:
    """One seed."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        simulate(logs, SimulationParams(seed=seed))
        prepare(logs, Path(folder) / "dataset")
        dataset = Dataset.load(Path(folder) / "dataset")
        start, days = dataset.until(dataset.as_of_us).events.timestamp_us[0], SimulationParams().days
        first = date(1970, 1, 1) + timedelta(days=int(start // DAY_US))
        found: list[dict[str, float]] = []
        for origin in range(-(-days // 2), days - HORIZON.last, 7):
            as_of = first + timedelta(days=origin)
            right = true_hot(logs, as_of)
            try:
                table = score_hot(dataset, as_of=as_of).table
            except ModelError as error:
                print(f"{as_of}: left out: {error}", flush=True)
                continue
            items = np.array(table["item_id"].to_pylist(), dtype=object)
            score = -table["rank"].to_numpy().astype(float)
            one = {"model": precision(items, score, right), "truth": min(len(right) / K, 1.0)}
            found.append(one | by_sales(build_panel(dataset, as_of=as_of), dataset, right))
            print(as_of, {name: round(value, 3) for name, value in one.items()}, flush=True)
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    rules = {name: value for name, value in mean.items() if name not in ("model", "truth")}
    best = max(rules, key=lambda name: rules[name])
    return {
        "seed": seed,
        "origins": len(found),
        "model": round(mean["model"], 3),
        "truth": round(mean["truth"], 3),
        "best_by_sales": round(rules[best], 3),
        "rule": best,
    }


def main() -> None:
    """Run one seed and add its line to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    row = run(parser.parse_args().seed)
    add(RESULTS, [row])
    print(*row.values(), sep="  ")


if __name__ == "__main__":
    main()
