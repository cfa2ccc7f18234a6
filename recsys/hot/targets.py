"""What happened after an origin: which items were hot, newly hot, or broke out.

Windows before the origin have the horizon's own length. An item's recent rate is its units over the last
`recent_days`, brought to that length. With u the units (or amount) over the horizon, p those of the window
just past, r the recent rate, and q(x) the least value in the top share of x among the items sold in the last
`population_days`:

    hot       u >= q(u) and u >= hot_min_units
    newly hot hot, and not hot in the window just past (p >= q(p) and p >= hot_min_units)
    breakout  u >= q(u), u >= breakout_min_units and u >= breakout_factor * max(r, 1),
              and not so in the window just past against the recent rate before it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.errors import ModelError
from recsys.hot.panel import Panel
from recsys.hot.params import HotTarget, Measure, Scope, TargetParams
from recsys.hot.windows import Samples
from recsys.types import BoolArray, FloatArray, IntArray

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """What followed each sample.

    Attributes:
        label: (R,) whether the target came about.
        units: (R,) float32 units over the horizon.
        reach: (R,) float32 how much of the least that counts was reached: the smallest of the definition's
            ratios, 1 where all hold. A label says that 99 % and 0 % are the same; this says how nearly.
    """

    label: BoolArray
    units: FloatArray
    reach: FloatArray

    def at(self, rows: BoolArray | npt.NDArray[np.intp]) -> Outcomes:
        """Those of a mask or an index array."""
        return Outcomes(self.label[rows], self.units[rows], self.reach[rows])


class TargetBuilder:
    """Reads outcomes off a panel.

    Args:
        panel: the days up to its end are known.
        params: the definition.
        categories: (n,) int32 code of each item's category, needed where the scope is the category.

    Raises:
        ModelError: nothing was bought, or items are to be compared by amounts and none was paid.
    """

    def __init__(self, panel: Panel, params: TargetParams, categories: IntArray) -> None:
        if not panel.has("units"):
            raise ModelError(
                "the log has no purchases before the origin, or none of any quantity: what is hot is told by"
                " units bought"
            )
        if params.measure is Measure.AMOUNT and not panel.has("amount"):
            raise ModelError("the measure is the amount, and no purchase before the origin says one")
        self.panel, self.params, self.categories = panel, params, categories
        self.units = panel.running("units")
        self.measured = self.units
        if params.measure is Measure.AMOUNT:
            self.measured = panel.running("amount")

    def last_origin(self) -> int:
        """The last origin whose whole horizon lies in the panel."""
        return self.panel.n_days - 1 - self.params.horizon_last_day

    def outcomes(self, samples: Samples) -> Outcomes:
        """Outcomes of samples of origins up to `last_origin()`; every origin's population is whole."""
        horizon = self.params.horizon
        reach = np.zeros(len(samples), dtype=np.float64)
        for origin in np.unique(samples.origin):
            rows = np.flatnonzero(samples.origin == origin)
            reach[rows] = self._reach(samples.at(rows), horizon.first, horizon.last + 1)
        label = (reach >= 1) & ~self.already(samples)
        units = self.units.total(samples, horizon.first, horizon.last + 1)
        return Outcomes(label, units, reach.astype(np.float32))

    def already(self, samples: Samples) -> BoolArray:
        """(R,) whether it has come about in the window just past, so that it can not come about anew.

        Nothing at or after the origin is read. A product that is *hot* may stay so: False for that target.
        """
        already = np.zeros(len(samples), dtype=bool)
        for origin in np.unique(samples.origin):
            rows = np.flatnonzero(samples.origin == origin)
            already[rows] = self._already(samples.at(rows))
        return already

    def lead_days(self, samples: Samples) -> FloatArray:
        """(R,) float32 days until the target comes about: until the last day of the first window that has it.

        Windows have the horizon's length, and the first of them ends with the origin's own day, which is day
        0. NaN where none has it by the end of the horizon. Every origin's population is whole.
        """
        lead = np.full(len(samples), np.nan, dtype=np.float32)
        for day in range(self.params.horizon_last_day, -1, -1):
            for origin in np.unique(samples.origin):
                rows = np.flatnonzero(samples.origin == origin)
                end = day + 1
                reached = self._reach(samples.at(rows), end - self.params.horizon.days, end) >= 1
                lead[rows[reached]] = day
        return lead

    def _reach(self, samples: Samples, first: int, end: int) -> Floats:
        p = self.params
        if p.target is HotTarget.BREAKOUT:
            return self._breaks_out(samples, first, end, recent_end=0)
        return self._to_top(samples, first, end, share=p.hot_share, least=p.hot_min_units)

    def _already(self, samples: Samples) -> BoolArray:
        p, days = self.params, self.params.horizon.days
        if p.target is HotTarget.BREAKOUT:
            return self._breaks_out(samples, -days, 0, recent_end=-days) >= 1
        if p.target is HotTarget.NEWLY_HOT:
            return self._to_top(samples, -days, 0, share=p.hot_share, least=p.hot_min_units) >= 1
        return np.zeros(len(samples), dtype=bool)

    def _breaks_out(self, samples: Samples, first: int, end: int, *, recent_end: int) -> Floats:
        p = self.params
        recent = self.units.total(samples, recent_end - p.recent_days, recent_end) * (
            p.horizon.days / p.recent_days
        )
        units = self.units.total(samples, first, end)
        top = self._to_top(samples, first, end, share=p.breakout_share, least=p.breakout_min_units)
        return np.minimum(top, _ratio(units, p.breakout_factor * np.maximum(recent, 1.0)))

    def _to_top(self, samples: Samples, first: int, end: int, *, share: float, least: float) -> Floats:
        value = self.measured.total(samples, first, end)
        enough = _ratio(self.units.total(samples, first, end), least)
        sold = self.units.total(samples, -self.params.population_days, 0) > 0
        if not sold.any():
            return np.zeros(len(samples), dtype=np.float64)
        if self.params.scope is Scope.SHOP:
            return np.minimum(_ratio(value, np.quantile(value[sold], 1.0 - share)), enough)
        category = self.categories[samples.item_idx]
        needed = quantile_by_group(value, category, 1.0 - share, among=sold)
        return np.minimum(_ratio(value, needed), enough)


