"""How far an item's orders are believed: fake ones come from fresh accounts, or without a look at the item.

Of n orders of an item in the `WINDOW_DAYS` up to a day, b are doubtful in one of two ways, and p is the
share of the whole shop's orders in the `SHOP_DAYS` up to it that are doubtful in that way. By chance alone
c = `CHANCE` sqrt(n p (1 - p)) more than n p of them may be so. The n - b + c others stand for
(n - b + c) / (1 - p) orders of an item like any other; what there is beyond that is not believed:

    trust = min(1, (n - b + c + PRIOR (1 - p)) / ((n + PRIOR) (1 - p)))

the lesser of the two. A shop in which most orders are so, or that logs no looks, says nothing by it: trust 1.

Trust in an item's buyers is the same of its buyers a day: one who orders a hundred times is one to doubt, and
what is counted by buyer would be damped twice by his orders. What is counted by order is trusted no further
than the demand, which damps a buyer's repeats, bears it out:

    trust in orders <= MOST_REPEATS (demand + PRIOR) / (usual units + PRIOR)

What one buyer takes in a day is doubted before that: see `recsys.hot.quantities`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.hot.windows import RowWindows
from recsys.types import FloatArray, IntArray

WINDOW_DAYS = 7
SHOP_DAYS = 28
#: Orders like the shop's that every item is given: a few doubtful ones alone mean little.
PRIOR = 5.0
#: Standard deviations of a share among n orders that are laid to chance.
CHANCE = 2.0
#: A shop with more doubtful orders than this share is not judged by them.
MOST_DOUBTFUL = 0.5
#: Ways to be doubtful, and how they are said of an item's orders.
DOUBTFUL = {
    "newcomer": "came from accounts less than a week old",
    "unseen": "came without a look at the item before",
}
#: Channels of a panel by the trust with which they are read.
COUNTED_BY_BUYER = ("demand", "buyers", "new_buyers")
COUNTED_BY_LINE = ("units", "amount", "orders")
#: Usual units over demand, in the window, from which the buyers are too few.
MOST_REPEATS = 3.0
#: An item with less trust in its orders, and at least so many in the window, is flagged.
FLAG_TRUST, FLAG_ORDERS = 0.75, 10.0
#: And one of whose units at least so many, and more than `1 - FLAG_TRUST` of all, are beyond what is usual.
FLAG_UNITS = 10.0

Channels = Mapping[str, FloatArray]
Floats = npt.NDArray[np.float64]


class Trust:
    """Trust in every item on every day of a panel's rows.

    Args:
        item_idx, day: (R,) int32, sorted by item, then day.
        channels: name -> (R,), of which orders, buyers, the doubtful ones of both, units, usual units and
            demand are read.
        n_days: days of the panel.
    """

    def __init__(self, item_idx: IntArray, day: IntArray, channels: Channels, n_days: int) -> None:
        self._n_days = n_days
        self._day = day
        self._windows = RowWindows(item_idx, day, n_days)
        counted = ("orders", "buyers")
        read = (
            *counted,
            "units",
            "usual_units",
            "demand",
            *(f"{way}_{each}" for way in DOUBTFUL for each in counted),
        )
        self._channels = {name: channels[name] for name in read if name in channels}

    def in_buyers(self, item_idx: IntArray, day: IntArray) -> FloatArray:
        """(m,) float32 trust in the buyers of items as of the end of days."""
        return self._least("buyers", item_idx, day).astype(np.float32)

    def in_orders(self, item_idx: IntArray, day: IntArray) -> FloatArray:
        """(m,) float32 trust in the orders of items as of the end of days."""
        usual, demand = (self._window(name, item_idx, day) for name in ("usual_units", "demand"))
        borne_out = MOST_REPEATS * (demand + PRIOR) / (usual + PRIOR)
        return np.minimum(self._least("orders", item_idx, day), borne_out).astype(np.float32)

    def _least(self, counted: str, item_idx: IntArray, day: IntArray) -> Floats:
        trust = np.ones(len(item_idx))
        for way in DOUBTFUL:
            trust = np.minimum(trust, self._by(way, counted, item_idx, day))
        return trust

    def _by(self, way: str, counted: str, item_idx: IntArray, day: IntArray) -> Floats:
        """(m,) trust by one way to be doubtful, 1 where the shop is not judged by it."""
        total = self._window(counted, item_idx, day)
        usual = self._usual[way, counted][day]
        honest = 1.0 - usual
        sound = total - self._window(f"{way}_{counted}", item_idx, day)
        sound += CHANCE * np.sqrt(total * usual * honest)
        return np.fmin(1.0, (sound + PRIOR * honest) / ((total + PRIOR) * honest))

    def flags(self, item_idx: IntArray) -> list[str]:
        """What is doubtful about each item's orders of the last week, in words; empty for nothing."""
        day = np.full(len(item_idx), self._n_days - 1, dtype=np.int32)
        orders, units, usual_units, demand = (
            self._window(name, item_idx, day) for name in ("orders", "units", "usual_units", "demand")
        )
        said: list[list[str]] = [[] for _ in item_idx]
        for way, words in DOUBTFUL.items():
            suspect = (self._by(way, "orders", item_idx, day) < FLAG_TRUST) & (orders >= FLAG_ORDERS)
            share = self._window(f"{way}_orders", item_idx, day) / np.maximum(orders, 1.0)
            usual = float(self._usual[way, "orders"][-1])
            for row in np.flatnonzero(suspect):
                said[row].append(f"{share[row]:.0%} of last week's orders {words} (in the shop {usual:.0%})")
        few = (usual_units >= MOST_REPEATS * np.maximum(demand, 1.0)) & (orders >= FLAG_ORDERS)
        for row in np.flatnonzero(few):
            said[row].append(
                f"last week's {usual_units[row]:,.0f} units are of buyers who repeat and count as"
                f" {demand[row]:,.0f}"
            )
        many = (usual_units < FLAG_TRUST * units) & (units - usual_units >= FLAG_UNITS)
        for row in np.flatnonzero(many):
            said[row].append(
                f"last week's {units[row]:,.0f} units count as {usual_units[row]:,.0f}: a buyer took far more"
                " in a day than is usual"
            )
        return ["; ".join(words) for words in said]

    def _window(self, name: str, item_idx: IntArray, day: IntArray) -> Floats:
        """(m,) sum over the window that ends with the day."""
        if name not in self._channels:
            return np.zeros(len(item_idx))
        return self._windows.total(self._channels[name], item_idx, day, 1 - WINDOW_DAYS, 0)

    @cached_property
    def _usual(self) -> dict[tuple[str, str], Floats]:
        """(way, counted) -> (D,) share that is doubtful in the whole shop; NaN where it is not judged by."""
        usual = {}
        for counted in ("orders", "buyers"):
            total = self._shop(counted)
            for way in DOUBTFUL:
                share = self._shop(f"{way}_{counted}") / np.maximum(total, 1.0)
                usual[way, counted] = np.where((share <= MOST_DOUBTFUL) & (total > 0), share, np.nan)
        return usual

    def _shop(self, name: str) -> Floats:
        """(D,) the whole shop's sum over the `SHOP_DAYS` that end with each day."""
        if name not in self._channels:
            return np.zeros(self._n_days)
        daily = np.bincount(self._day, weights=self._channels[name], minlength=self._n_days)
        total = np.concatenate([[0.0], np.cumsum(daily)])
        ends = np.arange(1, self._n_days + 1)
        return np.asarray(total[ends] - total[np.maximum(ends - SHOP_DAYS, 0)])
