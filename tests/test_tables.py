"""The files at the edge: ids keep their spelling, and a failed write leaves what was there."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.tables import parse_whole_numbers, read_table, write_table

# What a CSV can hold: no lone surrogates, no NUL, and a carriage return would be read as a line's end.
CELL = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00\r"), min_size=1, max_size=20
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8))
def test_text_survives_a_csv(tmp_path, cells):
    path = tmp_path / "t.csv"
    write_table(pa.table({"user_id": cells}), path)
    assert read_table(path, ("user_id",))["user_id"].to_pylist() == cells


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "007"], ["1", "007"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["1", ""], ["1", ""]),
        (["9" * 30], ["9" * 30]),
    ],
)
def test_whole_numbers_are_numbers_only_if_all_are_spelt_so(cells, expected):
    assert parse_whole_numbers(pa.chunked_array([cells])).to_pylist() == expected


def test_parquet_keeps_types(tmp_path):
    table = pa.table({"user_id": pa.array([1, 2], pa.int32()), "at": pa.array([0, 1], pa.timestamp("ms"))})
    write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ("user_id", "at")).schema.equals(table.schema)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.csv"
    write_table(pa.table({"a": [1]}), path)
    with pytest.raises(pa.ArrowInvalid):
        write_table(pa.table({"a": [[1, 2]]}), path)  # a CSV holds no lists
    assert path.read_text() == '"a"\n1\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.csv", None, "no such file"),
        ("t.csv", "uid\n1\n", "required column 'user_id' is missing; found uid"),
        ("t.csv", "", "cannot be read"),
        ("t.parquet", "PAR1 not really", "cannot be read"),
        ("t.json", "{}", "use .parquet or .csv"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=complaint):
        read_table(tmp_path / name, ("user_id",))


def test_empty_file_of_users_is_read(tmp_path):
    pq.write_table(pa.table({"user_id": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert len(read_table(tmp_path / "t.parquet", ("user_id",))) == 0
