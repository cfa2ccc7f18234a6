"""Finding and reading the raw tables of a log: Parquet or CSV, one file or a folder of part files each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import ibis

from recsys.data.engine import UNREADABLE_LINE, Engine
from recsys.data.schema import EPOCH_BOUNDS, TABLES, Kind, Table
from recsys.errors import DataError

if TYPE_CHECKING:
    import ibis.expr.datatypes as dt
    import ibis.expr.types as ir

_PARQUET = (".parquet",)
_CSV = (".csv", ".csv.gz")


@dataclass(frozen=True)
class RawTable:
    """One table of the log as it was found.

    Attributes:
        schema: its contract.
        data: the rows, columns named and typed as in the files.
        source: the file or folder, for messages.
        id_types: int64, uint64, double or string for each id column: the type that its values come back with.
        numeric: text columns, of a CSV, whose every value is a number.
    """

    schema: Table
    data: ir.Table
    source: Path
    id_types: Mapping[str, str]
    numeric: frozenset[str]


def read_logs(logs: Path, engine: Engine) -> dict[str, RawTable]:
    """The tables that the folder holds, by name.

    Raises:
        DataError: no such folder, no events table, a required column is missing, or a table has no row.
    """
    if not logs.is_dir():
        raise DataError(f"{logs}: no such folder of log tables")
    tables = {}
    for schema in TABLES.values():
        found = _find(logs, schema.name)
        if found is not None:
            tables[schema.name] = _read(schema, *found, engine)
    if "events" not in tables:
        raise DataError(
            f"{logs}: no events table; expected events.parquet, events.csv or a folder events/ of parts"
        )
    return tables


def _find(logs: Path, name: str) -> tuple[Path, list[Path], bool] | None:
    """(source, part files, whether they are CSV) of one table, or None where the log lacks it."""
    for entry in (logs / name, *(logs / f"{name}{suffix}" for suffix in (*_PARQUET, *_CSV))):
        if not entry.exists():
            continue
        if entry.is_file():
            return entry, [entry], not entry.name.endswith(_PARQUET)
        parts = sorted(
            path
            for path in entry.rglob("*")
            if path.is_file()
            and path.name.endswith((*_PARQUET, *_CSV))
            and not path.name.startswith(("_", "."))
        )
        if not parts:
            raise DataError(f"{entry}: the folder holds no part file; expected *.parquet or *.csv")
        csv = {not part.name.endswith(_PARQUET) for part in parts}
        if len(csv) > 1:
            raise DataError(f"{entry}: holds both Parquet and CSV parts; keep one kind")
        return entry, parts, csv.pop()
    return None


def _read(schema: Table, source: Path, files: list[Path], csv: bool, engine: Engine) -> RawTable:
    data = engine.read(files, csv=csv)
    missing = [name for name in schema.required if name not in data.columns]
    if missing:
        found = ", ".join(name for name in data.columns if name != UNREADABLE_LINE)
        raise DataError(f"{source}: required column {missing[0]!r} is missing; found {found}")
    # An empty text is no value, and nor is what is "not a number": not every writer of Parquet makes it null.
    empty = {name: data[name].nullif("") for name in data.columns if data[name].type().is_string()}
    for name in data.columns:
        if data[name].type().is_floating():
            empty[name] = ibis.ifelse(data[name].isnan(), ibis.null(data[name].type()), data[name])
    data = data.mutate(**empty) if empty else data
    id_types, numeric = _text_types(schema, data) if csv else ({}, frozenset[str]())
    # Whole numbers with a gap among them are floats to pandas, which writes 12 as 12.0.
    whole = [name for name, kind in id_types.items() if kind == "int64"]
    data = data.mutate(**{name: data[name].re_replace(r"\.0$", "") for name in whole}) if whole else data
    for name in data.columns:
        column = schema.column(name)
        if column is not None and column.kind is Kind.ID and name not in id_types:
            dtype = data[name].type()
            id_types[name] = _id_type(dtype)
    return RawTable(schema, data, source, id_types, numeric)


def _id_type(dtype: dt.DataType) -> str:
    if dtype.is_integer():
        return "uint64" if dtype.is_unsigned_integer() and dtype.nbytes == 8 else "int64"
    return "double" if dtype.is_floating() else "string"


def _text_types(schema: Table, data: ir.Table) -> tuple[dict[str, str], frozenset[str]]:
    """What the text columns of a CSV hold. An id column is int64 only if every value is spelt as one."""
    ids = [name for name in data.columns if (c := schema.column(name)) is not None and c.kind is Kind.ID]
    features = [n for n in data.columns if schema.column(n) is None and n != UNREADABLE_LINE]
    checks: dict[str, ir.BooleanScalar] = {}
    for name in ids:
        text = data[name]
        as_int = text.re_search(r"^(0|-?[1-9][0-9]{0,17})(\.0)?$")
        checks[f"id_{name}"] = (text.isnull() | as_int).all()
    for name in features:
        text = data[name]
        checks[f"number_{name}"] = (text.isnull() | text.try_cast("float64").notnull()).all()
        checks[f"some_{name}"] = text.notnull().any()
    if not checks:
        return {}, frozenset()
    row = data.aggregate(**checks).to_pyarrow().to_pylist()[0]
    id_types = {name: "int64" if row[f"id_{name}"] else "string" for name in ids}
    return id_types, frozenset(n for n in features if row[f"number_{n}"] and row[f"some_{n}"])


def typed(column: ir.Column, kind: Kind) -> ir.Column:
    """The column's values as its kind; null where a value cannot be read as one. Times are naive UTC."""
    dtype = column.type()
    if dtype.is_floating() and kind is not Kind.NUMBER:
        column = ibis.ifelse(column.isinf(), ibis.null(dtype), column)
    if kind is Kind.ID:
        if dtype.is_floating():
            whole = column.cast("int64").cast("string")
            return ibis.ifelse(column == column.floor(), whole, column.cast("string"))
        return column.cast("string")
    if kind is Kind.TIME:
        return _time(column)
    if kind is Kind.NUMBER:
        number = column.try_cast("float64") if dtype.is_string() else column.cast("float64")
        return ibis.ifelse(number.isnan(), ibis.null("float64"), number)
    if kind is Kind.FLAG:
        if dtype.is_string():
            text = column.lower()
            return ibis.cases(
                (text.isin(["true", "t", "1", "yes", "y"]), True),
                (text.isin(["false", "f", "0", "no", "n"]), False),
            )
        return column.cast("boolean")
    text = column.cast("string")
    return text.lower() if kind is Kind.EVENT else text


