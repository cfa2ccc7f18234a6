"""What one buyer takes in a day counts as far as it is usual, by what was known before that day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.hot.panel import build_panel
from tests.hot.conftest import prepared

START = pd.Timestamp("2024-01-01", tz="UTC")


def orders(rows: list[tuple[int, str, int, float]]) -> pd.DataFrame:
    """Purchases of (day, item, user, quantity)."""
    table = pd.DataFrame(rows, columns=["day", "item_id", "user_id", "quantity"])
    table["timestamp"] = START + pd.to_timedelta(table.pop("day"), unit="D")
    return table.assign(event="purchase", amount=table.quantity * 2.0)


def many(rng: np.random.Generator, item: str, usual: float, spread: float, days: int = 20) -> pd.DataFrame:
    """Ten buyers a day, their quantities lognormal and whole."""
    quantity = np.ceil(usual * np.exp(spread * rng.standard_normal(days * 10)))
    return orders(
        [(row // 10, item, int(rng.integers(1, 10**6)), units) for row, units in enumerate(quantity)]
    )


def usual_units(dataset: Dataset, item: str) -> np.ndarray:
    """(D,) of an item."""
    panel = build_panel(dataset)
    return panel.dense("usual_units")[
        list(dataset.items.ids.external(np.arange(panel.n_items)).to_pylist()).index(item)
    ]


def test_an_order_counts_up_to_what_is_usual(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = pd.concat([many(rng, "a", 1, 0), many(rng, "b", 1, 0)])
    found = prepared(tmp_path, pd.concat([known, orders([(19, "a", 7, 1e9)])]))
    # All took one: three times that is the most.
    assert usual_units(found, "a")[19] == pytest.approx(10 + 3)
    assert usual_units(found, "b")[19] == 10
    panel = build_panel(found)
    assert panel.dense("usual_amount").max() == pytest.approx(2 * 13)
    assert panel.dense("demand").max() <= 13 + 1e-6


def test_where_buyers_stray_far_much_is_usual(tmp_path: Path) -> None:
    known = many(np.random.default_rng(0), "a", 5, 1.2)
    log = np.log(known.quantity[:190])
    found = usual_units(prepared(tmp_path, pd.concat([known, orders([(19, "a", 7, 1e9)])])), "a")
    beyond = found[19] - known.quantity[190:].sum()
    assert beyond == pytest.approx(np.exp(log.mean() + 4 * log.std()), rel=0.15)
    assert beyond > 100


def test_an_item_is_judged_by_its_own_usual(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = pd.concat([many(rng, "by the piece", 1, 0.1), many(rng, "by the gram", 500, 0.1)])
    dataset = prepared(tmp_path, known)
    units = build_panel(dataset).dense("units")
    for item in ("by the piece", "by the gram"):
        assert usual_units(dataset, item)[10:].sum() == pytest.approx(
            known[known.item_id == item].quantity[100:].sum(), rel=0.02
        )
    assert units.max() > 4_000


def test_many_small_orders_of_one_buyer_are_one_large_one(tmp_path: Path) -> None:
    known = many(np.random.default_rng(0), "a", 1, 0)
    repeated = orders([(19, "a", 7, 1.0)] * 30)
    repeated["timestamp"] += pd.to_timedelta(np.arange(30), unit="s")
    assert usual_units(prepared(tmp_path, pd.concat([known, repeated])), "a")[19] == pytest.approx(13)


def test_what_comes_later_changes_nothing(tmp_path: Path) -> None:
    known = many(np.random.default_rng(0), "a", 3, 0.5)
    later = orders([(day, "a", day, 1e6) for day in range(15, 20)])
    before = usual_units(prepared(tmp_path / "before", known), "a")
    after = usual_units(prepared(tmp_path / "after", pd.concat([known, later])), "a")
    np.testing.assert_array_equal(before[:15], after[:15])


def test_an_order_of_nothing_counts_as_nothing(tmp_path: Path) -> None:
    known = many(np.random.default_rng(0), "a", 1, 0)
    found = prepared(tmp_path, pd.concat([known, orders([(19, "b", 7, 0.0)])]))
    assert usual_units(found, "a")[19] == 10
    assert build_panel(found).dense("units").sum() == 200
