"""Where a setting may be searched: written beside its default, read by whatever tunes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

#: What a searched setting can be.
Value = bool | int | float | str


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`, both included; whole where the default is.

    Attributes:
        low, high: the bounds.
        log: whether it is searched by its logarithm; then `low` is above 0.
    """

    low: float
    high: float
    log: bool = False

    def with_value(self, value: float) -> Within:
        """The range that also holds a value."""
        return Within(min(self.low, value), max(self.high, value), self.log and value > 0)


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        object.__setattr__(self, "values", values)

    def with_value(self, value: Value) -> OneOf:
        """The choice that also has a value."""
        return self if value in self.values else OneOf(*self.values, value)


Range = Within | OneOf


@dataclass(frozen=True)
class Searched:
    """A setting to search.

    Attributes:
        allowed: its range, widened to hold `value`. A setting that is None is switched off, and not searched.
        value: what it is now.
    """

    allowed: Range
    value: Value


def search_space(params: BaseModel) -> dict[str, Searched]:
    """Every setting that names its range, those nested in others included, by dotted key."""
    return dict(_searched(params, ""))


def _searched(params: BaseModel, above: str) -> Iterator[tuple[str, Searched]]:
    for name, field in type(params).model_fields.items():
        value = getattr(params, name)
        if isinstance(value, BaseModel):
            yield from _searched(value, f"{above}{name}.")
        elif value is not None:
            for allowed in field.metadata:
                if isinstance(allowed, Within | OneOf):
                    yield f"{above}{name}", Searched(allowed.with_value(value), value)
