"""Training events a second of the two-tower beside RecBole's SASRec, in batches of the same kind.

    python -m venv peer && peer/bin/pip install -r experiments/peers/requirements-recbole.txt
    python experiments/tower_speed.py --peer peer/bin/python [--rounds 3] [--threads 2]

Amazon Beauty, every event an example, 64 dimensions, histories of 50, 1,024 events a step, the full softmax
over all 12,101 items, dropout .1. The two take turns; ratios are of the wall clock and of processor time,
since others may use the machine. The two-tower is timed as it comes (attention pooling) and with the peer's
two transformer layers. Adds lines to results/tower_speed.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from records import add
from sequences import as_dataset

from recsys.data.dataset import Dataset
from recsys.models.two_tower import TwoTower, TwoTowerParams

DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data")) / "amazon_beauty" / "Beauty.txt"
PEER = Path(__file__).parent / "peers" / "recbole_speed.py"
RESULTS = Path(__file__).parent / "results" / "tower_speed.csv"
BATCH, DIM, LENGTH, PEER_LAYERS = 1_024, 64, 50, 2
LOOK = 50  # steps between two reports of a training


def ours(dataset: Dataset, *, layers: int, steps: int, threads: int) -> dict[str, float]:
    """Events, seconds, processor seconds and the last loss of so many steps after the first `LOOK`."""
    torch.set_num_threads(threads)
    clock: list[tuple[int, float, float]] = []

    def note(done: int, total: int, text: str) -> None:
        clock.append((done, time.perf_counter(), time.process_time()))

    params = TwoTowerParams(
        dim=DIM, history_length=LENGTH, batch_size=BATCH, layers=layers, loss="full", steps=steps + LOOK
    )
    model = TwoTower(params, device="cpu").fit(dataset, progress=note)
    (begin, wall, cpu), (end, wall_end, cpu_end) = clock[0], clock[-1]
    return {
        "events": (end - begin) * BATCH,
        "seconds": wall_end - wall,
        "cpu_s": cpu_end - cpu,
        "loss": model.learning_curve[-1].loss,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def theirs(python: Path, *, steps: int, threads: int) -> dict[str, float]:
    sizes = {"steps": steps, "batch": BATCH, "dim": DIM, "length": LENGTH, "layers": PEER_LAYERS}
    options = [f"--{name}={value}" for name, value in {**sizes, "threads": threads}.items()]
    run = subprocess.run(
        [python, PEER, DATA, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""},
    )
    if run.returncode:
        sys.exit(f"the peer failed:\n{run.stderr[-2_000:]}")
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="RecBole's interpreter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--peer-steps", type=int, default=15)
    given = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA} is absent; set RECSYS_DATA to the folder of the data sets")
        return
    with tempfile.TemporaryDirectory() as work:
        dataset = as_dataset(DATA, Path(work))
    for n in range(given.rounds):
        rows: dict[str, Mapping[str, Any]] = {
            "two_tower": ours(dataset, layers=0, steps=given.steps, threads=given.threads),
            "recbole 1.2.1 SASRec": theirs(given.peer, steps=given.peer_steps, threads=given.threads),
            "two_tower, 2 layers": ours(
                dataset, layers=PEER_LAYERS, steps=given.steps, threads=given.threads
            ),
        }
        write(rows, n, given.threads)


def write(rows: Mapping[str, Mapping[str, Any]], n: int, threads: int) -> None:
    """Print a round and add it to the table."""
    peer = next(row for name, row in rows.items() if name.startswith("recbole"))
    lines = []
    for name, row in rows.items():
        per_s, per_cpu_s = row["events"] / row["seconds"], row["events"] / row["cpu_s"]
        wall, cpu = per_s * peer["seconds"] / peer["events"], per_cpu_s * peer["cpu_s"] / peer["events"]
        print(f"{name:24s} {per_s:8.0f} events/s, {per_cpu_s:8.0f} a processor second", end="")
        print(f": {wall:.2f} and {cpu:.2f} times the peer")
        figures = {"per_s": per_s, "per_cpu_s": per_cpu_s}
        lines.append(
            {"model": name, "threads": threads, "round": n, "events": row["events"]}
            | {"seconds": f"{row['seconds']:.1f}", "peak_mb": f"{row['peak_mb']:.0f}"}
            | {figure: f"{value:.0f}" for figure, value in figures.items()}
            | {"times_wall": f"{wall:.2f}", "times_cpu": f"{cpu:.2f}"}
        )
    add(RESULTS, lines)


if __name__ == "__main__":
    main()
