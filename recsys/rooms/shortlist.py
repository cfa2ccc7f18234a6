"""The rooms worth a closer look where many are live: a linear score that is cheap to take of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.rooms.content import Content, latest_actions, user_vector, vector_rows
from recsys.rooms.features import FEATURES
from recsys.rooms.live_rooms import RoomCounter
from recsys.rooms.state import LiveState, StreamerCounter
from recsys.types import BoolArray, FloatArray, IntArray

#: What the linear score reads, in the order of its weights; as `room_features` defines them.
COLUMNS = ("taste", "streamer_visits_week", "room_joins_hour", "room_viewers")


def shortlist(
    state: LiveState,
    content: Content,
    weights: FloatArray,
    user: int,
    now_us: int,
    *,
    size: int,
    kinds: Sequence[BoolArray] = (),
    of_each: int = 0,
) -> IntArray:
    """Rows of `state.rooms`, `size` or more, in no order: of streamers the user knows, then the best others.

    Args:
        state: advanced to `now_us`, with more than `size` live rooms.
        content: with learnt tastes.
        weights: (len(COLUMNS),) float32 of the linear score.
        user: user_idx.
        now_us: microseconds since the epoch.
        size: how many.
        kinds: (n,) masks over the live rooms, the best `of_each` of which are among them in any case.
        of_each: see `kinds`.
    """
    n = len(state.rooms)
    streamer = state.rooms.streamer_idx[:n]
    score = weights[1] * _log(state.streamers.one(streamer, StreamerCounter.VISIT, -1, now_us))
    score += weights[2] * _log(state.rooms.counters.one(slice(0, n), RoomCounter.JOIN, -1, now_us))
    score += weights[3] * _log(state.rooms.viewers[:n])
    taste = content.taste
    if taste is not None:
        vector = weights[0] * user_vector(taste, user, latest_actions(state, user, now_us))
        score += np.take(taste.streamer, vector_rows(streamer, taste.streamer), axis=0) @ vector
        score += np.take(taste.item, vector_rows(state.rooms.item_idx[:n], taste.item), axis=0) @ vector
    met, _ = state.pairs.of_user(user)
    known = np.zeros(len(state.first_seen_us), dtype=bool)
    known[met] = True
    score[known[streamer]] = np.inf
    best = np.argpartition(-score, size - 1)[:size]
    for kind in kinds:
        members = np.flatnonzero(kind)
        if len(members) > of_each:
            members = members[np.argpartition(-score[members], of_each - 1)[:of_each]]
        best = np.union1d(best, members)
    return best.astype(np.int32)


def fit_shortlist(features: FloatArray, scores: npt.NDArray[np.floating], groups: IntArray) -> FloatArray:
    """(len(COLUMNS),) weights whose linear score comes closest to the network's within a request.

    Args:
        features: (R, F) rows of features of many requests.
        scores: (R,) the network's.
        groups: (R,) number of the request of each row, from 0.
    """
    columns = features[:, [FEATURES.index(name) for name in COLUMNS]].astype(np.float64)
    rows = np.column_stack([columns, scores])
    counts = np.bincount(groups)
    mean = np.column_stack([np.bincount(groups, weights=column) / counts for column in rows.T])
    centred = rows - mean[groups]
    weights = np.linalg.lstsq(centred[:, :-1], centred[:, -1], rcond=None)[0]
    return weights.astype(np.float32)


def _log(values: npt.NDArray[np.float64]) -> FloatArray:
    logs: FloatArray = np.log1p(np.maximum(values, 0.0).astype(np.float32))
    return logs
