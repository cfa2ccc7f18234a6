"""Folds of the calibration: later than what was learnt, by models that know half of what is known."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.hot.features import FeatureTable
from recsys.hot.model import LEAST_LEARNT, _folds, _item_folds
from recsys.hot.samples import TrainingSet
from recsys.hot.targets import Outcomes
from recsys.hot.windows import Samples

N_ITEMS, LAST_DAY = 40, 14


def training(positives_by_origin: list[int], *, step_days: int = 7) -> TrainingSet:
    """As many positives at each weekly origin as asked for, among `N_ITEMS` items."""
    n_origins = len(positives_by_origin)
    item = np.tile(np.arange(N_ITEMS, dtype=np.int32), n_origins)
    origin = np.repeat(np.arange(n_origins, dtype=np.int32) * step_days, N_ITEMS)
    label = item < np.repeat(positives_by_origin, N_ITEMS)
    n = len(item)
    return TrainingSet(
        Samples(item, origin),
        FeatureTable(("x",), np.zeros((n, 1), np.float32)),
        Outcomes(label, label.astype(np.float32), label.astype(np.float32)),
        np.ones(n, np.float32),
        LAST_DAY,
    )


@pytest.mark.parametrize("positives", [[5] * 30, [2] * 12 + [9] * 18, [9] * 18 + [4] * 12])
def test_a_fold_is_later_than_every_horizon_learnt_and_knows_half_the_positives(positives: list[int]) -> None:
    rows = training(positives)
    folds = _folds(rows, 4)
    assert folds
    for learn, test in folds:
        assert rows.samples.origin[learn].max() + LAST_DAY < rows.samples.origin[test].min()
        assert rows.outcomes.label[learn].sum() >= LEAST_LEARNT * rows.outcomes.label.sum()


def test_a_short_log_is_folded_by_items() -> None:
    rows = training([12] * 7)
    assert _folds(rows, 4) == []
    folds = _item_folds(rows)
    assert {int(item) for _, test in folds for item in rows.samples.item_idx[test]} == set(range(N_ITEMS))
    for learn, test in folds:
        assert not set(rows.samples.item_idx[learn]) & set(rows.samples.item_idx[test])
