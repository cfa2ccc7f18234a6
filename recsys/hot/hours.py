"""What happened to every item in every hour, and what the hours before an origin say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa

from recsys.hot.days import Days
from recsys.hot.windows import RowWindows, Samples, log_ratio
from recsys.types import FloatArray, IntArray

HOURS = 24
#: The last hours before an origin, which are compared with the same hours of the days before.
LAST_HOURS = 6
USUAL_DAYS = 7


@dataclass(frozen=True)
class Hours:
    """Hourly facts of items, sparse: one row for each item and hour in which anything happened.

    Attributes:
        n_hours: of the panel; hour 0 is the first of its first day, UTC.
        item_idx, hour: (R,) int32, sorted by item, then hour.
        channels: name -> (R,) float32 counts.
    """

    n_hours: int
    item_idx: IntArray
    hour: IntArray
    channels: Mapping[str, FloatArray]

    @classmethod
    def of_table(cls, table: pa.Table, days: Days) -> Self:
        """From item_idx, hour since the epoch (int32) and counts (float32).

        Args:
            table: one row an item and hour, in that order.
            days: of the panel.
        """
        day, hour = np.divmod(table["hour"].to_numpy(), HOURS)
        names = [name for name in table.column_names if name not in ("item_idx", "hour")]
        return cls(
            len(days) * HOURS,
            table["item_idx"].to_numpy(),
            (days.place(day) * HOURS + hour).astype(np.int32),
            {name: table[name].to_numpy() for name in names},
        )

    def of_items(self, place: IntArray) -> Hours:
        """The hours of some items: `place` (n,) is the new number of each, -1 for those left out."""
        kept = place[self.item_idx] >= 0
        channels = {name: values[kept] for name, values in self.channels.items()}
        return Hours(self.n_hours, place[self.item_idx[kept]], self.hour[kept], channels)

    @cached_property
    def windows(self) -> RowWindows:
        """Sums over windows of hours."""
        return RowWindows(self.item_idx, self.hour, self.n_hours)


def pulse(hours: Hours | None, samples: Samples) -> dict[str, FloatArray]:
    """The last hours of each channel against the same hours of the days before, and hours with any sign.

    Args:
        hours: None where the log has no live rooms: no features then.
        samples: R pairs; an origin is the start of a day.
    """
    if hours is None:
        return {}
    now = (samples.origin * HOURS).astype(np.int32)

    def total(values: FloatArray, first: int, last: int) -> FloatArray:
        return hours.windows.total(values, samples.item_idx, now, first, last).astype(np.float32)

    found = {"busy_hours_7d": total(np.ones(len(hours.hour), np.float32), -7 * HOURS, -1)}
    for name, values in hours.channels.items():
        last = total(values, -LAST_HOURS, -1)
        days = range(1, USUAL_DAYS + 1)
        usual = sum(
            (total(values, -LAST_HOURS - HOURS * day, -1 - HOURS * day) for day in days),
            start=np.zeros_like(last),
        )
        found[f"last_hours_{name}"] = log_ratio(last, usual / USUAL_DAYS, 0.5)
    return found
