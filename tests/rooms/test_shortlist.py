"""Where thousands of rooms are live, the shortlist holds what the network would have put first."""

from __future__ import annotations

import numpy as np

from recsys.rooms.content import Content, Taste
from recsys.rooms.explore import ExploreParams, unknown_kinds, with_floors
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.params import StateParams
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.shortlist import COLUMNS, fit_shortlist, shortlist
from recsys.rooms.state import LiveState, StreamerCounter
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


def test_the_best_of_each_kind_are_among_them_in_any_case() -> None:
    state, content = crowd()
    weights = np.array([0.0, 1.0, 0.0, 0.0], dtype=np.float32)
    visits = state.streamers.one(state.rooms.streamer_idx[:ROOMS], StreamerCounter.VISIT, -1, NOW)
    unvisited, odd = visits == 0, np.arange(ROOMS) % 2 == 1
    plain = shortlist(state, content, weights, 99, NOW, size=50)
    assert not unvisited[plain].any()
    picked = shortlist(state, content, weights, 99, NOW, size=50, kinds=(unvisited, odd), of_each=8)
    assert set(plain.tolist()) <= set(picked.tolist())
    assert len(set(picked.tolist())) == len(picked)
    assert unvisited[picked].sum() == 8
    assert odd[picked].sum() >= 8


def test_a_ranking_holds_enough_of_each_kind_to_fill_its_floor() -> None:
    state, content = crowd()
    weights = np.array([0.0, 1.0, 0.0, 0.0], dtype=np.float32)
    scorer = RoomScorer(StateParams(), content, shortlist_weights=weights)
    floors = unknown_kinds(ExploreParams(new=0.0, fresh=0.2, fresh_visits=0.5), state, 99)
    ranking = scorer.rank(state, 99, NOW, k=20, kinds=[kind for _, kind in floors])
    rows = state.rooms.rows(ranking.room_idx)
    places = with_floors([(share, kind[rows]) for share, kind in floors], k=20)
    assert floors[1][1][rows[places]].sum() >= 4
    assert len(scorer.rank(state, 99, NOW, k=20).room_idx) == 20
