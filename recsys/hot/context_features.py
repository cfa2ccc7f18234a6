"""Features from around an item: its groups' heat, the calendar, last year, and promotions known ahead."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from recsys.hot.days import YEAR_DAYS
from recsys.hot.demand_features import Features
from recsys.hot.panel import Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import RunningTotal, Samples, log_ratio
from recsys.types import BoolArray, FloatArray

PROMOTION_LAG_WEEKS = 13
#: What the features of a kind of promotion begin with, and what two of them end with.
PROMOTED, SINCE, STARTS = "promoted ", "_days_since", "_starts"


def calendar(panel: Panel, target: TargetParams, samples: Samples) -> Features:
    """Where in the year the horizon lies, and how the shop as a whole is moving."""
    middle = (target.horizon_first_day + target.horizon_last_day) // 2
    origins, position = np.unique(samples.origin, return_inverse=True)
    dates = [panel.days.date_of(int(origin) + middle) for origin in origins]
    day_of_year = np.array([day.timetuple().tm_yday for day in dates])
    weekday = np.array([panel.days.date_of(int(origin)).weekday() for origin in origins])
    shop = RunningTotal(panel.by_group("orders", np.zeros(panel.n_items, np.int32), 1))
    whole = Samples(np.zeros(len(samples), np.int32), samples.origin)
    angle = 2 * np.pi * day_of_year / 365.25
    return {
        "season_sin": np.sin(angle)[position].astype(np.float32),
        "season_cos": np.cos(angle)[position].astype(np.float32),
        "weekday": weekday[position].astype(np.float32),
        "shop_momentum": log_ratio(shop.rate(whole, -7, 0), shop.rate(whole, -35, -7), 1.0),
    }


def last_year(panel: Panel, target: TargetParams, samples: Samples) -> Features:
    """The same days a year earlier against the weeks before them; NaN where the log is too young."""
    if panel.n_days <= YEAR_DAYS:
        return {}
    h, (first, end) = target.horizon.days, (target.horizon_first_day, target.horizon_last_day + 1)
    running = panel.running("demand")
    year_ago = Samples(samples.item_idx, panel.days.a_year_before(samples.origin, ahead=end + 7))
    then = h * running.rate(year_ago, first, end)
    wide = h * running.rate(year_ago, first - 7, end + 7)
    before = h * running.rate(year_ago, -28, 0)
    now = h * running.rate(samples, -28, 0)
    young = year_ago.origin < 0

    def known(values: FloatArray) -> FloatArray:
        return np.where(young, np.nan, values).astype(np.float32)

    return {
        "last_year": known(np.log1p(then)),
        "last_year_wide": known(np.log1p(wide)),
        "last_year_rise": known(log_ratio(then, before, 1.0)),
        "last_year_wide_rise": known(log_ratio(wide, before, 1.0)),
        "last_year_over_now": known(log_ratio(then, now, 1.0)),
        "last_year_wide_over_now": known(log_ratio(wide, now, 1.0)),
    }


def groups(
    panel: Panel, target: TargetParams, samples: Samples, memberships: Mapping[str, sparse.csr_matrix]
) -> Features:
    """Heat of each item's groups (category, brand, words of its title), and the item's share in them.

    Args:
        panel: the daily facts.
        target: for the horizon.
        samples: R pairs.
        memberships: kind of group -> (n, groups) CSR of weights, each row summing to 1 or empty.
    """
    h = target.horizon.days
    # Logarithms first: one giant item must not be its whole category.
    demand = np.log1p(panel.dense("demand"))
    found: Features = {}
    share_28 = panel.running_of(np.log1p(panel.rows("demand"))).total(samples, -28, 0)
    for kind, membership in memberships.items():
        ones = sparse.csr_matrix(
            (np.ones_like(membership.data), membership.indices, membership.indptr), shape=membership.shape
        )
        heat = RunningTotal(np.asarray(ones.T @ demand, dtype=np.float32))
        size = np.asarray(ones.sum(axis=0)).ravel()
        n_groups = membership.shape[1]
        for origin in np.unique(samples.origin):
            rows = np.flatnonzero(samples.origin == origin)
            items = samples.item_idx[rows]
            at = Samples(np.arange(n_groups, dtype=np.int32), np.full(n_groups, origin, np.int32))
            r7, r14, r28 = (h * heat.rate(at, -days, 0) for days in (7, 14, 28))
            before, old = h * heat.rate(at, -35, -7), h * heat.rate(at, -84, -28)
            values = {
                f"{kind}_momentum_7_28": log_ratio(r7, before, 3.0),
                f"{kind}_momentum_28_84": log_ratio(r28, old, 3.0),
                f"{kind}_momentum_7_14": log_ratio(r7, r14, 3.0),
                f"{kind}_level": np.log1p(r28),
                f"{kind}_size": np.log1p(size).astype(np.float32),
            }
            if panel.n_days > YEAR_DAYS:
                first, end = target.horizon_first_day, target.horizon_last_day + 1
                year_ago = Samples(at.item_idx, panel.days.a_year_before(at.origin, ahead=end))
                rise = log_ratio(h * heat.rate(year_ago, first, end), h * heat.rate(year_ago, -28, 0), 3.0)
                values[f"{kind}_last_year_rise"] = np.where(year_ago.origin >= 0, rise, np.nan)
            mine = membership[items]
            empty = np.diff(mine.indptr) == 0
            for name, value in values.items():
                mean = np.asarray(mine @ np.nan_to_num(value), dtype=np.float32)
                mean[empty] = np.nan
                found.setdefault(name, np.empty(len(samples), np.float32))[rows] = mean
            total = np.asarray(mine @ heat.total(at, -28, 0), dtype=np.float32)
            share = log_ratio(share_28[rows], total, 1.0)
            share[empty] = np.nan
            found.setdefault(f"{kind}_share_28d", np.empty(len(samples), np.float32))[rows] = share
    return found


def promotions(
    panel: Panel,
    target: TargetParams,
    samples: Samples,
    memberships: Mapping[str, sparse.csr_matrix],
) -> Features:
    """Promotions over the horizon as far as they are announced, past ones, and their rhythm.

    Days of a promotion that was announced later than its start count from the announcement on.
    """
    if not len(panel.promotions):
        return {}
    known = panel.promotions
    items, place = np.unique(samples.item_idx, return_inverse=True)
    own, of_own = panel.of_items(items), Samples(place.astype(np.int32), samples.origin)
    found: Features = {}
    for code, kind in enumerate(known.kinds[:3]):
        promoted = _promoted_days(panel, known.kind == code)
        # A name of the log's own stays apart from the features': a kind may be called `demand`.
        name = f"{PROMOTED}{kind}"
        found |= _past_promotion(own, promoted[items], of_own, name)
        for group, membership in memberships.items():
            found |= _group_promotion(promoted, samples, membership, f"{name}, {group}")
    found |= _ahead(panel, target, samples)
    found["promotion_days_ahead_share"] = found["promotion_days_ahead"] / target.horizon.days
    return found


def _past_promotion(panel: Panel, promoted: FloatArray, samples: Samples, name: str) -> Features:
    """How much an item was promoted of late, and in what rhythm.

    Args:
        panel: of n items.
        promoted: (n, D) strength of their promotions.
        samples: R pairs.
        name: what the features' begin with.
    """
    d = panel.n_days
    found: Features = {}
    running = RunningTotal(promoted)
    for lag in range(PROMOTION_LAG_WEEKS):
        found[f"{name}_week_{lag + 1}"] = running.total(samples, -7 * (lag + 1), -7 * lag) / 7
    for days in (28, 84, 168, 364):
        found[f"{name}_{days}d"] = running.total(samples, -days, 0) / days
    on = promoted > 0.02
    days_index = np.arange(d, dtype=np.int32)
    last = np.full((panel.n_items, d + 1), -1, dtype=np.int32)
    np.maximum.accumulate(np.where(on, days_index, -1), axis=1, out=last[:, 1:])
    since = samples.origin - last[samples.item_idx, samples.origin]
    never = last[samples.item_idx, samples.origin] < 0
    found[f"{name}{SINCE}"] = np.where(never, np.nan, since).astype(np.float32)
    starts = on.copy()
    starts[:, 1:] &= ~on[:, :-1]
    begun = RunningTotal(starts)
    times = begun.total(samples, -d, 0)
    last_start = np.full((panel.n_items, d + 1), -1, dtype=np.int32)
    np.maximum.accumulate(np.where(starts, days_index, -1), axis=1, out=last_start[:, 1:])
    first_start = np.where(starts.any(axis=1), starts.argmax(axis=1), 0)[samples.item_idx]
    latest = last_start[samples.item_idx, samples.origin]
    interval = (latest - first_start) / np.maximum(times - 1, 1)
    regular = times >= 2
    found[f"{name}{STARTS}"] = times
    found[f"{name}_interval_days"] = np.where(regular, interval, np.nan).astype(np.float32)
    phase = (samples.origin - latest) / np.maximum(interval, 1)
    found[f"{name}_phase"] = np.where(regular, phase, np.nan).astype(np.float32)
    return found | _uplift(panel, samples, on, name)


def _promoted_days(panel: Panel, chosen: BoolArray) -> FloatArray:
    """(n, D) strength of the strongest promotion on each day from its announcement on."""
    promotions, d = panel.promotions, panel.n_days
    table = np.zeros((panel.n_items, d), dtype=np.float32)
    start = np.maximum(promotions.start_day, promotions.announced_day)[chosen]
    end = np.minimum(promotions.end_day[chosen], d)
    item, strength = promotions.item_idx[chosen], promotions.strength[chosen]
    for offset in range(int((end - start).max(initial=0))):
        day = start + offset
        rows = (day >= 0) & (day < end)
        np.maximum.at(table, (item[rows], day[rows]), strength[rows])
    return table


def _uplift(panel: Panel, samples: Samples, on: BoolArray, name: str) -> Features:
    """How much more the item sold a day under past promotions than without."""
    demand = panel.dense("demand")
    days_on = RunningTotal(on).total(samples, -panel.n_days, 0)
    sold_on = RunningTotal(np.where(on, demand, 0)).total(samples, -panel.n_days, 0)
    sold = panel.running("demand").total(samples, -panel.n_days, 0)
    days_off = np.maximum(samples.origin - days_on, 1)
    lift = log_ratio(7 * sold_on / np.maximum(days_on, 1), 7 * (sold - sold_on) / days_off, 0.5)
    return {f"{name}_uplift": np.where(days_on > 0, lift, np.nan).astype(np.float32)}


def _group_promotion(
    past: FloatArray, samples: Samples, membership: sparse.csr_matrix, name: str
) -> Features:
    """Mean promotion of the item's group over the last week and the last four."""
    size = np.maximum(np.asarray(membership.sum(axis=0)).ravel(), 1e-9)
    mean = np.asarray(membership.T @ past, dtype=np.float32) / size[:, None].astype(np.float32)
    running = RunningTotal(mean)
    found: Features = {}
    for days in (7, 28):
        value = np.empty(len(samples), np.float32)
        for origin in np.unique(samples.origin):
            rows = np.flatnonzero(samples.origin == origin)
            at = Samples(np.arange(len(mean), dtype=np.int32), np.full(len(mean), origin, dtype=np.int32))
            value[rows] = membership[samples.item_idx[rows]] @ (running.total(at, -days, 0) / days)
        found[f"{name}_{days}d"] = value
    return found


