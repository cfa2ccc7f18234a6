"""What users were shown and let pass: the negatives that the log itself names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.dataset import Events
from recsys.durations import SECOND_US
from recsys.models.training_examples import Timelines
from recsys.types import Behaviour, BoolArray, IntArray, LongArray, Target

#: Answers of a user that are none of liking: what got no other is still a negative.
_REFUSALS = (Behaviour.IMPRESSION, Behaviour.HIDE)


@dataclass(frozen=True)
class Exposures:
    """M showings that the user never answered, and which of them came shortly before each of N events.

    Attributes:
        target_idx: (M,) int32, user by user, the oldest first.
        start, end: (N,) int64: event n was preceded by the showings `start[n]:end[n]`.
    """

    target_idx: IntArray
    start: LongArray
    end: LongArray

    @classmethod
    def of(
        cls, events: Events, timelines: Timelines, *, target: Target, window_s: float, trained: LongArray
    ) -> Exposures:
        """The unanswered showings of a log, at most so long before an event or at its very instant.

        A target that the user turned to at any time in the log, before or after, was not refused. Nor is one
        that nobody ever turned to: it could only be wrong.

        Args:
            events: the whole log, in time order.
            timelines: the events to be predicted, of the same log.
            target: what was shown.
            window_s: how long before an event a showing still belongs to it, seconds.
            trained: (m,) the targets that somebody turned to.
        """
        index = events.target_idx(target)
        pair = events.user_idx.astype(np.int64) << 32 | index
        shown = (index >= 0) & events.is_any((Behaviour.IMPRESSION,)) & np.isin(index, trained)
        rows = np.flatnonzero(shown)
        answered = np.unique(pair[(index >= 0) & ~events.is_any(_REFUSALS)])
        rows = rows[~np.isin(pair[rows], answered)]
        rows = rows[np.argsort(events.user_idx[rows], kind="stable")]
        user, time_us = events.user_idx[rows], events.timestamp_us[rows]
        of_event = timelines.user_idx
        earliest_us = timelines.timestamp_us - int(window_s * SECOND_US)
        return cls(
            target_idx=index[rows],
            start=_earlier(user, time_us, of_event, earliest_us, or_at_once=False),
            end=_earlier(user, time_us, of_event, timelines.timestamp_us, or_at_once=True),
        )

    def __len__(self) -> int:
        return len(self.target_idx)


def _earlier(
    user: IntArray, time_us: LongArray, of_user: LongArray, before_us: LongArray, *, or_at_once: bool
) -> LongArray:
    """(N,) how many of the M rows come before (of_user[n], before_us[n]) in the order of user and time."""
    n_rows = len(user)
    asks: BoolArray = np.arange(n_rows + len(of_user)) >= n_rows
    order = np.lexsort(
        (
            asks if or_at_once else ~asks,
            np.concatenate([time_us, before_us]),
            np.concatenate([user, of_user]),
        )
    )
    counted = np.cumsum(~asks[order])
    count = np.empty(len(of_user), dtype=np.int64)
    count[order[asks[order]] - n_rows] = counted[asks[order]]
    return count
