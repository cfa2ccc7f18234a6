"""Features against an independent computation in plain SQL on the same small log."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.hot.features import build_features
from recsys.hot.panel import build_panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import Samples
from tests.hot.conftest import N_ITEMS, START, prepared, shop_events

H = 9  # days of the horizon 7:15
ORIGINS = (40, 83)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The small shop with orders of 20 and more, where 1 to 3 are usual."""
    events, rng = shop_events(), np.random.default_rng(7)
    odd = pd.DataFrame(
        {
            "user_id": rng.integers(0, 200, 60),
            "event": "purchase",
            "timestamp": START + pd.to_timedelta(rng.uniform(0, 100 * 86_400, 60), unit="s"),
            "item_id": rng.integers(0, N_ITEMS, 60),
            "quantity": rng.integers(20, 60, 60).astype(float),
        }
    )
    odd["amount"] = odd.quantity * (5.0 + odd.item_id)
    return prepared(tmp_path_factory.mktemp("odd"), pd.concat([events, odd]))


@pytest.fixture(scope="module")
def table(shop: Dataset) -> tuple[Samples, dict[str, np.ndarray], duckdb.DuckDBPyConnection]:
    samples = Samples(
        np.tile(np.arange(N_ITEMS, dtype=np.int32), len(ORIGINS)),
        np.repeat(np.array(ORIGINS, dtype=np.int32), N_ITEMS),
    )
    features = build_features(build_panel(shop), TargetParams(), samples, {})
    con = duckdb.connect()
    con.sql(
        f"""
        CREATE TABLE e AS SELECT item_idx, user_idx, behaviour, coalesce(quantity, 1) AS q, amount,
            timestamp AS t,
            date_diff('day', DATE '2024-01-01', timestamp::DATE) AS day
        FROM '{shop.path}/events.parquet'
        """
    )
    con.sql(
        """
        CREATE TABLE lines AS
        SELECT item_idx, user_idx, day,
            t < (SELECT min(f.t) FROM e f WHERE f.user_idx = b.user_idx) + INTERVAL 7 DAY AS fresh,
            NOT EXISTS (FROM e v WHERE v.user_idx = b.user_idx AND v.item_idx = b.item_idx
                AND v.behaviour IN ('view', 'cart') AND v.t < b.t) AS unseen
        FROM e b WHERE behaviour = 'purchase';
        CREATE TABLE buyer_days AS
        SELECT item_idx, day, avg(fresh::INT) AS fresh, avg(unseen::INT) AS unseen FROM lines
        GROUP BY item_idx, day, user_idx;
        CREATE TABLE bought AS
        SELECT item_idx, user_idx, day, sum(q) AS q, sum(amount) AS amount, count(*) AS lines
        FROM e WHERE behaviour = 'purchase' GROUP BY ALL;
        CREATE TABLE strayed AS
        SELECT b.*, (
            (SELECT coalesce(sum(ln(p.q)), 0) FROM bought p WHERE p.item_idx = b.item_idx AND p.day < b.day)
                + 5 * (SELECT avg(ln(p.q)) FROM bought p WHERE p.day < b.day)
        ) / (5 + (SELECT count(*) FROM bought p WHERE p.item_idx = b.item_idx AND p.day < b.day)) AS usual
        FROM bought b;
        CREATE TABLE spread AS
        SELECT day, (SELECT sqrt(avg((ln(p.q) - p.usual) ** 2)) FROM strayed p WHERE p.day < d.day) AS s
        FROM (SELECT DISTINCT day FROM strayed) d;
        CREATE TABLE doubted AS
        SELECT item_idx, user_idx, day, lines,
            CASE WHEN s IS NULL THEN q ELSE least(q, exp(usual + greatest(4 * s, ln(3)))) END AS u
        FROM strayed JOIN spread USING (day);
        """
    )
    cut = con.sql("SELECT count(*) FROM doubted JOIN bought USING (item_idx, user_idx, day) WHERE u < q")
    assert cut.fetchall()[0][0] >= 50
    for name, counted in (("trust", "buyer_days"), ("trust_in_orders", "lines")):
        con.sql(trust_by(name, counted))
    con.register("s", {"i": samples.item_idx, "o": samples.origin, "n": np.arange(len(samples))})
    return samples, dict(zip(features.names, features.values.T, strict=True)), con


