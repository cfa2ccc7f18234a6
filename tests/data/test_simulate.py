"""The simulated platform keeps the log contract, and nothing in it happens that could not happen."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.data.schema import TABLES
from recsys.data.simulate import SimulationParams, SimulationSummary, simulate
from recsys.errors import DataError
from recsys.types import BEHAVIOURS

PARAMS = SimulationParams(users=900, items=300, streamers=30, days=24, seed=7)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationSummary]:
    out = tmp_path_factory.mktemp("logs")
    return out, simulate(out, PARAMS)


@pytest.fixture(scope="module")
def log(world: tuple[Path, SimulationSummary]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name in TABLES:
        connection.execute(f"CREATE VIEW {name} AS FROM '{world[0] / name}.parquet'")
    for name in ("deliveries", "hot_items", "decoys", "room_requests"):
        connection.execute(f"CREATE VIEW true_{name} AS FROM '{world[0] / 'truth' / name}.parquet'")
    return connection


def count(log: duckdb.DuckDBPyConnection, query: str) -> int:
    row = log.sql(query).fetchone()
    assert row is not None
    return int(row[0])


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_same_seed_same_files_other_seed_other_events(tmp_path: Path) -> None:
    params = SimulationParams(users=120, items=80, streamers=10, days=6, seed=3)
    for name, made in (("a", params), ("b", params), ("c", params.model_copy(update={"seed": 4}))):
        simulate(tmp_path / name, made)
    first, second, third = (files(tmp_path / name) for name in "abc")
    assert first == second
    assert first["events.parquet"] != third["events.parquet"]


def test_one_count_does_not_reshuffle_the_others(tmp_path: Path) -> None:
    params = SimulationParams(users=120, items=80, streamers=10, days=6)
    simulate(tmp_path / "few", params)
    simulate(tmp_path / "many", params.model_copy(update={"users": 200}))
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    for table in ("rooms", "showcases", "streamers", "promotions"):
        assert few[f"{table}.parquet"] == many[f"{table}.parquet"]


def test_tables_have_the_contract_columns_and_every_behaviour_occurs(
    world: tuple[Path, SimulationSummary], log: duckdb.DuckDBPyConnection
) -> None:
    for name, table in TABLES.items():
        columns = set(pq.read_schema(world[0] / f"{name}.parquet").names)
        assert {column.name for column in table.columns} <= columns, name
    seen = {row[0] for row in log.sql("SELECT DISTINCT event FROM events").fetchall()}
    assert seen == {behaviour.value for behaviour in BEHAVIOURS}
    assert count(log, "SELECT count(*) FROM events") == world[1].events
    assert count(log, "SELECT count(DISTINCT event_id) FROM events") == world[1].events


def test_ids_in_events_are_in_the_tables(log: duckdb.DuckDBPyConnection) -> None:
    for table, key in (
        ("users", "user_id"),
        ("items", "item_id"),
        ("rooms", "room_id"),
        ("streamers", "streamer_id"),
    ):
        assert count(log, f"SELECT count(*) FROM events WHERE {key} NOT IN (SELECT {key} FROM {table})") == 0


def test_events_lie_in_time_order_within_the_log(log: duckdb.DuckDBPyConnection) -> None:
    times = log.sql("SELECT epoch_ms(timestamp) FROM events").fetchnumpy()
    moments = next(iter(times.values()))
    start = round(PARAMS.start.timestamp() * 1000)
    assert (np.diff(moments) >= 0).all()
    assert moments[0] >= start
    assert moments[-1] < start + PARAMS.days * 86_400_000


def test_rooms_are_live_when_something_happens_in_them(log: duckdb.DuckDBPyConnection) -> None:
    joined = "FROM events JOIN rooms USING (room_id)"
    assert count(log, f"SELECT count(*) {joined}") > 10_000
    outside = "timestamp < started_at OR timestamp >= ended_at OR events.streamer_id != rooms.streamer_id"
    assert count(log, f"SELECT count(*) {joined} WHERE {outside}") == 0
    over = "timestamp + to_milliseconds(CAST(duration_s * 1000 AS BIGINT)) > ended_at"
    assert count(log, f"SELECT count(*) {joined} WHERE event = 'view' AND ({over})") == 0


def test_item_events_in_a_room_are_about_the_product_on_air(log: duckdb.DuckDBPyConnection) -> None:
    in_rooms = "FROM events e WHERE room_id IS NOT NULL AND item_id IS NOT NULL"
    assert count(log, f"SELECT count(*) {in_rooms}") > 1_000
    on_air = """SELECT 1 FROM showcases s WHERE s.room_id = e.room_id AND s.item_id = e.item_id
        AND s.started_at <= e.timestamp AND (s.ended_at IS NULL OR e.timestamp < s.ended_at)"""
    assert count(log, f"SELECT count(*) {in_rooms} AND NOT EXISTS ({on_air})") == 0


def test_showcases_of_a_room_follow_each_other_and_fill_it(log: duckdb.DuckDBPyConnection) -> None:
    gaps = """SELECT count(*) FROM (SELECT started_at, lag(ended_at) OVER (PARTITION BY room_id ORDER BY
        started_at)
        AS before FROM showcases) WHERE before IS NOT NULL AND before != started_at"""
    assert count(log, gaps) == 0
    spans = """SELECT room_id, min(started_at) AS a, max(ended_at) AS b, count(*) - count(ended_at) AS open
        FROM showcases GROUP BY 1"""
    wrong = "a != started_at OR (open = 0 AND b IS DISTINCT FROM ended_at)"
    assert count(log, f"SELECT count(*) FROM rooms LEFT JOIN ({spans}) USING (room_id) WHERE {wrong}") == 0


def test_a_streamer_has_one_room_at_a_time(log: duckdb.DuckDBPyConnection) -> None:
    both = "a.streamer_id = b.streamer_id AND a.started_at < b.started_at AND b.started_at < a.ended_at"
    assert count(log, f"SELECT count(*) FROM rooms a JOIN rooms b ON {both}") == 0


def test_nobody_watches_two_rooms_at_once(log: duckdb.DuckDBPyConnection) -> None:
    overlaps = """WITH views AS (SELECT user_id, timestamp AS from_at, timestamp
            + to_milliseconds(CAST(duration_s * 1000 AS BIGINT)) AS to_at FROM events WHERE event = 'view'),
        pairs AS (SELECT from_at, lag(to_at) OVER (PARTITION BY user_id ORDER BY from_at) AS before
            FROM views)
        SELECT count(*) FROM pairs WHERE before > from_at"""
    assert count(log, overlaps) == 0


def test_sold_units_never_exceed_what_was_delivered_before(log: duckdb.DuckDBPyConnection) -> None:
    short = """SELECT count(*), min(left_over) FROM (SELECT sum(units) OVER (PARTITION BY item_id ORDER BY
        moment, units DESC ROWS UNBOUNDED PRECEDING) AS left_over FROM (SELECT item_id, "at" AS moment, units
        FROM true_deliveries UNION ALL SELECT item_id, timestamp, -quantity FROM events
        WHERE event = 'purchase'))"""
    row = log.sql(short).fetchone()
    assert row is not None
    assert row[0] > 0
    assert row[1] >= 0
    final = """WITH delivered AS (SELECT item_id, sum(units) AS units FROM true_deliveries GROUP BY 1),
        bought AS (SELECT item_id, sum(quantity) AS units FROM events WHERE event = 'purchase' GROUP BY 1)
        SELECT count(*) FROM items JOIN delivered USING (item_id) LEFT JOIN bought USING (item_id)
        WHERE stock != delivered.units - coalesce(bought.units, 0)"""
    assert count(log, final) == 0


def test_stock_runs_out_and_is_delivered_again(tmp_path: Path) -> None:
    # Many buyers, few products: the shelves must empty.
    summary = simulate(tmp_path, SimulationParams(users=1_500, items=20, streamers=8, days=15, seed=1))
    deliveries = pq.read_table(tmp_path / "truth" / "deliveries.parquet")
    assert summary.sold_out > 0
    assert deliveries.num_rows > 20


def test_a_refund_follows_one_purchase_of_the_same_product_by_the_same_user(
    log: duckdb.DuckDBPyConnection,
) -> None:
    assert count(log, "SELECT count(*) FROM events WHERE event = 'refund'") > 5
    orphans = """SELECT count(*) FROM events r WHERE event = 'refund' AND (SELECT count(*) FROM events p WHERE
        p.event = 'purchase' AND p.user_id = r.user_id AND p.item_id = r.item_id AND p.timestamp < r.timestamp
        AND p.amount = r.amount AND p.quantity = r.quantity) = 0"""
    assert count(log, orphans) == 0


def test_a_purchase_follows_a_cart_and_products_are_not_sold_before_their_launch(
    log: duckdb.DuckDBPyConnection,
) -> None:
    no_cart = """SELECT count(*) FROM events p WHERE event = 'purchase' AND NOT EXISTS (SELECT 1
        FROM events c WHERE c.event = 'cart' AND c.user_id = p.user_id AND c.item_id = p.item_id
        AND c.timestamp <= p.timestamp)"""
    assert count(log, no_cart) == 0
    early = "SELECT count(*) FROM events JOIN items USING (item_id) WHERE timestamp < listed_at"
    assert count(log, early) == 0


def test_higher_places_are_opened_more_often(log: duckdb.DuckDBPyConnection) -> None:
    def by_position(condition: str) -> dict[int, int]:
        query = f"SELECT position, count(*) FROM events WHERE {condition} GROUP BY 1"
        return dict(log.sql(query).fetchall())

    shown = by_position("event = 'impression' AND room_id IS NOT NULL")
    opened = by_position("event = 'click' AND item_id IS NULL")
    assert opened[1] / shown[1] > opened[3] / shown[3] > opened[5] / shown[5]


def test_rooms_running_at_the_end_have_no_end(log: duckdb.DuckDBPyConnection) -> None:
    end = f"TIMESTAMPTZ '{PARAMS.start:%Y-%m-%d} 00:00:00+00' + INTERVAL {PARAMS.days} DAY"
    assert count(log, f"SELECT count(*) FROM rooms WHERE ended_at > {end} OR started_at >= {end}") == 0
    assert count(log, f"SELECT count(*) FROM events WHERE event = 'refund' AND timestamp >= {end}") == 0


def test_promotions_are_announced_before_they_begin(log: duckdb.DuckDBPyConnection) -> None:
    assert count(log, "SELECT count(*) FROM promotions") > 0
    assert (
        count(
            log, "SELECT count(*) FROM promotions WHERE announced_at >= started_at OR started_at >= ended_at"
        )
        == 0
    )


def test_truth_stays_in_its_folder(world: tuple[Path, SimulationSummary]) -> None:
    hidden = {
        "utility",
        "wallet",
        "charm",
        "popularity",
        "return_rate",
        "turn_at",
        "lead_started_at",
        "price_level",
    }
    for name in TABLES:
        assert not hidden & set(pq.read_schema(world[0] / f"{name}.parquet").names)
    assert {f.name for f in world[0].iterdir()} == {f"{name}.parquet" for name in TABLES} | {"truth"}


def test_progress_counts_the_days_and_a_file_is_refused_as_folder(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    params = SimulationParams(users=20, items=10, streamers=2, days=3)
    simulate(tmp_path / "logs", params, progress=lambda done, days: told.append((done, days)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        simulate(tmp_path / "file", params)


@pytest.mark.parametrize("days", [1, 2])
def test_the_smallest_worlds_are_written(tmp_path: Path, days: int) -> None:
    summary = simulate(tmp_path, SimulationParams(users=1, items=1, streamers=1, days=days))
    assert summary.hot_ceiling is None
    assert pq.read_table(tmp_path / "events.parquet").num_rows == summary.events
