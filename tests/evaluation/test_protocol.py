"""Who is judged, by what, and that nothing after the cut leaks into it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recsys.data.split import Window
from recsys.errors import DataError
from recsys.evaluation.protocol import activity_segments, evaluate, feature_segments, goal_behaviours, judge
from recsys.evaluation.table import ALL, NEW_ITEMS, compare, markdown
from recsys.types import Behaviour, Candidates, Target

CUT = datetime(2024, 3, 10, tzinfo=UTC)
CUT_US = round(CUT.timestamp() * 1e6)
DAY_US = 86_400_000_000
WINDOW = Window(CUT_US, CUT_US, CUT_US + 5 * DAY_US)


def at(days, user, item, event="purchase"):
    return {"user_id": user, "event": event, "timestamp": CUT + timedelta(days=days), "item_id": item}


@pytest.fixture
def log(make_dataset):
    """Items a, b are old, c is listed but never touched, d appears only after the cut."""
    return make_dataset(
        [
            at(-3, "old", "a"),
            at(-2, "old", "b", "view"),
            at(-2, "busy", "a", "view"),
            at(1, "old", "a"),
            at(1, "old", "c"),
            at(1, "old", "c"),
            at(2, "new", "d"),
            at(2, "busy", "b", "view"),
            at(9, "busy", "b"),
        ],
        items=[{"item_id": item, "listed_at": CUT - timedelta(days=9)} for item in "abc"],
        users=[{"user_id": "old", "age_band": "x"}, {"user_id": "busy", "age_band": "y"}],
    )


@pytest.fixture
def judged(log):
    return judge(log, WINDOW, target=Target.ITEM, goals=(Behaviour.CART, Behaviour.PURCHASE))


def lists(log, judged, *items):
    ids = log.items.ids.index(list(items))
    n = len(judged)
    return lambda users: Candidates(
        np.tile(ids, (n, 1)).astype(np.int32),
        np.tile(-np.arange(len(items), dtype=np.float32), (n, 1)),
        np.full(n, len(items), dtype=np.int32),
    )


def test_users_with_a_goal_event_inside_the_window_are_judged(log, judged):
    assert log.users.ids.external(judged.users).to_pylist() == ["old", "new"]
    assert (judged.users < judged.n_known_users).tolist() == [True, False]


def test_truth_counts_targets_once_and_unknown_ones_against_recall(judged):
    assert judged.truth.toarray().sum(axis=1).tolist() == [2, 0]
    assert judged.n_relevant.tolist() == [2, 1]


def test_metrics_of_a_list(log, judged):
    report = evaluate(lists(log, judged, "c", "b"), judged, ks=(1, 2))
    assert report.by_user["recall@1"].tolist() == [0.5, 0.0]
    assert report.by_user["hit_rate@2"].tolist() == [1.0, 0.0]
    assert report.overall["coverage@2"] == 2 / 3


def test_new_items_are_judged_alone(log, judged):
    missed = evaluate(lists(log, judged, "a", "b"), judged, ks=(2,))
    found = evaluate(lists(log, judged, "c", "b"), judged, ks=(2,))
    assert missed.new_items["recall@2"].tolist() == [0.0]
    assert found.new_items["recall@2"].tolist() == [1.0]


def test_segments_know_only_what_was_before_the_cut(log, judged):
    segments = activity_segments(judged)
    assert {name: mask.tolist() for name, mask in segments.items()} == {
        "new": [False, True],
        "1-4 events": [True, False],
    }
    assert feature_segments(log, judged, ("age_band", "no such column"))["age_band=x"].tolist() == [
        True,
        False,
    ]


def test_a_sample_of_users_is_a_part_of_all(log, judged):
    goals = (Behaviour.CART, Behaviour.PURCHASE)
    one = judge(log, WINDOW, target=Target.ITEM, goals=goals, max_users=1)
    assert len(one) == 1
    row = judged.users.tolist().index(one.users[0])
    assert one.truth.toarray().tolist() == [judged.truth.toarray()[row].tolist()]


def test_a_window_without_a_goal_event_is_an_error(log):
    with pytest.raises(DataError, match="no gift of any item in the window"):
        judge(log, WINDOW, target=Target.ITEM, goals=(Behaviour.GIFT,))


def test_goals_follow_from_what_the_log_has(log, make_dataset):
    assert goal_behaviours(log, Target.ITEM) == (Behaviour.CART, Behaviour.PURCHASE)
    watched = make_dataset([at(0, "u", "v", "view"), at(1, "u", "v", "like"), at(1, "u", "v", "hide")])
    assert goal_behaviours(watched, Target.ITEM) == (Behaviour.VIEW, Behaviour.LIKE)


def test_the_table_has_every_model_in_every_segment(log, judged):
    reports = {
        name: evaluate(lists(log, judged, *items), judged, ks=(2,))
        for name, items in (("x", "ab"), ("y", "ca"))
    }
    rows = compare(reports, activity_segments(judged), samples=200)
    assert {(row.model, row.segment) for row in rows} == {
        (model, segment) for model in "xy" for segment in (ALL, "new", "1-4 events", NEW_ITEMS)
    }
    text = markdown(rows, ("recall@2", "coverage@2"))
    assert "| y | **0.5000** (" in text
    assert text.count("\n") == 3
