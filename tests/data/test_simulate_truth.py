"""The truth beside a simulated log: hot products and their lead, room utilities, rates."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.data.simulate import RoomOracle, SimulationParams, SimulationSummary, simulate
from recsys.data.simulate.heat import HotEpisodes, hot_episodes, signals
from recsys.data.simulate.params import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.data.simulate.requests import REQUEST, room_headroom
from recsys.data.simulate.summary import conversion, repurchase, sessions_of, true_hot
from recsys.data.simulate.world import CATEGORIES, build_world
from recsys.errors import DataError

# The default platform with fewer users and days: a smaller choice of rooms would shorten visits.
PARAMS = SimulationParams(users=5_000, days=48, seed=11, truth_requests=1_200)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationSummary]:
    out = tmp_path_factory.mktemp("logs")
    return out, simulate(out, PARAMS)


def test_rates_come_close_to_their_targets(world: tuple[Path, SimulationSummary]) -> None:
    rates = {rate.name: rate for rate in world[1].rates}
    # Few buyers of so short a log have had their 30 days, so the third leaves room for chance.
    for name, tolerance in (
        ("watch minutes a session", 0.1),
        ("conversion", 0.1),
        ("30-day repurchase", 0.2),
    ):
        assert rates[name].value == pytest.approx(rates[name].target[0], rel=tolerance), name
    returned = pq.read_table(world[0] / "truth" / "items.parquet").to_pandas().return_rate.to_numpy()
    category = build_world(PARAMS).items.category
    for code, known in enumerate(CATEGORIES):
        if known.apparel:
            assert 0.45 <= returned[category == code].mean() <= 0.60


def test_a_hot_product_is_carted_shared_and_followed_before_it_is_bought(
    world: tuple[Path, SimulationSummary],
) -> None:
    log = duckdb.connect()
    log.execute("SET TimeZone = 'UTC'")
    rows = log.sql(f"""
        SELECT event, CASE WHEN timestamp < lead_started_at THEN 'before' WHEN timestamp < turn_at THEN 'lead'
            WHEN timestamp < ends_at THEN 'hot' ELSE 'after' END AS phase, sum(coalesce(quantity, 1)) AS n
        FROM '{world[0]}/events.parquet' JOIN '{world[0]}/truth/hot_items.parquet' USING (item_id)
        WHERE timestamp BETWEEN lead_started_at - INTERVAL 10 DAY AND ends_at AND event != 'impression'
        GROUP BY ALL""").fetchall()  # fmt: skip
    n = {(event, phase): count for event, phase, count in rows}
    # Cart rate, not carts alone: people who open the product put it aside more often.
    assert n["cart", "lead"] / n["click", "lead"] > 1.8 * n["cart", "before"] / n["click", "before"]
    for event in ("share", "comment", "follow"):
        assert n[event, "lead"] / n["click", "lead"] > 1.5 * n[event, "before"] / n["click", "before"], event
    # Few more buy before the turn; after it many do.
    assert n["purchase", "lead"] / n["cart", "lead"] < 0.5 * n["purchase", "before"] / n["cart", "before"]
    assert n["purchase", "hot"] > 3 * n["purchase", "lead"]


def test_leads_last_one_to_two_weeks(world: tuple[Path, SimulationSummary]) -> None:
    hot = pq.read_table(world[0] / "truth" / "hot_items.parquet").to_pandas()
    lead = hot.turn_at - hot.lead_started_at
    assert len(hot) > 20
    assert hot.item_id.is_unique
    assert lead.between(timedelta(days=7), timedelta(days=14, seconds=60)).all()
    assert (hot.ends_at > hot.turn_at).all()


def test_signals_are_one_outside_an_episode_and_a_decoy_is_only_talked_about() -> None:
    params = SimulationParams(items=3)
    episodes = HotEpisodes(
        item=np.array([0, 1], np.int32),
        lead_day=np.array([10, 10], np.float32),
        turn_day=np.array([20, 20], np.float32),
        end_day=np.array([32, 32], np.float32),
        peak=np.array([10, 10], np.float32),
        decoy=np.array([False, True]),
    )
    quiet, lead, hot = (signals(params, episodes, day) for day in (5, 17, 25))
    for name in ("airtime", "click", "cart", "buy", "share", "comment", "follow", "demand"):
        np.testing.assert_array_equal(getattr(quiet, name), 1)
        assert getattr(lead, name)[2] == getattr(hot, name)[2] == 1
    assert lead.cart[0] > 3
    assert lead.cart[1] == lead.follow[1] == lead.demand[1] == hot.demand[1] == 1
    assert lead.share[0] == lead.share[1] > 3
    assert lead.demand[0] == 1
    # At the height of demand the four shares of it multiply to the peak.
    assert hot.demand[0] == pytest.approx(10)
    assert hot.airtime[0] * hot.click[0] * hot.cart[0] * hot.buy[0] == pytest.approx(10, rel=1e-5)


def test_true_hot_wants_half_of_the_horizon_and_no_start_before_the_origin() -> None:
    # Horizon 7:15 of origin 50 is days 57 to 65, [57, 66): nine days, of which 4.5 must be hot.
    turn = np.array([49.9, 50.0, 61.5, 61.6, 55.0, 55.0], np.float32)
    end = np.array([80.0, 61.5, 80.0, 80.0, 61.4, 80.0], np.float32)
    decoy = np.array([False, False, False, False, False, True])
    episodes = HotEpisodes(
        np.arange(6, dtype=np.int32), turn - 10, turn, end, np.full(6, 9, np.float32), decoy
    )
    assert true_hot(episodes, 50, 7).tolist() == [False, True, True, False, False, False, False]


def test_sessions_join_views_with_gaps_below_half_an_hour() -> None:
    start = np.array([0, 20, 100, 5]) * MINUTE_MS
    end = np.array([10, 71, 110, 6]) * MINUTE_MS
    found = sessions_of(np.array([1, 1, 1, 0], np.int32), start, end)
    # User 1: 10 min and 51 min (a gap of 10), then 29 min until 10 more: one session of 71 min.
    assert found.user.tolist() == [0, 1]
    assert (found.watched_ms / MINUTE_MS).tolist() == [1, 71]
    later = sessions_of(np.array([1, 1], np.int32), start[[0, 2]], end[[0, 2]])
    assert later.start_ms.tolist() == [0, 100 * MINUTE_MS]


def test_conversion_counts_a_session_once_and_takes_late_payments() -> None:
    watching = sessions_of(
        np.array([0, 0, 1], np.int32), np.array([10, 30, 10]) * HOUR_MS, np.array([11, 31, 11]) * HOUR_MS
    )
    # Two purchases in user 0's first session, one 20 minutes before the second; none by user 1.
    at = np.array([10 * HOUR_MS, 12 * HOUR_MS, 30 * HOUR_MS - 20 * MINUTE_MS])
    assert conversion(watching, np.zeros(2, np.int32), at[:2]) == pytest.approx(1 / 3)
    assert conversion(watching, np.zeros(3, np.int32), at) == pytest.approx(2 / 3)


def test_repurchase_wants_another_day_within_thirty() -> None:
    buyer = np.array([0, 0, 1, 1, 2, 2, 3], np.int32)
    day = np.array([1, 31, 1, 32, 1, 1, 69])
    # 0 returns after 30 days, 1 after 31, 2 on the same day; 3 began too late to tell.
    assert repurchase(buyer, day * DAY_MS, days=90) == pytest.approx(1 / 3)
    assert np.isnan(repurchase(buyer[-1:], day[-1:] * DAY_MS, days=90))


def test_room_headroom_by_hand() -> None:
    rows = np.zeros(5, REQUEST)
    rows["request"] = [0, 0, 1, 1, 1]
    rows["utility"] = [2, 1, 1, 3, 2]
    rows["visits"] = [0, 4, 0, 0, 0]
    rows["known"] = [False, True, False, False, False]
    rows["chosen"] = [False, True, False, True, False]
    found = room_headroom(rows)
    assert found is not None
    # Utility ranks the choice second, then first. The count ranks it first, then tied over places 1 to 3.
    tied = (1 + 1 / np.log2(3) + 1 / 2) / 3
    assert found.truth == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert found.baseline == pytest.approx((1 + tied) / 2)
    assert (found.repeats, found.truth_new, found.baseline_new) == pytest.approx((0.5, 1, tied))
    assert room_headroom(rows[:0]) is None


def test_the_oracle_gives_the_utilities_that_users_chose_by(world: tuple[Path, SimulationSummary]) -> None:
    kept = pq.read_table(world[0] / "truth" / "room_requests.parquet").to_pandas()
    assert kept.request.nunique() > 500
    groups = [rows for _, rows in kept[kept.request % 9 == 0].groupby("request")]
    asked = [(rows.user_id.iloc[0], rows["at"].iloc[0].to_pydatetime()) for rows in groups]
    # The order of the questions does not matter.
    oracle = RoomOracle(world[0])
    rankings = oracle.rank(asked[::-1])[::-1]
    for rows, ranking in zip(groups, rankings, strict=True):
        true = rows.set_index("room_id").utility.sort_index()
        said = pd.Series(ranking.utilities, ranking.room_ids)
        assert said.is_monotonic_decreasing
        np.testing.assert_allclose(said.sort_index(), true, atol=1e-3)
        assert said.sort_index().index.tolist() == true.index.tolist()


def test_the_oracle_refuses_strangers_and_other_logs(
    world: tuple[Path, SimulationSummary], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="'nobody'"):
        RoomOracle(world[0]).rank([("nobody", PARAMS.start)])
    with pytest.raises(DataError, match=r"params\.json is not there"):
        RoomOracle(tmp_path)


def test_truth_leaves_headroom_over_the_visit_count_and_over_recent_sales(
    world: tuple[Path, SimulationSummary],
) -> None:
    rooms, hot = world[1].room_headroom, world[1].hot_ceiling
    assert rooms is not None
    assert hot is not None
    assert rooms.truth - rooms.baseline > 0.15
    assert rooms.repeats > 0.5
    assert hot.sales == max(hot.sales_by_rule.values()) < 0.35
    assert hot.positives >= 50
    assert hot.truth > 0.9
    assert hot.breakouts > 0.3


def test_drifting_tastes_start_and_end_where_they_should() -> None:
    users = build_world(PARAMS).users
    everyone = np.arange(PARAMS.users, dtype=np.int32)
    np.testing.assert_allclose(users.taste(everyone, 0.0), users.taste_start)
    np.testing.assert_allclose(users.taste(everyone, 1.0), users.taste_end)
    moved = (np.abs(users.taste_start - users.taste_end).max(axis=1) > 1e-6).mean()
    assert moved == pytest.approx(PARAMS.taste.drift, abs=0.05)


def test_no_product_has_two_episodes() -> None:
    params = SimulationParams()
    episodes = hot_episodes(params, build_world(params).items)
    assert len(np.unique(episodes.item)) == len(episodes.item)
    assert ((episodes.turn_day - episodes.lead_day).min(), (episodes.turn_day - episodes.lead_day).max()) == (
        pytest.approx(10, abs=0.1),
        pytest.approx(14, abs=0.1),
    )
