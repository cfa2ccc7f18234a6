"""Ids and their indices: packed texts give what a plain dict gives."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.ids import IdMap, id_key

#: Texts that are packed, and texts that are not: with a NUL, or long.
TEXTS = st.one_of(st.text(max_size=6), st.text(alphabet="a\0", max_size=4), st.text("é商", max_size=40))


@given(keys=st.lists(TEXTS, unique=True, max_size=20), others=st.lists(TEXTS, max_size=10))
def test_every_text_is_found_at_its_place_and_no_other_is(keys: list[str], others: list[str]) -> None:
    ids = IdMap(pa.array(keys, pa.string()), pa.string())
    assert [ids.get(key) for key in keys] == list(range(len(keys)))
    places = {key: place for place, key in enumerate(keys)}
    assert [ids.get(other) for other in others] == [places.get(other, -1) for other in others]
    assert ids.spelt(range(len(keys))) == keys
    assert ids.get("\ud800") == -1  # half a surrogate pair, as a request may hold
    assert ids.get(None) == -1


@pytest.mark.parametrize(
    ("values", "id_type"),
    [
        ([7, -3, 1_000_000_000_000], pa.int64()),
        ([2**64 - 1, 0], pa.uint64()),
        ([7.0, 7.5, -0.25], pa.float64()),
        (["7", "007", "", "seven"], pa.string()),
        (["x" * 100, "y"], pa.string()),
    ],
)
def test_ids_come_back_as_the_log_spelt_them(values: list[object], id_type: pa.DataType) -> None:
    ids = IdMap(pa.array([id_key(value) for value in values], pa.string()), id_type)  # type: ignore[arg-type]
    assert ids.spelt(range(len(values))) == values
    assert [type(value) for value in ids.spelt(range(len(values)))] == [type(value) for value in values]
    assert [ids.one(place) for place in range(len(values))] == values
    assert ids.external([0]).to_pylist() == values[:1]  # type: ignore[arg-type]
    assert [ids.get(value) for value in values] == list(range(len(values)))  # type: ignore[arg-type]
    assert ids.prefix(1).get(values[0]) == 0  # type: ignore[arg-type]
    assert ids.prefix(1).get(values[1]) == -1  # type: ignore[arg-type]


def test_a_slice_of_keys_is_packed_from_where_it_begins() -> None:
    keys = pa.array(["zero", "one", "two", "three"], pa.string())
    ids = IdMap(keys.slice(1, 2), pa.string())
    assert ids.spelt([1, 0]) == ["two", "one"]
    assert [ids.get(key) for key in ("zero", "one", "two", "three")] == [-1, 0, 1, -1]
