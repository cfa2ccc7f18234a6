"""In which inverted lists the best items of a query are to be expected, before any is read.

The scores of a list's items are taken as normal: about what the list's centroid scores, shrunk as items lie
nearer to the origin than the centroid of their list, and as wide as the query sees items lie around their
centroids, which is one covariance for all lists. With the number of allowed items in each list that gives
how many of the best k each is expected to hold, near the query or far from it.
"""

from __future__ import annotations

from math import erfc, sqrt
from typing import NamedTuple

import numpy as np

from recsys.types import FloatArray, IntArray, LongArray

#: Places on the scale of scores in one standard deviation, and how many deviations are looked at.
_PLACES = 16
_REACH = 6
#: Lists below the best by more than this many standard deviations share one place.
_LOWEST = 128
#: The chance that an item lies at least so many places above the centre of its list; the middle one is 0.
_MIDDLE = (_LOWEST + 2 * _REACH) * _PLACES
_ABOVE = np.array(
    [0.5 * erfc(place / _PLACES / sqrt(2.0)) for place in range(-_MIDDLE, _MIDDLE + 1)], dtype=np.float32
)
_WIDTH = _REACH * _PLACES
_BELL = -np.diff(_ABOVE[_MIDDLE - _WIDTH : _MIDDLE + _WIDTH + 1])


class Outlook(NamedTuple):
    """One query.

    Attributes:
        place: (lists,) int32, where the centre of each list is on the scale of scores; 0 is the lowest.
        lowest: the score at place 0.
        step: the difference in score between two places.
    """

    place: IntArray
    lowest: float
    step: float

    def bar(self, counts: FloatArray, k: int) -> int:
        """The place above which k items are expected, of (lists,) so many in each list."""
        above = np.convolve(np.bincount(self.place, weights=counts), _BELL)[::-1].cumsum()
        return max(len(above) - 1 - int(above.searchsorted(k)) - _WIDTH, self.nowhere)

    def bar_at(self, score: float) -> int:
        """The place of a score; one far above all lists is as good as any above them."""
        return round(min(max((score - self.lowest) / self.step, -_WIDTH), _LOWEST * _PLACES + _WIDTH))

    @property
    def nowhere(self) -> int:
        """A place below every item's."""
        return -_WIDTH

    def within(self, bar: int) -> LongArray:
        """The lists that may hold anything above the bar."""
        return np.flatnonzero(self.place > bar - _WIDTH)

    def above(self, bar: int, lists: LongArray) -> FloatArray:
        """(m,) the chance that an item of each of m lists is above the bar."""
        chance: FloatArray = _ABOVE[bar + _MIDDLE - self.place[lists]]
        return chance


class Scatter:
    """How items lie around the centroids of their lists.

    Args:
        vectors: (m, d) float32, a sample of items.
        centroids: (m, d) float32, the centroid of each one's list.
    """

    def __init__(self, vectors: FloatArray, centroids: FloatArray) -> None:
        length = float(np.vdot(centroids, centroids))
        self._shrunk = float(np.vdot(vectors, centroids)) / length if length > 0 else 1.0
        apart = vectors - self._shrunk * centroids
        self._covariance = apart.T @ apart / max(len(apart), 1)

    def outlook(self, query: FloatArray, near: FloatArray) -> Outlook:
        """What is expected of a query (d,) whose inner products with the centroids are `near` (lists,)."""
        centre = self._shrunk * near
        highest = float(centre.max())
        tiny = 1e-6 * max(abs(highest), abs(float(centre.min())), 1e-30)
        deviation = max(sqrt(max(float(query @ self._covariance @ query), 0.0)), tiny)
        lowest = max(float(centre.min()), highest - _LOWEST * deviation)
        step = deviation / _PLACES
        place = np.maximum((centre - lowest) * (1.0 / step) + 0.5, 0.0).astype(np.int32)
        return Outlook(place, lowest, step)
