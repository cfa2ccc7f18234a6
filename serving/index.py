"""Search of the catalogue by inner product among the allowed items only.

The allowed items are a bitmap that FAISS reads inside the search. Where they are few the scan is exact.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from recsys.bundle import BundleRefused, Reason
from recsys.types import FloatArray, IntArray, LongArray
from serving.bitmap import Bitmap
from serving.exact import ExactScores, best
from serving.lists import InvertedLists, SearchParams
from serving.options import SearchOptions


class ItemIndex:
    """A FAISS index over the mapped bytes of a bundle, beside the vectors that it was built of.

    Args:
        data: the serialised index; kept, for the index reads from it.
        vectors: (n, d) float32.
        nprobe: lists that a search without filters reads; 0 for an exact index.
        params: how a search goes about its filters.

    Raises:
        BundleRefused: no index that FAISS reads, or not the index of these vectors.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        vectors: FloatArray,
        *,
        nprobe: int,
        params: SearchParams = SearchParams(),
    ) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.n, self.d = vectors.shape
        self.params = params
        self._exact = ExactScores(self.vectors)
        self._data = np.frombuffer(data, dtype=np.uint8)
        try:
            untyped: Any = faiss  # its stubs lack the reader of mapped bytes
            reader = untyped.ZeroCopyIOReader(faiss.swig_ptr(self._data), self._data.size)
            self._index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleRefused(Reason.CONTENT, f"items.faiss: FAISS cannot read it: {error}") from error
        if (self._index.ntotal, self._index.d) != (self.n, self.d):
            raise BundleRefused(
                Reason.MIXED,
                f"items.faiss holds {self._index.ntotal} vectors of {self._index.d} dimensions, "
                f"item_vectors.npy {self.n} of {self.d}",
            )
        has_lists = hasattr(self._index, "nlist")
        if self._index.metric_type != faiss.METRIC_INNER_PRODUCT or has_lists != (nprobe > 0):
            raise BundleRefused(
                Reason.CONTENT, "items.faiss is no index by inner product of the declared kind"
            )
        self._options = SearchOptions(self.n, lists=has_lists)
        self._lists: InvertedLists | None = None
        if has_lists:
            try:
                self._lists = InvertedLists(self._index, self.vectors, nprobe=nprobe, params=params)
            except ValueError as error:
                raise BundleRefused(Reason.CONTENT, f"items.faiss: {error}") from error
        self._check_same_vectors()

    def search(self, query: FloatArray, *, k: int, allowed: Bitmap) -> tuple[IntArray, FloatArray]:
        """The best allowed items, best first, and their inner products: fewer than k where fewer are allowed.

        Args:
            query: (d,) float32, finite.
            k: how many, at least 1; more than there are items is all of them.
            allowed: which items may be found.

        Raises:
            ValueError: a query of another shape or not finite, or k below 1.
        """
        if query.shape != (self.d,) or not np.isfinite(query).all():
            raise ValueError(f"query of shape {query.shape}: ({self.d},) finite numbers are needed")
        if k < 1:
            raise ValueError(f"k={k}: ask for at least 1")
        query = np.ascontiguousarray(query, dtype=np.float32)
        n_allowed = allowed.count()
        k = min(k, n_allowed)
        if k == 0:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if n_allowed <= self.params.exact_up_to:
            return self._one_by_one(query, k, allowed)
        if self._lists is not None:
            return self._lists.search(query, k, allowed, n_allowed)
        if n_allowed * (self.params.exact_cost - self.params.code_cost) <= self.n:
            return self._one_by_one(query, k, allowed)
        ids, scores = self._scan(query, k, allowed)
        return ids.astype(np.int32), scores

    def _one_by_one(self, query: FloatArray, k: int, allowed: Bitmap) -> tuple[IntArray, FloatArray]:
        items = allowed.items()
        return best(items, self._exact.of(items, query), k)

    def _check_same_vectors(self) -> None:
        """A smoke query: the index must score a few items against themselves as their vectors do."""
        items = sorted({0, self.n // 2, self.n - 1}) if self.n else []
        wanted = {item: float(self.vectors[item] @ self.vectors[item]) for item in items}
        for item in items:
            only = Bitmap.empty(self.n)
            only.add([item])
            query = np.ascontiguousarray(self.vectors[item])
            ids, scores = self._scan(query, 1, only)
            found = float(scores[0]) if ids[0] == item else -np.inf
            if abs(found - wanted[item]) > 0.05 * max(*wanted.values(), 1e-6):
                raise BundleRefused(
                    Reason.MIXED,
                    f"items.faiss gives item {item} the score {found:.4g} against itself, item_vectors.npy "
                    f"{wanted[item]:.4g}: they are of different models",
                )

    def _scan(self, query: FloatArray, k: int, allowed: Bitmap) -> tuple[LongArray, FloatArray]:
        """FAISS's own answer from the whole index, as long as k; an id of -1 where it found fewer."""
        options = self._options.of(allowed, nprobe=0 if self._lists is None else self._index.nlist)
        scores, ids = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int64)
        # The call beneath `search`, whose checks and conversions cost as much as a scan.
        self._index.search_c(
            1, faiss.swig_ptr(query), k, faiss.swig_ptr(scores), faiss.swig_ptr(ids), options
        )
        return ids, scores
