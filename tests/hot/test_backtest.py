"""The backtest looks at nothing that a fit in life would not have had, and agrees with the rules by hand."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.hot.backtest import LAGS, MODEL, BacktestReport, backtest
from recsys.hot.baselines import rankings
from recsys.hot.panel import build_panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import Samples
from tests.hot.conftest import N_ITEMS, SMALL, START, prepared, shop_events


@pytest.fixture(scope="module")
def report(shop: Dataset) -> BacktestReport:
    return backtest(shop, params=SMALL, k=10)


def test_it_rolls_weekly_over_the_last_half(report: BacktestReport) -> None:
    origins = sorted(set(report.by_origin["origin"].to_pylist()))
    assert {(b - a).days for a, b in pairwise(origins)} == {7}
    assert origins[0] >= date(2024, 2, 20)
    assert (date(2024, 4, 10) - origins[-1]).days == 16  # the last horizon ends with the log


def test_the_model_beats_the_rules_where_carts_lead(report: BacktestReport) -> None:
    rows = {
        row["ranking"]: row["mean"]
        for row in report.summary.to_pylist()
        if row["metric"] == "average_precision"
    }
    assert rows[MODEL] > 1.2 * max(mean for name, mean in rows.items() if name not in (MODEL, LAGS))
    assert report.mean("brier_skill").mean > 0


def test_what_happened_after_an_origin_does_not_change_what_was_said_at_it(
    report: BacktestReport, tmp_path: Path
) -> None:
    events = shop_events()
    first = int(report.judged.samples.origin.min())
    day = (events.timestamp - START).dt.days
    events.loc[(day >= first) & (events.event == "purchase"), "item_id"] = 3
    other = backtest(prepared(tmp_path, events), params=SMALL, k=10)
    for found in (report, other):
        assert found.judged.samples.origin.min() == first

    def said(found: BacktestReport) -> np.ndarray:
        at_first = found.judged.samples.origin == first
        return np.sort(found.judged.prediction.score[at_first])

    np.testing.assert_allclose(said(report), said(other), rtol=1e-6)


def test_what_is_listed_or_ordered_in_bulk_later_does_not_change_what_was_said(tmp_path: Path) -> None:
    events = shop_events()
    day = (events.timestamp - START).dt.days
    items = pd.DataFrame({"item_id": np.arange(N_ITEMS), "listed_at": START})
    items["category"] = [f"c{item % 7}" for item in items.item_id]
    items["title"] = [f"w{item % 5} v{item % 11}" for item in items.item_id]
    found = backtest(prepared(tmp_path / "known", events, items=items), params=SMALL, k=10)
    first = int(found.judged.samples.origin.min())
    late = pd.DataFrame({"item_id": 1_000 + np.arange(90), "listed_at": START + pd.Timedelta(days=first + 1)})
    late = late.assign(category="c1", title="w1 v1 u1")
    more = events[day >= first].assign(item_id=lambda t: 1_000 + t.item_id % 90)
    bulk = events[(day >= first) & (events.event == "purchase")].assign(quantity=500.0)
    other = backtest(
        prepared(tmp_path / "more", pd.concat([events, more, bulk]), items=pd.concat([items, late])),
        params=SMALL,
        k=10,
    )

    def said(report: BacktestReport) -> np.ndarray:
        at_first = report.judged.samples.origin == first
        return np.sort(report.judged.prediction.score[at_first])

    np.testing.assert_allclose(said(found), said(other), rtol=1e-6)


def test_rules_by_hand(shop: Dataset) -> None:
    panel = build_panel(shop)
    samples = Samples(np.array([4], np.int32), np.array([60], np.int32))
    found = rankings(panel, TargetParams(), samples)
    units = panel.dense("units")[4]
    assert found["units_14d"][0] == pytest.approx(units[46:60].sum())
    assert found["momentum_14d"][0] == pytest.approx((units[46:60].sum() + 1) / (units[32:46].sum() + 1))
    windows = [units[max(end - 9, 0) : end].sum() for end in range(61)]
    assert found["best_window"][0] == pytest.approx(max(windows))
    assert "last_year" not in found


def test_it_begins_where_there_is_enough_to_learn_from(tmp_path: Path) -> None:
    """Purchases that set in late leave the first origins of the half without a lesson."""
    events = shop_events()
    day = (events.timestamp - START).dt.days
    late = prepared(tmp_path, events[(events.event != "purchase") | (day >= 52)])
    found = backtest(late, params=SMALL, k=10)
    origins = np.unique(found.judged.samples.origin)
    assert origins[-1] == 84
    assert 56 < origins[0] < 84
    rare = SMALL.model_copy(update={"target": TargetParams(breakout_min_units=400.0)})
    with pytest.raises(ModelError, match="come about 0 times by the best of 5 weekly origins, and 10 are"):
        backtest(late, params=rare, k=10)


def test_too_short_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs"):
        backtest(prepared(tmp_path, shop_events(n_days=50)), params=SMALL)
