"""The two-tower with history on Amazon Beauty: HR@10 and NDCG@10 of each user's last item.

    python experiments/beauty.py [--validate] [--set key=value ...] [--seeds 0 1 2]

The leave-one-out protocol of S3-Rec: all items are ranked, those of the user's history left out. `--validate`
holds out the last but one as well, shows how well it is predicted pass by pass, and does not read the last:
settings and steps were chosen by it. Otherwise lines are added to results/beauty.csv.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from records import add
from scipy import sparse
from sequences import as_dataset

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.evaluation.metrics import hit_rate, hits, ndcg
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour, Target

DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data")) / "amazon_beauty" / "Beauty.txt"
RESULTS = Path(__file__).parent / "results" / "beauty.csv"
K = 10
#: Age says nothing here.
WEIGHTS = BehaviourWeights(half_life_days=None)
PARAMS = TwoTowerParams(
    user_id_embedding=False,
    repeats=False,
    layers=2,
    dropout=0.3,
    loss="full",
    batch_size=256,
    epochs=30,
    max_steps=None,
    validation_days=1.0,
    validation_users=5_000,
)
#: Of the fit that is asked for the last item: 15 passes, as many as were best for the last but one.
STEPS = 9_000


def judge(model: TwoTower, known: Dataset, truth: sparse.csr_matrix) -> dict[str, float]:
    """HR@10 and NDCG@10 of the users that the model knows; what it does not know is missed."""
    users = np.arange(len(known.users), dtype=np.int32)
    had = known.done(Target.ITEM, [Behaviour.CLICK])
    found = hits(model.recommend(users, k=K, exclude=had), truth[: len(users)], k=K)
    n_users = int(truth.sum())
    ideal = np.ones(len(users), dtype=np.int64)
    return {
        "users": n_users,
        f"hr@{K}": round(float(hit_rate(found).sum()) / n_users, 4),
        f"ndcg@{K}": round(float(ndcg(found, ideal).sum()) / n_users, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="with --validate")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked = parser.parse_args()
    if asked.set and not asked.validate:
        parser.error("--set needs --validate: the test is for the settings of this file")
    if not DATA.exists():
        print(f"{DATA} is absent; set RECSYS_DATA to the folder of the data sets")
        return
    with tempfile.TemporaryDirectory() as folder:
        dataset = as_dataset(DATA, Path(folder))
    changes = dict(change.split("=", 1) for change in asked.set)
    asked_at_us = int(dataset.events.timestamp_us[-1])
    known = dataset.until(asked_at_us)
    for seed in asked.seeds:
        begin = time.perf_counter()

        def tell(done: int, total: int, text: str, begin: float = begin) -> None:
            if done % 500 == 0:
                print(f"{time.perf_counter() - begin:.0f} s  {done}/{total} {text}", flush=True)

        if asked.validate:
            params = TwoTowerParams.model_validate(PARAMS.model_dump() | changes)
            model = TwoTower(params, weights=WEIGHTS, seed=seed)
            model.fit(known, progress=tell)
            print(*model.learning_curve, sep="\n", flush=True)
            continue
        params = PARAMS.model_copy(update={"steps": STEPS})
        model = TwoTower(params, weights=WEIGHTS, seed=seed).fit(known, progress=tell)
        last = dataset.events.where(dataset.events.timestamp_us >= asked_at_us)
        truth = sparse.csr_matrix(
            (np.ones(len(last), np.float32), (last.user_idx, last.item_idx)),
            shape=(len(dataset.users), len(dataset.items)),
        )
        row: dict[str, object] = {"model": "two_tower", "seed": seed} | judge(model, known, truth)
        row["steps"] = model.best_step
        row["seconds"] = round(time.perf_counter() - begin)
        row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(*row.values(), sep="  ", flush=True)
        add(RESULTS, [row])


if __name__ == "__main__":
    main()
