"""Why the model thinks so, in words: the concepts that push an item's score up most, with their figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from recsys.hot.context_features import PROMOTED, SINCE, STARTS
from recsys.hot.features import FeatureTable
from recsys.hot.forerunners import AGE_UNKNOWN_DAYS
from recsys.hot.groups import COLUMN
from recsys.hot.model import HotModel

REASONS = 3
#: A ratio is told of what came to so many a window in four weeks, a share where so many days had a sale: of
#: less it is the prior that speaks.
ENOUGH, ENOUGH_DAYS = 1.0, 3
#: A change of less than this share is none.
LEAST_CHANGE = 0.05
Row = Mapping[str, float]
#: A figure in words.
Statement = Callable[[float], str | None]

#: First pattern that a feature's name matches decides its concept.
_CONCEPTS: tuple[tuple[str, str], ...] = (
    (rf"^{PROMOTED}", "promotions"),
    (rf"^{COLUMN}.*_last_year_rise$", "last year"),
    (rf"^{COLUMN}", "group"),
    (r"^(promotion|discount)_.*(ahead|before)", "promotion ahead"),
    (r"forerunners", "forerunners"),
    (r"^(last|busy)_hours", "last hours"),
    (r"^(carts|shares|comments|follows|likes|views|viewers|impressions|returns)(_|$)", r"\1"),
    (r"^signals_", "signals"),
    (r"^(airtime_min|pitches|rooms|streamers|watch_s)_", "on air"),
    (r"^orders_per_", "conversion"),
    (r"(last_year)", "last year"),
    (r"^(season|weekday|shop_)", "calendar"),
    (r"^(best|now_over_best|days_since_best)", "peak"),
    (r"^(breakout|breaking|days_since_breakout)", "past breakouts"),
    (r"^price", "price"),
    (r"^(units_per_buyer|new_buyer)", "breadth"),
    (r"^sold_out", "stock"),
    (r"^(age|days_since|history|lateness|sale_days)", "age"),
    (r"^(demand|buyers)_(momentum|acceleration)", "momentum"),
    (r"^(demand|buyers)_", "level"),
    (r"_(momentum_.*|level|size|share_28d)$", "group"),
)

_NAMES = {
    "carts": "cart adds",
    "shares": "shares",
    "comments": "comments",
    "follows": "follows",
    "likes": "likes",
    "views": "views",
    "viewers": "different viewers",
    "impressions": "impressions",
    "returns": "returns",
    "orders": "orders",
}


def concept(feature: str) -> str:
    """The concept that a feature belongs to."""
    for pattern, name in _CONCEPTS:
        match = re.search(pattern, feature)
        if match:
            return match.expand(name)
    raise KeyError(f"feature {feature!r} belongs to no concept of recsys.hot.reasons")


def explain(model: HotModel, features: FeatureTable, rows: npt.NDArray[np.intp]) -> list[str]:
    """Up to three reasons for each chosen row, strongest first, joined by "; ".

    A concept's strength is the sum of its features' contributions to the log odds (TreeSHAP). Where several
    figures could speak for it, the one that contributes most does, and none that pulls the other way.
    """
    if not len(rows):
        return []
    concepts = [concept(name) for name in features.names]
    names = sorted(set(concepts))
    place = np.array([names.index(name) for name in concepts])
    values = features.values[rows]
    contributions = model.contributions(values)
    strength = np.zeros((len(rows), len(names)))
    for column, where in enumerate(place):
        strength[:, where] += contributions[:, column]
    texts = []
    for r in range(len(rows)):
        figures = dict(zip(features.names, values[r].tolist(), strict=True))
        pushes = dict(zip(features.names, contributions[r].tolist(), strict=True))
        said: list[str] = []
        for where in np.argsort(-strength[r], kind="stable"):
            if strength[r, where] <= 0 or len(said) == REASONS:
                break
            text = say(names[where], figures, pushes)
            if text is not None:
                said.append(text)
        texts.append("; ".join(said) if said else _level(figures))
    return texts


def plain_reasons(features: FeatureTable, rows: npt.NDArray[np.intp]) -> list[str]:
    """One plain statement about the recent sales of each chosen row."""
    level = np.expm1(features.column("demand_28d")[rows])
    momentum = np.exp(features.column("demand_momentum_7_28")[rows])
    return [
        f"sells {units:.1f} a window of late{'' if np.isnan(m) else f', last week {_times(m)}'}"
        for units, m in zip(level.tolist(), momentum.tolist(), strict=True)
    ]


def say(name: str, row: Row, pushes: Row | None = None) -> str | None:
    """A concept in words, with the row's figures; None where the figures say nothing.

    Args:
        name: of the concept.
        row: the figures by feature.
        pushes: what each contributes; None takes the first that there is.
    """
    if name in _SIGNALS:
        return _strongest(_SIGNALS[name], row, pushes)
    speak = _SPEAKERS.get(name)
    return None if speak is None else speak(row)


def _strongest(features: Mapping[str, Statement], row: Row, pushes: Row | None) -> str | None:
    """The statement of the feature that contributes most, if it contributes at all."""
    there = [name for name in features if np.isfinite(row.get(name, np.nan)) and _borne_out(name, row)]
    if pushes is not None:
        there = sorted((name for name in there if pushes[name] > 0), key=lambda name: -pushes[name])
    return next((text for name in there if (text := features[name](row[name])) is not None), None)


def _borne_out(feature: str, row: Row) -> bool:
    """Whether a ratio is one of enough."""
    ratio = re.match(r"(\w+?)(?:_per_(\w+?))?_momentum", feature)
    channels = () if ratio is None else (name for name in ratio.groups() if name is not None)
    return all(_enough("demand" if name == "orders" else name, row) for name in channels)


def _enough(channel: str, row: Row) -> bool:
    return not row.get(f"{channel}_28d", np.inf) < np.log1p(ENOUGH)


def _statements(feature: str, what: str) -> dict[str, Statement]:
    """What can be said of a channel's level and momentum, by feature; `demand_features.funnel` makes them."""
    return {
        f"{feature}_momentum_7_28": _change(f"{what} last week"),
        f"{feature}_momentum_3_14": _change(f"{what} of three days", "their two weeks"),
        f"{feature}_momentum_14_56": _change(f"{what} of two weeks", "the six weeks before"),
        f"{feature}_7d": _number(f"last week {{:.1f}} {what} a window"),
        f"{feature}_28d": _number(f"in four weeks {{:.1f}} {what} a window"),
    }


