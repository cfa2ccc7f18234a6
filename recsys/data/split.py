"""Splits by one global moment, with a gap: a fit ends before the window that judges it begins."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.durations import DAY_US, HOUR_US
from recsys.errors import WindowError
from recsys.types import Params


class SplitParams(Params):
    """Lengths of the windows at the end of the log.

    Attributes:
        test_days: length of the test window; by default a tenth of the log, at most 14 days.
        validation_days: length of the validation window before it; by default as long as the test window.
        gap_hours: what lies between a fit and the window that judges it is left out of both, so that a
            session which runs across the cut is not half known.
    """

    test_days: float | None = Field(default=None, gt=0)
    validation_days: float | None = Field(default=None, gt=0)
    gap_hours: float = Field(default=1.0, ge=0)


@dataclass(frozen=True)
class Window:
    """A fit ends at `fit_end_us`; its judge is [start_us, end_us). Microseconds since the epoch."""

    fit_end_us: int
    start_us: int
    end_us: int


@dataclass(frozen=True)
class TimeSplit:
    """The validation window, for choices, and after it the test window, for the figures that are reported."""

    validation: Window
    test: Window


def split_by_time(dataset: Dataset, params: SplitParams) -> TimeSplit:
    """Cut the end of the log into a validation and a test window.

    Raises:
        WindowError: the log is of one moment, or too short for the windows: nothing is left to fit on.
    """
    times = dataset.events.timestamp_us
    first, end = int(times[0]), int(times[-1]) + 1
    span = end - first
    if span == 1:
        raise WindowError(f"{dataset.path}: all of the log is of one moment: there is no time to split it by")
    auto = min(span // 10, 14 * DAY_US)
    test = auto if params.test_days is None else round(params.test_days * DAY_US)
    validation = test if params.validation_days is None else round(params.validation_days * DAY_US)
    # A log of hours has no room for a gap of one.
    gap = min(round(params.gap_hours * HOUR_US), span // 100)
    test_start = end - test
    validation_end = test_start - gap
    validation_start = validation_end - validation
    fit_end = validation_start - gap
    if fit_end <= first:
        needed = (test + validation + 2 * gap) / DAY_US
        raise WindowError(
            f"{dataset.path}: the log spans {span / DAY_US:.2f} days, the test and validation windows take "
            f"{needed:.2f} and leave nothing to fit on; set split.test_days and split.validation_days lower"
        )
    return TimeSplit(
        validation=Window(fit_end, validation_start, validation_end),
        test=Window(validation_end, test_start, end),
    )
