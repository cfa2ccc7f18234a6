"""A challenger beside the champion: always the same users, and in the shadow seen by nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.bundle import BundleRefused
from recsys.types import Behaviour, Event
from serving.answer import RequestError
from serving.decisions import DecisionLog
from serving.recommender import Recommender
from serving.trial import Shadow, Split
from tests.serving.conftest import AS_OF, N_ITEMS, MakeBundle, item_id, load, user_id
from tests.serving.test_rooms import sections_with_rooms

KNOWN = user_id(0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with DecisionLog(tmp_path / "decisions", every_s=3_600.0) as log:
        yield log


@pytest.fixture
def recommender(make_bundle: MakeBundle, log: DecisionLog) -> Recommender:
    return load(make_bundle("v1", sections=sections_with_rooms()), decisions=log)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_user_keeps_the_arm_and_the_share_holds() -> None:
    split = Split(0.3, "march")
    users = [f"user {n}" for n in range(4_000)]
    chosen = {user for user in users if split.has(user)}
    assert 0.27 < len(chosen) / len(users) < 0.33  # seven standard errors wide
    assert chosen == {user for user in users if split.has(user)}
    assert chosen < {user for user in users if Split(0.5, "march").has(user)}
    other = {user for user in users if Split(0.3, "april").has(user)}
    assert 0.2 < len(other & chosen) / len(chosen) < 0.4
    assert Split(0.3, "s").has(7) == Split(0.3, "s").has("7")
    assert not any(Split(0.0, "").has(user) for user in users)
    assert all(Split(1.0, "").has(user) for user in users)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(recommender: Recommender, share: float) -> None:
    with pytest.raises(RequestError, match="share"):
        recommender.challenge(recommender.path, share=share)


def test_each_arm_is_answered_by_its_bundle_and_logged(
    recommender: Recommender, make_bundle: MakeBundle, log: DecisionLog
) -> None:
    assert recommender.products(KNOWN).arm is None
    assert recommender.challenge(make_bundle("v2", seed=1), share=0.5, salt="s") == "v2"
    split = Split(0.5, "s")
    of = {"champion": "v1", "challenger": "v2"}
    users = [user_id(n) for n in range(3, 20)]
    for user in users:
        arm = "challenger" if split.has(user) else "champion"
        answer = recommender.products(user, k=2)
        assert (answer.arm, answer.version) == (arm, of[arm])
    assert {recommender.products(user).version for user in users} == {"v1", "v2"}
    log.flush()
    logged = rows(log.folder)
    assert all(of[row["arm"]] == row["version"] for row in logged if row["user_id"] != KNOWN)
    assert {row["arm"] for row in logged} == {None, "champion", "challenger"}
    assert recommender.counts["answered_by_challenger"] == 2 * sum(map(split.has, users))
    recommender.end_challenge()
    assert recommender.products(users[0]).arm is None


def test_reports_reach_both_arms(recommender: Recommender, make_bundle: MakeBundle) -> None:
    recommender.stock_changed(item_id(7), 0)
    recommender.room_started("before", "s-2")
    recommender.challenge(make_bundle("v2", sections=sections_with_rooms()), share=1.0)
    recommender.stock_changed(item_id(8), 0)
    recommender.room_started("a", "s-2")
    recommender.on_air("a", item_id(4))
    recommender.room_ended("r-1")
    fresh = Event("new", Behaviour.VIEW, AS_OF + timedelta(minutes=1), item_id=item_id(3))
    recommender.observe(fresh)
    for arm in ("challenger", None):
        rooms = recommender.rooms(KNOWN)
        assert rooms.arm == arm
        assert set(rooms.ids) == {"a", "before"}
        facts = {entry.id: entry.facts["item_id"] for entry in rooms}
        assert facts == {"a": item_id(4), "before": None}
        assert not {item_id(7), item_id(8)} & set(recommender.products(KNOWN, k=N_ITEMS).ids)
        assert recommender.products("new").fallback is None
        recommender.end_challenge()


def test_a_forgotten_person_is_forgotten_by_both(recommender: Recommender, make_bundle: MakeBundle) -> None:
    recommender.challenge(make_bundle("v2", seed=1), share=1.0)
    recommender.forget(KNOWN)
    assert recommender.products(KNOWN).fallback == "popular: unknown user"


def test_a_bad_challenger_is_refused_and_the_trial_goes_on(
    recommender: Recommender, make_bundle: MakeBundle
) -> None:
    recommender.challenge(make_bundle("v2", seed=1), share=1.0)
    bad = make_bundle("bad", seed=1)
    (bad / "items.faiss").write_bytes(b"")
    with pytest.raises(BundleRefused):
        recommender.challenge(bad, share=1.0)
    assert recommender.products(KNOWN).version == "v2"


def test_in_the_shadow_all_see_the_champion_and_the_log_has_both(
    recommender: Recommender, make_bundle: MakeBundle, log: DecisionLog
) -> None:
    before = recommender.products(KNOWN, k=3, deny=iter([item_id(0)]))
    recommender.challenge(make_bundle("v2", seed=1), share=1.0, shadow=True)
    answer = recommender.products(KNOWN, k=3, deny=iter([item_id(0)]))
    assert answer == before
    eventually(lambda: recommender.counts.get("shadowed", 0) == 1)
    expected = load(make_bundle("v3", seed=1)).products(KNOWN, k=3, deny=[item_id(0)])
    log.flush()
    shown, shadow = rows(log.folder), rows(log.folder / "shadow")
    assert {row["event"] for row in shown} == {"impression"}
    assert {(row["event"], row["arm"], row["version"]) for row in shadow} == {("shadow", "shadow", "v2")}
    assert [row["item_id"] for row in shadow] == expected.ids != answer.ids
    assert {row["timestamp"] for row in shadow} == {row["timestamp"] for row in shown}
    recommender.forget(KNOWN)
    assert rows(log.folder) == rows(log.folder / "shadow") == []


def test_a_challenger_that_fails_or_hangs_in_the_shadow_is_not_noticed(
    recommender: Recommender,
    make_bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = recommender.products(KNOWN)
    recommender.challenge(make_bundle("v2", seed=1), share=1.0, shadow=True, max_waiting=3)
    trial = recommender._trial
    assert trial is not None
    released = threading.Event()
    began = threading.Event()

    def hang(*_: object, **__: object) -> None:
        began.set()
        assert released.wait(30)
        raise RuntimeError("no answer from this one")

    monkeypatch.setattr(trial.challenger.loaded, "fused", hang)
    with caplog.at_level(logging.ERROR):
        recommender.products(KNOWN)
        assert began.wait(20)
        for _ in range(10):
            assert recommender.products(KNOWN) == before
        assert recommender.counts["shadow_dropped"] == 7
        released.set()
        eventually(lambda: recommender.counts["shadow_failed"] == 4)
    assert "no answer from this one" in caplog.text
    recommender.end_challenge()
    assert recommender.products(KNOWN) == before


def test_a_shadow_without_a_log_is_refused(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle())
    with pytest.raises(RequestError, match="decision log"):
        recommender.challenge(recommender.path, share=1.0, shadow=True)


def test_a_shadow_that_is_closed_does_nothing_more() -> None:
    shadow = Shadow(max_waiting=5)
    done: list[int] = []
    assert shadow.put(lambda: done.append(1))
    eventually(lambda: done == [1])
    shadow.close()
    assert not shadow.put(lambda: done.append(2))
    assert done == [1]
