"""The hot-item potential that the room model reads: fitted anew as of each of some moments of the log."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np

from recsys.data.dataset import Dataset, from_us, to_us
from recsys.errors import DataError, ModelError
from recsys.hot.params import HotParams
from recsys.hot.score import HotScores, score_hot
from recsys.rooms.potential import Potential
from recsys.types import FloatArray, Progress

#: Days before the end of what the room model learns from; in between, a request sees what was said before it.
DAYS_BEFORE = (0, 7, 21)


def potential_before(
    dataset: Dataset, end_us: int, params: HotParams, *, progress: Progress | None = None
) -> Potential | None:
    """Potential as of the day of `end_us` and of some days before.

    Args:
        dataset: the log; what comes at or after a moment does not count for what is said at it.
        end_us: the end of what a room model learns from.
        params: of the hot-item model.
        progress: called as progress(done, total, text).

    Returns:
        None where no product is ever on air in a room, or the log is too short to learn what becomes hot.
    """
    if not len(dataset.showcases):
        return None
    rows: dict[int, FloatArray] = {}
    for days in DAYS_BEFORE:
        as_of = from_us(end_us).date() - timedelta(days=days)
        try:
            scores = score_hot(dataset, as_of=as_of, params=params, progress=progress)
        except (DataError, ModelError):
            # Before this day there is too little to learn from, and before an earlier one less still.
            break
        rows[start_us(as_of)] = values_of(scores, len(dataset.items))
    return Potential.of(rows) if rows else None


def values_of(scores: HotScores, n_items: int) -> FloatArray:
    """(I,) the potential of each product by index, NaN where nothing is said of it."""
    values = np.full(n_items, np.nan, dtype=np.float32)
    values[scores.table["item_idx"].to_numpy()] = scores.table["potential"].to_numpy()
    return values


def start_us(day: date) -> int:
    """The first microsecond of a day, UTC."""
    return to_us(datetime(day.year, day.month, day.day, tzinfo=UTC))
