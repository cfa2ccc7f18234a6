"""Percentile bootstrap over users (Efron, 1979): how far a mean could move with other users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.types import DoubleArray

#: Values drawn at once: bounds the memory of a resampling to about 64 MiB.
_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its central 95 %."""

    mean: float
    lower: float
    upper: float


def bootstrap(values: DoubleArray, *, samples: int = 1000, seed: int = 0) -> Interval:
    """The mean of (n,) values, one a user, and its 95 % interval. No value gives three NaN."""
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    n = len(values)
    at_once = max(1, _AT_ONCE // n)
    means = np.concatenate(
        [
            values[rng.integers(0, n, size=(min(at_once, samples - start), n))].mean(axis=1)
            for start in range(0, samples, at_once)
        ]
    )
    lower, upper = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(lower), float(upper))


def paired_bootstrap(a: DoubleArray, b: DoubleArray, *, samples: int = 1000, seed: int = 0) -> Interval:
    """The mean of a - b for the same n users, and its 95 % interval: above 0 means that a is better."""
    if a.shape != b.shape:
        raise ValueError(f"paired values must be of the same users: {a.shape} and {b.shape}")
    return bootstrap(a - b, samples=samples, seed=seed)
