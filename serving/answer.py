"""What a request gets back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from recsys.errors import RecsysError
from recsys.types import ExternalId

#: What is known beside the rest, where nothing is.
NO_FACTS: Mapping[str, Any] = MappingProxyType({})


class RequestError(RecsysError):
    """A request that cannot be meant: the message names the argument and its value."""


class NotServed(RecsysError):
    """The bundle that is loaded does not hold what was asked for: the message names the section."""


class Entry(NamedTuple):
    """One product or room of an answer; a tuple, for a frozen dataclass takes three times as long to make.

    Attributes:
        id: in the type and spelling of the log.
        score: comparable within one answer; a higher score is better.
        source: what put it there: a model's name, `popular`, `hot`.
        reason: why, in words.
        facts: what else is known of it, as the interval of a potential.
    """

    id: ExternalId
    score: float
    source: str
    reason: str
    facts: Mapping[str, Any] = NO_FACTS

    @classmethod
    def many(
        cls, ids: list[ExternalId], scores: Iterable[float], sources: Iterable[str], reasons: Iterable[str]
    ) -> tuple[Self, ...]:
        """One entry for each id, without facts: a quarter of the time of one call each."""
        columns = zip(ids, scores, sources, reasons, repeat(NO_FACTS, len(ids)), strict=True)
        return tuple(map(partial(tuple.__new__, cls), columns))


@dataclass(frozen=True, slots=True)
class Answer:
    """A ranked answer, best first. It is all of one bundle.

    Attributes:
        entries: the products or rooms.
        version: model version of the bundle that answered.
        fallback: why the answer is not personal, as "popular: unknown user"; None where it is.
        shortfall: why there are fewer than asked for; None where there are not.
        arm: `champion` or `challenger` where users are split between two bundles; else None.
    """

    entries: tuple[Entry, ...]
    version: str
    fallback: str | None = None
    shortfall: str | None = None
    arm: str | None = None

    @property
    def ids(self) -> list[ExternalId]:
        """The ids alone, best first."""
        return [entry.id for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)
