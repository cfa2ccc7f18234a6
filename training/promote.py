"""Decides whether a challenger becomes the champion: fits made before one window, compared over that window.

What is compared is never the bundle, which was refitted on all rows, but the fit that its run evaluated: it
ends before the test window. Where the champion's own evaluation was over another window it is fitted again
from its own configuration up to the challenger's cut-off, so that neither has seen what judges them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.data.dataset import from_us
from recsys.errors import ConfigError, DataError, RecsysError
from recsys.evaluation.bootstrap import Interval, bootstrap, paired_bootstrap
from recsys.types import Target
from training.config import Guard, PromoteParams, TrainingConfig
from training.tracking import DATA_PATH, ModelVersion, Run, Tracker
from training.window_result import WindowResult

#: Name of the result of what a run's bundle answers, and of the baseline beside it.
ANSWER = "answer"
BASELINE = "popular"

#: How one fit did with each kind of list that it makes.
Results = Mapping[Target, WindowResult]
#: refit(config, dataset_path, cut_off): fit on what was known before the cut-off, judge in the window behind.
Refit = Callable[[TrainingConfig, Path, datetime], Results]


@dataclass(frozen=True)
class Check:
    """One metric of the challenger beside its rival's.

    Attributes:
        name: the metric, with its segment if it is of one.
        challenger, rival: the means.
        difference: challenger - rival; the bounds are NaN where the metric has no value a user.
        passed: whether it stands in the way.
        reason: the same in words.
    """

    name: str
    challenger: float
    rival: float
    difference: Interval
    passed: bool
    reason: str


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the alias moved, and why.

    Attributes:
        promoted: whether the challenger is champion now.
        version: the challenger.
        rival: what it was compared with, in words.
        checks: the gate first, then the guards; empty where nothing was compared.
        reasons: sentences for a person; the last one is the verdict.
    """

    promoted: bool
    version: ModelVersion
    rival: str
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """The checks, one a row."""
        return pd.DataFrame(
            {
                "metric": [check.name for check in self.checks],
                "challenger": [check.challenger for check in self.checks],
                "rival": [check.rival for check in self.checks],
                "difference": [check.difference.mean for check in self.checks],
                "lower": [check.difference.lower for check in self.checks],
                "upper": [check.difference.upper for check in self.checks],
                "passed": [check.passed for check in self.checks],
            }
        )


def record_result(run: Run, name: str, result: WindowResult) -> None:
    """Keep a result with its run: `ANSWER` for what the bundle answers, `BASELINE` for popularity."""
    with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
        result.write(Path(folder))
        run.log_files(Path(folder), f"{_folder(name)}/{result.window.target}")


def recorded_results(tracker: Tracker, run_id: str, name: str) -> Results:
    """The results that a run kept under a name, products first.

    Raises:
        RecsysError: the run kept none of that name.
    """
    if not tracker.has(run_id, _folder(name)):
        raise RecsysError(
            f"run {run_id} was not evaluated, so it cannot be compared; the notes of its training say why"
        )
    with tracker.files(run_id, _folder(name)) as folder:
        kept = {target: folder / target for target in Target}
        return {target: WindowResult.read(path) for target, path in kept.items() if path.is_dir()}


def promote(
    run_or_version: str, tracker: Tracker, *, refit: Refit, params: PromoteParams | None = None
) -> PromotionDecision:
    """Make a version champion if the gate and every guard hold; record the reasons either way.

    Args:
        run_or_version: a run id, a version number, or `challenger`.
        tracker: where both are recorded.
        refit: fits the champion anew where its evaluation was over another window.
        params: gate and guards; by default the challenger's own.

    Raises:
        ConfigError: there is no such version.
        DataError: the data of the challenger has changed since, so that nothing can be refitted on it.
    """
    version = tracker.version(run_or_version)
    champion = tracker.champion()
    if champion is not None and champion.number == version.number:
        reason = f"Version {version.number} is the champion already."
        return PromotionDecision(False, version, f"version {version.number}", (), (reason,))
    config = tracker.config(version.run_id)
    mine = recorded_results(tracker, version.run_id, ANSWER)
    if champion is None:
        rival_name, setting = (
            "decayed popularity",
            "There is no champion yet: decayed popularity must be beaten.",
        )
        rival = recorded_results(tracker, version.run_id, BASELINE)
    else:
        rival_name = f"champion version {champion.number}"
        rival, setting = _champion_over(mine, champion, tracker, version, config, refit)
    if not _comparable(mine, rival):
        raise DataError(
            f"{rival_name} was judged by other users or another window than version {version.number}: "
            "the data has changed since; train the challenger again"
        )
    checks = compare(mine, rival, params or config.promote)
    promoted = all(check.passed for check in checks)
    if promoted:
        verdict = f"Version {version.number} is champion now."
    else:
        stays = (
            "There is still no champion" if champion is None else f"Version {champion.number} stays champion"
        )
        verdict = f"{stays}: {_named([check.name for check in checks if not check.passed])} did not hold."
    reasons = (setting, *(check.reason for check in checks), verdict)
    tracker.note_decision(version, reasons)
    if promoted:
        tracker.set_champion(version)
    return PromotionDecision(promoted, version, rival_name, checks, reasons)


