"""The days that a log has: what the days of a panel count, so that a gap in the log is no time at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recsys.durations import DAY_US
from recsys.types import BoolArray, LongArray

#: A run of empty days counts as a gap in the log from this length, if so many events were to be expected that
#: chance would leave them out once in three million, and if it is so many times as long as it usually takes
#: from a day with events to the next: a shop that sells at weekends has no gap from Monday to Friday.
GAP_MIN_DAYS = 4
GAP_MIN_EVENTS = 15.0
GAP_MIN_TIMES = 2.0
#: What is usual: no more than a tenth of the times are longer.
USUAL_SHARE = 0.9
#: The same weekday a year earlier lies whole weeks back.
YEAR_DAYS = 364

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Days:
    """D days of a log, numbered from 0 without those of its gaps.

    A window of so many days before or after an origin is one of days that the log has: what was sold while
    nobody wrote it down is unknown, not zero.

    Attributes:
        numbers: (D + 1,) int64 days since 1970-01-01, ascending; the last is the day before whose start
            everything is known, and is not one of the D.
    """

    numbers: LongArray

    @classmethod
    def of_events(cls, daily_events: npt.NDArray[np.integer], first: int) -> Self:
        """From the number of events a day (N,) of all days from day `first` since 1970-01-01 on."""
        kept = np.flatnonzero(observed_days(daily_events))
        return cls(np.r_[kept, len(daily_events)].astype(np.int64) + first)

    def __len__(self) -> int:
        return len(self.numbers) - 1

    def __str__(self) -> str:
        return f"{len(self)} days{' without its gaps' if self.gaps else ''}"

    def has(self, numbers: npt.NDArray[np.integer]) -> BoolArray:
        """(m,) whether the log has each of the days since 1970-01-01."""
        place = np.minimum(np.searchsorted(self.numbers, numbers), len(self))
        return np.asarray((self.numbers[place] == numbers) & (place < len(self)))

    def place(self, numbers: npt.NDArray[np.integer]) -> LongArray:
        """(m,) how many days the log has before each of the days since 1970-01-01.

        Below 0 before the log's first day, and beyond D after its last, as many days as there are between.
        """
        first, end = int(self.numbers[0]), int(self.numbers[-1])
        place = np.searchsorted(self.numbers, numbers).astype(np.int64)
        place = np.where(numbers < first, numbers - first, place)
        return np.where(numbers > end, len(self) + numbers - end, place)

    def date_of(self, day: int) -> date:
        """The calendar day of a day number; beyond the last as if there were no gap to come."""
        known = min(max(day, 0), len(self))
        return _EPOCH + timedelta(days=int(self.numbers[known]) + day - known)

    def start_us(self, day: int) -> int:
        """Microseconds from the epoch to the start of a day."""
        return (self.date_of(day) - _EPOCH).days * DAY_US

    def a_year_before(
        self, day: npt.NDArray[Any], *, ahead: int, nearest: bool = False
    ) -> npt.NDArray[np.int32]:
        """(m,) int32 number of the same weekday a year before each day; -1 where the log does not have it.

        Nor where the `ahead` days from then on would reach the day itself, for want of a log between.

        Args:
            day: (m,) numbers, from 0 to D.
            ahead: days.
            nearest: take the first day after a gap for one in it.
        """
        numbers = self.numbers[day] - YEAR_DAYS
        place = self.place(numbers)
        there = (place >= 0) & (place + ahead <= day)
        if not nearest:
            there &= self.has(numbers)
        return np.where(there, place, -1).astype(np.int32)

    @property
    def gaps(self) -> list[tuple[date, date]]:
        """First and last day of every gap in the log."""
        return [
            (self.date_of(int(day)) + timedelta(days=1), self.date_of(int(day) + 1) - timedelta(days=1))
            for day in np.flatnonzero(np.diff(self.numbers) > 1)
        ]


def observed_days(daily_events: npt.NDArray[np.integer]) -> BoolArray:
    """(N,) whether the log has each day, from the number of events a day.

    A run of at least `GAP_MIN_DAYS` empty days is a gap where the log, at its median non-empty day, would
    have had `GAP_MIN_EVENTS` events in it; a shop that is closed on Sundays has none. Nor has one that is
    closed on most days, but for a run of `GAP_MIN_TIMES` as long as it usually takes to the next.
    """
    observed = np.ones(len(daily_events), dtype=bool)
    busy = daily_events[daily_events > 0]
    apart = np.diff(np.flatnonzero(daily_events))
    least = max(GAP_MIN_DAYS, GAP_MIN_TIMES * float(np.quantile(apart, USUAL_SHARE)) if len(apart) else 0.0)
    usual = float(np.median(busy)) if len(busy) else 0.0
    edges = np.flatnonzero(np.diff(np.r_[False, daily_events == 0, False].astype(np.int8)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= least and usual * (end - start) >= GAP_MIN_EVENTS:
            observed[start:end] = False
    return observed
