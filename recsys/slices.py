"""Rows of different lengths in flat arrays: where each entry is, and whose it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.types import IntArray, LongArray


def expand(starts: LongArray | IntArray, lengths: LongArray | IntArray) -> tuple[LongArray, LongArray]:
    """The positions of many slices of one flat array, one after the other, and whose slice each is from.

    Args:
        starts: (n,) where each slice starts.
        lengths: (n,) how long each is.
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths, dtype=np.int64)
    position = np.arange(len(owner)) - np.repeat(ends - lengths - starts, lengths)
    return position, owner


def rank_in_group(groups: npt.NDArray[np.integer]) -> LongArray:
    """(n,) how many entries of its group are before each, for groups (n,) of which each lies together."""
    is_first = np.ones(len(groups), dtype=bool)
    is_first[1:] = groups[1:] != groups[:-1]
    starts = np.flatnonzero(is_first)
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
