"""Room rankings judged over a window: one visit of each user, among all the rooms live at its moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.split import Window
from recsys.errors import WindowError
from recsys.evaluation.protocol import Judged, Report, activity_segments, evaluate
from recsys.rooms.params import StateParams
from recsys.rooms.replay import Replay, RoomRanker
from recsys.types import Behaviour, BoolArray, Candidates, FloatArray, IntArray, LongArray, Progress

#: Share of the visits before the window that the large streamers had together.
LARGE_SHARE = 0.5
_REPORT = 200


@dataclass(frozen=True)
class JudgedRooms:
    """How rankings of live rooms did; the targets are streamers, because a room perishes with its hour.

    Attributes:
        judged: one visit of each user: the streamer entered is the one relevant target.
        at_us: (B,) int64 moments of the visits.
        n_live: (B,) int64 rooms to choose from.
        reports: ranking -> per-user values.
        segments: name -> (B,) mask: what is known of users, whether the user had visited this streamer
            before, and whether the streamer is one of the large ones.
    """

    judged: Judged
    at_us: LongArray
    n_live: LongArray
    reports: Mapping[str, Report]
    segments: Mapping[str, BoolArray]


def judge_rooms(
    rankers: Mapping[str, RoomRanker],
    dataset: Dataset,
    window: Window,
    *,
    max_visits: int,
    ks: tuple[int, ...] = (10, 20, 50),
    seed: int = 0,
    progress: Progress | None = None,
) -> JudgedRooms:
    """Replay the log and rank all live rooms at a visit of each user, from what was known strictly before it.

    One visit a user, drawn at random, so that the rows are independent and the intervals hold. A visit of a
    room that was not known to be live, or that was the only one, is no choice and is left out.

    Args:
        rankers: by name, fitted on what was known at `window.fit_end_us`; they share their `state_params`.
        dataset: the whole log.
        window: the cut and the window behind it.
        max_visits: most visits judged, at random.
        ks: lengths of list that every metric is taken at.
        seed: of the draws; the same one judges by the same visits.
        progress: called as progress(visits done, visits, text).

    Raises:
        WindowError: the window has no visit with a choice.
    """
    first = next(iter(rankers.values()))
    visits = _one_visit_a_user(dataset, window, first.state_params.visit, max_visits, seed)
    events, k = dataset.events, max(ks)
    users, at_us = events.user_idx[visits], events.timestamp_us[visits]
    lists = {name: _Lists(len(visits), k) for name in rankers}
    n_live = np.zeros(len(visits), dtype=np.int64)
    for done, moment in enumerate(Replay(first, dataset).moments(users, at_us), 1):
        rooms, row = moment.state.rooms, moment.request
        if rooms.row(int(events.room_idx[visits[row]])) >= 0 and len(rooms) > 1:
            n_live[row] = len(rooms)
            for name, ranker in rankers.items():
                ranking = ranker.rank(moment.state, moment.user, moment.at_us, k=k)
                streamers = rooms.streamer_idx[[rooms.row(int(room)) for room in ranking.room_idx]]
                lists[name].put(row, streamers, ranking.scores)
        if progress is not None and (done % _REPORT == 0 or done == len(visits)):
            progress(done, len(visits), "visits judged")
    chosen = n_live > 0
    if not chosen.any():
        raise WindowError(f"{dataset.path}: no visit of the window had two live rooms to choose from")
    visits, at_us, n_live = visits[chosen], at_us[chosen], n_live[chosen]
    judged = _judged(dataset, window, visits, first.state_params)
    reports = {name: evaluate(found.of(chosen), judged, ks=ks) for name, found in lists.items()}
    return JudgedRooms(judged, at_us, n_live, reports, _segments(dataset, judged, visits, first.state_params))


class _Lists:
    """The streamers of each visit's best rooms; one with several live rooms is placed by the best of them."""

    def __init__(self, n: int, k: int) -> None:
        self.ids: IntArray = np.zeros((n, k), dtype=np.int32)
        self.scores: FloatArray = np.zeros((n, k), dtype=np.float32)
        self.counts: IntArray = np.zeros(n, dtype=np.int32)

    def put(self, row: int, streamers: IntArray, scores: FloatArray) -> None:
        place = np.sort(np.unique(streamers, return_index=True)[1])[: self.ids.shape[1]]
        self.counts[row] = len(place)
        self.ids[row, : len(place)], self.scores[row, : len(place)] = streamers[place], scores[place]

    def of(self, chosen: BoolArray) -> Callable[[IntArray], Candidates]:
        found = Candidates(self.ids[chosen], self.scores[chosen], self.counts[chosen])
        return lambda users: found


def _one_visit_a_user(dataset: Dataset, window: Window, visit: Behaviour, most: int, seed: int) -> LongArray:
    """Rows of the events, in time order."""
    events = dataset.events
    start, stop = np.searchsorted(events.timestamp_us, [window.start_us, window.end_us])
    inside = events.where(slice(int(start), int(stop)))
    rows = start + np.flatnonzero(
        inside.is_any((visit,)) & (inside.room_idx >= 0) & (inside.streamer_idx >= 0)
    )
    rng = np.random.default_rng(seed)
    rng.shuffle(rows)
    one = rows[np.unique(events.user_idx[rows], return_index=True)[1]]
    if len(one) > most:
        one = rng.choice(one, most, replace=False)
    return np.sort(one)


def _judged(dataset: Dataset, window: Window, visits: LongArray, state_params: StateParams) -> Judged:
    events = dataset.events
    before = dataset.until(window.fit_end_us)
    n_streamers = len(dataset.streamers)
    earlier = before.events.is_any((state_params.visit,)) & (before.events.streamer_idx >= 0)
    popularity = np.bincount(before.events.streamer_idx[earlier], minlength=n_streamers)
    users = events.user_idx[visits]
    cells = (np.ones(len(visits), np.float32), (np.arange(len(visits)), events.streamer_idx[visits]))
    return Judged(
        users=users,
        truth=sparse.csr_matrix(cells, shape=(len(visits), n_streamers)),
        n_relevant=np.ones(len(visits), dtype=np.int64),
        n_known_users=len(before.users),
        is_new_target=popularity == 0,
        popularity=popularity,
        activity=np.bincount(before.events.user_idx, minlength=len(dataset.users))[users],
    )


def _segments(
    dataset: Dataset, judged: Judged, visits: LongArray, state_params: StateParams
) -> dict[str, BoolArray]:
    events = dataset.events
    is_visit = np.flatnonzero(events.is_any((state_params.visit,)) & (events.streamer_idx >= 0))
    pair = events.user_idx.astype(np.int64) * len(dataset.streamers) + events.streamer_idx
    _, first = np.unique(pair[is_visit], return_index=True)  # the events are in time order
    first_at = events.timestamp_us[is_visit[first]]
    own = np.searchsorted(pair[is_visit[first]], pair[visits])
    returns = first_at[own] < events.timestamp_us[visits]
    order = np.argsort(-judged.popularity, kind="stable")
    large = np.zeros(len(order), dtype=bool)
    before = np.cumsum(judged.popularity[order]) - judged.popularity[order]
    large[order] = before < LARGE_SHARE * judged.popularity.sum()
    of_large = large[judged.truth.indices]
    masks = activity_segments(judged) | {
        "streamer visited before": returns,
        "streamer new to the user": ~returns,
        "large streamers": of_large,
        "small streamers": ~of_large,
    }
    return {name: mask for name, mask in masks.items() if mask.any()}
