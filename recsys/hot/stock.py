"""Days on which an item was out of stock, read off the log: carts go on, and nobody can buy.

What was sold on such a day says nothing of demand: the day is censored, and left out of rates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.hot.windows import RowWindows
from recsys.types import BoolArray, FloatArray, IntArray

#: A day without an order is one out of stock if so many were to be expected by the day's carts, and by what
#: is usual: carts alone may rise well before orders do. By chance there is none on one such day in 148.
LOST_ORDERS = 5.0
#: Orders a cart and orders a day are taken over the days before, from so many carts up.
USUAL_DAYS, USUAL_CARTS = 28, 20.0


def sold_out(item_idx: IntArray, day: IntArray, channels: Mapping[str, FloatArray], n_days: int) -> BoolArray:
    """(R,) whether an item was out of stock all of a day; False in a log without carts.

    Args:
        item_idx, day: (R,) int32, sorted by item, then day.
        channels: name -> (R,), of which orders and carts are read.
        n_days: days of the panel.
    """
    if "orders" not in channels or "carts" not in channels:
        return np.zeros(len(item_idx), dtype=bool)
    windows = RowWindows(item_idx, day, n_days)
    orders, carts = (
        windows.total(channels[name], item_idx, day, -USUAL_DAYS, -1) for name in ("orders", "carts")
    )
    expected = np.minimum(channels["carts"] * orders / np.maximum(carts, 1.0), orders / USUAL_DAYS)
    return np.asarray((channels["orders"] == 0) & (carts >= USUAL_CARTS) & (expected >= LOST_ORDERS))