def _time(column: ir.Column) -> ir.Column:
    dtype = column.type()
    if dtype.is_timestamp() or dtype.is_date():
        return (
            column.cast("timestamp('UTC')").cast("timestamp")
            if dtype.is_timestamp()
            else column.cast("timestamp")
        )
    if dtype.is_numeric():
        return _epoch(column.cast("int64"))
    if not dtype.is_string():
        return ibis.null("timestamp")
    # A time zone in the text is obeyed; without one, it is UTC.
    parsed = column.try_cast("timestamp('UTC')").cast("timestamp")
    return ibis.coalesce(parsed, _epoch(column.try_cast("int64")))


def _epoch(number: ir.IntegerColumn) -> ir.Column:
    """An integer time, its unit told by its size; kept to the millisecond."""
    seconds, millis, micros = EPOCH_BOUNDS
    size = number.abs()
    in_ms = ibis.cases(
        (size < seconds, number * 1_000),
        (size < millis, number),
        (size < micros, (number / 1_000).floor().cast("int64")),
        else_=(number / 1_000_000).floor().cast("int64"),
    )
    # Seconds are the one unit that every engine turns into a time; the rest is put behind the point.
    whole = (in_ms / 1_000).floor().cast("int64")
    text = whole.as_timestamp("s").cast("timestamp").strftime("%Y-%m-%d %H:%M:%S")
    return (text + "." + (in_ms - whole * 1_000).cast("string").lpad(3, "0")).try_cast("timestamp")


def any_of(predicates: list[ir.BooleanColumn]) -> ir.BooleanColumn:
    """Whether one of the predicates holds."""
    return reduce(lambda left, right: left | right, predicates)
