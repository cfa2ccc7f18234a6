"""Small tables at the edge: the files that the command line is given and the files that it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys.errors import DataError

#: Types that hold text as much as `string` does, and which Arrow can do less with.
_TEXT_LIKE = (pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())


def read_table(path: Path, required: tuple[str, ...]) -> pa.Table:
    """The rows of a Parquet or CSV file, told by its ending.

    The cells of a CSV are text, but for those of a required column of whole numbers.

    Raises:
        DataError: the file cannot be read, or a required column is missing or has a row without a value.
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
    for place, name in enumerate(table.column_names):
        if name not in required:
            continue
        if _is_csv(path):
            table = table.set_column(place, name, _whole_numbers(table[name]))
        elif table[name].type in _TEXT_LIKE:
            try:
                table = table.set_column(place, name, table[name].cast(pa.string()))
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{path}: {name} holds {table[name].type} that is no text: {error}"
                ) from error
        empty = table[name].null_count or (
            pa.types.is_string(table[name].type) and pc.any(pc.equal(table[name], "")).as_py()
        )
        if empty:
            raise DataError(f"{path}: a row has no {name}; every row needs one")
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
    """Refuse an output file that cannot be written before any work is done; its folder is made.

    Raises:
        DataError: it ends in neither .parquet nor .csv, is a folder, or its folder cannot be written to.
    """
    _is_csv(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Make a folder that is to be written to.

    Raises:
        DataError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder}: the folder cannot be written to")


def _whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The text of a CSV as int64 where every value is one, spelt 12 or, by pandas, 12.0; else as it is."""
    spelt = pc.match_substring_regex(column, r"^(0|-?[1-9][0-9]{0,17})(\.0)?$")
    if len(column) and pc.all(spelt, skip_nulls=False).as_py():
        return pc.replace_substring_regex(column, r"\.0$", "").cast(pa.int64())
    return column


def _is_csv(path: Path) -> bool:
    if path.name.endswith(".parquet"):
        return False
    if path.name.endswith(".csv"):
        return True
    raise DataError(f"{path}: the ending decides the format; use .parquet or .csv")
