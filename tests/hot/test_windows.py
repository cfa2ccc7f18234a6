"""Sums over windows of days: of rows, and of the tables that they would fill."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.hot.windows import RowStarts, RowTotal, RowWindows, RunningTotal, Samples

DAYS = 60


def test_rows_and_the_table_they_fill_have_the_same_sums() -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 3, (6, DAYS)).astype(np.float32)
    item, day = (index.astype(np.int32) for index in np.nonzero(dense))
    of_rows = RowTotal(dense[item, day], RowStarts(item, day, 6, DAYS))
    of_table = RunningTotal(dense)
    at = Samples(*(rng.integers(0, n, 300).astype(np.int32) for n in (6, DAYS - 14)))
    for first, end in ((-7, 0), (-28, -7), (7, 15), (-DAYS, 0)):
        np.testing.assert_array_equal(of_rows.total(at, first, end), of_table.total(at, first, end))
        np.testing.assert_array_equal(of_rows.rate(at, first, end), of_table.rate(at, first, end))


def test_a_day_beyond_the_panel_is_refused() -> None:
    item = day = np.zeros(1, np.int32)
    late = Samples(item, np.array([DAYS - 7], np.int32))
    for sums in (
        RunningTotal(np.ones((2, DAYS))),
        RowTotal(np.ones(1), RowStarts(item, day, 2, DAYS)),
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
