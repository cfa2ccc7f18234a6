"""Calibration: recovers known probabilities, keeps ranks, brackets its own answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ModelError
from recsys.hot.calibration import Calibration


def fitted(n: int, shift: float, slope: float, seed: int = 0) -> tuple[Calibration, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(-2.5, 1.2, n)
    label = rng.random(n) < 1 / (1 + np.exp(-truth))
    score = slope * truth + shift
    block = rng.integers(0, 20, n)
    calibration = Calibration.fit(score, label, np.ones(n, np.float32), block, level=0.9, seed=1)
    return calibration, score, 1 / (1 + np.exp(-truth))


@pytest.mark.parametrize(("n", "tolerance"), [(40_000, 0.02), (1_500, 0.06)])
def test_it_finds_the_probabilities_behind_a_distorted_score(n: int, tolerance: float) -> None:
    calibration, score, truth = fitted(n, shift=3.0, slope=0.5)
    assert np.abs(calibration.probability(score) - truth).mean() < tolerance


def test_weights_stand_for_the_samples_left_out() -> None:
    rng = np.random.default_rng(0)
    n = 60_000
    truth = rng.normal(-3.0, 1.0, n)
    label = rng.random(n) < 1 / (1 + np.exp(-truth))
    kept = label | (rng.random(n) < 0.2)
    weight = np.where(label, 1.0, 5.0).astype(np.float32)
    calibration = Calibration.fit(
        truth[kept], label[kept], weight[kept], np.arange(kept.sum()) % 10, level=0.9, seed=0
    )
    assert calibration.probability(truth).mean() == pytest.approx(label.mean(), rel=0.05)


@settings(max_examples=20, deadline=None)
@given(n=st.sampled_from([300, 5_000]), seed=st.integers(0, 99), slope=st.floats(0.1, 5.0))
def test_a_higher_score_never_has_a_lower_probability(n: int, seed: int, slope: float) -> None:
    calibration, score, _ = fitted(n, 0.0, slope, seed)
    grid = np.linspace(score.min() - 8, score.max() + 8, 500)
    probability = calibration.probability(grid)
    assert (np.diff(probability) >= 0).all()
    assert probability[0] > 0
    assert probability[-1] < 1
    lower, upper = calibration.bounds(grid + 0.05, np.stack([grid, grid + 0.1]))
    middle = calibration.probability(grid + 0.05)
    assert (lower <= middle).all()
    assert (middle <= upper).all()


@pytest.mark.parametrize("slope", [-1.0, 0.0])
def test_scores_that_say_nothing_leave_the_rate_itself(slope: float) -> None:
    """A ranking that was wrong on the origins held out must not push every potential to nothing."""
    rng = np.random.default_rng(0)
    truth = rng.normal(-3.0, 1.0, 2_000)
    label = rng.random(2_000) < 1 / (1 + np.exp(-truth))
    score = slope * truth - 9.0
    block = rng.integers(0, 20, 2_000)
    calibration = Calibration.fit(score, label, np.ones(2_000, np.float32), block, level=0.9, seed=1)
    assert calibration.probability(score).mean() == pytest.approx(label.mean(), rel=0.05)
    lower, upper = calibration.bounds(score, np.stack([score, score]))
    assert (lower < label.mean()).mean() > 0.95
    assert (upper > label.mean()).mean() > 0.95


def test_few_origins_mean_wide_bounds() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(-2, 1, 4_000)
    week = np.repeat(np.arange(8), 500)
    drift = np.array([-1.5, 1.5, -1, 1, -1.5, 1.5, -1, 1])[week]
    label = rng.random(4_000) < 1 / (1 + np.exp(-(score + drift)))
    weight = np.ones(4_000, np.float32)
    by_week = Calibration.fit(score, label, weight, week, level=0.9, seed=0)
    by_item = Calibration.fit(score, label, weight, np.arange(4_000), level=0.9, seed=0)

    def width(calibration: Calibration) -> float:
        lower, upper = calibration.bounds(np.zeros(1), np.zeros((1, 1)))
        return float((upper - lower)[0])

    assert width(by_week) > 1.5 * width(by_item)


@pytest.mark.parametrize("label", [np.zeros(50, bool), np.ones(50, bool)])
def test_nothing_to_calibrate_on_is_said(label: np.ndarray) -> None:
    with pytest.raises(ModelError, match="held-out samples"):
        Calibration.fit(np.arange(50.0), label, np.ones(50, np.float32), np.arange(50), level=0.9, seed=0)
