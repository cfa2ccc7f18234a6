"""The decision log: what was shown is what training reads, and a forgotten person is in no file."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.types import Behaviour
from serving.decisions import DecisionLog
from serving.recommender import Recommender
from tests.conftest import write_logs
from tests.serving.conftest import AS_OF, CLOCK_S, MakeBundle, item_id, user_id
from tests.serving.test_rooms import sections_with_rooms

BY_HAND = 3_600.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with DecisionLog(tmp_path / "decisions", every_s=BY_HAND) as log:
        yield log


@pytest.fixture
def recommender(make_bundle: MakeBundle, log: DecisionLog) -> Recommender:
    path = make_bundle(sections=sections_with_rooms())
    return Recommender.load(path, clock=lambda: CLOCK_S, decisions=log)


def rows(log: DecisionLog) -> list[dict]:
    log.flush()
    return [row for path in sorted(log.folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_answer_is_logged_with_place_source_and_version(
    recommender: Recommender, log: DecisionLog
) -> None:
    recommender.on_air("r-1", item_id(4))
    products = recommender.products(user_id(0), k=3)
    rooms = recommender.rooms("a stranger", k=3)
    found = rows(log)
    shown = [row for row in found if row["call"] == "products"]
    assert [row["item_id"] for row in shown] == products.ids
    assert [row["position"] for row in shown] == [1, 2, 3]
    assert {row["version"] for row in found} == {products.version}
    assert [row["source"] for row in shown] == [entry.source for entry in products]
    (room,) = (row for row in found if row["call"] == "rooms")
    assert (room["room_id"], room["streamer_id"], room["item_id"]) == ("r-1", "s-1", item_id(4))
    assert room["reason"] == rooms.entries[0].reason
    assert {row["user_id"] for row in found} == {str(user_id(0)), "a stranger"}


def test_training_reads_the_files_as_impressions(
    recommender: Recommender, log: DecisionLog, tmp_path: Path
) -> None:
    for user in (user_id(0), str(user_id(3))):  # a request over HTTP spells a number as text
        recommender.products(user, k=5)
    log.flush()
    logs = write_logs(
        tmp_path / "logs",
        events=[
            {"user_id": user_id(0), "event": "view", "timestamp": AS_OF.isoformat(), "item_id": item_id(0)}
        ],
    )
    (logs / "events").mkdir()
    (logs / "events.parquet").rename(logs / "events" / "part-0.parquet")
    for path in log.folder.glob("*.parquet"):
        path.rename(logs / "events" / path.name)
    summary = prepare(logs, tmp_path / "dataset")
    assert summary.quarantined == ()
    dataset = Dataset.load(tmp_path / "dataset")
    assert dataset.counts()[Behaviour.IMPRESSION] == 10
    assert dataset.users.ids.external(dataset.events.user_idx).to_pylist()[0] == user_id(0)
    assert sorted(dataset.events.position[dataset.events.is_any((Behaviour.IMPRESSION,))]) == sorted(
        [1, 2, 3, 4, 5] * 2
    )


def test_a_forgotten_person_is_in_no_file(recommender: Recommender, log: DecisionLog) -> None:
    recommender.products(user_id(0), k=2)
    log.flush()
    recommender.products(user_id(0), k=2)
    recommender.products(user_id(3), k=2)
    recommender.forget(user_id(0))
    recommender.products(user_id(0), k=2)
    assert {row["user_id"] for row in rows(log)} == {user_id(3)}


def test_old_files_go_and_what_is_too_much_is_dropped_and_counted(
    tmp_path: Path, make_bundle: MakeBundle
) -> None:
    with DecisionLog(tmp_path / "few", every_s=BY_HAND, max_waiting=2, max_files=3) as log:
        recommender = Recommender.load(make_bundle(), clock=lambda: CLOCK_S, decisions=log)
        for _ in range(5):
            recommender.products(user_id(0), k=1)
        assert log.dropped == 3
        for _ in range(6):
            recommender.products(user_id(3), k=1)
            log.flush()
        assert len(list(log.folder.iterdir())) == 3


def test_a_full_disk_loses_decisions_says_so_and_stops_nobody(
    recommender: Recommender,
    log: DecisionLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recommender.products(user_id(0), k=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with caplog.at_level(logging.ERROR):
            log.flush()
    assert log.dropped == 1
    assert "1 decisions are lost" in caplog.text
    recommender.products(user_id(0), k=1)
    assert len(rows(log)) == 1


def test_the_thread_writes_by_itself_and_closing_writes_the_rest(
    tmp_path: Path, make_bundle: MakeBundle
) -> None:
    with DecisionLog(tmp_path / "quick", every_s=0.01) as log:
        recommender = Recommender.load(make_bundle(), clock=lambda: CLOCK_S, decisions=log)
        recommender.products(user_id(0), k=1)
    assert len([row for path in log.folder.iterdir() for row in pq.read_table(path).to_pylist()]) == 1


FORKED = """
import os, sys, time
from pathlib import Path
from serving import Recommender
from serving.decisions import DecisionLog
import pyarrow.parquet as pq

def written(folder):
    return [row for path in Path(folder).glob("*.parquet") for row in pq.read_table(path).to_pylist()]

bundle, folder, quick = sys.argv[1:]
log = DecisionLog(folder, every_s=0.02 if quick == "by the thread" else 3600.0)
recommender = Recommender.load(bundle, decisions=log)
recommender.products("before", k=1)
child = os.fork()
if child == 0:
    try:
        for _ in range(5):
            assert recommender.products("child", k=1).ids
        if quick == "by the thread":
            end = time.monotonic() + 30
            while sum(row["user_id"] == "child" for row in written(folder)) < 5:
                assert time.monotonic() < end, written(folder)
                time.sleep(0.01)
        log.close()
        recommender.products("after", k=1)
        os._exit(0)
    except BaseException as error:
        print("child:", repr(error), file=sys.stderr, flush=True)
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
recommender.products("parent", k=1)
log.close()
users = sorted(row["user_id"] for row in written(folder))
assert users == ["before", *["child"] * 5, "parent"], users
"""


@pytest.mark.parametrize("how", ["by the thread", "when it is closed"])
def test_a_forked_process_writes_its_own_decisions(make_bundle: MakeBundle, tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(make_bundle()), str(tmp_path / "decisions"), how],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
