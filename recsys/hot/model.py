"""The hot-item model: boosted trees over past origins, calibrated on later ones than they learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from typing import Any

import lightgbm as lgb
import numpy as np

from recsys.errors import ModelError
from recsys.hot.calibration import Calibration, Floats, fit_curve, line
from recsys.hot.features import FeatureTable
from recsys.hot.params import CalibrationParams, LearnerParams
from recsys.hot.places import Reading, places
from recsys.hot.samples import TrainingSet
from recsys.types import BoolArray, FloatArray, IntArray, LongArray, Progress

#: Share of the training origins, the latest ones, that scores are calibrated on.
CALIBRATION_SHARE = 0.4
ITEM_FOLDS = 3
#: With fewer times that the target came about there is nothing to learn from.
LEAST_POSITIVES = 10
#: Least share of all positives that a fold's model must have learnt from. One that knows far less than the
#: final model spreads its scores less, and a calibration on them would promise too much for the final one's.
LEAST_LEARNT = 0.5
#: Objectives of a pair's models: the classifier's and the regression's.
KINDS = ("binary", "poisson")
#: Reach beyond this says no more of the chance, and would be the whole fit of the regression.
REACH_CAP = 3.0
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

    def at(self, rows: BoolArray) -> Prediction:
        """Of some of the samples."""
        return Prediction(*(getattr(self, each.name)[rows] for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Prediction]) -> Prediction:
        """Of several predictions' samples, one after the other."""
        columns = [[getattr(part, each.name) for part in parts] for each in fields(cls)]
        return cls(*map(np.concatenate, columns))


