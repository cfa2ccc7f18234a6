"""Writes raw files as a publisher would, imports them, and reads the log tables back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.data.sources import ImportSummary, import_source

Rows = list[dict[str, Any]]
Imported = tuple[dict[str, Rows], ImportSummary]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def tables(logs: Path) -> dict[str, Rows]:
    return {path.stem: pq.read_table(path).to_pylist() for path in logs.glob("*.parquet")}


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Imported]:
    """Imports files, given as name -> text, and hands back every log table's rows and the summary."""

    def run(source: str, files: dict[str, str]) -> Imported:
        for name, text in files.items():
            path = tmp_path / "raw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        summary = import_source(source, tmp_path / "raw", tmp_path / "logs")
        found = tables(tmp_path / "logs")
        assert {name: len(rows) for name, rows in found.items()} == summary.rows
        return found, summary

    return run
