"""The room model beside its baselines over the test window, by a fit made before it."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.data.dataset import Dataset
from recsys.data.split import Window, split_by_time
from recsys.errors import DataError, ModelError
from recsys.evaluation.table import Row, compare
from recsys.rooms.baselines import PopularNow, tuned_visit_count
from recsys.rooms.judging import JudgedRooms, judge_rooms
from recsys.rooms.model import RoomModel, RoomReport
from recsys.rooms.potential import Potential
from recsys.types import Behaviour, Progress, Target
from training.config import TrainingConfig
from training.room_potential import potential_before
from training.window_result import WindowResult

#: Names of the rankings in the comparison; the bundle answers by the model.
POPULAR_NOW = "popular_now"
VISIT_COUNT = "visit_count"
ROOM_MODEL = "room_model"


@dataclass(frozen=True)
class RoomTrial:
    """What the test window taught of rooms.

    Attributes:
        window: the cut and the window behind it.
        visit: the behaviour that counted as entering.
        chosen: what the fit chose on its own validation, for a refit.
        potential: hot-item potential before the window; None where there is none.
        found: users, reports and segments.
        rows: the table with intervals.
    """

    window: Window
    visit: Behaviour
    chosen: RoomReport
    potential: Potential | None
    found: JudgedRooms
    rows: list[Row]


def run_room_trial(
    config: TrainingConfig, dataset: Dataset, *, progress: Progress | None = None
) -> RoomTrial:
    """Fit before the test window and judge in it, beside what is popular now and the user's decayed visits.

    Args:
        config: of the run.
        dataset: the whole log.
        progress: called as progress(done, total, text).

    Raises:
        DataError: the log is too short for the windows, or the test window has no visit with a choice.
        ModelError: there is no visit to learn from before the window.
    """
    window = split_by_time(dataset, config.split).test
    model = RoomModel(config.rooms.params)
    potential = None
    if config.hot.enabled is not False:
        potential = potential_before(dataset, window.fit_end_us, config.hot.params, progress=progress)
    scorer = model.fit(dataset.until(window.fit_end_us), potential=potential, progress=progress)
    found = judge_rooms(
        {
            POPULAR_NOW: PopularNow(scorer.state_params, scorer.content),
            VISIT_COUNT: tuned_visit_count(model.examples, scorer.state_params, scorer.content),
            ROOM_MODEL: scorer,
        },
        dataset,
        window,
        max_visits=config.evaluation.max_visits,
        ks=config.evaluation.k,
        progress=progress,
    )
    rows = compare(found.reports, found.segments, samples=config.evaluation.samples, seed=config.seed)
    return RoomTrial(window, scorer.state_params.visit, model.report, potential, found, rows)


def room_trial_or_reason(
    config: TrainingConfig, dataset: Dataset, *, progress: Progress | None = None
) -> RoomTrial | str:
    """What `run_room_trial` gives, or in words why a log that may be fine for products cannot judge rooms."""
    try:
        return run_room_trial(config, dataset, progress=progress)
    except (DataError, ModelError) as error:
        return f"rooms not evaluated: {error}"


def room_result(trial: RoomTrial, dataset: Dataset, ranking: str) -> WindowResult:
    """How one of the rankings did, user by user."""
    found = trial.found
    return WindowResult.of(
        found.reports[ranking],
        found.judged,
        found.segments,
        dataset=dataset,
        window=trial.window,
        target=Target.ROOM,
        goals=(trial.visit,),
    )
