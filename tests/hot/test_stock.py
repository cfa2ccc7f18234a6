"""A day on which nobody could buy is no day on which nobody wanted to."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.hot.reasons import say
from recsys.hot.stock import sold_out
from recsys.hot.windows import RowStarts, RowTotal, RowWindows, RunningTotal, Samples

DAYS = 60


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


def test_a_censored_day_is_left_out_of_the_rate() -> None:
    values = np.full((2, DAYS), 4.0, dtype=np.float32)
    values[0, 50:53] = 0.0
    censored = values == 0
    at = Samples(np.array([0, 1], np.int32), np.array([55, 55], np.int32))
    observed = np.ones(DAYS, dtype=bool)
    lost = RunningTotal(censored, observed)
    np.testing.assert_allclose(RunningTotal(values, observed, lost).rate(at, -7, 0), [4.0, 4.0])
    np.testing.assert_allclose(RunningTotal(values, observed).rate(at, -7, 0), [16 / 7, 4.0], rtol=1e-6)


def test_a_window_without_a_day_in_stock_has_no_rate() -> None:
    values = np.zeros((1, DAYS), dtype=np.float32)
    at = Samples(np.array([0], np.int32), np.array([55], np.int32))
    observed = np.ones(DAYS, dtype=bool)
    lost = RunningTotal(np.ones((1, DAYS)), observed)
    rate = RunningTotal(values, observed, lost).rate(at, -7, 0)
    assert np.isnan(rate).all()


def test_rows_and_the_table_they_fill_have_the_same_sums() -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 3, (6, DAYS)).astype(np.float32)
    sold_out = rng.random(dense.shape) < 0.4
    observed = rng.random(DAYS) < 0.8
    item, day = (index.astype(np.int32) for index in np.nonzero(dense + sold_out))
    starts = RowStarts(item, day, 6, DAYS)
    of_rows = RowTotal(dense[item, day], starts, observed, RowTotal(sold_out[item, day], starts, observed))
    of_table = RunningTotal(dense, observed, RunningTotal(sold_out, observed))
    at = Samples(*(rng.integers(0, n, 300).astype(np.int32) for n in (6, DAYS - 14)))
    for first, end in ((-7, 0), (-28, -7), (7, 15), (-DAYS, 0)):
        np.testing.assert_array_equal(of_rows.total(at, first, end), of_table.total(at, first, end))
        np.testing.assert_array_equal(of_rows.rate(at, first, end), of_table.rate(at, first, end))


def test_a_day_beyond_the_panel_is_refused() -> None:
    observed = np.ones(DAYS, dtype=bool)
    item = day = np.zeros(1, np.int32)
    late = Samples(item, np.array([DAYS - 7], np.int32))
    for sums in (
        RunningTotal(np.ones((2, DAYS)), observed),
        RowTotal(np.ones(1), RowStarts(item, day, 2, DAYS), observed),
    ):
        sums.total(late, 0, 7)
        with pytest.raises(IndexError, match=f"day {DAYS} is asked for"):
            sums.total(late, 0, 8)


def test_sparse_windows_sum_as_dense_ones_do() -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 3, (6, DAYS)).astype(np.float32)
    item, day = (index.astype(np.int32) for index in np.nonzero(dense))
    windows = RowWindows(item, day, DAYS)
    items, days = (rng.integers(0, n, 200).astype(np.int32) for n in (6, DAYS))
    for first, last in ((-6, 0), (-28, -1), (0, 0)):
        asked = zip(items, days, strict=True)
        wanted = [dense[i, max(d + first, 0) : d + last + 1].sum() for i, d in asked]
        found = windows.total(dense[item, day], items, days, first, last)
        np.testing.assert_allclose(found, wanted)


def test_it_is_said_in_words() -> None:
    assert say("stock", {"sold_out_28d": 3.0}) == "out of stock on 3 of the last 28 days"
    assert say("stock", {"sold_out_28d": 0.0}) is None
