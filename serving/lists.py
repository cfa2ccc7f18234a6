"""Search of inverted lists among the allowed items: which lists are read, and how.

A filter inside inverted lists costs recall where the allowed items do not lie where the query points: the
lists nearest to it may hold none. So it is known of every set how many of its items each list holds, and
those lists are read that are expected to hold the best k, whether they are near the query or far.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import faiss
import numpy as np
from pydantic import Field

from recsys.index import IndexParams
from recsys.types import BoolArray, FloatArray, IntArray, LongArray, Params
from serving.bitmap import Bitmap
from serving.exact import ExactScores, best
from serving.options import SearchOptions
from serving.outlook import Scatter
from serving.spread import Spread, Spreads

#: Items that the scatter around the centroids is learnt from.
_SAMPLE = 8_192
#: Once lists are read, further ones are only where they are expected to hold this share of the best k.
_SURPRISE = 0.05


class SearchParams(Params):
    """How a search goes about its filters.

    Attributes:
        exact_up_to: at most so many allowed items are scanned one by one.
        code_cost: what it costs to score a code in its list, as a multiple of passing over one.
        exact_cost: what it costs to score a vector gathered from anywhere, as a multiple of the same; items
            are scored in the cheaper way.
        missed: share of the best k that may be expected in lists that are not read.
        cost_of_one_percent: what it may cost, in codes passed over, to find one per cent more of the best
            k; lists that hold them more thinly are not read either.
        most_cost: what a search may take, in the same, once it has k items. A query far from all that is
            allowed would read for longer than a backend waits.
        plain_share: where half of all items are allowed, and the nearest lists hold at least this share of
            what they would if all were spread evenly, these are read as without filters.
        plain_k: for longer answers lists are chosen: the number to read was found at this depth.
        spare: candidates read from coded lists beyond k, as a share of it, before their exact scores decide.
        spare_least: at least so many, for codes hardly tell the first of a short list from the next.
    """

    exact_up_to: int = Field(default=2_000, ge=0)
    code_cost: float = Field(default=2.7, ge=0)
    exact_cost: float = Field(default=8.0, gt=0)
    missed: float = Field(default=0.01, gt=0, lt=1)
    cost_of_one_percent: float = Field(default=8_000, gt=0)
    most_cost: float = Field(default=600_000, gt=0)
    plain_share: float = Field(default=0.8, ge=0, le=1)
    plain_k: int = Field(default=IndexParams().recall_at, ge=0)
    spare: float = Field(default=0.1, ge=0)
    spare_least: int = Field(default=10, ge=0)


class _Ways(NamedTuple):
    """How lists are read.

    Attributes:
        cost: (lists,) of the cheaper way.
        coded: (lists,) whether that is by codes in the list, and not one by one.
        known: the set whose items are scored one by one.
    """

    cost: FloatArray
    coded: BoolArray
    known: Spread | None


class InvertedLists:
    """An index of inverted lists over items whose vectors are at hand.

    Args:
        index: FAISS's, by inner product.
        vectors: (n, d) float32, contiguous.
        nprobe: lists that a search without filters reads.
        params: how a search goes about its filters.

    Raises:
        ValueError: its lists do not hold every item once.
    """

    def __init__(self, index: Any, vectors: FloatArray, *, nprobe: int, params: SearchParams) -> None:
        self._index = index
        self._exact = ExactScores(vectors)
        self._nprobe = nprobe
        self._params = params
        self._n = len(vectors)
        self._options = SearchOptions(self._n, lists=True)
        lists = index.invlists
        ids = [
            faiss.rev_swig_ptr(lists.get_ids(place), lists.list_size(place))
            if lists.list_size(place)
            else np.empty(0, np.int64)
            for place in range(index.nlist)
        ]
        self._spreads = Spreads(ids, self._n)
        self._halve_centroids()
        sample = np.arange(0, self._n, max(1, self._n // _SAMPLE))
        sample = sample[vectors[sample].any(axis=1)]  # without items that the model knows nothing of
        self._scatter = Scatter(vectors[sample], self._centroids[self._spreads.list_of(sample)])

    def search(
        self, query: FloatArray, k: int, allowed: Bitmap, n_allowed: int
    ) -> tuple[IntArray, FloatArray]:
        """The best k of at least as many allowed items, best first, and their inner products.

        Args:
            query: (d,) float32, contiguous and finite.
            k: how many, at least 1.
            allowed: which items may be found.
            n_allowed: how many they are.
        """
        spreads = [self._spreads.of(part) for part in allowed.parts]
        if k <= self._params.plain_k and 2 * n_allowed >= self._n:
            found = self._plain(query, k, allowed, n_allowed, spreads)
            if len(found) >= k:
                return best(found, self._exact.of(found, query), k)
        return self._chosen(query, k, allowed, n_allowed, spreads)

    def _plain(
        self, query: FloatArray, k: int, allowed: Bitmap, n_allowed: int, spreads: list[Spread]
    ) -> LongArray:
        """Candidates from the nearest lists; none where too few of these lists' items are allowed."""
        nprobe = min(round(self._nprobe * self._n / n_allowed), self._index.nlist)
        near, lists = np.empty(nprobe, dtype=np.float32), np.empty(nprobe, dtype=np.int64)
        self._index.quantizer.search_c(
            1, faiss.swig_ptr(query), nprobe, faiss.swig_ptr(near), faiss.swig_ptr(lists)
        )
        sizes = self._spreads.sizes[lists]
        share, even = reduce(np.multiply, [spread.share[lists] for spread in spreads]), n_allowed / self._n
        # A list with more than its even share makes up for no other: half of what the user wants may be gone.
        if np.minimum(share, even) @ sizes < self._params.plain_share * even * sizes.sum():
            return np.empty(0, dtype=np.int64)
        return self._read(query, self._depth(k, n_allowed), allowed, lists, near)

    def _chosen(
        self, query: FloatArray, k: int, allowed: Bitmap, n_allowed: int, spreads: list[Spread]
    ) -> tuple[IntArray, FloatArray]:
        """The best from the lists that are expected to hold them; if they do not, from further ones."""
        near = self._centroids @ query
        outlook = self._scatter.outlook(query, near)
        counts = reduce(np.multiply, [spread.share for spread in spreads], self._spreads.sizes)
        counts *= n_allowed / max(float(counts.sum()), 1.0)
        ways = self._ways(counts, spreads)
        items, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        bar, left = outlook.bar(counts, k), self._params.most_cost
        while True:
            lists = outlook.within(bar)
            hits: FloatArray = counts[lists] * outlook.above(bar, lists) * np.float32(1.0 / k)
            chosen = _worth_most(hits, ways.cost[lists], self._params, most_cost=left)
            if (len(items) >= k and hits[chosen].sum() < _SURPRISE) or not len(chosen):
                break
            lists = lists[chosen]
            coded, gathered = lists[ways.coded[lists]], lists[~ways.coded[lists]]
            found = self._read(query, self._depth(k, n_allowed), allowed, coded, near[coded])
            if ways.known is not None and len(gathered):
                ids = ways.known.of_lists(gathered)
                found = np.concatenate([found, ids[allowed.has(ids)]])
            items = np.concatenate([items, found])
            scores = np.concatenate([scores, self._exact.of(found, query)])
            counts[lists] = 0
            if len(items) < k:
                bar, left = outlook.nowhere, np.inf
            else:
                left -= float(ways.cost[lists].sum())
                bar = outlook.bar_at(float(np.partition(scores, -k)[-k]))
        if len(items) < k:  # the counts are of a sample, and of sets that may have changed since
            items = self._read(query, k, allowed, np.arange(len(near)), near)
            scores = self._exact.of(items, query)
        return best(items, scores, k)

    def _ways(self, counts: FloatArray, spreads: list[Spread]) -> _Ways:
        """How each list is read, with so many allowed items in each."""
        sizes = self._spreads.sizes
        cost = 1.0 + sizes + self._params.code_cost * counts  # an empty list is looked at, too
        known = [spread for spread in spreads if spread.items is not None]
        if not known:
            return _Ways(cost, np.ones(len(cost), dtype=bool), None)
        smallest = min(known, key=lambda spread: int(spread.starts[-1]))
        gathered = 1.0 + self._params.exact_cost * sizes * smallest.share
        return _Ways(np.minimum(cost, gathered), cost <= gathered, smallest)

    def _depth(self, k: int, n_allowed: int) -> int:
        return min(k + max(round(k * self._params.spare), self._params.spare_least), n_allowed)

    def _read(
        self, query: FloatArray, k: int, allowed: Bitmap, lists: LongArray, near: FloatArray
    ) -> LongArray:
        """The best k allowed items of some lists by their codes, best first; fewer where there are fewer."""
        if not len(lists):
            return np.empty(0, dtype=np.int64)
        options = self._options.of(allowed, nprobe=len(lists))
        scores, items = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int64)
        # The calls beneath FAISS's own, whose checks and conversions cost as much as a list's scan.
        self._index.search_preassigned_c(
            1,
            faiss.swig_ptr(query),
            k,
            faiss.swig_ptr(lists),
            faiss.swig_ptr(near),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(items),
            False,
            options,
        )
        return items if items[-1] >= 0 else items[items >= 0]  # -1 where there are fewer

    def _halve_centroids(self) -> None:
        """Has FAISS look for the nearest lists by centroids in bfloat16: half of a narrow search is that.

        At 4,096 lists of 128 dimensions they would push everything else of a request out of a 2 MB cache.
        """
        exact: Any = faiss.downcast_index(self._index.quantizer)
        coarse: Any = faiss.IndexScalarQuantizer(
            self._index.d, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT
        )
        self._centroids: FloatArray = exact.reconstruct_n(0, self._index.nlist)
        coarse.train(self._centroids)
        coarse.add(self._centroids)
        self._index.quantizer = coarse  # the index owns it from now on ...
        exact.this.own(True)  # ... and nobody else the one that it had


def _worth_most(hits: FloatArray, cost: FloatArray, params: SearchParams, *, most_cost: float) -> LongArray:
    """Places of the lists to read: those with the most hits, as shares of k, for what they cost."""
    wanted = float(hits.sum()) - params.missed
    if wanted <= 0 or most_cost <= 0:
        return np.empty(0, dtype=np.int64)
    worth = hits / cost
    dear = 0.01 / params.cost_of_one_percent if np.isfinite(most_cost) else 0.0
    some = np.flatnonzero(worth > dear)
    order = some[np.argsort(-worth[some])]
    enough = int(hits[order].cumsum().searchsorted(wanted)) + 1
    return order[: min(enough, int(cost[order].cumsum().searchsorted(most_cost)) + 1)]
