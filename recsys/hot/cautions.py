"""What to look at before a product's figures are believed or acted on, in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.data.dataset import Entities
from recsys.hot.calibration import Floats
from recsys.hot.panel import Panel
from recsys.hot.windows import Samples
from recsys.types import FloatArray, IntArray

#: A price that is so many times what it was is hardly a promotion.
PRICE_FACTOR = 5.0
#: What is told of last week, and what is usual by so many days up to now.
LAST_DAYS, USUAL_DAYS = 7, 112


def cautions(panel: Panel, items: Entities, active: IntArray, expected_units: Floats) -> list[str]:
    """(n,) of every item what is doubtful, joined by "; ", empty for nothing.

    Args:
        panel: of which the last week is told.
        items: the catalogue, n items.
        active: (m,) items that were scored.
        expected_units: (m,) over the horizon.
    """
    said = panel.trust.flags(np.arange(len(items), dtype=np.int32))
    for found in (
        _prices(panel, active),
        _out_of_stock(panel, active),
        _stock(items, active, expected_units),
    ):
        for row, words in found:
            item = int(active[row])
            said[item] = f"{said[item]}; {words}" if said[item] else words
    return said


def _prices(panel: Panel, active: IntArray) -> Iterator[tuple[int, str]]:
    """Row and words where what was paid a unit last week is of another order than on most days before."""
    paid = panel.rows("unit_price")
    known = np.flatnonzero((paid > 0) & (panel.day >= panel.n_days - USUAL_DAYS))
    usual, last = _medians(panel, known), _medians(panel, known[panel.day[known] >= panel.n_days - LAST_DAYS])
    change = last[active] / usual[active]
    for row in np.flatnonzero((change > PRICE_FACTOR) | (change < 1 / PRICE_FACTOR)):
        item = active[row]
        yield (
            int(row),
            f"{last[item]:,.4g} paid a unit last week, usually {usual[item]:,.4g}: another currency?",
        )


def _medians(panel: Panel, rows: npt.NDArray[np.intp]) -> FloatArray:
    """(n,) of what was paid a unit of each item on some rows' days, the lesser of two; NaN where on none."""
    paid, item = panel.rows("unit_price")[rows], panel.item_idx[rows]
    items, start, count = np.unique(item, return_index=True, return_counts=True)
    found = np.full(panel.n_items, np.nan, dtype=np.float32)
    found[items] = paid[np.lexsort((paid, item))][start + (count - 1) // 2]
    return found


def _out_of_stock(panel: Panel, active: IntArray) -> Iterator[tuple[int, str]]:
    """Row and words where orders stayed away while carts went on."""
    now = Samples(active, np.full(len(active), panel.n_days, dtype=np.int32))
    days = panel.running("sold_out").total(now, -LAST_DAYS, 0)
    for row in np.flatnonzero(days):
        yield (
            int(row),
            f"out of stock on {days[row]:.0f} of the last {LAST_DAYS} days, carts, no orders",
        )


def _stock(items: Entities, active: IntArray, expected_units: Floats) -> Iterator[tuple[int, str]]:
    """Row and words where the catalogue's stock does not last."""
    column = items.column("stock")
    if column is None:
        return
    stock = column.cast(pa.float64()).to_numpy(zero_copy_only=False)[active]
    for row in np.flatnonzero(stock < expected_units):
        yield int(row), f"{stock[row]:,.0f} in stock, {expected_units[row]:,.0f} units expected"
