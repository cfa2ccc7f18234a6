"""A search kept in an SQLite file, so that one that was cut off goes on: the one importer of Optuna."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy.exc
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from recsys.errors import ConfigError
from recsys.search import OneOf, Searched, Value

FILE = "study.db"

_BEGUN_WITH = "recsys.begun_with"
_RUN = "recsys.run"
_REASON = "recsys.reason"
_SECONDS = "recsys.seconds"
_CUT_OFF = "recsys.cut_off"
#: Trials before any is pruned for being below the median.
_UNPRUNED = 5

State = Literal["complete", "pruned", "failed"]
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Attempt:
    """A trial that ended.

    Attributes:
        number: from 0.
        state: complete; pruned, for being below the median on the first windows; or failed.
        value: the metric, over the windows that were judged; None where it failed.
        seconds: of fitting and judging.
        settings: what was tried, by dotted key.
        reason: why it failed, else empty.
    """

    number: int
    state: State
    value: float | None
    seconds: float
    settings: Mapping[str, Value]
    reason: str


class Study:
    """Proposes settings, by a tree-structured Parzen estimator (Bergstra et al. 2011).

    What each gave is kept; a trial at which a process ended is made again by the next.

    Args:
        folder: of its file; made where there is none.
        begun_with: everything that decides what a value means; a study of anything else is refused.
        space: what is searched, by dotted key.
        seed: of the proposals.

    Raises:
        ConfigError: the folder cannot be written, or holds another study.
    """

    def __init__(
        self, folder: Path, begun_with: Mapping[str, Any], space: Mapping[str, Searched], *, seed: int
    ) -> None:
        self.file = folder / FILE
        self._distributions = {key: _distribution(searched) for key, searched in space.items()}
        self._first = {key: searched.value for key, searched in space.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._study = optuna.create_study(
                storage=f"sqlite:///{self.file}",
                study_name="tune",
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED),
                load_if_exists=True,
            )
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
        except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
            raise ConfigError(f"{self.file}: is no study that can be read; move it away") from error
        self._check(begun_with)
        trials = self._study.get_trials(deepcopy=False)
        # Another seed each time, or a study that goes on would begin with the same random trials again.
        self._study.sampler = optuna.samplers.TPESampler(seed=(seed + len(trials)) % 2**32)
        if not trials:
            self._study.enqueue_trial(self._first)
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._repeat(trial)

    @property
    def run_id(self) -> str | None:
        """The run that the study is recorded as, if it is."""
        return self._study.user_attrs.get(_RUN)

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        self._study.set_user_attr(_RUN, run_id)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every trial that ended, in order."""
        return tuple(
            Attempt(
                trial.number,
                _STATES[trial.state],
                trial.value,
                float(trial.user_attrs.get(_SECONDS, 0.0)),
                dict(trial.params),
                str(trial.user_attrs.get(_REASON, "")),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state in _STATES and trial.number not in self._cut_off
        )

    @property
    def as_given(self) -> float | None:
        """What the settings that the study began with gave; None where they failed."""
        values = [a.value for a in self.attempts if a.settings == self._first and a.state == "complete"]
        return values[0] if values else None

    @property
    def best(self) -> Attempt | None:
        """The best complete trial; None where there is none."""
        complete = [attempt for attempt in self.attempts if attempt.state == "complete"]
        return max(complete, key=lambda attempt: attempt.value or 0.0, default=None)

    def ask(self) -> Proposal:
        """The next settings to try; the first are those that the study began with."""
        return Proposal(self._study, self._study.ask(self._distributions))

    @property
    def _cut_off(self) -> list[int]:
        """Numbers of the trials at which a process ended."""
        return list(self._study.user_attrs.get(_CUT_OFF, []))

    def _check(self, begun_with: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(begun_with))
        before = self._study.user_attrs.get(_BEGUN_WITH)
        if before is None:
            self._study.set_user_attr(_BEGUN_WITH, now)
            return
        changed = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
        if changed:
            key = changed[0]
            raise ConfigError(
                f"{self.file}: the study was begun with another {key} ({_short(before.get(key))}, now "
                f"{_short(now.get(key))}); its values do not compare: name another folder"
            )

    def _repeat(self, trial: FrozenTrial) -> None:
        """What a process that ended was at is tried again."""
        self._study.enqueue_trial(trial.params)
        self._study.set_user_attr(_CUT_OFF, [*self._cut_off, trial.number])
        self._study.tell(trial.number, state=TrialState.FAIL)


class Proposal:
    """Settings to try. Made by `Study.ask`; ends by `succeed`, `prune` or `fail`."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._study = study
        self._trial = trial
        self.number = trial.number
        self.settings: Mapping[str, Value] = dict(trial.params)

    def is_hopeless(self, value: float, *, step: int) -> bool:
        """Whether a value after so many windows is below the median of the trials before."""
        self._trial.report(value, step)
        return self._trial.should_prune()

    def succeed(self, value: float, *, seconds: float) -> None:
        """It gave a value."""
        self._trial.set_user_attr(_SECONDS, seconds)
        self._study.tell(self._trial, value)

    def prune(self, *, seconds: float) -> None:
        """It was ended early."""
        self._trial.set_user_attr(_SECONDS, seconds)
        self._study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self, reason: str, *, seconds: float) -> None:
        """It gave nothing."""
        self._trial.set_user_attr(_SECONDS, seconds)
        self._trial.set_user_attr(_REASON, reason)
        self._study.tell(self._trial, state=TrialState.FAIL)


def _distribution(searched: Searched) -> BaseDistribution:
    allowed = searched.allowed
    if isinstance(allowed, OneOf):
        return CategoricalDistribution(allowed.values)
    if isinstance(searched.value, int):
        return IntDistribution(int(allowed.low), int(allowed.high), log=allowed.log)
    return FloatDistribution(allowed.low, allowed.high, log=allowed.log)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
