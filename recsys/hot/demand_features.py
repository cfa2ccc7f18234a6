"""Features from an item's own demand: level, momentum, bursts, past peaks, rhythm, breadth, price, funnel.

Rates are brought to the horizon's length, so that "4" means four units a window whatever the horizon. Every
function takes samples and gives name -> (R,) float32; NaN stands for unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.hot.panel import ACTIVITY_CHANNELS, AIRTIME_CHANNELS, Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import RunningTotal, Samples, lagged, log_ratio, rolling
from recsys.types import FloatArray

Features = dict[str, npt.NDArray[Any]]

LEVEL_DAYS = (1, 3, 7, 14, 28, 56, 112)
#: Momentum: the window (first, end) in days before the origin over the window before it.
MOMENTUM = {
    "1_7": ((-1, 0), (-8, -1)),
    "3_14": ((-3, 0), (-17, -3)),
    "7_28": ((-7, 0), (-35, -7)),
    "7_7": ((-7, 0), (-14, -7)),
    "14_14": ((-14, 0), (-28, -14)),
    "28_28": ((-28, 0), (-56, -28)),
    "28_112": ((-28, 0), (-140, -28)),
}
WEEKLY_LAGS = 13
HALF_LIVES_DAYS = (4, 10, 20, 60)
#: Items of which whole tables of days are held at once.
ITEMS_AT_ONCE = 16_384


def level_and_momentum(panel: Panel, target: TargetParams, samples: Samples, channel: str) -> Features:
    """Rates over several windows, their ratios, the ratios' change, weekly lags and averages that decay."""
    h = target.horizon.days
    running = panel.running(channel)
    found: Features = {
        f"{channel}_{days}d": np.log1p(h * running.rate(samples, -days, 0)) for days in LEVEL_DAYS
    }
    for name, (near, far) in MOMENTUM.items():
        found[f"{channel}_momentum_{name}"] = log_ratio(
            h * running.rate(samples, *near), h * running.rate(samples, *far), 0.5
        )
    found[f"{channel}_acceleration"] = found[f"{channel}_momentum_7_7"] - log_ratio(
        h * running.rate(samples, -14, -7), h * running.rate(samples, -21, -14), 0.5
    )
    for week in range(WEEKLY_LAGS):
        found[f"{channel}_week_{week + 1}"] = np.log1p(running.total(samples, -7 * (week + 1), -7 * week))
    for half_life, average in decayed(panel.dense(channel), HALF_LIVES_DAYS, samples).items():
        found[f"{channel}_ewma_{half_life}d"] = np.log1p(h * average)
    return found


def decayed(daily: FloatArray, half_lives_days: Sequence[int], samples: Samples) -> dict[int, FloatArray]:
    """Half-life -> (R,) exponentially weighted mean of the daily values (n, D) before each origin."""
    keep = (0.5 ** (1.0 / np.asarray(half_lives_days, dtype=np.float32)))[:, None]
    found = np.zeros((len(half_lives_days), len(samples)), dtype=np.float32)
    order = np.argsort(samples.origin, kind="stable")
    origins, first = np.unique(samples.origin[order], return_index=True)
    rows_of = dict(zip(origins.tolist(), np.split(order, first[1:]), strict=True))
    state = np.zeros((len(half_lives_days), len(daily)), dtype=np.float32)
    for day, column in enumerate(np.ascontiguousarray(daily[:, : samples.origin.max(initial=0)].T)):
        state = keep * state + (1 - keep) * column
        rows = rows_of.get(day + 1)
        if rows is not None:
            found[:, rows] = state[:, samples.item_idx[rows]]
    return dict(zip(half_lives_days, found, strict=True))


def peaks(panel: Panel, target: TargetParams, samples: Samples) -> Features:
    """Best windows so far and breakouts so far: how high, how long ago, how often, how regularly.

    A past breakout is a window of the horizon's length with at least `breakout_min_units`, in the top share
    of that window, and `breakout_factor` times the rate of the recent days before it.
    """
    top = _least_of_the_top(RunningTotal(panel.dense("units")), target)
    items, item = np.unique(samples.item_idx, return_inverse=True)
    found: Features = {}
    for start in range(0, len(items), ITEMS_AT_ONCE):
        rows = np.flatnonzero((item >= start) & (item < start + ITEMS_AT_ONCE))
        own = Samples((item[rows] - start).astype(np.int32), samples.origin[rows])
        part = panel.of_items(items[start : start + ITEMS_AT_ONCE])
        for name, values in _peaks(part, top, target, own).items():
            found.setdefault(name, np.empty(len(samples), np.float32))[rows] = values
    return found


