"""How sets lie in lists, and where the best are expected, held to counting and to the integral itself."""

from __future__ import annotations

import gc
from math import erfc, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.types import BoolArray, LongArray
from serving.bitmap import Bitmap
from serving.outlook import Scatter
from serving.spread import Spreads

N, LISTS = 4_000, 37


def lists_of(rng: np.random.Generator) -> tuple[LongArray, list[LongArray]]:
    """The list of each item, of sizes from none to many, and the items of each list in any order."""
    of = np.sort(rng.integers(0, LISTS - 1, N) ** 2 // (LISTS - 1))[rng.permutation(N)]
    return of, [rng.permutation(np.flatnonzero(of == place)) for place in range(LISTS)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1_000), st.floats(0, 1))
def test_spread_is_what_counting_gives(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    of, ids = lists_of(rng)
    allowed: BoolArray = rng.random(N) < share
    spreads = Spreads(ids, N)
    spread = spreads.of(Bitmap.of(allowed))
    for place in range(LISTS):
        members = of == place
        truth = allowed[members].mean() if members.any() else 0.0
        known = spread.items is not None
        assert spread.share[place] == pytest.approx(truth, abs=1e-6 if known else 0.5)
    if spread.items is not None:
        some = np.sort(rng.choice(LISTS, 5, replace=False))
        assert sorted(spread.of_lists(some).tolist()) == np.flatnonzero(allowed & np.isin(of, some)).tolist()
    else:
        assert spread.share @ spreads.sizes == pytest.approx(allowed.sum(), rel=0.2)


def test_sets_are_counted_once_and_again_when_they_have_changed_by_much() -> None:
    _, ids = lists_of(np.random.default_rng(1))
    spreads, items = Spreads(ids, N), Bitmap.empty(N)
    items.add(range(100))
    first = spreads.of(items)
    items.put(200, True)
    assert spreads.of(items) is first
    items.add(range(300, 400))
    assert spreads.of(items) is not first
    assert (spreads.of(items).share @ spreads.sizes).round() == 201


def test_sets_that_are_gone_are_forgotten() -> None:
    _, ids = lists_of(np.random.default_rng(1))
    spreads = Spreads(ids, N)
    for _ in range(10):
        spreads.of(Bitmap.full(N))
    gc.collect()
    assert len(spreads) == 0


@pytest.mark.parametrize(
    "wrong", [[[0, 1], [1]], [[0, 1], []], [[0, 1], [3]], [[0, 1], [-1]], [[0, 1, 2], [2]]]
)
def test_lists_that_do_not_hold_every_item_once_are_refused(wrong: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="lists"):
        Spreads([np.array(items, dtype=np.int64) for items in wrong], 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_bar_is_where_the_normal_integral_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = 12
    centroids = rng.normal(size=(LISTS, d)).astype(np.float32)
    of = rng.integers(0, LISTS, 20_000)
    spread = rng.normal(size=(d, d)) / 4
    vectors = (0.8 * centroids[of] + rng.normal(size=(20_000, d)) @ spread).astype(np.float32)
    query = rng.normal(size=d).astype(np.float32)
    near, counts = centroids @ query, np.where(rng.random(LISTS) < 0.5, rng.random(LISTS) * 50, 0)
    outlook = Scatter(vectors, centroids[of]).outlook(query, near)
    deviation = sqrt(float(query @ (spread.T @ spread) @ query))
    for k in (1, 20, 300):
        bar = outlook.bar(counts, k)
        level = outlook.lowest + bar * outlook.step
        chances = np.array([0.5 * erfc((level - 0.8 * mean) / deviation / sqrt(2)) for mean in near.tolist()])
        lists = outlook.within(bar)
        np.testing.assert_allclose(outlook.above(bar, lists), chances[lists], atol=0.04)
        assert chances @ counts == pytest.approx(k, rel=0.25)
        assert outlook.bar_at(level) == bar


def test_nothing_is_expected_above_k_that_are_not_there() -> None:
    vectors = np.eye(4, dtype=np.float32)
    outlook = Scatter(vectors, vectors).outlook(vectors[0], vectors @ vectors[0])
    bar = outlook.bar(np.ones(4, dtype=np.float32), 9)
    assert outlook.above(bar, outlook.within(bar)).sum() == pytest.approx(4)
    assert len(outlook.within(outlook.nowhere)) == 4
    for score in (-1e30, 0.0, 1e30):  # the scatter is nought, and every score a place
        place = outlook.bar_at(score)
        assert np.isfinite(outlook.above(place, np.arange(4))).all()
