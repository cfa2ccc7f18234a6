"""Reports on their way between processes: written and read back the same, and harmless in any order."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle import write_bundle
from recsys.errors import DataError
from recsys.types import Behaviour, Event
from serving.ordering import Arrivals, Latest
from serving.outbox import Outbox
from serving.reports import (
    Aired,
    EndedRoom,
    ForgottenUser,
    ItemReport,
    LiveRoom,
    Message,
    Observed,
    Report,
    decode,
    encode,
)
from tests.serving.conftest import AS_OF_US, item_id, load, make_sections

ids = st.text(max_size=12) | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
moments = st.datetimes(
    min_value=datetime(1970, 1, 2), timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=8))])
)
numbers = st.none() | st.floats(0, 1e9)
events = st.builds(
    Event,
    user_id=ids,
    event=st.sampled_from(Behaviour),
    timestamp=moments,
    item_id=st.none() | ids,
    room_id=st.none() | ids,
    streamer_id=st.none() | ids,
    duration_s=numbers,
    amount=numbers,
    position=st.none() | st.integers(0, 100),
    source=st.none() | st.text(max_size=8),
    event_id=st.none() | st.text(max_size=8),
)
item_reports = (
    st.builds(ItemReport, ids, units=st.floats(allow_nan=False))
    | st.builds(ItemReport, ids, listed=st.booleans())
    | st.builds(ItemReport, ids, blocked=st.booleans())
)
reports = (
    st.builds(Observed, events)
    | st.builds(LiveRoom, ids, ids, st.integers(0, 2**60), st.none() | st.text(max_size=8))
    | st.builds(EndedRoom, ids)
    | st.builds(Aired, ids, st.none() | ids, st.integers(0, 2**60))
    | item_reports
    | st.builds(ForgottenUser, ids)
)


@given(report=reports, number=st.integers(0, 2**62))
def test_a_message_is_read_as_it_was_written(report: Report, number: int) -> None:
    message = Message("origin", number, 7, report)
    read = decode(encode(message))
    assert read == message
    if not isinstance(report, Observed):
        assert repr(read) == repr(message)


def test_ids_keep_their_spelling_and_numpy_values_become_plain() -> None:
    event = Event(np.int64(7), Behaviour.VIEW, datetime(2026, 3, 1), item_id="7", duration_s=np.float32(2))
    read = decode(encode(Message("a", 1, 1, Observed(event)))).report
    assert isinstance(read, Observed)
    assert (read.event.user_id, type(read.event.user_id)) == (7, int)
    assert (read.event.item_id, read.event.duration_s) == ("7", 2.0)
    with pytest.raises(DataError, match="cannot be shared"):
        encode(Message("a", 1, 1, EndedRoom(object())))  # type: ignore[arg-type]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_what_is_no_message_is_a_typed_error(content: bytes) -> None:
    with pytest.raises(DataError):
        decode(content)


@pytest.mark.parametrize(
    "content",
    [
        b'["o",1,1,"ended",{}]',
        b'["o",1,1,"ended",{"room_id":[1]}]',
        b'["o",1,1,"of a later version",{"room_id":1}]',
        b'["o",-1,1,"ended",{"room_id":1}]',
        b'["o",1,1e400,"ended",{"room_id":1}]',
        b'[["o"],1,1,"ended",{"room_id":1}]',
        b'["o",1,1,["ended"],{"room_id":1}]',
        b"[" * 100_000,
    ],
)
def test_damaged_messages_are_typed_errors(content: bytes) -> None:
    with pytest.raises(DataError):
        decode(content)


def _settled(messages: list[Message]) -> set[tuple[str, str]]:
    latest = Latest(100)
    for message in messages:
        latest.put(message)
    return {(type(m.report).__name__, repr(m)) for m in latest.messages()}


def test_of_reports_on_a_subject_the_latest_counts_in_any_order_and_number() -> None:
    history = [
        Message("a", 1, 10, LiveRoom("r", "s", 10, None)),
        Message("a", 2, 11, Aired("r", "i-1", 11)),
        Message("b", 1, 12, EndedRoom("r")),
        Message("b", 2, 13, ItemReport("i-1", units=0.0)),
        Message("a", 3, 14, ItemReport("i-1", units=3.0)),
    ]
    final = {repr(history[2]), repr(history[4])}
    for order in itertools.permutations(history):
        latest = Latest(100)
        for message in (*order, *order[:3]):
            latest.put(message)
        by_subject = {repr(m) for m in latest.messages()}
        assert final <= by_subject
    later = Latest(100)
    assert later.put(history[2])
    assert not later.put(history[1])  # of before the end
    assert later.put(Message("a", 9, 20, LiveRoom("r", "s", 20, None)))
    assert later.put(Message("a", 10, 21, Aired("r", "i-2", 21)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "v1"
    return write_bundle(path, sections=make_sections(), config={}, metrics={}, model_version="v1")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_recommender_ends_the_same_in_any_order_and_number(bundle: Path, data: st.DataObject) -> None:
    said: list[Report] = []
    over: set[str] = set()  # what a room showed before it ended and began anew may outlast its end
    for n in range(data.draw(st.integers(1, 12))):
        room, item, at_us = f"r-{n % 2}", item_id(n % 3), AS_OF_US + n
        can_be_said: tuple[Report, ...] = (
            EndedRoom(room) if room in over else LiveRoom(room, "s-1", at_us, None),
            EndedRoom(room),
            Aired(room, item, at_us),
            ItemReport(item, units=float(n % 2)),
            ItemReport(item, blocked=bool(n % 2)),
        )
        said.append(data.draw(st.sampled_from(can_be_said)))
        if isinstance(said[-1], EndedRoom):
            over.add(room)
    history = [Message("ab"[n % 2], n, AS_OF_US + n, report) for n, report in enumerate(said)]
    again = data.draw(st.lists(st.sampled_from(history), max_size=6))

    def told(messages: list[Message]) -> tuple[object, ...]:
        recommender, latest = load(bundle), Latest(100)
        for message in messages:
            recommender.take_in(message.report, provided=lambda message=message: latest.put(message))
        rooms = recommender.rooms("u", k=9, explore=False, now=AS_OF_US / 1e6 + 60)
        shown = sorted((entry.id, entry.facts["item_id"]) for entry in rooms)
        return shown, recommender.products("u", k=60)

    assert told(data.draw(st.permutations(history)) + again) == told(history)


def test_two_reports_of_one_moment_are_settled_alike_everywhere() -> None:
    one, other = Message("a", 1, 5, EndedRoom(1)), Message("b", 1, 5, LiveRoom(1, 2, 5, None))
    assert _settled([one, other]) == _settled([other, one])


def test_what_is_settled_is_bounded() -> None:
    latest = Latest(3)
    for n in range(10):
        assert latest.put(Message("a", n, n, EndedRoom(n)))
    assert [message.report for message in latest.messages()] == [EndedRoom(7), EndedRoom(8), EndedRoom(9)]


@given(st.lists(st.integers(0, 300), max_size=80))
def test_every_number_arrives_once(sequence: list[int]) -> None:
    arrivals, came = Arrivals(), set()
    for number in sequence:
        assert arrivals.first("a", number) == (number not in came)
        came.add(number)


def test_numbers_below_the_window_have_come_and_origins_are_bounded() -> None:
    arrivals = Arrivals(max_origins=2)
    assert arrivals.first("a", 10_000)
    assert not arrivals.first("a", 10_000 - Arrivals.WIDTH)
    assert arrivals.first("a", 10_001 - Arrivals.WIDTH)
    arrivals.all_up_to("b", 5)
    assert not any(arrivals.first("b", number) for number in range(6))
    assert arrivals.first("b", 6)
    assert arrivals.first("c", 1)
    assert arrivals.first("a", 10_000)  # the one heard of longest ago was dropped


def event(user: int) -> Observed:
    return Observed(Event(user, Behaviour.VIEW, datetime(2026, 3, 1, tzinfo=UTC), item_id="i"))


def test_reports_leave_first_and_of_each_subject_only_the_latest() -> None:
    box = Outbox(max_reports=10, max_events=2)
    for n, user in enumerate((1, 2, 3)):
        box.put(Message("a", n, n, event(user)))
    box.put(Message("a", 3, 3, ItemReport("i", units=5.0)))
    box.put(Message("a", 4, 4, EndedRoom("r")))
    box.put(Message("a", 5, 5, ItemReport("i", units=0.0)))
    assert (len(box), box.lost) == (4, 1)
    assert [message.number for message in box.take(3, timeout_s=0)] == [4, 5, 1]
    assert [message.number for message in box.take(3, timeout_s=0)] == [2]
    assert box.take(3, timeout_s=0) == []


def test_too_many_reports_lose_the_oldest() -> None:
    box = Outbox(max_reports=2, max_events=2)
    for n in range(5):
        box.put(Message("a", n, n, EndedRoom(n)))
    assert box.lost == 3
    assert [message.report for message in box.take(9, timeout_s=0)] == [EndedRoom(3), EndedRoom(4)]


def test_what_waits_of_a_forgotten_person_is_dropped() -> None:
    box = Outbox(max_reports=9, max_events=9)
    for n, user in enumerate((1, 2, 1)):
        box.put(Message("a", n, n, event(user)))
    box.put(Message("a", 3, 3, ForgottenUser("1")))
    assert [message.number for message in box.take(9, timeout_s=0)] == [3, 1]
