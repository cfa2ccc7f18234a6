"""What a Dataset says of its products, streamers and users, as the room model needs it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import Dataset, Entities
from recsys.rooms.content import Content
from recsys.rooms.params import StateParams
from recsys.rooms.potential import Potential
from recsys.types import Behaviour, FloatArray, IntArray

#: Most values that a column of text may have to be taken for a category or an attribute.
MAX_VALUES = 200


def state_params_of(dataset: Dataset) -> StateParams:
    """What is a visit in this log, what ends one, and what tells its length.

    Enters or else views; leaves or else views' ends; views' lengths or else leaves.
    """
    counts = dataset.counts()
    entered = next((b for b in (Behaviour.ENTER, Behaviour.VIEW) if counts.get(b)), Behaviour.CLICK)
    leave = Behaviour.LEAVE if counts.get(Behaviour.LEAVE) else None
    timed = np.isfinite(dataset.events.duration_s[dataset.events.is_any([Behaviour.VIEW])]).any()
    length: Literal["view", "leave"] = "leave" if leave is not None and not timed else "view"
    return StateParams(visit=entered, leave=leave, length=length)


def content_of(dataset: Dataset, *, potential: Potential | None = None) -> Content:
    """Categories and prices of the catalogue.

    Args:
        dataset: as of the moment of training.
        potential: hot-item potential of its products.
    """
    names: dict[str, None] = {}
    for entities in (dataset.items, dataset.streamers, dataset.rooms):
        column = _texts(entities, "category")
        if column is not None:
            names.update(dict.fromkeys(sorted(pc.unique(column).drop_null().to_pylist())))
    code = {name: n for n, name in enumerate(names)}

    def codes(entities: Entities) -> IntArray:
        column = _texts(entities, "category")
        if column is None:
            return np.full(len(entities), -1, dtype=np.int32)
        return np.array([code.get(name, -1) for name in column.to_pylist()], dtype=np.int32)

    return Content(
        categories=tuple(names),
        item_category=codes(dataset.items),
        item_price=_prices(dataset.items),
        streamer_category=codes(dataset.streamers),
        potential=potential,
    )


def attributes(entities: Entities) -> npt.NDArray[np.bool_]:
    """(n, A) which values of its text columns each entity has: one column a value, rare ids left out.

    A column of more than `MAX_VALUES` values is an id or a title, and is left out.
    """
    blocks = [np.zeros((len(entities), 0), dtype=bool)]
    for name in sorted(entities.table.column_names):
        column = entities.table[name].combine_chunks()
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        encoded = column.dictionary_encode()
        n = len(encoded.dictionary)
        if 1 < n <= MAX_VALUES:
            codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
            blocks.append(codes[:, None] == np.arange(n))
    return np.concatenate(blocks, axis=1)


def _texts(entities: Entities, name: str) -> pa.Array | None:
    column = entities.column(name)
    return None if column is None else pc.cast(column, pa.string())


def _prices(items: Entities) -> FloatArray:
    """(I,) ln(price), centred and scaled over the catalogue; NaN where a price is missing or not positive."""
    column = items.column("price")
    price = np.full(len(items), np.nan)
    if column is not None:
        price[:] = pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    level = np.log(np.where(price > 0, price, np.nan))
    known = level[np.isfinite(level)]
    if len(known):
        level = (level - known.mean()) / max(float(known.std()), 1e-6)
    return level.astype(np.float32)
