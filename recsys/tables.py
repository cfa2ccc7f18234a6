"""Small tables at the edge: the files that the command line is given and the files that it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys.errors import DataError


def read_table(path: Path, required: tuple[str, ...]) -> pa.Table:
    """The rows of a Parquet or CSV file, told by its ending; the cells of a CSV are text.

    Raises:
        DataError: the file cannot be read, or a required column is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if _is_csv(path):
            names = pacsv.open_csv(path).schema.names
            options = pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            )
            # A new line inside quotes belongs to its cell.
            parsing = pacsv.ParseOptions(newlines_in_values=True)
            table = pacsv.read_csv(path, convert_options=options, parse_options=parsing)
        else:
            table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    twice = [name for name in required if table.column_names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} occurs more than once")
    nested = [
        name for name in required if name in table.column_names and pa.types.is_nested(table[name].type)
    ]
    if nested:
        raise DataError(f"{path}: column {nested[0]!r} holds {table[nested[0]].type}; give one value a row")
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path}: required column {missing[0]!r} is missing; found {', '.join(table.column_names)}"
        )
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet or CSV, told by the ending; the file appears whole or not at all.

    Raises:
        DataError: another ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        if _is_csv(path):
            pacsv.write_csv(table, part)
        else:
            pq.write_table(table, part, compression="zstd")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_out(path: Path) -> None:
    """Refuse an output file of an unknown kind before any work is done.

    Raises:
        DataError: it ends in neither .parquet nor .csv.
    """
    _is_csv(path)


def parse_whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A text column as int64 where every value is spelt as one, else as it is."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    spelt = pc.match_substring_regex(column, r"^(0|-?[1-9][0-9]{0,17})$")
    if len(column) and pc.all(spelt, skip_nulls=False).as_py():
        return column.cast(pa.int64())
    return column


def _is_csv(path: Path) -> bool:
    if path.name.endswith(".parquet"):
        return False
    if path.name.endswith(".csv"):
        return True
    raise DataError(f"{path}: the ending decides the format; use .parquet or .csv")
