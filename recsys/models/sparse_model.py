"""Models that have something to say of few targets a user: the best are picked without a dense row."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from scipy import sparse

from recsys.errors import ModelError
from recsys.models.base import Model
from recsys.models.ragged import Ragged
from recsys.types import BoolArray, Candidates, FloatArray, IntArray

#: Users whose pairs are held at once.
_USERS_AT_ONCE = 1_024


class SparseModel(Model):
    """A model whose scores are sparse; a target without a stored score gets none."""

    @abstractmethod
    def _pairs(self, users: IntArray) -> sparse.csr_matrix:
        """(B, targets) float32 CSR of scores, fresh, each target at most once a row, in any order."""

    def _scores(self, users: IntArray) -> FloatArray:
        pairs = self._pairs(users)
        scores = np.full(pairs.shape, -np.inf, dtype=np.float32)
        scores[np.repeat(np.arange(len(users)), np.diff(pairs.indptr)), pairs.indices] = pairs.data
        return scores

    def _best(
        self, users: IntArray, *, k: int, exclude: sparse.csr_matrix | None, allowed: BoolArray | None
    ) -> Candidates:
        return top_k_sparse(self._pairs(users), k=k, exclude=exclude, allowed=allowed)

    def _users_at_once(self) -> int:
        return _USERS_AT_ONCE


def top_k_sparse(
    scores: sparse.csr_matrix,
    *,
    k: int,
    exclude: sparse.csr_matrix | None = None,
    allowed: BoolArray | None = None,
) -> Candidates:
    """The best k stored scores of each row; ties go to the lower index. As `top_k` of the dense rows.

    Args:
        scores: (B, n) float32 CSR, its data overwritten; an entry that is not stored is left out.
        k: how many, at most n.
        exclude: (B, n) CSR whose non-zeros are left out.
        allowed: (n,) which targets may be picked.

    Raises:
        ModelError: a score is NaN.
    """
    n_rows, n = scores.shape
    length = np.diff(scores.indptr)
    row_of = np.repeat(np.arange(n_rows), length)
    if np.isnan(scores.data).any():
        at = int(np.flatnonzero(np.isnan(scores.data))[0])
        raise ModelError(
            f"score of target {scores.indices[at]} in row {row_of[at]} is NaN: the model's training diverged"
        )
    if allowed is not None:
        scores.data[~allowed[scores.indices]] = -np.inf
    if exclude is not None:
        out = np.zeros((n_rows, n), dtype=bool)
        out[np.repeat(np.arange(n_rows), np.diff(exclude.indptr)), exclude.indices] = True
        scores.data[out.ravel()[row_of * n + scores.indices]] = -np.inf
    enough = np.maximum(_kth_best(scores, k), np.finfo(np.float32).min)
    kept = np.flatnonzero(scores.data >= enough[row_of])
    row, column, score = row_of[kept], scores.indices[kept], scores.data[kept]
    return Ragged(row, column, score, n_rows).top(k)


def _kth_best(scores: sparse.csr_matrix, k: int) -> FloatArray:
    """(B,) float32 the k-th best stored score of each row, minus infinity where there are fewer."""
    length = np.diff(scores.indptr)
    kth = np.full(len(length), -np.inf, dtype=np.float32)
    long = np.flatnonzero(length > k)
    # Rows of like length are looked at together, so that padding at most doubles them.
    octave = np.frexp(length[long].astype(np.float64))[1]
    for this in np.unique(octave):
        rows = long[octave == this]
        width = int(length[rows].max())
        place = np.arange(width)
        inside = place < length[rows][:, None]
        at = np.where(inside, scores.indptr[rows][:, None] + place, 0)
        padded = np.where(inside, scores.data[at], np.float32(-np.inf))
        kth[rows] = np.partition(padded, width - k, axis=1)[:, width - k]
    return kth
