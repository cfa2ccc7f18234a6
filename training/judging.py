"""Fits made before a window, judged in it: the combiner learns on validation, the table is of the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.split import TimeSplit, Window, split_by_time
from recsys.errors import WindowError
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
from recsys.models.base import Model, top_k
from recsys.models.collaborative import ItemKNN
from recsys.models.fused import FusedModel
from recsys.models.fusion import Combiner
from recsys.models.fusion_training import (
    Fold,
    FusionReport,
    consumption,
    train_fusion,
    unlearned_combiner,
)
from recsys.models.popular import Popular
from recsys.models.two_tower import LearningPoint, TwoTower
from recsys.types import Behaviour, BoolArray, Candidates, Progress, Target
from training.candidates import Steps, candidate_models, fit_all
from training.config import TrainingConfig

#: With fewer users than this times `fusion.min_users` in the validation window, earlier windows are added.
ENOUGH_FOLD_USERS = 5
#: Most validation windows that the combiner learns from.
MAX_FOLDS = 4


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
        combiner: learned on the validation window, or by reciprocal ranks where nobody was in it; None where
            fusion is off or popularity is alone.
        fusion: how the learning went; None where nothing was learned.
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
    config: TrainingConfig,
    dataset: Dataset,
    target: Target,
    *,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Trial:
    """Fit before the validation window and learn from it; fit before the test window and compare in it.

    Args:
        config: of the run.
        dataset: the whole log.
        target: what is recommended.
        checkpoints: folder in which long trainings keep their last state, and go on from it.
        progress: called as progress(done, total, text).

    Raises:
        WindowError: the log is too short for the windows, or nobody has a goal event in one of them.
    """
    split = split_by_time(dataset, config.split)
    before = dataset.until(split.test.fit_end_us)
    goals = goal_behaviours(before, target) if config.goals == "auto" else config.goals
    combiner, fusion, steps, curve = _learn_on_validation(
        config, dataset, target, split, goals, checkpoints, progress
    )
    kept = None if checkpoints is None else checkpoints / "test"
    models = candidate_models(config, dataset, target, steps=steps, checkpoints=kept)
    sources = fit_all(models, before, progress=progress)
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
    checkpoints: Path | None,
    progress: Progress | None,
) -> tuple[Combiner | None, FusionReport | None, Steps, tuple[LearningPoint, ...]]:
    folds: list[Fold] = []
    steps: Steps = {}
    curve: tuple[LearningPoint, ...] = ()
    for window in validation_windows(dataset, split):
        before = dataset.until(window.fit_end_us)
        kept = None if checkpoints is None else checkpoints / f"validation_{window.start_us}"
        models = candidate_models(config, dataset, target, steps=steps, checkpoints=kept)
        served = fit_all(fused_sources(models), before, progress=progress)
        if not folds:
            towers = [source for source in served if isinstance(source, TwoTower)]
            steps = {tower.name: tower.best_step for tower in towers}
            curve = towers[0].learning_curve if towers else ()
        if config.fusion.enabled is False or len(served) == 1:
            return None, None, steps, curve
        truth = _truth_in(dataset, window, target, goals)
        if truth is not None:
            folds.append(Fold(before, served, truth))
        elif config.fusion.enabled is True:
            raise WindowError(f"{dataset.path}: no known user has a goal event in a validation window")
        if enough_users(sum(_users_of(fold) for fold in folds), config):
            break
    if not folds:
        known = dataset.until(split.test.fit_end_us)
        return unlearned(config, dataset, target, as_of=known), None, steps, curve
    # The item table of the last fold goes into the combiner: that is the newest one.
    combiner, report = train_fusion(folds[::-1], params=config.fusion.params, progress=progress)
    return combiner, report, steps, curve


def unlearned(
    config: TrainingConfig, dataset: Dataset, target: Target, *, as_of: Dataset | None = None
) -> Combiner | None:
    """How models are merged where no validation window teaches it; None where popularity is alone.

    The two-tower is left out: how long to train it, and whether it is any good by then, nothing could tell.

    Args:
        config: of the run.
        dataset: the whole log, which decides what the models are.
        target: what is recommended.
        as_of: what may be known of the targets; by default all.
    """
    models = fused_sources(candidate_models(config, dataset, target))
    names = [model.name for model in models if model.name != TwoTower.name]
    if len(names) == 1:
        return None
    return unlearned_combiner(names, as_of or dataset, target, config.fusion.params)


def validation_windows(dataset: Dataset, split: TimeSplit) -> list[Window]:
    """The validation window, then windows of its length before it, while half of the log is left to fit."""
    first = int(dataset.events.timestamp_us[0])
    length = split.validation.end_us - split.validation.start_us
    gap = split.validation.start_us - split.validation.fit_end_us
    windows = [split.validation]
    while len(windows) < MAX_FOLDS:
        end = windows[-1].fit_end_us
        earlier = Window(end - length - gap, end - length, end)
        if earlier.fit_end_us - first < (split.validation.end_us - first) / 2:
            break
        windows.append(earlier)
    return windows


def enough_users(n: int, config: TrainingConfig) -> bool:
    """Whether so many users of validation windows do, or an earlier window is added."""
    return n >= ENOUGH_FOLD_USERS * config.fusion.params.min_users


def _truth_in(
    dataset: Dataset, window: Window, target: Target, goals: tuple[Behaviour, ...]
) -> sparse.csr_matrix | None:
    """What known users did in the window; None where they did nothing."""
    times = dataset.events.timestamp_us
    inside = dataset.events.where((times >= window.start_us) & (times < window.end_us))
    before = dataset.until(window.fit_end_us)
    n_users, n_targets = len(before.users), len(before.entities(target))
    index = inside.target_idx(target)
    rows = inside.is_any(goals) & (index >= 0) & (index < n_targets) & (inside.user_idx < n_users)
    if not rows.any():
        return None
    cells = (np.ones(int(rows.sum()), dtype=np.float32), (inside.user_idx[rows], index[rows]))
    truth = sparse.csr_matrix(cells, shape=(n_users, n_targets))
    truth.sum_duplicates()
    truth.data[:] = 1.0
    return truth


def _users_of(fold: Fold) -> int:
    return int((np.diff(fold.truth.indptr) > 0).sum())


def fused_sources(models: list[Model]) -> list[Model]:
    """The models that the request path can run; item neighbours by `implicit` are there to compare with."""
    return [model for model in models if not isinstance(model, ItemKNN)]


def merged_by(combiner: Combiner, models: list[Model]) -> list[Model]:
    """Those of the models whose candidates the combiner takes, in its order."""
    by_name = {model.name: model for model in models}
    return [by_name[name] for name in combiner.sources]


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
        served = merged_by(combiner, sources)
        models[FusedModel.name] = FusedModel(served, combiner, before)
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
