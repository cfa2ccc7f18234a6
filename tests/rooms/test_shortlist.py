"""Where thousands of rooms are live, the shortlist holds what the network would have put first."""

from __future__ import annotations

import numpy as np

from recsys.rooms.content import Content, Taste
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.shortlist import COLUMNS, fit_shortlist, shortlist
from recsys.rooms.state import LiveState
from recsys.types import Behaviour
from tests.rooms.conftest import batch, us

ROOMS = 600
NOW = us("12:00:00")


def crowd() -> tuple[LiveState, Content]:
    rng = np.random.default_rng(1)
    state = LiveState()
    for room in range(ROOMS):
        state.room_started(room, room, us("11:00:00"))
        state.on_air(room, room % 40, us("11:30:00"))
    visits = [
        (Behaviour.ENTER, us("11:45:00"), {"user": 1 + int(u), "streamer": int(s), "room": int(s)})
        for u, s in zip(rng.integers(0, 50, 900), rng.integers(0, ROOMS, 900), strict=True)
    ]
    visits.append((Behaviour.ENTER, us("11:50:00"), {"user": 0, "streamer": 17, "room": 17, "on_air": 17}))
    state.observe_many(batch(*visits))
    state.advance(NOW)

    def vectors(n: int) -> np.ndarray:
        table = rng.normal(size=(n + 1, 6)).astype(np.float32)
        table[-1] = 0
        return table

    weight = np.ones(len(Behaviour), dtype=np.float32)
    taste = Taste(vectors(ROOMS), vectors(ROOMS), vectors(40), vectors(40), vectors(60), weight, 10.0)
    none = np.full(ROOMS, -1, dtype=np.int32)
    return state, Content((), none[:40], np.full(40, np.nan, dtype=np.float32), none, None, taste)


def test_the_linear_score_is_that_of_the_features() -> None:
    state, content = crowd()
    weights = np.array([1.0, 0.5, 0.3, 0.2], dtype=np.float32)
    features = room_features(state, content, 0, np.arange(ROOMS, dtype=np.int32), NOW)
    linear = features[:, [FEATURES.index(name) for name in COLUMNS]] @ weights
    linear[17] = np.inf  # a streamer that the user knows is always on the list
    picked = shortlist(state, content, weights, 0, NOW, size=50)
    assert set(picked.tolist()) == set(np.argsort(-linear)[:50].tolist())
    assert 17 in picked


def test_weights_are_found_again_from_scores_that_are_linear() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, len(FEATURES))).astype(np.float32)
    groups = np.repeat(np.arange(30), 10).astype(np.int32)
    truth = np.array([1.0, -2.0, 0.5, 3.0])
    scores = features[:, [FEATURES.index(name) for name in COLUMNS]] @ truth
    scores = scores + rng.normal(size=30)[groups]  # what all rooms of a request share says nothing
    np.testing.assert_allclose(fit_shortlist(features, scores, groups), truth, rtol=1e-4)
