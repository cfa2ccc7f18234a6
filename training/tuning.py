"""Searches a model's settings on validation windows. The test window is never read.

Each trial fits the model before a window, as the pipeline does, and is a run nested in one parent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel

from recsys.data.behaviours import half_life_in
from recsys.data.dataset import Dataset
from recsys.data.split import split_by_time
from recsys.errors import ConfigError, ModelError, RecsysError, WindowError
from recsys.evaluation.protocol import Judged, evaluate, goal_behaviours, judge
from recsys.models.fusion_training import consumption
from recsys.models.popular import Popular
from recsys.search import Value, search_space
from recsys.types import Behaviour, Progress, Target
from training.candidates import build_model, params_of, with_params
from training.config import TrainingConfig, metric_length
from training.judging import answering, enough_users, validation_windows
from training.study import Attempt, Proposal, Study
from training.threads import capped_threads
from training.tracking import Run, Tracker

FRAGMENT = "best.yaml"

#: What a fit may raise because of its settings: the trial has failed, and the search goes on.
_FAILURES = (RecsysError, ArithmeticError, ValueError, RuntimeError, MemoryError)
_STATE = "tuning.state"


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        model: its name.
        metric: what was raised.
        users: judged users, over all validation windows.
        attempts: every trial of the study, those of earlier calls included.
        best: the best of them.
        as_given: the value of the settings that the search began with; None where they failed.
        file: the fragment of configuration that `recsys train --config` takes.
        run_id: the parent in MLflow; None where nothing was tracked.
    """

    model: str
    metric: str
    users: int
    attempts: tuple[Attempt, ...]
    best: Attempt
    as_given: float | None
    file: Path
    run_id: str | None


@dataclass(frozen=True)
class _Window:
    """A validation window.

    Attributes:
        before: what was known before it.
        judged: what happened in it.
        popular: what fills up a short list.
    """

    before: Dataset
    judged: Judged
    popular: Popular


