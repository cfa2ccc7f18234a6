"""The soak in short: its invariants hold, and a recommender that breaks one of them is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pytest

from recsys.bench.soak import SoakParams, SoakReport, soak
from recsys.bundle import write_bundle
from recsys.cli import BAD_INPUT
from recsys.errors import ConfigError
from serving import Recommender
from tests.bench.test_serve import run
from tests.serving.conftest import make_sections
from tests.serving.test_rooms import sections_with_rooms

WRONG = ("requests failed", "answers that name what was gone before", "answers that are not of one bundle")
SHORT = SoakParams(minutes=0.01, every_s=0.02, k=5, live=4, sold_out=8)
SHORTEST = SHORT.model_copy(update={"minutes": 0.003, "threads": 1})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One bundle with live rooms and one without, of other vectors."""
    folder = tmp_path_factory.mktemp("bundles")
    of = {"v1": sections_with_rooms(), "v2": make_sections(seed=1)}
    return [
        write_bundle(folder / version, sections=sections, config={}, metrics={}, model_version=version)
        for version, sections in of.items()
    ]


def figures(report: SoakReport) -> dict[str, float]:
    return {row.row: row.measured for row in report.rows}


def test_nothing_fails_is_mixed_or_names_what_is_gone(bundles: list[Path]) -> None:
    report = soak(bundles, SHORT)
    found = figures(report)
    assert report.complaints == []
    assert [found[row] for row in WRONG] == [0, 0, 0]
    assert found["swaps"] == SHORT.turns == 30
    assert found["requests"] > found["answers held against those of each bundle alone"] > 0
    assert found["events"] > 0
    assert found["resident, most after the warm-up, MB"] > 0


def ignored(*_: Any, **__: Any) -> None:
    """Takes no report in."""


def failing(*_: Any, **__: Any) -> None:
    raise OSError("the disk is gone")


def of_another(rooms: Callable[..., Any]) -> Callable[..., Any]:
    """Answers that claim a version that no bundle has."""
    return lambda *args, **options: replace(rooms(*args, **options), version="half of v2")


@pytest.mark.parametrize(
    ("broken", "by", "row"),
    [
        ("stock_changed", ignored, WRONG[1]),
        ("room_ended", ignored, WRONG[1]),
        ("similar", failing, WRONG[0]),
        ("rooms", of_another(Recommender.rooms), WRONG[2]),
        ("products", of_another(Recommender.products), WRONG[2]),
    ],
)
def test_what_breaks_a_promise_is_found(
    bundles: list[Path], monkeypatch: pytest.MonkeyPatch, broken: str, by: Callable[..., Any], row: str
) -> None:
    monkeypatch.setattr(Recommender, broken, by)
    report = soak(bundles, SHORTEST)
    assert figures(report)[row] > 0
    assert report.complaints
    assert any(one.row == row and one.holds is False for one in report.rows)


def test_two_bundles_of_one_version_are_refused(bundles: list[Path]) -> None:
    for given in (bundles[:1], [bundles[0], bundles[0]]):
        with pytest.raises(ConfigError, match="two or more"):
            soak(given, SHORTEST)


def test_the_command_writes_the_table_and_says_by_its_status(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--minutes", 0.01, "--every", 0.06, "--threads", 1, "--out", tmp_path / "soak.csv")
    run("bench", "soak", *bundles, *quick)  # so short, memory may still grow: any status
    table = pacsv.read_csv(tmp_path / "soak.csv")
    assert table.column_names == ["row", "measured", "reference", "ratio", "target"]
    held = {row["row"]: row["measured"] for row in table.to_pylist()}
    assert [held[row] for row in WRONG] == [0, 0, 0]
    monkeypatch.setattr(Recommender, "similar", failing)
    assert run("bench", "soak", *bundles, *quick) == 1
    assert "the disk is gone" in capsys.readouterr().err
    assert run("bench", "soak", bundles[0], *quick) == BAD_INPUT