class HotModel:
    """Boosted trees that say whether the target comes about and how nearly, calibrated; others the units.

    Each pair of the bag holds a classifier of the label and a Poisson regression of the reach: the label
    alone does not say by how little a product missed it. Both are brought to log odds on the origins held
    out, and averaged.

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
            ModelError: the target came about too seldom, or always, so there is nothing to learn.
        """
        label, weight = training.outcomes.label, training.weight
        positives = int(label.sum())
        if positives < LEAST_POSITIVES:
            raise ModelError(
                f"the target came about {positives} times on {len(np.unique(training.samples.origin))} past"
                f" origins, and {LEAST_POSITIVES} are needed: use a longer log or a less rare target"
            )
        if positives == len(label):
            raise ModelError(
                f"the target came about for every product on all of {len(np.unique(training.samples.origin))}"
                " past origins, so nothing tells products apart: use a rarer target"
            )
        self.feature_names = training.features.names
        self.base_rate = float(np.average(label, weights=weight))
        by_time = _folds(training, self.calibration_params.folds)
        folds = by_time or _item_folds(training)
        # One thread a job: threads within one model would wait for each other at every leaf.
        with ThreadPoolExecutor(self.learner.threads) as pool:
            binned = pool.submit(self._binned, training)  # first: no job may wait for a later one
            later = [pool.submit(self._score_held_out, training, learn, test) for learn, test in folds]
            of_all = [
                pool.submit(self._grow_kind, binned, training, kind, n)
                for n in range(self.learner.bags)
                for kind in KINDS
            ]
            of_units = pool.submit(self._grow_units, binned, training)
            jobs: list[Future[Any]] = [*later, *of_all, of_units]
            _say(progress, 0, len(jobs), "boosted trees")
            for done, job in enumerate(as_completed(jobs)):
                job.result()
                _say(progress, done + 1, len(jobs), "boosted trees")
        self._boosters = [booster.result() for booster in of_all]
        self._units = of_units.result()
        scored = np.concatenate([test for _, test in folds])
        held_out = np.concatenate([job.result() for job in later], axis=1)
        self._lines = np.array(
            [line(score, label[scored].astype(float), weight[scored]) for score in held_out]
        )
        score = self._log_odds(held_out).mean(axis=0)
        place = places(score, training.samples.origin[scored], weight[scored])
        judged = label[scored], weight[scored], _blocks(training)[scored]
        # Of weeks that were learnt from the level is known; of one to come it is not, and the place holds.
        self._reading = (
            Reading.chosen(score, place, *judged, fit_curve) if by_time else Reading.of(score, place, 1.0)
        )
        self.calibration = Calibration.fit(
            self._reading(score, place),
            *judged,
            level=self.calibration_params.level,
            seed=self.learner.seed,
        )
        return self

    def predict(self, features: FeatureTable, origin: IntArray, weight: FloatArray) -> Prediction:
        """Probabilities, bounds and expected units of R samples.

        Args:
            features: (R, F).
            origin: (R,) of each sample. Its place among all of its origin counts, not its score alone.
            weight: (R,) how many samples of its origin each stands for; 0 where the target had come about.

        Raises:
            ModelError: not fitted, or other features than it was fitted on.
        """
        if not self._boosters:
            raise ModelError("the hot-item model is not fitted: call fit first")
        if features.names != self.feature_names:
            other = sorted(set(features.names) ^ set(self.feature_names))
            raise ModelError(f"features differ from those of the fit: {', '.join(other[:5])}")
        scores = self._log_odds(_raw(self._boosters, features.values, self.learner.threads))
        score = scores.mean(axis=0)

        def read(values: Floats) -> Floats:
            return self._reading(values, places(values, origin, weight))

        lower, upper = self.calibration.bounds(read(score), np.stack([read(each) for each in scores]))
        return Prediction(
            score=score,
            potential=self.calibration.probability(read(score)),
            lower=lower,
            upper=upper,
            expected_units=np.asarray(self._units.predict(features.values, num_threads=self.learner.threads)),
        )

    def contributions(self, features: FloatArray) -> Floats:
        """(R, F) contribution of each feature to the score (exact TreeSHAP, first pair of the bag)."""
        of_each = [
            slope * np.asarray(booster.predict(features, pred_contrib=True)[:, :-1])
            for booster, (slope, _) in zip(self._boosters[: len(KINDS)], self._lines, strict=True)
        ]
        return np.asarray(np.mean(of_each, axis=0))

    def _log_odds(self, raw: Floats) -> Floats:
        """(M, N) what each model says, as log odds, from its own raw score."""
        slope, intercept = np.tile(self._lines, (len(raw) // len(KINDS), 1)).T
        return np.asarray(slope[:, None] * raw + intercept[:, None])

    def _score_held_out(self, training: TrainingSet, learn: LongArray, test: LongArray) -> Floats:
        """(2, N) raw scores of some samples by a pair that has learnt from others."""
        learnt = training.at(learn)
        binned: Future[lgb.Dataset] = Future()
        binned.set_result(self._binned(learnt))
        pair = [self._grow_kind(binned, learnt, kind, 0) for kind in KINDS]
        return _raw(pair, training.features.values[test], 1)

    def _grow_kind(self, binned: Future[lgb.Dataset], training: TrainingSet, kind: str, n: int) -> Any:
        """One model of the n-th pair."""
        if kind == "binary":
            target = training.outcomes.label.astype(np.float32)
        else:
            target = np.minimum(training.outcomes.reach, REACH_CAP)
        seed = self.learner.seed + n
        return self._grow(binned.result(), target, self.learner.rounds, objective=kind, seed=seed)

    def _grow_units(self, binned: Future[lgb.Dataset], training: TrainingSet) -> Any:
        # Variance between Poisson and gamma; the few giants are held down, or they would be the whole fit.
        units = np.minimum(training.outcomes.units, np.quantile(training.outcomes.units, 0.999))
        of_units = {"objective": "tweedie", "tweedie_variance_power": 1.5, "learning_rate": 0.1}
        return self._grow(binned.result(), units, min(self.learner.rounds, 80), **of_units)

    def _grow(self, binned: lgb.Dataset, target: FloatArray, rounds: int, **settings: object) -> Any:
        # A copy of the bins, for a label of its own: it takes a hundredth of the binning.
        own = binned.subset(list(range(binned.num_data()))).construct().set_label(target)
        return lgb.train({**self._common(binned.num_data()), **settings}, own, num_boost_round=rounds)

    def _binned(self, training: TrainingSet) -> lgb.Dataset:
        """Only the label differs between what is learnt of the same rows."""
        x = training.features.values
        # Columns stay nameless: a name may hold words of the log, and LightGBM takes no colon or comma there.
        settings = self._common(len(x))
        return lgb.Dataset(x, training.outcomes.label, weight=training.weight, params=settings).construct()

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
            "num_threads": 1,
            "deterministic": True,
            "force_col_wise": True,
            "seed": p.seed,
            "verbose": -1,
        }


def _raw(boosters: list[Any], x: FloatArray, threads: int) -> Floats:
    return np.stack([booster.predict(x, raw_score=True, num_threads=threads) for booster in boosters])


def _folds(training: TrainingSet, n_folds: int) -> list[tuple[LongArray, LongArray]]:
    """(learn, test) row indices. Every test origin is later than the whole horizon of every learnt one.

    No folds where the log is too short for that.
    """
    least = max(30, LEAST_LEARNT * int(training.outcomes.label.sum()))
    origin = training.samples.origin
    origins = np.unique(origin)
    late = origins[int(len(origins) * (1 - CALIBRATION_SHARE)) :]
    folds = []
    for block in np.array_split(late, n_folds):
        if not len(block):
            continue
        learn = np.flatnonzero(origin + training.horizon_last_day < block[0])
        test = np.flatnonzero(np.isin(origin, block))
        if training.outcomes.label[learn].sum() >= least and training.outcomes.label[test].any():
            folds.append((learn, test))
    return folds if sum(int(training.outcomes.label[test].sum()) for _, test in folds) >= 30 else []


def _item_folds(training: TrainingSet) -> list[tuple[LongArray, LongArray]]:
    """(learn, test) row indices by items. Weeks are the same on both sides, so the bounds say less."""
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
