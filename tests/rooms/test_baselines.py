from __future__ import annotations

import numpy as np

from recsys.rooms.baselines import PopularNow, VisitCount
from recsys.rooms.content import Content
from recsys.rooms.params import StateParams
from recsys.rooms.state import LiveState
from recsys.types import Behaviour
from tests.rooms.conftest import batch, us


def test_visits_come_before_popularity_and_a_cold_user_gets_popularity() -> None:
    none = np.full(3, -1, dtype=np.int32)
    content = Content((), none, np.full(3, np.nan, dtype=np.float32), none)
    state = LiveState()
    for room in range(3):
        state.room_started(room, room, us("10:00:00"))
    rows = [(u, 1) for u in (1, 2, 3)] + [(4, 2), (5, 2), (0, 0)]
    state.observe_many(
        batch(*[(Behaviour.ENTER, us("10:10:00"), {"user": u, "streamer": s, "room": s}) for u, s in rows])
    )
    now = us("10:20:00")
    state.advance(now)
    params = StateParams()
    assert VisitCount(params, content).half_life_days == 7.0
    assert VisitCount(params, content).rank(state, 0, now, k=3).room_idx.tolist() == [0, 1, 2]
    assert VisitCount(params, content).rank(state, 99, now, k=3).room_idx.tolist() == [1, 2, 0]
    assert PopularNow(params, content).rank(state, 0, now, k=2).room_idx.tolist() == [1, 2]
