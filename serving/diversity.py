"""How a list is made of its best candidates: caps, and a re-ranking that avoids too much of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.types import BoolArray, FloatArray, IntArray
from serving.answer import RequestError
from serving.found import Found

#: Candidates that a list is put together from, at least; the cost of a re-ranking is bounded by it.
POOL = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """What a list must look like, beside being of the best.

    Attributes:
        max_per_category: at most so many products of one category; products without one are not counted.
        max_per_brand: the same of one brand.
        diversity: from 0, the order of the scores, to 1, what is least like the products above it.

    Raises:
        RequestError: a value outside its range.
    """

    max_per_category: int | None = None
    diversity: float = 0.0
    max_per_brand: int | None = None

    def __post_init__(self) -> None:
        check_cap("max_per_category", self.max_per_category)
        check_cap("max_per_brand", self.max_per_brand)
        if not 0.0 <= self.diversity <= 1.0:
            raise RequestError(f"diversity={self.diversity}: choose from 0 to 1")

    @property
    def plain(self) -> bool:
        """Whether the order of the scores is all that is asked for."""
        return not self.caps and self.diversity == 0.0

    @property
    def caps(self) -> str:
        """The caps, in words; empty where there are none."""
        caps = {"max_per_category": self.max_per_category, "max_per_brand": self.max_per_brand}
        return " and ".join(f"{name}={cap}" for name, cap in caps.items() if cap is not None)

    def pool(self, k: int) -> int:
        """How many candidates it takes for a list of k."""
        return k if self.plain else max(POOL, 2 * k)


def check_cap(name: str, cap: int | None) -> None:
    """Refuse a cap that leaves nothing.

    Raises:
        RequestError: it is below 1.
    """
    if cap is not None and cap < 1:
        raise RequestError(f"{name}={cap}: allow at least 1")


class Caps:
    """Which of N candidates may still be taken: those of no group that is full.

    Args:
        groups: (N,) codes of each grouping, -1 for none, and how many of one group are allowed; None is all.
    """

    def __init__(self, groups: Sequence[tuple[IntArray, int | None]]) -> None:
        self.room: BoolArray = np.ones(len(groups[0][0]), dtype=bool)
        self._groups = [(codes, most, Counter[int]()) for codes, most in groups if most is not None]

    def take(self, place: int) -> None:
        """Takes a candidate, once."""
        self.room[place] = False
        for codes, most, taken in self._groups:
            code = int(codes[place])
            taken[code] += 1
            if code >= 0 and taken[code] == most:
                self.room &= codes != code


def shaped(
    found: Found,
    shape: Shape,
    categories: IntArray,
    vectors: FloatArray | None,
    *,
    k: int,
    brands: IntArray | None = None,
) -> Found:
    """At most k of the candidates, chosen one after the other by maximal marginal relevance.

    The next is the one with the most (1 - diversity) * relevance - diversity * similarity, where relevance
    is the score from 0 for the worst candidate to 1 for the best, and similarity the largest cosine with a
    product above it (Carbonell & Goldstein 1998, "The use of MMR, diversity-based reranking"). Products of
    one category are alike where there are no vectors. A category or brand that is full is passed over.

    Args:
        found: candidates, best first.
        shape: what the list must look like.
        categories: (items,) int32 codes, -1 for none.
        vectors: (items, d) float32, or None.
        k: length of the list.
        brands: (items,) int32 codes, -1 for none; None where no product has one.
    """
    if shape.plain or not len(found):
        return found.first(k)
    items, scores = found.items, found.scores.astype(np.float64)
    spread = scores.max() - scores.min()
    relevance = (scores - scores.min()) / spread if spread > 0 else np.ones(len(scores))
    alike = _similarities(categories[items], None if vectors is None else vectors[items])
    groups = [(categories[items], shape.max_per_category)]
    if brands is not None:
        groups.append((brands[items], shape.max_per_brand))
    caps = Caps(groups)
    nearest = np.zeros(len(items))
    chosen: list[int] = []
    while len(chosen) < k and caps.room.any():
        value = (1.0 - shape.diversity) * relevance - shape.diversity * nearest
        place = int(np.argmax(np.where(caps.room, value, -np.inf)))
        chosen.append(place)
        caps.take(place)
        nearest = np.maximum(nearest, alike[place])
    return found.at(chosen)


def _similarities(codes: IntArray, vectors: FloatArray | None) -> FloatArray:
    """(N, N) in [-1, 1] of N candidates."""
    if vectors is None:
        same: FloatArray = ((codes[:, None] == codes[None, :]) & (codes[:, None] >= 0)).astype(np.float32)
        return same
    norm = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    unit = vectors / norm
    cosines: FloatArray = unit @ unit.T
    return cosines
