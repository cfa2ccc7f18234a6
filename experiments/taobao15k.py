"""Taobao-15k beside the published multi-behaviour models: HR@10 and NDCG@10, seen and unseen purchases apart.

    python experiments/taobao15k.py [--validate] [--seeds 0 1 2]

The protocol of MB-CGCN and CascadingRank: one purchase of each user is asked for, all items are ranked, what
the user bought in training is left out. `seen` are users who had viewed what they then bought, `unseen` those
who had not. The log has no times: views, then carts, then purchases are taken to be a day apart.

The combiner learns from the published validation purchases, the sources being fitted without them; for the
test the sources are fitted anew with them. `--validate` lets it learn from half of the users, judges on the
other half and does not read the test: settings were chosen by it. Otherwise lines are added to
results/taobao15k.csv; their seconds count from the beginning of the seed's first fit.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matrices import as_dataset, in_index
from records import add
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.evaluation.metrics import hit_rate, hits, ndcg
from recsys.models.base import Model
from recsys.models.collaborative import ItemKNN, ItemKNNParams
from recsys.models.fused import FusedModel
from recsys.models.fusion import Combiner
from recsys.models.fusion_training import Fold, FusionParams, train_fusion
from recsys.models.history_models import Repeat, RepeatParams
from recsys.models.linear import GFCF, GFCFParams
from recsys.models.popular import Popular, PopularParams
from recsys.types import Behaviour

DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data")) / "taobao15k"
RESULTS = Path(__file__).parent / "results" / "taobao15k.csv"
K = 10
BOUGHT = BehaviourWeights(weights={Behaviour.PURCHASE: 1.0}, half_life_days=None)
ANY = BehaviourWeights(half_life_days=None)


class PurchaseGraph(GFCF):
    """The graph of who bought what."""

    name = "gf_cf of purchases"


def sources_of(dataset: Dataset, seed: int) -> list[Model]:
    """The sources, fitted."""
    models: list[Model] = [
        Popular(PopularParams(weights=BOUGHT)),
        # One origin, between the carts and the purchases: what was viewed or carted, and what came of it.
        Repeat(RepeatParams(behaviours=(Behaviour.PURCHASE,), horizon_share=0.3, origins=1, length=1_000)),
        ItemKNN(ItemKNNParams(weights=ANY)),
        GFCF(GFCFParams(weights=ANY, seed=seed)),
        PurchaseGraph(GFCFParams(weights=BOUGHT, seed=seed)),
    ]
    for model in models:
        begin = time.perf_counter()
        model.fit(dataset)
        print(f"{model.name} {time.perf_counter() - begin:.0f} s", flush=True)
    return models


def judge(
    model: Model | FusedModel, dataset: Dataset, truth: sparse.csr_matrix, viewed: sparse.csr_matrix
) -> dict[str, float]:
    """HR@10 and NDCG@10 of users with a truth: all, those who had viewed it, and those who had not."""
    users = np.flatnonzero(np.diff(truth.indptr)).astype(np.int32)
    bought = dataset.done(model.target, [Behaviour.PURCHASE])
    wanted = truth[users]
    found = hits(model.recommend(users, k=K, exclude=bought[users]), wanted, k=K)
    seen = np.asarray(wanted.multiply(viewed[users]).sum(axis=1)).ravel() > 0
    row: dict[str, float] = {}
    for name, rows in {"all": seen | True, "seen": seen, "unseen": ~seen}.items():
        one_each = np.ones(int(rows.sum()), dtype=np.int64)
        row[f"{name}_users"] = len(one_each)
        row[f"{name}_hr@{K}"] = round(float(hit_rate(found[rows]).mean()), 4)
        row[f"{name}_ndcg@{K}"] = round(float(ndcg(found[rows], one_each).mean()), 4)
    return row


def combiner_of(dataset: Dataset, sources: Sequence[Model], truth: sparse.csr_matrix, seed: int) -> Combiner:
    """What puts the sources' candidates in order."""
    params = FusionParams(max_users=len(dataset.users), returns="no", seed=seed)
    combiner, report = train_fusion([Fold(dataset, sources, truth)], params=params)
    print(report, flush=True)
    return combiner


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--validate", action="store_true")
    asked = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is absent; set RECSYS_DATA to the folder of the data sets")
        return
    view, cart, buy, valid = (
        sparse.csr_matrix(sparse.load_npz(DATA / f"{part}.npz"), dtype=np.float32)
        for part in ("view", "cart", "buy", "valid")
    )
    before = sparse.csr_matrix(buy - valid)
    before.eliminate_zeros()

    def log_with(bought: sparse.csr_matrix, folder: str) -> Dataset:
        done = {Behaviour.VIEW: view, Behaviour.CART: cart, Behaviour.PURCHASE: bought}
        return as_dataset(done, Path(folder))

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        earlier = log_with(before, one)
        later = earlier if asked.validate else log_with(buy, other)
        to_learn = in_index(valid, earlier)
        if asked.validate:
            half = sparse.diags(np.random.default_rng(0).permutation(to_learn.shape[0]) % 2.0)
            to_learn, truth = to_learn - half @ to_learn, sparse.csr_matrix(half @ to_learn)
            to_learn.eliminate_zeros()
            truth.eliminate_zeros()
        else:
            test = sparse.csr_matrix(sparse.load_npz(DATA / "test.npz"), dtype=np.float32)
            truth = in_index(test, later)
        viewed = in_index(view, later)
        for seed in asked.seeds:
            begin = time.perf_counter()
            sources = sources_of(earlier, seed)
            combiner = combiner_of(earlier, sources, to_learn, seed)
            if later is not earlier:
                sources = sources_of(later, seed)
            fused = FusedModel(sources, combiner, later)
            for model in (*sources, fused):
                row: dict[str, object] = {"model": model.name, "seed": seed}
                row |= judge(model, later, truth, viewed)
                row["seconds"] = round(time.perf_counter() - begin)
                row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                print(*row.values(), sep="  ", flush=True)
                if not asked.validate:
                    add(RESULTS, [row])


if __name__ == "__main__":
    main()
