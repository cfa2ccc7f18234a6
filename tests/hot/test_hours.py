"""The hours of a live shop: counted by hand, and against plain SQL on a log of many events."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from recsys.data.dataset import Dataset
from recsys.hot.hours import HOURS, LAST_HOURS, pulse
from recsys.hot.panel import build_panel
from recsys.hot.windows import Samples
from tests.hot.conftest import START, prepared, shop_events

HOUR = pd.Timedelta(hours=1)


def live(folder: Path, events: pd.DataFrame) -> Dataset:
    """One room, live all the time, with product 1 on air in the first twelve hours of every day."""
    days = 1 + (events.timestamp.max() - START).days
    rooms = pd.DataFrame({"room_id": ["r"], "streamer_id": ["s"], "started_at": [START], "ended_at": [None]})
    starts = [START + pd.Timedelta(days=day) for day in range(days)]
    showcases = pd.DataFrame(
        {
            "room_id": "r",
            "item_id": 1,
            "started_at": starts,
            "ended_at": [start + 12 * HOUR for start in starts],
        }
    )
    return prepared(folder, events, rooms=rooms, showcases=showcases)


def test_counted_by_hand(tmp_path: Path) -> None:
    def event(what: str, hours: float, item: int | None, room: str | None = None) -> dict[str, object]:
        at = START + pd.Timedelta(hours=hours)
        return {"user_id": 1, "event": what, "timestamp": at, "item_id": item, "room_id": room}

    rows = [
        event("cart", 0.1, 1),
        event("cart", 0.9, 1),
        event("cart", 1.0, 1),
        event("comment", 2.5, None, "r"),  # of the product on air
        event("comment", 13.5, None, "r"),  # of none
        event("purchase", 47.9, 1),
        event("view", 48.0, 1),  # at the moment of asking
        event("view", 60.0, 1),
    ]
    events = pd.DataFrame(rows).astype({"item_id": "Int64"})
    panel = build_panel(live(tmp_path, events), as_of=(START + pd.Timedelta(days=2)).date())
    hours = panel.hours
    assert hours is not None
    assert hours.hour.tolist() == [0, 1, 2, 47]
    assert set(hours.channels) == {"carts", "comments", "orders"}
    np.testing.assert_allclose(hours.channels["carts"], [1 + np.log(2), 1, 0, 0])
    np.testing.assert_allclose(hours.channels["comments"], [0, 0, 1, 0])
    np.testing.assert_allclose(hours.channels["orders"], [0, 0, 0, 1])
    found = pulse(hours, Samples(np.zeros(1, np.int32), np.array([2], np.int32)))
    assert found["busy_hours_7d"].tolist() == [4]
    np.testing.assert_allclose(found["last_hours_orders"], np.log(1.5 / 0.5), rtol=1e-6)
    np.testing.assert_allclose(found["last_hours_carts"], 0)


def test_against_plain_sql(tmp_path: Path) -> None:
    dataset = live(tmp_path, shop_events(n_days=30))
    panel = build_panel(dataset)
    origins = np.repeat(np.array([9, 24], np.int32), panel.n_items)
    samples = Samples(np.tile(np.arange(panel.n_items, dtype=np.int32), 2), origins)
    found = pulse(panel.hours, samples)
    con = duckdb.connect()
    con.register("s", {"i": samples.item_idx, "o": samples.origin, "n": np.arange(len(samples))})
    rows = con.sql(
        f"""
        WITH e AS (SELECT item_idx, user_idx,
                       floor((epoch(timestamp) - epoch(TIMESTAMP '2024-01-01')) / 3600) AS h
                   FROM '{dataset.path}/events.parquet' WHERE behaviour = 'cart'),
        c AS (SELECT item_idx, h, 1 + ln(count(*)) AS carts FROM e GROUP BY item_idx, user_idx, h),
        near AS (SELECT n, carts, {HOURS} * o - h AS ago FROM s JOIN c ON item_idx = i AND h < {HOURS} * o)
        SELECT s.n, coalesce(sum(carts) FILTER (ago <= {LAST_HOURS}), 0) AS last,
            coalesce(sum(carts) FILTER (ago > 24 AND ago <= 24 * 7 + {LAST_HOURS}
                AND (ago - 1) % 24 < {LAST_HOURS}), 0) / 7 AS usual
        FROM s LEFT JOIN near USING (n) GROUP BY s.n ORDER BY s.n
        """
    ).fetchnumpy()
    expected = np.log((rows["last"] + 0.5) / (rows["usual"] + 0.5))
    assert (expected != 0).mean() > 0.5
    np.testing.assert_allclose(found["last_hours_carts"], expected, rtol=1e-4, atol=1e-5)


def test_orders_of_an_hour_are_believed_like_those_of_its_day(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, minute = 40, pd.Timedelta(minutes=1)
    fresh = pd.DataFrame({"user_id": 10_000 + np.arange(n), "event": "purchase", "item_id": 1})
    fresh["timestamp"] = START + pd.Timedelta(days=25) + rng.integers(0, 24 * 60, n) * minute
    events = pd.concat([shop_events(n_days=30), fresh])
    panel = build_panel(live(tmp_path, events)).believed
    hours = panel.hours
    assert hours is not None
    daily = np.zeros((panel.n_items, panel.n_days), np.float32)
    np.add.at(daily, (hours.item_idx, hours.hour // HOURS), hours.channels["orders"])
    assert (daily % 1 > 0).any()
    np.testing.assert_allclose(daily, panel.dense("orders"), rtol=1e-4)


def test_a_shop_without_rooms_has_no_hours(shop: Dataset) -> None:
    panel = build_panel(shop)
    assert panel.hours is None
    assert pulse(panel.hours, Samples(np.zeros(1, np.int32), np.array([9], np.int32))) == {}
