"""Who asks a synthetic bundle, what for, and what the right answer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import pyarrow as pa

from recsys.bench.world import AS_OF_US, WorldParams, product_groups
from recsys.bundle import Bundle, open_bundle
from recsys.types import Behaviour, BoolArray, Event, FloatArray, IntArray
from serving import Recommender
from serving.answer import Answer
from serving.bitmap import Bitmap
from serving.loaded import LoadedBundle

#: The wall clock of the measurements: a day after the bundle's moment.
CLOCK_S = AS_OF_US / 1e6 + 86_400
_QUERIES_AT_ONCE = 20


@dataclass(frozen=True)
class Clients:
    """Requests to a synthetic bundle; the first half of its users is never observed, so their vectors stay.

    Attributes:
        bundle: what answers, opened.
        loaded: the same, ready to answer.
        recommender: of the bundle.
        k: products a request.
    """

    bundle: Bundle
    loaded: LoadedBundle
    recommender: Recommender
    k: int

    @classmethod
    def of(cls, path: Path, *, k: int) -> Self:
        """The clients of a bundle that `write_world` wrote.

        Args:
            path: of the bundle.
            k: products a request.
        """
        bundle = open_bundle(path)
        loaded = LoadedBundle(bundle)
        return cls(bundle, loaded, Recommender(loaded, clock=lambda: CLOCK_S), k)

    @property
    def queries(self) -> FloatArray:
        """(U, d) vectors of the users."""
        return self.bundle.section("core").arrays["user_vectors"]

    @property
    def vectors(self) -> FloatArray:
        """(n, d) vectors of the products."""
        return self.bundle.section("core").arrays["item_vectors"]

    @cached_property
    def seen(self) -> IntArray:
        """(U, s) products that each user has bought."""
        seen: IntArray = self.bundle.section("core").arrays["seen_ids"].reshape(len(self.queries), -1)
        return seen

    @cached_property
    def prices(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(n,) in [0, 1), evenly spread."""
        prices: np.ndarray[Any, np.dtype[np.float64]] = self._items["price"].to_numpy()
        return prices

    @cached_property
    def in_stock(self) -> BoolArray:
        """(n,) which products can be had."""
        in_stock: BoolArray = self._items["stock"].to_numpy() > 0
        return in_stock

    @cached_property
    def categories(self) -> IntArray:
        """(n,) number of the category."""
        texts = self._items["category"].to_pylist()
        return np.array([int(text[1:]) for text in texts], dtype=np.int32)

    @cached_property
    def share_in_stock(self) -> float:
        """The largest share of products that a request may allow."""
        return float(self.in_stock.mean())

    def bare_index(self, nprobe: int) -> Any:
        """The same index as FAISS reads it by itself, mapped, without anything of ours around it."""
        untyped: Any = faiss
        data = np.frombuffer(self.bundle.section("core").blobs["items.faiss"], dtype=np.uint8)
        reader = untyped.ZeroCopyIOReader(faiss.swig_ptr(data), data.size)
        index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        if nprobe:
            index.nprobe = nprobe
        return index

    def bare_search(self, nprobe: int) -> Callable[[int], object]:
        """The search that `cached` makes, by the bare index and without any filter."""
        index = self.bare_index(nprobe)
        return lambda call: index.search(self.queries[self.user(call)][None], self.k)

    def user(self, call: int) -> int:
        """A user of the first half."""
        return call % (len(self.queries) // 2)

    def cached(self, call: int) -> Answer:
        """Products for a user whose vector is that of the bundle, without what they bought."""
        return self.recommender.products(user_id(self.user(call)), k=self.k, repeat=False)

    def limited(self, call: int, share: float) -> Answer:
        """The same where a price limit leaves so many of all products; the limit is one that many set."""
        price = (None, self._bound(share))
        return self.recommender.products(user_id(self.user(call)), k=self.k, repeat=False, price=price)

    def in_category(self, call: int) -> Answer:
        """Products of a category, a tenth of all and in groups that most users do not turn to."""
        user = user_id(self.user(call))
        return self.recommender.products(user, k=self.k, repeat=False, category=f"c{call % 10}")

    def in_groups(self, call: int, allowed: Bitmap) -> IntArray:
        """The search alone, of the products nearest to the user's vector among some."""
        assert self.loaded.vectors is not None
        query = self.queries[self.user(call)]
        return self.loaded.vectors.nearest(query, k=self.k, allowed=allowed.copy())[0]

    def whole_groups(self, share: float, rng: np.random.Generator) -> BoolArray:
        """(n,) the products of so many groups of all, drawn at random: most users turn to none of them."""
        groups = product_groups(WorldParams(**self.bundle.config["world"]))
        n_groups = int(groups.max()) + 1
        return np.isin(groups, rng.choice(n_groups, max(1, round(share * n_groups)), replace=False))

    def observe(self, call: int) -> None:
        """A user of the second half turns to a product like those that they know."""
        half = len(self.queries) // 2
        user = half + call % half
        like = self.seen[user, call % self.seen.shape[1]]
        moment = datetime.fromtimestamp(AS_OF_US / 1e6 + 1 + call, UTC)
        self.recommender.observe(Event(user_id(user), Behaviour.VIEW, moment, item_id=item_id(int(like))))

    def fresh(self, call: int) -> Answer:
        """Products for the user whom `observe(call)` moved."""
        half = len(self.queries) // 2
        return self.recommender.products(user_id(half + call % half), k=self.k, repeat=False)

    def recall(
        self, answers: list[Answer], *, share: float | None = None, by_category: bool = False
    ) -> float:
        """Share of the exact best k over what is allowed that the answers to calls 0, 1, ... name.

        Args:
            answers: of `limited` where a share is given, of `in_category`, or of `cached`.
            share: of products that a price limit leaves.
            by_category: whether the requests asked for a category each.
        """
        allowed = self.in_stock.copy()
        if share is not None:
            allowed &= self.prices <= self._bound(share)
        hits = wanted = 0
        for call, answer in enumerate(answers):
            user = self.user(call)
            mine = allowed.copy()
            mine[self.seen[user]] = False
            if by_category:
                mine &= self.categories == call % 10
            best = exact_best(self.vectors, self.queries[user], mine, self.k)
            named = [int(str(entry.id)[1:]) for entry in answer if entry.source != "popular"]
            hits += len(np.intersect1d(named, best))
            wanted += len(best)
        return hits / wanted

    @property
    def _items(self) -> pa.Table:
        return self.bundle.section("core").tables["items"]

    def _bound(self, share: float) -> float:
        return share / self.share_in_stock


def exact_best(vectors: FloatArray, query: FloatArray, allowed: BoolArray, k: int) -> IntArray:
    """Indices of the k allowed vectors with the largest inner product, by a full scan; in no order."""
    scores = np.where(allowed, vectors @ query, -np.inf)
    k = min(k, int(allowed.sum()))
    best: IntArray = np.argpartition(-scores, k - 1)[:k].astype(np.int32)
    return best


def item_id(index: int) -> str:
    """As `write_world` spells it."""
    return f"p{index:08d}"


def user_id(index: int) -> str:
    """As `write_world` spells it."""
    return f"u{index:08d}"
