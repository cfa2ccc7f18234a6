"""Fake orders (刷單) lift an item little and are said; honest ones count and are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.hot.panel import build_panel
from recsys.hot.score import HotScores, score_hot
from recsys.hot.trust import Trust
from tests.hot.conftest import N_ITEMS, N_USERS, SMALL, START, prepared, shop_events

ORIGIN = 90
AS_OF = (START + pd.Timedelta(days=ORIGIN)).date()
ATTACKS = ("few buyers", "fresh accounts", "one device", "one address")


def known_events() -> pd.DataFrame:
    events = shop_events()
    return events[events.timestamp < START + pd.Timedelta(days=ORIGIN)]


def orders(kind: str, n: int, items: list[int]) -> pd.DataFrame:
    """n orders of the last five days, spread over the items; the honest ones by the shop's own users."""
    rng = np.random.default_rng(1)
    second = rng.integers(0, 5 * 86_400, n)
    rows = pd.DataFrame(
        {
            "user_id": 10_000 + np.arange(n),
            "event": "purchase",
            "timestamp": START + pd.Timedelta(days=ORIGIN - 5) + pd.to_timedelta(second, unit="s"),
            "item_id": rng.choice(items, n),
            "quantity": 1.0,
        }
    )
    if kind == "few buyers":
        return rows.assign(user_id=rng.choice([901, 902, 903], n))
    if kind == "honest":
        # People of the shop who looked at it an hour before.
        rows = rows.assign(user_id=rng.integers(0, N_USERS, n))
        looks = rows.assign(event="view", timestamp=rows.timestamp - pd.Timedelta(hours=1), quantity=np.nan)
        return pd.concat([rows, looks])
    return rows.assign(**{"one device": {"device_id": "d"}, "one address": {"address_id": "a"}}.get(kind, {}))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> HotScores:
    dataset = prepared(tmp_path_factory.mktemp("before"), known_events())
    return score_hot(dataset, as_of=AS_OF, params=SMALL)


def open_items(before: HotScores, ranks: range) -> list[int]:
    """Items of some ranks that have not broken out."""
    table = before.table.to_pandas()
    weak = table[(table.potential > 0) & table["rank"].isin(ranks)]
    return [int(item) for item in weak.item_id]


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("kind", ATTACKS)
def test_fake_orders_lift_items_little_and_are_flagged(
    before: HotScores, tmp_path: Path, kind: str, share: float
) -> None:
    known = known_events()
    n = round(share * (known.event == "purchase").sum())
    victims = open_items(before, range(61, N_ITEMS))[:8]
    flags, potential = {}, {}
    for name in (kind, "honest"):
        dataset = prepared(tmp_path / name, pd.concat([known, orders(name, n, victims)]))
        table = score_hot(dataset, as_of=AS_OF, params=SMALL).table.to_pandas().set_index("item_id")
        flags[name], potential[name] = table["flags"], table.loc[victims, "potential"]
    least = 0.7 if share < 0.02 else 1.0
    assert (flags[kind][victims] != "").mean() >= least
    assert (flags[kind].drop(victims) == "").all()
    assert (flags["honest"] == "").all()
    calm = before.table.to_pandas().set_index("item_id").loc[victims, "potential"]
    assert potential[kind].max() <= 2 * calm.max()
    # Nor do they take an item off the list as one that has broken out already; as many honest ones do.
    assert (potential[kind] > 0).mean() >= 0.5
    assert share < 0.02 or (potential["honest"] == 0).all()


@pytest.mark.parametrize(("share", "at_most"), [(0.01, 0.5), (0.05, 0.35)])
def test_fake_orders_count_little_of_what_honest_ones_do(
    before: HotScores, tmp_path: Path, share: float, at_most: float
) -> None:
    """Over five sets of eight victims: of a single one's few orders it is chance how many are believed."""
    known = known_events()
    n = round(share * (known.event == "purchase").sum())
    weak = open_items(before, range(61, N_ITEMS))
    calm = believed_demand(prepared(tmp_path / "calm", known), weak[:40])
    risen = dict.fromkeys(("honest", *ATTACKS), -calm)
    for start in range(0, 40, 8):
        victims = weak[start : start + 8]
        for name in risen:
            attacked = pd.concat([known, orders(name, n, victims)])
            risen[name] += believed_demand(prepared(tmp_path / f"{name}{start}", attacked), victims)
    honest = risen.pop("honest")
    assert {kind: rise for kind, rise in risen.items() if rise >= at_most * honest} == {}


def believed_demand(dataset: Dataset, items: list[int]) -> float:
    """What is believed of the items' demand in the last five days."""
    index = dataset.items.ids.index(pd.array(items, dtype="int64").to_numpy())
    return float(build_panel(dataset, as_of=AS_OF).believed.dense("demand")[index, -5:].sum())


