"""What `score_hot` promises: its columns, no look ahead, clear refusals."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.data.dataset import Dataset
from recsys.errors import DataError, ModelError
from recsys.hot.backtest import backtest
from recsys.hot.groups import category_codes
from recsys.hot.panel import build_panel
from recsys.hot.params import GradeParams, HotTarget, Measure, TargetParams
from recsys.hot.samples import samples_at
from recsys.hot.score import COLUMNS, HotScores, grades, score_hot
from recsys.hot.targets import TargetBuilder
from tests.hot.conftest import N_DAYS, N_ITEMS, SMALL, START, prepared, shop_events

AS_OF = date(2024, 3, 31)  # day 90


@pytest.fixture(scope="module")
def scores(shop: Dataset) -> HotScores:
    return score_hot(shop, as_of=AS_OF, params=SMALL)


def test_every_known_item_has_a_row_and_ranks_follow_the_potential(scores: HotScores) -> None:
    table = scores.table
    assert tuple(table.column_names) == COLUMNS
    assert table["rank"].to_pylist() == list(range(1, table.num_rows + 1))
    potential = table["potential"].to_numpy()
    assert (np.diff(potential) <= 0).all()
    assert (table["lower"].to_numpy() <= potential).all()
    assert (potential <= table["upper"].to_numpy()).all()
    assert 0 <= potential.min() <= potential.max() <= 1
    assert set(table["grade"].to_pylist()) <= {"S", "A", "B", "C"}
    assert all(reason for reason in table["reasons"].to_pylist())
    assert max(reason.count("; ") for reason in table["reasons"].to_pylist()) <= 2


def test_ids_come_back_with_the_type_of_the_log(scores: HotScores) -> None:
    assert scores.table["item_id"].type == pa.int64()


def test_it_finds_what_the_carts_lead(scores: HotScores, shop: Dataset) -> None:
    events = shop_events()
    day = (events.timestamp - START).dt.days
    ahead = events[(events.event == "purchase") & day.between(97, 99)].groupby("item_id").quantity.sum()
    top = scores.table.slice(0, 20)["item_id"].to_pylist()
    assert ahead.reindex(top).fillna(0).mean() > 1.5 * ahead.reindex(range(150)).fillna(0).mean()


def test_the_future_and_the_order_of_rows_change_nothing(scores: HotScores, tmp_path: Path) -> None:
    events = shop_events()
    known = events[events.timestamp < pd.Timestamp(AS_OF, tz="UTC")]
    wild = pd.DataFrame(
        {
            "user_id": 1,
            "event": ["purchase", "cart", "share"] * 40,
            "timestamp": pd.Timestamp(AS_OF, tz="UTC") + pd.to_timedelta(np.arange(120), unit="h"),
            "item_id": np.arange(120) % 5,
            "quantity": 500.0,
        }
    )
    items = scores.table.sort_by("item_id")["item_id"].to_pylist()
    for name, log in {
        "cut": known,
        "appended": pd.concat([known, wild]).sample(frac=1.0, random_state=3),
    }.items():
        again = score_hot(prepared(tmp_path / name, log), as_of=AS_OF, params=SMALL).table.sort_by("item_id")
        assert again["item_id"].to_pylist() == items
        for column in ("potential", "lower", "upper", "expected_units", "reasons", "grade"):
            expected = scores.table.sort_by("item_id")[column]
            assert again[column].to_pylist() == expected.to_pylist(), (name, column)


def test_a_promotion_is_not_known_before_it_is_announced(tmp_path: Path) -> None:
    start = pd.Timestamp(AS_OF, tz="UTC") + pd.Timedelta(days=8)
    promotions = pd.DataFrame(
        {
            "item_id": [3, 4],
            "started_at": [start, start],
            "ended_at": [start + pd.Timedelta(days=3)] * 2,
            "discount": [0.3, 0.4],
            "announced_at": [start - pd.Timedelta(days=20), start - pd.Timedelta(days=7)],
        }
    )
    dataset = prepared(tmp_path, shop_events(), promotions=promotions)
    panel = build_panel(dataset, as_of=AS_OF)
    items = dataset.items.ids.external(panel.promotions.item_idx).to_pylist()
    assert items == [3]


def test_what_the_log_calls_its_promotions_and_columns_changes_no_score(tmp_path: Path) -> None:
    """Nor does a name that a feature has, or one with signs that are special to the learner."""
    rng = np.random.default_rng(0)
    started_at = START + pd.to_timedelta(rng.integers(0, 95, 90), unit="D")
    item_id = rng.integers(0, N_ITEMS, 90)
    tables = []
    for kinds, columns in (
        (["a", "b", "c"], ["a", "b"]),
        (['buy 2, get "1"', "demand", "滿減:50"], ["[demand]", "price: {band}"]),
    ):
        promotions = pd.DataFrame(
            {
                "item_id": item_id,
                "started_at": started_at,
                "ended_at": started_at + pd.Timedelta(days=4),
                "kind": np.resize(kinds, 90),
            }
        )
        items = pd.DataFrame({"item_id": np.arange(N_ITEMS)})
        for column, n in zip(columns, (5, 9), strict=True):
            items[column] = [f"group {item % n}" for item in range(N_ITEMS)]
        dataset = prepared(tmp_path / kinds[0], shop_events(), promotions=promotions, items=items)
        tables.append(score_hot(dataset, as_of=AS_OF, params=SMALL).table)
    plain, odd = tables
    assert odd.drop(["reasons"]).equals(plain.drop(["reasons"]))
    said = " ".join(odd["reasons"].to_pylist())
    assert "滿減:50 promotions so far" in said or "demand promotions so far" in said


def test_a_target_that_always_comes_about_is_refused(shop: Dataset) -> None:
    everything = SMALL.model_copy(
        update={"target": TargetParams(target=HotTarget.HOT, hot_share=0.999, hot_min_units=0)}
    )
    with pytest.raises(ModelError, match=r"for every product on all of .* use a rarer target"):
        score_hot(shop, as_of=AS_OF, params=everything)


def test_too_short_a_log_says_how_many_days_are_missing(shop: Dataset) -> None:
    with pytest.raises(ModelError, match=r"has 30 days .* needs 46: 16 more"):
        score_hot(shop, as_of=date(2024, 1, 31), params=SMALL)


def test_sixty_days_are_enough(shop: Dataset) -> None:
    found = score_hot(shop, as_of=date(2024, 3, 1), params=SMALL)
    assert found.training_origins >= 5
    assert found.table["potential"].to_numpy()[0] > 1.5 * found.base_rate


@pytest.mark.parametrize("day", [52, 56])
def test_a_short_log_promises_about_what_comes(shop: Dataset, day: int) -> None:
    """It has no later weeks to hold out, and what the level of its own weeks' scores says it has learnt."""
    panel = build_panel(shop)
    builder = TargetBuilder(panel, SMALL.target, category_codes(shop.items))
    origin = np.array([day], dtype=np.int32)
    came = builder.outcomes(samples_at(panel, origin, SMALL.target.population_days)).label.sum()
    found = score_hot(shop, as_of=panel.days.date_of(day), params=SMALL)
    assert 0.5 < found.table["potential"].to_numpy().sum() / came < 2.0


