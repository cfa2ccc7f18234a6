"""The checks of the log contract, as predicates that the engine runs. Each has a reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import ibis

from recsys.data.engine import UNREADABLE_LINE
from recsys.data.logs import RawTable, any_of, typed
from recsys.data.schema import EVENT_NAMES, NEEDS_ITEM, Column, Kind, Table

if TYPE_CHECKING:
    import ibis.expr.types as ir

REASON = "reason"
#: Why a row that is used is in the quarantine too: a cell of it could not be.
_NOTE = "note:"
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
            every column of the file as `raw:<name>`, `reason`: null for a good row, and `note:`: what of a
            good row is not used as it stands, null for nothing.
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
        """The rows that break it, if only in a cell, as they were in the file, with the reason."""
        reason = ibis.coalesce(self.rows[REASON], self.rows[_NOTE])
        bad = self.rows.mutate(**{REASON: reason}).filter(reason.notnull())
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
    rows = rows.mutate(**{REASON: _first_reason(schema, rows, now), _NOTE: ibis.null("string")})
    if schema.name == "items":
        rows = _without_bad_cells(schema, rows)
    elif schema.name == "users" and data.columns[0] == "user_id":
        rows = _opted_out_by_unreadable_lines(rows)
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
        if column.required and f"{RAW}{column.name}" in rows.columns:
            reasons.append((rows[f"{RAW}{column.name}"].isnull(), f"{column.name} is missing"))
        if column.kind is Kind.EVENT:
            reasons.append(
                (value.notin(EVENT_NAMES), f"{column.name} is not one of {', '.join(EVENT_NAMES)}")
            )
        if schema.name != "items":
            reasons += _cell_reasons(column, rows)
    if schema.name == "events":
        reasons += _event_reasons(rows, now)
    if schema.name in ("rooms", "showcases", "promotions"):
        reasons.append((rows.ended_at < rows.started_at, "ended_at is before started_at"))
    return ibis.cases(*reasons, else_=ibis.null("string"))


def _cell_reasons(column: Column, rows: ir.Table) -> list[tuple[ir.BooleanColumn, str]]:
    """What may be wrong with a time or a number."""
    if f"{RAW}{column.name}" not in rows.columns:
        return []
    value, raw, name = rows[column.name], rows[f"{RAW}{column.name}"], column.name
    if column.kind is Kind.TIME:
        return [(raw.notnull() & value.isnull(), f"{name} cannot be read as a {column.kind}")]
    if column.kind is not Kind.NUMBER:
        return []
    reasons = []
    if raw.type().is_string():
        unread = raw.notnull() & raw.try_cast("float64").isnull()
        reasons.append((unread, f"{name} cannot be read as a number"))
    reasons.append((value.isinf(), f"{name} is infinite"))
    reasons.append((value.abs() > LARGEST_NUMBER, f"{name} is beyond {LARGEST_NUMBER:g}"))
    if column.minimum is not None:
        reasons.append((value < column.minimum, f"{name} is below {column.minimum:g}"))
    return reasons


def _without_bad_cells(schema: Table, rows: ir.Table) -> ir.Table:
    """Items whose cells that cannot be used are empty, and noted.

    Nobody loses a product's category, or the word that it is sold out, for a price of "1,299". A stock that
    cannot be read is none: what may be sold out is not shown.
    """
    notes: list[tuple[ir.BooleanColumn, str]] = []
    cells: dict[str, ir.Column] = {}
    for column in schema.columns:
        reasons = _cell_reasons(column, rows)
        if not reasons:
            continue
        is_stock = column.name == "stock"
        instead = ibis.literal(0.0) if is_stock else ibis.null(_DTYPES[column.kind])
        bad = any_of([wrong.fill_null(False) for wrong, _ in reasons])
        cells[column.name] = ibis.ifelse(bad, instead, rows[column.name])
        taken = "taken as 0" if is_stock else "taken as unknown"
        notes += [(wrong, f"{reason}: {taken}, the rest of the row is used") for wrong, reason in reasons]
    if not notes:
        return rows
    return rows.mutate(**{_NOTE: ibis.cases(*notes, else_=ibis.null("string"))}, **cells)


def owner_of_line(line: ir.StringColumn) -> ir.StringColumn:
    """Whose a line of `users` is that cannot be split: its first field, null where it has no comma."""
    return ibis.ifelse(line.contains(","), line.split(",")[0].strip().replace('"', ""), ibis.null("string"))


def _opted_out_by_unreadable_lines(rows: ir.Table) -> ir.Table:
    """Users, and of lines that cannot be split whose they are: no consent can be read in them."""
    column = f"{RAW}{UNREADABLE_LINE}"
    if column not in rows.columns:
        return rows
    owner = owner_of_line(rows[column])
    found = owner.notnull()
    return rows.mutate(
        user_id=ibis.ifelse(found, owner, rows.user_id),
        personalised=ibis.ifelse(found, False, rows.personalised),
        **{
            REASON: ibis.ifelse(found, ibis.null("string"), rows[REASON]),
            _NOTE: ibis.ifelse(found, rows[REASON] + ": the user is taken to have opted out", rows[_NOTE]),
        },
    )


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
    first = [each.name for each in schema.columns if each.name == "timestamp" or each.kind is Kind.FLAG]
    rest = [each.name for each in schema.columns if each.name not in (*first, key)]
    order = [*(rows[name] for name in first), rows[_NOTE].notnull(), *(rows[name] for name in rest)]
    window = ibis.window(group_by=[rows[key], rows[REASON].isnull()], order_by=order)
    repeat = rows[key].notnull() & rows[REASON].isnull() & (ibis.row_number().over(window) > 0)
    return rows.mutate(**{REASON: ibis.ifelse(repeat, f"{key} occurs again", rows[REASON])})
