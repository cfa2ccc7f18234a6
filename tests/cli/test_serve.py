"""`recsys serve` as a process: its flags reach the answers, and nothing of it outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.bundle import write_bundle
from recsys.pointer import point_to
from serving.trial import Split
from tests.serving.conftest import N_USERS, item_id, make_sections, user_id
from tests.serving.test_holds import sections as held_sections
from training.config import TrackingParams
from training.tracking import Tracker

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of v1, v2 and `held`, which holds segments to categories."""
    folder = tmp_path_factory.mktemp("bundles")
    of = {"v1": make_sections(), "v2": make_sections(seed=1), "held": held_sections()}
    for version, sections in of.items():
        write_bundle(folder / version, sections=sections, config={}, metrics={}, model_version=version)
    return folder


class Server:
    """`recsys serve` on a port of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}", **headers}
        request = urllib.request.Request(self._url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self._url + path, timeout=30) as answer:
            return str(answer.read().decode())


def eventually(holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@contextmanager
def serving(*arguments: object, log: Path, **environment: str) -> Iterator[Server]:
    """Starts the command, waits until it answers, and has it end as Ctrl-C does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "recsys.cli", "serve", *map(str, arguments), "--port", str(port)]
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            stderr=said,
            stdout=said,
            text=True,
            env={**os.environ, "RECSYS_ADMIN_TOKEN": TOKEN, **environment},
        )
    server = Server(process, port)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.ask("/readyz")[0] == 200
        except OSError:
            return False

    try:
        eventually(answers)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


def shown(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_challenger_has_its_share(bundles: Path, tmp_path: Path) -> None:
    trial = ("--challenger", bundles / "v2", "--share", 0.5, "--salt", "march")
    decisions = tmp_path / "decisions"
    with serving(bundles / "v1", *trial, "--decisions", decisions, log=tmp_path / "log") as server:
        split, versions = Split(0.5, "march"), {False: "v1", True: "v2"}
        users = [user_id(n) for n in range(N_USERS)]
        for user in users:
            status, answer = server.ask(f"/v1/products?user_id={user}&k=2")
            assert status == 200
            assert answer["version"] == versions[split.has(user)]
            assert answer["arm"] == ("challenger" if split.has(user) else "champion")
    rows = shown(decisions)  # written when it ended
    assert {row["version"] for row in rows} == {"v1", "v2"}
    assert {row["user_id"] for row in rows} == set(users)


def test_a_shadow_is_only_logged(bundles: Path, tmp_path: Path) -> None:
    decisions = tmp_path / "decisions"
    trial = ("--challenger", bundles / "v2", "--share", 1, "--shadow", "--decisions", decisions)
    with serving(bundles / "v1", *trial, log=tmp_path / "log") as server:
        assert server.ask(f"/v1/products?user_id={user_id(0)}")[1]["version"] == "v1"
        eventually(lambda: 'kind="shadowed"} 1.0' in server.text("/metrics"))
    assert {row["version"] for row in shown(decisions)} == {"v1"}
    assert {row["version"] for row in shown(decisions / "shadow")} == {"v2"}


def test_a_shadow_without_a_log_is_one_line(bundles: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recsys.cli", "serve", str(bundles / "v1")]
    done = subprocess.run(
        [*command, "--challenger", str(bundles / "v2"), "--shadow"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "decision log" in done.stderr
    assert "Traceback" not in done.stderr


def test_segments_are_held_over_http(bundles: Path, tmp_path: Path) -> None:
    with serving(bundles / "held", log=tmp_path / "log") as server:

        def kinds(query: str) -> set[int]:
            answer = server.ask(f"/v1/products?k=60&{query}")[1]
            return {int(entry["id"][2:]) % 3 for entry in answer["entries"]}

        assert kinds(f"user_id={user_id(3)}") == {0, 1, 2}
        assert kinds(f"user_id={user_id(0)}") == {0, 1}  # a minor by the log
        assert kinds(f"user_id={user_id(3)}&segments=minors") == {0, 1}
        assert kinds("user_id=stranger&segments=minors&segments=guests") == {1}
        status, answer = server.ask("/v1/products?user_id=a&segments=children")
        assert (status, "children" in answer["detail"]) == (422, True)


def test_what_is_forgotten_stays_so_after_a_restart_and_is_in_no_file(bundles: Path, tmp_path: Path) -> None:
    folder, decisions = tmp_path / "bundles", tmp_path / "decisions"
    for version, seed in (("v1", 0), ("v2", 1)):
        write_bundle(
            folder / version, sections=make_sections(seed=seed), config={}, metrics={}, model_version=version
        )
    point_to(folder, "v1")
    person = f"/v1/products?user_id={user_id(0)}"
    follows = (folder, "--decisions", decisions, "--every", 0.1)
    with serving(*follows, log=tmp_path / "log") as server:
        assert server.ask(person)[1]["fallback"] is None
        assert server.ask(f"/v1/products?user_id={user_id(3)}")[1]["fallback"] is None
    assert {row["user_id"] for row in shown(decisions)} == {user_id(0), user_id(3)}
    with serving(*follows, log=tmp_path / "log") as server:
        assert server.ask(person)[1]["fallback"] is None
        assert server.ask("/v1/admin/forget", {"user_id": user_id(0)})[0] == 204
        assert {row["user_id"] for row in shown(decisions)} == {user_id(3)}  # at once, before 204
        assert server.ask(person)[1]["fallback"] == "popular: unknown user"
        point_to(folder, "v2")
        eventually(lambda: bool(server.ask("/readyz")[1]["version"] == "v2"))
        assert server.ask(person)[1]["fallback"] == "popular: unknown user"
    with serving(*follows, log=tmp_path / "log") as server:
        assert server.ask(person)[1]["fallback"] == "popular: unknown user"
    assert {row["user_id"] for row in shown(decisions)} == {user_id(3)}


def children(pid: int) -> list[int]:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_nothing_outlives_a_server_that_is_killed(bundles: Path, tmp_path: Path) -> None:
    tracker = Tracker(TrackingParams(uri=f"sqlite:///{tmp_path}/mlflow.db", model_name="shop"))
    with tracker.run("v1") as run:
        tracker.set_champion(run.register(bundles / "v1"))
    model = ("models:/shop@champion", "--to", tmp_path / "served", "--every", 0.2)
    with serving(*model, log=tmp_path / "log", MLFLOW_TRACKING_URI=tracker.uri) as server:
        (first,) = children(server.process.pid)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: children(server.process.pid) not in ([first], []))  # it is started again
        (second,) = children(server.process.pid)
        assert server.ask(f"/v1/products?user_id={user_id(0)}")[1]["entries"][0]["id"] != item_id(59)
        server.process.kill()
        server.process.wait()
        eventually(lambda: not is_alive(second))
