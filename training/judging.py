"""Fits made before a window, judged in it: the combiner learns on validation, the table is of the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.split import TimeSplit, split_by_time
from recsys.errors import DataError
from recsys.evaluation.protocol import (
    Judged,
    Recommend,
    Report,
    activity_segments,
    evaluate,
    feature_segments,
    goal_behaviours,
    judge,
)
from recsys.evaluation.table import Row, compare
from recsys.models.base import Model, Progress, top_k
from recsys.models.fused import FusedModel
from recsys.models.fusion import Combiner
from recsys.models.fusion_training import Fold, FusionReport, consumption, train_fusion
from recsys.models.popular import Popular
from recsys.models.two_tower import LearningPoint, TwoTower
from recsys.types import Behaviour, BoolArray, Candidates, Target
from training.candidates import Steps, candidate_models, fit_all
from training.config import TrainingConfig


@dataclass(frozen=True)
class Comparison:
    """Every model beside every other over the test window.

    Attributes:
        judged: the users, and what they did in the window.
        reports: model name -> per-user values; `fused` is what the bundle answers.
        segments: name -> (B,) mask of the judged users.
        rows: the table with intervals.
    """

    judged: Judged
    reports: Mapping[str, Report]
    segments: Mapping[str, BoolArray]
    rows: list[Row]


@dataclass(frozen=True)
class Trial:
    """What the validation and test windows taught.

    Attributes:
        split: the windows.
        goals: behaviours that a recommendation is for.
        combiner: learned on the validation window; None where nothing could be merged.
        fusion: how that went.
        steps: training lengths found on validation, for a refit.
        learning_curve: of the two-tower, where one was trained.
        comparison: over the test window.
    """

    split: TimeSplit
    goals: tuple[Behaviour, ...]
    combiner: Combiner | None
    fusion: FusionReport | None
    steps: Steps
    learning_curve: tuple[LearningPoint, ...]
    comparison: Comparison


def run_trial(
    config: TrainingConfig, dataset: Dataset, target: Target, *, progress: Progress | None = None
) -> Trial:
    """Fit before the validation window and learn from it; fit before the test window and compare in it.

    Raises:
        DataError: the log is too short for the windows, or nobody has a goal event in one of them.
    """
    split = split_by_time(dataset, config.split)
    goals = goal_behaviours(dataset, target) if config.goals == "auto" else config.goals
    combiner, fusion, steps, curve = _learn_on_validation(config, dataset, target, split, goals, progress)
    before = dataset.until(split.test.fit_end_us)
    sources = fit_all(candidate_models(config, dataset, target, steps=steps), before, progress=progress)
    judged = judge(
        dataset,
        split.test,
        target=target,
        goals=goals,
        max_users=config.evaluation.max_users,
        seed=config.seed,
    )
    if progress is not None:
        progress(0, 1, f"judging {len(judged)} users")
    comparison = compare_models(config, before, dataset, sources, combiner, judged)
    return Trial(split, goals, combiner, fusion, steps, curve, comparison)


def _learn_on_validation(
    config: TrainingConfig,
    dataset: Dataset,
    target: Target,
    split: TimeSplit,
    goals: tuple[Behaviour, ...],
    progress: Progress | None,
) -> tuple[Combiner | None, FusionReport | None, Steps, tuple[LearningPoint, ...]]:
    window = split.validation
    before = dataset.until(window.fit_end_us)
    sources = fit_all(candidate_models(config, dataset, target), before, progress=progress)
    towers = [source for source in sources if isinstance(source, TwoTower)]
    steps = {tower.name: tower.best_step for tower in towers}
    curve = towers[0].learning_curve if towers else ()
    if config.fusion.enabled is False or len(sources) == 1:
        return None, None, steps, curve
    try:
        judged = judge(dataset, window, target=target, goals=goals)
        fold = Fold(before, sources, truth_of_known(judged))
        if not fold.truth.nnz:
            raise DataError(f"{dataset.path}: no known user has a goal event in the validation window")
    except DataError:
        if config.fusion.enabled is True:
            raise
        return None, None, steps, curve
    combiner, report = train_fusion([fold], params=config.fusion.params, progress=progress)
    return combiner, report, steps, curve


def truth_of_known(judged: Judged) -> sparse.csr_matrix:
    """The truth by user index: (known users, targets) CSR; new users are left out."""
    known = judged.users < judged.n_known_users
    pairs = sparse.coo_matrix(judged.truth[known])
    shape = (judged.n_known_users, judged.truth.shape[1])
    return sparse.csr_matrix((pairs.data, (judged.users[known][pairs.row], pairs.col)), shape=shape)


def compare_models(
    config: TrainingConfig,
    before: Dataset,
    dataset: Dataset,
    sources: list[Model],
    combiner: Combiner | None,
    judged: Judged,
) -> Comparison:
    """Judge each source, and their fusion, by the same users, targets and policy on repeats.

    Args:
        config: of the run.
        before: what the sources were fitted on.
        dataset: the whole log, for the features that segments are made of.
        sources: fitted; popularity is the last.
        combiner: what merges them, if anything does.
        judged: users and truth.
    """
    popular = sources[-1]
    if not isinstance(popular, Popular):
        raise TypeError(f"the last source must be popularity, this is {popular.name}")
    k = max(config.evaluation.k)
    returns = True if combiner is None else combiner.returns
    consumed = None if returns else before.done(popular.target, consumption(before))
    models: dict[str, Model | FusedModel] = {source.name: source for source in sources}
    if combiner is not None:
        models[FusedModel.name] = FusedModel(sources, combiner, before, depth=config.fusion.params.depth)
    reports = {
        name: evaluate(answering(model, popular, k=k, consumed=consumed), judged, ks=config.evaluation.k)
        for name, model in models.items()
    }
    segments = activity_segments(judged) | feature_segments(dataset, judged, config.evaluation.segments)
    rows = compare(reports, segments, samples=config.evaluation.samples, seed=config.seed)
    return Comparison(judged, reports, segments, rows)


def answering(
    model: Model | FusedModel, popular: Popular, *, k: int, consumed: sparse.csr_matrix | None
) -> Recommend:
    """Lists of k for anybody: a short list is filled up with what is popular, and so is a new user's.

    Every model gets the same fallback, so that the table compares models and not their silence.
    """
    everybody = top_k(popular.shares[:1].copy(), k=min(2 * k, popular.n_targets)).row(0)

    def recommend(users: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Candidates:
        known = np.flatnonzero(users < model.n_users)
        width = min(k, popular.n_targets)
        ids = np.zeros((len(users), width), dtype=np.int32)
        scores = np.zeros((len(users), width), dtype=np.float32)
        counts = np.zeros(len(users), dtype=np.int32)
        if len(known):
            exclude = None if consumed is None else consumed[users[known]]
            found = model.recommend(users[known], k=width, exclude=exclude)
            shown = found.ids.shape[1]
            ids[known, :shown], scores[known, :shown] = found.ids, found.scores
            counts[known] = found.counts
        for row in np.flatnonzero(counts < width).tolist():
            n, user = int(counts[row]), int(users[row])
            own = set() if consumed is None or user >= model.n_users else set(consumed[user].indices.tolist())
            taken = own | set(ids[row, :n].tolist())
            rest = [(i, s) for i, s in zip(*map(np.ndarray.tolist, everybody), strict=True) if i not in taken]
            rest = rest[: width - n]
            ids[row, n : n + len(rest)] = [i for i, _ in rest]
            scores[row, n : n + len(rest)] = [s for _, s in rest]
            counts[row] = n + len(rest)
        return Candidates(ids, scores, counts)

    return recommend
