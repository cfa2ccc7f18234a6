"""The checks of the log contract, as predicates that the engine runs. Each has a reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import ibis

from recsys.data.engine import UNREADABLE_LINE
from recsys.data.logs import RawTable, any_of, typed
from recsys.data.schema import EVENT_NAMES, NEEDS_ITEM, Kind, Table

if TYPE_CHECKING:
    import ibis.expr.types as ir

REASON = "reason"
RAW = "raw:"  # no column of a file is likely to begin so
EARLIEST = datetime(1980, 1, 1)
LONGEST_VIEW_S = 7 * 86_400
#: No shop sells or charges more at once, and sums beside such a number keep what else they hold.
LARGEST_NUMBER = 1e12
#: Columns that the Dataset writes itself: a feature of such a name is left out, and said so.
RESERVED = frozenset({"known_at", "user_idx", "item_idx", "room_idx", "streamer_idx"})


@dataclass(frozen=True)
class Checked:
    """A raw table with its contract columns typed and every row judged.

    Attributes:
        rows: typed contract columns (a column that the log lacks is null), features under their own names,
            every column of the file as `raw:<name>`, and `reason`: null for a good row.
        features: names of the columns that the contract does not know and that models can read.
        dropped: columns that no model reads: of lists, maps or bytes, or with a name of the Dataset's own.
    """

    schema: Table
    rows: ir.Table
    features: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def good(self) -> ir.Table:
        """The rows that keep the contract: its columns, then the features."""
        names = [column.name for column in self.schema.columns]
        return self.rows.filter(self.rows[REASON].isnull()).select(*names, *self.features)

    @property
    def bad(self) -> ir.Table:
        """The rows that break it, as they were in the file, with the reason."""
        bad = self.rows.filter(self.rows[REASON].notnull())
        raw = {name.removeprefix(RAW): bad[name] for name in bad.columns if name.startswith(RAW)}
        return bad.select(
            **{name: column for name, column in raw.items() if name != REASON}, reason=bad[REASON]
        )


def check(table: RawTable, *, now: datetime) -> Checked:
    """Type the columns and judge the rows.

    Args:
        table: one table of the log.
        now: naive UTC; a later event has not happened.
    """
    schema, data = table.schema, table.data
    features, dropped = _features(table)
    columns = {f"{RAW}{name}": data[name] for name in data.columns}
    for column in schema.columns:
        if column.name in data.columns:
            value = typed(data[column.name], column.kind)
            if column.kind is Kind.FLAG:
                # The one flag of the contract is a consent: what cannot be read is none.
                value = ibis.ifelse(data[column.name].notnull() & value.isnull(), False, value)
            columns[column.name] = value
        else:
            columns[column.name] = ibis.null(_DTYPES[column.kind])
    for name in features:
        columns[name] = _feature(data[name], numeric=name in table.numeric)
    rows = data.select(**columns)
    rows = rows.mutate(**{REASON: _first_reason(schema, rows, now)})
    key = "event_id" if schema.name == "events" else _key(schema)
    if key is not None and key in data.columns:
        rows = _judge_repeats(rows, schema, key)
    return Checked(schema, rows, features, dropped)


_DTYPES = {
    Kind.ID: "string",
    Kind.TIME: "timestamp",
    Kind.NUMBER: "float64",
    Kind.TEXT: "string",
    Kind.FLAG: "boolean",
    Kind.EVENT: "string",
}


def _features(table: RawTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if table.schema.name == "events":
        return (), ()
    ours = {REASON, UNREADABLE_LINE}
    extra = [n for n in table.data.columns if table.schema.column(n) is None and n not in ours]
    readable = [
        name
        for name in extra
        if (dtype := table.data[name].type()).is_numeric()
        or dtype.is_string()
        or dtype.is_boolean()
        or dtype.is_timestamp()
        or dtype.is_date()
    ]
    readable = [name for name in readable if name not in RESERVED]
    return tuple(readable), tuple(name for name in extra if name not in readable)


def _feature(column: ir.Column, *, numeric: bool) -> ir.Column:
    dtype = column.type()
    if numeric or dtype.is_floating() or dtype.is_decimal():
        return typed(column, Kind.NUMBER)
    return typed(column, Kind.TIME) if dtype.is_timestamp() or dtype.is_date() else column


def _key(schema: Table) -> str | None:
    """The id that may occur once in a table of entities; showcases and promotions have none."""
    return schema.columns[0].name if schema.name in ("items", "rooms", "users", "streamers") else None


def _first_reason(schema: Table, rows: ir.Table, now: datetime) -> ir.Column:
    """The first reason that applies to a row, null where none does."""
    reasons: list[tuple[ir.BooleanColumn, str]] = []
    line = f"{RAW}{UNREADABLE_LINE}"
    if line in rows.columns:
        unreadable = "the line does not have the header's columns, or is not UTF-8 text"
        reasons.append((rows[line].notnull(), unreadable))
    for column in schema.columns:
        value = rows[column.name]
        present = f"{RAW}{column.name}" in rows.columns
        raw = rows[f"{RAW}{column.name}"] if present else None
        if column.required and raw is not None:
            reasons.append((raw.isnull(), f"{column.name} is missing"))
        if column.kind is Kind.EVENT:
            reasons.append(
                (value.notin(EVENT_NAMES), f"{column.name} is not one of {', '.join(EVENT_NAMES)}")
            )
        if raw is not None and column.kind is Kind.TIME:
            reasons.append(
                (raw.notnull() & value.isnull(), f"{column.name} cannot be read as a {column.kind}")
            )
        if raw is not None and column.kind is Kind.NUMBER:
            if raw.type().is_string():
                unread = raw.notnull() & raw.try_cast("float64").isnull()
                reasons.append((unread, f"{column.name} cannot be read as a number"))
            reasons.append((value.isinf(), f"{column.name} is infinite"))
            reasons.append((value.abs() > LARGEST_NUMBER, f"{column.name} is beyond {LARGEST_NUMBER:g}"))
            if column.minimum is not None:
                reasons.append((value < column.minimum, f"{column.name} is below {column.minimum:g}"))
    if schema.name == "events":
        reasons += _event_reasons(rows, now)
    if schema.name in ("rooms", "showcases", "promotions"):
        reasons.append((rows.ended_at < rows.started_at, "ended_at is before started_at"))
    return ibis.cases(*reasons, else_=ibis.null("string"))


def _event_reasons(rows: ir.Table, now: datetime) -> list[tuple[ir.BooleanColumn, str]]:
    target = ("item_id", "room_id", "streamer_id")
    needs_item = rows.event.isin([behaviour.value for behaviour in NEEDS_ITEM])
    return [
        (rows.timestamp > ibis.literal(now), "timestamp is in the future"),
        (rows.timestamp < ibis.literal(EARLIEST), f"timestamp is before {EARLIEST:%Y}"),
        (rows.duration_s > LONGEST_VIEW_S, "duration_s is above 7 days"),
        (needs_item & rows.item_id.isnull(), "cart, purchase or refund without item_id"),
        (~any_of([rows[name].notnull() for name in target]), "neither item_id, room_id nor streamer_id"),
    ]


def _judge_repeats(rows: ir.Table, schema: Table, key: str) -> ir.Table:
    """Of the good rows that share a key the first stays: the earliest, ties broken by every column."""
    # No consent goes before consent: of a person's rows the one that opted out stays.
    flags_first = sorted(schema.columns, key=lambda column: column.kind is not Kind.FLAG)
    columns = [column.name for column in flags_first if column.name != key]
    first = ["timestamp"] if "timestamp" in columns else []
    order = [rows[name] for name in (*first, *(name for name in columns if name not in first))]
    window = ibis.window(group_by=[rows[key], rows[REASON].isnull()], order_by=order)
    repeat = rows[key].notnull() & rows[REASON].isnull() & (ibis.row_number().over(window) > 0)
    return rows.mutate(**{REASON: ibis.ifelse(repeat, f"{key} occurs again", rows[REASON])})
