"""New items are told what the older items most like them did at their age, and nothing that came later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from recsys.hot.forerunners import FORERUNNERS, at_the_same_age, first_days, forerunners
from recsys.hot.panel import Panel, Promotions
from recsys.hot.params import TargetParams
from recsys.hot.trust import Trust
from recsys.hot.windows import Samples
from tests.hot.conftest import whole_days

TARGET = TargetParams()  # days 7 to 15


def panel_of(rows: list[tuple[int, int, float]], *, n_items: int, n_days: int) -> Panel:
    """A panel of (item, day, demand)."""
    item, day, demand = (np.array(column) for column in zip(*sorted(rows), strict=True))
    item, day, demand = item.astype(np.int32), day.astype(np.int32), demand.astype(np.float32)
    none = np.zeros(0, np.int32)
    nothing = np.zeros(0, np.float32)
    return Panel(
        days=whole_days(n_days),
        n_items=n_items,
        item_idx=item,
        day=day,
        channels={"demand": demand},
        promotions=Promotions(none, none, none, none, nothing, nothing, none, ()),
        trust=Trust(item, day, {}, n_days),
        listed_day=np.full(n_items, -1, np.int32),
    )


def groups(codes: list[int]) -> sparse.csr_matrix:
    n = len(codes)
    return sparse.csr_matrix((np.ones(n, np.float32), (range(n), codes)), shape=(n, max(codes) + 1))


def test_the_first_day_of_what_was_there_from_the_start_is_unknown() -> None:
    panel = panel_of([(0, 3, 1), (1, 20, 1), (1, 30, 2)], n_items=3, n_days=60)
    assert first_days(panel)[:2].tolist() == [-1, 20]


def test_the_most_alike_of_the_same_category_come_first_and_none_too_young() -> None:
    born = np.array([20, 22, 24, 26, 50, 50], np.int32)
    kinds = {"category": groups([0, 0, 0, 1, 0, 1]), "brand": groups([0, 1, 0, 0, 1, 0])}
    found = forerunners(np.array([4, 5], np.int32), born, kinds, older_by=16)
    assert found.shape == (2, FORERUNNERS)
    assert found[0, :4].tolist() == [1, 2, 0, -1]  # the brand, then the later born
    assert found[1, :2].tolist() == [3, -1]
    nearer = forerunners(np.array([4], np.int32), born, kinds, older_by=27)
    assert nearer[0, :3].tolist() == [1, 0, -1]


def test_what_a_forerunner_did_at_the_same_age_by_hand() -> None:
    # Item 0 lives from day 20 and sells 8 on day 34, its day 14; item 1 lives from day 50.
    panel = panel_of([(0, 20, 1), (0, 34, 8), (1, 50, 1), (1, 53, 2)], n_items=2, n_days=60)
    at = Samples(np.array([1, 0], np.int32), np.array([55, 55], np.int32))
    found = at_the_same_age(panel, TARGET, at, {})
    # At age 5 the horizon of item 0 was its days 12 to 20.
    np.testing.assert_allclose(found["forerunners_ahead"], [np.log1p(8), np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["over_forerunners"], [np.log(4 / 2), np.nan], rtol=1e-6)


def test_a_listed_product_without_any_event_is_told_by_its_forerunners() -> None:
    panel = panel_of([(0, 20, 1), (0, 34, 8)], n_items=2, n_days=60)
    panel = replace(panel, listed_day=np.array([-1, 50], np.int32))
    assert first_days(panel).tolist() == [20, 50]
    found = at_the_same_age(panel, TARGET, Samples(np.array([1], np.int32), np.array([55], np.int32)), {})
    np.testing.assert_allclose(found["forerunners_ahead"], [np.log1p(8)], rtol=1e-6)


@pytest.mark.parametrize("origin", [50, 58])
def test_what_comes_at_or_after_the_origin_changes_nothing(origin: int) -> None:
    rng = np.random.default_rng(0)
    cells = zip(rng.integers(0, 30, 400), rng.integers(14, 90, 400), strict=True)
    rows = {(int(item), int(day)): 1.0 for item, day in cells}
    past = [(item, day, value) for (item, day), value in rows.items() if day < origin]
    every = [(item, day, value) for (item, day), value in rows.items()]
    items = np.unique([item for item, _, _ in past]).astype(np.int32)
    at = Samples(items, np.full(len(items), origin, np.int32))
    kinds = {"category": groups([item % 3 for item in range(30)])}
    before = at_the_same_age(panel_of(past, n_items=30, n_days=origin), TARGET, at, kinds)
    after = at_the_same_age(panel_of(every, n_items=30, n_days=90), TARGET, at, kinds)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_a_shop_without_new_items_has_no_such_features() -> None:
    panel = panel_of([(0, 1, 1), (1, 2, 1)], n_items=2, n_days=60)
    at = Samples(np.array([0, 1], np.int32), np.array([60, 60], np.int32))
    assert at_the_same_age(panel, TARGET, at, {}) == {}
