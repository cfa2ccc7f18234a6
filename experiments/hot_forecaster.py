"""A forecaster of the field as a ranking: IMAPA for intermittent demand (Petropoulos and Kourentzes, 2015).

statsforecast forecasts each item's daily units from the days before the origin; items are ranked by the sum
over the horizon. It is the optional extra [forecast], and nothing but the experiments needs it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.hot.panel import Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import Samples

#: Days of history that a forecast is made from.
HISTORY_DAYS = 182


def imapa(panel: Panel, target: TargetParams, samples: Samples) -> npt.NDArray[np.float32]:
    """(R,) forecast units over the horizon."""
    from statsforecast.models import IMAPA

    daily = panel.dense("units")
    model = IMAPA()
    score = np.zeros(len(samples), dtype=np.float32)
    for origin in np.unique(samples.origin):
        rows = np.flatnonzero(samples.origin == origin)
        history = daily[:, max(origin - HISTORY_DAYS, 0) : origin]
        for row in rows:
            series = history[samples.item_idx[row]]
            if series.any():
                ahead = model.forecast(series, h=target.horizon_last_day + 1)["mean"]
                score[row] = ahead[target.horizon_first_day :].sum()
    return score