def trust_by(name: str, counted: str) -> str:
    """A table of the trust in each item on each day with a sale, by lines or by buyers a day."""
    return f"""
        CREATE TABLE {name} AS
        WITH shop AS (
            SELECT d.day, avg(fresh::DOUBLE) AS fresh, avg(unseen::DOUBLE) AS unseen
            FROM (SELECT DISTINCT day FROM {counted}) d JOIN {counted} l ON l.day BETWEEN d.day - 27 AND d.day
            GROUP BY d.day
        ),
        windows AS (
            SELECT r.item_idx, r.day, count(*) AS n,
                sum(fresh::DOUBLE) AS fresh, sum(unseen::DOUBLE) AS unseen
            FROM (SELECT DISTINCT item_idx, day FROM {counted}) r
            JOIN {counted} l ON l.item_idx = r.item_idx AND l.day BETWEEN r.day - 6 AND r.day GROUP BY ALL
        )
        SELECT item_idx, w.day, least(
            1,
            CASE WHEN s.fresh <= .5
                THEN (n - w.fresh + 2 * sqrt(n * s.fresh * (1 - s.fresh)) + 5 * (1 - s.fresh))
                    / ((n + 5) * (1 - s.fresh)) ELSE 1 END,
            CASE WHEN s.unseen <= .5
                THEN (n - w.unseen + 2 * sqrt(n * s.unseen * (1 - s.unseen)) + 5 * (1 - s.unseen))
                    / ((n + 5) * (1 - s.unseen)) ELSE 1 END
        ) AS trust
        FROM windows w JOIN shop s USING (day)
    """


def ask(con: duckdb.DuckDBPyConnection, expression: str, where: str) -> np.ndarray:
    """One number a sample, in the samples' order, over the events before its origin."""
    rows = con.sql(
        f"""
        SELECT n, {expression} AS value
        FROM s LEFT JOIN e ON e.item_idx = s.i AND e.day < s.o AND {where}
        GROUP BY n, i, o ORDER BY n
        """
    ).fetchnumpy()
    return np.ma.filled(rows["value"].astype(float), np.nan)


def by_people(con: duckdb.DuckDBPyConnection, behaviour: str, days: int) -> np.ndarray:
    """What was done with each item in the days before its origin; one person's n of a day count 1 + ln(n)."""
    rows = con.sql(
        f"""
        WITH people AS (
            SELECT item_idx, day, 1 + ln(count(*)) AS counted FROM e WHERE behaviour = '{behaviour}'
            GROUP BY item_idx, day, user_idx
        )
        SELECT n, coalesce(sum(counted), 0) AS value FROM s
        LEFT JOIN people ON item_idx = i AND day BETWEEN o - {days} AND o - 1 GROUP BY n ORDER BY n
        """
    ).fetchnumpy()
    return np.asarray(rows["value"])


def test_views_and_carts(table) -> None:  # type: ignore[no-untyped-def]
    for channel, behaviour in (("views", "view"), ("carts", "cart")):
        for days in (7, 28):
            count = by_people(table[2], behaviour, days)
            np.testing.assert_allclose(table[1][f"{channel}_{days}d"], np.log1p(count / days * H), rtol=1e-4)


def test_momentum_of_carts(table) -> None:  # type: ignore[no-untyped-def]
    near = by_people(table[2], "cart", 3) / 3 * H
    far = by_people(table[2], "cart", 14) / 14 * H
    expected = np.log((near + 0.5) / (far + 0.5))
    np.testing.assert_allclose(table[1]["carts_momentum_3_14"], expected, rtol=1e-4, atol=1e-5)


