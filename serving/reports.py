"""The reports that change what a process answers, as values, and as the JSON that processes share them in."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from recsys.data.ids import id_key
from recsys.errors import DataError
from recsys.types import Event, ExternalId


@dataclass(frozen=True, slots=True)
class Observed:
    """What a user did."""

    event: Event


@dataclass(frozen=True, slots=True)
class LiveRoom:
    """A room is live since `started_us`, microseconds since the epoch."""

    room_id: ExternalId
    streamer_id: ExternalId
    started_us: int
    category: str | None


@dataclass(frozen=True, slots=True)
class EndedRoom:
    """A room is over."""

    room_id: ExternalId


@dataclass(frozen=True, slots=True)
class Aired:
    """What a room shows since `at_us`, microseconds since the epoch; None is nothing."""

    room_id: ExternalId
    item_id: ExternalId | None
    at_us: int


@dataclass(frozen=True, slots=True)
class ItemReport:
    """One thing about a product, the other two None: its units, whether it is for sale, or is blocked."""

    item_id: ExternalId
    units: float | None = None
    listed: bool | None = None
    blocked: bool | None = None


@dataclass(frozen=True, slots=True)
class ForgottenUser:
    """A person is to be forgotten."""

    user_id: ExternalId


Report = Observed | LiveRoom | EndedRoom | Aired | ItemReport | ForgottenUser


def subject(report: Report) -> str | None:
    """What a report settles, such that of two on the same subject only the later one counts.

    None for what adds to what was before: an event, and a person who is forgotten.
    """
    if isinstance(report, LiveRoom | EndedRoom):
        return f"room:{id_key(report.room_id)}"
    if isinstance(report, Aired):
        return f"air:{id_key(report.room_id)}"
    if isinstance(report, ItemReport):
        what = "units" if report.units is not None else "listed" if report.listed is not None else "blocked"
        return f"{what}:{id_key(report.item_id)}"
    return None


@dataclass(frozen=True, slots=True)
class Message:
    """A report on its way between processes.

    Attributes:
        origin: the process that sends it.
        number: counts up within the origin, so that one which comes twice is known.
        reported_us: when it was reported, by the clock of the process that it was reported to.
        report: what.
    """

    origin: str
    number: int
    reported_us: int
    report: Report


_KINDS: dict[str, type[Report]] = {
    "observed": Observed,
    "room": LiveRoom,
    "ended": EndedRoom,
    "aired": Aired,
    "item": ItemReport,
    "forgotten": ForgottenUser,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_READERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}
_INTS = 2**63


def encode(message: Message) -> bytes:
    """The message as compact JSON; fields that are None are left out.

    Raises:
        DataError: an id is no text or number.
    """
    report = message.report
    head = [message.origin, message.number, message.reported_us, _NAMES[type(report)]]
    try:
        return json.dumps([*head, _by_name(report)], separators=(",", ":"), default=_plain).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{report!r} cannot be shared: {error}") from error


def decode(content: bytes) -> Message:
    """The message that `encode` wrote.

    Raises:
        DataError: it is none, or one of a later version of this library.
    """
    try:
        origin, number, reported_us, kind, values = json.loads(content)
        report = _READERS[kind].validate_python(values)
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError) as error:
        raise DataError(f"{content[:80]!r} is no message: {type(error).__name__}") from error
    whole = isinstance(number, int) and isinstance(reported_us, int)
    if not (isinstance(origin, str) and whole and 0 <= number < _INTS and 0 <= reported_us < _INTS):
        raise DataError(f"{content[:80]!r} is no message: its head is damaged")
    return Message(origin, number, reported_us, report)


def _by_name(value: Any) -> dict[str, Any]:
    pairs = ((field, getattr(value, field.name)) for field in fields(value))
    return {field.name: own for field, own in pairs if own is not None or field.default is MISSING}


def _plain(value: object) -> Any:
    if isinstance(value, Event):
        return _by_name(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is neither text nor a number")
