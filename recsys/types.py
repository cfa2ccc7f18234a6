"""The values that every part of the engine speaks: behaviours, targets, events, candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: An id as the caller spells it: the log's own integer or string.
ExternalId = str | int | float
#: Called as progress(done, total, text) by what takes longer than a moment.
Progress = Callable[[int, int, str], None]


class Behaviour(StrEnum):
    """What a user did: the values of the log's `event` column."""

    IMPRESSION = "impression"
    CLICK = "click"
    VIEW = "view"
    ENTER = "enter"
    LEAVE = "leave"
    LIKE = "like"
    COMMENT = "comment"
    SHARE = "share"
    FOLLOW = "follow"
    FAVOURITE = "favourite"
    GIFT = "gift"
    CART = "cart"
    PURCHASE = "purchase"
    REFUND = "refund"
    HIDE = "hide"

    @property
    def code(self) -> int:
        """The dense int8 code that a Dataset stores; stable, because new behaviours are appended."""
        return _CODES[self]


BEHAVIOURS: tuple[Behaviour, ...] = tuple(Behaviour)
_CODES = {behaviour: code for code, behaviour in enumerate(BEHAVIOURS)}


class Target(StrEnum):
    """What is recommended. Rooms perish within hours, so models learn a room by its streamer."""

    ITEM = "item"
    ROOM = "room"


class Params(BaseModel):
    """Base of every parameter set: frozen; an unknown key or an infinite number is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log, as a live-room backend hands it to `serving.Recommender.observe`."""

    user_id: ExternalId
    event: Behaviour
    timestamp: datetime
    item_id: ExternalId | None = None
    room_id: ExternalId | None = None
    streamer_id: ExternalId | None = None
    duration_s: float | None = None
    quantity: float | None = None
    amount: float | None = None
    position: int | None = None
    source: str | None = None
    event_id: str | None = None


@dataclass(frozen=True)
class Candidates:
    """The best k targets of each of B users, best first.

    Attributes:
        ids: (B, k) int32 dense target ids.
        scores: (B, k) float32, descending within a row; a higher score is always better.
        counts: (B,) int32; only the first `counts[b]` columns of row b mean anything.
    """

    ids: IntArray
    scores: FloatArray
    counts: IntArray

    def __post_init__(self) -> None:
        ids, scores, counts = self.ids.shape, self.scores.shape, self.counts.shape
        if len(ids) != 2 or ids != scores or counts != ids[:1]:
            raise ValueError(f"ids {ids}, scores {scores} and counts {counts} do not agree")

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, b: int) -> tuple[IntArray, FloatArray]:
        """Ids and scores of user b: two arrays of length `counts[b]`."""
        n = int(self.counts[b])
        return self.ids[b, :n], self.scores[b, :n]


def as_plain(value: Any) -> Any:
    """A numpy scalar as the Python value it holds; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value
