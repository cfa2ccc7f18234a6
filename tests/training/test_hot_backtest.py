"""A backtest of hot items as a run: the table, the figures, the plots, and a line for people."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from recsys.cli import main
from recsys.hot.backtest import MODEL
from recsys.reports import SHOWN_HOT, show_backtest
from tests.hot.conftest import SMALL, prepared, shop_events
from training.config import TrackingParams
from training.hot_backtest import hot_backtest
from training.tracking import Tracker


def test_a_backtest_is_recorded_and_printed(tmp_path: Path) -> None:
    tracker = Tracker(TrackingParams(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    report = hot_backtest(prepared(tmp_path, shop_events()), SMALL, tracker=tracker)
    pictures = {path.name for path in (tmp_path / "mlruns").rglob("*.png")}
    assert {"hot_reliability.png", "hot_by_week.png", "hot_picks.png"} <= pictures
    (table,) = (tmp_path / "mlruns").rglob("hot_backtest.csv")
    recorded = pd.read_csv(table)
    assert list(recorded.columns) == ["ranking", "metric", "mean", "lower", "upper", "over_best_rule"]
    mine = recorded[(recorded.ranking == MODEL) & (recorded.metric == "average_precision")]
    assert mine["mean"].item() == pytest.approx(report.mean("average_precision").mean)
    (curve,) = (tmp_path / "mlruns").rglob("hot_reliability.csv")
    bins = pd.read_csv(curve)
    assert (bins.lower <= bins.observed).all()
    assert (bins.observed <= bins.upper).all()
    assert bins["count"].sum() == len(report.judged.samples)
    text = io.StringIO()
    show_backtest(Console(file=text, width=80), report)
    printed = text.getvalue()
    # Nothing is out of stock in this shop.
    heads = set(SHOWN_HOT.values()) - {"then out"}
    assert all(head in printed for head in heads)
    for ranking in (MODEL, "lightgbm_plain_lags", "units_28d", "ewma"):
        assert ranking in printed
    assert "calibration: mean potential" in printed


def test_the_command_says_what_a_short_log_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    events = shop_events()
    prepared(tmp_path, events[events.timestamp < events.timestamp.min() + pd.Timedelta(days=20)])
    arguments = ["hot", str(tmp_path / "dataset"), "--backtest", "--no-track", "--out", "table.csv"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "needs" in capsys.readouterr().err
    assert not (tmp_path / "table.csv").exists()
