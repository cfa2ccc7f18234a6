"""A bundle ready to answer: checked, opened and warmed. Nothing here changes after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.bundle import Bundle, BundleRefused, Reason, open_bundle
from recsys.data.histories import HistoryBatch
from recsys.errors import BundleError
from recsys.held import Held, read_held
from recsys.models.fusion import Combiner
from recsys.models.neighbours import Neighbours
from recsys.product_sections import (
    STORED_ACTIONS,
    read_catalogue,
    read_fusion,
    read_hot,
    read_neighbours,
    read_popular,
    read_returns,
    read_vectors,
)
from recsys.room_sections import read_rooms
from recsys.types import BEHAVIOURS, Behaviour, Candidates, FloatArray, IntArray
from serving.bitmap import Bitmap
from serving.found import NOTHING, Found
from serving.holds import Holds
from serving.sources import HistorySource, PopularSource, Source, VectorSource, Wanted
from serving.state import Action

_NONE_NEW = np.empty((0, 3), dtype=np.int64)
_NO_SECONDS = np.empty(0, dtype=np.float32)
_ALL_THERE = np.ones((1, STORED_ACTIONS), dtype=bool)
_ALL_THERE.flags.writeable = False
#: Sets of items by category, and by price, that are kept: n / 8 bytes each, 16 MB in all at a million items.
_KEPT = 64


class LoadedBundle:
    """The sources, combiner and catalogue of one bundle.

    Args:
        bundle: opened, so every byte was checked against its hash.

    Attributes:
        reasons: from a source's name to why its products are shown, in words.
        categories, brands: (items,) int32 codes, -1 for none.
        category: from a name to the items of that category.
        priced: from the least and the most that a product may cost to the items that do; None is no bound.
            Of both, the sets asked for last are kept, and are not to be changed.

    Raises:
        BundleRefused: the parts do not fit each other, or a smoke query fails.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.version = bundle.model_version
        self.catalogue = read_catalogue(bundle)
        self._takes_out = np.zeros(len(BEHAVIOURS), dtype=bool)
        taken_out = (Behaviour.HIDE, *self.catalogue.consumption)
        self._takes_out[[behaviour.code for behaviour in taken_out]] = True
        self.n_items = len(self.catalogue.items)
        n_users = len(self.catalogue.users)
        self.sources: dict[str, Source] = {}
        self.popular: PopularSource | None = None
        self.popular_name = ""
        self.vectors: VectorSource | None = None
        self.vectors_name = ""
        self.neighbours: dict[str, Neighbours] = {}
        self.combiner: Combiner | None = None
        self.hot: list[dict[str, Any]] | None = None
        self.rooms = read_rooms(bundle)
        held: Held | None = None
        for name, section in bundle.sections.items():
            kind, source = section.meta.get("kind"), str(section.meta.get("source"))
            if kind == "vectors" or (kind == "catalogue" and section.meta.get("vectors") is not None):
                vectors = read_vectors(name, section, n_items=self.n_items, n_users=n_users)
                found = self.sources[vectors.source] = VectorSource(vectors)
                if kind == "catalogue" or self.vectors is None:
                    self.vectors, self.vectors_name = found, vectors.source
            elif kind == "neighbours":
                neighbours = read_neighbours(name, section, n_items=self.n_items)
                self.neighbours[source] = neighbours
                self.sources[source] = HistorySource(
                    neighbours, length=neighbours.recency.length, reason="goes with what you turned to lately"
                )
            elif kind == "returns":
                returns = read_returns(name, section, n_items=self.n_items)
                length = int(section.meta["length"])
                self.sources[source] = HistorySource(returns, length=length, reason="you may come back to it")
            elif kind == "popular":
                lists = read_popular(name, section, n_items=self.n_items, n_users=n_users)
                self.popular, self.popular_name = PopularSource(lists), source
                self.sources[source] = self.popular
            elif kind == "fusion":
                self.combiner = read_fusion(name, section, n_items=self.n_items)
            elif kind == "held":
                held = read_held(name, section, n_users=n_users)
            elif kind == "hot":
                self.hot = read_hot(name, section, n_items=self.n_items)
        self.reasons = {name: source.reason for name, source in self.sources.items()}
        self._check_sources()
        self.in_stock = self._in_stock()
        names, self.categories = self._codes("category")
        _, self.brands = self._codes("brand")
        self.category = lru_cache(_KEPT)(partial(_of_category, names, self.categories))
        self.priced = lru_cache(_KEPT)(partial(_of_price, self._read_prices()))
        self.holds = None if held is None else Holds(held, self.n_items, self.category)
        self._warm()

    @classmethod
    def open(cls, path: Path | str, *, max_bytes: int) -> LoadedBundle:
        """The bundle at `path`, every file checked."""
        return cls(open_bundle(path, max_bytes=max_bytes))

    def wanted(self, user_idx: int, actions: Sequence[Action], *, at_us: int, allowed: Bitmap) -> Wanted:
        """The request as the sources see it: the stored history with the fresh actions in their places."""
        histories = self.catalogue.histories
        start, stop = histories.indptr[user_idx : user_idx + 2].tolist() if user_idx >= 0 else (0, 0)
        stored = slice(start, stop)
        items, behaviour = histories.target_idx[stored], histories.behaviour[stored]
        times, duration_s = histories.timestamp_us[stored], histories.duration_s[stored]
        new, watched_s = self._new(actions, items, behaviour, times)
        if len(new):
            items = np.concatenate([items, new[:, 0].astype(np.int32)])
            behaviour = np.concatenate([behaviour, new[:, 1].astype(np.int8)])
            times = np.concatenate([times, new[:, 2]])
            order = np.argsort(times, kind="stable")
            items, behaviour, times = items[order], behaviour[order], times[order]
            duration_s = np.concatenate([duration_s, watched_s])[order]
        last = slice(-STORED_ACTIONS, None)
        history = HistoryBatch(
            items[last][None],
            behaviour[last][None],
            times[last][None],
            _ALL_THERE[:, : len(items)],
            duration_s[last][None],
        )
        return Wanted(user_idx, history, bool(len(new)), np.array([at_us], dtype=np.int64), allowed)

    def fused(self, wanted: Wanted, *, k: int) -> Found:
        """The best k allowed products."""
        if self.combiner is None:
            name = next((name for name in self.sources if self.sources[name] is not self.popular), None)
            if name is None:
                return NOTHING
            return Found.of(*self.sources[name].candidates(wanted, k=k).row(0), name)
        names = self.combiner.sources
        # As deep as it was trained: how a source's scores compare depends on how many there are.
        found: list[Candidates] = [
            self.sources[name].candidates(wanted, k=self.combiner.depth) for name in names
        ]
        if not any(int(candidates.counts[0]) for candidates in found):
            return NOTHING
        fused = self.combiner.recommend(found, wanted.history, wanted.at_us, k=k)
        ids, scores = fused.candidates.row(0)
        return Found(ids, scores, [names[owner] for owner in fused.source[0, : len(ids)].tolist()])

    @property
    def returns(self) -> bool:
        """Whether training found it better that consumed products may return."""
        return self.combiner is None or self.combiner.returns

    def is_popular(self, source: str) -> bool:
        """Whether the source is the popular list, which knows nothing of a single user."""
        return self.popular is not None and source == self.popular_name

    def unwanted(self, wanted: Wanted, *, returns: bool) -> IntArray:
        """The items that the user has asked not to see and, unless it returns, what they have consumed.

        Both the bundle and the fresh actions are asked; an item may come more than once.
        """
        items, behaviour = wanted.history.target_idx[0], wanted.history.behaviour[0]
        if returns:
            hidden: IntArray = items[behaviour == Behaviour.HIDE.code]
            return hidden
        own: IntArray = items[self._takes_out[behaviour]]
        if wanted.user_idx < 0:
            return own
        start, stop = self.catalogue.seen_indptr[wanted.user_idx : wanted.user_idx + 2].tolist()
        return np.concatenate([self.catalogue.seen_ids[start:stop], own])

    def _new(
        self, actions: Sequence[Action], items: IntArray, behaviour: Any, times: Any
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]], FloatArray]:
        """(n, 3) item, behaviour and time of the actions on known items that the stored history lacks, and
        (n,) the seconds that each lasted, NaN where unknown."""
        if not actions:
            return _NONE_NEW, _NO_SECONDS
        rows = [
            (item, action.behaviour.code, action.timestamp_us, action.duration_s)
            for action in actions
            if (item := self.catalogue.items.get(action.item)) >= 0
        ]
        if rows and len(times) and rows[0][2] <= times[-1]:
            stored = set(zip(items.tolist(), behaviour.tolist(), times.tolist(), strict=True))
            rows = [row for row in rows if row[:3] not in stored]
        new = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3)
        watched_s = [np.nan if row[3] is None else row[3] for row in rows]
        return new, np.array(watched_s, dtype=np.float32)

    def _codes(self, column: str) -> tuple[dict[str, int], IntArray]:
        """The values of a column of the items with their codes, and (items,) the codes, -1 for none."""
        table = self.catalogue.item_table
        if column not in table.column_names or table[column].null_count == self.n_items:
            return {}, np.full(self.n_items, -1, dtype=np.int32)
        encoded = pc.dictionary_encode(table[column].combine_chunks().cast(pa.string()))
        names = {name: code for code, name in enumerate(encoded.dictionary.to_pylist())}
        return names, _numbers(encoded.indices, np.dtype(np.int32), -1)

    def _read_prices(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        table = self.catalogue.item_table
        if "price" not in table.column_names or not self.n_items:
            return np.full(self.n_items, np.nan)
        price = _numbers(table["price"].combine_chunks().cast(pa.float64()), np.dtype(np.float64), np.nan)
        return np.where(np.isfinite(price), price, np.nan)

    def _in_stock(self) -> Bitmap:
        """Which items the catalogue does not call sold out."""
        table = self.catalogue.item_table
        if "stock" not in table.column_names or not self.n_items:
            return Bitmap.full(self.n_items)
        stock = _numbers(table["stock"].combine_chunks().cast(pa.float64()), np.dtype(np.float64), np.nan)
        return Bitmap.of(~(stock <= 0))

    def _check_sources(self) -> None:
        named = self.combiner.sources if self.combiner is not None else ()
        missing = [name for name in named if name not in self.sources]
        if missing:
            raise BundleRefused(
                Reason.CONTENT,
                f"{self.bundle.path}: the combiner reads {', '.join(missing)}, which is not in the bundle",
            )
        others = [name for name, source in self.sources.items() if source is not self.popular]
        if self.combiner is None and len(others) > 1:
            raise BundleRefused(
                Reason.CONTENT,
                f"{self.bundle.path}: {', '.join(others)} need a section 'fusion' to be merged",
            )

    def _warm(self) -> None:
        """Smoke queries: look-up tables are built, and a bundle that cannot answer is refused."""
        self.catalogue.items.get("")
        self.catalogue.users.get("")
        last_user = len(self.catalogue.users) - 1
        for user_idx in {-1, min(0, last_user), last_user}:
            allowed = Bitmap.full(self.n_items)
            wanted = self.wanted(user_idx, (), at_us=self.catalogue.as_of_us, allowed=allowed)
            try:
                answer = self.fused(wanted, k=10)
            except (ValueError, IndexError, BundleError) as error:
                raise BundleRefused(
                    Reason.CONTENT, f"{self.bundle.path}: a smoke query failed: {error}"
                ) from error
            if not np.isfinite(answer.scores).all():
                raise BundleRefused(
                    Reason.NOT_FINITE, f"{self.bundle.path}: a smoke query gave a score that is not finite"
                )


def _of_category(names: Mapping[str, int], categories: IntArray, name: str) -> Bitmap:
    """The items of a category; none of an unknown one."""
    return Bitmap.of(categories == names.get(name, -2))


def _of_price(prices: np.ndarray[Any, Any], least: float | None, most: float | None) -> Bitmap:
    """The items whose price is known and within the bounds; None is no bound."""
    low, high = -np.inf if least is None else least, np.inf if most is None else most
    return Bitmap.of((prices >= low) & (prices <= high))  # a price that is not known is NaN: never within


def _numbers(column: pa.Array, dtype: np.dtype[Any], missing: float) -> np.ndarray[Any, Any]:
    """A column as numpy. Not `to_numpy` or `fill_null`, which import pandas where it is installed."""
    values = np.frombuffer(column.buffers()[1], dtype=dtype)[column.offset : column.offset + len(column)]
    if not column.null_count:
        return values
    valid = np.unpackbits(np.frombuffer(column.buffers()[0], dtype=np.uint8), bitorder="little")
    return np.where(valid[column.offset : column.offset + len(column)], values, missing).astype(dtype)
