"""What came out of a simulation: rates beside their targets, and how hard its two problems are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.data.simulate.heat import HotEpisodes
from recsys.data.simulate.params import DAY_MS, MINUTE_MS
from recsys.data.simulate.reactions import Purchases
from recsys.data.simulate.requests import RoomHeadroom
from recsys.data.simulate.world import CATEGORIES, World
from recsys.types import BoolArray, IntArray, LongArray

#: Views of a user that begin less than this after the last one ended are one session.
SESSION_GAP_MS = 30 * MINUTE_MS
REPURCHASE_DAYS = 30
#: A return comes at most this long after the purchase.
LONGEST_RETURN_DAYS = 14
HORIZON_DAYS = (7, 15)
_TOP = 50


@dataclass(frozen=True)
class Rate:
    """A rate of the log beside its target: a value, or the two ends of a range."""

    name: str
    value: float
    target: tuple[float, float]


@dataclass(frozen=True)
class HotCeiling:
    """Precision@50 of true hot items over the weekly origins of the last half (`horizon` 7:15).

    Attributes:
        origins: number of origins.
        positives: mean number of products that are right at an origin.
        sales: best of units of the last 7, 14, 28, 56 days and exponentially weighted ones.
        sales_by_rule: each of those.
        truth: ranking by the true turning days.
        breakouts: share of the products right at an origin whose units then broke out as well.
    """

    origins: int
    positives: float
    sales: float
    sales_by_rule: dict[str, float]
    truth: float
    breakouts: float


@dataclass(frozen=True)
class SimulationSummary:
    """What was written, and the figures that say what the log is like."""

    out: Path
    events: int
    users: int
    items: int
    streamers: int
    rooms: int
    sessions: int
    purchases: int
    rates: tuple[Rate, ...]
    sold_out: float
    hot_ceiling: HotCeiling | None
    room_headroom: RoomHeadroom | None


@dataclass(frozen=True)
class Watching:
    """Sessions (N,) as the log shows them: consecutive views of a user, gaps below half an hour."""

    user: IntArray
    start_ms: LongArray
    watched_ms: LongArray


def sessions_of(user: IntArray, start_ms: LongArray, end_ms: LongArray) -> Watching:
    """The sessions that views (V,) make, by user and time."""
    rows = np.lexsort((start_ms, user))
    user, start_ms, end_ms = user[rows], start_ms[rows], end_ms[rows]
    if not len(user):
        return Watching(user, start_ms, end_ms)
    first = np.r_[True, (user[1:] != user[:-1]) | (start_ms[1:] - end_ms[:-1] >= SESSION_GAP_MS)]
    at = np.flatnonzero(first)
    return Watching(user[at], start_ms[at], np.add.reduceat(end_ms - start_ms, at))


def conversion(watching: Watching, buyer: IntArray, at_ms: LongArray) -> float:
    """Share of sessions with a purchase.

    A purchase belongs to its user's last session that began no later than half an hour after it: the shelf
    comes before the first room, and a cart may be paid for later.
    """
    span = int(max(watching.start_ms.max(initial=0), at_ms.max(initial=0))) + 2 * SESSION_GAP_MS
    key = watching.user * np.int64(span) + watching.start_ms
    found = np.searchsorted(key, buyer * np.int64(span) + at_ms + SESSION_GAP_MS, side="right") - 1
    found = found[found >= 0]
    return len(np.unique(found)) / max(len(key), 1)


def repurchase(buyer: IntArray, at_ms: LongArray, days: int) -> float:
    """Share of buyers who buy again on another day within 30 days of their first purchase.

    Buyers whose 30 days are not over when the log ends do not count; NaN where that leaves nobody.
    """
    day = at_ms // DAY_MS
    pairs = np.unique(buyer * np.int64(days + 2) + day)
    user, day = pairs // (days + 2), pairs % (days + 2)
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else np.zeros(0, np.int64)
    whole = first[day[first] + REPURCHASE_DAYS < days]
    nxt = np.minimum(whole + 1, len(user) - 1)
    again = (user[nxt] == user[whole]) & (nxt > whole) & (day[nxt] - day[whole] <= REPURCHASE_DAYS)
    return float(again.mean()) if len(whole) else float("nan")


def rates_of(world: World, watching: Watching, orders: Purchases, returned: BoolArray) -> tuple[Rate, ...]:
    """The aggregate rates beside their targets; `returned` (N,) marks orders that came back in the log."""
    days = world.params.days
    old = orders.at_ms < (days - LONGEST_RETURN_DAYS) * DAY_MS
    category = world.items.category[orders.item]
    minutes = float(watching.watched_ms.mean()) / MINUTE_MS if len(watching.user) else float("nan")
    rates = [
        Rate("watch minutes a session", minutes, (42.0, 42.0)),
        Rate("conversion", conversion(watching, orders.user, orders.at_ms), (0.083, 0.083)),
        Rate("30-day repurchase", repurchase(orders.user, orders.at_ms, days), (0.34, 0.34)),
    ]
    for code, known in enumerate(CATEGORIES):
        rows = old & (category == code)
        share = float(returned[rows].mean()) if rows.any() else float("nan")
        target = (0.45, 0.60) if known.apparel else (known.return_rate, known.return_rate)
        rates.append(Rate(f"returns, {known.name}", share, target))
    return tuple(rates)


def true_hot(episodes: HotEpisodes, origin_day: int, items: int) -> BoolArray:
    """(I,) products that are right at an origin: not hot yet, and turned hot within its horizon's days.

    Hot within days a to b after the origin means that the hot phase, which begins on the turning day,
    covers at least half of those days.
    """
    first, last = origin_day + HORIZON_DAYS[0], origin_day + HORIZON_DAYS[1] + 1
    covered = np.minimum(episodes.end_day, last) - np.maximum(episodes.turn_day, first)
    right = ~episodes.decoy & (episodes.turn_day >= origin_day) & (covered >= (last - first) / 2)
    hot = np.zeros(items, bool)
    hot[episodes.item[right]] = True
    return hot


def hot_ceiling(world: World, episodes: HotEpisodes, orders: Purchases) -> HotCeiling | None:
    """How far sales alone and the truth itself get; None for a log too short to have an origin."""
    days, items = world.params.days, world.params.items
    origins = range(-(-days // 2), days - HORIZON_DAYS[1], 7)
    if not origins:
        return None
    units = np.zeros((days + 1, items))
    np.add.at(units, (np.minimum(orders.at_ms // DAY_MS, days), orders.item), orders.quantity)
    precision: dict[str, list[float]] = {}
    positives, breaking = [], []
    for origin in origins:
        right = true_hot(episodes, origin, items)
        positives.append(int(right.sum()))
        past = units[:origin][::-1]
        scores = {f"units of {n} days": past[:n].sum(axis=0) for n in (7, 14, 28, 56)}
        for half_life in (5, 10, 20):
            weights = 0.5 ** (np.arange(len(past)) / half_life)
            scores[f"weighted, half-life {half_life} days"] = weights @ past
        scores["truth"] = right * 1.0
        for name, score in scores.items():
            best = np.argsort(-score, kind="stable")[:_TOP]
            precision.setdefault(name, []).append(float(right[best].mean()))
        if right.any():
            breaking.append(float(_breakouts(units, origin)[right].mean()))
    means = {name: float(np.mean(values)) for name, values in precision.items()}
    truth = means.pop("truth")
    return HotCeiling(
        origins=len(origins),
        positives=float(np.mean(positives)),
        sales=max(means.values()),
        sales_by_rule=means,
        truth=truth,
        breakouts=float(np.mean(breaking)) if breaking else float("nan"),
    )


def _breakouts(units: npt.NDArray[np.float64], origin: int) -> BoolArray:
    """(I,) top 5 % of the products sold in 56 days, at least 4 units and twice the rate of the last 28."""
    first, last = origin + HORIZON_DAYS[0], origin + HORIZON_DAYS[1] + 1
    ahead = units[first:last].sum(axis=0)
    sold = units[max(origin - 56, 0) : origin].sum(axis=0) > 0
    own = np.maximum(units[max(origin - 28, 0) : origin].mean(axis=0) * (last - first), 1)
    cut = np.quantile(ahead[sold], 0.95) if sold.any() else np.inf
    out: BoolArray = sold & (ahead >= max(cut, 4)) & (ahead >= 2 * own)
    return out
