"""Training steps of RecBole's SASRec, timed: experiments/tower_speed.py runs it in RecBole's environment.

    python recbole_speed.py SEQUENCES --steps 60 --batch 1024 --dim 64 --length 50 --layers 2 --threads 2

SEQUENCES has one user a line, the user and then the items in order. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sequences", type=Path)
    for name in ("steps", "batch", "dim", "length", "layers", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "log"
        folder.mkdir()
        with (folder / "log.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for line in given.sequences.read_text().splitlines():
                user, *items = line.split()
                file.writelines(f"{user}\t{item}\t{n}\n" for n, item in enumerate(items))
        config = Config(
            model="SASRec",
            dataset="log",
            config_dict={
                "data_path": work,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "MAX_ITEM_LIST_LENGTH": given.length,
                "train_neg_sample_args": None,  # the full softmax
                "loss_type": "CE",
                "hidden_size": given.dim,
                "inner_size": 2 * given.dim,
                "n_layers": given.layers,
                "n_heads": 2,
                "hidden_dropout_prob": 0.1,
                "attn_dropout_prob": 0.1,
                "train_batch_size": given.batch,
                "use_gpu": False,
                "state": "ERROR",
                "show_progress": False,
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        batches, _, _ = data_preparation(config, dataset)
        model = get_model(config["model"])(config, batches.dataset)
        model.train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        events = done = 0
        begin = begin_cpu = 0.0
        while done < given.steps + WARM_UP:
            for interaction in batches:
                if done == WARM_UP:
                    begin, begin_cpu, events = time.perf_counter(), time.process_time(), 0
                optimiser.zero_grad()
                loss = model.calculate_loss(interaction)
                loss.backward()
                optimiser.step()
                events += len(interaction)
                done += 1
                if done == given.steps + WARM_UP:
                    break
        print(
            json.dumps(
                {
                    "events": events,
                    "seconds": time.perf_counter() - begin,
                    "cpu_s": time.process_time() - begin_cpu,
                    "loss": loss.item(),
                }
            )
        )


if __name__ == "__main__":
    main()
