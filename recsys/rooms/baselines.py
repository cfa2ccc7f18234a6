"""What any room model has to beat: how busy a room is, and how often the user came to its streamer."""

from __future__ import annotations

import numpy as np

from recsys.rooms.content import Content
from recsys.rooms.examples import RoomExamples
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.model import ndcg
from recsys.rooms.params import StateParams
from recsys.rooms.scorer import RoomRanking, best_rooms, decayed_visit_scores
from recsys.rooms.state import LiveState
from recsys.types import FloatArray

#: The features that hold decayed visits, in the order of `StateParams.pair_half_lives_days`.
VISITS = ("pair_visits_short", "pair_visits_medium", "pair_visits_long")


class PopularNow:
    """Ranks the live rooms by their decayed joins of the last hour."""

    def __init__(self, state_params: StateParams, content: Content) -> None:
        self.state_params = state_params
        self.content = content

    def rank(self, state: LiveState, user: int, now_us: int, *, k: int) -> RoomRanking:
        """The best k rooms live at `now_us`."""
        return best_rooms(state, self._scores(_features(state, self.content, user, now_us)), k=k)

    def _scores(self, features: FloatArray) -> FloatArray:
        return features[:, FEATURES.index("room_joins_hour")]


class VisitCount(PopularNow):
    """Ranks by the user's visits to the streamer, decayed with one half-life, then by popularity."""

    def __init__(self, state_params: StateParams, content: Content, *, visits: str = VISITS[1]) -> None:
        super().__init__(state_params, content)
        self.visits = visits

    @property
    def half_life_days(self) -> float:
        """The half-life of a visit."""
        return self.state_params.pair_half_lives_days[VISITS.index(self.visits)]

    def _scores(self, features: FloatArray) -> FloatArray:
        return decayed_visit_scores(features, visits=self.visits)


def tuned_visit_count(examples: RoomExamples, state_params: StateParams, content: Content) -> VisitCount:
    """The visit count whose half-life ranks the rooms of the examples best; the default one without any."""
    if not len(examples):
        return VisitCount(state_params, content)
    flat = examples.features.reshape(-1, len(FEATURES))
    quality = [
        ndcg(decayed_visit_scores(flat, visits=name).reshape(examples.mask.shape), examples)
        for name in VISITS
    ]
    return VisitCount(state_params, content, visits=VISITS[int(np.argmax(quality))])


def _features(state: LiveState, content: Content, user: int, now_us: int) -> FloatArray:
    return room_features(state, content, user, np.arange(len(state.rooms), dtype=np.int32), now_us)
