"""Features of users and targets: codes and numbers by hand, and what a later table may bring."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from recsys.errors import ConfigError, DataError
from recsys.models.tower_features import TableEncoder

ITEMS = pa.table(
    {
        "category": ["tea", "tea", "cup", None, "tea", "cup"],
        "price": [math.e - 1, None, 0.0, math.e - 1, 0.0, 0.0],
        "title": ["a", "b", "c", "d", "e", "f"],
        "brand": ["x", "y", "x", "y", "x", "y"],
        "serial": ["1", "2", "3", "4", "5", "6"],
        "weight_g": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "listed_at": pa.array([0] * 6, pa.timestamp("us")),
        "constant": ["same"] * 6,
    }
)


def _fit(columns: tuple[str, ...] | str = "auto", max_categories: int = 100) -> TableEncoder:
    return TableEncoder.fit(ITEMS, columns, kind="items", max_categories=max_categories)  # type: ignore[arg-type]


def test_auto_takes_the_contracts_columns_and_texts_of_few_values() -> None:
    encoder = _fit()
    assert list(encoder.vocabularies) == ["category", "brand"]
    assert list(encoder.scales) == ["price"]


def test_codes_go_by_frequency_and_missing_is_unknown() -> None:
    encoder = _fit(("category",))
    assert encoder.encode(ITEMS, 6).codes[:, 0].tolist() == [1, 1, 2, 0, 1, 2]
    assert encoder.cardinalities == (3,)


def test_values_beyond_the_vocabulary_are_unknown() -> None:
    assert _fit(("category",), max_categories=1).encode(ITEMS, 6).codes[:, 0].tolist() == [1, 1, 0, 0, 1, 0]


def test_prices_are_logarithms_standardised_with_an_indicator_of_the_missing() -> None:
    # log(1 + price) of those known is 1, 0, 1, 0, 0: mean 0.4, deviation sqrt(0.24).
    numbers = _fit(("price",)).encode(ITEMS, 6).numbers
    high, low = 0.6 / math.sqrt(0.24), -0.4 / math.sqrt(0.24)
    np.testing.assert_allclose(numbers[:, 0], [high, 0, low, high, low, low], rtol=1e-6)
    assert numbers[:, 1].tolist() == [0, 1, 0, 0, 0, 0]


def test_a_later_table_gets_the_same_columns() -> None:
    encoder = _fit(("category", "price"))
    later = encoder.encode(pa.table({"category": ["spoon", "cup"]}), 2)
    assert later.codes[:, 0].tolist() == [0, 2]
    assert later.numbers.tolist() == [[0, 1], [0, 1]]


def test_no_features_is_a_width_of_zero() -> None:
    encoded = TableEncoder.fit(pa.table({}), "auto", kind="users", max_categories=9).encode(pa.table({}), 4)
    assert encoded.codes.shape == encoded.numbers.shape == (4, 0)
    assert not encoded.some


def test_columns_that_cannot_be_features_are_named() -> None:
    with pytest.raises(ConfigError, match="items has no column 'colour'"):
        _fit(("colour",))
    with pytest.raises(ConfigError, match=r"items\.listed_at is timestamp"):
        _fit(("listed_at",))
    broken = pa.table({"price": [1.0, math.inf]})
    with pytest.raises(DataError, match=r"items\.price: 1 of 2 values infinite"):
        TableEncoder.fit(broken, ("price",), kind="items", max_categories=9)


def test_titles_are_words_that_some_share_and_not_most_the_rarest_first() -> None:
    titles = ["red tea cup", "red cup", "blue cup lid", "blue tea", "blue red pot", None, *(["misc"] * 3)]
    table = pa.table({"title": titles})
    encoder = TableEncoder.fit(table, "auto", kind="items", max_categories=100)
    # tea, lid and pot are on fewer than three titles; no word is on more than a third of the nine.
    assert encoder.words == ("red", "misc", "cup", "blue")
    encoded = encoder.encode(table, 9)
    assert encoded.words[:7].tolist() == [[1, 3], [1, 3], [3, 4], [4, 0], [1, 4], [0, 0], [2, 0]]
    assert encoded.some
    assert encoder.encode(pa.table({"category": ["tea"]}), 1).words.tolist() == [[0]]


def test_titles_without_a_shared_word_are_no_feature() -> None:
    assert not TableEncoder.fit(ITEMS, ("title",), kind="items", max_categories=9).encode(ITEMS, 6).some


def test_numbers_that_are_equal_but_for_rounding_are_no_feature() -> None:
    # The deviation of a thousand prices of 9.9 is 4e-16, and a new one of 10.9 was 2e14 of them away.
    prices = pa.table({"price": [9.9] * 1000, "category": ["tea", "cup"] * 500})
    encoder = TableEncoder.fit(prices, "auto", kind="items", max_categories=10)
    assert list(encoder.scales) == []
    asked_for = TableEncoder.fit(prices, ("price",), kind="items", max_categories=10)
    numbers = asked_for.encode(pa.table({"price": [9.9, 10.9]}), 2).numbers[:, 0]
    np.testing.assert_allclose(numbers, [0.0, math.log(11.9) - math.log(10.9)], atol=1e-6)


def test_a_number_far_from_all_others_does_not_drown_what_else_is_known() -> None:
    table = pa.table({"weight_g": [1.0, 2.0] * 50})
    encoder = TableEncoder.fit(table, ("weight_g",), kind="items", max_categories=10)
    numbers = encoder.encode(pa.table({"weight_g": [1e6, -1e6, 2.0]}), 3).numbers[:, 0]
    np.testing.assert_allclose(numbers, [20.0, -20.0, 1.0])
