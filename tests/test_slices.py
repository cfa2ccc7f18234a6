"""Flat arrays of rows of different lengths, against loops."""

from __future__ import annotations

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.slices import expand, rank_in_group


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=20))
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_expand_is_the_slices_one_after_the_other(dtype: type, slices: list[tuple[int, int]]) -> None:
    starts, lengths = np.array(slices, dtype=dtype).reshape(-1, 2).T
    position, owner = expand(starts, lengths)
    expected = [(start + n, whose) for whose, (start, length) in enumerate(slices) for n in range(length)]
    npt.assert_array_equal(np.stack([position, owner], axis=1), np.reshape(expected, (-1, 2)))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 5)), max_size=10, unique_by=lambda run: run[0]))
def test_rank_in_group_counts_from_each_groups_first(runs: list[tuple[int, int]]) -> None:
    groups = np.array([group for group, length in runs for _ in range(length)], dtype=np.int32)
    expected = [place for _, length in runs for place in range(length)]
    npt.assert_array_equal(rank_in_group(groups), expected)
