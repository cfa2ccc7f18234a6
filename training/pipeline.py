"""A training run, end to end: judge fits made before the test window, refit on all rows, write the bundle."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.bundle import BundleRefused, Reason, Section, write_bundle
from recsys.data.dataset import Dataset, from_us
from recsys.errors import DataError, ModelError, WindowError
from recsys.evaluation.table import ALL, Row
from recsys.held import held_section
from recsys.hot.backtest import BacktestReport, backtest
from recsys.hot.score import HotScores, score_hot
from recsys.models.fused import FusedModel
from recsys.models.fusion import Combiner
from recsys.models.popular import Popular
from recsys.product_sections import hot_section
from recsys.room_sections import room_sections
from recsys.rooms.model import RoomModel, RoomReport, state_at_end
from recsys.rooms.potential import Potential
from recsys.types import Progress, Target
from training.candidates import candidate_models, fit_all, left_out
from training.config import TrainingConfig
from training.export import product_sections
from training.holding import held_users
from training.hot_plots import reliability_figure
from training.judging import Trial, merged_by, run_trial, unlearned
from training.plots import comparison_figure, learning_curve_figure, segments_figure
from training.promote import ANSWER, BASELINE, Results, record_result
from training.room_judging import POPULAR_NOW, ROOM_MODEL, RoomTrial, room_result, room_trial_or_reason
from training.room_potential import start_us, values_of
from training.threads import capped_threads
from training.tracking import Run, Tracker
from training.window_result import WindowResult

_log = logging.getLogger(__name__)

#: Products of the hot list that the bundle keeps.
HOT_DEPTH = 1_000
#: Origins that one fit of the backtest serves: all of them.
ONE_FIT = 1_000_000
_HOT_COLUMNS = ["item_idx", "potential", "lower", "upper", "grade", "expected_units", "reasons"]


@dataclass(frozen=True)
class Trained:
    """What a run made.

    Attributes:
        bundle: its folder.
        run_id: in MLflow; None where nothing was tracked.
        rows: the comparison table of products over the test window; empty where the log was too short.
        hot: the hot list as of the end of the log; None with the reason in `notes`.
        room_rows: the same of live rooms.
        rooms: how the room model's fit went; None where there is none.
        notes: what was left out and why, in words.
        seconds: wall-clock time by stage.
    """

    bundle: Path
    run_id: str | None
    rows: list[Row]
    room_rows: list[Row]
    hot: HotScores | None
    rooms: RoomReport | None
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


def train(
    dataset_path: Path | str,
    config: TrainingConfig,
    out: Path | str,
    *,
    tracker: Tracker | None = None,
    name: str = "train",
    progress: Progress | None = None,
) -> Trained:
    """Fit, evaluate, track, register and write the bundle.

    Args:
        dataset_path: a folder that `prepare` wrote.
        config: everything that decides the run.
        out: the bundle's folder; it must not exist yet.
        tracker: where the run is recorded; None records nothing.
        name: of the run.
        progress: called as progress(done, total, text).

    Raises:
        DataError: the Dataset cannot be read, or holds nothing to recommend.
        BundleRefused: `out` exists.
        ModelError: a training diverged.
    """
    out = Path(out)
    if out.exists():
        raise BundleRefused(Reason.EXISTS, f"{out} exists; a bundle is never written over: name a new path")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: its folder cannot be made: {error.strerror}") from error
    dataset = Dataset.load(dataset_path)
    with capped_threads(config.threads):
        if tracker is None:
            return _Job(config, dataset, out, progress).run(None)
        with tracker.run(name) as run:
            run.log_config(config)
            run.log_dataset(dataset)
            return _Job(config, dataset, out, progress).run(run)


def refit(
    config: TrainingConfig, dataset_path: Path, cut_off: datetime, *, progress: Progress | None = None
) -> Results:
    """How a configuration does when fitted up to a cut-off: see `training.promote.Refit`.

    Raises:
        DataError: the configuration's test window does not begin at the cut-off.
    """
    dataset = Dataset.load(dataset_path)
    results: dict[Target, WindowResult] = {}
    if len(dataset.items):
        trial = run_trial(config, dataset, Target.ITEM, progress=progress)
        results[Target.ITEM] = _result(trial, dataset, _answer_name(trial))
    if len(dataset.rooms) and config.rooms.enabled is not False:
        rooms = room_trial_or_reason(config, dataset, progress=progress)
        if isinstance(rooms, str):
            _log.warning("%s", rooms)
        else:
            results[Target.ROOM] = room_result(rooms, dataset, ROOM_MODEL)
    for result in results.values():
        if from_us(result.window.fit_end_us) != cut_off:
            raise DataError(
                f"{dataset_path}: its test window begins after {from_us(result.window.fit_end_us)}, "
                f"not after {cut_off}: the data has changed since; train the challenger again"
            )
    return results


class _Job:
    """One run's state while it is being made."""

    def __init__(
        self, config: TrainingConfig, dataset: Dataset, out: Path, progress: Progress | None
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.out = out
        self.progress = progress
        # A run that was killed goes on from here when it is begun again with the same `out`.
        self.checkpoints = out.parent / f".{out.name}.checkpoints"
        self.notes: list[str] = []
        self.rooms: RoomReport | None = None
        self.room_trial: RoomTrial | None = None
        self.hot_report: BacktestReport | None = None
        self.seconds: dict[str, float] = {}

    def run(self, run: Run | None) -> Trained:
        sections: dict[str, Section] = {}
        trial: Trial | None = None
        hot: HotScores | None = None
        if not len(self.dataset.items) and not len(self.dataset.rooms):
            raise DataError(f"{self.dataset.path}: neither products nor rooms; there is nothing to recommend")
        weights = self.dataset.settle(self.config.weights)
        if not weights.of(self.dataset.events, self.dataset.as_of_us).any():
            found = ", ".join(self.dataset.counts())
            raise DataError(
                f"{self.dataset.path}: no event shows interest in anything: behaviours with a weight are "
                f"needed, there is {found}"
            )
        if len(self.dataset.items):
            self._say_what_is_left_out()
            trial = self._timed("evaluate", self._trial)
            sections |= self._timed("refit", lambda: self._products(trial))
            hot = self._timed("hot", self._hot)
            self.hot_report = self._timed("backtest", lambda: self._backtest_hot(hot))
            if hot is not None:
                sections["hot"] = hot_section(hot.table.slice(0, HOT_DEPTH).select(_HOT_COLUMNS))
        else:
            sections |= product_sections(self.dataset, [], None)
        if len(self.dataset.rooms) and self.config.rooms.enabled is not False:
            self.room_trial = self._timed("evaluate rooms", self._judge_rooms)
            sections |= self._timed("rooms", lambda: self._rooms(hot))
        if self.config.hold:
            sections["held"] = held_section(held_users(self.dataset, self.config.hold))
        rows = [] if trial is None else trial.comparison.rows
        room_rows = [] if self.room_trial is None else self.room_trial.rows
        bundle = write_bundle(
            self.out,
            sections=sections,
            config=self.config.to_dict(),
            metrics=_metrics(rows) | _room_metrics(room_rows),
            model_version=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{self.dataset.fingerprint[:8]}",
            mlflow_run_id=None if run is None else run.id,
        )
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        if run is not None:
            self._timed("record", lambda: self._record(run, trial, bundle))
        run_id = None if run is None else run.id
        return Trained(bundle, run_id, rows, room_rows, hot, self.rooms, tuple(self.notes), self.seconds)

    def _timed(self, stage: str, work: Any) -> Any:
        begin = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - begin
        return result

    def _trial(self) -> Trial | None:
        try:
            return run_trial(
                self.config,
                self.dataset,
                Target.ITEM,
                checkpoints=self.checkpoints,
                progress=self.progress,
            )
        except WindowError as error:
            self._note(f"not evaluated: {error}")
            return None

    def _products(self, trial: Trial | None) -> dict[str, Section]:
        """Refit on all rows, for as long as validation found right."""
        combiner = self._combiner(trial)
        if combiner is None:
            off = self.config.fusion.enabled is False
            why = "fusion is off" if off else "there is no other model to merge it with"
            self._note(f"the bundle answers with what is popular alone: {why}")
            popular = Popular(self.config.models.popular)
            return product_sections(self.dataset, fit_all([popular], self.dataset), None)
        models = candidate_models(
            self.config,
            self.dataset,
            Target.ITEM,
            steps=None if trial is None else trial.steps,
            checkpoints=self.checkpoints / "final",
        )
        served = fit_all(merged_by(combiner, models), self.dataset, progress=self.progress)
        return product_sections(self.dataset, served, combiner)

    def _combiner(self, trial: Trial | None) -> Combiner | None:
        """What the trial found; where it had nobody to learn from, the same models by reciprocal ranks."""
        if self.config.fusion.enabled is False:
            return None
        learned = trial is not None and trial.fusion is not None
        combiner = unlearned(self.config, self.dataset, Target.ITEM) if trial is None else trial.combiner
        if combiner is not None and not learned:
            self._note(
                f"{', '.join(combiner.sources)} are merged by reciprocal ranks alone: there is no "
                "validation window in which somebody known before has a goal event"
            )
        return combiner

    def _hot(self) -> HotScores | None:
        if self.config.hot.enabled is False:
            return None
        try:
            return score_hot(self.dataset, params=self.config.hot.params, progress=self.progress)
        except (DataError, ModelError) as error:
            if self.config.hot.enabled is True:
                raise
            self._note(f"no hot list: {error}")
            return None

    def _backtest_hot(self, hot: HotScores | None) -> BacktestReport | None:
        """What one fit before the last half of the log would have said in it; None if that is too short."""
        if hot is None or not self.config.evaluation.hot_backtest:
            return None
        try:
            return backtest(
                self.dataset, params=self.config.hot.params, refit_every=ONE_FIT, progress=self.progress
            )
        except ModelError as error:
            self._note(f"hot list not judged: {error}")
            return None

    def _judge_rooms(self) -> RoomTrial | None:
        trial = room_trial_or_reason(self.config, self.dataset, progress=self.progress)
        if isinstance(trial, str):
            self._note(trial)
            return None
        return trial

    def _rooms(self, hot: HotScores | None) -> dict[str, Section]:
        """The room model, and the live state as of the end of the log."""
        dataset = self.dataset
        model = RoomModel(self.config.rooms.params)
        chosen = None if self.room_trial is None else self.room_trial.chosen
        try:
            potential = self._potential(hot)
            scorer = model.fit(dataset, potential=potential, chosen=chosen, progress=self.progress)
        except ModelError as error:
            if self.config.rooms.enabled is True:
                raise
            self._note(f"no room model: {error}")
            return {}
        self.rooms = model.report
        if scorer.network is None:
            n = model.report.examples
            self._note(
                f"rooms are ranked by decayed visits: {n} visits are too few to learn from, or no gain"
            )
        state = state_at_end(dataset, scorer, progress=self.progress)
        return room_sections(
            scorer,
            state,
            streamers=dataset.streamers.ids,
            rooms=dataset.rooms.ids,
            since_us=int(dataset.events.timestamp_us[0]),
            explore=self.config.rooms.params.explore,
        )

    def _potential(self, hot: HotScores | None) -> Potential | None:
        """What was said before the test window, and what is said now."""
        said = None if self.room_trial is None else self.room_trial.potential
        if said is None or hot is None:
            return said
        # The hot list may be as of the midnight after the log's last event.
        at_us = min(start_us(hot.as_of), self.dataset.as_of_us)
        return said.and_later(at_us, values_of(hot, len(self.dataset.items)))

    def _say_what_is_left_out(self) -> None:
        models_by_reason: dict[str, list[str]] = {}
        for name, reason in left_out(self.config, self.dataset, Target.ITEM).items():
            models_by_reason.setdefault(reason, []).append(name)
        for reason, names in models_by_reason.items():
            self._note(f"{', '.join(names)} left out: {reason}")

    def _note(self, text: str) -> None:
        self.notes.append(text)

    def _record(self, run: Run, trial: Trial | None, bundle: Path) -> None:
        run.log_metrics({f"seconds_{stage}": value for stage, value in self.seconds.items()})
        if self.rooms is not None:
            figures = {f"rooms_{name}": value for name, value in asdict(self.rooms).items()}
            run.log_metrics({name: value for name, value in figures.items() if np.isfinite(value)})
        if self.hot_report is not None:
            run.log_table("hot_backtest", self.hot_report.summary.to_pandas())
            run.log_figure("hot_reliability", reliability_figure(self.hot_report.reliability))
        if trial is not None:
            self._record_trial(run, trial)
        if self.room_trial is not None:
            self._record_room_trial(run, self.room_trial)
        run.register(bundle)

    def _record_trial(self, run: Run, trial: Trial) -> None:
        rows = trial.comparison.rows
        run.log_metrics(_metrics(rows))
        for point in trial.learning_curve:
            run.log_metrics({"two_tower_loss": point.loss}, step=point.step)
            if point.ndcg is not None:
                run.log_metrics({"two_tower_ndcg@20": point.ndcg}, step=point.step)
        run.log_table("comparison", comparison_table(rows))
        answer = _answer_name(trial)
        record_result(run, ANSWER, _result(trial, self.dataset, answer))
        record_result(run, BASELINE, _result(trial, self.dataset, Popular.name))
        run.log_figure("comparison", comparison_figure(rows, self.config.promote.metric))
        run.log_figure("segments", segments_figure(rows, "recall@20", model=answer))
        if trial.learning_curve:
            run.log_figure("learning_curve", learning_curve_figure(trial.learning_curve))

    def _record_room_trial(self, run: Run, trial: RoomTrial) -> None:
        run.log_metrics(_room_metrics(trial.rows))
        run.log_table("comparison_rooms", comparison_table(trial.rows))
        record_result(run, ANSWER, room_result(trial, self.dataset, ROOM_MODEL))
        record_result(run, BASELINE, room_result(trial, self.dataset, POPULAR_NOW))
        run.log_figure("comparison_rooms", comparison_figure(trial.rows, self.config.promote.metric))


def _answer_name(trial: Trial) -> str:
    """The model of the comparison whose lists the bundle gives."""
    return FusedModel.name if FusedModel.name in trial.comparison.reports else Popular.name


def _result(trial: Trial, dataset: Dataset, model: str) -> WindowResult:
    comparison = trial.comparison
    return WindowResult.of(
        comparison.reports[model],
        comparison.judged,
        comparison.segments,
        dataset=dataset,
        window=trial.split.test,
        target=Target.ITEM,
        goals=trial.goals,
    )


def _metrics(rows: Sequence[Row]) -> dict[str, float]:
    """model.metric -> mean over all judged users."""
    return {
        f"{row.model}.{metric}": value.mean
        for row in rows
        if row.segment == ALL
        for metric, value in row.values.items()
    }


def _room_metrics(rows: Sequence[Row]) -> dict[str, float]:
    return {f"rooms.{name}": value for name, value in _metrics(rows).items()}


def comparison_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a model, segment and metric, with the interval."""
    return pd.DataFrame(
        [
            {
                "model": row.model,
                "segment": row.segment,
                "users": row.n_users,
                "metric": metric,
                "mean": value.mean,
                "lower": value.lower,
                "upper": value.upper,
            }
            for row in rows
            for metric, value in row.values.items()
        ]
    )
