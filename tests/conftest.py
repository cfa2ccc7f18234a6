"""Fixtures that every suite shares: small logs written to a folder, and the Datasets made of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Two test processes share the cores: threads of their own would only wait for each other. Read at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare

Rows = list[dict[str, Any]] | pd.DataFrame


def write_logs(folder: Path, **tables: Rows) -> Path:
    """Write each table as `<name>.parquet` under `folder`; a column named like a time is one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        frame = pd.DataFrame(rows)
        for column in frame.columns:
            if column == "timestamp" or column.endswith("_at"):
                frame[column] = pd.to_datetime(frame[column], utc=True, format="ISO8601")
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """`make_dataset(events, items=..., rooms=...)`: prepare a small log and load its Dataset."""
    made = 0

    def make(events: Rows, **tables: Rows) -> Dataset:
        nonlocal made
        made += 1
        logs = write_logs(tmp_path / f"logs_{made}", events=events, **tables)
        prepare(logs, tmp_path / f"dataset_{made}")
        return Dataset.load(tmp_path / f"dataset_{made}")

    return make


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the public data sets; tests that need one of them skip where it is absent."""
    return Path(os.environ.get("RECSYS_DATA", "../shared/data"))
