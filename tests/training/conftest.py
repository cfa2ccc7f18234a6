"""A small log with two tastes, prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.prepare import prepare
from tests.conftest import write_logs

START = pd.Timestamp("2024-01-01", tz="UTC")
N_USERS, N_ITEMS, N_EVENTS = 80, 30, 2_400


def shop_events() -> pd.DataFrame:
    """Sixty days in which a user mostly buys among the items of its own parity."""
    rng = np.random.default_rng(5)
    user = rng.integers(0, N_USERS, N_EVENTS)
    item = 2 * rng.integers(0, N_ITEMS // 2, N_EVENTS) + (user + (rng.random(N_EVENTS) < 0.1)) % 2
    seconds = np.sort(rng.integers(0, 60 * 86_400, N_EVENTS))
    return pd.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "event": np.where(rng.random(N_EVENTS) < 0.4, "purchase", "view"),
            "timestamp": START + pd.to_timedelta(seconds, unit="s"),
        }
    )


def prepared(folder: Path, events: pd.DataFrame) -> Path:
    prepare(write_logs(folder / "logs", events=events), folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("shop"), shop_events())
