"""The files at the edge: ids keep their spelling, and a failed write leaves what was there."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.tables import check_out, read_table, write_table

# What a CSV can hold: no lone surrogates, no NUL, and a carriage return would be read as a line's end.
CELL = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00\r"), min_size=1, max_size=20
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8))
def test_text_survives_a_csv(tmp_path, cells):
    path = tmp_path / "t.csv"
    write_table(pa.table({"user_id": cells}), path)
    found = read_table(path, ("user_id",))["user_id"].to_pylist()
    assert [str(value) for value in found] == [cell.removesuffix(".0") for cell in cells] or found == cells


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "007"], ["1", "007"]),
        (["1", "2.0"], [1, 2]),  # as pandas writes whole numbers among which one was missing
        (["1", "2.5"], ["1", "2.5"]),
        (["9" * 30], ["9" * 30]),
    ],
)
def test_whole_numbers_of_a_csv_are_numbers_only_if_all_are(tmp_path, cells, expected):
    write_table(pa.table({"user_id": cells, "more": cells}), tmp_path / "t.csv")
    table = read_table(tmp_path / "t.csv", ("user_id",))
    assert table["user_id"].to_pylist() == expected
    assert table["more"].to_pylist() == cells


def test_text_in_parquet_stays_text(tmp_path):
    write_table(pa.table({"user_id": ["1", "2"]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ("user_id",))["user_id"].to_pylist() == ["1", "2"]


@pytest.mark.parametrize("values", [["1", None], ["1", ""]])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_row_without_a_value_is_refused(tmp_path, values, ending):
    write_table(pa.table({"user_id": values, "more": ["a", "b"]}), tmp_path / f"t.{ending}")
    with pytest.raises(DataError, match=rf"t\.{ending}: a row has no user_id"):
        read_table(tmp_path / f"t.{ending}", ("user_id",))


def test_what_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.csv").touch()
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        check_out(tmp_path / "folder.csv")
    with pytest.raises(DataError, match="the folder cannot be made"):
        check_out(tmp_path / "file.csv" / "x.csv")
    check_out(tmp_path / "new" / "x.csv")
    assert (tmp_path / "new").is_dir()


def test_parquet_keeps_types(tmp_path):
    table = pa.table({"user_id": pa.array([1, 2], pa.int32()), "at": pa.array([0, 1], pa.timestamp("ms"))})
    write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ("user_id", "at")).schema.equals(table.schema)


def test_text_of_any_kind_is_text(tmp_path):
    texts = pa.array(["u1", "語"])
    for kind in (pa.string_view(), pa.binary(), pa.large_binary()):
        pq.write_table(pa.table({"user_id": texts.cast(kind)}), tmp_path / "users.parquet")
        assert read_table(tmp_path / "users.parquet", ("user_id",))["user_id"].to_pylist() == ["u1", "語"]
    pq.write_table(pa.table({"user_id": pa.array([b"\xff"])}), tmp_path / "users.parquet")
    with pytest.raises(DataError, match="user_id holds binary that is no text"):
        read_table(tmp_path / "users.parquet", ("user_id",))


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
