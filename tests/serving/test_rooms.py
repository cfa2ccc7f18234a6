"""Rooms: only those that are live, the user's own first, and nothing lost in a swap."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from recsys.bundle import BundleRefused, Reason, Section
from recsys.data.ids import IdMap
from recsys.room_sections import room_sections
from recsys.rooms.content import Content
from recsys.rooms.params import StateParams
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.state import LiveState
from recsys.types import Behaviour, Event, ExternalId
from serving.answer import RequestError
from serving.recommender import Recommender
from tests.serving.conftest import (
    AS_OF,
    AS_OF_US,
    CLOCK_S,
    N_ITEMS,
    MakeBundle,
    item_id,
    load,
    make_sections,
    user_id,
)

KNOWN = user_id(0)


def enter(user: ExternalId, room: ExternalId, *, minutes: float = 1.0) -> Event:
    return Event(user, Behaviour.ENTER, AS_OF + timedelta(minutes=minutes), room_id=room)


def sections_with_rooms() -> dict[str, Section]:
    """A bundle of three streamers; room r-1 of streamer s-1 is live as of its moment."""
    none = np.full(N_ITEMS, -1, dtype=np.int32)
    content = Content(("dance",), none, np.full(N_ITEMS, np.nan, np.float32), np.zeros(3, dtype=np.int32))
    scorer = RoomScorer(StateParams(), content)
    state = LiveState()
    state.room_started(1, 1, AS_OF_US - 60_000_000)
    streamers = IdMap(pa.array(["s-0", "s-1", "s-2"]), pa.string())
    rooms = IdMap(pa.array(["r-0", "r-1"]), pa.string())
    return {**make_sections(), **room_sections(scorer, state, streamers=streamers, rooms=rooms, since_us=0)}


@pytest.fixture(params=["with rooms", "without"])
def recommender(make_bundle: MakeBundle, request: pytest.FixtureRequest) -> Recommender:
    sections = sections_with_rooms() if request.param == "with rooms" else make_sections()
    recommender = load(make_bundle(sections=sections))
    recommender.room_ended("r-1")
    return recommender


def test_without_live_rooms_there_is_nothing_to_show(recommender: Recommender) -> None:
    answer = recommender.rooms(KNOWN)
    assert answer.ids == []
    assert answer.shortfall == "no room is live"


def test_a_bundles_own_live_rooms_are_answered_until_they_end(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle(sections=sections_with_rooms()))
    assert recommender.rooms(KNOWN).ids == ["r-1"]
    assert recommender.rooms(KNOWN).entries[0].facts["streamer_id"] == "s-1"
    recommender.room_ended("r-1")
    assert recommender.rooms(KNOWN).ids == []


def test_a_room_is_there_from_its_start_to_its_end(recommender: Recommender) -> None:
    recommender.room_started(77, "s-2", category="dance")
    assert recommender.rooms(KNOWN).ids == [77]
    assert recommender.rooms(KNOWN).shortfall == "only 1 room is live"
    recommender.observe(enter("someone", 77))
    recommender.room_ended("77")
    assert recommender.rooms(KNOWN).ids == []
    recommender.observe(enter("someone", 77, minutes=2))  # a late event brings no room back
    recommender.on_air(77, item_id(1))
    assert recommender.rooms(KNOWN).ids == []
    recommender.room_started(77, "s-2")
    assert recommender.rooms(KNOWN).ids == [77]


def test_what_is_on_air_ends_and_may_be_reported_before_the_room(recommender: Recommender) -> None:
    def shown() -> object:
        return recommender.rooms(KNOWN).entries[0].facts["item_id"]

    recommender.on_air("a", item_id(4))
    recommender.room_started("a", "s-2")
    assert shown() == item_id(4)
    recommender.off_air("a", at=AS_OF + timedelta(minutes=1))
    assert shown() is None
    recommender.on_air("a", item_id(5), at=AS_OF)  # of before, told late
    assert shown() is None
    recommender.swap(recommender.path)
    assert shown() is None
    recommender.on_air("a", item_id(5), at=AS_OF + timedelta(minutes=2))
    assert shown() == item_id(5)


def test_the_users_own_streamer_comes_first(recommender: Recommender) -> None:
    for room, streamer in (("a", "s-0"), ("b", "s-1"), ("c", "s-2")):
        recommender.room_started(room, streamer)
    for other in range(5):
        recommender.observe(enter(f"other {other}", "b"))
    recommender.observe(enter(KNOWN, "c"))
    answer = recommender.rooms(KNOWN, k=3, now=AS_OF.timestamp() + 600)
    assert answer.ids[:2] == ["c", "b"]
    assert answer.fallback is None
    assert answer.shortfall is None
    stranger = recommender.rooms("nobody", k=3, now=AS_OF.timestamp() + 600)
    assert stranger.ids[0] == "b"
    assert stranger.fallback == "popular: unknown user"
    assert recommender.rooms(KNOWN, k=3, personalised=False).ids[0] == "b"
    with pytest.raises(RequestError):
        recommender.rooms(KNOWN, k=0)


def test_streamers_new_to_the_user_have_their_share_unless_exploration_is_off(
    recommender: Recommender,
) -> None:
    for n in range(8):
        recommender.room_started(f"room {n}", f"streamer {n}")
        if n < 6:  # six streamers that the user knows, two that nobody visited
            recommender.observe(enter(KNOWN, f"room {n}", minutes=1 + n))
    asked = AS_OF.timestamp() + 3_600
    plain = recommender.rooms(KNOWN, k=5, explore=False, now=asked)
    assert not {"room 6", "room 7"} & set(plain.ids)
    scores = [entry.score for entry in plain]
    assert scores == sorted(scores, reverse=True)
    served = recommender.rooms(KNOWN, k=5, now=asked)
    assert served.ids[:4] == plain.ids[:4]
    assert served.ids[4] in ("room 6", "room 7")


def test_times_and_lengths_that_no_clock_shows_are_typed_errors(recommender: Recommender) -> None:
    recommender.room_started("a", "s-2")
    for now in (1e300, -1e13, float("inf"), float("nan"), 10**400, "noon"):
        for ask in (recommender.rooms, recommender.products):
            with pytest.raises(RequestError, match="now="):
                ask(KNOWN, now=now)
    assert recommender.rooms(KNOWN, now=0.0).ids == ["a"]  # the bundle's own moment is behind already
    for length in (1e300, float("inf"), float("nan"), -1, 10**400):
        with pytest.raises(RequestError, match="duration_s"):
            recommender.observe(replace(enter(KNOWN, "a"), duration_s=length))
    recommender.stock_changed(item_id(7), 10**400)
    assert item_id(7) in recommender.products("nobody", k=N_ITEMS).ids


def test_a_list_of_rooms_keeps_its_caps(recommender: Recommender) -> None:
    for n in range(9):
        recommender.room_started(f"room {n}", f"streamer {n % 3}", category="dance" if n < 6 else None)
        recommender.observe(enter(f"other {n}", f"room {n}", minutes=1 + n))
    asked = AS_OF.timestamp() + 3_600
    everything = recommender.rooms(KNOWN, k=9, explore=False, now=asked)
    capped = recommender.rooms(KNOWN, k=9, max_per_streamer=2, explore=False, now=asked)
    assert len(capped) == 6
    assert capped.shortfall == "max_per_streamer=2 leaves out all but 6 of 9"
    streamers = [entry.facts["streamer_id"] for entry in capped]
    assert {streamers.count(streamer) for streamer in streamers} == {2}
    left: dict[object, int] = {}
    greedy = []
    for entry in everything:
        left[entry.facts["streamer_id"]] = left.get(entry.facts["streamer_id"], 0) + 1
        if left[entry.facts["streamer_id"]] <= 2:
            greedy.append(entry)
    assert [(entry.id, entry.score) for entry in capped] == [(entry.id, entry.score) for entry in greedy]
    both = recommender.rooms(KNOWN, k=4, max_per_streamer=1, max_per_category=1, now=asked)
    assert len(both) <= 3
    with pytest.raises(RequestError, match="max_per_streamer"):
        recommender.rooms(KNOWN, max_per_streamer=0)


def test_every_room_has_the_reason_of_its_user(recommender: Recommender) -> None:
    for n in range(4):
        recommender.room_started(f"room {n}", f"streamer {n}")
    recommender.observe(enter(KNOWN, "room 1"))
    for minutes in (2, 3):
        recommender.observe(enter(KNOWN, "room 2", minutes=minutes))
    followed = AS_OF + timedelta(minutes=4)
    recommender.observe(Event(KNOWN, Behaviour.FOLLOW, followed, room_id="room 3"))
    asked = AS_OF.timestamp() + 3_600
    reasons = {entry.id: entry.reason for entry in recommender.rooms(KNOWN, now=asked)}
    assert reasons == {
        "room 0": "live now",  # nobody is in it
        "room 1": "you have visited this streamer",
        "room 2": "you come back to this streamer",
        "room 3": "you follow this streamer",
    }
    busy = {entry.id: entry.reason for entry in recommender.rooms("nobody", now=asked)}
    assert busy == {"room 0": "live now", "room 1": "busy now", "room 2": "busy now", "room 3": "live now"}


def test_the_product_on_air_is_named_while_it_can_be_had(recommender: Recommender) -> None:
    recommender.room_started("a", "s-0")
    recommender.on_air("a", item_id(4))
    recommender.on_air("none such", item_id(4))
    assert recommender.rooms(KNOWN).entries[0].facts["item_id"] == item_id(4)
    recommender.stock_changed(item_id(4), 0)
    assert recommender.rooms(KNOWN).entries[0].facts["item_id"] is None
    assert recommender.counts["on_air_in_no_live_room"] == 1


def test_a_swap_loses_no_room_and_brings_none_back(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("v1"))
    recommender.room_started("a", "s-0")
    recommender.room_started("b", "s-1")
    recommender.on_air("b", item_id(4))
    recommender.observe(enter(KNOWN, "b"))
    recommender.room_ended("r-1")  # live in the next bundle's state
    recommender.swap(make_bundle("v2", sections=sections_with_rooms()))
    answer = recommender.rooms(KNOWN)
    assert answer.ids == ["b", "a"]
    assert answer.version == "v2"
    assert answer.entries[0].facts == {"streamer_id": "s-1", "item_id": item_id(4)}
    assert recommender.rooms("nobody").fallback is not None


def test_a_forgotten_user_is_a_stranger_to_every_streamer(
    recommender: Recommender, make_bundle: MakeBundle
) -> None:
    recommender.room_started("a", "s-0")
    recommender.room_started("b", "s-1")
    recommender.observe(enter("friend", "b"))
    assert recommender.rooms("friend").fallback is None
    recommender.forget("friend")
    recommender.observe(enter("friend", "b", minutes=2))
    for _ in range(2):
        assert recommender.rooms("friend").fallback == "popular: unknown user"
        recommender.swap(make_bundle(f"v{_ + 2}"))


@pytest.mark.parametrize("lacking", ["room_state", "item_category", "live_room_idx"])
def test_rooms_without_a_part_are_refused(make_bundle: MakeBundle, lacking: str) -> None:
    sections = sections_with_rooms()
    if lacking == "room_state":
        del sections["room_state"]
    else:
        name = "rooms" if lacking == "item_category" else "room_state"
        old = sections[name]
        arrays = {key: array for key, array in old.arrays.items() if key != lacking}
        nullable = old.may_be_nan & arrays.keys()
        sections[name] = Section(arrays, old.tables, old.blobs, old.meta, frozenset(nullable))
    with pytest.raises(BundleRefused) as refused:
        load(make_bundle(sections=sections))
    assert refused.value.reason is Reason.CONTENT


def test_a_room_model_of_other_features_is_refused_by_the_name_of_its_bundle(make_bundle: MakeBundle) -> None:
    sections = sections_with_rooms()
    old = sections["rooms"]
    meta = {**old.meta, "features": ["of", "another", "engine"]}
    sections["rooms"] = Section(old.arrays, old.tables, old.blobs, meta, old.may_be_nan)
    with pytest.raises(BundleRefused, match=r"bundles/v1: .* other features"):
        load(make_bundle(sections=sections))


class Hall(RuleBasedStateMachine):
    """Rooms start, end, switch product and are entered in any order, and bundles are swapped meanwhile."""

    paths: tuple[Path, Path]
    rooms = st.integers(0, 6)

    @initialize()
    def opens(self) -> None:
        self.recommender = load(self.paths[0])
        self.recommender.room_ended("r-1")
        self.live: set[int] = set()
        self.ended: set[int] = set()
        self.minutes = 1.0

    @rule(room=rooms)
    def starts(self, room: int) -> None:
        self.recommender.room_started(room, f"s-{room % 4}")
        self.live.add(room)
        self.ended.discard(room)

    @rule(room=rooms)
    def ends(self, room: int) -> None:
        self.recommender.room_ended(str(room))
        self.live.discard(room)
        self.ended.add(room)

    @rule(room=rooms, user=st.integers(0, 3))
    def is_entered(self, room: int, user: int) -> None:
        self.minutes += 0.1
        self.recommender.observe(enter(user_id(user), room, minutes=self.minutes))

    @rule(room=rooms, item=st.integers(0, N_ITEMS))
    def shows(self, room: int, item: int) -> None:
        self.recommender.on_air(room, item_id(item))

    @rule(which=st.integers(0, 1))
    def swaps(self, which: int) -> None:
        self.recommender.swap(self.paths[which])

    @invariant()
    def all_that_is_live_and_nothing_that_ended(self) -> None:
        for user in (KNOWN, "nobody"):
            shown = set(self.recommender.rooms(user, k=50).ids)
            assert self.live <= shown
            assert not self.ended & shown


def test_what_is_over_is_gone_from_the_very_next_answer(make_bundle: MakeBundle) -> None:
    Hall.paths = (make_bundle("plain"), make_bundle("rooms", sections=sections_with_rooms()))
    run_state_machine_as_test(
        Hall,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_the_audience_of_a_room_decides_what_comes_next(make_bundle: MakeBundle) -> None:
    """Two viewers of dresses (products 0, 3, 6 ...) and one of tea (1, 4, 7 ...): dresses come first."""
    recommender = load(make_bundle(sections=sections_with_rooms()))
    recommender.room_started("a", "s-0")
    for n, (viewer, category) in enumerate([("ann", 0), ("ben", 0), ("cat", 1)]):
        for item in (category, category + 9):
            moment = AS_OF + timedelta(minutes=n)
            recommender.observe(Event(viewer, Behaviour.VIEW, moment, item_id=item_id(item)))
        recommender.observe(enter(viewer, "a", minutes=5 + n))
    answer = recommender.next_products("a", k=4)
    assert answer.fallback is None
    categories = [int(str(entry.id)[2:]) % 3 for entry in answer]
    assert categories[0] == 0
    assert answer.entries[0].facts["viewers"] == 3
    assert "of 3 viewers, mostly: " in answer.entries[0].reason
    assert not any("you" in entry.reason.split() for entry in answer)
    scores = [entry.score for entry in answer]
    assert scores == sorted(scores, reverse=True)
    # Who has left votes no more.
    for viewer in ("ann", "ben"):
        recommender.observe(Event(viewer, Behaviour.LEAVE, AS_OF + timedelta(minutes=20), room_id="a"))
    left = recommender.next_products("a", k=4)
    assert left.entries[0].facts["viewers"] == 1
    assert int(str(left.ids[0])[2:]) % 3 == 1


def test_what_is_on_air_sold_out_or_not_in_the_line_up_is_not_pitched(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle(sections=sections_with_rooms()))
    recommender.room_started("a", "s-0")
    recommender.observe(enter(KNOWN, "a"))
    everything = recommender.next_products("a", k=N_ITEMS).ids
    assert item_id(59) not in everything  # sold out
    assert len(everything) == len(set(everything)) == N_ITEMS - 1
    recommender.on_air("a", everything[0])
    assert everything[0] not in recommender.next_products("a", k=N_ITEMS).ids
    recommender.stock_changed(everything[1], 0)
    assert everything[1] not in recommender.next_products("a", k=N_ITEMS).ids
    line_up = everything[0:6]
    assert set(recommender.next_products("a", k=9, allow=line_up).ids) == set(line_up[2:])
    assert line_up[3] not in recommender.next_products("a", k=9, allow=line_up, deny=line_up[3:4]).ids


def test_a_room_of_strangers_gets_what_is_popular_and_one_that_is_over_none(recommender: Recommender) -> None:
    recommender.room_started("a", "s-0")
    recommender.observe(enter("nobody knows me", "a"))
    answer = recommender.next_products("a", k=3)
    assert answer.fallback == "popular: nobody in the room is known"
    assert len(answer) == 3
    recommender.room_ended("a")
    with pytest.raises(RequestError, match="room 'a' is not live"):
        recommender.next_products("a")
    with pytest.raises(RequestError, match="k=0"):
        recommender.next_products("a", k=0)


def test_who_has_opted_out_has_no_vote(recommender: Recommender) -> None:
    recommender.room_started("a", "s-0")
    recommender.observe(enter(user_id(2), "a"))  # user 2 has opted out
    assert recommender.next_products("a").fallback == "popular: nobody in the room is known"


def test_a_clock_that_is_ahead_makes_nothing_of_the_future(recommender: Recommender) -> None:
    recommender.room_started("a", "s-0")
    ahead = datetime.fromtimestamp(CLOCK_S, UTC) + timedelta(days=30)
    for report in (
        lambda: recommender.room_started("b", "s-1", at=ahead),
        lambda: recommender.on_air("a", item_id(1), at=ahead),
        lambda: recommender.rooms(KNOWN, now=AS_OF.timestamp() * 1_000),
        lambda: recommender.next_products("a", now=AS_OF.timestamp() * 1_000),
    ):
        with pytest.raises(RequestError, match="in the future"):
            report()
    assert recommender.rooms(KNOWN).ids == ["a"]


def test_an_event_a_little_ahead_counts_once(recommender: Recommender) -> None:
    recommender.room_started("a", "s-0")
    ahead = datetime.fromtimestamp(CLOCK_S, UTC) + timedelta(seconds=290)
    recommender.observe(Event("someone", Behaviour.ENTER, ahead, room_id="a"))
    score = recommender.rooms("nobody", now=CLOCK_S).entries[0].score
    recommender.observe(Event("other", Behaviour.ENTER, ahead - timedelta(seconds=290), room_id="a"))
    # The rule's score is a thousandth of ln(1 + joins): one join, then two.
    assert score == pytest.approx(1e-3 * np.log(2), rel=1e-3)
    again = recommender.rooms("nobody", now=CLOCK_S).entries[0].score
    assert again == pytest.approx(1e-3 * np.log(3), rel=1e-3)


@pytest.mark.parametrize("event_id", [None, "e-1"])
def test_an_event_that_comes_again_changes_nothing(recommender: Recommender, event_id: str | None) -> None:
    recommender.room_started("a", "s-0")
    event = replace(enter(KNOWN, "a"), event_id=event_id)
    recommender.observe(event)
    once = recommender.rooms(KNOWN).entries
    recommender.observe(event)
    assert recommender.rooms(KNOWN).entries == once
    assert recommender.counts["repeated_event"] == 1


def test_a_swap_keeps_the_later_product_on_air_and_that_of_the_bundles_rooms(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("v1", sections=sections_with_rooms()))
    recommender.room_started("a", "s-0")
    recommender.on_air("a", item_id(4), at=AS_OF + timedelta(minutes=5))
    recommender.on_air("a", item_id(7), at=AS_OF + timedelta(minutes=2))  # a report that is late
    recommender.on_air("r-1", item_id(9), at=AS_OF + timedelta(minutes=3))

    def on_air() -> dict[ExternalId, object]:
        return {entry.id: entry.facts["item_id"] for entry in recommender.rooms(KNOWN)}

    before = on_air()
    assert before == {"a": item_id(4), "r-1": item_id(9)}
    recommender.swap(make_bundle("v2", sections=sections_with_rooms()))
    assert on_air() == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: r.rooms(KNOWN, k="3"), "k='3'"),
        (lambda r: r.rooms(KNOWN, k=None), "k=None"),
        (lambda r: r.products(KNOWN, k=2.5), "k=2.5"),
        (lambda r: r.rooms(KNOWN, now=float("nan")), "now=nan"),
        (lambda r: r.room_started("a", "s-0", at="2025-01-01"), "at='2025-01-01'"),
        (lambda r: r.room_started(None, "s-0"), "room_id is None"),
        (lambda r: r.room_started("a", None), "streamer_id is None"),
        (lambda r: r.observe(replace(enter(KNOWN, "a"), duration_s=-5.0)), "duration_s -5.0"),
        (lambda r: r.observe(replace(enter(KNOWN, "a"), duration_s="x")), "duration_s 'x'"),
        (lambda r: r.observe(replace(enter(KNOWN, "a"), timestamp="noon")), "timestamp 'noon'"),
    ],
)
def test_arguments_that_are_none_are_refused_by_name(
    recommender: Recommender, call: Callable[[Recommender], object], said: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        call(recommender)
    assert recommender.rooms(KNOWN).ids == []
