"""External ids and the dense indices that models work in.

Ids are compared by their text: the integer 7, the float 7.0 and the string "7" name the same thing, "007"
names another. They are given back with the type that the log had.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.types import ExternalId, IntArray


def id_key(value: ExternalId | np.generic) -> str:
    """The text by which an id is compared."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def id_keys(values: pa.Array | pa.ChunkedArray | np.ndarray[Any, Any] | Iterable[ExternalId]) -> pa.Array:
    """The texts by which ids are compared: a string array as long as `values`, nulls kept."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            values = pa.array(values)
        else:
            return pa.array([None if value is None else id_key(value) for value in values], pa.string())
    if pa.types.is_floating(values.type):
        whole = pc.equal(pc.floor(values), values)
        as_int = pc.cast(pc.if_else(whole, values, None), pa.int64())
        return pc.coalesce(pc.cast(as_int, pa.string()), pc.cast(values, pa.string()))
    return pc.cast(values, pa.string())


class IdMap:
    """External ids <-> dense indices 0 .. n-1.

    Args:
        keys: (n,) string array; the position is the dense index.
        id_type: the Arrow type that the log held the ids in: int64, uint64, double or string.
    """

    def __init__(self, keys: pa.Array, id_type: pa.DataType) -> None:
        self.keys = keys
        self.id_type = id_type

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, value: ExternalId) -> bool:
        return self.get(value) >= 0

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self.keys.to_pylist())}

    def get(self, value: ExternalId | None) -> int:
        """The dense index of one id, or -1 where it is unknown; no id is unknown too."""
        return -1 if value is None else self._positions.get(id_key(value), -1)

    def index(self, values: pa.Array | np.ndarray[Any, Any] | Iterable[ExternalId]) -> IntArray:
        """Dense indices (n,) int32 of n external ids; -1 where an id is unknown."""
        found = pc.index_in(id_keys(values), value_set=self.keys)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int32)

    def external(self, index: IntArray) -> pa.Array:
        """External ids (n,) of n dense indices, in the type that the log held them in."""
        return self.keys.take(pa.array(index)).cast(self.id_type)

    def one(self, index: int) -> ExternalId:
        """The external id of one dense index, as a Python value."""
        value: ExternalId = self.keys[index].cast(self.id_type).as_py()
        return value

    def prefix(self, n: int) -> IdMap:
        """The map of the first n ids alone."""
        return IdMap(self.keys.slice(0, n), self.id_type)
