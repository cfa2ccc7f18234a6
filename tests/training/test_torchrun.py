"""Two processes train what one would: the same weights, one job, one bundle."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle import open_bundle
from recsys.data.prepare import prepare
from recsys.errors import ConfigError
from tests.conftest import write_logs
from training.torchrun import refuse_company

SCRIPT = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
from recsys.data.dataset import Dataset
from recsys.models.two_tower import TwoTower, TwoTowerParams
from training.torchrun import leading
dataset, out, params = sys.argv[1:]
with leading() as leads:
    if leads:
        model = TwoTower(TwoTowerParams(**json.loads(params)), device="cpu").fit(Dataset.load(dataset))
        curve = [(point.step, point.loss, point.ndcg) for point in model.learning_curve]
        np.savez(out, users=model.user_vectors, targets=model.target_vectors, curve=np.array(curve))
"""


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    n = 4_000
    user = rng.integers(0, 150, n)
    start = np.datetime64("2024-01-01", "s")
    events = {
        "user_id": [f"u{u}" for u in user],
        "item_id": [f"i{u % 5 + 5 * p}" for u, p in zip(user, rng.integers(0, 12, n), strict=True)],
        "event": rng.choice(["view", "cart", "purchase"], n, p=[0.7, 0.2, 0.1]),
        "timestamp": np.datetime_as_string(start + np.sort(rng.integers(0, 40 * 86_400, n)), timezone="UTC"),
    }
    items = {"item_id": [f"i{i}" for i in range(60)], "category": [f"c{i % 5}" for i in range(60)]}
    write_logs(folder / "logs", events=events, items=items)
    prepare(folder / "logs", folder / "dataset")
    return folder / "dataset"


def _together(command: Sequence[str], n: int, *, env: Mapping[str, str] = {}) -> list[tuple[int, str]]:
    """Exit status and output of each of n processes, started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env={
                **os.environ,
                **env,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(n),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(n)
    ]
    said = [process.communicate()[0] for process in running]
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


def _fitted(dataset: Path, out: Path, params: str, n: int) -> Mapping[str, np.ndarray]:
    for status, text in _together(["-c", SCRIPT, str(dataset), str(out), params], n):
        assert status == 0, text
    return dict(np.load(out))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        '"sparse_tables": false',
        '"sparse_tables": true',
        '"loss": "full"',
        '"ahead": "all"',
        '"ahead": "whole"',
    ],
)
def test_two_processes_come_to_the_weights_of_one(small_dataset: Path, tmp_path: Path, options: str) -> None:
    # Without dropout, whose random numbers each process draws for itself, only rounding differs.
    params = (
        '{"dim": 16, "dropout": 0, "user_id_dropout": 0, "target_id_dropout": 0, "loss": "sampled",'
        f'"max_steps": 40, "evaluate_every": 20, "batch_size": 256, "learning_rate": 0.001, {options}}}'
    )
    one = _fitted(small_dataset, tmp_path / "one.npz", params, 1)
    two = _fitted(small_dataset, tmp_path / "two.npz", params, 2)
    np.testing.assert_allclose(two["curve"], one["curve"], rtol=1e-3)
    np.testing.assert_allclose(two["targets"], one["targets"], atol=2e-3)
    np.testing.assert_allclose(two["users"], one["users"], atol=2e-3)


@pytest.mark.slow
def test_train_in_two_processes_writes_one_bundle(small_dataset: Path, tmp_path: Path) -> None:
    settings = ["models.two_tower.params.max_steps=30", "hot.enabled=false", "rooms.enabled=false"]
    chosen = [part for setting in settings for part in ("--set", setting)]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    bundle = tmp_path / "bundles" / "first"
    command = ["-m", "recsys.cli", "train", str(small_dataset), "--out", str(bundle), *chosen]
    (leader, said), (follower, quiet) = _together(command, 2, env={"MLFLOW_TRACKING_URI": uri})
    assert leader == 0, said
    assert follower == 0, quiet
    assert "two_tower" in said
    assert "two_tower" not in quiet
    assert [path.name for path in bundle.parent.iterdir()] == ["first"]
    assert open_bundle(bundle).config["seed"] == 0
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as tracked:
        assert tracked.execute("SELECT count(*) FROM runs").fetchone() == (1,)


@pytest.mark.slow
def test_followers_end_with_a_leader_that_fails(small_dataset: Path, tmp_path: Path) -> None:
    params = '{"learning_rate": 1e6, "warmup_steps": 0, "max_steps": 60, "dim": 8}'
    command = ["-c", SCRIPT, str(small_dataset), str(tmp_path / "none.npz"), params]
    (leader, said), (follower, _) = _together(command, 2)
    assert leader != 0
    assert "training diverged: the loss of step" in said
    assert follower != 0


def test_a_command_for_one_process_refuses_company(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_company("recsys tune")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="recsys tune runs in one process, and torchrun has started 2"):
        refuse_company("recsys tune")
