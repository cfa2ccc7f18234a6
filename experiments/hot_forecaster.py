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


class Imapa:
    """The ranking; a forecast of one origin serves every target that is judged there."""

    def __init__(self) -> None:
        self._forecast: dict[tuple[int, int], float] = {}

    def __call__(self, panel: Panel, target: TargetParams, samples: Samples) -> npt.NDArray[np.float32]:
        """(R,) forecast units over the horizon."""
        from statsforecast.models import IMAPA

        daily, model = panel.dense("units"), IMAPA()
        score = np.zeros(len(samples), dtype=np.float32)
        for row, key in enumerate(zip(samples.item_idx.tolist(), samples.origin.tolist(), strict=True)):
            if key not in self._forecast:
                item, origin = key
                series = daily[item, max(origin - HISTORY_DAYS, 0) : origin]
                ahead = (
                    model.forecast(series, h=target.horizon_last_day + 1)["mean"] if series.any() else [0.0]
                )
                self._forecast[key] = float(np.sum(ahead[target.horizon_first_day :]))
            score[row] = self._forecast[key]
        return score
