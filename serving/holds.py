"""What the users of a segment may be shown: of two segments, what both allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from recsys.held import Held
from serving.answer import RequestError
from serving.bitmap import Bitmap


@dataclass(frozen=True, slots=True)
class Hold:
    """What may be shown.

    Attributes:
        categories: of rooms and products.
        items: the products of these categories.
    """

    categories: frozenset[str]
    items: Bitmap

    def __and__(self, other: Hold) -> Hold:
        items = self.items.copy()
        items &= other.items
        return Hold(self.categories & other.categories, items)


class Holds:
    """The segments of one bundle.

    Args:
        held: who is in which, and what it allows.
        category: the products of a category.
    """

    def __init__(self, held: Held, n_items: int, category: Callable[[str], Bitmap]) -> None:
        self._members = held.members
        self._holds: dict[str, Hold] = {}
        for name, categories in held.categories.items():
            items = Bitmap.empty(n_items)
            for one in categories:
                items.add(category(one).items())
            self._holds[name] = Hold(frozenset(categories), items)

    def of(self, user_idx: int, segments: Iterable[str]) -> Hold | None:
        """What a user may be shown; None is everything.

        Args:
            user_idx: -1 for somebody whom the bundle does not know.
            segments: that the request says the user is in, beside those that the log says.

        Raises:
            RequestError: a segment that the bundle does not have.
        """
        names = set(segments)
        if unknown := names - self._holds.keys():
            raise RequestError(no_segment(min(unknown), self._holds))
        if user_idx >= 0:
            members = np.flatnonzero(self._members[:, user_idx]).tolist()
            names |= {name for place, name in enumerate(self._holds) if place in members}
        hold: Hold | None = None
        for name in names:
            hold = self._holds[name] if hold is None else hold & self._holds[name]
        return hold


def no_segment(name: str, known: Iterable[str]) -> str:
    """What to say of a segment that there is not: what it may be shown nobody knows."""
    listed = ", ".join(known) or "none"
    return f"segments: {name!r} is not held to anything by this bundle, which has {listed}; see `hold`"
