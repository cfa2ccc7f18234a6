"""A backtest of the hot-item potential as a tracked run: figures beside the rules, and plots."""

from __future__ import annotations

from datetime import date

import numpy as np

from recsys.data.dataset import Dataset
from recsys.hot.backtest import MODEL, BacktestReport, backtest
from recsys.hot.groups import category_names
from recsys.hot.params import Horizon, HotParams
from recsys.types import Progress
from training.config import Part, TrainingConfig
from training.hot_plots import (
    category_heat_figure,
    hot_picks_figure,
    precision_by_week_figure,
    reliability_figure,
    reliability_table,
)
from training.tracking import Run, Tracker

#: Picks that precision and lift are taken over.
PICKS = 50


def hot_backtest(
    dataset: Dataset,
    params: HotParams,
    *,
    as_of: date | None = None,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> BacktestReport:
    """What would have been said every week of the last half of the log, refitted every four.

    Args:
        dataset: the log.
        params: target and learner.
        as_of: the day before whose start everything may be used to judge by; by default all of the log.
        tracker: where the run is recorded; None records nothing.
        progress: called as progress(done, total, text).

    Raises:
        ModelError: the log has too few days.
    """
    if tracker is None:
        return backtest(dataset, params=params, as_of=as_of, k=PICKS, progress=progress)
    with tracker.run(f"hot backtest: {params.target.target}") as run:
        run.log_config(TrainingConfig(hot=Part(params=params)))
        run.log_dataset(dataset)
        report = backtest(dataset, params=params, as_of=as_of, k=PICKS, progress=progress)
        _record(run, dataset, report, params.target.horizon)
    return report


def _record(run: Run, dataset: Dataset, report: BacktestReport, horizon: Horizon) -> None:
    mine = [row for row in report.summary.to_pylist() if row["ranking"] == MODEL]
    run.log_metrics({f"hot_{row['metric']}": row["mean"] for row in mine if np.isfinite(row["mean"])})
    run.log_table("hot_backtest", report.summary.to_pandas())
    run.log_table("hot_by_origin", report.by_origin.to_pandas())
    run.log_table("hot_reliability", reliability_table(report.reliability).to_pandas())
    run.log_figure("hot_reliability", reliability_figure(report.reliability))
    run.log_figure("hot_by_week", precision_by_week_figure(report.by_origin, f"precision_at_{PICKS}"))
    run.log_figure("hot_picks", hot_picks_figure(dataset, report, horizon))
    names = category_names(dataset.items)
    if len(names) > 1:
        run.log_figure("hot_categories", category_heat_figure(report, names))
