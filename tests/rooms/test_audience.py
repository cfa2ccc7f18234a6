"""Who is in a room: those who came and did not leave, the latest of them where there are many."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.rooms.audience import Audience
from recsys.rooms.params import StateParams
from recsys.rooms.state import LiveState
from recsys.types import Behaviour
from tests.rooms.conftest import batch, us

ENTER, LEAVE = Behaviour.ENTER, Behaviour.LEAVE


def viewers(state: LiveState, room: int, *, since: str = "00:00:00") -> list[int]:
    return state.rooms.audience.of(state.rooms.row(room), since_us=us(since)).tolist()


def entered(user: int, at: str, room: int = 0, what: Behaviour = ENTER) -> tuple[Behaviour, int, dict]:
    return what, us(at), {"user": user, "streamer": room, "room": room}


def test_who_came_is_there_until_they_leave() -> None:
    state = LiveState()
    state.observe_many(batch(entered(1, "10:00:00"), entered(2, "10:01:00"), entered(3, "10:02:00", room=1)))
    assert viewers(state, 0) == [2, 1]
    assert viewers(state, 1) == [3]
    state.observe_many(batch(entered(2, "10:03:00", what=LEAVE)))
    assert viewers(state, 0) == [1]
    state.observe_many(batch(entered(2, "10:04:00"), entered(1, "10:05:00")))
    assert viewers(state, 0) == [1, 2]
    assert viewers(state, 0, since="10:04:30") == [1]
    state.forget(1)
    assert viewers(state, 0) == [2]


def test_a_late_leave_does_not_send_away_who_came_back() -> None:
    state = LiveState()
    state.observe_many(batch(entered(1, "10:00:00"), entered(1, "10:10:00")))
    state.observe_many(batch(entered(1, "10:05:00", what=LEAVE)))
    assert viewers(state, 0) == [1]


def test_a_view_that_is_over_ends_the_visit_where_the_log_has_no_leaves() -> None:
    state = LiveState(StateParams(visit=Behaviour.VIEW, leave=None))
    view = {"user": 4, "streamer": 0, "room": 0, "duration_s": 60.0}
    state.observe_many(batch((Behaviour.VIEW, us("10:00:00"), view)))
    assert viewers(state, 0) == [4]
    state.advance(us("10:02:00"))
    assert viewers(state, 0) == []


def test_an_audience_moves_with_its_room_and_is_not_inherited() -> None:
    state = LiveState()
    state.observe_many(batch(*[entered(room + 10, "10:00:00", room=room) for room in range(3)]))
    state.room_ended(0)
    assert viewers(state, 2) == [12]
    state.room_started(9, 9, us("11:00:00"))
    assert viewers(state, 9) == []
    again = LiveState.from_parts(state.params, state.to_parts())
    assert viewers(again, 2) == [12]


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.booleans()), max_size=60),
)
def test_against_an_ordered_set(steps: list[tuple[int, int, bool]]) -> None:
    audience, expected = Audience(4), [OrderedDict[int, int]() for _ in range(3)]
    audience.grow(3)
    for moment, (row, user, comes) in enumerate(steps):
        one = (np.array([row]), np.array([user], np.int32), np.array([moment], np.int64))
        (audience.come if comes else audience.go)(*one)
        expected[row].pop(user, None)
        if comes:
            expected[row][user] = moment
    for row in range(3):
        newest = list(reversed(expected[row]))
        found = audience.of(row, since_us=0).tolist()
        # The ring holds the latest comings: whoever it still holds is right, and in order.
        assert found == [user for user in newest if user in found]
        assert newest[:1] == found[:1]


def test_of_a_crowd_the_latest_are_kept() -> None:
    audience = Audience(5)
    audience.grow(1)
    users = np.arange(1_000, dtype=np.int32)
    audience.come(np.zeros(1_000, np.int64), users, np.arange(1_000, dtype=np.int64))
    assert audience.of(0, since_us=0).tolist() == [999, 998, 997, 996, 995]
    assert audience.user_idx.shape == (1, 5)