def tune(
    dataset_path: Path | str,
    config: TrainingConfig,
    model: str,
    out: Path | str,
    *,
    metric: str = "ndcg@20",
    trials: int = 30,
    minutes: float | None = None,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Search the settings of one candidate model for products, and write the best as configuration.

    Args:
        dataset_path: a folder that `prepare` wrote.
        config: where the search begins: the first trial is this as it stands.
        model: a name under `models`.
        out: folder of the study and of `best.yaml`; a study that is there goes on.
        metric: as `ndcg@20`: the mean over users with a goal event in the validation windows.
        trials: how many the study shall hold in all.
        minutes: begin no further trial after so long.
        tracker: where the runs are recorded; None records nothing.
        progress: called as progress(done, total, text).

    Raises:
        ConfigError: an unknown model or metric, one without anything to search, or another study in `out`.
        WindowError: the log is too short for a validation window, or nobody has a goal event in one.
        ModelError: every trial failed.
    """
    k = metric_length(metric)
    given = params_of(config, model)
    dataset = Dataset.load(dataset_path)
    windows, goals = _windows(dataset, config)
    params = _settled(given, windows[0].before)
    space = search_space(params)
    if not space:
        raise ConfigError(f"model {model!r}: none of its settings names a range to search")
    begun_with = {
        "model": model,
        "metric": metric,
        "data": dataset.fingerprint,
        "windows": [[window.before.as_of_us, len(window.judged)] for window in windows],
        "goals": [goal.value for goal in goals],
        "seed": config.seed,
        "settings": params.model_dump(mode="json"),
        "weights": config.weights.model_dump(mode="json"),
        "filler": config.models.popular.model_dump(mode="json"),
        "returns": config.fusion.params.returns,
    }
    study = Study(Path(out), begun_with, space, seed=config.seed)
    search = _Search(config, model, metric, k, windows, study, progress)
    with capped_threads(config.threads):
        if tracker is None:
            search.run(None, trials, minutes)
            return search.tuned(None)
        with tracker.run(f"tune {model}", resume=_run_to_resume(study, tracker)) as run:
            study.run_id = run.id
            run.log_config(config)
            run.log_dataset(dataset)
            search.run(run, trials, minutes)
            tuned = search.tuned(run)
            run.log_metrics({metric: tuned.best.value or 0.0, "trials": len(tuned.attempts)})
            run.log_files(tuned.file, "tuning")
            return tuned


def _settled(params: BaseModel, dataset: Dataset) -> BaseModel:
    """The same with every half-life of `auto` in days: a search begins at a number."""
    changed: dict[str, Any] = {
        name: _settled(value, dataset) for name, value in params if isinstance(value, BaseModel)
    }
    if getattr(params, "half_life_days", None) == "auto":
        changed["half_life_days"] = half_life_in("auto", dataset.days)
    return params.model_copy(update=changed)


def _windows(dataset: Dataset, config: TrainingConfig) -> tuple[list[_Window], tuple[Behaviour, ...]]:
    """The pipeline's validation windows, newest first: as many as hold enough users."""
    split = split_by_time(dataset, config.split)
    known = dataset.until(split.validation.end_us)  # the test window's events are not even counted
    goals = goal_behaviours(known, Target.ITEM) if config.goals == "auto" else config.goals
    windows: list[_Window] = []
    empty: WindowError | None = None
    for window in validation_windows(known, split):
        try:
            judged = judge(
                known,
                window,
                target=Target.ITEM,
                goals=goals,
                max_users=config.evaluation.max_users,
                seed=config.seed,
            )
        except WindowError as error:
            empty = error  # an earlier window may hold somebody
            continue
        before = known.until(window.fit_end_us)
        windows.append(_Window(before, judged, Popular(config.models.popular).fit(before)))
        if enough_users(sum(len(window.judged) for window in windows), config):
            break
    if not windows and empty is not None:
        raise empty
    return windows, goals


class _Search:
    """One call's share of a study."""

    def __init__(
        self,
        config: TrainingConfig,
        model: str,
        metric: str,
        k: int,
        windows: list[_Window],
        study: Study,
        progress: Progress | None,
    ) -> None:
        self.config = config
        self.model = model
        self.metric = metric
        self.k = k
        self.windows = windows
        self.study = study
        self.progress = progress

    def run(self, run: Run | None, trials: int, minutes: float | None) -> None:
        """Try until the study holds `trials`, or the time is up."""
        stop_at = None if minutes is None else time.monotonic() + 60 * minutes
        while (done := len(self.study.attempts)) < trials:
            if done and stop_at is not None and time.monotonic() >= stop_at:
                break
            if self.progress is not None:
                best = self.study.best
                said = "" if best is None else f", best {self.metric} {best.value:.4f}"
                self.progress(done, trials, f"tuning {self.model}{said}")
            self._try(run)

    def tuned(self, run: Run | None) -> Tuned:
        """What is best so far, written as configuration.

        Raises:
            ModelError: every trial failed.
        """
        attempts, best = self.study.attempts, self.study.best
        if best is None:
            raise ModelError(
                f"{self.model}: all {len(attempts)} trials failed; the last: {attempts[-1].reason}"
            )
        tuned = Tuned(
            model=self.model,
            metric=self.metric,
            users=sum(len(window.judged) for window in self.windows),
            attempts=attempts,
            best=best,
            as_given=self.study.as_given,
            file=self.study.file.with_name(FRAGMENT),
            run_id=None if run is None else run.id,
        )
        _write(tuned.file, _fragment(tuned))
        return tuned

    def _try(self, run: Run | None) -> None:
        proposal = self.study.ask()
        begin = time.monotonic()
        try:
            with _nested(run, proposal, self.model) as nested:
                value, pruned = self._value(proposal)
                seconds = time.monotonic() - begin
                if nested is not None:
                    nested.log_metrics({self.metric: value, "seconds": seconds})
                    nested.log_tags({_STATE: "pruned" if pruned else "complete"})
        except _FAILURES as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            proposal.fail(reason, seconds=time.monotonic() - begin)
            return
        if pruned:
            proposal.prune(seconds=seconds)
        else:
            proposal.succeed(value, seconds=seconds)

    def _value(self, proposal: Proposal) -> tuple[float, bool]:
        """The metric over the windows' users, and whether it was given up before the last window."""
        config = with_params(self.config, self.model, _tree(proposal.settings))
        values: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        for step, window in enumerate(self.windows, start=1):
            model = build_model(self.model, config, Target.ITEM).fit(window.before)
            allowed = self.config.fusion.params.returns != "no"
            consumed = None if allowed else window.before.done(Target.ITEM, consumption(window.before))
            recommend = answering(model, window.popular, k=self.k, consumed=consumed)
            report = evaluate(recommend, window.judged, ks=(self.k,))
            values.append(report.by_user[self.metric])
            mean = float(np.concatenate(values).mean())
            if step < len(self.windows) and proposal.is_hopeless(mean, step=step):
                return mean, True
        return mean, False


@contextmanager
def _nested(run: Run | None, proposal: Proposal, model: str) -> Iterator[Run | None]:
    """A run inside the parent while the block lasts; nothing where nothing is tracked."""
    if run is None:
        yield None
        return
    with run.tracker.run(f"{model} {proposal.number}", parent=run) as nested:
        nested.log_params(proposal.settings)
        yield nested


def _run_to_resume(study: Study, tracker: Tracker) -> str | None:
    """The study's own run, where this store knows it."""
    if study.run_id is None:
        return None
    try:
        tracker.status(study.run_id)
    except ConfigError:
        return None
    return study.run_id


def _tree(settings: Mapping[str, Value]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *above, name = key.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[name] = value
    return tree


def _fragment(tuned: Tuned) -> str:
    """The best settings as YAML that lies over any configuration."""
    found = _tree(tuned.best.settings)
    of_model = found if tuned.model == Popular.name else {"params": found}
    given = "failed" if tuned.as_given is None else f"{tuned.as_given:.5f}"
    return (
        f"# {tuned.metric} {tuned.best.value:.5f} in the validation windows ({tuned.users} users), "
        f"{given} before;\n# the best of {len(tuned.attempts)} trials. The test window was not read.\n"
        + yaml.safe_dump({"models": {tuned.model: of_model}}, sort_keys=False)
    )


def _write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)
