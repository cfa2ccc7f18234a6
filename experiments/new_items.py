"""Recall@50 on items that the model was never trained on, beside popularity within their categories.

    python experiments/new_items.py completejourney | simulated | DATASET [--seed 0] [--days 28]
        [--new first_sold | withheld] [--validate] [--set key=value ...]

New items are, with `--new first_sold`, those without any event before the window, the ones that never sell
included; with `withheld`, a tenth of all items, whose events are taken out of what the model is fitted on.
They are ranked among themselves, for users with a history who turned to at least one of them in the window.
`--validate` moves the window back by its own length: settings were chosen there. Adds lines to
results/new_items.csv.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.simulate import SimulationParams, simulate
from recsys.data.sources import import_source
from recsys.durations import DAY_US
from recsys.evaluation.metrics import hits, recall
from recsys.models.base import top_k
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import FloatArray, IntArray, LongArray, Target
from training.config import TrainingConfig

RESULTS = Path(__file__).parent / "results" / "new_items.csv"
K = 50
WEIGHTS = BehaviourWeights()
COLUMNS = [
    "data",
    "window",
    "new_items",
    "users",
    "pairs",
    "candidates",
    "seed",
    "model",
    "recall@50",
    "settings",
    "seconds",
    "memory_gib",
]
TIES = 5  # ways to break ties, over which a baseline is averaged


@dataclass(frozen=True)
class Case:
    """What may be learnt from, and what is asked of it.

    Attributes:
        known: what the models are fitted on.
        items: every item that there is by the end of the window, in index order.
        new: (n,) int64 items that `known` has no event of.
        users: (B,) int32 of `known`.
        wanted: (B, n) CSR of ones, the new items that each user turned to.
    """

    known: Dataset
    items: pa.Table
    new: LongArray
    users: IntArray
    wanted: sparse.csr_matrix


def case_of(dataset: Dataset, *, days: float, new: str, validate: bool, seed: int) -> Case:
    end_us = dataset.as_of_us - (round(days * DAY_US) if validate else 0)
    whole = dataset.until(end_us)
    known = whole.until(end_us - round(days * DAY_US))
    n_items = len(whole.items)
    if new == "withheld":
        withheld = np.random.default_rng([7, seed]).random(n_items) < 0.1
        keep = (known.events.item_idx < 0) | ~withheld[known.events.item_idx]
        known = replace(known, events=known.events.where(keep))
        sold = np.unique(whole.events.item_idx[whole.events.item_idx >= 0])
        chosen = sold[withheld[sold]].astype(np.int64)
    else:
        touched = np.zeros(n_items, dtype=bool)
        touched[known.events.item_idx[known.events.item_idx >= 0]] = True
        chosen = np.flatnonzero(~touched)
    window = whole.events.where(whole.events.timestamp_us >= known.as_of_us)
    place = np.full(n_items, -1)
    place[chosen] = np.arange(len(chosen))
    with_history = np.zeros(len(whole.users), dtype=bool)
    with_history[known.events.user_idx] = True
    counts = (window.item_idx >= 0) & (WEIGHTS.of(window, end_us) > 0)
    counts &= (place[window.item_idx] >= 0) & with_history[window.user_idx]
    pairs = sparse.csr_matrix(
        (np.ones(int(counts.sum())), (window.user_idx[counts], place[window.item_idx[counts]])),
        shape=(len(whole.users), len(chosen)),
    )
    pairs.data[:] = 1.0
    users = np.flatnonzero(np.diff(pairs.indptr)).astype(np.int32)
    return Case(known, whole.items.table, chosen, users, pairs[users])


def category_scores(case: Case, column: str) -> Mapping[str, FloatArray]:
    """Scores (B, n) of the rules that know an item's category alone."""
    names = pc.fill_null(case.items[column].cast(pa.string()), "").combine_chunks().dictionary_encode()
    category = names.indices.to_numpy().astype(np.int64)
    n_categories = len(names.dictionary)
    interactions = case.known.interactions(Target.ITEM, WEIGHTS)
    known_items = category[: interactions.shape[1]]
    member = sparse.csr_matrix(
        (np.ones(len(known_items)), (np.arange(len(known_items)), known_items)),
        shape=(len(known_items), n_categories),
    )
    by_user = (interactions @ member)[case.users].toarray()
    total = np.asarray((interactions @ member).sum(axis=0)).ravel()
    trained = np.unique(interactions.indices)
    size = np.maximum(np.bincount(known_items[trained], minlength=n_categories), 1)
    of_new = category[case.new]
    everybody = np.ones((len(case.users), 1))
    scores = {
        "popularity of the category": everybody * total[of_new],
        "popularity within the category": everybody * (total / size)[of_new],
        "the user's own categories": by_user[:, of_new] / size[of_new] + 1e-9 * (total / size)[of_new],
        "chance": np.zeros((len(case.users), len(case.new))),
    }
    return {name: values.astype(np.float32) for name, values in scores.items()}


