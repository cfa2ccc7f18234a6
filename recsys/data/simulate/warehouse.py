"""Stock: what is left of each product, what could not be sold, and when more arrives."""

from __future__ import annotations

import numpy as np

from recsys.data.simulate.params import DAY_MS, stream
from recsys.data.simulate.reactions import Purchases
from recsys.data.simulate.world import Items
from recsys.types import LongArray


class Warehouse:
    """Fills orders while stock lasts; a product that runs out is delivered again some days later."""

    def __init__(self, items: Items, seed: int) -> None:
        self._seed = seed
        self._lot = items.lot.astype(np.int64)
        self.stock: LongArray = self._lot.copy()
        self._due_day = np.full(len(self.stock), -1, np.int64)
        #: (item_idx, ms, units) of every delivery, the first at the start of the log.
        self.deliveries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
            (np.arange(len(self.stock)), np.zeros(len(self.stock), np.int64), self._lot.copy())
        ]

    def deliver(self, day: int) -> None:
        """Take in what arrives at the start of `day`, and order again what has nearly run out."""
        arrived = np.flatnonzero(self._due_day == day)
        if len(arrived):
            # A product that sold out is ordered in a larger lot the next time.
            self._lot[arrived] *= 2
            self.stock[arrived] += self._lot[arrived]
            self.deliveries.append(
                (arrived, np.full(len(arrived), day * DAY_MS, np.int64), self._lot[arrived])
            )
            self._due_day[arrived] = -1
        low = (self.stock < self._lot * 0.1) & (self._due_day < 0)
        wait = stream(self._seed, "deliveries", day).integers(1, 6, len(low))
        self._due_day[low] = day + wait[low]

    def fill(self, orders: Purchases) -> Purchases:
        """The orders, in time order, that stock allows; the others are lost."""
        rows = np.lexsort((orders.user, orders.at_ms, orders.item))
        item, quantity = orders.item[rows], orders.quantity[rows].astype(np.int64)
        running = np.cumsum(quantity)
        first = np.r_[True, item[1:] != item[:-1]] if len(item) else np.zeros(0, bool)
        before = np.repeat((running - quantity)[first], np.diff(np.r_[np.flatnonzero(first), len(item)]))
        filled = running - before <= self.stock[item]
        np.subtract.at(self.stock, item[filled], quantity[filled])
        return orders.where(rows[filled])
