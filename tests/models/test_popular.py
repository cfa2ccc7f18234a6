"""Popularity: shares by hand, decay, segments and their shrinkage."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.behaviours import BehaviourWeights
from recsys.models.popular import Popular, PopularParams, Segments
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset

BUY, VIEW = Behaviour.PURCHASE, Behaviour.VIEW
ONE_EACH = BehaviourWeights(weights={BUY: 1.0, VIEW: 1.0}, half_life_days=None)


def test_shares_are_weighted_counts(build_dataset: BuildDataset) -> None:
    dataset = build_dataset([(0, 0, BUY, 1.0), (0, 1, VIEW, 1.0), (1, 1, VIEW, 1.0)])
    weights = BehaviourWeights(weights={BUY: 5.0, VIEW: 1.0}, half_life_days=None)
    model = Popular(PopularParams(weights=weights)).fit(dataset)
    np.testing.assert_allclose(model.shares, [[5 / 7, 2 / 7]], rtol=1e-6)


def test_an_event_of_one_half_life_ago_counts_half(build_dataset: BuildDataset) -> None:
    dataset = build_dataset([(0, 0, BUY, 23.0), (1, 1, BUY, 30.0 - 1e-9)], days=30.0)
    weights = BehaviourWeights(weights={BUY: 1.0}, half_life_days=7.0)
    model = Popular(PopularParams(weights=weights, least_events=0)).fit(dataset)
    np.testing.assert_allclose(model.shares, [[1 / 3, 2 / 3]], rtol=1e-4)


def test_a_short_half_life_finds_what_is_trending(build_dataset: BuildDataset) -> None:
    long_ago = [(u, 0, BUY, 2.0) for u in range(20)]
    now = [(u, 1, BUY, 29.0) for u in range(5)]
    dataset = build_dataset(long_ago + now)

    def best(half_life_days: float | None) -> int:
        weights = BehaviourWeights(half_life_days=half_life_days)
        model = Popular(PopularParams(weights=weights, least_events=0)).fit(dataset)
        return int(model.recommend(np.array([0], dtype=np.int32), k=1).ids[0, 0])

    assert best(2.0) == 1
    assert best(None) == 0


def test_a_few_events_a_week_are_counted_over_as_long_as_it_takes(build_dataset: BuildDataset) -> None:
    """Five years of three sales in two days: a week of them says little, and was all that counted."""
    rng = np.random.default_rng(0)
    chance = 1.0 / np.arange(1, 301)
    chance /= chance.sum()
    items = rng.choice(300, 3_000, p=chance)
    rows = [(n, int(item), BUY, 1_825.0 * n / 3_000) for n, item in enumerate(items)]
    dataset = build_dataset(rows, n_items=300, days=1_825.0)

    def demand_of_the_best_20(least_events: int) -> float:
        model = Popular(PopularParams(least_events=least_events)).fit(dataset)
        return float(chance[model.recommend(np.array([0], np.int32), k=20).ids[0]].sum() / chance[:20].sum())

    assert demand_of_the_best_20(0) < 0.85
    assert demand_of_the_best_20(PopularParams().least_events) > 0.95
    # Where there are many, a half-life stays what it is.
    busy = build_dataset([(n, n % 9, BUY, 30.0 * n / 4_000) for n in range(4_000)], days=30.0)
    few, many = (Popular(PopularParams(least_events=n)).fit(busy).shares for n in (0, 500))
    np.testing.assert_array_equal(few, many)


def test_a_segment_is_shrunk_towards_everybody_by_its_active_users(build_dataset: BuildDataset) -> None:
    # Users 0 and 1 are "a" and buy item 0; 2 is "b" and buys item 1; 3 is "b" and does nothing.
    dataset = build_dataset(
        [(0, 0, BUY, 1.0), (1, 0, BUY, 1.0), (2, 1, BUY, 1.0)],
        n_users=5,
        users={"age_band": ["a", "a", "b", "b", None]},
    )
    model = Popular(PopularParams(weights=ONE_EACH, shrinkage_users=2.0)).fit(dataset)
    assert model.segments.names == ("", "age_band=a", "age_band=b")
    np.testing.assert_array_equal(model.segments.of_user, [1, 1, 2, 2, 0])
    whole = np.array([2 / 3, 1 / 3])
    np.testing.assert_allclose(model.shares[0], whole, rtol=1e-6)
    np.testing.assert_allclose(model.shares[1], 2 / 4 * np.array([1, 0]) + 2 / 4 * whole, rtol=1e-6)
    np.testing.assert_allclose(model.shares[2], 1 / 3 * np.array([0, 1]) + 2 / 3 * whole, rtol=1e-6)


def test_segments_combine_columns_and_leave_out_what_is_missing(build_dataset: BuildDataset) -> None:
    dataset = build_dataset(
        [(0, 0, BUY, 1.0)],
        n_users=4,
        users={
            "age_band": ["20", "20", None, None],
            "gender": ["F", None, "F", None],
            "city_tier": [None] * 4,
        },
    )
    segments = Segments.of(dataset.users, ("age_band", "gender", "city_tier", "absent"))
    assert [segments.names[s] for s in segments.of_user] == [
        "age_band=20 gender=F",
        "age_band=20",
        "gender=F",
        "",
    ]


@pytest.mark.parametrize("target", list(Target))
def test_segment_lists_are_what_a_member_is_recommended(build_dataset: BuildDataset, target: Target) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (int(u), int(i), BUY, 5.0)
        for u, i in zip(rng.integers(0, 30, 200), rng.integers(0, 12, 200), strict=True)
    ]
    genders = ["F" if u % 3 else "M" for u in range(30)]
    model = Popular(target=target).fit(build_dataset(rows, n_users=30, n_items=12, users={"gender": genders}))
    lists = model.segment_lists(k=5)
    assert set(lists) == {"", "gender=F", "gender=M"}
    answer = model.recommend(np.arange(30, dtype=np.int32), k=5)
    for user in range(30):
        ids, shares = lists[f"gender={genders[user]}"]
        np.testing.assert_array_equal(answer.row(user)[0], ids)
        np.testing.assert_array_equal(answer.row(user)[1], shares)
