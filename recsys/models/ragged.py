"""Scored targets of a batch of users, as many as each has: flat arrays, numpy only, for the request path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.slices import rank_in_group
from recsys.types import Candidates, FloatArray, IntArray, LongArray


@dataclass(frozen=True)
class Ragged:
    """M scored targets of B users, sorted by user and id; a pair occurs once.

    Attributes:
        row: (M,) int64 which user of the batch.
        ids: (M,) int32 dense target ids.
        scores: (M,) float32.
        n_rows: B.
    """

    row: LongArray
    ids: IntArray
    scores: FloatArray
    n_rows: int

    @classmethod
    def summed(
        cls, row: LongArray, ids: IntArray, scores: npt.NDArray[np.floating], *, n_rows: int, n_targets: int
    ) -> Ragged:
        """Pairs in any order, the scores of equal ones added up."""
        keys, inverse = np.unique(row * np.int64(n_targets) + ids, return_inverse=True)
        total = np.bincount(inverse, weights=scores, minlength=len(keys)).astype(np.float32)
        return cls(keys // n_targets, (keys % n_targets).astype(np.int32), total, n_rows)

    def top(self, k: int) -> Candidates:
        """The best k of each user, best first; ties go to the lower id."""
        order = np.lexsort((self.ids, -self.scores, self.row))
        row = self.row[order]
        rank = rank_in_group(row)
        kept = rank < k
        order, row, rank = order[kept], row[kept], rank[kept]
        ids = np.zeros((self.n_rows, k), dtype=np.int32)
        scores = np.full((self.n_rows, k), -np.inf, dtype=np.float32)
        ids[row, rank] = self.ids[order]
        scores[row, rank] = self.scores[order]
        return Candidates(ids, scores, np.bincount(row, minlength=self.n_rows).astype(np.int32))
