"""The log contract: the tables, their columns and units, and the checks that a row must pass.

A check is an Ibis predicate, so that it runs inside the engine that holds the data. `recsys.data.prepare`
puts every row that fails one into quarantine, with the first reason that applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from recsys.types import BEHAVIOURS, Behaviour

#: Bounds between epochs in seconds, milliseconds, microseconds and nanoseconds: each covers 1973 to 5138.
EPOCH_BOUNDS = (100_000_000_000, 100_000_000_000_000, 100_000_000_000_000_000)


class Kind(StrEnum):
    """How the values of a column are read."""

    ID = "id"
    TIME = "time"
    NUMBER = "number"
    TEXT = "text"
    FLAG = "flag"
    EVENT = "event"


@dataclass(frozen=True)
class Column:
    """One column of a log table.

    Attributes:
        name: the column's name in the log.
        kind: how its values are read.
        required: the table is refused without the column, and a row without a value is quarantined.
        minimum: the least number allowed, in the column's own unit.
    """

    name: str
    kind: Kind
    required: bool = False
    minimum: float | None = None


@dataclass(frozen=True)
class Table:
    """One table of the log. Columns that it does not name are features, kept as they come."""

    name: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """The contract's column of that name, or None for a feature."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the columns that the table cannot do without."""
        return tuple(column.name for column in self.columns if column.required)


def _id(name: str, *, required: bool = False) -> Column:
    return Column(name, Kind.ID, required)


def _time(name: str, *, required: bool = False) -> Column:
    return Column(name, Kind.TIME, required)


def _number(name: str, *, minimum: float | None = None) -> Column:
    return Column(name, Kind.NUMBER, minimum=minimum)


def _text(name: str) -> Column:
    return Column(name, Kind.TEXT)


#: Units: `duration_s` seconds; `amount`, `price`, `cost` the log's one currency; times UTC.
TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "events",
            (
                _id("user_id", required=True),
                Column("event", Kind.EVENT, required=True),
                _time("timestamp", required=True),
                _id("item_id"),
                _id("room_id"),
                _id("streamer_id"),
                _number("duration_s", minimum=0),
                _number("quantity", minimum=0),
                _number("amount", minimum=0),
                _number("position", minimum=0),
                _text("source"),
                _text("event_id"),
                _text("device_id"),
                _text("address_id"),
            ),
        ),
        Table(
            "items",
            (
                _id("item_id", required=True),
                _text("category"),
                _number("price"),
                _number("cost"),
                _number("stock"),
                _text("title"),
                _time("listed_at"),
            ),
        ),
        Table(
            "rooms",
            (
                _id("room_id", required=True),
                _id("streamer_id"),
                _time("started_at"),
                _time("ended_at"),
                _text("category"),
                _text("title"),
            ),
        ),
        Table(
            "showcases",
            (
                _id("room_id", required=True),
                _id("item_id", required=True),
                _time("started_at", required=True),
                _time("ended_at"),
            ),
        ),
        Table(
            "users",
            (
                _id("user_id", required=True),
                _text("age_band"),
                _text("gender"),
                _text("city_tier"),
                _text("region"),
                _text("income_band"),
                Column("personalised", Kind.FLAG),
            ),
        ),
        Table("streamers", (_id("streamer_id", required=True), _text("category"))),
        Table(
            "promotions",
            (
                _id("item_id", required=True),
                _time("started_at", required=True),
                _time("ended_at", required=True),
                _text("kind"),
                _number("discount"),
                _time("announced_at"),
            ),
        ),
    )
}

#: What an event must be about: a row of these behaviours without the id is of no use to anybody.
NEEDS_ITEM: frozenset[Behaviour] = frozenset({Behaviour.CART, Behaviour.PURCHASE, Behaviour.REFUND})

EVENT_NAMES: tuple[str, ...] = tuple(behaviour.value for behaviour in BEHAVIOURS)
