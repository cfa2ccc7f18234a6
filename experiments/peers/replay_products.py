"""RePlay on a matrix of users and items, timed: experiments/peers.py runs it in RePlay's environment.

    python replay_products.py TRAIN.npz OUT.npy --model item_knn --neighbours 100

OUT gets the 20 best items of every user, what the user has left out. Prints one line of JSON. Its models of
products run on Spark, and need Java.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureType
from replay.models import ALSWrap, ItemKNN
from replay.utils.session_handler import State
from scipy import sparse

K = 20


def main() -> None:
    """Fit, answer every user, and say what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=("als", "item_knn"), required=True)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--weighting", choices=("none", "tf_idf", "bm25"), default="none")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    session = (
        SparkSession.builder.master(f"local[{given.threads}]")
        .config("spark.driver.memory", "8g")
        .config("spark.sql.shuffle.partitions", 4 * given.threads)
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    State(session)
    train = sparse.csr_matrix(sparse.load_npz(given.train))
    pairs = train.tocoo()
    users, user = np.unique(pairs.row, return_inverse=True)
    items, item = np.unique(pairs.col, return_inverse=True)
    table = session.createDataFrame(
        pd.DataFrame({"user_idx": user.astype(int), "item_idx": item.astype(int), "rating": 1.0})
    )
    dataset = Dataset(
        FeatureSchema(
            [
                FeatureInfo("user_idx", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
                FeatureInfo("item_idx", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
                FeatureInfo("rating", FeatureType.NUMERICAL, FeatureHint.RATING),
            ]
        ),
        interactions=table.cache(),
        categorical_encoded=True,
    )
    weighting = None if given.weighting == "none" else given.weighting
    model = (
        ALSWrap(rank=given.factors, seed=0)
        if given.model == "als"
        else ItemKNN(num_neighbours=given.neighbours, weighting=weighting)
    )
    begin = time.perf_counter()
    model.fit(dataset)
    fitted = time.perf_counter()
    answer = model.predict(dataset, k=K, filter_seen_items=True).toPandas()
    answered = time.perf_counter()
    best = np.full((train.shape[0], K), -1, dtype=np.int64)
    answer = answer.sort_values(["user_idx", "rating"], ascending=[True, False], kind="stable")
    place = answer.groupby("user_idx").cumcount().to_numpy()
    best[users[answer["user_idx"]], place] = items[answer["item_idx"]]
    np.save(given.out, best)
    took = {"fit_s": round(fitted - begin, 1), "answer_s": round(answered - fitted, 1)}
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + java_kb(session)) // 1024
    print(json.dumps({"library": f"RePlay {version('replay-rec')}", **took, "peak_mb": peak_mb}))


def java_kb(session: SparkSession) -> int:
    """Peak memory of Spark's own process, in KiB."""
    process = session.sparkContext._gateway.proc.pid
    text = subprocess.run(["ps", "--ppid", str(process), "-o", "pid="], capture_output=True, text=True)
    found = 0
    for pid in [str(process), *text.stdout.split()]:
        status = Path(f"/proc/{pid}/status")
        if status.exists():
            lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
            found = max(found, *(int(line.split()[1]) for line in lines), 0)
    return found


if __name__ == "__main__":
    main()
