"""A gap in the log is no time at all: what was sold in it is unknown, not zero."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.hot.days import Days, observed_days
from recsys.hot.demand_features import peaks, rhythm
from recsys.hot.panel import build_panel
from recsys.hot.samples import samples_at
from recsys.hot.score import score_hot
from recsys.hot.targets import TargetBuilder
from recsys.hot.windows import Samples
from tests.hot.conftest import N_DAYS, N_ITEMS, SMALL, START, prepared, shop_events, whole_days

WEEK = timedelta(days=7)


def shop_with_a_gap(folder: Path, *, before: int) -> Dataset:
    """The small shop as if nothing had been written down for a week before one of its days."""
    events = shop_events()
    later = (events.timestamp - START).dt.days >= before
    events.loc[later, "timestamp"] += WEEK
    return prepared(folder, events)


def test_a_week_left_out_changes_no_count_no_outcome_and_no_feature(shop: Dataset, tmp_path: Path) -> None:
    """But those by the calendar, and how long ago a buyer came or bought."""
    whole, parted = build_panel(shop), build_panel(shop_with_a_gap(tmp_path, before=60))
    assert parted.n_days == whole.n_days
    for name in ("units", "orders", "carts", "views", "viewers", "buyers"):
        np.testing.assert_array_equal(parted.dense(name), whole.dense(name), err_msg=name)
    at = samples_at(whole, np.array([50, 62, 70, 84], np.int32), 56)
    categories = np.zeros(N_ITEMS, np.int32)
    outcomes, wanted = (
        TargetBuilder(each, SMALL.target, categories).outcomes(at) for each in (parted, whole)
    )
    np.testing.assert_array_equal(outcomes.label, wanted.label)
    assert 0 < wanted.label.sum() < len(at)
    for family in (lambda panel: rhythm(panel, at), lambda panel: peaks(panel, SMALL.target, at)):
        expected = family(whole)
        for name, values in family(parted).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_it_is_said_and_changes_the_order_little(shop: Dataset, tmp_path: Path) -> None:
    found = score_hot(shop_with_a_gap(tmp_path, before=60), params=SMALL)
    first = START.date() + timedelta(days=60)
    assert found.gaps == [(first, first + timedelta(days=6))]
    assert found.table["potential"].to_numpy()[0] > 1.5 * found.base_rate
    without = score_hot(shop, params=SMALL)
    assert found.training_origins == without.training_origins
    potential, wanted = (
        each.table.to_pandas().set_index("item_id")["potential"].sort_index() for each in (found, without)
    )
    assert np.corrcoef(potential.rank(), wanted.rank())[0, 1] > 0.9


@pytest.mark.parametrize("days_since", [0, 2, 9])
def test_reasons_stay_figures_just_after_a_gap(tmp_path: Path, days_since: int) -> None:
    found = score_hot(shop_with_a_gap(tmp_path, before=N_DAYS - days_since), params=SMALL)
    assert len(found.gaps) == (days_since > 0)
    table = found.table.to_pandas()
    assert not table.reasons.str.contains("nan").any()
    assert np.isfinite(table[["potential", "expected_units"]]).all(axis=None)


@pytest.mark.parametrize(("daily", "gap_days", "found"), [(4, 7, True), (4, 3, False), (2, 4, False)])
def test_a_gap_is_a_run_of_empty_days_that_chance_does_not_explain(
    daily: int, gap_days: int, found: bool
) -> None:
    events = np.full(60, daily)
    events[30 : 30 + gap_days] = 0
    assert (~observed_days(events)).sum() == (gap_days if found else 0)


def test_days_are_counted_without_gaps() -> None:
    events = np.full(400, 9)
    events[10:20] = 0
    first = 20_000
    days = Days.of_events(events, first)
    assert len(days) == 390
    numbers = np.array([first - 3, first, first + 9, first + 15, first + 20, first + 400, first + 405])
    assert days.place(numbers).tolist() == [-3, 0, 9, 10, 10, 390, 395]
    assert days.has(numbers).tolist() == [False, True, True, False, True, False, False]
    assert days.date_of(10) - days.date_of(9) == timedelta(days=11)
    assert days.date_of(395) - days.date_of(390) == timedelta(days=5)
    assert days.start_us(10) == (first + 20) * 86_400_000_000
    assert days.a_year_before(np.array([390, 389, 5]), ahead=15).tolist() == [26, 25, -1]
    assert days.gaps == [(days.date_of(9) + timedelta(days=1), days.date_of(10) - timedelta(days=1))]
    assert whole_days(3).gaps == []


def test_a_year_before_is_a_day_that_the_log_has_and_long_enough_ago() -> None:
    events = np.full(800, 9)
    events[100:150] = 0
    days = Days.of_events(events, 20_000)
    at = days.place(np.array([20_000 + 364 + 99, 20_000 + 364 + 100, 20_000 + 364 + 149, 20_000 + 364 + 150]))
    assert days.a_year_before(at, ahead=23).tolist() == [99, -1, -1, 100]
    assert days.a_year_before(at, ahead=23, nearest=True).tolist() == [99, 100, 100, 100]
    # A stray event years before the log is no last year of it, nor are days just before a gap of a year.
    stray = Days.of_events(np.r_[9, np.zeros(1_500, int), np.full(400, 9)], 20_000)
    assert stray.a_year_before(np.array([2, 100, 364]), ahead=23).tolist() == [-1, -1, -1]
    assert stray.a_year_before(np.array([365, 400]), ahead=23).tolist() == [1, 36]
    long = Days.of_events(np.r_[np.full(370, 9), np.zeros(345, int), np.full(30, 9)], 20_000)
    assert long.a_year_before(np.array([375, 385]), ahead=23).tolist() == [-1, -1]


@pytest.mark.parametrize("open_days", [(5, 6), (4, 5, 6), (0, 2, 4)])
def test_a_shop_that_is_closed_on_most_days_has_no_gap_by_it(open_days: tuple[int, ...]) -> None:
    events = np.where(np.isin(np.arange(400) % 7, open_days), 50, 0)
    assert Days.of_events(events, 0).gaps == []
    events[200:230] = 0
    assert len(Days.of_events(events, 0).gaps) == 1


def test_what_is_listed_or_promoted_in_a_gap_is_of_the_days_that_there_are(tmp_path: Path) -> None:
    def at(day: int) -> pd.Timestamp:
        return START + pd.Timedelta(days=day)

    events = shop_events()
    day = (events.timestamp - START).dt.days
    items = pd.DataFrame({"item_id": [*range(150), 900], "listed_at": [*[at(0)] * 150, at(88)]})
    spans = [(60, 64), (58, 66), (62, 74), (88, 95)]  # in a gap, around it, out of it, to come from another
    promotions = pd.DataFrame(
        {
            "item_id": range(4),
            "started_at": [at(start) for start, _ in spans],
            "ended_at": [at(end) for _, end in spans],
        }
    )
    kept = events[~day.between(60, 66) & (day < 85)]
    dataset = prepared(tmp_path, kept, items=items, promotions=promotions)
    found = score_hot(dataset.until(int(dataset.as_of_us)), as_of=(at(84)).date(), params=SMALL)
    assert len(found.gaps) == 1
    whole = prepared(
        tmp_path / "whole", pd.concat([kept, events[day >= 96]]), items=items, promotions=promotions
    )
    panel = build_panel(whole, as_of=at(90).date())
    assert panel.n_days == 85 - 7
    promoted = panel.promotions
    ids = whole.items.ids.external(promoted.item_idx).to_pylist()
    known = dict(
        zip(ids, zip(promoted.start_day.tolist(), promoted.end_day.tolist(), strict=True), strict=True)
    )
    assert known == {1: (58, 60), 2: (60, 67), 3: (78, 83)}
    assert panel.listed_day[panel.n_items - 1] == panel.n_days - 1


def test_what_was_on_air_before_the_first_event_is_of_no_day(tmp_path: Path) -> None:
    events = shop_events()
    day = START - pd.Timedelta(days=2)
    rooms = pd.DataFrame({"room_id": ["r"], "streamer_id": ["s"], "started_at": [day]})
    shown = pd.DataFrame(
        {
            "room_id": "r",
            "item_id": [0, 5, 7],
            "started_at": [day, day, START + pd.Timedelta(days=3)],
            "ended_at": [*[day + pd.Timedelta(hours=2)] * 2, START + pd.Timedelta(days=3, hours=1)],
        }
    )
    dataset = prepared(tmp_path, events, rooms=rooms, showcases=shown)
    panel = build_panel(dataset)
    (row,) = np.flatnonzero(panel.rows("airtime_min"))
    assert dataset.items.ids.external(panel.item_idx[[row]]).to_pylist() == [7]
    assert panel.day[row] == 3
    assert panel.running("airtime_min").total(
        Samples(panel.item_idx[[row]], np.array([5], np.int32)), -5, 0
    ).tolist() == [60.0]
