"""What to look at before a product's figures are believed or acted on, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from recsys.data.dataset import Entities
from recsys.hot.calibration import Floats
from recsys.hot.features import FeatureTable
from recsys.hot.panel import Panel
from recsys.hot.windows import Samples
from recsys.types import IntArray

#: A price that rises or falls so many times from a week to the other is hardly a promotion.
PRICE_FACTOR = 5.0
#: The days of which it is told that an item was out of stock.
LAST_DAYS = 7


def cautions(
    panel: Panel, items: Entities, active: IntArray, features: FeatureTable, expected_units: Floats
) -> list[str]:
    """(n,) of every item what is doubtful, joined by "; ", empty for nothing.

    Args:
        panel: of which the last week is told.
        items: the catalogue, n items.
        active: (m,) items that were scored.
        features: of the m.
        expected_units: (m,) over the horizon.
    """
    said = panel.trust.flags(np.arange(len(items), dtype=np.int32))
    for found in (_prices(features), _out_of_stock(panel, active), _stock(items, active, expected_units)):
        for row, words in found:
            item = int(active[row])
            said[item] = f"{said[item]}; {words}" if said[item] else words
    return said


def _prices(features: FeatureTable) -> Iterator[tuple[int, str]]:
    """Row and words where what was paid a unit is of another order than before."""
    if "price" not in features.names:
        return
    usual, change = features.column("price"), features.column("price_7d_over_usual")
    for row in np.flatnonzero(np.abs(change) > math.log(PRICE_FACTOR)):
        paid, before = math.exp(usual[row] + change[row]), math.exp(usual[row])
        yield int(row), f"{paid:,.4g} paid a unit last week, usually {before:,.4g}: another currency?"


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
