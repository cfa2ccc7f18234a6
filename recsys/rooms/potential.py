"""Hot-item potential of products as it was said at some moments: a request sees the latest one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from recsys.types import FloatArray, LongArray


@dataclass(frozen=True)
class Potential:
    """What was said of I products at W moments.

    Attributes:
        from_us: (W,) int64 ascending, microseconds: each row was made of what was known before its moment.
        values: (W, I) float32 in [0, 1], NaN where nothing was said.
    """

    from_us: LongArray
    values: FloatArray

    @classmethod
    def of(cls, rows: dict[int, FloatArray]) -> Self:
        """From what was said (I,) at each moment; at least one."""
        moments = sorted(rows)
        return cls(np.array(moments, dtype=np.int64), np.stack([rows[at_us] for at_us in moments]))

    def and_later(self, at_us: int, values: FloatArray) -> Potential:
        """With what was said (I,) at one more moment."""
        rows = dict(zip(self.from_us.tolist(), self.values, strict=True))
        return Potential.of(rows | {at_us: values})

    def at(self, now_us: int) -> FloatArray | None:
        """(I,) the latest as of `now_us`, None before the first."""
        row = int(np.searchsorted(self.from_us, now_us, side="right")) - 1
        return self.values[row] if row >= 0 else None
