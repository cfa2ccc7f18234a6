"""Sums over windows of days for many (item, origin) pairs at once, from one running total a channel."""

from __future__ import annotations

from abc import ABC, abstractmethod
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

    @classmethod
    def joined(cls, *parts: Samples) -> Samples:
        """The samples of all parts, one after the other."""
        return cls(
            np.concatenate([part.item_idx for part in parts]), np.concatenate([part.origin for part in parts])
        )


class WindowSums(ABC):
    """Sums and rates over windows of days of n rows over D days."""

    def __init__(self, n_days: int) -> None:
        self._n_days = n_days

    @abstractmethod
    def _between(self, item_idx: IntArray, start: IntArray, stop: IntArray) -> npt.NDArray[np.float64]:
        """(R,) sums over the days start .. stop - 1, each within 0 .. D."""

    def total(self, samples: Samples, first: int, end: int) -> FloatArray:
        """(R,) sum over the days origin + first .. origin + end - 1; days before the log count 0.

        Raises:
            IndexError: a day is at or after the panel's end.
        """
        return self._between(samples.item_idx, *self._days(samples, first, end)).astype(np.float32)

    def rate(self, samples: Samples, first: int, end: int) -> FloatArray:
        """(R,) mean a day over that window's days in the log; NaN where more than half lie before it."""
        start, stop = self._days(samples, first, end)
        seen = stop - start
        mean = self.total(samples, first, end) / np.maximum(seen, 1)
        return np.where(2 * seen >= end - first, mean, np.nan).astype(np.float32)

    def _days(self, samples: Samples, first: int, end: int) -> tuple[IntArray, IntArray]:
        if len(samples) and samples.origin.max() + max(first, end) > self._n_days:
            raise IndexError(
                f"day {samples.origin.max() + max(first, end) - 1} is asked for; the panel has {self._n_days}"
            )
        return np.maximum(samples.origin + first, 0), np.maximum(samples.origin + end, 0)


class RunningTotal(WindowSums):
    """Of a table.

    Args:
        values: (n, D), 0 where nothing happened.

    Attributes:
        totals: (n, D + 1) float64 sums over the days before each.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        n, n_days = values.shape
        super().__init__(n_days)
        self.totals = np.zeros((n, n_days + 1), dtype=np.float64)
        # Copied, then summed in place: summing while casting takes seven times as long.
        self.totals[:, 1:] = values
        np.cumsum(self.totals, axis=1, out=self.totals)

    def _between(self, item_idx: IntArray, start: IntArray, stop: IntArray) -> npt.NDArray[np.float64]:
        return np.asarray(self.totals[item_idx, stop] - self.totals[item_idx, start])


class RowStarts:
    """Where the rows of each item and day begin among rows that are sorted by both, at most one a pair.

    Args:
        item_idx, day: (R,) int32, below n and D.
        n_items, n_days: n and D.
    """

    def __init__(self, item_idx: IntArray, day: IntArray, n_items: int, n_days: int) -> None:
        self.n_days = n_days
        self._before = np.zeros(n_items * n_days + 1, dtype=np.int32)
        self._before[item_idx.astype(np.int64) * n_days + day + 1] = 1
        np.cumsum(self._before, out=self._before)

    def __call__(self, item_idx: IntArray, day: IntArray) -> IntArray:
        """(m,) int32 rows before those of a day 0 .. D of an item; day D is where the next item begins."""
        return np.asarray(self._before[item_idx.astype(np.int64) * self.n_days + day])


class RowTotal(WindowSums):
    """Of one value a row, without the table that the rows would fill.

    Args:
        values: (R,) in the order of the rows.
        starts: of those rows; totals of one panel share it.
    """

    def __init__(self, values: npt.NDArray[Any], starts: RowStarts) -> None:
        super().__init__(starts.n_days)
        self._starts = starts
        self._running = _running_total(values)

    def _between(self, item_idx: IntArray, start: IntArray, stop: IntArray) -> npt.NDArray[np.float64]:
        running, starts = self._running, self._starts
        return np.asarray(running[starts(item_idx, stop)] - running[starts(item_idx, start)])


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
        running = _running_total(values)
        start = item_idx.astype(np.int64) * self._n_days
        begin = np.searchsorted(self._key, start + np.maximum(day + first, 0))
        end = np.searchsorted(self._key, start + np.maximum(day + last, -1), side="right")
        return np.asarray(running[np.maximum(end, begin)] - running[begin])


def _running_total(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R + 1,) sums of the values (R,) before each place."""
    total = np.zeros(len(values) + 1, dtype=np.float64)
    total[1:] = values
    return np.cumsum(total, out=total)


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
