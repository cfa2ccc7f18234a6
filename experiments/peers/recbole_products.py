"""RecBole on a matrix of users and items, timed: experiments/peers.py runs it in RecBole's environment.

    python recbole_products.py TRAIN.npz OUT.npy --model LightGCN --minutes 20

OUT gets the 20 best items of every user, what the user has left out. Trained models stop after so many
minutes. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, init_seed
from scipy import sparse

K = 20
USERS_AT_ONCE = 256


def main() -> None:
    """Fit, answer every user, and say what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=("ItemKNN", "BPR", "LightGCN"), required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4_096)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    del sys.argv[1:]  # RecBole would read them as its own
    torch.set_num_threads(given.threads)
    train = sparse.csr_matrix(sparse.load_npz(given.train))
    pairs = train.tocoo()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "log"
        folder.mkdir()
        with (folder / "log.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\n")
            file.writelines(f"{user}\t{item}\n" for user, item in zip(pairs.row, pairs.col, strict=True))
        config = Config(
            model=given.model,
            dataset="log",
            config_dict={
                "data_path": work,
                "load_col": {"inter": ["user_id", "item_id"]},
                "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "RO", "mode": "full"},
                "embedding_size": given.dim,
                "k": given.neighbours,
                "train_batch_size": given.batch,
                "use_gpu": False,
                "state": "ERROR",
                "show_progress": False,
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        batches, _, _ = data_preparation(config, dataset)
        begin = time.perf_counter()
        model = get_model(config["model"])(config, batches.dataset)
        epochs = 0
        if given.model != "ItemKNN":
            optimiser = torch.optim.Adam(model.parameters(), lr=given.learning_rate)
            model.train()
            while time.perf_counter() - begin < 60 * given.minutes:
                for batch in batches:
                    optimiser.zero_grad()
                    model.calculate_loss(batch).backward()
                    optimiser.step()
                epochs += 1
        fitted = time.perf_counter()
        best = answers(model, dataset, train)
        answered = time.perf_counter()
    np.save(given.out, best)
    took = {"fit_s": round(fitted - begin, 1), "answer_s": round(answered - fitted, 1), "epochs": epochs}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"library": f"RecBole {version('recbole')}", **took, "peak_mb": peak_mb}))


@torch.no_grad()
def answers(model: torch.nn.Module, dataset: object, train: sparse.csr_matrix) -> np.ndarray:
    """(users, K) best items of every user, by the matrix's numbers; -1 for a user without a pair."""
    model.eval()
    users = np.flatnonzero(np.diff(train.indptr))
    inner = torch.from_numpy(dataset.token2id("user_id", users.astype(str)))
    tokens = dataset.id2token("item_id", np.arange(1, dataset.item_num)).astype(np.int64)
    place = np.full(train.shape[1], -1)
    place[tokens] = np.arange(len(tokens))
    best = np.full((train.shape[0], K), -1, dtype=np.int64)
    for start in range(0, len(users), USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        scores = model.full_sort_predict(Interaction({"user_id": inner[part]}))
        scores = np.asarray(torch.as_tensor(scores)).reshape(len(inner[part]), -1)[:, 1:].copy()
        seen = train[users[part]].tocoo()
        scores[seen.row, place[seen.col]] = -np.inf
        top = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        best[users[part]] = tokens[np.take_along_axis(top, order, axis=1)]
    return best


if __name__ == "__main__":
    main()
