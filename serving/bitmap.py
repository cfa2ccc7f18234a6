"""A set of items as one bit each, in the layout that FAISS reads inside a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.types import BoolArray, IntArray

_BIT = np.left_shift(np.uint8(1), np.arange(8, dtype=np.uint8))


class Bitmap:
    """n bits. Item i is bit i % 8 of byte i // 8; the bits beyond n are 0.

    A set cut out of others remembers them: what is known of them tells, nearly, where its own items lie.

    Args:
        data: (a multiple of 8,) uint8, owned.
        n: how many items there are.

    Attributes:
        changes: how many items were added or removed one by one, repeats included.
    """

    __slots__ = ("__weakref__", "_counted", "_cut_from", "changes", "data", "n")

    def __init__(self, data: npt.NDArray[np.uint8], n: int, cut_from: tuple[Bitmap, ...] = ()) -> None:
        self.data = data
        self.n = n
        self.changes = 0
        self._cut_from = cut_from
        self._counted: tuple[int, int] | None = None  # changes when it was last counted, and the count

    @classmethod
    def empty(cls, n: int) -> Bitmap:
        """No item of n."""
        return cls(np.zeros((n + 63) // 64 * 8, dtype=np.uint8), n)

    @classmethod
    def of(cls, mask: BoolArray) -> Bitmap:
        """The items where the mask (n,) is True."""
        bitmap = cls.empty(len(mask))
        bitmap.data[: (len(mask) + 7) // 8] = np.packbits(mask, bitorder="little")
        return bitmap

    @classmethod
    def full(cls, n: int) -> Bitmap:
        """All n items."""
        return cls.of(np.ones(n, dtype=bool))

    def copy(self) -> Bitmap:
        """A set of its own with the same items."""
        changes, n = self.changes, self.count()
        copied = Bitmap(self.data.copy(), self.n, self.parts)
        if self.changes == changes:
            copied._counted = (0, n)
        return copied

    @property
    def parts(self) -> tuple[Bitmap, ...]:
        """The sets that it was cut out of by `copy` and `&=`; itself where it was made otherwise."""
        return self._cut_from or (self,)

    def __contains__(self, item: int) -> bool:
        return bool(self.data[item >> 3] & _BIT[item & 7])

    def __iand__(self, other: Bitmap) -> Bitmap:
        self.data &= other.data
        self._counted = None
        if self._cut_from:
            self._cut_from += other.parts
        else:
            self.changes += self.n
        return self

    def put(self, item: int, present: bool) -> None:
        """Adds or removes one item; a reader sees the set before or after, as one byte changes."""
        if present:
            self.data[item >> 3] |= _BIT[item & 7]
        else:
            self.data[item >> 3] &= ~_BIT[item & 7]
        self.changes += 1  # last: who counts meanwhile counts again

    def add(self, items: IntArray | Sequence[int]) -> None:
        """Adds items by index."""
        at = np.asarray(items, dtype=np.int64)
        np.bitwise_or.at(self.data, at >> 3, _BIT[at & 7])
        self.changes += len(at)

    def remove(self, items: IntArray | Sequence[int]) -> None:
        """Removes items by index."""
        at = np.asarray(items, dtype=np.int64)
        byte, bit = at >> 3, _BIT[at & 7]
        counted, before = self._counted, self.changes
        gone = at[(self.data[byte] & bit) != 0]
        np.bitwise_and.at(self.data, byte, ~bit)
        self.changes = before + len(at)
        if counted is not None and counted[0] == before:
            self._counted = (self.changes, counted[1] - len(set(gone.tolist())))

    def has(self, items: IntArray) -> BoolArray:
        """(m,) which of m items are in the set."""
        found: BoolArray = (self.data[items >> 3] & _BIT[items & 7]) != 0
        return found

    def count(self) -> int:
        """How many items are in the set; counted once for it and what is cut out of it item by item."""
        counted, changes = self._counted, self.changes
        if counted is None or counted[0] != changes:
            # The sum of bits that int32 names is below 2^32, and twice as fast as the default type's.
            n = int(np.add.reduce(np.bitwise_count(self.data.view(np.uint64)), dtype=np.uint32))
            self._counted = counted = (changes, n)
        return counted[1]

    def items(self) -> IntArray:
        """The items' indices, ascending, int32."""
        filled = np.flatnonzero(self.data != 0)  # a sparse set is mostly empty bytes
        place = np.flatnonzero(np.unpackbits(self.data[filled], bitorder="little").view(bool))
        items: IntArray = ((filled[place >> 3] << 3) + (place & 7)).astype(np.int32)
        return items