def _rates(feature: str, what: str) -> dict[str, Statement]:
    """What can be said of a channel's rates along the funnel."""
    return {
        f"{feature}_per_{base}_{span}": _change(f"{what} per {per} {last}", "the weeks before")
        for base, per in _PER.items()
        for span, last in (("momentum", "last week"), ("momentum_14", "in two weeks"))
    }


BEFORE = "the four weeks before"


def _change(what: str, before: str = BEFORE) -> Statement:
    """Of the logarithm of a ratio; nothing where it hardly changed."""
    return lambda ln: _changed(what, float(np.exp(ln)), before)


def _changed(what: str, ratio: float, before: str = BEFORE) -> str | None:
    if not np.isfinite(ratio) or abs(ratio - 1) < LEAST_CHANGE:
        return None
    return f"{what} {_times(ratio, before)}"


def _number(text: str) -> Statement:
    """Of ln(1 + a number); nothing where there is none."""
    return lambda ln: text.format(np.expm1(ln)) if np.expm1(ln) >= LEAST_CHANGE else None


def _times(ratio: float, before: str = BEFORE) -> str:
    if ratio >= 1.8:
        return f"{ratio:.1f} times {before}"
    change = round(100 * (ratio - 1))
    return f"{change:+d} % on {before}" if change else f"level with {before}"


def _momentum(row: Row) -> str | None:
    week, month = float(np.exp(row["demand_momentum_7_28"])), float(np.exp(row["demand_momentum_28_112"]))
    if np.isfinite(month) and month <= 0.8 and not week >= 1.1:
        return f"units of the last four weeks {round(100 * (1 - month))} % below its longer average"
    return _changed("units last week", week) if _enough("demand", row) else None


def _level(row: Row) -> str:
    return f"sells {np.expm1(row['demand_ewma_20d']):.1f} units a window of late"


def _peak(row: Row) -> str | None:
    best, over = np.expm1(row["best_window"]), np.exp(row["best_over_recent"])
    since = row["days_since_best"]
    if np.isnan(since):
        return None
    return f"has sold {best:.0f} in one window, {over:.1f} times its recent rate, {_days_ago(since)}"


def _past_breakouts(row: Row) -> str | None:
    times, since = row["breakouts"], row["days_since_breakout"]
    if not times or np.isnan(since):
        return None
    return f"has broken out {'once' if times == 1 else f'{times:.0f} times'}, last {_days_ago(since)}"


def _price(row: Row) -> str | None:
    change = np.expm1(row["price_7d_over_usual"])
    if np.isnan(change) or abs(change) < 0.02:
        change = np.expm1(row["price_28d_over_usual"])
    if not np.isnan(change) and abs(change) >= 0.02:
        return f"price paid {100 * change:+.0f} % against the usual"
    return None if np.isnan(row["price"]) else f"usual price {np.exp(row['price']):.2f}"


