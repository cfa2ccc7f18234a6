"""Sums over windows of days for many (item, origin) pairs at once, from one running total a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Samples:
    """R pairs of an item and an origin: what a row of features describes.

    Attributes:
        item_idx: (R,) int32.
        origin: (R,) int32; the day, counted from the panel's first, before which everything is known.
    """

    item_idx: IntArray
    origin: IntArray

    def __len__(self) -> int:
        return len(self.item_idx)

    def at(self, rows: BoolArray | npt.NDArray[np.intp]) -> Samples:
        """The samples of a mask or an index array."""
        return Samples(self.item_idx[rows], self.origin[rows])


class RunningTotal:
    """Running totals of n rows over D days, gaps in the log left out of the average.

    Args:
        values: (n, D) float32, 0 where nothing happened.
        observed: (D,) whether the log has the day.
        censored: (n, D) days on which there would have been more, left out of a row's average as well; None
            where there are none.
    """

    def __init__(
        self, values: npt.NDArray[Any], observed: BoolArray, censored: BoolArray | None = None
    ) -> None:
        n, self.n_days = values.shape
        self.totals = np.zeros((n, self.n_days + 1), dtype=np.float64)
        np.cumsum(values, axis=1, dtype=np.float64, out=self.totals[:, 1:])
        self.seen = np.r_[0, np.cumsum(observed)]
        self.lost = None
        if censored is not None:
            self.lost = np.zeros((n, self.n_days + 1), dtype=np.int32)
            np.cumsum(censored & observed, axis=1, dtype=np.int32, out=self.lost[:, 1:])

    def total(self, samples: Samples, first: int, end: int) -> FloatArray:
        """(R,) sum over the days origin + first .. origin + end - 1; days before the log count 0.

        Raises:
            IndexError: a day is at or after the panel's end.
        """
        start = np.maximum(samples.origin + first, 0)
        stop = np.maximum(samples.origin + end, 0)
        return np.asarray(
            self.totals[samples.item_idx, stop] - self.totals[samples.item_idx, start], dtype=np.float32
        )

    def rate(self, samples: Samples, first: int, end: int) -> FloatArray:
        """(R,) mean a day over the observed days of that window; NaN where half is not observed."""
        start = np.maximum(samples.origin + first, 0)
        stop = np.maximum(samples.origin + end, 0)
        seen = self.seen[stop] - self.seen[start]
        if self.lost is not None:
            seen = seen - (self.lost[samples.item_idx, stop] - self.lost[samples.item_idx, start])
        mean = self.total(samples, first, end) / np.maximum(seen, 1)
        return np.where(2 * seen >= end - first, mean, np.nan).astype(np.float32)


class RowWindows:
    """Sums over windows of days of sparse daily values, without the table that they would fill.

    Args:
        item_idx, day: (R,) int32, sorted by item, then day.
        n_days: D, above every day.
    """

    def __init__(self, item_idx: IntArray, day: IntArray, n_days: int) -> None:
        self._n_days = n_days
        self._key = item_idx.astype(np.int64) * n_days + day

    def total(
        self, values: FloatArray, item_idx: IntArray, day: IntArray, first: int, last: int
    ) -> npt.NDArray[np.float64]:
        """(m,) sums of values (R,) of items over the days day + first .. day + last; none before day 0."""
        running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        start = item_idx.astype(np.int64) * self._n_days
        begin = np.searchsorted(self._key, start + np.maximum(day + first, 0))
        end = np.searchsorted(self._key, start + np.maximum(day + last, -1), side="right")
        return np.asarray(running[np.maximum(end, begin)] - running[begin])


def rolling(totals: npt.NDArray[np.float64], days: int) -> FloatArray:
    """(n, D + 1) sums over the `days` days before each day, fewer at the start."""
    sums = totals.copy()
    sums[:, days:] -= totals[:, :-days]
    return sums.astype(np.float32)


def lagged(table: FloatArray, days: int) -> FloatArray:
    """(n, D + 1) the table `days` days earlier, 0 before its start."""
    moved = np.zeros_like(table)
    moved[:, days:] = table[:, :-days] if days else table
    return moved


def log_ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], prior: float) -> FloatArray:
    """ln((numerator + prior) / (denominator + prior)), float32: 0 where both are small against the prior."""
    return np.asarray(np.log((numerator + prior) / (denominator + prior)), dtype=np.float32)
