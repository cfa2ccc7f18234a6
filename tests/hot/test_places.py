"""What of a score is calibrated: its level where that tells, its place in its week where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.hot.calibration import Calibration, fit_curve
from recsys.hot.places import Floats, Reading, places

N_WEEKS, N_ITEMS = 12, 3_000
WEEK = np.repeat(np.arange(N_WEEKS), N_ITEMS)
ONES = np.ones(N_WEEKS * N_ITEMS, dtype=np.float32)


def weeks(*, level_of_truth: float, level_of_score: float) -> tuple[Floats, np.ndarray]:
    """Scores and labels: how far weeks differ in what comes about, and in what the scores say of it."""
    rng = np.random.default_rng(0)
    own, level = rng.normal(-3.0, 1.0, len(WEEK)), rng.normal(0.0, 1.0, N_WEEKS)[WEEK]
    label = rng.random(len(WEEK)) < 1 / (1 + np.exp(-(own + level_of_truth * level)))
    return own + level_of_score * level, label


def chosen(score: Floats, label: np.ndarray) -> Reading:
    return Reading.chosen(score, places(score, WEEK, ONES), label, ONES, WEEK, fit_curve)


def test_levels_that_tell_how_much_comes_about_are_kept() -> None:
    assert chosen(*weeks(level_of_truth=1.0, level_of_score=1.0)).share == 0.0


def test_levels_that_are_noise_are_left_out_and_the_best_of_each_week_promise_what_they_keep() -> None:
    score, label = weeks(level_of_truth=0.0, level_of_score=1.5)
    place = places(score, WEEK, ONES)
    reading = chosen(score, label)
    assert reading.share == 1.0

    def promised_of_kept(read: Floats) -> float:
        curve = Calibration.fit(read, label, ONES, WEEK, level=0.9, seed=0)
        best = place > np.quantile(place, 0.98)
        return float(curve.probability(read[best]).mean() / label[best].mean())

    assert promised_of_kept(reading(score, place)) == pytest.approx(1.0, abs=0.1)
    assert promised_of_kept(score) < 0.8


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.5, 1.0]), shift=st.floats(-5, 5))
def test_the_order_within_an_origin_stays_and_its_level_moves_no_place(
    seed: int, share: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    score, origin = rng.normal(size=60), rng.integers(0, 3, 60)
    weight = rng.choice([0.0, 1.0, 5.0], 60).astype(np.float32)
    place = places(score, origin, weight)
    read = Reading.of(score, place, share)(score, place)
    for one in range(3):
        rows = np.flatnonzero(origin == one)
        order = rows[np.argsort(score[rows])]
        assert (np.diff(read[order]) >= 0).all()
    assert places(score + shift * (origin == 1), origin, weight) == pytest.approx(place)
    assert np.isfinite(place).all()


def test_who_was_left_out_still_stands_behind_or_before_the_others() -> None:
    rng = np.random.default_rng(0)
    score, origin = rng.normal(size=20_000), np.zeros(20_000, dtype=np.int32)
    whole = places(score, origin, np.ones(20_000, np.float32))
    kept = (score > 1.5) | (rng.random(20_000) < 0.1)
    weight = np.where(score > 1.5, 1.0, 10.0).astype(np.float32)
    thinned = places(score[kept], origin[kept], weight[kept])
    assert thinned[score[kept] > -1.5] == pytest.approx(whole[kept & (score > -1.5)], abs=0.15)


def test_equal_scores_have_equal_places() -> None:
    """Of a whole batch of new products none is more likely than another."""
    score = np.repeat([1.0, 0.0, -1.0], [3, 60, 40])
    weight = np.r_[np.ones(63, np.float32), np.full(40, 2.0, np.float32)]
    place = places(score, np.zeros(103, np.int32), weight)
    assert len(np.unique(place)) == 3
    assert place[3] == pytest.approx(np.log((30 + 80) / (3 + 30)))


def test_who_stands_for_none_moves_nobody() -> None:
    score, origin = np.array([3.0, 2.0, 1.0, 0.0]), np.zeros(4, dtype=np.int32)
    alone = places(score[[1, 3]], origin[:2], np.ones(2, np.float32))
    beside = places(score, origin, np.array([0, 1, 0, 1], np.float32))
    assert beside[[1, 3]] == pytest.approx(alone, abs=1e-4)