@pytest.mark.parametrize("kind", ["few buyers", "one device"])
def test_fake_orders_move_items_of_the_middle_few_ranks_up(
    before: HotScores, tmp_path: Path, kind: str
) -> None:
    known = known_events()
    victims = open_items(before, range(21, 29))
    attacked = pd.concat([known, orders(kind, round(0.05 * (known.event == "purchase").sum()), victims)])
    after = score_hot(prepared(tmp_path, attacked), as_of=AS_OF, params=SMALL)
    was, now = (
        scores.table.to_pandas().set_index("item_id").loc[victims, "rank"] for scores in (before, after)
    )
    assert (was - now).max() <= 0.05 * N_ITEMS


def test_one_account_that_carts_and_looks_all_day_moves_items_little(
    before: HotScores, tmp_path: Path
) -> None:
    """Of n in a day 1 + ln(n) count; as lines they had lifted the potential up to eight times."""
    table = before.table.to_pandas().set_index("item_id")
    victims = [open_items(before, range(rank, N_ITEMS))[0] for rank in (31, 46, 61)]
    rng = np.random.default_rng(3)
    n = 49 * len(victims)
    rows = pd.DataFrame({"user_id": 5, "item_id": np.repeat(victims, 49)})
    second = rng.integers((ORIGIN - 6) * 86_400, ORIGIN * 86_400, n)
    rows["timestamp"] = START + pd.to_timedelta(second, unit="s")
    faked = [rows.assign(event=event) for event in ("cart", "view", "view")]
    after = score_hot(
        prepared(tmp_path, pd.concat([known_events(), *faked])), as_of=AS_OF, params=SMALL
    ).table.to_pandas()
    now = after.set_index("item_id").loc[victims]
    assert (now.potential <= 2 * table.potential[victims]).all()
    assert (table["rank"][victims] - now["rank"]).max() <= 0.1 * N_ITEMS


def test_orders_without_a_look_are_damped_where_others_look(tmp_path: Path) -> None:
    known = known_events()
    bought = known[known.event == "purchase"]
    # Here who buys has looked an hour before.
    looks = bought.assign(event="view", timestamp=bought.timestamp - pd.Timedelta(hours=1), quantity=np.nan)
    victims = list(range(100, 108))
    rows = orders("honest", round(0.05 * len(bought)), victims)
    fake = rows[rows.event == "purchase"]
    gained, flags = {}, {}
    for name, added in {"none": rows[:0], "honest": rows, "no look": fake}.items():
        looked = added if name == "honest" else added.assign(user_id=lambda t: t.user_id + N_USERS)
        # Accounts of their own, old by now, that have looked at other products alone.
        old = looked.drop_duplicates("user_id").assign(
            event="view", item_id=3, quantity=np.nan, timestamp=START + pd.Timedelta(days=1)
        )
        dataset = prepared(tmp_path / name, pd.concat([known, looks, old, looked]))
        panel = build_panel(dataset, as_of=AS_OF)
        index = dataset.items.ids.index(pd.array(victims, dtype="int64").to_numpy())
        gained[name] = panel.believed.dense("units")[index, -5:].sum()
        flags[name] = panel.trust.flags(index)
    honest, doubted = (gained[name] - gained["none"] for name in ("honest", "no look"))
    assert doubted < 0.5 * honest
    assert all("without a look at the item before" in words for words in flags["no look"])
    assert not any(flags["honest"])


def one_order(known: pd.DataFrame, items: list[int], quantity: float) -> pd.DataFrame:
    """The log with one order of each item, by a buyer of the shop who had looked at it a day before."""
    at = START + pd.Timedelta(days=ORIGIN - 3)
    old = known.groupby("user_id").timestamp.min().sort_values().index[0]
    order = {"user_id": old, "event": "purchase", "timestamp": at, "quantity": quantity}
    look = {"user_id": old, "event": "view", "timestamp": at - pd.Timedelta(days=1)}
    rows = [row | {"item_id": item, "amount": 5.0 + item} for item in items for row in (order, look)]
    return pd.concat([known, pd.DataFrame(rows)])


@pytest.mark.parametrize("quantity", [50.0, 1e9])
def test_one_order_does_not_take_the_best_off_the_list(
    before: HotScores, tmp_path: Path, quantity: float
) -> None:
    best = open_items(before, range(1, 6))
    after = score_hot(
        prepared(tmp_path, one_order(known_events(), best, quantity)), as_of=AS_OF, params=SMALL
    )
    table = after.table.to_pandas().set_index("item_id")
    assert (table.potential[best] > 0).all()
    assert (table["rank"][best] <= 0.2 * N_ITEMS).all()
    assert table["flags"][best].str.contains("a buyer took far more in a day than is usual").all()
    assert (table["flags"].drop(best) == "").all()


@pytest.mark.parametrize("quantity", [50.0, 1e9])
def test_one_order_lifts_nothing_to_the_top(before: HotScores, tmp_path: Path, quantity: float) -> None:
    weak = open_items(before, range(61, N_ITEMS))[:5]
    after = score_hot(
        prepared(tmp_path, one_order(known_events(), weak, quantity)), as_of=AS_OF, params=SMALL
    )
    was, now = (scores.table.to_pandas().set_index("item_id").loc[weak] for scores in (before, after))
    assert (now["rank"] > 20).all()
    assert (now.expected_units <= 2 * was.expected_units.max()).all()
    assert (now["flags"] != "").all()