def test_a_day_after_the_log_is_refused(shop: Dataset) -> None:
    with pytest.raises(DataError, match=r"the log of .* ends on 2024-04-0"):
        score_hot(shop, as_of=date(2024, 6, 1), params=SMALL)


def test_a_log_without_items_is_refused(make_dataset) -> None:  # type: ignore[no-untyped-def]
    rows = [
        {"user_id": 1, "event": "enter", "room_id": 5, "timestamp": f"2024-01-0{d}T10:00:00"}
        for d in range(1, 9)
    ]
    with pytest.raises(DataError, match=r"no event .* has an item_id"):
        score_hot(make_dataset(rows), params=SMALL)


def test_amounts_that_the_log_does_not_have_are_no_measure(tmp_path: Path) -> None:
    by_amount = SMALL.model_copy(update={"target": TargetParams(breakout_share=0.1, measure=Measure.AMOUNT)})
    for amount in (np.nan, 0.0):
        log = prepared(tmp_path / str(amount), shop_events().assign(amount=amount))
        for ask in (score_hot, backtest):
            with pytest.raises(ModelError, match="the measure is the amount, and no purchase"):
                ask(log, params=by_amount)


def test_grades_can_be_reached_at_any_base_rate() -> None:
    cut = GradeParams()
    for base_rate in (0.001, 0.02, 0.11, 0.5):
        least = cut.least(base_rate)
        assert base_rate < least["B"] < least["A"] < least["S"] < 1
    assert cut.least(0.02) == pytest.approx({"S": 0.3, "A": 0.1, "B": 2 * 0.02 / 1.02})
    assert grades(np.array([0.31, 0.3, 0.29, 0.1, 0.05, 0.03]), cut.least(0.02)) == list("SSAABC")


def test_a_price_that_changed_long_ago_is_the_usual_one(tmp_path: Path) -> None:
    events = shop_events()
    day = (events.timestamp - START).dt.days
    of_late = events[(events.event == "purchase") & day.between(84, 89)].item_id.value_counts()
    long_ago, now = (int(item) for item in of_late.index[:2])
    for item, since in ((long_ago, 30), (now, 84)):
        events.loc[(events.item_id == item) & (day >= since), "amount"] *= 100.0
    table = score_hot(prepared(tmp_path, events), as_of=AS_OF, params=SMALL).table.to_pandas()
    flags = table.set_index("item_id")["flags"]
    assert flags[long_ago] == ""
    usual = 5 + now
    assert flags[now] == f"{100 * usual:,.4g} paid a unit last week, usually {usual:,.4g}: another currency?"


def test_a_horizon_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon_first_day 20 comes after horizon_last_day 15"):
        TargetParams(horizon_first_day=20)


def test_a_log_without_purchases_is_refused(make_dataset) -> None:  # type: ignore[no-untyped-def]
    rows = [
        {"user_id": 1, "event": "view", "item_id": d % 3, "timestamp": str(START + pd.Timedelta(days=d))}
        for d in range(70)
    ]
    with pytest.raises(ModelError, match="the log has no purchases before the origin"):
        score_hot(make_dataset(rows), params=SMALL)


