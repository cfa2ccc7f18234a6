"""A forecaster of the field as a ranking: IMAPA for intermittent demand (Petropoulos and Kourentzes, 2015).

statsforecast forecasts each item's daily units from the days before the origin; items are ranked by the sum
over the horizon. It is the optional extra [forecast], and nothing but the experiments needs it.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.hot.panel import Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import Samples

#: Days of history that a forecast is made from.
HISTORY_DAYS = 182
#: Forecasts between two writings of the file that keeps them.
KEPT_EVERY = 20_000


class Imapa:
    """The ranking; a forecast of one origin serves every target that is judged there.

    Args:
        processes: how many forecast at once.
        kept: where forecasts are kept, so that a run that was cut off goes on; of one log and horizon.
    """

    def __init__(self, processes: int = 1, kept: Path | None = None) -> None:
        self._processes = processes
        self._kept = kept
        self._forecast: dict[tuple[int, int], float] = {}
        if kept is not None and kept.exists():
            with np.load(kept) as file:
                keys = zip(file["item"].tolist(), file["origin"].tolist(), strict=True)
                self._forecast = dict(zip(keys, file["units"].tolist(), strict=True))

    def __call__(self, panel: Panel, target: TargetParams, samples: Samples) -> npt.NDArray[np.float32]:
        """(R,) forecast units over the horizon."""
        asked = list(zip(samples.item_idx.tolist(), samples.origin.tolist(), strict=True))
        daily = panel.dense("units")
        # Those who sold once in the half year take longest, and there are few such histories.
        same: dict[bytes, list[tuple[int, int]]] = {}
        for item, origin in dict.fromkeys(asked):
            history = daily[item, max(origin - HISTORY_DAYS, 0) : origin].tobytes()
            same.setdefault(history, []).append((item, origin))
        missing = []
        for history, keys in same.items():
            known = next((self._forecast[key] for key in keys if key in self._forecast), None)
            if known is None:
                missing.append((history, keys))
            else:
                self._forecast.update(dict.fromkeys(keys, known))
        first, days = target.horizon_first_day, target.horizon_last_day + 1
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(self._processes, mp_context=context) as pool:
            for start in range(0, len(missing), KEPT_EVERY):
                part = missing[start : start + KEPT_EVERY]
                histories = [np.frombuffer(history, dtype=daily.dtype) for history, _ in part]
                found = pool.map(
                    units_ahead, histories, [first] * len(part), [days] * len(part), chunksize=100
                )
                for (_, keys), units in zip(part, found, strict=True):
                    self._forecast.update(dict.fromkeys(keys, units))
                self._keep()
        return np.array([self._forecast[key] for key in asked], dtype=np.float32)

    def _keep(self) -> None:
        if self._kept is None:
            return
        item, origin = np.array(list(self._forecast)).T
        part = self._kept.with_name(f".{self._kept.name}.part.npz")
        np.savez(part, item=item, origin=origin, units=np.array(list(self._forecast.values())))
        part.replace(self._kept)


def units_ahead(daily: npt.NDArray[np.float32], first: int, days: int) -> float:
    """Forecast units of days `first` to `days` - 1 ahead, after the daily units given (D,)."""
    from statsforecast.models import IMAPA

    if not daily.any():
        return 0.0
    ahead: npt.NDArray[np.float64] = IMAPA().forecast(daily, h=days)["mean"]
    return float(ahead[first:].sum())
