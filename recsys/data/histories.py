"""What each user did, in order: the input of every model that reads sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.types import BoolArray, FloatArray, IntArray, LongArray


@dataclass(frozen=True)
class HistoryBatch:
    """The last L actions of B users, right-aligned: the newest is in the last column.

    Attributes:
        target_idx: (B, L) int32; 0 where `mask` is False.
        behaviour: (B, L) int8 codes; 0 where `mask` is False.
        timestamp_us: (B, L) int64; 0 where `mask` is False.
        mask: (B, L) whether the place holds an action.
        duration_s: (B, L) float32 seconds that a view lasted, NaN where unknown; None where none is known.
    """

    target_idx: IntArray
    behaviour: npt.NDArray[np.int8]
    timestamp_us: LongArray
    mask: BoolArray
    duration_s: FloatArray | None = None

    def last(self, length: int) -> HistoryBatch:
        """No more than the last `length` actions of each user."""
        kept = slice(-length, None)
        return HistoryBatch(
            self.target_idx[:, kept],
            self.behaviour[:, kept],
            self.timestamp_us[:, kept],
            self.mask[:, kept],
            None if self.duration_s is None else self.duration_s[:, kept],
        )


@dataclass(frozen=True)
class Histories:
    """The actions of U users one after the other: user u's are at `indptr[u]:indptr[u + 1]`, oldest first.

    Attributes:
        indptr: (U + 1,) int64.
        target_idx: (N,) int32 item or streamer.
        behaviour: (N,) int8 codes.
        timestamp_us: (N,) int64 microseconds since the epoch.
        duration_s: (N,) float32, NaN where unknown.
    """

    indptr: LongArray
    target_idx: IntArray
    behaviour: npt.NDArray[np.int8]
    timestamp_us: LongArray
    duration_s: FloatArray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def last(self, users: IntArray, length: int, *, ends: LongArray | None = None) -> HistoryBatch:
        """The last `length` actions of each user, or of those before position `ends[b]` of the flat arrays.

        Args:
            users: (B,) int32 user indices.
            length: L, the most actions to give.
            ends: (B,) int64 exclusive ends between `indptr[u]` and `indptr[u + 1]`.
        """
        stop = self.indptr[users + 1] if ends is None else ends
        position = stop[:, None] - length + np.arange(length)  # (B, L)
        mask = position >= self.indptr[users][:, None]
        if len(self.target_idx) == 0:
            empty = np.zeros(mask.shape, dtype=np.int64)
            return HistoryBatch(empty.astype(np.int32), empty.astype(np.int8), empty, mask)
        position = np.where(mask, position, 0)
        return HistoryBatch(
            target_idx=np.where(mask, self.target_idx[position], 0).astype(np.int32),
            behaviour=np.where(mask, self.behaviour[position], 0).astype(np.int8),
            timestamp_us=np.where(mask, self.timestamp_us[position], 0),
            mask=mask,
        )
