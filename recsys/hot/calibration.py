"""From a model's score to a probability, with bounds: isotonic or logistic, over resampled origins.

The calibration is learnt from scores that a model gave to origins it had not seen. It keeps the ranking: the
isotonic steps are joined by straight lines through their centres. Bounds come from calibrating again on
origins drawn with replacement, so that they hold what differs from week to week; binomial bounds do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from recsys.errors import ModelError
from recsys.types import BoolArray, FloatArray, LongArray

Floats = npt.NDArray[np.float64]

#: Fewer positives than this cannot carry a free-form curve: a logistic one is fitted.
MIN_POSITIVES_ISOTONIC = 300
#: Scores are put into so many bins of equal positives before the isotonic fit: smooths steps of a handful.
BINS = 40
RESAMPLES = 60
#: Slope of a logistic curve that keeps the ranking and says nothing else.
LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class Curve:
    """A nondecreasing map from score (log odds) to log odds: lines through (x, y), flat slope outside."""

    x: Floats
    y: Floats

    def __call__(self, score: Floats) -> Floats:
        """Probabilities of log-odds scores."""
        return np.asarray(1.0 / (1.0 + np.exp(-np.interp(score, self.x, self.y))))


@dataclass(frozen=True)
class Calibration:
    """Score -> probability with bounds.

    Attributes:
        curve: the calibration from all the origins held out.
        resampled: the same from origins drawn with replacement.
        level: coverage of the bounds.
    """

    curve: Curve
    resampled: tuple[Curve, ...]
    level: float

    @classmethod
    def fit(
        cls,
        score: Floats,
        label: BoolArray,
        weight: FloatArray,
        block: LongArray,
        *,
        level: float,
        seed: int,
    ) -> Self:
        """Learn from N held-out scores.

        Args:
            score: (N,) log odds.
            label: (N,) what happened.
            weight: (N,) how many samples each stands for.
            block: (N,) what is drawn together for the bounds: the origin.
            level: coverage of the bounds, such as 0.9.
            seed: of the resampling.

        Raises:
            ModelError: the target never, or always, came about.
        """
        positives = int(label.sum())
        if positives == 0 or positives == len(label):
            raise ModelError(
                f"{positives} of {len(label)} held-out samples reached the target: nothing to calibrate on; "
                "use a longer log or a less rare target"
            )
        isotonic = positives >= MIN_POSITIVES_ISOTONIC
        score, label_rate, weight, block = _thinned(score, label, weight, block)
        curve = _fit(score, label_rate, weight, isotonic)
        rng = np.random.default_rng(seed)
        names, code = np.unique(block, return_inverse=True)
        resampled = []
        for _ in range(RESAMPLES):
            drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
            again = weight * drawn[code]
            total = float((again * label_rate).sum())
            if 0 < total < float(again.sum()):
                resampled.append(_fit(score, label_rate, again, isotonic))
        return cls(curve, tuple(resampled), level)

    def probability(self, score: Floats) -> Floats:
        """(N,) probabilities; a higher score never has a lower one."""
        return self.curve(score)

    def bounds(self, score: Floats, of_models: Floats) -> tuple[Floats, Floats]:
        """Lower and upper bounds (N,) of the probability of a score (N,), which M models put at (M, N)."""
        middle = self.probability(score)
        every = np.concatenate(
            [[curve(each) for each in of_models] for curve in self.resampled or (self.curve,)]
        )
        tail = (1.0 - self.level) / 2
        lower, upper = np.quantile(every, [tail, 1.0 - tail], axis=0)
        return np.minimum(lower, middle), np.maximum(upper, middle)


def fit_curve(score: Floats, label: BoolArray, weight: FloatArray) -> Curve:
    """The curve alone, of (N,) scores, labels of both kinds and weights."""
    isotonic = int(label.sum()) >= MIN_POSITIVES_ISOTONIC
    score, rate, weight, _ = _thinned(score, label, weight, np.zeros(len(label), dtype=np.int64))
    return _fit(score, rate, weight, isotonic)


def _thinned(
    score: Floats, label: BoolArray, weight: FloatArray, block: LongArray
) -> tuple[Floats, Floats, FloatArray, LongArray]:
    """Score, rate, weight and block to fit on: in bins, where there are positives enough for a free curve."""
    if int(label.sum()) >= MIN_POSITIVES_ISOTONIC:
        return _binned(score, label, weight, block)
    return score, label.astype(np.float64), weight, block


def _binned(
    score: Floats, label: BoolArray, weight: FloatArray, block: LongArray
) -> tuple[Floats, Floats, FloatArray, LongArray]:
    """Mean score, rate and weight of each bin of scores in each block; bins are equal in positives."""
    edges = np.unique(np.quantile(score[label], np.linspace(0, 1, BINS + 1)[1:-1]))
    bin_ = np.searchsorted(edges, score, side="right")
    names, block_code = np.unique(block, return_inverse=True)
    n_bins = len(edges) + 1
    cell = block_code * n_bins + bin_
    size = len(names) * n_bins
    total = np.bincount(cell, weights=weight, minlength=size)
    hits = np.bincount(cell, weights=weight * label, minlength=size)
    # One centre a bin for all blocks, so that a resample moves the rates and not the places.
    per_bin = np.bincount(bin_, weights=weight, minlength=n_bins)
    centre = np.bincount(bin_, weights=weight * score, minlength=n_bins) / np.maximum(per_bin, 1e-12)
    filled = np.flatnonzero(total > 0)
    return (
        centre[filled % n_bins],
        hits[filled] / total[filled],
        total[filled].astype(np.float32),
        names[filled // n_bins],
    )


def _fit(score: Floats, rate: Floats, weight: FloatArray, isotonic: bool) -> Curve:
    return _isotonic(score, rate, weight) if isotonic else _logistic(score, rate, weight)


def _isotonic(score: Floats, rate: Floats, weight: FloatArray) -> Curve:
    kept = weight > 0
    x, code = np.unique(score[kept], return_inverse=True)
    w = np.bincount(code, weights=weight[kept])
    y = np.bincount(code, weights=weight[kept] * rate[kept]) / w
    level = IsotonicRegression(y_min=0.0, y_max=1.0).fit(x, y, sample_weight=w).predict(x)
    names, step = np.unique(level, return_inverse=True)
    size = np.bincount(step, weights=w)
    centre = np.bincount(step, weights=w * x) / size
    # Half a hit of prior: no step says never or always.
    smooth = (names * size + 0.5 * y.mean()) / (size + 0.5)
    smooth = np.clip(smooth, 1e-6, 1 - 1e-6)
    return _strict(centre, np.log(smooth / (1 - smooth)), float(x[0]), float(x[-1]))


def line(score: Floats, rate: Floats, weight: FloatArray) -> tuple[float, float]:
    """Slope and intercept from a score to log odds (Platt); where a higher score says no more, all but flat.

    Args:
        score: (N,) of any scale.
        rate: (N,) what happened: above a half means that it did.
        weight: (N,) how many samples each stands for; 0 is left out.
    """
    kept = weight > 0
    fitted = LogisticRegression(C=10.0).fit(score[kept, None], rate[kept] > 0.5, sample_weight=weight[kept])
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope < LEAST_SLOPE:
        mean = float(np.average(rate[kept], weights=weight[kept]))
        slope = LEAST_SLOPE
        intercept = float(np.log(mean / (1 - mean))) - slope * float(
            np.average(score[kept], weights=weight[kept])
        )
    return slope, intercept


def _logistic(score: Floats, rate: Floats, weight: FloatArray) -> Curve:
    slope, intercept = line(score, rate, weight)
    kept = weight > 0
    ends = np.array([score[kept].min() - 5.0, score[kept].max() + 1.0])
    return Curve(ends, slope * ends + intercept)


def _strict(x: Floats, y: Floats, low: float, high: float) -> Curve:
    """Ends where scores beyond the outermost centres keep rising a little, so that ranks stay."""
    y = np.maximum.accumulate(y) + 1e-4 * np.arange(len(y))
    before, after = min(low, float(x[0])) - 6.0, max(high, float(x[-1])) + 3.0
    return Curve(np.r_[before, x, after], np.r_[y[0] - 2.0, y, y[-1] + 0.15])
