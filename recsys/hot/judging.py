"""Figures by which a ranking or a probability of hot items is judged, at one origin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.types import BoolArray

Doubles = npt.NDArray[np.floating]


def best_first(score: Doubles) -> npt.NDArray[np.intp]:
    """(n,) positions, best first; ties stay in the order in which they come."""
    return np.argsort(-score, kind="stable")


def average_precision(label: BoolArray, score: Doubles) -> float:
    """Mean over the positives of the precision at their ranks: 1/P * sum_k precision@k * label_k.

    Tied scores count as one rank, with the precision at its end. NaN without a positive.
    """
    order = best_first(score)
    hit, ordered = label[order], score[order]
    positives = int(hit.sum())
    if not positives:
        return float("nan")
    ends = np.r_[np.flatnonzero(np.diff(ordered)), len(ordered) - 1]
    found = np.cumsum(hit)[ends]
    precision = found / (ends + 1)
    return float((precision * np.diff(np.r_[0, found])).sum() / positives)


def precision_at(label: BoolArray, score: Doubles, k: int) -> float:
    """Share of positives among the best k."""
    return float(label[best_first(score)[:k]].mean())


def recall_at_share(label: BoolArray, score: Doubles, share: float) -> float:
    """Share of all positives that are among the best `share` of the ranking; NaN without a positive."""
    if not label.any():
        return float("nan")
    n = max(1, round(share * len(label)))
    return float(label[best_first(score)[:n]].sum() / label.sum())


def brier_skill(label: BoolArray, probability: Doubles) -> float:
    """1 - Brier score / the Brier score of the base rate itself; NaN where all labels are the same."""
    base = float(label.mean())
    reference = base * (1 - base)
    return float(1 - np.mean((probability - label) ** 2) / reference) if reference else float("nan")


def lift_over_average(units: Doubles, score: Doubles, k: int) -> float:
    """Mean units of the best k over those of all; NaN where nothing sold."""
    mean = float(units.mean())
    return float(units[best_first(score)[:k]].mean() / mean) if mean else float("nan")


def matched_lift(
    units: Doubles, score: Doubles, matched_on: Doubles, k: int, *, neighbours: int = 5
) -> float:
    """Mean units of the best k over those of the items nearest to each in `matched_on`, picks left out."""
    order = best_first(score)
    picks, others = order[:k], order[k:]
    if not len(others):
        return float("nan")
    ranked = others[np.argsort(matched_on[others], kind="stable")]
    place = np.searchsorted(matched_on[ranked], matched_on[picks])
    means = []
    for pick, at in zip(picks, place, strict=True):
        near = ranked[max(at - neighbours, 0) : at + neighbours]
        distance = np.abs(np.log1p(matched_on[near]) - np.log1p(matched_on[pick]))
        means.append(units[near[np.argsort(distance, kind="stable")[:neighbours]]].mean())
    reference = float(np.mean(means))
    return float(units[picks].mean() / reference) if reference else float("nan")


def reliability(
    label: BoolArray, probability: Doubles, bins: int = 15
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean probability, observed rate and count of bins that each hold like sums of probability."""
    order = np.argsort(probability, kind="stable")
    mass = np.cumsum(probability[order])
    code = np.minimum((mass / mass[-1] * bins).astype(np.int64), bins - 1)
    _, code = np.unique(code, return_inverse=True)
    count = np.bincount(code)
    return (
        np.bincount(code, weights=probability[order]) / count,
        np.bincount(code, weights=label[order]) / count,
        count.astype(np.int64),
    )