def _ahead(panel: Panel, target: TargetParams, samples: Samples) -> Features:
    """Promotions that overlap the horizon, or the days up to it, and had been announced by the origin."""
    known = panel.promotions
    inside = np.zeros(len(samples), np.float32)
    until = np.zeros(len(samples), np.float32)
    discount = np.zeros(len(samples), np.float32)
    for origin in np.unique(samples.origin):
        rows = np.flatnonzero(samples.origin == origin)
        first, end = origin + target.horizon_first_day, origin + target.horizon_last_day + 1
        chosen = np.flatnonzero(known.known(int(origin)) & (known.end_day > origin) & (known.start_day < end))
        item, start, stop = known.item_idx[chosen], known.start_day[chosen], known.end_day[chosen]
        days = np.zeros(panel.n_items, np.float32)
        soon = np.zeros(panel.n_items, np.float32)
        best = np.zeros(panel.n_items, np.float32)
        np.maximum.at(days, item, np.clip(np.minimum(stop, end) - np.maximum(start, first), 0, None))
        np.maximum.at(soon, item, np.clip(np.minimum(stop, first) - np.maximum(start, origin), 0, None))
        overlaps = (stop > first) & (start < end)
        np.maximum.at(best, item[overlaps], known.discount[chosen][overlaps])
        inside[rows], until[rows], discount[rows] = (
            table[samples.item_idx[rows]] for table in (days, soon, best)
        )
    return {"promotion_days_ahead": inside, "promotion_days_before": until, "discount_ahead": discount}
