"""The selection that every model shares, against a sort of everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.errors import ModelError
from recsys.models.base import top_k
from recsys.models.sparse_model import top_k_sparse


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 700), st.data())
def test_top_k_is_a_stable_sort_cut_at_k(seed: int, n_rows: int, n: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, n))
    levels = data.draw(st.sampled_from([2, 5, 1000]))  # few levels: many ties
    scores = rng.integers(0, levels, (n_rows, n)).astype(np.float32)
    scores[rng.random((n_rows, n)) < 0.3] = -np.inf
    excluded = rng.random((n_rows, n)) < 0.2
    allowed = rng.random(n) < 0.8
    best = top_k(scores.copy(), k=k, exclude=sparse.csr_matrix(excluded, dtype=np.float32), allowed=allowed)
    for row in range(n_rows):
        left = np.where(excluded[row] | ~allowed, -np.inf, scores[row])
        order = np.argsort(-left, kind="stable")[:k]
        expected = order[np.isfinite(left[order])]
        np.testing.assert_array_equal(best.row(row)[0], expected)
        np.testing.assert_array_equal(best.row(row)[1], scores[row, expected])


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 300), st.data())
def test_of_sparse_scores_it_is_the_same(seed: int, n_rows: int, n: int, data: st.DataObject) -> None:
    """Rows of all lengths, entries in any order."""
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, n))
    levels = data.draw(st.sampled_from([2, 5, 1000]))
    scores = (rng.integers(0, levels, (n_rows, n)) - levels // 2).astype(np.float32)
    stored = rng.random((n_rows, n)) < rng.random((n_rows, 1))
    exclude = sparse.csr_matrix(rng.random((n_rows, n)) < 0.2, dtype=np.float32)
    allowed = rng.random(n) < 0.8
    columns = [rng.permutation(np.flatnonzero(row)) for row in stored]
    pairs = sparse.csr_matrix(
        (
            np.concatenate([scores[row, of_row] for row, of_row in enumerate(columns)]),
            np.concatenate(columns),
            np.concatenate([[0], np.cumsum(stored.sum(axis=1))]),
        ),
        shape=(n_rows, n),
    )
    dense = np.where(stored, scores, -np.inf).astype(np.float32)
    expected = top_k(dense, k=k, exclude=exclude, allowed=allowed)
    best = top_k_sparse(pairs, k=k, exclude=exclude, allowed=allowed)
    np.testing.assert_array_equal(best.counts, expected.counts)
    for row in range(n_rows):
        np.testing.assert_array_equal(best.row(row)[0], expected.row(row)[0])
        np.testing.assert_array_equal(best.row(row)[1], expected.row(row)[1])


def test_a_nan_is_named() -> None:
    scores = np.zeros((2, 300), dtype=np.float32)
    scores[1, 257] = np.nan
    with pytest.raises(ModelError, match="target 257 in row 1 is NaN"):
        top_k_sparse(sparse.csr_matrix(scores), k=3)
    with pytest.raises(ModelError, match="target 257 in row 1 is NaN"):
        top_k(scores, k=3)
