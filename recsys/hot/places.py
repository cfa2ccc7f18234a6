"""What of a score is calibrated: its level, its place among the scores of its origin, or both by halves.

In some logs the level of a week's scores says how much will come about that week: a shop that grows. In
others it is noise, and a curve through all weeks is too flat for any: it promises too little of each week's
best. Which of it is so is asked of held-out weeks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from recsys.types import BoolArray, FloatArray, LongArray

Floats = npt.NDArray[np.float64]
#: From scores, labels and weights to the probabilities of other scores.
Fit = Callable[[Floats, BoolArray, FloatArray], Callable[[Floats], Floats]]

#: Shares of the place that are tried.
SHARES = (0.0, 0.5, 1.0)
#: Parts of the origins that are left out in turn.
PARTS = 6
#: A chance below this is judged as this: one miss must not decide.
_LEAST_CHANCE = 1e-5
#: What a sample that stands for none counts, so that its own place is defined.
_NO_MASS = 1e-6


@dataclass(frozen=True)
class Reading:
    """From a score and its place to the one number that a curve is fitted on, of the same order in an origin.

    Attributes:
        share: of the place; the rest is of the score.
        score, place: mean and deviation that each is measured by.
    """

    share: float
    score: tuple[float, float]
    place: tuple[float, float]

    @classmethod
    def of(cls, score: Floats, place: Floats, share: float) -> Self:
        """As (N,) scores and places are spread."""
        return cls(share, _spread(score), _spread(place))

    @classmethod
    def chosen(
        cls,
        score: Floats,
        place: Floats,
        label: BoolArray,
        weight: FloatArray,
        block: LongArray,
        fit: Fit,
    ) -> Self:
        """That of `SHARES` whose curves lose least on blocks that they were not fitted on (log loss).

        Args:
            score: (N,) log odds.
            place: (N,) of each score in its origin, of `places`.
            label: (N,) what happened.
            weight: (N,) how many samples each stands for.
            block: (N,) what is left out together.
            fit: a curve.
        """
        names, code = np.unique(block, return_inverse=True)
        part = code * min(PARTS, len(names)) // len(names)
        losses = {}
        for share in SHARES:
            reading = cls.of(score, place, share)
            read, lost = reading(score, place), 0.0
            for left_out in range(int(part.max()) + 1):
                test = part == left_out
                if label[~test].any() and not label[~test].all():
                    curve = fit(read[~test], label[~test], weight[~test])
                    lost += _log_loss(curve(read[test]), label[test], weight[test])
            losses[share] = lost
        return cls.of(score, place, min(SHARES, key=lambda share: losses[share]))

    def __call__(self, score: Floats, place: Floats) -> Floats:
        """(N,) of scores and places."""
        (at, scale), (middle, width) = self.score, self.place
        return (1.0 - self.share) * (score - at) / scale + self.share * (place - middle) / width


def places(score: Floats, origin: npt.NDArray[np.integer], weight: FloatArray) -> Floats:
    """(N,) log odds of being below each score, among the samples of its origin; equal scores have equal ones.

    Args:
        score: (N,).
        origin: (N,) whose scores are compared.
        weight: (N,) how many samples each stands for; 0 for one that others do not stand behind.
    """
    found = np.zeros(len(score))
    order = np.lexsort((-score, origin))
    for rows in np.split(order, np.flatnonzero(np.diff(origin[order])) + 1):
        _, equal = np.unique(-score[rows], return_inverse=True)
        mass = np.bincount(equal, weights=np.maximum(weight[rows], _NO_MASS))
        above = (np.cumsum(mass) - mass / 2) / mass.sum()
        found[rows] = np.log((1.0 - above) / above)[equal]
    return found


def _spread(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) or 1.0


def _log_loss(chance: Floats, label: BoolArray, weight: FloatArray) -> float:
    chance = np.clip(chance, _LEAST_CHANCE, 1.0 - _LEAST_CHANCE)
    return float((weight * -np.log(np.where(label, chance, 1.0 - chance))).sum())