def test_odd_items_and_prices_are_scored(tmp_path: Path) -> None:
    """One sale ever, one long ago, carts alone, prices of zero or less, another currency, a new category."""
    events = shop_events()
    events.loc[events.item_id == 7, "amount"] = 0.0
    events.loc[events.item_id == 9, "amount"] *= -1.0
    late = events.timestamp > START + pd.Timedelta(days=70)
    events.loc[(events.item_id == 8) & late, "amount"] *= 100.0
    at = START + pd.Timedelta(days=89, hours=3)
    odd = pd.DataFrame(
        {
            "user_id": 1,
            "event": ["purchase", "purchase", "cart"],
            "timestamp": [at, START + pd.Timedelta(days=3), at],
            "item_id": [500, 501, 502],
            "quantity": [1.0, 1.0, np.nan],
        }
    )
    items = pd.DataFrame(
        {"item_id": [*range(150), 500], "category": ["old"] * 150 + ["seen for the first time"]}
    )
    found = score_hot(prepared(tmp_path, pd.concat([events, odd]), items=items), as_of=AS_OF, params=SMALL)
    rows = found.table.to_pandas().set_index("item_id")
    assert np.isfinite(rows[["potential", "lower", "upper", "expected_units"]]).all(axis=None)
    assert rows.loc[502, "potential"] <= found.base_rate
    assert "no sale or other sign" in rows.loc[501, "reasons"]
    assert rows.loc[501, "potential"] <= rows.loc[500, "potential"]
    assert "another currency?" in rows.loc[8, "flags"]
    assert (rows.loc[list(range(7)), "flags"] == "").all()


def test_a_product_just_listed_is_told_by_what_others_like_it_did(tmp_path: Path) -> None:
    """Of two kinds of products listed every day one sells well in its second week, the other never."""
    listed = np.repeat(np.arange(16, 90), 4)
    kind = np.where(np.arange(len(listed)) % 2, "sought", "dull")
    sold = [
        (1_000 + n, day)
        for n, start in enumerate(listed)
        if kind[n] == "sought"
        for day in range(start + 8, start + 16)
        if day < 90
    ]
    item, day = np.repeat(np.array(sold), 6, axis=0).T
    bought = pd.DataFrame(
        {
            "user_id": np.arange(len(item)) % 200,
            "event": "purchase",
            "timestamp": START + pd.to_timedelta(day * 86_400 + np.arange(len(item)) % 80_000, unit="s"),
            "item_id": item,
            "quantity": 3.0,
        }
    )
    items = pd.DataFrame(
        {
            "item_id": np.r_[np.arange(150), 1_000 + np.arange(len(listed))],
            "category": np.r_[np.full(150, "usual"), kind],
            "listed_at": np.r_[np.full(150, None), [str(START + pd.Timedelta(days=int(d))) for d in listed]],
        }
    )
    log = prepared(tmp_path, pd.concat([shop_events(), bought]), items=items)
    found = score_hot(log, as_of=AS_OF, params=SMALL)
    rows = found.table.to_pandas().set_index("item_id")
    dull, sought = rows.loc[1_000 + len(listed) - 2], rows.loc[1_000 + len(listed) - 1]
    assert sought.potential > 50 * dull.potential
    assert sought["rank"] < 150  # of 446
    assert sought.expected_units > dull.expected_units
    assert "no sale or other sign" not in dull.reasons


def test_a_stock_that_does_not_last_is_said(scores: HotScores, tmp_path: Path) -> None:
    table = scores.table.to_pandas().set_index("item_id")
    sells = table.index[table.expected_units > 5]
    items = pd.DataFrame({"item_id": np.arange(150), "stock": 10_000.0}).set_index("item_id")
    items.loc[sells[0], "stock"] = 3.0
    items.loc[sells[1], "stock"] = None
    found = score_hot(prepared(tmp_path, shop_events(), items=items.reset_index()), as_of=AS_OF, params=SMALL)
    flags = found.table.to_pandas().set_index("item_id")["flags"]
    assert flags[sells[0]].startswith("3 in stock, ")
    assert (flags.drop(sells[0]) == "").all()


def test_purchases_without_quantity_or_amount_are_enough(tmp_path: Path) -> None:
    events = shop_events()
    bare = events[events.event == "purchase"][["user_id", "event", "timestamp", "item_id"]]
    found = score_hot(prepared(tmp_path, bare), params=SMALL)
    assert found.as_of == START.date() + timedelta(days=N_DAYS)
    assert found.table["potential"].to_numpy()[0] > found.base_rate


def test_what_is_out_already_is_said_so_and_promised_nothing(scores: HotScores) -> None:
    rows = scores.table.to_pandas()
    out = rows[rows.reasons.str.contains("already")]
    assert len(out) > 0
    assert (out[["potential", "lower", "upper"]] == 0).all(axis=None)
    assert (rows.upper[rows.potential > 0] > 0).all()