def _age(row: Row) -> str:
    if row["age_days"] < min(60, row["history_days"] - AGE_UNKNOWN_DAYS):
        return f"new: {_counted(row['age_days'], 'day')} old"
    # Days out of stock are counted as those before them.
    sold = max(row["sale_days_28d"] - row.get("sold_out_28d", 0.0), 0.0)
    return f"sold on {sold:.0f} of the last 28 days"


def _stock(row: Row) -> str | None:
    days = row["sold_out_28d"]
    return f"out of stock on {days:.0f} of the last 28 days" if days else None


def _breadth(row: Row) -> str | None:
    share = row["new_buyer_share_28d"]
    if row.get("sale_days_28d", np.inf) < ENOUGH_DAYS:
        return None
    return f"{100 * share:.0f} % of buyers in four weeks are new to it"


def _group(row: Row) -> str | None:
    for kind in ("category", "title"):
        what = "its category" if kind == "category" else "products of like title"
        text = _changed(f"{what} last week", float(np.exp(row.get(f"{kind}_momentum_7_28", np.nan))))
        if text is not None:
            return text
    return None


def _last_year(row: Row) -> str | None:
    rise = np.exp(row.get("last_year_wide_rise", np.nan))
    return None if np.isnan(rise) or rise < 1.1 else f"rose to {rise:.1f} times at this time last year"


def _calendar(row: Row) -> str | None:
    return _changed("the season: the shop's orders last week", float(np.exp(row["shop_momentum"])))


def _ahead(row: Row) -> str | None:
    days = row.get("promotion_days_ahead", 0.0)
    if not days:
        return None
    off = row.get("discount_ahead", 0.0)
    return f"promotion on {days:.0f} of the days ahead" + (f", {100 * off:.0f} % off" if off else "")


def _promotions(row: Row) -> str | None:
    for name, since in row.items():
        if name.startswith(PROMOTED) and name.endswith(SINCE) and not np.isnan(since):
            kind = name.removeprefix(PROMOTED).removesuffix(SINCE)
            times = row[f"{PROMOTED}{kind}{STARTS}"]
            return f"{kind} promotions so far {times:.0f}, last {_days_ago(since)}"
    return None


def _forerunners(row: Row) -> str | None:
    units = np.expm1(row["forerunners_ahead"])
    return None if np.isnan(units) else f"older products like it sold {units:.1f} a window at its age"


def _last_hours(row: Row) -> str | None:
    ratios = {name: row.get(f"last_hours_{name}", 0.0) for name in _NAMES}
    most = max(ratios, key=lambda name: abs(ratios[name]))
    ratio = float(np.exp(ratios[most]))
    if abs(ratio - 1) < LEAST_CHANGE:
        return None
    return f"{_NAMES[most]} in the last hours {ratio:.1f} times those hours of the week before"


def _signals(row: Row) -> str | None:
    if not any(
        _enough(name, row) for name in ("carts", "shares", "comments", "follows") if f"{name}_28d" in row
    ):
        return None
    return _changed("carts, shares, comments and follows together", float(np.exp(row["signals_momentum"])))


_SPEAKERS: Mapping[str, Callable[[Row], str | None]] = {
    "momentum": _momentum,
    "level": _level,
    "peak": _peak,
    "past breakouts": _past_breakouts,
    "price": _price,
    "age": _age,
    "breadth": _breadth,
    "stock": _stock,
    "group": _group,
    "last year": _last_year,
    "calendar": _calendar,
    "promotion ahead": _ahead,
    "promotions": _promotions,
    "signals": _signals,
    "forerunners": _forerunners,
    "last hours": _last_hours,
}


#: How the base of a rate is called.
_PER = {"impressions": "impression", "views": "view", "airtime_min": "minute on air", "orders": "order"}
#: Concepts that are one channel or several: what can be said, by feature.
_SIGNALS: Mapping[str, Mapping[str, Statement]] = {
    **{
        name: _statements(name, what) | _rates(name, what)
        for name, what in _NAMES.items()
        if name != "orders"
    },
    "conversion": _rates("orders", "orders"),
    "on air": {
        feature: statement
        for name, what in {
            "airtime_min": "minutes on air",
            "pitches": "pitches",
            "rooms": "rooms with it",
            "streamers": "streamers with it",
            "watch_s": "seconds watched",
        }.items()
        for feature, statement in _statements(name, what).items()
    },
}


def _counted(number: float, what: str) -> str:
    return f"{number:.0f} {what}{'' if round(number) == 1 else 's'}"


def _days_ago(days: float) -> str:
    return f"{_counted(days, 'day')} ago"
