"""Reasons in words: the figure that pushes speaks, and none that pulls."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.hot.reasons import say

ROW = {
    "views_momentum_7_28": np.log(0.26),
    "views_momentum_3_14": np.log(2.0),
    "views_7d": np.log1p(40.0),
    "orders_per_views_momentum": np.log(0.5),
}


def test_the_figure_that_contributes_most_speaks_for_its_concept() -> None:
    pushes = dict.fromkeys(ROW, 0.0)
    assert say("views", ROW, pushes | {"views_7d": 0.2, "views_momentum_3_14": 0.1}) == (
        "last week 40.0 views a window"
    )
    assert say("views", ROW, pushes | {"views_momentum_3_14": 0.1}) == (
        "views of three days 2.0 times their two weeks"
    )


def test_a_figure_that_pulls_the_other_way_is_not_said() -> None:
    pulls = dict.fromkeys(ROW, -0.1)
    assert say("views", ROW, pulls) is None
    assert say("conversion", ROW, pulls) is None
    assert say("on air", ROW, pulls) is None


@pytest.mark.parametrize(
    ("age_days", "history_days", "text"),
    [
        (1.0, 80.0, "new: 1 day old"),
        (50.0, 80.0, "new: 50 days old"),
        (70.0, 80.0, "sold on 9 of the last 28 days"),
        # Seen from the log's first days on: it may be of any age.
        (50.0, 50.0, "sold on 9 of the last 28 days"),
    ],
)
def test_only_what_was_seen_to_begin_is_new(age_days: float, history_days: float, text: str) -> None:
    assert say("age", {"age_days": age_days, "history_days": history_days, "sale_days_28d": 9.0}) == text


def test_a_ratio_of_next_to_nothing_is_not_said() -> None:
    """One sale ever, and not a view: what is smoothed towards nothing is no figure of the log."""
    row = {
        "orders_per_views_momentum": np.log(3.2),
        "views_28d": 0.0,
        "views_momentum_7_28": np.log(2.0),
        "views_7d": 0.0,
        "demand_28d": np.log1p(0.3),
        "demand_momentum_7_28": np.log(2.0),
        "demand_momentum_28_112": np.log(1.5),
        "new_buyer_share_28d": 0.65,
        "sale_days_28d": 1.0,
    }
    pushes = dict.fromkeys(row, 1.0)
    for concept in ("conversion", "views", "momentum", "breadth"):
        assert say(concept, row, pushes) is None
    enough = row | {"views_28d": np.log1p(9.0), "demand_28d": np.log1p(3.0), "sale_days_28d": 4.0}
    assert say("conversion", enough, pushes) == "orders per view last week 3.2 times the weeks before"
    assert say("momentum", enough, pushes) == "units last week 2.0 times the four weeks before"
    assert say("breadth", enough, pushes) == "65 % of buyers in four weeks are new to it"


def test_what_hardly_changed_is_no_reason() -> None:
    row = {"shop_momentum": np.log(1.02), "views_momentum_7_28": np.log(0.97), "views_28d": 3.0}
    assert say("calendar", row) is None
    assert say("views", row | {"views_7d": np.log1p(4.0)}) == "last week 4.0 views a window"
    assert say("calendar", {"shop_momentum": np.nan}) is None


def test_once_is_not_one_times() -> None:
    row = {"breakouts": 1.0, "days_since_breakout": 1.0}
    assert say("past breakouts", row) == "has broken out once, last 1 day ago"