def tower_scores(case: Case, params: TwoTowerParams, seed: int) -> FloatArray:
    model = TwoTower(params, weights=WEIGHTS, device="auto", seed=seed).fit(case.known)
    last = model.learning_curve[-1]
    print(f"two-tower: step {model.best_step} of {last.step}, loss {last.loss:.3f}", flush=True)
    return model.user_vectors[case.users] @ model.encode_new_targets(case.items.take(case.new)).T


def recall_of(scores: FloatArray, case: Case, *, ties: int) -> float:
    """Mean recall@50 over the users; equal scores are put in random order, so many times."""
    found = []
    for n in range(ties):
        order = np.random.default_rng([11, n]).permutation(scores.shape[1])
        best = top_k(scores[:, order].copy(), k=min(K, scores.shape[1]))
        wanted = sparse.csr_matrix(case.wanted[:, order])
        found.append(recall(hits(best, wanted, k=K), np.diff(wanted.indptr)).mean())
    return float(np.mean(found))


def load(data: str, work: Path, seed: int) -> Dataset:
    if Path(data).is_dir():
        return Dataset.load(data)
    if data == "simulated":
        simulate(work / "logs", SimulationParams(users=4_000, items=4_000, days=60, seed=3 + seed))
    else:
        import_source(data, None, work / "logs")
    prepare(work / "logs", work / "dataset")
    return Dataset.load(work / "dataset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--name", help="of the data in the table; by default as given")
    parser.add_argument("--column", default="category")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--days", type=float, default=28.0)
    parser.add_argument("--new", choices=["first_sold", "withheld"], default="first_sold")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    overrides = [f"models.two_tower.params.{override}" for override in arguments.overrides]
    params = TrainingConfig.load(None, overrides).models.two_tower.params
    with tempfile.TemporaryDirectory() as work:
        dataset = load(arguments.data, Path(work), arguments.seed)
    case = case_of(
        dataset,
        days=arguments.days,
        new=arguments.new,
        validate=arguments.validate,
        seed=arguments.seed,
    )
    print(f"{len(case.users):,} users, {len(case.new):,} new items, {case.wanted.nnz:,} wanted pairs")
    begin = time.perf_counter()
    rules = category_scores(case, arguments.column)
    rows = {name: recall_of(scores, case, ties=TIES) for name, scores in rules.items()}
    rows["two_tower"] = recall_of(tower_scores(case, params, arguments.seed), case, ties=1)
    seconds = time.perf_counter() - begin
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    fresh = not arguments.out.exists()
    with arguments.out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for name, value in rows.items():
            print(f"{name:32s} {value:.4f}")
            writer.writerow(
                [
                    arguments.name or arguments.data,
                    "validation" if arguments.validate else "test",
                    arguments.new,
                    len(case.users),
                    case.wanted.nnz,
                    len(case.new),
                    arguments.seed,
                    name,
                    f"{value:.5f}",
                    " ".join(arguments.overrides) if name == "two_tower" else "",
                    f"{seconds:.0f}",
                    f"{memory_gib:.2f}",
                ]
            )


if __name__ == "__main__":
    main()
