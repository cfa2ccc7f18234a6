"""LibRecommender on a matrix of users and items, timed: experiments/peers.py runs it in its own environment.

    python libreco_products.py TRAIN.npz OUT.npy --model als --factors 256

OUT gets the 20 best items of every user, what the user has left out. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from libreco.algorithms import ALS, RsItemCF, Swing
from libreco.data import DatasetPure
from scipy import sparse

K = 20


def model_of(given: argparse.Namespace, data_info: object) -> object:
    """The model asked for."""
    if given.model == "als":
        return ALS(
            "ranking",
            data_info,
            embed_size=given.factors,
            n_epochs=given.epochs,
            reg=given.regularization,
            alpha=given.alpha,
            n_threads=given.threads,
        )
    if given.model == "swing":
        return Swing("ranking", data_info, top_k=given.neighbours, num_threads=given.threads)
    return RsItemCF("ranking", data_info, k_sim=given.neighbours, num_threads=given.threads)


def main() -> None:
    """Fit, answer every user, and say what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=("als", "item_cf", "swing"), required=True)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--regularization", type=float, default=1.0)
    parser.add_argument("--alpha", type=float, default=10.0)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    train = sparse.csr_matrix(sparse.load_npz(given.train))
    pairs = train.tocoo()
    table = pd.DataFrame({"user": pairs.row, "item": pairs.col, "label": 1})
    data, data_info = DatasetPure.build_trainset(table)
    model = model_of(given, data_info)
    begin = time.perf_counter()
    model.fit(data, neg_sampling=True, verbose=0)
    fitted = time.perf_counter()
    users = np.unique(pairs.row)
    answer = model.recommend_user(users.tolist(), K, filter_consumed=True)
    answered = time.perf_counter()
    best = np.full((train.shape[0], K), -1, dtype=np.int64)
    for user, items in answer.items():
        best[user, : len(items)] = items
    np.save(given.out, best)
    took = {"fit_s": round(fitted - begin, 1), "answer_s": round(answered - fitted, 1)}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"library": f"LibRecommender {version('LibRecommender')}", **took, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
