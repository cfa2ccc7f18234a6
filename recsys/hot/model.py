"""The hot-item model: boosted trees over past origins, calibrated on later ones than they learnt from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from recsys.errors import ModelError
from recsys.hot.calibration import Calibration, Floats
from recsys.hot.features import FeatureTable
from recsys.hot.params import CalibrationParams, LearnerParams
from recsys.hot.samples import TrainingSet
from recsys.types import FloatArray, LongArray, Progress

#: Share of the training origins, the latest ones, that scores are calibrated on.
CALIBRATION_SHARE = 0.4
ITEM_FOLDS = 3
#: Least share of all positives that a fold's model must have learnt from. One that knows far less than the
#: final model spreads its scores less, and a calibration on them would promise too much for the final one's.
LEAST_LEARNT = 0.5
#: Rows by which the bins' edges are drawn: looking at all of them takes as long as the trees.
BIN_ROWS = 50_000


@dataclass(frozen=True)
class Prediction:
    """What the model says of R samples.

    Attributes:
        score: (R,) float64 log odds before calibration: what items are ranked by.
        potential, lower, upper: (R,) float64 probabilities.
        expected_units: (R,) float64 units over the horizon.
    """

    score: Floats
    potential: Floats
    lower: Floats
    upper: Floats
    expected_units: Floats


class HotModel:
    """A bag of LightGBM classifiers, a calibration, and a regression for the expected units.

    Args:
        learner: how the trees are grown.
        calibration: how scores become probabilities.
    """

    def __init__(self, learner: LearnerParams, calibration: CalibrationParams) -> None:
        self.learner = learner
        self.calibration_params = calibration
        self._boosters: list[Any] = []

    def fit(self, training: TrainingSet, *, progress: Progress | None = None) -> HotModel:
        """Learn from labelled samples of past origins.

        Raises:
            ModelError: the target came about too seldom to learn from.
        """
        positives = int(training.label.sum())
        if positives < 10:
            raise ModelError(
                f"the target came about {positives} times on {len(np.unique(training.samples.origin))} past"
                " origins, and 10 are needed: use a longer log, or a less rare target (a larger share, fewer"
                " least units)"
            )
        x, label, weight = training.features.values, training.label, training.weight
        self.feature_names = training.features.names
        self.base_rate = float(np.average(label, weights=weight))
        folds = _folds(training, self.calibration_params.folds)
        steps = len(folds) + self.learner.bags + 1
        _say(progress, 0, steps, "boosted trees")
        # Binned once: only the label differs between what is learnt of all rows.
        binned = self._binned(x, label.astype(np.float32), weight)
        # One thread a model: threads within one wait for each other at every leaf.
        with ThreadPoolExecutor(self.learner.threads) as pool:
            bags = [
                pool.submit(self._grow, binned, self.learner.seed + bag) for bag in range(self.learner.bags)
            ]
            later = [pool.submit(self._score_held_out, training, learn, test) for learn, test in folds]
            for done, job in enumerate(as_completed([*bags, *later])):
                job.result()
                _say(progress, done + 1, steps, "boosted trees")
        self._boosters = [bag.result() for bag in bags]
        held_out = np.full(len(label), np.nan)
        for (_, test), scores in zip(folds, later, strict=True):
            held_out[test] = scores.result()
        scored = np.isfinite(held_out)
        self.calibration = Calibration.fit(
            held_out[scored],
            label[scored],
            weight[scored],
            _blocks(training)[scored],
            level=self.calibration_params.level,
            seed=self.learner.seed,
        )
        self._units = self._grow_units(binned, training.units)
        _say(progress, steps, steps, "fitted")
        return self

    def predict(self, features: FeatureTable) -> Prediction:
        """Probabilities, bounds and expected units of R samples.

        Raises:
            ModelError: not fitted, or other features than it was fitted on.
        """
        if not self._boosters:
            raise ModelError("the hot-item model is not fitted: call fit first")
        if features.names != self.feature_names:
            other = sorted(set(features.names) ^ set(self.feature_names))
            raise ModelError(f"features differ from those of the fit: {', '.join(other[:5])}")
        scores = np.stack([booster.predict(features.values, raw_score=True) for booster in self._boosters])
        score = scores.mean(axis=0)
        lower, upper = self.calibration.bounds(scores)
        return Prediction(
            score=score,
            potential=self.calibration.probability(score),
            lower=lower,
            upper=upper,
            expected_units=np.asarray(self._units.predict(features.values)),
        )

    def contributions(self, features: FloatArray) -> npt.NDArray[np.float64]:
        """(R, F) contribution of each feature to the log odds (exact TreeSHAP, first model of the bag)."""
        return np.asarray(self._boosters[0].predict(features, pred_contrib=True)[:, :-1])

    def _binned(self, x: FloatArray, label: FloatArray, weight: FloatArray) -> lgb.Dataset:
        names, settings = list(self.feature_names), self._common(len(label))
        return lgb.Dataset(x, label, weight=weight, feature_name=names, params=settings).construct()

    def _score_held_out(self, training: TrainingSet, learn: LongArray, test: LongArray) -> Floats:
        x = training.features.values
        binned = self._binned(x[learn], training.label[learn].astype(np.float32), training.weight[learn])
        return np.asarray(
            self._grow(binned, self.learner.seed).predict(x[test], raw_score=True, num_threads=1)
        )

    def _grow(self, binned: lgb.Dataset, seed: int) -> Any:
        settings = {**self._common(binned.num_data()), "seed": seed, "objective": "binary", "num_threads": 1}
        return lgb.train(settings, binned, num_boost_round=self.learner.rounds)

    def _grow_units(self, binned: lgb.Dataset, units: FloatArray) -> Any:
        # Variance between Poisson and gamma; the few giants are held down, or they would be the whole fit.
        binned.set_label(np.minimum(units, np.quantile(units, 0.999)))
        settings = {
            **self._common(binned.num_data()),
            "objective": "tweedie",
            "tweedie_variance_power": 1.5,
            "learning_rate": 0.1,
        }
        return lgb.train(settings, binned, num_boost_round=min(self.learner.rounds, 80))

    def _common(self, rows: int) -> dict[str, Any]:
        p = self.learner
        return {
            "learning_rate": p.learning_rate,
            "num_leaves": p.leaves,
            "min_data_in_leaf": min(p.min_leaf, max(rows // 200, 5)),
            "feature_fraction": p.feature_share,
            "bagging_fraction": p.row_share,
            "bagging_freq": 1,
            "lambda_l2": p.l2,
            "max_bin": p.bins,
            "bin_construct_sample_cnt": BIN_ROWS,
            "num_threads": p.threads,
            "deterministic": True,
            "force_col_wise": True,
            "seed": p.seed,
            "verbose": -1,
        }


def _folds(training: TrainingSet, n_folds: int) -> list[tuple[LongArray, LongArray]]:
    """(learn, test) row indices. Every test origin is later than the whole horizon of every learnt one.

    A log too short for that is folded by items instead; the weeks are then the same, so the bounds say less.
    """
    least = max(30, LEAST_LEARNT * int(training.label.sum()))
    origin = training.samples.origin
    origins = np.unique(origin)
    late = origins[int(len(origins) * (1 - CALIBRATION_SHARE)) :]
    folds = []
    for block in np.array_split(late, n_folds):
        if not len(block):
            continue
        learn = np.flatnonzero(origin + training.horizon_last_day < block[0])
        test = np.flatnonzero(np.isin(origin, block))
        if training.label[learn].sum() >= least and training.label[test].any():
            folds.append((learn, test))
    if sum(int(training.label[test].sum()) for _, test in folds) >= 30:
        return folds
    part = training.samples.item_idx % ITEM_FOLDS
    return [(np.flatnonzero(part != fold), np.flatnonzero(part == fold)) for fold in range(ITEM_FOLDS)]


def _blocks(training: TrainingSet) -> LongArray:
    """What is resampled together: origins, or where there are few of them, items."""
    if len(np.unique(training.samples.origin)) >= 10:
        return training.samples.origin.astype(np.int64)
    return (training.samples.item_idx % 50).astype(np.int64)


def _say(progress: Progress | None, done: int, total: int, text: str) -> None:
    if progress is not None:
        progress(done, total, text)
