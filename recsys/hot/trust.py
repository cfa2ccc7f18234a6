"""How far an item's orders are believed: fake ones come from fresh accounts, or without a look at the item.

Of n orders of an item in the `WINDOW_DAYS` up to a day, b are doubtful in one of two ways, and p is the
share of the whole shop's orders in the `SHOP_DAYS` up to it that are doubtful in that way. The n - b others
stand for (n - b) / (1 - p) orders of an item like any other; what there is beyond that is not believed:

    trust = min(1, (n - b + PRIOR (1 - p)) / ((n + PRIOR) (1 - p)))

the lesser of the two. A shop in which most orders are so, or that logs no looks, says nothing by it: trust 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recsys.hot.windows import RowWindows
from recsys.types import FloatArray, IntArray

WINDOW_DAYS = 7
SHOP_DAYS = 28
#: Orders like the shop's that every item is given: a few doubtful ones alone mean little.
PRIOR = 5.0
#: A shop with more doubtful orders than this share is not judged by them.
MOST_DOUBTFUL = 0.5
#: Doubtful channels, and how they are said of an item's orders.
DOUBTFUL = {
    "newcomer_orders": "came from accounts less than a week old",
    "unseen_orders": "came without a look at the item before",
}
#: What is believed only as far as the item is trusted.
DAMPED = ("demand", "buyers", "new_buyers")
#: An item with less trust, and at least so many orders in the window, is flagged.
FLAG_TRUST, FLAG_ORDERS = 0.6, 10.0
#: Units over damped units, in the window, from which the buyers are too few.
FLAG_REPEATS = 3.0

Channels = Mapping[str, FloatArray]


class Trust:
    """Trust in every item on every day of a panel's rows.

    Args:
        item_idx, day: (R,) int32, sorted by item, then day.
        channels: name -> (R,), of which the orders and the doubtful ones are read.
        n_days: days of the panel.
    """

    def __init__(self, item_idx: IntArray, day: IntArray, channels: Channels, n_days: int) -> None:
        self._n_days = n_days
        self._windows = RowWindows(item_idx, day, n_days)
        self._channels = {
            name: channels[name] for name in ("orders", "units", "demand", *DOUBTFUL) if name in channels
        }
        orders = self._shop(channels.get("orders"), day)
        #: name -> (D,) share of the shop's orders that are doubtful so; NaN where that is not judged by.
        self.usual = {}
        for name in DOUBTFUL:
            share = self._shop(channels.get(name), day) / np.maximum(orders, 1.0)
            self.usual[name] = np.where((share <= MOST_DOUBTFUL) & (orders > 0), share, np.nan)

    def at(self, item_idx: IntArray, day: IntArray) -> FloatArray:
        """(m,) trust in items as of the end of days."""
        trust = np.ones(len(item_idx))
        for name in DOUBTFUL:
            trust = np.minimum(trust, self._by(name, item_idx, day))
        return trust.astype(np.float32)

    def _by(self, name: str, item_idx: IntArray, day: IntArray) -> npt.NDArray[np.float64]:
        """(m,) trust by one of the doubtful channels, 1 where the shop is not judged by it."""
        orders = self._window("orders", item_idx, day)
        honest = 1.0 - self.usual[name][day]
        sound = orders - self._window(name, item_idx, day)
        return np.fmin(1.0, (sound + PRIOR * honest) / ((orders + PRIOR) * honest))

    def flags(self, item_idx: IntArray) -> list[str]:
        """What is doubtful about each item's orders of the last week, in words; empty for nothing."""
        day = np.full(len(item_idx), self._n_days - 1, dtype=np.int32)
        orders, units, demand = (self._window(name, item_idx, day) for name in ("orders", "units", "demand"))
        said: list[list[str]] = [[] for _ in item_idx]
        for name, words in DOUBTFUL.items():
            suspect = (self._by(name, item_idx, day) < FLAG_TRUST) & (orders >= FLAG_ORDERS)
            share = self._window(name, item_idx, day) / np.maximum(orders, 1.0)
            usual = float(self.usual[name][-1])
            for row in np.flatnonzero(suspect):
                said[row].append(f"{share[row]:.0%} of last week's orders {words} (in the shop {usual:.0%})")
        few = (units >= FLAG_REPEATS * np.maximum(demand, 1.0)) & (orders >= FLAG_ORDERS)
        for row in np.flatnonzero(few):
            said[row].append(
                f"last week's {units[row]:.0f} units are of buyers who repeat and count as {demand[row]:.0f}"
            )
        return ["; ".join(words) for words in said]

    def _window(self, name: str, item_idx: IntArray, day: IntArray) -> npt.NDArray[np.float64]:
        """(m,) sum over the window that ends with the day."""
        if name not in self._channels:
            return np.zeros(len(item_idx))
        return self._windows.total(self._channels[name], item_idx, day, 1 - WINDOW_DAYS, 0)

    def _shop(self, values: FloatArray | None, day: IntArray) -> npt.NDArray[np.float64]:
        """(D,) the whole shop's sum over the `SHOP_DAYS` that end with each day."""
        daily = np.bincount(day, weights=values, minlength=self._n_days) if values is not None else 0.0
        total = np.concatenate([[0.0], np.cumsum(np.broadcast_to(daily, self._n_days))])
        ends = np.arange(1, self._n_days + 1)
        return np.asarray(total[ends] - total[np.maximum(ends - SHOP_DAYS, 0)])
