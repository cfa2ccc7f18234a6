"""Models of streamers as rankings of live rooms: ALS, SASRec and the two-tower, each up to date at a request.

Each is tuned on a validation window before the requests, by NDCG@10 over the rooms live at its visits, and
then fitted on all that was known before the first request. At a request it reads the user's events strictly
before it, so that none of them answers from an old vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset, Events
from recsys.data.histories import HistoryBatch
from recsys.data.split import Window
from recsys.durations import SECOND_US
from recsys.models.collaborative import ALS, ALSParams
from recsys.models.training_examples import HISTORY_BEHAVIOURS
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.rooms.catalogue import state_params_of
from recsys.rooms.content import Content
from recsys.rooms.judging import judge_rooms
from recsys.rooms.params import StateParams
from recsys.rooms.scorer import RoomRanking, best_rooms
from recsys.rooms.state import LiveState
from recsys.types import FloatArray, Target

#: Last share of what is known that a tuning is judged by, and how many of its visits.
VALIDATION = 0.1
TUNING_VISITS = 1_000

#: (user, their events before now, now_us) -> (d,) vector; targets are (streamers, d).
UserVector = Callable[[int, Events, int], FloatArray]
Fitted = tuple[UserVector, FloatArray]

ALS_OPTIONS = tuple(
    ALSParams(weights=BehaviourWeights(), factors=factors, alpha=alpha, regularization=regularization)
    for factors in (16, 64)
    for alpha in (1.0, 10.0)
    for regularization in (0.1, 10.0)
)
#: SASRec (Kang & McAuley 2018): causal self-attention over the user's own sequence, ids alone, a full softmax
#: in the place of its binary loss, which Klenitskiy & Vasilev 2023 found to be its weak part.
_SASREC = TwoTowerParams(
    layers=2, user_id_embedding=False, user_features=(), target_features=(), loss="full", max_steps=800
)
SASREC_OPTIONS = (_SASREC, _SASREC.model_copy(update={"dropout": 0.3, "layers": 1}))
TWO_TOWER_OPTIONS = (
    TwoTowerParams(max_steps=800),
    TwoTowerParams(max_steps=800, dropout=0.3, user_id_embedding=False),
)


class StreamerRanking:
    """Ranks the live rooms by the inner product of the user's vector as of now and the streamer's.

    Args:
        fitted: vectors of users, and (streamers, d) of streamers; one that the fit did not know comes last.
        log: the whole log, of which only what was before the request is read.
        state_params, content: of the replay.
    """

    def __init__(self, fitted: Fitted, log: Dataset, state_params: StateParams, content: Content) -> None:
        self.state_params, self.content = state_params, content
        self._vector, self._targets = fitted
        self._events = events = log.events
        kept = np.flatnonzero((events.streamer_idx >= 0) & events.is_any(HISTORY_BEHAVIOURS))
        self._rows = kept[np.argsort(events.user_idx[kept], kind="stable")]
        self._starts = np.searchsorted(events.user_idx[self._rows], np.arange(len(log.users) + 1))

    def rank(self, state: LiveState, user: int, now_us: int, *, k: int) -> RoomRanking:
        """The best k rooms live at `now_us`."""
        streamers = state.rooms.streamer_idx[: len(state.rooms)]
        known = streamers < len(self._targets)
        scores = np.full(len(streamers), -1e9, dtype=np.float32)
        events = self._before(user, now_us)
        if len(events):
            scores[known] = self._targets[streamers[known]] @ self._vector(user, events, now_us)
        return best_rooms(state, scores, k=k)

    def _before(self, user: int, now_us: int) -> Events:
        rows = self._rows[self._starts[user] : self._starts[user + 1]] if user >= 0 else self._rows[:0]
        rows = rows[: int(np.searchsorted(self._events.timestamp_us[rows], now_us))]
        events = self._events.where(rows)
        over_us = events.timestamp_us + np.nan_to_num(events.duration_s) * SECOND_US
        known_s = np.where(over_us < now_us, events.duration_s, np.nan)
        return replace(events, duration_s=known_s.astype(np.float32))


def fit_als(params: ALSParams, dataset: Dataset) -> Fitted:
    """ALS over streamers; a user's vector is solved anew from the confidences of all their events."""
    model = ALS(params, target=Target.ROOM).fit(dataset)
    n = len(model.target_vectors)

    def vector(user: int, events: Events, now_us: int) -> FloatArray:
        weights, streamers = model.weights.of(events, now_us), events.streamer_idx
        inside = (streamers < n) & (weights > 0)
        row = np.zeros(int(inside.sum()), dtype=np.int64)
        history = sparse.csr_matrix((weights[inside], (row, streamers[inside])), shape=(1, n))
        history.sum_duplicates()
        found: FloatArray = model.fold_in(history)[0]
        return found

    return vector, model.target_vectors


