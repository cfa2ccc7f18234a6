"""What an operator would rank by without a model: recent sales in several guises. Higher is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.hot.demand_features import decayed
from recsys.hot.panel import Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import RunningTotal, Samples, rolling
from recsys.types import FloatArray

LEVEL_DAYS = (7, 14, 28, 56)
HALF_LIVES_DAYS = (5, 10, 20, 40)


def rankings(panel: Panel, target: TargetParams, samples: Samples) -> dict[str, FloatArray]:
    """Name -> (R,) score of each rule, read before the samples' origins alone.

    `momentum` is the last 14 days over the 14 before; `best_window` the most units in any past window of the
    horizon's length, `best_over_recent` that over the recent rate; `last_year` the horizon's own days 52
    weeks earlier, left out where any origin is too early for it. One unit a window is added to what divides.
    """
    h = target.horizon.days
    running = RunningTotal(panel.dense("units"))
    found = {f"units_{days}d": running.total(samples, -days, 0) for days in LEVEL_DAYS}
    found["momentum_14d"] = (running.total(samples, -14, 0) + 1) / (running.total(samples, -28, -14) + 1)
    best = np.maximum.accumulate(rolling(running.totals, h), axis=1)[samples.item_idx, samples.origin]
    recent = running.total(samples, -target.recent_days, 0) * (h / target.recent_days)
    found["best_window"] = best
    found["best_over_recent"] = best / np.maximum(recent, 1.0)
    end = target.horizon_last_day + 1
    year_ago = Samples(samples.item_idx, panel.days.a_year_before(samples.origin, ahead=end, nearest=True))
    if len(samples) and year_ago.origin.min() >= 0:
        found["last_year"] = running.total(year_ago, target.horizon_first_day, end)
    return found


def decayed_units(
    panel: Panel, samples: Samples, half_lives_days: Sequence[int] = HALF_LIVES_DAYS
) -> dict[int, FloatArray]:
    """Half-life in days -> (R,) exponentially weighted units a day."""
    return decayed(panel.dense("units"), half_lives_days, samples)


def plain_lags(panel: Panel, samples: Samples) -> tuple[tuple[str, ...], FloatArray]:
    """Names and (R, 13) values: the units of each of the last 13 weeks."""
    running = panel.running("units")
    weeks = range(13)
    values = [np.log1p(running.total(samples, -7 * (week + 1), -7 * week)) for week in weeks]
    return tuple(f"units_week_{week + 1}" for week in weeks), np.stack(values, axis=1)
