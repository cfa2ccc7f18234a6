"""Days on which an item was out of stock, read off the log: carts go on, and nobody can buy.

What was sold on such a day says nothing of demand: it is censored, and counts as the days in stock before.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.hot.windows import RowWindows
from recsys.types import BoolArray, FloatArray, IntArray

#: An item is out of stock on a day without an order if so many were to be expected, by the day's carts and by
#: what is usual: carts alone may rise well before orders do. By chance there is none on one such day in 148.
#: Days taken together would find what sells less, and would take the end of a burst for an empty shelf.
LOST_ORDERS = 5.0
#: It stays so until its next order, on days on which so many were to be expected.
LEAST_ORDERS = 1.0
#: What is usual is taken over the days in stock among so many before, from so many carts in them up.
USUAL_DAYS, USUAL_CARTS = 28, 20.0


def sold_out(item_idx: IntArray, day: IntArray, channels: Mapping[str, FloatArray], n_days: int) -> BoolArray:
    """(R,) whether an item was out of stock all of a day; False in a log without carts.

    A day is told by what was known at its end. What sells less than `LOST_ORDERS` a day is not found; nor is
    a day on which an item sold before it ran out.

    Args:
        item_idx, day: (R,) int32, sorted by item, then day.
        channels: name -> (R,), of which orders and carts are read.
        n_days: days of the panel.
    """
    out = np.zeros(len(item_idx), dtype=bool)
    if "orders" not in channels or "carts" not in channels:
        return out
    orders, carts = channels["orders"], channels["carts"]
    windows = RowWindows(item_idx, day, n_days)
    asked = np.flatnonzero((orders == 0) & (carts > 0))
    # Whether a row begins anew: another item, or an order.
    new_run = np.r_[True, np.diff(item_idx) != 0] | (orders > 0)
    run_start = np.maximum.accumulate(np.where(new_run, np.arange(len(item_idx)), 0))
    while True:

        def usual(values: FloatArray) -> FloatArray:
            return windows.total(values, item_idx[asked], day[asked], -USUAL_DAYS, -1).astype(np.float32)

        bought, put_in = usual(orders), usual(np.where(out, 0, carts))
        days = np.maximum(USUAL_DAYS - usual(out.astype(np.float32)), 1)
        expected = np.zeros(len(item_idx))
        expected[asked] = np.where(
            put_in >= USUAL_CARTS,
            np.minimum(carts[asked] * bought / np.maximum(put_in, 1), bought / days),
            0,
        )
        found = out | (expected >= LOST_ORDERS)
        last_found = np.maximum.accumulate(np.where(found, np.arange(len(item_idx)), -1))
        # A day that is out does not lower what is usual, so that more of the days after it are found then.
        found |= (expected >= LEAST_ORDERS) & (last_found >= run_start)
        if (found == out).all():
            return out
        out = found


def as_in_stock(
    values: FloatArray, out: BoolArray, item_idx: IntArray, day: IntArray, first_day: IntArray, n_days: int
) -> FloatArray:
    """(R,) float32: on days out of stock the mean of the `USUAL_DAYS` before that were not, if that is more.

    Args:
        values: (R,) what was counted.
        out: (R,) of `sold_out`.
        item_idx, day: (R,) int32, sorted by item, then day.
        first_day: (n,) int32 of each item.
        n_days: days of the panel.
    """
    rows = np.flatnonzero(out)
    windows = RowWindows(item_idx, day, n_days)
    items, days = item_idx[rows], day[rows]

    def before(of: FloatArray) -> FloatArray:
        return windows.total(of, items, days, -USUAL_DAYS, -1).astype(np.float32)

    in_stock = np.minimum(days - first_day[items], USUAL_DAYS) - before(out.astype(np.float32))
    filled = values.copy()
    filled[rows] = np.maximum(values[rows], before(np.where(out, 0, values)) / np.maximum(in_stock, 1))
    return filled
