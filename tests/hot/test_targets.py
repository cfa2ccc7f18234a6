"""Targets, by hand on a panel of four items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.errors import ConfigError
from recsys.hot.panel import Panel, Promotions
from recsys.hot.params import Horizon, HotTarget, Scope, TargetParams
from recsys.hot.samples import open_samples
from recsys.hot.targets import TargetBuilder, population, quantile_by_group
from recsys.hot.trust import Trust
from recsys.hot.windows import Samples
from tests.hot.conftest import whole_days

ORIGIN, DAYS = 60, 75
NONE = np.zeros(0, dtype=np.int32)


def panel_of(daily: np.ndarray) -> Panel:
    item, day = (index.astype(np.int32) for index in np.nonzero(daily))
    channels = {"units": daily[item, day].astype(np.float32)}
    return Panel(
        days=whole_days(daily.shape[1]),
        n_items=daily.shape[0],
        item_idx=item,
        day=day,
        channels=channels,
        promotions=Promotions(NONE, NONE, NONE, NONE, NONE, NONE, NONE, ()),
        trust=Trust(item, day, channels, daily.shape[1]),
        listed_day=np.full(daily.shape[0], -1, dtype=np.int32),
    )


def daily_units() -> np.ndarray:
    """0 sells steadily, 1 breaks out ahead, 2 is out already, 3 stays just below twice its rate."""
    daily = np.zeros((4, DAYS))
    daily[0] = 3.0
    daily[1, :ORIGIN] = 1.0
    daily[1, ORIGIN + 7 : ORIGIN + 15] = 4.0  # 32 units against a rate of 8 a window
    daily[2, :ORIGIN] = 1.0
    daily[2, ORIGIN - 8 :] = 5.0  # 40 units in the last 8 days against 8 before, and 40 ahead
    daily[3, :ORIGIN] = 2.0
    daily[3, ORIGIN + 7 : ORIGIN + 15] = 3.9  # 31.2 against 16 a window: 1.95 times
    return daily


def label(target: HotTarget, **changes: object) -> list[bool]:
    params = TargetParams(
        target=target,
        horizon_last_day=14,
        breakout_share=0.9,
        hot_share=0.3,
        **changes,  # type: ignore[arg-type]
    )
    builder = TargetBuilder(panel_of(daily_units()), params, np.array([0, 0, 1, 1], dtype=np.int32))
    assert builder.last_origin() == ORIGIN
    return builder.outcomes(
        Samples(np.arange(4, dtype=np.int32), np.full(4, ORIGIN, np.int32))
    ).label.tolist()


def test_breakout_needs_twice_the_own_rate_and_not_to_be_out_already() -> None:
    assert label(HotTarget.BREAKOUT) == [False, True, False, False]
    assert label(HotTarget.BREAKOUT, breakout_factor=1.9) == [False, True, False, True]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # Item 1: 4 units a day from day 7 on make twice its 8 a window with day 10. Item 2 is out with day 0.
        (HotTarget.BREAKOUT, [np.nan, 10.0, 0.0, np.nan]),
        # 40 units a window are above the rest of the time; with day 14 item 1 has 32 and is below.
        (HotTarget.HOT, [np.nan, np.nan, 0.0, np.nan]),
    ],
)
def test_lead_days_end_with_the_first_window_that_has_the_target(
    target: HotTarget, expected: list[float]
) -> None:
    params = TargetParams(target=target, horizon_last_day=14, breakout_share=0.9, hot_share=0.3)
    builder = TargetBuilder(panel_of(daily_units()), params, np.zeros(4, dtype=np.int32))
    everybody = Samples(np.arange(4, dtype=np.int32), np.full(4, ORIGIN, np.int32))
    np.testing.assert_array_equal(builder.lead_days(everybody), expected)


def test_breakout_needs_the_least_units() -> None:
    assert label(HotTarget.BREAKOUT, breakout_min_units=32.0)[1] is True
    assert label(HotTarget.BREAKOUT, breakout_min_units=33.0)[1] is False


def test_hot_is_the_top_share_by_units_ahead() -> None:
    # Ahead: 24, 32, 40, 31.2; their 0.7-quantile, at position 2.1, is 32 + 0.1 * 8 = 32.8.
    assert label(HotTarget.HOT) == [False, False, True, False]


def test_the_reach_is_how_much_of_the_least_that_counts_was_sold() -> None:
    daily = daily_units()
    params = TargetParams(horizon_last_day=14, breakout_share=0.9, breakout_min_units=10.0)
    rows = Samples(np.arange(4, dtype=np.int32), np.full(4, ORIGIN, np.int32))
    built = TargetBuilder(panel_of(daily), params, np.zeros(4, np.int32))
    # Twice the recent rates: 48, 16, 34.3, 32. The 0.1-quantile of 24, 31.2, 32 and 40 units ahead is 26.16.
    recent_of_2 = (8 * 5 + 20) / 28 * 8
    expected = [24 / 48, 32 / 26.16, 40 / (2 * recent_of_2), 31.2 / 32]
    np.testing.assert_allclose(built.outcomes(rows).reach, expected, rtol=1e-5)


@given(daily=arrays(np.int64, (12, 60), elements=st.integers(0, 6)), share=st.sampled_from([0.1, 0.3, 0.6]))
@settings(max_examples=40, deadline=None)
def test_a_label_is_every_condition_of_the_definition(daily: np.ndarray, share: float) -> None:
    params = TargetParams(horizon_last_day=14, breakout_share=share)
    built = TargetBuilder(panel_of(daily.astype(float)), params, np.zeros(12, np.int32))
    found = built.outcomes(Samples(np.arange(12, dtype=np.int32), np.full(12, 44, np.int32)))

    def out(window: slice, recent: slice) -> np.ndarray:
        units, rate = daily[:, window].sum(axis=1), daily[:, recent].sum(axis=1) * 8 / 28
        sold = daily[:, :44].sum(axis=1) > 0
        top = units >= np.quantile(units[sold], 1 - share) if sold.any() else np.zeros(12, dtype=bool)
        return top & (units >= params.breakout_min_units) & (units >= 2 * np.maximum(rate, 1.0))

    expected = out(slice(51, 59), slice(16, 44)) & ~out(slice(36, 44), slice(8, 36))
    np.testing.assert_array_equal(found.label, expected)


def test_newly_hot_leaves_out_what_was_hot_in_the_window_past() -> None:
    # Past eight days: 24, 8, 40, 16; item 2 was hot then.
    assert label(HotTarget.NEWLY_HOT) == [False, False, False, False]


def test_who_was_hot_already_is_left_out_and_still_counted_among_the_top() -> None:
    panel = panel_of(daily_units())
    params = TargetParams(target=HotTarget.NEWLY_HOT, horizon_last_day=14, hot_share=0.3)
    built = TargetBuilder(panel, params, np.zeros(4, np.int32))
    samples, [outcomes] = open_samples(panel, np.array([ORIGIN], dtype=np.int32), built)
    assert samples.item_idx.tolist() == [0, 1, 3]
    # Item 1 would be in the top 30 % ahead, were item 2 not there.
    assert outcomes.label.tolist() == [False, False, False]
    np.testing.assert_allclose(outcomes.reach, np.array([24, 32, 31.2]) / 32.8, rtol=1e-5)


def test_hot_within_its_category() -> None:
    # Category 0 has 24 and 32, category 1 has 40 and 31.2: the 0.7-quantiles are 29.6 and 37.36.
    assert label(HotTarget.HOT, scope=Scope.CATEGORY) == [False, True, True, False]


def test_the_outcome_reads_only_the_days_of_the_horizon() -> None:
    changed = daily_units()
    changed[:, ORIGIN : ORIGIN + 7] = 1000.0  # between the origin and the horizon
    params = TargetParams(horizon_last_day=14, breakout_share=0.9)
    rows = Samples(np.arange(4, dtype=np.int32), np.full(4, ORIGIN, np.int32))
    built = TargetBuilder(panel_of(changed), params, np.zeros(4, np.int32))
    assert built.outcomes(rows).label.tolist() == [False, True, False, False]
    np.testing.assert_allclose(built.outcomes(rows).units, [24, 32, 40, 31.2], rtol=1e-5)


def test_population_is_what_was_active_in_the_days_before() -> None:
    daily = np.zeros((3, 20))
    daily[0, 9], daily[1, 10], daily[2, 15] = 1, 1, 1
    assert population(panel_of(daily), 15, 5).tolist() == [1]
    assert population(panel_of(daily), 15, 6).tolist() == [0, 1]


@pytest.mark.parametrize(("listed", "there"), [(9, [1]), (10, [1, 2]), (14, [1, 2]), (15, [1]), (-1, [1])])
def test_the_population_has_what_was_listed_before_the_origin(listed: int, there: list[int]) -> None:
    daily = np.zeros((3, 30))
    daily[1, 12] = 1
    panel = replace(panel_of(daily), listed_day=np.array([-1, 3, listed], np.int32))
    assert population(panel, 15, 5).tolist() == there


def test_quantile_by_group_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.random(300).astype(np.float32), rng.integers(0, 7, 300).astype(np.int32)
    among = rng.random(300) < 0.7
    found = quantile_by_group(values, groups, 0.83, among=among)
    for group in range(7):
        expected = np.quantile(values[among & (groups == group)].astype(np.float64), 0.83)
        np.testing.assert_allclose(found[groups == group], expected)


@pytest.mark.parametrize("text", ["7", "7-15", "15:7", "a:b", "-1:3", "", "7:" + "1" * 5_000])
def test_a_horizon_that_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match="horizon"):
        Horizon.parse(text)


def test_a_horizon_counts_both_ends() -> None:
    assert Horizon.parse("7:15") == Horizon(7, 15)
    assert Horizon.parse("7:15").days == 9
