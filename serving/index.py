"""Search of the catalogue by inner product among the allowed items only.

The allowed items are a bitmap that FAISS reads inside the search. A filter inside inverted lists costs
recall: with a tenth of a million items allowed, eight lists find 0.68 of the best hundred. So the fewer are
allowed, the more lists are read, and where they are few the scan is exact.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from pydantic import Field

from recsys.bundle import BundleRefused, Reason
from recsys.types import FloatArray, IntArray, LongArray, Params
from serving.bitmap import Bitmap


class SearchParams(Params):
    """How the search widens as fewer items are allowed.

    Attributes:
        exact_up_to: at most so many allowed items are scanned one by one.
        exact_cost: so are they where that is cheaper than the lists: what one vector, gathered from anywhere,
            costs of a code that is read in its list.
        widening: lists read = nprobe x share allowed ** -widening.
        spare: candidates read from coded lists, as a multiple of k, before their exact scores decide.
    """

    exact_up_to: int = Field(default=2_000, ge=0)
    exact_cost: float = Field(default=5.0, gt=0)
    widening: float = Field(default=1.6, ge=0)
    spare: float = Field(default=1.1, ge=1)


class ItemIndex:
    """A FAISS index over the mapped bytes of a bundle, beside the vectors that it was built of.

    Args:
        data: the serialised index; kept, for the index reads from it.
        vectors: (n, d) float32.
        nprobe: lists that a search without filters reads; 0 for an exact index.
        params: how the search widens.

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
        self._vectors_at = faiss.swig_ptr(self.vectors)
        self.n, self.d = vectors.shape
        self.params = params
        self._nprobe = nprobe
        self._data = np.frombuffer(data, dtype=np.uint8)
        try:
            untyped: Any = faiss  # its stubs lack the reader of mapped bytes, and products by index
            reader = untyped.ZeroCopyIOReader(faiss.swig_ptr(self._data), self._data.size)
            self._by_index = untyped.fvec_inner_products_by_idx
            self._index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleRefused(Reason.CONTENT, f"items.faiss: FAISS cannot read it: {error}") from error
        self._lists = int(getattr(self._index, "nlist", 0))
        if (self._index.ntotal, self._index.d) != (self.n, self.d):
            raise BundleRefused(
                Reason.MIXED,
                f"items.faiss holds {self._index.ntotal} vectors of {self._index.d} dimensions, "
                f"item_vectors.npy {self.n} of {self.d}",
            )
        if self._index.metric_type != faiss.METRIC_INNER_PRODUCT or (self._lists > 0) != (nprobe > 0):
            raise BundleRefused(
                Reason.CONTENT, "items.faiss is no index by inner product of the declared kind"
            )
        if self._lists:
            self._halve_centroids()
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
            return self._best(allowed.items(), query, k)
        if not self._lists:
            if n_allowed * self.params.exact_cost <= self.n:
                return self._best(allowed.items(), query, k)
            ids, scores = self._search_in_index(query, k, allowed, 0)
            return ids.astype(np.int32), scores
        widened = self._nprobe * (n_allowed / self.n) ** -self.params.widening
        nprobe = min(round(widened), self._lists)
        if n_allowed * self.params.exact_cost <= self.n * nprobe / self._lists:
            return self._best(allowed.items(), query, k)
        depth = min(int(k * self.params.spare), n_allowed)
        while True:
            ids, _ = self._search_in_index(query, depth, allowed, nprobe)
            if ids[-1] < 0:  # where FAISS finds fewer, the rest is -1
                ids = ids[ids >= 0]
            if len(ids) >= k or nprobe == self._lists:
                return self._best(ids, query, k)
            nprobe = min(4 * nprobe, self._lists)

    def _best(self, ids: IntArray | LongArray, query: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """The best k of some items by their exact scores; ties go to the lower index."""
        scores = self._inner_products(ids, query)
        if 2 * k < len(ids):
            top = np.argpartition(-scores, k - 1)[:k]
            ids, scores = ids[top], scores[top]
        order = np.lexsort((ids, -scores))[:k]
        return ids[order].astype(np.int32), scores[order]

    def _inner_products(self, ids: IntArray | LongArray, query: FloatArray) -> FloatArray:
        """(m,) float32 of m items, read where they lie: half the time of a product with a gathered copy."""
        scores = np.empty(len(ids), dtype=np.float32)
        wide = ids.astype(np.int64, copy=False)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # or FAISS starts a team of threads for this one query
        try:
            self._by_index(
                faiss.swig_ptr(scores),
                faiss.swig_ptr(query),
                self._vectors_at,
                faiss.swig_ptr(wide),
                self.d,
                1,
                len(wide),
            )
        finally:
            faiss.omp_set_num_threads(threads)
        return scores

    def _halve_centroids(self) -> None:
        """Holds the lists' centroids in bfloat16, for half of what a narrow search reads are centroids.

        At 4,096 lists of 128 dimensions they would push everything else of a request out of a 2 MB cache.
        """
        exact: Any = faiss.downcast_index(self._index.quantizer)
        coarse: Any = faiss.IndexScalarQuantizer(
            self.d, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT
        )
        centroids = exact.reconstruct_n(0, self._lists)
        coarse.train(centroids)
        coarse.add(centroids)
        self._index.quantizer = coarse  # the index owns it from now on ...
        exact.this.own(True)  # ... and nobody else the one that it had

    def _check_same_vectors(self) -> None:
        """A smoke query: the index must score a few items against themselves as their vectors do."""
        items = sorted({0, self.n // 2, self.n - 1}) if self.n else []
        wanted = {item: float(self.vectors[item] @ self.vectors[item]) for item in items}
        for item in items:
            only = Bitmap.empty(self.n)
            only.add([item])
            query = np.ascontiguousarray(self.vectors[item])
            ids, scores = self._search_in_index(query, 1, only, self._lists)
            found = float(scores[0]) if ids[0] == item else -np.inf
            if abs(found - wanted[item]) > 0.05 * max(*wanted.values(), 1e-6):
                raise BundleRefused(
                    Reason.MIXED,
                    f"items.faiss gives item {item} the score {found:.4g} against itself, item_vectors.npy "
                    f"{wanted[item]:.4g}: they are of different models",
                )

    def _search_in_index(
        self, query: FloatArray, k: int, allowed: Bitmap, nprobe: int
    ) -> tuple[LongArray, FloatArray]:
        """FAISS's own answer, as long as k; an id of -1 where it found fewer."""
        options: Any = faiss.SearchParametersIVF() if self._lists else faiss.SearchParameters()
        options.sel = faiss.IDSelectorBitmap(self.n, faiss.swig_ptr(allowed.data))
        if self._lists:
            options.nprobe = nprobe
        scores, ids = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int64)
        # The call beneath `search`, whose checks and conversions cost as much as a list's scan.
        self._index.search_c(
            1, faiss.swig_ptr(query), k, faiss.swig_ptr(scores), faiss.swig_ptr(ids), options
        )
        return ids, scores
