"""A forgotten person is in no answer, no memory and no file, whoever forgot and whatever else happens."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.bundle import write_bundle
from recsys.data.tombstones import FILE, tombstone
from recsys.errors import DataError
from recsys.types import Behaviour, Event, ExternalId
from serving.decisions import Decision, DecisionLog
from serving.recommender import Recommender
from tests.serving.conftest import AS_OF, AS_OF_US, MakeBundle, item_id, load, make_sections, user_id
from tests.serving.test_rooms import sections_with_rooms

KNOWN, STRANGER = user_id(0), "a stranger"
BY_HAND = 3_600.0


@pytest.fixture
def path(make_bundle: MakeBundle) -> Path:
    return make_bundle(sections=sections_with_rooms())


OpenLog = Callable[[], DecisionLog]


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[OpenLog]:
    """`open_log()`: the log of one more process, all in one folder."""
    opened: list[DecisionLog] = []

    def one() -> DecisionLog:
        opened.append(DecisionLog(tmp_path / "decisions", every_s=BY_HAND))
        return opened[-1]

    yield one
    for log in opened:
        log.close()


def acts(recommender: Recommender, user: ExternalId) -> None:
    """The user looks at a product, and goes into a room."""
    at = AS_OF + timedelta(minutes=1)
    recommender.observe(Event(user, Behaviour.VIEW, at, item_id=item_id(10)))
    recommender.observe(Event(user, Behaviour.ENTER, at, room_id="r-1"))
    recommender.products(user, k=2)
    recommender.rooms(user)


def logged(log: DecisionLog) -> set[str]:
    paths = [*log.folder.glob("*.parquet"), *log.folder.glob("shadow/*.parquet")]
    return {str(row["user_id"]) for path in paths for row in pq.read_table(path).to_pylist()}


def is_remembered(recommender: Recommender, user: ExternalId) -> bool:
    """Whether what was reported of a user is anywhere in memory."""
    rooms = recommender._current.rooms
    index = rooms._users.get(user)
    return (
        bool(recommender._fresh.of(str(user)))
        or str(user) in recommender._journal.users()
        or any(seen[0] == str(user) for seen in recommender._journal._seen)
        or str(user) in rooms._users._new
        or (index >= 0 and index in rooms._state.rooms.audience.of(0, since_us=0))
    )


@pytest.mark.parametrize("user", [KNOWN, STRANGER])
def test_nothing_reported_of_a_person_is_left(path: Path, open_log: OpenLog, user: ExternalId) -> None:
    log = open_log()
    recommender = load(path, decisions=log)
    acts(recommender, user)
    acts(recommender, user_id(3))
    assert is_remembered(recommender, user)
    log.flush()
    assert logged(log) == {str(user), str(user_id(3))}
    recommender.forget(user)
    assert logged(log) == {str(user_id(3))}
    acts(recommender, user)
    assert not is_remembered(recommender, user)
    assert is_remembered(recommender, user_id(3))
    log.flush()
    assert logged(log) == {str(user_id(3))}


@pytest.mark.parametrize("how", ["reads the list again", "swaps", "hears it from others"])
def test_another_process_drops_what_it_holds(path: Path, open_log: OpenLog, how: str) -> None:
    log, other_log = open_log(), open_log()
    one, other = load(path, decisions=log), load(path, decisions=other_log)
    for recommender in (one, other):
        acts(recommender, KNOWN)
        acts(recommender, STRANGER)
        acts(recommender, user_id(3))
    one.forget(KNOWN)
    one.forget(STRANGER)
    if how == "swaps":
        other.swap(path)
    elif how == "reads the list again":
        other.reread_forgotten()
    else:
        other.remember_forgotten(one.forgotten)
    for user in (KNOWN, STRANGER):
        assert not is_remembered(other, user)
        assert other.products(user).fallback == "popular: unknown user"
    assert is_remembered(other, user_id(3))
    other_log.flush()  # what was waiting when the other forgot
    assert logged(other_log) == {str(user_id(3))}


def test_a_restart_finishes_what_a_crash_left(path: Path, open_log: OpenLog) -> None:
    log = open_log()
    acts(load(path, decisions=log), KNOWN)
    log.close()
    half = log.folder / ".decisions-1-2-3.parquet.77"
    half.write_bytes(b"half a file of somebody")
    old = half.stat().st_mtime - 3_600

    os.utime(half, (old, old))
    load(path).forget(KNOWN)  # by a process that knows nothing of the log, or died before it came to it
    assert logged(log) == {str(KNOWN)}
    again = open_log()
    load(path, decisions=again)
    again.flush()
    assert logged(again) == set()
    assert not half.exists()


def test_an_answer_under_way_leaves_no_trace(path: Path, open_log: OpenLog) -> None:
    log = open_log()
    recommender = load(path, decisions=log)
    recommender.forget(KNOWN)
    answer = recommender.products(user_id(3), k=2)
    for spelt in (KNOWN, str(KNOWN)):  # looked before, logged after
        log.add(Decision("products", spelt, AS_OF_US, answer))
    log.flush()
    assert logged(log) == {str(user_id(3))}


def test_an_event_under_way_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = load(path)
    add = recommender._fresh.add

    def forgotten_meanwhile(*args: Any) -> bool:
        recommender.forget(KNOWN)
        return add(*args)

    monkeypatch.setattr(recommender._fresh, "add", forgotten_meanwhile)
    at = AS_OF + timedelta(minutes=1)
    recommender.observe(Event(KNOWN, Behaviour.VIEW, at, item_id=item_id(10)))
    assert not is_remembered(recommender, KNOWN)


def test_reports_go_on_while_a_long_log_is_cleaned(
    path: Path, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    recommender = load(path, decisions=log)
    cleaning, released = threading.Event(), threading.Event()
    clean = log._clean

    def slowly() -> None:
        cleaning.set()
        assert released.wait(60)
        clean()

    monkeypatch.setattr(log, "_clean", slowly)
    forgetting = threading.Thread(target=recommender.forget, args=(KNOWN,))
    forgetting.start()
    assert cleaning.wait(60)
    recommender.room_ended("r-1")  # were it to wait for the log, the test would hang here
    assert recommender.rooms(user_id(3)).ids == []
    assert recommender.products(KNOWN).fallback == "popular: unknown user"
    released.set()
    forgetting.join(60)


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_clean(
    path: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log()
    recommender = load(path, decisions=log)
    acts(recommender, KNOWN)
    log.flush()
    broken = log.folder / "decisions-00-broken.parquet"
    broken.write_bytes(b"PAR1 and then the power went")
    with pytest.raises(DataError, match=r"broken\.parquet"):
        recommender.forget(KNOWN)
    assert tombstone(KNOWN) in (path.parent / FILE).read_text()
    with caplog.at_level(logging.ERROR):
        log.close()
    assert "broken.parquet" in caplog.text
    broken.unlink()
    assert logged(log) == set()
    recommender.forget(KNOWN)  # once more does no harm


def test_a_bundle_of_another_folder_obeys_too(path: Path, tmp_path: Path) -> None:
    def elsewhere(version: str) -> Path:
        sections = make_sections(seed=1)
        folder = tmp_path / f"folder of {version}"
        return write_bundle(folder / version, sections=sections, config={}, metrics={}, model_version=version)

    recommender = load(path)
    recommender.forget(KNOWN)
    next_ = elsewhere("v2")
    recommender.swap(next_)
    assert load(next_).products(KNOWN).fallback == "popular: unknown user"
    challenger = elsewhere("v3")
    recommender.challenge(challenger, share=1.0)
    recommender.forget(user_id(3))
    for bundle in (next_, challenger):
        assert load(bundle).products(user_id(3)).fallback == "popular: unknown user"
        assert load(bundle).products(KNOWN).fallback == "popular: unknown user"


def test_a_list_that_cannot_be_written_is_an_error_and_the_person_is_gone_from_memory(path: Path) -> None:
    recommender = load(path)
    acts(recommender, KNOWN)
    (path.parent / FILE).mkdir()
    with pytest.raises(OSError, match=FILE):
        recommender.forget(KNOWN)
    assert not is_remembered(recommender, KNOWN)
    assert recommender.products(KNOWN).fallback == "popular: unknown user"