def test_different_buyers(table) -> None:  # type: ignore[no-untyped-def]
    for days in (3, 14, 28):
        rows = (
            table[2]
            .sql(
                f"""
        WITH daily AS (
            SELECT item_idx, day, count(DISTINCT user_idx) * any_value(trust) AS buyers
            FROM e JOIN trust USING (item_idx, day) WHERE behaviour = 'purchase' GROUP BY ALL
        )
        SELECT n, coalesce(sum(buyers), 0) AS value FROM s
        LEFT JOIN daily ON item_idx = i AND day BETWEEN o - {days} AND o - 1 GROUP BY n ORDER BY n
        """
            )
            .fetchnumpy()
        )
        count = rows["value"]
        np.testing.assert_allclose(table[1][f"buyers_{days}d"], np.log1p(count / days * H), rtol=1e-4)


def test_damped_demand(table) -> None:  # type: ignore[no-untyped-def]
    rows = (
        table[2]
        .sql(
            f"""
        WITH damped AS (
            SELECT b.item_idx, b.day, b.u / b.lines * (1 + ln(b.lines)) / (
                SELECT count(*) FROM doubted p WHERE p.item_idx = b.item_idx AND p.user_idx = b.user_idx
                AND p.day BETWEEN b.day - 28 AND b.day
            ) * trust AS demand FROM doubted b JOIN trust USING (item_idx, day)
        )
        SELECT n, coalesce(sum(demand), 0) / 7 * {H} AS value FROM s
        LEFT JOIN damped ON item_idx = i AND day BETWEEN o - 7 AND o - 1 GROUP BY n ORDER BY n
        """
        )
        .fetchnumpy()
    )
    np.testing.assert_allclose(table[1]["demand_7d"], np.log1p(rows["value"]), rtol=1e-4, atol=1e-6)


def test_new_buyers_and_days_since_the_last_sale(table) -> None:  # type: ignore[no-untyped-def]
    last = ask(table[2], "o - max(e.day)", "behaviour = 'purchase'")
    np.testing.assert_allclose(table[1]["days_since_sale"], last)
    rows = (
        table[2]
        .sql(
            f"""
        WITH f AS (
            SELECT item_idx, user_idx, min(day) AS day FROM e WHERE behaviour = 'purchase' GROUP BY ALL
        )
        SELECT n, coalesce(sum(trust), 0) / 28 * {H} AS value FROM s
        LEFT JOIN (f JOIN trust USING (item_idx, day)) ON item_idx = i AND day BETWEEN o - 28 AND o - 1
        GROUP BY n ORDER BY n
        """
        )
        .fetchnumpy()
    )
    np.testing.assert_allclose(table[1]["new_buyers_28d"], np.log1p(rows["value"]), rtol=1e-4, atol=1e-6)


def test_the_best_window_so_far(table) -> None:  # type: ignore[no-untyped-def]
    rows = (
        table[2]
        .sql(
            f"""
        WITH daily AS (
            SELECT item_idx, day, sum(u) * any_value(trust) AS u
            FROM doubted JOIN trust_in_orders USING (item_idx, day) GROUP BY ALL
        ),
        windows AS (
            SELECT s.n, w.d, (SELECT coalesce(sum(u), 0) FROM daily WHERE item_idx = s.i AND day >= w.d - {H}
                AND day < w.d) AS u
            FROM s, range(1, 101) w(d) WHERE w.d <= s.o
        )
        SELECT n, max(u) AS value FROM windows GROUP BY n ORDER BY n
        """
        )
        .fetchnumpy()
    )
    np.testing.assert_allclose(table[1]["best_window"], np.log1p(rows["value"]), rtol=1e-4, atol=1e-6)


def test_the_usual_price_paid(table) -> None:  # type: ignore[no-untyped-def]
    rows = (
        table[2]
        .sql(
            """
        WITH daily AS (
            SELECT item_idx, day, ln(sum(amount) / sum(q)) AS p FROM bought GROUP BY ALL
        )
        SELECT n, avg(p) AS value FROM s LEFT JOIN daily ON item_idx = i AND day BETWEEN o - 112 AND o - 1
        GROUP BY n ORDER BY n
        """
        )
        .fetchnumpy()
    )
    np.testing.assert_allclose(
        table[1]["price"], np.ma.filled(rows["value"].astype(float), np.nan), rtol=1e-3
    )
