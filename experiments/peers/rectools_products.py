"""RecTools on a matrix of users and items, timed: experiments/peers.py runs it in RecTools' environment.

    python rectools_products.py TRAIN.npz OUT.npy --model pure_svd --factors 256

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
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import ImplicitALSWrapperModel, ImplicitItemKNNWrapperModel, PureSVDModel
from scipy import sparse

K = 20


def model_of(given: argparse.Namespace) -> object:
    """The model asked for."""
    if given.model == "pure_svd":
        return PureSVDModel(factors=given.factors)
    if given.model == "item_knn":
        return ImplicitItemKNNWrapperModel(CosineRecommender(K=given.neighbours, num_threads=given.threads))
    als = AlternatingLeastSquares(
        factors=given.factors,
        alpha=given.alpha,
        regularization=given.regularization,
        iterations=given.iterations,
        num_threads=given.threads,
        random_state=0,
    )
    return ImplicitALSWrapperModel(als)


def main() -> None:
    """Fit, answer every user, and say what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=("pure_svd", "item_knn", "als"), required=True)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=30)
    parser.add_argument("--regularization", type=float, default=20)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    train = sparse.csr_matrix(sparse.load_npz(given.train))
    pairs = train.tocoo()
    table = pd.DataFrame({Columns.User: pairs.row, Columns.Item: pairs.col})
    table[Columns.Weight], table[Columns.Datetime] = 1.0, pd.Timestamp("2020-01-01")
    dataset = Dataset.construct(table)
    model = model_of(given)
    begin = time.perf_counter()
    model.fit(dataset)
    fitted = time.perf_counter()
    users = np.unique(pairs.row)
    answer = model.recommend(users=users, dataset=dataset, k=K, filter_viewed=True)
    answered = time.perf_counter()
    best = np.full((train.shape[0], K), -1, dtype=np.int64)
    best[answer[Columns.User], answer[Columns.Rank] - 1] = answer[Columns.Item]
    np.save(given.out, best)
    took = {"fit_s": round(fitted - begin, 1), "answer_s": round(answered - fitted, 1)}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"library": f"RecTools {version('rectools')}", **took, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
