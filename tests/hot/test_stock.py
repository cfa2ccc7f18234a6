"""A day on which nobody could buy is no day on which nobody wanted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.hot.reasons import say
from recsys.hot.score import score_hot
from recsys.hot.stock import as_in_stock, sold_out
from tests.hot.conftest import SMALL, START, prepared, shop_events

AS_OF = (START + pd.Timedelta(days=90)).date()


def judged(orders: list[float], carts: list[float]) -> np.ndarray:
    """Which of an item's days count as out of stock."""
    n = len(orders)
    channels = {"orders": np.array(orders, np.float32), "carts": np.array(carts, np.float32)}
    return sold_out(np.zeros(n, np.int32), np.arange(n, dtype=np.int32), channels, n)


def test_carts_without_orders_where_there_were_orders_before() -> None:
    orders, carts = [8.0] * 28 + [0.0, 0.0, 1.0, 8.0], [20.0] * 32
    assert np.flatnonzero(judged(orders, carts)).tolist() == [28, 29]


def test_a_long_time_out_of_stock_is_found_to_its_end() -> None:
    orders, carts = [8.0] * 40 + [0.0] * 20, [20.0] * 60
    assert np.flatnonzero(judged(orders, carts)).tolist() == list(range(40, 60))


def test_the_end_of_a_burst_is_no_empty_shelf() -> None:
    """Carts go back to what they were, and so do orders: none on most days."""
    orders, carts = [6.0] * 10 + [0.0] * 20, [12.0] * 10 + [2.0] * 20
    assert not judged(orders, carts).any()


def test_a_run_of_one_item_does_not_go_on_in_the_next() -> None:
    orders = np.array([4.0] * 28 + [0.0] + [0.0, 4.0] * 2, np.float32)
    carts = np.full(33, 20.0, np.float32)
    item = np.array([0] * 29 + [1] * 4, np.int32)
    day = np.r_[np.arange(29), np.arange(29, 33)].astype(np.int32)
    assert not sold_out(item, day, {"orders": orders, "carts": carts}, 33).any()


def test_a_day_out_of_stock_counts_as_those_in_stock_before() -> None:
    values = np.array([4.0, 6.0, 0.0, 0.0, 8.0, 0.0, 3.0, 0.0], np.float32)
    out = np.array([False, False, True, True, False, True, False, True])
    item, day = np.array([0] * 6 + [1] * 2, np.int32), np.array([10, 11, 12, 13, 14, 15, 10, 40], np.int32)
    filled = as_in_stock(values, out, item, day, np.array([10, 8], np.int32), 41)
    # The second item sold 3 on one of the 28 days before, of which none was out.
    expected = [4, 6, 5, 5, 8, 6, 3, 0]
    np.testing.assert_allclose(filled, expected)


def test_an_item_out_of_stock_is_expected_to_sell_as_before(tmp_path: Path) -> None:
    """And it is said; a control of which nothing was lost sells as much."""
    rng = np.random.default_rng(0)

    def daily(event: str, last_day: int, n: int) -> pd.DataFrame:
        day = np.repeat(np.arange(last_day), n)
        return pd.DataFrame(
            {
                "user_id": rng.integers(0, 200, len(day)),
                "event": event,
                "timestamp": START
                + pd.to_timedelta(day * 86_400 + rng.integers(0, 86_400, len(day)), unit="s"),
                "item_id": 500,
                "quantity": 1.0 if event == "purchase" else np.nan,
            }
        )

    found = {}
    for name, last_day in (("control", 90), ("out", 80)):
        log = pd.concat([shop_events(), daily("cart", 90, 16), daily("purchase", last_day, 8)])
        dataset = prepared(tmp_path / name, log)
        found[name] = (
            score_hot(dataset, as_of=AS_OF, params=SMALL).table.to_pandas().set_index("item_id").loc[500]
        )
    assert found["out"].expected_units > 0.75 * found["control"].expected_units
    assert found["out"]["rank"] < 2 * found["control"]["rank"] + 10
    assert "out of stock on 7 of the last 7 days" in found["out"]["flags"]
    assert say(
        "age", {"age_days": 90.0, "history_days": 90.0, "sale_days_28d": 28.0, "sold_out_28d": 10.0}
    ) == ("sold on 18 of the last 28 days")
    assert found["control"]["flags"] == ""


@pytest.mark.parametrize(
    ("orders", "carts"),
    [
        pytest.param([8.0] * 28 + [0.0], [20.0] * 28 + [10.0], id="half the carts, 4 orders expected"),
        pytest.param([2.0] * 28 + [0.0], [20.0] * 28 + [200.0], id="carts rise ahead of orders"),
        pytest.param([0.0] * 29, [20.0] * 29, id="nobody ever bought it"),
        pytest.param([9.0] * 28 + [0.0], [0.5] * 28 + [9.0], id="too few carts before to know"),
        pytest.param([8.0] * 28 + [0.0], [0.0] * 29, id="no carts logged"),
    ],
)
def test_a_quiet_day_is_no_day_out_of_stock(orders: list[float], carts: list[float]) -> None:
    assert not judged(orders, carts).any()


def test_what_comes_later_changes_no_day() -> None:
    orders, carts = [8.0] * 28 + [0.0] * 5, [20.0] * 33
    whole = judged(orders, carts)
    assert whole.any()
    for n in (10, 29, 31):
        np.testing.assert_array_equal(judged(orders[:n], carts[:n]), whole[:n])


def test_it_is_said_in_words() -> None:
    assert say("stock", {"sold_out_28d": 3.0}) == "out of stock on 3 of the last 28 days"
    assert say("stock", {"sold_out_28d": 0.0}) is None
