"""What the engine adds to `implicit`: the same fit and the same batch of answers, by it and directly.

    python experiments/implicit_cost.py [--rounds 5]

On the Taobao log (taobao_userbehavior). The library is given a ready matrix and one BLAS thread, as its
makers ask for; the engine is given the Dataset, so that building the confidences is part of its fit. Answers
are the 20 best of every user without what they had. The two take turns in one process; the figures are the
best of the rounds, wall clock and processor time. Writes results/implicit_cost.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.sources import import_source
from recsys.models.base import Model
from recsys.models.collaborative import ALS, BPR, ItemKNN
from recsys.types import Target

RAW = Path(os.environ.get("RECSYS_DATA", "../shared/data")) / "taobao_userbehavior"
RESULTS = Path(__file__).parent / "results" / "implicit_cost.csv"
K = 20
#: The engine caps BLAS by itself where it must.
BLAS_THREADS = {"implicit": 1, "engine": os.cpu_count() or 1}


def library(model: Model) -> Any:
    """The library's model with the engine's parameters."""
    p = model.params  # type: ignore[attr-defined]
    if isinstance(model, ALS):
        return AlternatingLeastSquares(
            p.factors, p.regularization, p.alpha, iterations=p.iterations, random_state=p.seed, use_gpu=False
        )
    if isinstance(model, BPR):
        return BayesianPersonalizedRanking(
            p.factors,
            p.learning_rate,
            p.regularization,
            iterations=p.iterations,
            random_state=p.seed,
            use_gpu=False,
        )
    return BM25Recommender(K=p.neighbours, K1=p.k1, B=p.b)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock on the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(kind: Callable[[], Model], dataset: Dataset, rounds: int) -> list[dict[str, object]]:
    seen = dataset.interactions(Target.ITEM, kind().params.weights)  # type: ignore[attr-defined]
    users = np.arange(len(dataset.users), dtype=np.int32)
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(rounds):
        ours, theirs = kind(), library(kind())
        work = {
            ("fit", "engine"): lambda ours=ours: ours.fit(dataset),
            ("fit", "implicit"): lambda theirs=theirs: theirs.fit(seen, show_progress=False),
            ("recommend", "engine"): lambda ours=ours: ours.recommend(users, k=K, exclude=seen),
            ("recommend", "implicit"): lambda theirs=theirs: theirs.recommend(users, seen, N=K),
        }
        for stage in ("fit", "recommend"):
            for who in ("engine", "implicit") if turn % 2 else ("implicit", "engine"):
                with threadpoolctl.threadpool_limits(BLAS_THREADS[who], user_api="blas"):
                    seconds.setdefault((stage, who), []).append(timed(work[stage, who]))
    rows: list[dict[str, object]] = []
    for stage in ("fit", "recommend"):
        best = {who: np.min(seconds[stage, who], axis=0) for who in ("engine", "implicit")}
        row = {"model": ours.name, "stage": stage}
        for at, clock in enumerate(("wall", "processor")):
            row |= {f"{who}_{clock}_s": round(float(best[who][at]), 3) for who in best}
            row[f"{clock}_ratio"] = round(float(best["engine"][at] / best["implicit"][at]), 3)
        row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
        rows.append(row)
        print(*row.values(), sep="  ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    if not RAW.is_dir():
        print(f"{RAW} is absent; set RECSYS_DATA to the folder of the data sets")
        return
    with tempfile.TemporaryDirectory() as folder:
        import_source("taobao", RAW, Path(folder) / "logs")
        prepare(Path(folder) / "logs", Path(folder) / "dataset")
        dataset = Dataset.load(Path(folder) / "dataset")
    rows = [row for kind in (ALS, BPR, ItemKNN) for row in compare(kind, dataset, asked.rounds)]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