def _ratio(value: FloatArray, needed: npt.ArrayLike) -> Floats:
    """value / needed; where nothing or less is needed, whether it is reached."""
    needed = np.broadcast_to(np.asarray(needed, dtype=np.float64), value.shape)
    reached = (value >= needed).astype(np.float64)
    return np.asarray(np.divide(value.astype(np.float64), needed, out=reached, where=needed > 0))


def quantile_by_group(
    values: FloatArray, groups: IntArray, q: float, *, among: BoolArray
) -> npt.NDArray[np.float64]:
    """(R,) for each value the q-quantile of its group's values `among`, linear; inf where none."""
    order = np.flatnonzero(among)[np.lexsort((values[among], groups[among]))]
    ordered = values[order].astype(np.float64)
    names, start, count = np.unique(groups[order], return_index=True, return_counts=True)
    position = start + q * (count - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, start + count - 1)
    at = ordered[low] + (position - low) * (ordered[high] - ordered[low])
    place = np.minimum(np.searchsorted(names, groups), len(names) - 1)
    return np.where(names[place] == groups, at[place], np.inf)


def population(panel: Panel, origin: int, days: int) -> IntArray:
    """Items with anything at all in the `days` days before the origin, or listed in them, ascending int32."""
    recent = (panel.day >= origin - days) & (panel.day < origin)
    listed = (panel.listed_day >= max(origin - days, 0)) & (panel.listed_day < origin)
    return np.union1d(panel.item_idx[recent], np.flatnonzero(listed)).astype(np.int32)
