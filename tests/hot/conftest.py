"""A small shop with views, carts and purchases, in which some items break out."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.hot.days import Days
from recsys.hot.params import HotParams, LearnerParams, TargetParams
from tests.conftest import write_logs

START = pd.Timestamp("2024-01-01", tz="UTC")
N_ITEMS, N_USERS, N_DAYS = 150, 200, 100
SMALL = HotParams(
    target=TargetParams(breakout_share=0.1),
    learner=LearnerParams(rounds=30, bags=2, min_leaf=20, origin_step_days=5, threads=1),
)


def shop_events(seed: int = 0, n_days: int = N_DAYS) -> pd.DataFrame:
    """Events of `N_ITEMS` items; bursts of a week come after a week of many carts."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(1.0, 0.35, N_ITEMS)
    carts = np.tile(2 * level, (n_days, 1))
    buys = np.tile(level, (n_days, 1))
    for item in range(N_ITEMS):
        for start in range(int(rng.integers(0, 40)), n_days, 45):
            carts[start : start + 9, item] += 3.0
            buys[start + 9 : start + 18, item] += 4.0
    rows = []
    for behaviour, rate in (("view", 3 * carts), ("cart", carts), ("purchase", buys)):
        count = rng.poisson(rate)
        day, item = np.nonzero(count)
        times = np.repeat(np.c_[day, item], count[day, item], axis=0)
        second = rng.integers(0, 86_400, len(times))
        frame = pd.DataFrame(
            {
                "user_id": rng.integers(0, N_USERS, len(times)),
                "event": behaviour,
                "timestamp": START + pd.to_timedelta(times[:, 0] * 86_400 + second, unit="s"),
                "item_id": times[:, 1],
            }
        )
        frame["quantity"] = (
            rng.integers(1, 4, len(times)).astype(float) if behaviour == "purchase" else np.nan
        )
        frame["amount"] = frame.quantity * (5.0 + frame.item_id)
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def whole_days(n_days: int) -> Days:
    """Days of a log without gaps, from `START` on."""
    return Days.of_events(np.ones(n_days, dtype=np.int64), (START.date() - date(1970, 1, 1)).days)


def prepared(folder: Path, events: pd.DataFrame, **tables: pd.DataFrame) -> Dataset:
    """The Dataset of a log, in a fresh folder."""
    prepare(write_logs(folder / "logs", events=events, **tables), folder / "dataset")
    return Dataset.load(folder / "dataset")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("shop"), shop_events())
