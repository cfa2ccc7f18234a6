"""Users whom no model was trained on, placed by their history alone, beside the same users trained on.

    python experiments/new_users.py taobao | completejourney | DATASET [--seed 0] [--set steps=1200 ...]
        [--validate]

A tenth of the users is taken out of what the models are fitted on; afterwards each gets a vector from their
own events: by the two-tower's query tower, with nothing of the user but the history, and by the closed form
of ALS. `trained on` is the same model fitted on everybody. All items are ranked, and right is what they
turn to in the last tenth of the log's events. Adds lines to results/new_users.csv: data, seed, model,
users, recall@20, ndcg@20 with its 95 % interval, and what share of `trained on` that is.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from records import add
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.sources import import_source
from recsys.evaluation.bootstrap import bootstrap
from recsys.evaluation.metrics import hits, ndcg, recall
from recsys.models.base import top_k
from recsys.models.collaborative import ALS
from recsys.models.popular import Popular
from recsys.models.training_examples import HISTORY_BEHAVIOURS
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import FloatArray, IntArray, Target
from training.config import TrainingConfig

DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data"))
RAW = {"taobao": DATA / "taobao_userbehavior", "completejourney": None}
RESULTS = Path(__file__).parent / "results" / "new_users.csv"
K = 20
WITHHELD = 0.1
WEIGHTS = BehaviourWeights()


def scores_of(
    known: Dataset, apart: Dataset, asked: IntArray, params: TwoTowerParams, seed: int
) -> Iterator[tuple[str, FloatArray, float]]:
    """Model, scores (B, items) of the users asked for, and the seconds that the fit took."""
    histories = known.histories(Target.ITEM, HISTORY_BEHAVIOURS).last(asked, params.history_length)
    for name, dataset in (("trained on", known), ("new", apart)):
        begin = time.perf_counter()
        tower = TwoTower(params, weights=WEIGHTS, device="auto", seed=seed).fit(dataset)
        seconds = time.perf_counter() - begin
        users = asked if name == "trained on" else None
        vectors = tower.encode_histories(histories, now_us=known.as_of_us, users=users)
        yield f"two_tower, {name}", vectors @ tower.target_vectors.T, seconds
        begin = time.perf_counter()
        als = ALS().fit(dataset)
        seconds = time.perf_counter() - begin
        vectors = als.user_vectors[asked]
        if name == "new":
            vectors = als.fold_in(known.interactions(Target.ITEM, als.weights)[asked])
        yield f"als, {name}", vectors @ als.target_vectors.T, seconds
    begin = time.perf_counter()
    popular = Popular().fit(apart)
    seconds = time.perf_counter() - begin
    best = popular.recommend(asked, k=K)
    scores = np.full((len(asked), len(known.items)), -np.inf, dtype=np.float32)
    np.put_along_axis(scores, best.ids, best.scores, axis=1)
    yield "popular", scores, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--validate", action="store_true")
    given = parser.parse_args()
    overrides = [f"models.two_tower.params.{override}" for override in given.overrides]
    params = TrainingConfig.load(None, overrides).models.two_tower.params
    if given.data in RAW:
        raw = RAW[given.data]
        if raw is not None and not raw.is_dir():
            print(f"{given.data}: {raw} is absent; set RECSYS_DATA to the folder of the data sets")
            return
        with tempfile.TemporaryDirectory() as work:
            import_source(given.data, raw, Path(work) / "logs")
            prepare(Path(work) / "logs", Path(work) / "dataset")
            whole = Dataset.load(Path(work) / "dataset")
    else:
        whole = Dataset.load(given.data)
    if given.validate:
        whole = whole.until(int(whole.events.timestamp_us[int(len(whole.events) * 0.9)]))
    known = whole.until(int(whole.events.timestamp_us[int(len(whole.events) * 0.9)]))
    withheld = np.random.default_rng([13, given.seed]).random(len(whole.users)) < WITHHELD
    apart = replace(known, events=known.events.where(~withheld[known.events.user_idx]))
    window = whole.events.where(slice(len(known.events), None))
    right = (
        (window.item_idx >= 0) & (window.item_idx < len(known.items)) & (window.user_idx < len(known.users))
    )
    right &= (WEIGHTS.of(window, whole.as_of_us) > 0) & withheld[window.user_idx]
    wanted = sparse.csr_matrix(
        (np.ones(int(right.sum()), np.float32), (window.user_idx[right], window.item_idx[right])),
        shape=(len(known.users), len(known.items)),
    )
    wanted.sum_duplicates()
    wanted.data[:] = 1.0
    with_history = np.zeros(len(known.users), dtype=bool)
    with_history[known.events.user_idx[known.events.item_idx >= 0]] = True
    asked = np.flatnonzero((np.diff(wanted.indptr) > 0) & with_history).astype(np.int32)
    wanted = wanted[asked]
    n_relevant = np.diff(wanted.indptr)
    rows: list[dict[str, object]] = []
    found: dict[str, float] = {}
    for name, scores, seconds in scores_of(known, apart, asked, params, given.seed):
        best = hits(top_k(scores, k=K), wanted, k=K)
        interval = bootstrap(ndcg(best, n_relevant))
        found[name] = interval.mean
        of_trained = found.get(name.replace("new", "trained on"), 0.0) if "new" in name else 0.0
        rows.append(
            {
                "data": given.data,
                "seed": given.seed,
                "model": name,
                "users": len(asked),
                "recall@20": f"{recall(best, n_relevant).mean():.4f}",
                "ndcg@20": f"{interval.mean:.4f}",
                "lower": f"{interval.lower:.4f}",
                "upper": f"{interval.upper:.4f}",
                "of_trained": f"{interval.mean / of_trained:.2f}" if of_trained > 0 else "",
                "settings": " ".join(given.overrides) if "two_tower" in name else "",
                "seconds": round(seconds),
                "memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
        print(*rows[-1].values(), sep="  ", flush=True)
    if not given.validate:
        add(RESULTS, rows)


if __name__ == "__main__":
    main()
