"""Floors of a served list: kept at every length, filled with the best, and nothing else is moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.rooms.explore import NO_FLOORS, ExploreParams, unknown_kinds, with_floors
from recsys.rooms.state import LiveState
from recsys.types import Behaviour
from tests.rooms.conftest import batch, us


def test_by_hand() -> None:
    new = np.array([False, False, False, False, True, False, True])
    # The fifth place is the latest at which a fifth of the list is new; what is displaced moves down by one.
    assert with_floors([(0.2, new)], k=5).tolist() == [0, 1, 2, 3, 4]
    assert with_floors([(0.5, new)], k=5).tolist() == [0, 4, 1, 6, 2]
    assert with_floors([(0.0, new)], k=3).tolist() == [0, 1, 2]
    assert with_floors([(1.0, new)], k=7).tolist() == [4, 6, 0, 1, 2, 3, 5]


@given(
    kinds=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    shares=st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5]), st.sampled_from([0.0, 0.1, 0.3, 0.5])),
    k=st.integers(1, 50),
)
def test_floors_hold_while_there_is_something_to_fill_them_with(
    kinds: list[tuple[bool, bool]], shares: tuple[float, float], k: int
) -> None:
    members = np.array(kinds).T
    order = with_floors([(shares[0], members[0]), (shares[1], members[1])], k=k)
    assert len(order) == len(set(order.tolist())) == min(k, len(kinds))
    for n in range(1, len(order) + 1):
        # The kinds take turns, so the second may wait for one place.
        assert members[0][order[:n]].sum() >= min(int(shares[0] * n + 1e-9), members[0].sum())
        assert members[1][order[:n]].sum() >= min(int(shares[1] * n + 1e-9), members[1].sum()) - 1
    # Within the members of a kind, and among those of none, the order of the ranking stays.
    alike = members[0] & ~members[1]
    assert (np.diff(order[alike[order]]) > 0).all()
    plain = ~members.any(axis=0)
    assert (np.diff(order[plain[order]]) > 0).all()


@pytest.fixture
def state() -> LiveState:
    """Six rooms; user 0 knows streamers 0 to 3; streamer 4 is busy, streamer 5 was never visited."""
    state = LiveState()
    for room in range(6):
        state.room_started(room, room, us("10:00:00"))
    visits = [(Behaviour.ENTER, us("10:01:00"), {"user": 0, "streamer": s, "room": s}) for s in range(4)]
    visits += [
        (Behaviour.ENTER, us("10:02:00"), {"user": 10 + n, "streamer": s, "room": s})
        for s in range(5)
        for n in range(40)
    ]
    state.observe_many(batch(*visits))
    state.advance(us("10:05:00"))
    return state


def shown(params: ExploreParams, state: LiveState, user: int, rows: np.ndarray, *, k: int) -> np.ndarray:
    """Places in `rows`, best first, of a list of k, as the serving module fills them."""
    return with_floors([(share, kind[rows]) for share, kind in unknown_kinds(params, state, user)], k=k)


def test_new_and_fresh_streamers_of_a_state(state: LiveState) -> None:
    rows = np.arange(6, dtype=np.int32)
    assert shown(NO_FLOORS, state, 0, rows, k=4).tolist() == [0, 1, 2, 3]
    assert shown(ExploreParams(new=0.5, fresh=0.0), state, 0, rows, k=4).tolist() == [0, 4, 1, 5]
    assert shown(ExploreParams(new=0.0, fresh=0.25), state, 0, rows, k=4).tolist() == [0, 1, 2, 5]
    # To somebody unknown all are new; the order stays.
    assert shown(ExploreParams(new=0.5, fresh=0.0), state, -1, rows, k=4).tolist() == [0, 1, 2, 3]


def test_a_streamer_that_only_showed_up_in_an_impression_is_new(state: LiveState) -> None:
    state.observe_many(batch((Behaviour.FOLLOW, us("10:03:00"), {"user": 0, "streamer": 5, "room": 5})))
    rows = np.array([0, 1, 2, 3, 5], dtype=np.int32)
    assert shown(ExploreParams(new=0.5, fresh=0.0), state, 0, rows, k=2).tolist() == [0, 4]
