"""How a set of items lies in the inverted lists of an index: evenly, or together in a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from recsys.slices import expand
from recsys.types import FloatArray, IntArray, LongArray
from serving.bitmap import Bitmap

#: Items of a list that are looked at, of a set so large that not all of its own are; on average.
_LOOKED_AT = 32
#: A set of at most this share of all items is known item by item, at 4 bytes each.
_KNOWN_SHARE = 1 / 8
#: A set is counted anew after so many changes, as a share of all items.
_STALE_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Spread:
    """One set.

    Attributes:
        share: (lists,) float32, how much of each list is in the set; 0 of an empty list.
        items: (m,) int32, its items list by list; None of a large set.
        starts: (lists + 1,) int64, where each list begins in `items`.
        changes: of the set, when it was counted.
    """

    share: FloatArray
    items: IntArray | None
    starts: LongArray
    changes: int

    def of_lists(self, lists: LongArray) -> IntArray:
        """The items of the set in some lists; for a set that is known item by item."""
        assert self.items is not None
        counts = self.starts[lists + 1] - self.starts[lists]
        ends = np.cumsum(counts)
        shift = np.repeat(self.starts[lists] - (ends - counts), counts)
        return self.items[shift + np.arange(len(shift))]


class Spreads:
    """Counts sets once, and forgets those that are gone.

    Args:
        ids: of each list, the items in it; every item is in one list.
        n_items: how many there are.

    Attributes:
        sizes: (lists,) float32, items of each list.

    Raises:
        ValueError: an item is in no list, in two, or there is none of its number.
    """

    def __init__(self, ids: Sequence[LongArray], n_items: int) -> None:
        sizes = np.array([len(items) for items in ids], dtype=np.int64)
        items = np.concatenate(ids) if len(ids) else np.empty(0, np.int64)
        if len(items) != n_items or (n_items and not 0 <= items.min() <= items.max() < n_items):
            raise ValueError(
                f"its lists hold {len(items)} entries, of which some are no items 0 to {n_items - 1}"
            )
        self._n_items = n_items
        of_entry = np.repeat(np.arange(len(sizes), dtype=np.min_scalar_type(len(sizes))), sizes)
        self._list_of = np.full(n_items, len(sizes), dtype=of_entry.dtype)
        self._list_of[items] = of_entry
        if n_items and self._list_of.max() == len(sizes):
            raise ValueError(f"item {int(self._list_of.argmax())} is in none of its lists")
        self.sizes = sizes.astype(np.float32)
        step = max(1, n_items // max(1, len(sizes) * _LOOKED_AT))
        place, _ = expand(np.zeros_like(sizes), sizes)
        looked_at = place % step == 0
        self._sample = items[looked_at].astype(np.int32)
        self._sample_of = of_entry[looked_at]
        self._sampled = np.maximum(self._per_list(self._sample_of), 1)
        self._kept: WeakKeyDictionary[Bitmap, Spread] = WeakKeyDictionary()

    def list_of(self, items: IntArray | LongArray) -> LongArray:
        """(m,) the list of each of m items."""
        return self._list_of[items].astype(np.int64)

    def of(self, items: Bitmap) -> Spread:
        """How a set lies; it is counted again where it has changed by much."""
        kept = self._kept.get(items)
        if kept is None or items.changes - kept.changes > _STALE_SHARE * self._n_items:
            kept = self._kept[items] = self._counted(items)
        return kept

    def __len__(self) -> int:
        """Sets that are kept."""
        return len(self._kept)

    def _counted(self, items: Bitmap) -> Spread:
        changes = items.changes
        if items.count() > _KNOWN_SHARE * self._n_items:
            hits = self._per_list(self._sample_of[items.has(self._sample)])
            share: FloatArray = np.divide(hits, self._sampled, dtype=np.float32)
            return Spread(share, None, np.empty(0, np.int64), changes)
        found = items.items()
        lists = self._list_of[found]
        counts = self._per_list(lists)
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        by_list = found[np.argsort(lists, kind="stable")]
        share = np.divide(counts, np.maximum(self.sizes, 1), dtype=np.float32)
        return Spread(share, by_list, starts, changes)

    def _per_list(self, lists: np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]) -> FloatArray:
        return np.bincount(lists, minlength=len(self.sizes)).astype(np.float32)
