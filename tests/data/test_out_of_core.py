"""A log larger than the memory that it may take, and a disk that fails at the last moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.errors import DataError

ROWS = 300_000


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Part files whose rows are in no order, a tenth of them there twice."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "events").mkdir()
    rng = np.random.default_rng(0)
    row = rng.permutation(np.concatenate([np.arange(ROWS), np.arange(ROWS // 10)]))
    events = pd.DataFrame(
        {
            "event_id": [f"an event with a long name, number {n:09d}" for n in row],
            "user_id": [f"a user with a long name, number {n % 70_001:09d}" for n in row],
            "item_id": [f"a product with a long name, number {n % 30_011:09d}" for n in row],
            "event": "view",
            "timestamp": pd.Timestamp("2024-01-01") + pd.to_timedelta(row * 7 % 5_000_011, unit="s"),
        }
    )
    for n, part in enumerate(np.array_split(np.arange(len(events)), 4)):
        events.iloc[part].to_parquet(folder / "events" / f"part_{n}.parquet", index=False)
    return folder


def test_little_memory_gives_the_same_dataset(logs, tmp_path):
    roomy = prepare(logs, tmp_path / "roomy")
    tight = prepare(logs, tmp_path / "tight", memory="160MB")
    assert tight.rows["events"] == ROWS
    assert [(fault.reason, fault.rows) for fault in tight.quarantined] == [
        ("event_id occurs again", ROWS // 10)
    ]
    assert tight.fingerprint == roomy.fingerprint


def test_too_little_memory_is_said(logs, tmp_path):
    with pytest.raises(DataError, match="40MB is too little even when spilling to disk; give prepare more"):
        prepare(logs, tmp_path / "out", memory="40MB")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("said", ["plenty", "-1", "-1GB", "4 bananas"])
def test_an_amount_of_memory_that_is_none_is_refused(logs, tmp_path, said):
    with pytest.raises(DataError, match=f"memory '{said}': write it as 4GB"):
        prepare(logs, tmp_path / "out", memory=said)
    assert not (tmp_path / "out").exists()


def test_memory_is_not_asked_of_spark(logs, tmp_path):
    with pytest.raises(DataError, match="memory '4GB': Spark's is set where Spark is"):
        prepare(logs, tmp_path / "out", engine="spark", memory="4GB")


def test_a_dataset_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.csv").write_text("user_id,event,timestamp,item_id\nu,view,2024-01-01,a\n")
    before = prepare(tmp_path / "logs", tmp_path / "out")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "dataset":
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        prepare(tmp_path / "logs", tmp_path / "out")
    assert Dataset.load(tmp_path / "out").fingerprint == before.fingerprint
