"""Libraries of the field on a published split, each in an environment of its own, judged by the same metrics.

    python -m venv rectools && rectools/bin/pip install -r experiments/peers/requirements-rectools.txt
    python experiments/peers.py --rectools rectools/bin/python [--validate]

And so with --recbole, --libreco and --replay.

The LightGCN splits, as in published.py: all items are ranked, a user's training items left out. `--validate`
holds a fifth of the training pairs out instead and does not read the test; `--only NAME --set --factors=256`
tries one peer with other settings by it. Without it lines are added to results/peers.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from published import DATA, K, held_out
from records import add
from scipy import sparse

from recsys.evaluation.metrics import hits, ndcg, recall
from recsys.types import Candidates

RESULTS = Path(__file__).parent / "results" / "peers.csv"
PEERS = Path(__file__).parent / "peers"
#: Name -> library, its model and the settings found with `--validate`.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "PureSVD": ("rectools", ("--model=pure_svd", "--factors=512")),
    "ALS by RecTools": ("rectools", ("--model=als", "--factors=512")),
    "ItemKNN by RecTools": ("rectools", ("--model=item_knn", "--neighbours=400")),
    "ItemKNN": ("recbole", ("--model=ItemKNN", "--neighbours=100")),
    "ALS by LibRecommender": ("libreco", ("--model=als", "--factors=512")),
    "ItemCF": ("libreco", ("--model=item_cf", "--neighbours=400")),
    "Swing": ("libreco", ("--model=swing", "--neighbours=100")),
    "ALS by RePlay": ("replay", ("--model=als", "--factors=128")),
    "ItemKNN by RePlay": ("replay", ("--model=item_knn", "--neighbours=100")),
    "BPR": ("recbole", ("--model=BPR", "--minutes=10")),
    "LightGCN": ("recbole", ("--model=LightGCN", "--minutes=10")),
}


def run(
    python: Path, library: str, options: tuple[str, ...], train: Path, out: Path
) -> dict[str, float | str]:
    """What a peer says of its run; its answers are in `out`."""
    command = [str(python), str(PEERS / f"{library}_products.py"), str(train), str(out), *options]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float | str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Run the peers whose environments are given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", default=["gowalla"])
    for library in dict.fromkeys(library for library, _ in RUNS.values()):
        parser.add_argument(f"--{library}", type=Path, help="Python of its environment")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--validate", action="store_true")
    given = parser.parse_args()
    for name in given.data:
        train = sparse.csr_matrix(sparse.load_npz(DATA / name / "train.npz"), dtype=np.float32)
        if given.validate:
            train, truth = held_out(train)
        else:
            truth = sparse.csr_matrix(sparse.load_npz(DATA / name / "test.npz"), dtype=np.float32)
        asked = np.flatnonzero(np.diff(truth.indptr))
        for run_name in given.only:
            library, options = RUNS[run_name]
            python = getattr(given, library)
            if python is None:
                print(f"{run_name}: left out, --{library} is not given")
                continue
            options = (*options, *given.changes)  # of one named twice the last counts
            with tempfile.TemporaryDirectory() as work:
                sparse.save_npz(Path(work) / "train.npz", train)
                said = run(python, library, options, Path(work) / "train.npz", Path(work) / "best.npy")
                best = np.load(Path(work) / "best.npy")
            wanted, ids = truth[asked], best[asked].astype(np.int32)
            n_given = (ids >= 0).sum(axis=1, dtype=np.int32)  # the best stand first, -1 behind them
            answers = Candidates(ids, np.zeros(ids.shape, np.float32), n_given)
            found, n_relevant = hits(answers, wanted, k=K), np.diff(wanted.indptr)
            row = {
                "data": name,
                "library": said["library"],
                "settings": " ".join(options).replace("--", ""),
                "users": len(asked),
                "recall_20": round(float(recall(found, n_relevant).mean()), 4),
                "ndcg_20": round(float(ndcg(found, n_relevant).mean()), 4),
                **{key: said.get(key) for key in ("fit_s", "answer_s", "epochs", "peak_mb")},
            }
            print(row, flush=True)
            if not given.validate:
                add(RESULTS, [row])


if __name__ == "__main__":
    main()
