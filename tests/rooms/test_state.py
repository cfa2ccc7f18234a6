"""The live state under what really comes in: doubles, gaps, clocks that run backwards, crowds."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.rooms.live_rooms import RoomCounter
from recsys.rooms.memory import FOLLOWS, HIDDEN, PairCounter
from recsys.rooms.params import StateParams
from recsys.rooms.state import LiveState
from recsys.types import Behaviour
from tests.rooms.conftest import batch, us

ENTER, LEAVE, VIEW = Behaviour.ENTER, Behaviour.LEAVE, Behaviour.VIEW


def live(state: LiveState) -> list[int]:
    return sorted(state.rooms.room_idx[: len(state.rooms)].tolist())


def test_a_room_is_live_from_its_start_to_its_end() -> None:
    state = LiveState()
    state.room_started(7, 0, us("10:00:00"))
    state.room_started(8, 1, us("10:00:00"))
    assert live(state) == [7, 8]
    assert state.room_ended(7)
    assert live(state) == [8]


def test_a_room_that_ends_twice_or_never_began_changes_nothing() -> None:
    state = LiveState()
    state.room_started(1, 0, us("10:00:00"))
    assert not state.room_ended(99)
    assert state.room_ended(1)
    assert not state.room_ended(1)
    assert live(state) == []


def test_events_of_a_room_that_never_started_show_that_it_is_live() -> None:
    state = LiveState()
    state.observe_many(batch((ENTER, us("10:00:00"), {"user": 0, "streamer": 3, "room": 5})))
    assert live(state) == [5]
    assert state.rooms.streamer_idx[0] == 3
    assert state.rooms.started_us[0] == us("10:00:00")


def test_late_events_do_not_bring_an_ended_room_back() -> None:
    state = LiveState()
    state.room_started(5, 3, us("10:00:00"))
    state.room_ended(5)
    state.observe_many(batch((Behaviour.LIKE, us("10:59:59"), {"user": 0, "streamer": 3, "room": 5})))
    assert live(state) == []
    state.room_started(5, 3, us("12:00:00"))
    assert live(state) == [5]


def test_rows_of_ended_rooms_go_to_the_last_with_all_that_was_counted() -> None:
    state = LiveState()
    for room in range(3):
        state.room_started(room, room, us("10:00:00"))
    state.observe_many(batch(*[(ENTER, us("10:00:01"), {"user": 0, "streamer": 2, "room": 2})] * 4))
    state.on_air(2, 11, us("10:00:02"))
    state.room_ended(0)
    row = state.rooms.row(2)
    assert row == 0
    assert state.rooms.viewers[row] == 4
    assert state.item_on_air(2) == 11
    counted = state.rooms.counters.read(np.array([row]), us("10:00:01"))[0, RoomCounter.JOIN]
    np.testing.assert_allclose(counted, 4.0)


def test_clocks_that_run_backwards_by_minutes_count_by_their_own_time() -> None:
    forwards, backwards = LiveState(), LiveState()
    rows = [(ENTER, us(f"10:0{m}:00"), {"user": m, "streamer": 0, "room": 0}) for m in range(6)]
    forwards.observe_many(batch(*rows))
    for row in reversed(rows):
        backwards.observe_many(batch(row))
        backwards.advance(row[1])
    assert backwards.now_us == us("10:05:00")
    now = us("10:06:00")
    for state in (forwards, backwards):
        state.advance(now)
    np.testing.assert_allclose(
        forwards.rooms.counters.read(slice(0, 1), now), backwards.rooms.counters.read(slice(0, 1), now)
    )


def test_events_of_the_future_count_as_of_their_arrival() -> None:
    state = LiveState()
    now = us("10:00:00")
    event = batch((ENTER, us("23:00:00"), {"user": 0, "streamer": 0, "room": 0}))
    state.observe_many(event, received_us=now)
    np.testing.assert_allclose(state.rooms.counters.read(slice(0, 1), now)[0, RoomCounter.JOIN], 1.0)


def test_of_two_products_on_air_the_later_one_stays() -> None:
    state = LiveState()
    state.room_started(0, 0, us("10:00:00"))
    state.on_air(0, 4, us("10:10:00"))
    state.on_air(0, 9, us("10:05:00"))
    assert state.item_on_air(0) == 4
    state.on_air(0, 9, us("10:11:00"))
    state.off_air(0, 4)
    assert state.item_on_air(0) == 9


def test_a_showcase_without_an_end_goes_with_its_room() -> None:
    state = LiveState()
    state.room_started(0, 0, us("10:00:00"))
    state.on_air(0, 4, us("10:10:00"))
    state.room_ended(0)
    assert state.item_on_air(0) == -1
    assert not state.on_air(0, 4, us("11:00:00"))


def test_a_room_without_an_end_is_over_after_long_silence() -> None:
    state = LiveState(StateParams(silent_hours=3.0))
    state.room_started(0, 0, us("01:00:00"))
    state.room_started(1, 1, us("01:00:00"))
    state.observe_many(batch((ENTER, us("03:30:00"), {"user": 0, "streamer": 1, "room": 1})))
    state.advance(us("03:59:00"))
    assert live(state) == [0, 1]
    state.advance(us("05:00:00"))
    assert live(state) == [1]


def test_a_views_length_is_known_when_it_is_over_and_not_before() -> None:
    state = LiveState(StateParams(leave=None))
    seen = {"user": 0, "streamer": 0, "room": 0}
    state.observe_many(
        batch((ENTER, us("10:00:00"), seen), (VIEW, us("10:00:00"), {**seen, "duration_s": 600.0}))
    )
    row = state.pairs.find(np.array([0]), np.array([0]))
    state.advance(us("10:10:00"))
    assert state.pairs.sums.read(row, us("10:10:00"))[0, PairCounter.DWELL_S].max() == 0
    assert state.rooms.viewers[0] == 1
    state.advance(us("10:10:01"))
    np.testing.assert_allclose(
        state.pairs.sums.read(row, us("10:10:00"))[0, PairCounter.DWELL_S], 600.0, rtol=1e-6
    )
    assert state.rooms.viewers[0] == 0


def test_a_million_viewers_of_one_room_take_the_rooms_memory_of_one() -> None:
    state = LiveState(StateParams(max_users=1_000))
    n = 1_000_000
    moments = us("10:00:00") + np.arange(n, dtype=np.int64)
    one = batch((ENTER, 0, {"user": 5_000, "streamer": 0, "room": 0}), (ENTER, 0, {"user": 5, "streamer": 0}))
    crowd = one.where(np.zeros(n, dtype=np.int64))
    columns = {name: getattr(crowd, name) for name in crowd.__dataclass_fields__}
    columns |= {"timestamp_us": moments, "user_idx": (np.arange(n) % 1_000).astype(np.int32)}
    state.observe_many(type(crowd)(**columns))
    assert state.rooms.viewers[0] == n
    assert len(state.rooms.room_idx) <= 64
    assert len(state.pairs) == 1_000
    assert len(state.actions.count) <= 1_000
    assert np.isfinite(state.rooms.counters.values).all()


def test_users_beyond_the_bound_are_not_remembered() -> None:
    state = LiveState(StateParams(max_users=10))
    state.observe_many(batch((ENTER, us("10:00:00"), {"user": 10, "streamer": 0, "room": 0})))
    assert len(state.pairs) == 0
    assert len(state.last_visit_us) == 0


def test_the_least_recently_visited_streamer_is_forgotten_first() -> None:
    state = LiveState(StateParams(max_streamers_a_user=2))
    for minute, streamer in enumerate((0, 1, 0, 2)):
        state.observe_many(batch((ENTER, us(f"10:0{minute}:00"), {"user": 0, "streamer": streamer})))
    assert set(state.pairs.of_user(0)[0].tolist()) == {0, 2}
    # In one batch the same, and the row that changes hands starts from zero.
    other = LiveState(StateParams(max_streamers_a_user=2))
    rows = [(ENTER, us(f"10:0{m}:00"), {"user": 0, "streamer": s}) for m, s in enumerate((0, 1, 0, 2, 3))]
    other.observe_many(batch(*rows))
    other.observe_many(batch((ENTER, us("11:00:00"), {"user": 1, "streamer": 0})))
    row = other.pairs.find(np.array([1]), np.array([0]))
    np.testing.assert_allclose(other.pairs.sums.read(row, us("11:00:00"))[0, PairCounter.VISIT], 1.0)
    assert set(other.pairs.of_user(0)[0].tolist()) == {2, 3}


def test_full_pair_memory_takes_no_more_and_breaks_nothing() -> None:
    state = LiveState(StateParams(max_pairs=1))
    state.observe_many(batch((ENTER, us("10:00:00"), {"user": 0, "streamer": 0})))
    state.observe_many(batch((ENTER, us("10:01:00"), {"user": 0, "streamer": 1})))
    assert len(state.pairs) == 1


def test_rooms_beyond_the_bound_take_the_place_of_the_longest_silent() -> None:
    state = LiveState(StateParams(max_rooms=2))
    for room in range(3):
        state.room_started(room, room, us(f"10:0{room}:00"))
    assert live(state) == [1, 2]


def test_a_ring_keeps_the_latest_of_a_batch_longer_than_itself() -> None:
    state = LiveState(StateParams(history=3))
    rows = [(ENTER, us(f"10:0{s}:00"), {"user": 0, "streamer": s}) for s in range(8)]
    state.observe_many(batch(*rows))
    assert sorted(state.actions.streamer_idx[0].tolist()) == [5, 6, 7]


def test_batches_and_single_events_give_the_same_state() -> None:
    rng = np.random.default_rng(0)
    behaviours = [
        ENTER,
        VIEW,
        LEAVE,
        Behaviour.LIKE,
        Behaviour.CART,
        Behaviour.PURCHASE,
        Behaviour.IMPRESSION,
    ]
    rows = []
    for second in np.sort(rng.integers(0, 7200, 400)):
        streamer = int(rng.integers(0, 5))
        about = {
            "user": int(rng.integers(0, 8)),
            "streamer": streamer,
            "room": streamer,
            "item": int(second % 3),
        }
        about["duration_s"] = float(rng.integers(1, 900))
        rows.append((behaviours[int(rng.integers(0, 7))], us("10:00:00") + int(second) * 1_000_000, about))
    whole, single = LiveState(), LiveState()
    whole.observe_many(batch(*rows))
    for row in rows:
        single.advance(row[1])
        single.observe_many(batch(row))
    now = us("13:00:00")
    for state in (whole, single):
        state.advance(now)
    assert live(whole) == live(single)
    everyone = range(8)
    for left, right in (
        (s.rooms.counters.read(s.rooms.rows(np.arange(5, dtype=np.int32)), now) for s in (whole, single)),
        (s.rooms.viewers[s.rooms.rows(np.arange(5, dtype=np.int32))] for s in (whole, single)),
        (s.items.read(slice(0, 3), now) for s in (whole, single)),
        (s.streamers.read(slice(0, 5), now) for s in (whole, single)),
        (s.users.read(slice(0, 8), now) for s in (whole, single)),
        (np.sort(s.actions.at_us[:8], axis=1) for s in (whole, single)),
        (s.actions.count[:8] for s in (whole, single)),
        *((s.pairs.sums.read(s.pairs.of_user(u)[1], now) for s in (whole, single)) for u in everyone),
        *((s.pairs.of_user(u)[0] for s in (whole, single)) for u in everyone),
    ):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


def test_parts_give_the_same_state_back_and_it_goes_on_alike() -> None:
    state = LiveState()
    state.room_started(4, 2, us("10:00:00"), category=1)
    state.on_air(4, 6, us("10:01:00"))
    seen = {"user": 3, "streamer": 2, "room": 4}
    state.observe_many(
        batch((ENTER, us("10:02:00"), seen), (VIEW, us("10:02:00"), {**seen, "duration_s": 3600.0}))
    )
    state.advance(us("10:30:00"))
    parts = state.to_parts()
    for array in parts.values():
        array.setflags(write=False)
    again = LiveState.from_parts(state.params, parts)
    for one in (LiveState.from_parts(state.params, state.to_parts()), again):
        one.advance(us("11:30:00"))
        one.observe_many(batch((Behaviour.HIDE, us("11:30:00"), seen)))
        row = one.pairs.find(np.array([3]), np.array([2]))
        assert one.pairs.relation[row[0]] == HIDDEN
        assert one.pairs.sums.read(row, us("11:02:00"))[0, PairCounter.DWELL_S, -1] == pytest.approx(
            3600, rel=1e-6
        )
        assert one.item_on_air(4) == 6
        assert one.rooms.category[0] == 1


def test_a_forgotten_user_leaves_no_trace() -> None:
    state = LiveState()
    seen = {"user": 0, "streamer": 0, "room": 0, "duration_s": 60.0}
    rows = [(b, us("10:00:00"), seen) for b in (ENTER, VIEW, Behaviour.IMPRESSION, Behaviour.LIKE)]
    state.observe_many(batch(*rows))
    state.forget(0)
    state.advance(us("12:00:00"))
    assert len(state.pairs) == 0
    assert state.actions.count[0] == state.shown.count[0] == 0
    assert (state.actions.streamer_idx[0] == -1).all()
    assert (state.users.values[0] == 0).all()


def test_what_has_ended_stays_so_in_a_state_made_of_its_parts() -> None:
    state = LiveState()
    state.room_started(5, 3, us("10:00:00"))
    state.room_started(6, 4, us("10:00:00"))
    state.room_ended(5)
    again = LiveState.from_parts(state.params, state.to_parts())
    again.observe_many(batch((LEAVE, us("10:30:00"), {"user": 0, "streamer": 3, "room": 5})))
    assert live(again) == [6]


def test_a_silent_room_is_live_again_when_it_is_heard_whoever_asked_meanwhile() -> None:
    heard = batch((Behaviour.LIKE, us("23:30:00"), {"user": 0, "streamer": 3, "room": 5}))
    rooms = []
    for asked in ([], [us("22:40:00")]):  # after 12.5 hours of silence
        state = LiveState()
        state.room_started(5, 3, us("10:00:00"))
        for moment in asked:
            state.advance(moment)
            assert live(state) == []
        state.observe_many(heard)
        state.advance(us("23:40:00"))
        rooms.append(live(state))
    assert rooms == [[5], [5]]


@pytest.mark.parametrize("order", [(Behaviour.HIDE, Behaviour.FOLLOW), (Behaviour.FOLLOW, Behaviour.HIDE)])
def test_of_following_and_hiding_the_last_counts_in_a_batch_as_one_by_one(
    order: tuple[Behaviour, Behaviour],
) -> None:
    rows = [(name, us(f"10:0{n}:00"), {"user": 0, "streamer": 3}) for n, name in enumerate(order)]
    together, singly = LiveState(), LiveState()
    together.observe_many(batch(*rows))
    for row in rows:
        singly.observe_many(batch(row))
    wanted = HIDDEN if order[1] is Behaviour.HIDE else FOLLOWS
    for state in (together, singly):
        assert state.pairs.relation[state.pairs.of_user(0)[1]].tolist() == [wanted]


def test_where_views_have_no_length_leaving_tells_what_viewing_would() -> None:
    """The same evening logged both ways, in one batch and one by one, and handed on halfway."""
    visits = [(0, 3, 5, "10:00:00", 600.0), (1, 3, 5, "10:01:00", 20.0), (0, 4, 6, "10:15:00", 90.0)]
    by_view, by_leave = [], []
    for user, streamer, room, time, seconds in visits:
        who = {"user": user, "streamer": streamer, "room": room}
        begin_us = us(time)
        over_us = begin_us + round(seconds * 1e6)
        both = [(ENTER, begin_us, who)]
        by_view += [*both, (VIEW, begin_us, who | {"duration_s": seconds}), (LEAVE, over_us, who)]
        by_leave += [*both, (LEAVE, over_us, who)]
    by_view.sort(key=lambda row: row[1])
    by_leave.sort(key=lambda row: row[1])
    end_us = us("10:30:00")

    def dwelt(state: LiveState) -> list[float]:
        state.advance(end_us)
        rows = np.concatenate([state.pairs.of_user(user)[1] for user in (0, 1)])
        sums = state.pairs.sums.read(rows, end_us)
        return [*sums[:, PairCounter.DWELL_S, -1], *sums[:, PairCounter.BOUNCE, -1]]

    viewed = LiveState(StateParams(length="view"))
    viewed.observe_many(batch(*by_view))
    left = LiveState(StateParams(length="leave"))
    left.observe_many(batch(*by_leave))
    singly = LiveState(StateParams(length="leave"))
    for n, row in enumerate(by_leave):
        singly.observe_many(batch(row))
        if n == 2:
            singly = LiveState.from_parts(singly.params, singly.to_parts())
    wanted = dwelt(viewed)
    assert wanted[0] > 590
    np.testing.assert_allclose(dwelt(left), wanted, rtol=1e-6)
    np.testing.assert_allclose(dwelt(singly), wanted, rtol=1e-6)


def test_who_never_leaves_takes_no_room_for_good() -> None:
    state = LiveState(StateParams(length="leave", max_watching=3))
    for user in range(5):
        state.observe_many(batch((ENTER, us("10:00:00"), {"user": user, "streamer": 3, "room": 5})))
    state.forget(4)
    assert state.to_parts()["entered"][:, 0].tolist() == [2, 3]