def trust_of(orders: list[float], doubtful: list[float], others: float = 0.0) -> float:
    """Trust in item 0 on the last of some days; item 1 has 100 orders a day, some of them doubtful."""
    days = len(orders)
    item = np.repeat(np.array([0, 1], np.int32), days)
    day = np.tile(np.arange(days, dtype=np.int32), 2)
    channels = {
        "orders": np.r_[orders, np.full(days, 100.0)].astype(np.float32),
        "newcomer_orders": np.r_[doubtful, np.full(days, others)].astype(np.float32),
    }
    channels["usual_units"] = channels["demand"] = channels["orders"]
    return float(Trust(item, day, channels, days).in_orders(np.array([0], np.int32), day[days - 1 : days])[0])


def test_trust_follows_its_formula() -> None:
    # 40 orders, 30 of them doubtful, in a shop where 30 of 140 are.
    honest, chance = 1 - 30 / 140, 2 * np.sqrt(40 * 30 / 140 * 110 / 140)
    assert trust_of([40], [30]) == pytest.approx((10 + chance + 5 * honest) / (45 * honest), rel=1e-6)


def test_what_chance_does_is_not_doubted() -> None:
    rng = np.random.default_rng(0)
    trust = [trust_of([10], [doubtful], others=35) for doubtful in rng.binomial(10, 0.35, 200)]
    assert np.mean(trust) > 0.99


def test_trust_looks_back_a_week_and_no_further() -> None:
    assert trust_of([50] + [10] * 7, [50] + [0] * 7) == 1.0
    assert trust_of([10] + [50] + [10] * 5, [0] + [50] + [0] * 5) < 0.7


def test_who_orders_often_is_one_buyer_to_doubt() -> None:
    day = np.zeros(1, np.int32)
    channels = {
        name: np.array([value], np.float32)
        for name, value in {
            "orders": 40,
            "newcomer_orders": 20,
            "buyers": 21,
            "newcomer_buyers": 1,
            "usual_units": 40,
            "demand": 24,
        }.items()
    }
    other = {
        name: np.append(values, np.float32(1000 if "newcomer" not in name else 0))
        for name, values in channels.items()
    }
    trust = Trust(np.array([0, 1], np.int32), np.zeros(2, np.int32), other, 1)
    honest, chance = 1 - 1 / 1021, 2 * np.sqrt(21 / 1021 * 1020 / 1021)
    assert trust.in_buyers(day, day) == pytest.approx((20 + chance + 5 * honest) / (26 * honest), rel=1e-6)
    honest, chance = 1 - 20 / 1040, 2 * np.sqrt(40 * 20 / 1040 * 1020 / 1040)
    assert trust.in_orders(day, day) == pytest.approx((20 + chance + 5 * honest) / (45 * honest), rel=1e-6)


def test_orders_are_trusted_as_far_as_the_demand_bears_them_out() -> None:
    channels = {
        name: np.array([value], np.float32)
        for name, value in {"orders": 100, "buyers": 2, "usual_units": 100, "demand": 10}.items()
    }
    day = np.zeros(1, np.int32)
    assert Trust(day, day, channels, 1).in_orders(day, day) == pytest.approx(3 * 15 / 105, rel=1e-6)


def test_what_all_of_the_shop_does_is_not_doubted() -> None:
    assert trust_of([40], [30], others=75) == 1.0
    assert trust_of([40], [12], others=30) == pytest.approx(1.0)


def test_a_shop_that_logs_no_looks_is_trusted(tmp_path: Path) -> None:
    known = known_events()
    bought = known[known.event == "purchase"]
    panel = build_panel(prepared(tmp_path, bought), as_of=AS_OF)
    late = panel.day >= 40  # by then no account is new
    for trust in (panel.trust.in_orders, panel.trust.in_buyers):
        np.testing.assert_array_equal(trust(panel.item_idx[late], panel.day[late]), 1.0)


def test_an_item_without_orders_is_trusted_and_not_flagged(before: HotScores, tmp_path: Path) -> None:
    known = known_events()
    panel = build_panel(prepared(tmp_path, known[known.event != "purchase"]), as_of=AS_OF)
    items = np.arange(panel.n_items, dtype=np.int32)
    assert set(panel.trust.flags(items)) == {""}
    np.testing.assert_array_equal(panel.trust.in_orders(panel.item_idx, panel.day), 1.0)


def test_who_was_in_the_room_has_seen_what_was_sold_in_it(tmp_path: Path) -> None:
    start = pd.Timestamp("2024-01-01", tz="UTC")
    minute = pd.Timedelta(minutes=1)
    rows = []
    for user in range(20):
        at = start + user * 30 * minute
        if user < 15:
            rows.append({"user_id": user, "event": "enter", "timestamp": at, "room_id": "r", "item_id": None})
        bought = {"user_id": user, "event": "purchase", "timestamp": at + minute, "room_id": "r"}
        rows.append(bought | {"item_id": "i"})
    known = prepared(tmp_path, pd.DataFrame(rows))
    panel = build_panel(known)
    assert panel.channels["unseen_orders"].tolist() == [5.0]
