"""Sums that halve with age, kept so that adding is one multiplication and the order of adding is free."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.types import LongArray

#: Half-lives between the landmark and the newest addition before the sums are moved to a new landmark.
_FAR = 400.0


class DecayedSums:
    """(rows, columns, half-lives) sums of amounts, each halved once per half-life since it was added.

    Forward decay (Cormode et al., ICDE 2009): an amount of time t is stored as amount x 2^((t - L) / h) for a
    landmark L, and the whole is scaled by 2^(-(now - L) / h) when read. Nothing has to be touched as time
    passes, and events that come late or out of order end in the same sums.
    """

    def __init__(self, columns: int, half_lives_s: tuple[float, ...], *, rows: int = 0) -> None:
        self.half_lives_us = np.asarray(half_lives_s, dtype=np.float64) * 1e6
        self.values = np.zeros((rows, columns, len(half_lives_s)), dtype=np.float64)
        self.landmark_us = 0

    def __len__(self) -> int:
        return len(self.values)

    def grow(self, rows: int) -> None:
        """Make room for at least `rows` rows; new ones are zero."""
        if rows > len(self.values):
            more = max(rows, 2 * len(self.values)) - len(self.values)
            self.values = np.concatenate([self.values, np.zeros((more, *self.values.shape[1:]))])

    def add(
        self,
        rows: npt.NDArray[np.integer],
        columns: npt.NDArray[np.integer] | int,
        at_us: LongArray,
        amounts: npt.NDArray[np.floating] | float = 1.0,
    ) -> None:
        """Add amounts (N,) of times `at_us` (N,) to rows (N,) and columns (N,); rows may repeat."""
        if len(rows) == 0:
            return
        newest = int(at_us.max())
        if (newest - self.landmark_us) / self.half_lives_us.min() > _FAR:
            self._move_landmark(newest)
        weights = np.exp2((at_us - self.landmark_us)[:, None] / self.half_lives_us)
        places = (np.asarray(rows, dtype=np.int64), np.broadcast_to(np.asarray(columns, np.int64), len(rows)))
        np.add.at(self.values, places, weights * np.reshape(amounts, (-1, 1)))

    def read(self, rows: npt.NDArray[np.integer] | slice, now_us: int) -> npt.NDArray[np.float64]:
        """(N, columns, half-lives) the sums of these rows as they are at `now_us`."""
        scale = np.exp2(-(now_us - self.landmark_us) / self.half_lives_us)
        now: npt.NDArray[np.float64] = self.values[rows] * scale
        return now

    def one(
        self, rows: npt.NDArray[np.integer] | slice, column: int, half_life: int, now_us: int
    ) -> npt.NDArray[np.float64]:
        """(N,) the sums of one column and half-life alone, as they are at `now_us`."""
        scale = np.exp2(-(now_us - self.landmark_us) / self.half_lives_us[half_life])
        now: npt.NDArray[np.float64] = self.values[:, column, half_life][rows] * scale
        return now

    def _move_landmark(self, to_us: int) -> None:
        self.values *= np.exp2((self.landmark_us - to_us) / self.half_lives_us)
        self.landmark_us = to_us