def _champion_over(
    mine: Results,
    champion: ModelVersion,
    tracker: Tracker,
    version: ModelVersion,
    config: TrainingConfig,
    refit: Refit,
) -> tuple[Results, str]:
    """The champion's results over the challenger's window, and how they were come by."""
    own = recorded_results(tracker, champion.run_id, ANSWER)
    cut_off = from_us(_first(mine).window.fit_end_us)
    if _comparable(mine, own):
        return own, (
            f"Compared with champion version {champion.number} over the same test window: "
            f"both fits end at {cut_off:%Y-%m-%d %H:%M} UTC, before it."
        )
    dataset_path = Path(tracker.tags(version.run_id)[DATA_PATH])
    again = refit(tracker.config(champion.run_id).judged_like(config), dataset_path, cut_off)
    return again, (
        f"Champion version {champion.number} was evaluated over another window, so it was fitted again from "
        f"its own configuration up to {cut_off:%Y-%m-%d %H:%M} UTC, the challenger's cut-off."
    )


def compare(mine: Results, rival: Results, params: PromoteParams) -> tuple[Check, ...]:
    """The gate, then the guards, of two fits judged by the same users.

    The gate passes if the lower bound of the mean difference is above 0. A guard fails if the value is worse
    by more than its tolerance and, for a metric with a value a user, that is not explained by chance or by
    too few users. A guard of lists that neither makes is left out.

    Raises:
        ConfigError: a metric that the results do not hold.
    """
    checks = [_gate(_first(mine), rival[next(iter(mine))], params)]
    for guard in params.guards:
        if guard.target in mine and guard.target in rival:
            checks.append(_guard(mine[guard.target], rival[guard.target], guard, params))
        elif guard.target in rival:
            nothing = Interval(float("nan"), float("nan"), float("nan"))
            reason = f"{_name_of(guard)}: the challenger was not judged by it, its rival was."
            checks.append(Check(_name_of(guard), float("nan"), float("nan"), nothing, False, reason))
    return tuple(checks)


def _comparable(mine: Results, rival: Results) -> bool:
    """Whether what both were judged by is the same; one may make lists that the other does not."""
    both = [target for target in mine if target in rival]
    return next(iter(mine)) in both and all(mine[target].compares_with(rival[target]) for target in both)


def _first(results: Results) -> WindowResult:
    return next(iter(results.values()))


def _name_of(guard: Guard) -> str:
    whose = "" if guard.segment is None else f" of {guard.segment} users"
    return f"{guard.metric}{whose}{' of rooms' if guard.target is Target.ROOM else ''}"


def _gate(mine: WindowResult, rival: WindowResult, params: PromoteParams) -> Check:
    metric = params.metric
    a, b = _of_users(mine, metric), _of_users(rival, metric)
    difference = paired_bootstrap(a, b, samples=params.samples)
    passed = len(a) >= params.min_users and difference.lower > 0
    if len(a) < params.min_users:
        ending = f"{len(a)} users are too few to tell, promote.min_users is {params.min_users}"
    elif passed:
        ending = "better by more than chance"
    elif difference.upper < 0:
        ending = "worse"
    else:
        ending = "not better by more than chance"
    reason = f"{_moved(metric, a.mean(), b.mean())} ({_spread(difference, len(a))}): {ending}."
    return Check(metric, float(a.mean()), float(b.mean()), difference, passed, reason)


def _guard(mine: WindowResult, rival: WindowResult, guard: Guard, params: PromoteParams) -> Check:
    name = _name_of(guard)
    if guard.metric in mine.overall and guard.metric in rival.overall:
        a, b = mine.overall[guard.metric], rival.overall[guard.metric]
        difference = Interval(a - b, float("nan"), float("nan"))
        spread, too_few = "", False
    else:
        inside = np.ones(len(mine.users), dtype=bool)
        if guard.segment is not None:
            inside = mine.segments.get(guard.segment, ~inside)
        if not inside.any():
            nothing = Interval(float("nan"), float("nan"), float("nan"))
            reason = f"{name}: nobody of that segment is in the window, so it says nothing."
            return Check(name, float("nan"), float("nan"), nothing, True, reason)
        values, others = _of_users(mine, guard.metric)[inside], _of_users(rival, guard.metric)[inside]
        a, b = float(values.mean()), float(others.mean())
        difference = bootstrap(values - others, samples=params.samples)
        spread, too_few = f" ({_spread(difference, len(values))})", len(values) < params.min_users
    loss = -difference.mean if guard.better == "higher" else difference.mean
    within = loss <= guard.tolerance * abs(b)
    by_chance = too_few or difference.lower <= 0 <= difference.upper
    if loss <= 0:
        ending = "no worse"
    elif within:
        ending = f"within the {guard.tolerance:.0%} allowed"
    elif too_few:
        ending = "too few users to tell"
    elif by_chance:
        ending = "chance explains the fall"
    else:
        ending = "worse" + (f" by more than the {guard.tolerance:.0%} allowed" if guard.tolerance else "")
    reason = f"{_moved(name, a, b)}{spread}: {ending}."
    return Check(name, a, b, difference, within or by_chance, reason)


def _of_users(result: WindowResult, metric: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if metric not in result.by_user:
        measured = ", ".join((*result.by_user, *result.overall))
        raise ConfigError(f"promote asks for {metric}, the evaluation has {measured}")
    return result.by_user[metric]


def _moved(name: str, value: float, rival: float) -> str:
    if value == rival:
        return f"{name} stays at {value:.4f}"
    return f"{name} {'rises' if value > rival else 'falls'} from {rival:.4f} to {value:.4f}"


def _spread(difference: Interval, n_users: int) -> str:
    return (
        f"{difference.mean:+.4f}, 95 % interval {difference.lower:+.4f} to {difference.upper:+.4f}, "
        f"{n_users:,} users"
    )


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _folder(name: str) -> str:
    return f"evaluation/{name}"
