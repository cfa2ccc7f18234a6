"""Figures by hand, and against scikit-learn where it has them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from recsys.hot import judging

LABEL = np.array([True, False, True, False, False])
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.5])


def test_average_precision_by_hand_and_by_scikit_learn() -> None:
    assert judging.average_precision(LABEL, SCORE) == pytest.approx((1 / 1 + 2 / 3) / 2)
    rng = np.random.default_rng(0)
    label, score = rng.random(500) < 0.1, rng.integers(0, 40, 500).astype(float)  # many ties
    assert judging.average_precision(label, score) == pytest.approx(average_precision_score(label, score))


def test_average_precision_without_a_positive_is_unknown() -> None:
    assert np.isnan(judging.average_precision(np.zeros(3, bool), SCORE[:3]))


def test_precision_and_recall_of_the_best() -> None:
    assert judging.precision_at(LABEL, SCORE, 3) == pytest.approx(2 / 3)
    assert judging.recall_at_share(LABEL, SCORE, 0.4) == pytest.approx(1 / 2)
    assert judging.recall_at_share(LABEL, SCORE, 0.01) == pytest.approx(1 / 2)  # one item at least


def test_brier_skill() -> None:
    assert judging.brier_skill(LABEL, LABEL.astype(float)) == 1.0
    assert judging.brier_skill(LABEL, np.full(5, 0.4)) == pytest.approx(0.0)


def test_matched_lift_compares_with_items_that_sold_alike() -> None:
    sold = np.array([10.0, 10, 10, 1, 1, 1])
    units = np.array([30.0, 15, 15, 9, 1, 2])
    # The pick is item 0; its two nearest are items 1 and 2 with 15 units each.
    assert judging.matched_lift(units, np.array([9.0, 1, 1, 1, 1, 1]), sold, 1, neighbours=2) == 2.0


def test_reliability_keeps_every_sample_once() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(1000) ** 4
    label = rng.random(1000) < probability
    predicted, observed, count = judging.reliability(label, probability, bins=8)
    assert count.sum() == 1000
    assert (predicted * count).sum() == pytest.approx(probability.sum())
    assert (observed * count).sum() == pytest.approx(label.sum())
    assert (np.diff(predicted) > 0).all()
