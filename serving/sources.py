"""Candidate sources: each names its best allowed products for one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.data.histories import HistoryBatch
from recsys.models.history_scorer import HistoryScorer
from recsys.models.ragged import Ragged
from recsys.product_sections import PopularLists, Vectors
from recsys.types import Candidates, FloatArray, IntArray, LongArray
from serving.bitmap import Bitmap
from serving.index import ItemIndex
from serving.query import query_of


@dataclass(frozen=True)
class Wanted:
    """One request as the sources see it.

    Attributes:
        user_idx: -1 for an unknown user.
        history: (1, L) latest actions, fresh ones included.
        fresh: whether there are actions that the bundle does not know.
        at_us: (1,) int64 the moment of asking.
        allowed: the products that may be named.
    """

    user_idx: int
    history: HistoryBatch
    fresh: bool
    at_us: LongArray
    allowed: Bitmap


class Source(Protocol):
    """Names candidates for a request."""

    @property
    def reason(self) -> str:
        """Why a product of this source is shown, in words."""
        ...

    def candidates(self, wanted: Wanted, *, k: int) -> Candidates:
        """The best allowed products of one user, (1, up to k)."""
        ...


class VectorSource:
    """The products nearest to the user's vector."""

    reason = "close to what you turn to"

    def __init__(self, vectors: Vectors) -> None:
        self.index = ItemIndex(vectors.index.data, vectors.item_vectors, nprobe=vectors.index.nprobe)
        self._user_vectors = vectors.user_vectors
        self._query = query_of(vectors)
        known = np.asarray(vectors.item_vectors.any(axis=1))
        self._known = None if known.all() else Bitmap.of(known)

    def candidates(self, wanted: Wanted, *, k: int) -> Candidates:
        """The best allowed products; none where nothing is known of the user."""
        vector = self._vector(wanted)
        with np.errstate(over="ignore", invalid="ignore"):
            length = float(vector @ vector)
        if not 0.0 < length < np.inf:  # zero or not finite, in one product
            return _row(np.empty(0, np.int32), np.empty(0, np.float32))
        return _row(*self.nearest(vector, k=k, allowed=wanted.allowed))

    def nearest(self, vector: FloatArray, *, k: int, allowed: Bitmap) -> tuple[IntArray, FloatArray]:
        """The best allowed products of a vector; those that the model knows nothing of are left out."""
        if self._known is not None:
            allowed = allowed.copy()
            allowed &= self._known
        return self.index.search(vector, k=k, allowed=allowed)

    def _vector(self, wanted: Wanted) -> FloatArray:
        stored = wanted.user_idx >= 0
        if self._query is not None and (wanted.fresh or not stored) and wanted.history.mask.any():
            return self._query.vector(wanted.history, wanted.at_us, wanted.user_idx)
        if stored:
            return np.asarray(self._user_vectors[wanted.user_idx])
        return np.zeros(self.index.d, dtype=np.float32)


class HistorySource:
    """What the user's latest actions speak for.

    Args:
        scorer: from histories to scored products.
        length: how many of the latest actions it reads.
        reason: in words.
    """

    def __init__(self, scorer: HistoryScorer, *, length: int, reason: str) -> None:
        self._scorer = scorer
        self._length = length
        self.reason = reason

    def candidates(self, wanted: Wanted, *, k: int) -> Candidates:
        """The best allowed products; none for an empty history."""
        found = self._scorer.score(wanted.history.last(self._length), wanted.at_us)
        allowed = wanted.allowed.has(found.ids)
        return Ragged(found.row[allowed], found.ids[allowed], found.scores[allowed], found.n_rows).top(k)


class PopularSource:
    """What is popular in the user's segment."""

    reason = "popular now"

    def __init__(self, lists: PopularLists) -> None:
        self._lists = lists

    def candidates(self, wanted: Wanted, *, k: int) -> Candidates:
        """The most popular allowed products of the user's segment, everybody's for an unknown user."""
        return _row(*self.best(self.segment(wanted.user_idx), k=k, allowed=wanted.allowed))

    def segment(self, user_idx: int) -> int:
        """The user's segment; 0, which is everybody, for an unknown one."""
        return int(self._lists.user_segment[user_idx]) if user_idx >= 0 else 0

    def best(self, segment: int, *, k: int, allowed: Bitmap) -> tuple[IntArray, FloatArray]:
        """The most popular allowed products of a segment; 0 is everybody."""
        start, stop = int(self._lists.indptr[segment]), int(self._lists.indptr[segment + 1])
        reach = 4 * k
        while True:
            part = slice(start, min(start + reach, stop))
            kept = np.flatnonzero(allowed.has(self._lists.ids[part]))[:k]
            if len(kept) == k or part.stop == stop:
                return self._lists.ids[part][kept], self._lists.scores[part][kept]
            reach *= 8


def _row(ids: IntArray, scores: FloatArray) -> Candidates:
    """One user's candidates."""
    if not len(ids):  # one column, of which none counts: later code may look at a first column
        return Candidates(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.zeros(1, np.int32))
    return Candidates(
        ids.astype(np.int32, copy=False)[None],
        scores.astype(np.float32, copy=False)[None],
        np.array([len(ids)], dtype=np.int32),
    )