def fit_towers(params: TwoTowerParams, dataset: Dataset) -> Fitted:
    """A sequence model over the streamers that users visited, read as the sequence stands at the request."""
    visit = state_params_of(dataset).visit
    visits = replace(dataset, events=dataset.events.where(dataset.events.is_any((visit,))))
    model = TwoTower(params, target=Target.ROOM, device="cpu").fit(visits)
    n, length = len(model.target_vectors), params.history_length
    known_users = len(dataset.users)

    def vector(user: int, events: Events, now_us: int) -> FloatArray:
        rows = np.flatnonzero((events.streamer_idx < n) & events.is_any((visit,)))[-length:]
        latest = events.where(rows)
        pad = length - len(rows)

        def column(values: np.ndarray) -> np.ndarray:
            return np.pad(values, (pad, 0))[None]

        history = HistoryBatch(
            column(latest.streamer_idx),
            column(latest.behaviour),
            column(latest.timestamp_us),
            column(np.ones(len(rows), dtype=bool)),
        )
        users = np.array([user if user < known_users else -1], dtype=np.int32)
        found: FloatArray = model.encode_histories(history, now_us=now_us, users=users)[0]
        return found

    return vector, model.target_vectors


def tuned(
    fit: Callable[..., Fitted],
    options: Sequence[ALSParams | TwoTowerParams],
    before: Dataset,
    log: Dataset,
    state_params: StateParams,
    content: Content,
) -> tuple[StreamerRanking, str]:
    """The ranking of the best option, fitted on `before`, and what was found.

    Args:
        fit: (option, dataset) -> vectors.
        options: hyper-parameters.
        before: what is known at the first request.
        log: the whole log, for the user's events at a request.
        state_params, content: of the replay.
    """
    first = int(before.events.timestamp_us[0])
    cut = before.as_of_us - int((before.as_of_us - first) * VALIDATION)
    window, earlier = Window(cut, cut, before.as_of_us), before.until(cut)
    quality = []
    for option in options:
        ranking = StreamerRanking(fit(option, earlier), before, state_params, content)
        found = judge_rooms({"": ranking}, before, window, max_visits=TUNING_VISITS, ks=(10,))
        quality.append(float(found.reports[""].by_user["ndcg@10"].mean()))
    best = int(np.argmax(quality))
    text = f"option {best + 1} of {len(options)}, validation " + ", ".join(f"{q:.3f}" for q in quality)
    return StreamerRanking(fit(options[best], before), log, state_params, content), text


#: Name in the table -> how it is fitted, and the options that validation chooses from.
BASELINES: dict[str, tuple[Callable[..., Fitted], Sequence[ALSParams | TwoTowerParams]]] = {
    "ALS over streamers": (fit_als, ALS_OPTIONS),
    "SASRec over streamers": (fit_towers, SASREC_OPTIONS),
    "two-tower alone": (fit_towers, TWO_TOWER_OPTIONS),
}
