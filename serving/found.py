"""Products on their way into an answer, as columns: a row of its own each is as dear as finding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.types import IntArray

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Found:
    """m products, best first.

    Attributes:
        items: (m,) indices, int32.
        scores: (m,) float; a higher one is better.
        sources: m names of what put each there.
    """

    items: IntArray
    scores: Scores
    sources: list[str]

    @classmethod
    def of(cls, items: Sequence[int] | IntArray, scores: Sequence[float] | Scores, source: str) -> Found:
        """Products of one source."""
        return cls(np.asarray(items, dtype=np.int32), np.asarray(scores), [source] * len(items))

    def __len__(self) -> int:
        return len(self.sources)

    def first(self, k: int) -> Found:
        """The best k."""
        if k >= len(self.sources):
            return self
        return Found(self.items[:k], self.scores[:k], self.sources[:k])

    def at(self, places: Sequence[int]) -> Found:
        """Those at some places, in that order."""
        chosen = np.asarray(places, dtype=np.intp)
        return Found(self.items[chosen], self.scores[chosen], [self.sources[place] for place in places])

    def then(self, others: Found) -> Found:
        """These, and others below them."""
        if not len(others):
            return self
        return Found(
            np.concatenate([self.items, others.items]),
            np.concatenate([self.scores, others.scores]),
            self.sources + others.sources,
        )


NOTHING = Found.of((), (), "")
