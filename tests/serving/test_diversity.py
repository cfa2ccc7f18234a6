"""Caps and re-ranking: exact on small cases, the plain order where nothing is asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answer import RequestError
from serving.diversity import POOL, Shape, shaped
from serving.found import NOTHING, Found
from tests.serving.conftest import MakeBundle, item_id, load, user_id

FOUND = Found(np.arange(5, dtype=np.int32), np.array([10.0, 9.0, 8.0, 1.0, 0.0]), list("aabba"))
CODES = np.array([0, 0, 0, 1, -1], dtype=np.int32)
#: 0 and 1 point one way, 2 another, 3 and 4 between.
VECTORS = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [1, 1]], dtype=np.float32)


def items(found: Found) -> list[int]:
    ids: list[int] = found.items.tolist()
    return ids


def test_nothing_asked_for_is_the_order_of_the_scores() -> None:
    assert items(shaped(FOUND, Shape(), CODES, VECTORS, k=3)) == [0, 1, 2]
    assert len(shaped(NOTHING, Shape(diversity=0.5), CODES, VECTORS, k=3)) == 0


def test_a_category_that_is_full_is_passed_over_and_products_without_one_are_not() -> None:
    assert items(shaped(FOUND, Shape(max_per_category=1), CODES, VECTORS, k=5)) == [0, 3, 4]
    assert items(shaped(FOUND, Shape(max_per_category=2), CODES, VECTORS, k=5)) == [0, 1, 3, 4]


def test_marginal_relevance_by_hand() -> None:
    # relevance 1, .9, .8, .1, 0. After 0: product 1 is worth .5 * .9 - .5 * 1, product 2 .5 * .8 - .5 * 0.
    assert items(shaped(FOUND, Shape(diversity=0.5), CODES, VECTORS, k=3)) == [0, 2, 1]
    # Without vectors products of one category are alike: 1 and 2 like 0.
    assert items(shaped(FOUND, Shape(diversity=0.6), CODES, None, k=3)) == [0, 3, 4]


def test_brands_have_a_cap_beside_that_of_categories() -> None:
    brands = np.array([0, 1, 0, 0, 0], dtype=np.int32)
    assert items(shaped(FOUND, Shape(max_per_brand=2), CODES, VECTORS, k=5, brands=brands)) == [0, 1, 2]
    both = Shape(max_per_category=1, max_per_brand=2)
    assert items(shaped(FOUND, both, CODES, VECTORS, k=5, brands=brands)) == [0, 3]
    assert items(shaped(FOUND, both, CODES, VECTORS, k=5)) == [0, 3, 4]


@given(
    scores=st.lists(st.floats(-5, 5), min_size=1, max_size=30),
    diversity=st.sampled_from([0.0, 0.3, 1.0]),
    most=st.sampled_from([None, 1, 3]),
    k=st.integers(1, 40),
)
def test_a_list_has_no_product_twice_and_keeps_its_cap(
    scores: list[float], diversity: float, most: int | None, k: int
) -> None:
    n = len(scores)
    found = Found.of(range(n), sorted(scores, reverse=True), "a")
    codes = (np.arange(n) % 4).astype(np.int32) - 1
    vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    chosen = items(shaped(found, Shape(most, diversity), codes, vectors, k=k))
    assert len(chosen) == len(set(chosen)) <= k
    assert chosen[0] == 0
    if most is None:
        assert len(chosen) == min(k, n)
    else:
        counts = np.bincount(codes[chosen] + 1, minlength=4)[1:]
        assert (counts <= most).all()


def test_a_request_may_ask_for_caps_prices_and_diversity(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle())
    plain = recommender.products(user_id(0), k=9)
    assert recommender.products(user_id(0), k=9, diversity=0.0).ids == plain.ids
    capped = recommender.products(user_id(0), k=9, max_per_category=3)
    of = [int(str(id_)[2:]) % 3 for id_ in capped.ids]
    assert sorted(of) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    short = recommender.products(user_id(0), k=9, max_per_category=1)
    assert len(short) == 3
    assert short.shortfall is not None
    assert short.shortfall.startswith("max_per_category=1 leaves out all but 3")
    of_brands = recommender.products(user_id(0), k=9, max_per_brand=2)  # four brands, i mod 4
    assert len(of_brands) == 8
    assert of_brands.shortfall is not None
    assert of_brands.shortfall.startswith("max_per_brand=2 leaves out all but 8")
    wide = recommender.products(user_id(0), k=9, diversity=0.9)

    def mixed(ids: list[object]) -> int:
        kinds = [int(str(id_)[2:]) % 3 for id_ in ids]
        return sum(a != b for a, b in itertools.pairwise(kinds))

    assert mixed(wide.ids) > mixed(plain.ids)
    assert len(wide) == 9 <= POOL
    for bad in ({"diversity": 1.5}, {"max_per_category": 0}, {"max_per_brand": 0}):
        with pytest.raises(RequestError):
            recommender.products(user_id(0), **bad)


def test_prices_outside_the_bounds_and_unknown_ones_are_left_out(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle())
    table = recommender._current.loaded.catalogue.item_table
    priced = recommender.products(user_id(0), k=60, price=(None, None)).ids
    prices = dict(zip((item_id(i) for i in range(60)), table["price"].to_pylist(), strict=True))
    assert priced
    assert all(prices[id_] is not None for id_ in priced)
    inside = recommender.products(user_id(0), k=60, price=(10.0, 20.0)).ids
    assert set(inside) == {id_ for id_ in priced if 10.0 <= prices[id_] <= 20.0}