def _peaks(panel: Panel, top: npt.NDArray[np.float64], target: TargetParams, own: Samples) -> Features:
    """Of a panel of few items.

    Args:
        panel: of n items; its tables of n rows and D columns are all held at once.
        top: (D + 1,) from `_least_of_the_top` of all items.
        target: as in `peaks`.
        own: R pairs.
    """
    h = target.horizon.days
    item, origin = own.item_idx, own.origin
    running = RunningTotal(panel.dense("units"))
    sums = rolling(running.totals, h)
    best = np.maximum.accumulate(sums, axis=1)
    days = np.arange(sums.shape[1], dtype=np.int32)
    at_best = np.maximum.accumulate(np.where((sums >= best) & (sums > 0), days, -1), axis=1)
    recent = h * running.rate(own, -28, 0)
    found: Features = {
        "best_window": np.log1p(best[item, origin]),
        "best_over_recent": log_ratio(best[item, origin], recent, 1.0),
        "days_since_best": _days_since(at_best, own),
    }
    yearly = np.maximum.reduce([sums[item, np.maximum(origin - lag, 0)] for lag in range(0, 112, 4)])
    found["best_window_112d"] = np.log1p(yearly)
    found["best_112d_over_recent"] = log_ratio(yearly, recent, 1.0)
    found["now_over_best"] = log_ratio(sums[item, origin], best[item, origin], 1.0)
    del best, at_best

    before = lagged(rolling(running.totals, target.recent_days), h) * np.float32(h / target.recent_days)
    out = (
        (sums >= np.maximum(top, target.breakout_min_units)[None, :])
        & (sums >= target.breakout_factor * np.maximum(before, 1.0))
        & (days >= h + 14)[None, :]
    )
    began = out.copy()
    began[:, 1:] &= ~out[:, :-1]
    count = np.cumsum(began, axis=1, dtype=np.int32)
    last = np.maximum.accumulate(np.where(out, days, -1), axis=1)
    first = np.where(began.any(axis=1), began.argmax(axis=1), -1)
    times = count[item, origin].astype(np.float32)
    last_began = np.maximum.accumulate(np.where(began, days, -1), axis=1)[item, origin]
    found["breakouts"] = times
    found["breakouts_per_day"] = times / np.maximum(origin, 1)
    found["days_since_breakout"] = _days_since(last, own)
    interval = (last_began - first[item]) / np.maximum(times - 1, 1)
    known = times >= 2
    found["breakout_interval_days"] = np.where(known, interval, np.nan).astype(np.float32)
    found["breakout_phase"] = np.where(known, (origin - last_began) / np.maximum(interval, 1), np.nan).astype(
        np.float32
    )
    found["breaking_out"] = out[item, origin].astype(np.float32)
    excess = np.where(out, sums - before, 0.0)
    found["breakout_height"] = np.log1p(np.maximum.accumulate(excess, axis=1)[item, origin])
    window = np.zeros(len(own), dtype=np.float32)
    end = origin + target.horizon_last_day + 1
    for weeks in range(target.horizon_last_day // 7 + 1, 14):  # was it out in the same days, weeks earlier?
        window += out[item, np.maximum(end - 7 * weeks, 0)]
    found["breakouts_13_weeks"] = window
    return found


def _least_of_the_top(running: RunningTotal, target: TargetParams) -> npt.NDArray[np.float64]:
    """(D + 1,) sales of the horizon's length before each day that only the top share of the items exceed."""
    sums = rolling(running.totals, target.horizon.days)
    active = rolling(running.totals, target.population_days) > 0
    return np.array(
        [
            np.quantile(column[there], 1 - target.breakout_share) if there.any() else np.inf
            for column, there in zip(
                np.ascontiguousarray(sums.T), np.ascontiguousarray(active.T), strict=True
            )
        ]
    )


def rhythm(panel: Panel, samples: Samples) -> Features:
    """Age, the last sale, and the usual distance between days with sales."""
    sold = panel.dense("orders") > 0
    days = np.arange(panel.n_days, dtype=np.int32)
    last = np.full((panel.n_items, panel.n_days + 1), -1, dtype=np.int32)
    np.maximum.accumulate(np.where(sold, days, -1), axis=1, out=last[:, 1:])
    running = panel.running_of(panel.rows("orders") > 0)
    item, origin = samples.item_idx, samples.origin
    first_sale = np.where(sold.any(axis=1), sold.argmax(axis=1), panel.n_days)
    age = (origin - panel.first_day_of[item]).astype(np.float32)
    since_first = np.where(first_sale[item] < origin, origin - first_sale[item], np.nan).astype(np.float32)
    since = _days_since(last, samples)
    sale_days = running.total(samples, -112, 0)
    found: Features = {}
    if panel.has("sold_out"):
        found["sold_out_28d"] = panel.running("sold_out").total(samples, -28, 0)
    return found | {
        "age_days": age,
        "days_since_first_sale": since_first,
        "days_since_sale": since,
        "sale_days_28d": running.total(samples, -28, 0),
        "sale_days_112d": sale_days,
        "lateness": since * sale_days / np.minimum(np.maximum(age, 1), 112),
        "history_days": origin.astype(np.float32),
    }


def breadth(panel: Panel, target: TargetParams, samples: Samples) -> Features:
    """How many different people are behind the sales, and how much of them is doubtful."""
    h = target.horizon.days
    totals = {name: panel.running(name) for name in ("orders", "buyers", "new_buyers", "demand", "units")}
    found: Features = {}
    for days in (7, 28, 84):
        value = {name: running.total(samples, -days, 0) for name, running in totals.items()}
        found[f"units_per_buyer_{days}d"] = log_ratio(value["demand"], value["buyers"], 1.0)
        found[f"new_buyer_share_{days}d"] = (value["new_buyers"] + 1) / (value["buyers"] + 2)
    found["new_buyers_28d"] = np.log1p(h * totals["new_buyers"].rate(samples, -28, 0))
    return found


def price(panel: Panel, samples: Samples) -> Features:
    """What buyers paid a unit, against what they paid before; a price of zero or less says nothing."""
    if not panel.has("unit_price"):
        return {}
    unit_price = panel.rows("unit_price")
    valid = unit_price > 0
    paid = np.log(unit_price, out=np.zeros_like(unit_price), where=valid)
    running, days = panel.running_of(paid), panel.running_of(valid)

    def mean(first: int, end: int) -> FloatArray:
        count = days.total(samples, first, end)
        return np.where(count > 0, running.total(samples, first, end) / np.maximum(count, 1), np.nan).astype(
            np.float32
        )

    usual = mean(-112, 0)
    squares = panel.running_of(paid**2)
    count = days.total(samples, -112, 0)
    variance = squares.total(samples, -112, 0) / np.maximum(count, 1) - np.nan_to_num(usual) ** 2
    return {
        "price": usual,
        "price_7d_over_usual": mean(-7, 0) - usual,
        "price_28d_over_usual": mean(-28, 0) - usual,
        "price_spread": np.sqrt(np.maximum(variance, 0)).astype(np.float32),
    }


def funnel(panel: Panel, target: TargetParams, samples: Samples) -> Features:
    """Views, carts, shares, comments, follows and time on air: level, momentum, rates along the funnel."""
    h = target.horizon.days
    found: Features = {}
    recent: dict[tuple[str, str], FloatArray] = {}
    names = [name for name in (*ACTIVITY_CHANNELS, *AIRTIME_CHANNELS) if panel.has(name)]
    spans = {
        "7": (-7, 0),
        "3": (-3, 0),
        "14": (-14, 0),
        "28": (-28, 0),
        "before": (-35, -7),
        "old": (-56, -14),
    }
    for name in [*names, "orders"]:
        running = panel.running(name)
        rate = {span: h * running.rate(samples, *days) for span, days in spans.items()}
        for span, value in rate.items():
            recent[name, span] = value
        if name == "orders":
            continue
        found[f"{name}_7d"] = np.log1p(rate["7"])
        found[f"{name}_28d"] = np.log1p(rate["28"])
        found[f"{name}_momentum_3_14"] = log_ratio(rate["3"], rate["14"], 0.5)
        found[f"{name}_momentum_7_28"] = log_ratio(rate["7"], rate["before"], 0.5)
        found[f"{name}_momentum_14_56"] = log_ratio(rate["14"], rate["old"], 0.5)
    bases = [base for base in ("impressions", "views", "airtime_min", "orders") if (base, "7") in recent]
    for name in ("views", "carts", "shares", "comments", "follows", "likes", "orders", "returns"):
        for base in bases:
            if (name, "7") not in recent or name == base or (name == "views" and base == "orders"):
                continue
            now = log_ratio(recent[name, "7"], recent[base, "7"], 0.5)
            then = log_ratio(recent[name, "old"], recent[base, "old"], 0.5)
            found[f"{name}_per_{base}_7d"] = now
            found[f"{name}_per_{base}_momentum"] = now - then
            found[f"{name}_per_{base}_momentum_14"] = (
                log_ratio(recent[name, "14"], recent[base, "14"], 0.5) - then
            )
    talk = [name for name in ("carts", "shares", "comments", "follows") if name in names]
    if len(talk) >= 2:
        lifts = np.stack([found[f"{name}_momentum_7_28"] for name in talk])
        found["signals_momentum"] = np.nanmean(np.nan_to_num(lifts), axis=0).astype(np.float32)
        found["signals_weakest"] = np.nan_to_num(lifts).min(axis=0).astype(np.float32)
        lifts = np.stack([found[f"{name}_momentum_14_56"] for name in talk])
        found["signals_momentum_14"] = np.nan_to_num(lifts).mean(axis=0).astype(np.float32)
    return found


def _days_since(last: np.ndarray[tuple[int, int], np.dtype[np.int32]], samples: Samples) -> FloatArray:
    """Days from the last day noted before each origin; NaN where there is none."""
    day = last[samples.item_idx, samples.origin]
    return np.where(day >= 0, samples.origin - day, np.nan).astype(np.float32)
