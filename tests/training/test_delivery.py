"""Delivery: what the alias names is what is served, whole, checked, and without MLflow where it is served."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from recsys.bundle import BundleRefused, write_bundle
from recsys.errors import ConfigError
from recsys.pointer import pointed_to
from serving.recommender import Recommender
from serving.reload import Follower
from tests.serving.conftest import make_sections
from training.config import TrackingParams
from training.delivery import deliver, parse_model_uri
from training.tracking import ModelVersion, Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store: str, request: pytest.FixtureRequest) -> Tracker:
    name = request.node.name.replace("[", "-").replace("]", "")
    return Tracker(TrackingParams(uri=store, model_name=name))


def registered(tracker: Tracker, folder: Path, version: str, seed: int = 0) -> ModelVersion:
    path = folder / "trained" / version
    write_bundle(path, sections=make_sections(seed=seed), config={}, metrics={}, model_version=version)
    with tracker.run(version) as run:
        return run.register(path)


@pytest.mark.parametrize("max_bundle_mib", [1024, 0], ids=["in the store", "left in place"])
def test_the_alias_is_followed_and_back_again(tracker: Tracker, tmp_path: Path, max_bundle_mib: int) -> None:
    params = tracker.params.model_copy(update={"max_bundle_mib": max_bundle_mib})
    tracker = Tracker(params)
    first, second = registered(tracker, tmp_path, "m1"), registered(tracker, tmp_path, "m2", seed=1)
    folder = tmp_path / "bundles"
    tracker.set_champion(first)
    assert deliver(tracker, "champion", folder) == folder / f"{params.model_name}-1"
    assert deliver(tracker, "champion", folder) is None
    recommender = Recommender.load(pointed_to(folder))
    follower = Follower(recommender, folder)
    assert recommender.version == "m1"
    tracker.set_champion(second)
    assert deliver(tracker, "champion", folder) is not None
    assert follower.check()
    assert recommender.version == "m2"
    tracker.set_champion(first)
    assert deliver(tracker, "champion", folder) is not None
    assert follower.check()
    assert recommender.version == "m1"


def test_a_damaged_bundle_is_not_delivered_and_a_damaged_copy_is_replaced(
    tracker: Tracker, tmp_path: Path
) -> None:
    first, second = registered(tracker, tmp_path, "m1"), registered(tracker, tmp_path, "m2", seed=1)
    folder = tmp_path / "bundles"
    deliver(tracker, str(first.number), folder)
    damaged = Path(urlsplit(second.source).path) / "items.faiss"
    content = bytearray(damaged.read_bytes())
    content[50] ^= 1
    damaged.write_bytes(bytes(content))
    with pytest.raises(BundleRefused):
        deliver(tracker, "2", folder)
    assert pointed_to(folder).name.endswith("-1")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    content[50] ^= 1
    damaged.write_bytes(bytes(content))
    half = folder / f"{tracker.params.model_name}-2"
    half.mkdir()
    (half / "manifest.json").write_text("{}")
    assert deliver(tracker, "2", folder) == half
    assert Recommender.load(half).version == "m2"


def test_old_bundles_go_and_nothing_else(tracker: Tracker, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    for n in range(1, 5):
        registered(tracker, tmp_path, f"m{n}")
    name = tracker.params.model_name
    (folder / f"{name}-by-hand").mkdir(parents=True)
    (folder / "forgotten.txt").touch()
    for n in (1, 2, 3, 4, 1):
        deliver(tracker, str(n), folder, keep=2)
    left = {path.name for path in folder.iterdir()}
    assert left == {f"{name}-1", f"{name}-4", f"{name}-by-hand", "forgotten.txt", "CURRENT"}


def test_a_model_is_named_by_its_uri() -> None:
    assert parse_model_uri("models:/shop@champion") == ("shop", "champion")
    assert parse_model_uri("models:/shop/12") == ("shop", "12")
    for wrong in ("models:/shop", "shop@champion", "models:/a/b@c", "models:/shop/latest"):
        with pytest.raises(ConfigError, match="champion"):
            parse_model_uri(wrong)


def test_the_server_follows_the_alias_and_never_imports_mlflow(tracker: Tracker, tmp_path: Path) -> None:
    first, second = registered(tracker, tmp_path, "m1"), registered(tracker, tmp_path, "m2", seed=1)
    tracker.set_champion(first)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = (
        "import sys\n"
        "from recsys.server import run_server\n"
        "model, folder, port = sys.argv[1:]\n"
        "from pathlib import Path\n"
        "run_server(model, host='127.0.0.1', port=int(port), decisions=None, redis=None,"
        " folder=Path(folder), every_s=0.2)\n"
        "assert not {'mlflow', 'torch'} & set(sys.modules)\n"
    )
    model = f"models:/{tracker.params.model_name}@champion"
    server = subprocess.Popen(
        [sys.executable, "-c", script, model, str(tmp_path / "bundles"), str(port)],
        env={**os.environ, "MLFLOW_TRACKING_URI": tracker.uri},
    )
    try:
        wait_for_version(port, "m1", server)
        tracker.set_champion(second)
        wait_for_version(port, "m2", server)
    finally:
        server.send_signal(signal.SIGINT)
        ended = server.wait(60)
    assert ended in (0, -signal.SIGINT)


def wait_for_version(port: int, version: str, server: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + 120
    while True:
        assert server.poll() is None
        assert time.monotonic() < end_s
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if json.load(answer)["version"] == version:
                    return
        except OSError:
            pass
        time.sleep(0.1)
