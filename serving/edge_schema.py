"""What comes in over HTTP and what goes out: bodies, limits and spelling."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from recsys.types import Behaviour, ExternalId
from serving.answer import Answer
from serving.reporting import MAX_DURATION_S

MAX_K = 500
MAX_BODY_BYTES = 64 << 10
MAX_IDS = 1_000
ID_LENGTH = 256

Id = Annotated[str, Field(min_length=1, max_length=ID_LENGTH)] | int
K = Annotated[int, Query(ge=1, le=MAX_K)]
Ids = Annotated[list[str] | None, Query(max_length=MAX_IDS)]
UserId = Annotated[str, Query(min_length=1, max_length=ID_LENGTH)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EventIn(_Body):
    """One event, as `recsys.types.Event`."""

    user_id: Id
    event: Behaviour
    timestamp: datetime
    item_id: Id | None = None
    room_id: Id | None = None
    streamer_id: Id | None = None
    duration_s: Annotated[float, Field(ge=0, le=MAX_DURATION_S, allow_inf_nan=False)] | None = None
    quantity: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    amount: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    position: Annotated[int, Field(ge=0)] | None = None
    source: Annotated[str, Field(max_length=ID_LENGTH)] | None = None
    event_id: Annotated[str, Field(max_length=ID_LENGTH)] | None = None


class StockIn(_Body):
    """How many units of a product are left."""

    item_id: Id
    units: Finite


class ListedIn(_Body):
    """Whether a product is for sale."""

    item_id: Id
    listed: bool = True


class BlockedIn(_Body):
    """Whether a product must not be shown."""

    item_id: Id
    blocked: bool = True


class RoomStartedIn(_Body):
    """A room that is live."""

    room_id: Id
    streamer_id: Id
    category: Annotated[str, Field(max_length=ID_LENGTH)] | None = None


class RoomEndedIn(_Body):
    """A room that is over."""

    room_id: Id


class OnAirIn(_Body):
    """The product that a room shows; none if it is left out."""

    room_id: Id
    item_id: Id | None = None


class ForgetIn(_Body):
    """A person to be forgotten."""

    user_id: Id


class EntryOut(BaseModel):
    """One product or room."""

    id: ExternalId
    score: float
    source: str
    reason: str
    facts: dict[str, Any]


class AnswerOut(BaseModel):
    """A ranked answer, best first."""

    version: str
    fallback: str | None
    shortfall: str | None
    arm: str | None
    entries: list[EntryOut]


def spelt(answer: Answer) -> AnswerOut:
    """An answer as it goes out."""
    return AnswerOut(
        version=answer.version,
        fallback=answer.fallback,
        shortfall=answer.shortfall,
        arm=answer.arm,
        entries=[
            EntryOut(
                id=entry.id,
                score=entry.score,
                source=entry.source,
                reason=entry.reason,
                facts=dict(entry.facts),
            )
            for entry in answer
        ],
    )
