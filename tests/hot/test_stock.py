"""A day on which nobody could buy is no day on which nobody wanted to."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.hot.reasons import say
from recsys.hot.stock import sold_out


def judged(orders: list[float], carts: list[float]) -> np.ndarray:
    """Which of an item's days count as out of stock."""
    n = len(orders)
    channels = {"orders": np.array(orders, np.float32), "carts": np.array(carts, np.float32)}
    return sold_out(np.zeros(n, np.int32), np.arange(n, dtype=np.int32), channels, n)


def test_carts_without_orders_where_there_were_orders_before() -> None:
    orders, carts = [8.0] * 28 + [0.0, 0.0, 1.0, 8.0], [20.0] * 32
    assert np.flatnonzero(judged(orders, carts)).tolist() == [28, 29]


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
