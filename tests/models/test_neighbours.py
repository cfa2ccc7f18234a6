"""Item-to-item lists and returns: by hand, and the numpy half against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.histories import HistoryBatch
from recsys.models.history_models import (
    CoVisitation,
    CoVisitationParams,
    Repeat,
    RepeatParams,
    count_pairs,
    neighbour_lists,
)
from recsys.models.neighbours import RecencyParams
from recsys.models.ragged import Ragged
from recsys.models.repeat import Touches
from recsys.types import Behaviour, Target
from tests.models.conftest import START_US, BuildDataset

BUY, VIEW, CART = Behaviour.PURCHASE, Behaviour.VIEW, Behaviour.CART
HOUR_US = 3_600_000_000
HOUR = 1 / 24


def test_pairs_weigh_order_gap_and_steps_by_hand(build_dataset: BuildDataset) -> None:
    # One user: item 0, an hour later item 1, two hours after that item 2.
    dataset = build_dataset(
        [(0, 0, VIEW, 1.0), (0, 1, CART, 1.0 + HOUR), (0, 2, VIEW, 1.0 + 3 * HOUR)], n_items=4
    )
    params = CoVisitationParams(gap_half_life_hours=1.0, backward=0.5, intent={VIEW: 1.0, CART: 3.0})
    pairs = count_pairs(
        dataset.histories(Target.ITEM), dataset.as_of_us, 4, params, half_life_days=1e9
    ).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1], expected[1, 0] = 0.5 * 3, 0.5 * 0.5 * 1
    expected[1, 2], expected[2, 1] = 0.25 * 1, 0.5 * 0.25 * 3
    expected[0, 2], expected[2, 0] = 0.125 / 2, 0.5 * 0.125 / 2
    np.testing.assert_allclose(pairs, expected, rtol=1e-5)


def test_pairs_too_far_apart_or_of_two_users_do_not_count(build_dataset: BuildDataset) -> None:
    dataset = build_dataset([(0, 0, VIEW, 1.0), (0, 1, VIEW, 3.0), (1, 2, VIEW, 3.0)], n_items=3)
    params = CoVisitationParams(max_gap_hours=24.0)
    assert (
        count_pairs(dataset.histories(Target.ITEM), dataset.as_of_us, 3, params, half_life_days=1e9).nnz == 0
    )


def test_lists_are_the_best_of_each_row_without_the_diagonal() -> None:
    matrix = sparse.csr_matrix(np.array([[9, 1, 3], [2, 9, 0], [4, 4, 9]], dtype=np.float32))
    lists = neighbour_lists(matrix, k=1, recency=RecencyParams())
    np.testing.assert_array_equal(lists.indptr, [0, 1, 2, 3])
    np.testing.assert_array_equal(lists.ids, [2, 0, 0])
    np.testing.assert_array_equal(lists.scores, [3, 2, 4])


def test_recency_weighs_age_order_and_intent_by_hand() -> None:
    at_us = START_US
    batch = HistoryBatch(
        target_idx=np.array([[0, 5, 6]], np.int32),
        behaviour=np.array([[0, VIEW.code, CART.code]], np.int8),
        timestamp_us=np.array([[0, at_us - 100 * 24 * HOUR_US, at_us - 12 * HOUR_US]]),
        mask=np.array([[False, True, True]]),
    )
    params = RecencyParams(half_life_hours=12.0, step=0.5, floor=0.1, intent={VIEW: 1.0, CART: 3.0})
    np.testing.assert_allclose(
        params.weights(batch, np.array([at_us])), [[0, 1 * 0.1 * 0.5, 3 * 0.5]], rtol=1e-6
    )
    latest = RecencyParams(length=1, half_life_hours=12.0, intent={VIEW: 1.0, CART: 3.0})
    np.testing.assert_allclose(latest.weights(batch, np.array([at_us])), [[0, 0, 1.5]], rtol=1e-6)


@pytest.fixture(scope="module")
def log(build_dataset: BuildDataset) -> Dataset:
    rng = np.random.default_rng(4)
    kinds = [VIEW, CART, BUY]
    rows = [
        (int(u), int(i), kinds[int(b)], float(d))
        for u, i, b, d in zip(
            rng.integers(0, 25, 500),
            rng.integers(0, 15, 500),
            rng.integers(0, 3, 500),
            rng.random(500) * 29,
            strict=True,
        )
    ]
    return build_dataset(rows, n_users=26, n_items=15)


def test_neighbours_score_as_a_plain_loop_does(log: Dataset) -> None:
    model = CoVisitation(CoVisitationParams(recency=RecencyParams(length=8))).fit(log)
    lists = model.scorer
    users = np.array([3, 25, 11], dtype=np.int32)
    batch = model.histories.last(users, 8)
    at_us = np.full(3, log.as_of_us)
    weights = lists.recency.weights(batch, at_us)
    expected = np.zeros((3, 15))
    for b in range(3):
        for column in np.flatnonzero(batch.mask[b]):
            item = batch.target_idx[b, column]
            for place in range(lists.indptr[item], lists.indptr[item + 1]):
                expected[b, lists.ids[place]] += weights[b, column] * lists.scores[place]
    found = lists.score(batch, at_us)
    dense = np.zeros((3, 15))
    dense[found.row, found.ids] = found.scores
    np.testing.assert_allclose(dense, expected, rtol=1e-5)
    assert not dense[1].any(), "user 25 has no history"


def test_touches_count_as_a_plain_loop_does(log: Dataset) -> None:
    histories = log.histories(Target.ITEM)
    users = np.arange(26, dtype=np.int32)
    batch = histories.last(users, 200)
    touches = Touches.of(batch, np.full(26, log.as_of_us), n_targets=15)
    stage = {VIEW.code: 0, CART.code: 2, BUY.code: 3}
    events = log.events
    assert len(touches.key) == len({*zip(events.user_idx.tolist(), events.item_idx.tolist(), strict=True)})
    for pair in range(len(touches.key)):
        mine = (events.user_idx == touches.row[pair]) & (events.item_idx == touches.ids[pair])
        for code, column in stage.items():
            at = events.timestamp_us[mine & (events.behaviour == code)]
            assert touches.counts[pair, column] == len(at)
            hours = (log.as_of_us - at.max()) / HOUR_US if len(at) else np.inf
            assert touches.hours[pair, column] == pytest.approx(hours)


def test_what_is_come_back_to_scores_higher(build_dataset: BuildDataset) -> None:
    """Carts are bought the next day; views never lead anywhere. Item 1 is bought again, item 0 is not."""
    rows = []
    for user in range(40):
        day = 2.0 + user % 26
        rows += [(user, 2, CART, day), (user, 2, BUY, day + 1), (user, 3, VIEW, day)]
    rows += [(40, 2, CART, 29.5), (40, 3, VIEW, 29.6)]
    model = Repeat(RepeatParams(horizon_share=0.05, origins=15)).fit(
        build_dataset(rows, n_users=41, n_items=4)
    )
    ids, scores = model.recommend(np.array([40], np.int32), k=4).row(0)
    np.testing.assert_array_equal(ids, [2, 3])
    assert scores[0] > 3 * scores[1]


def test_ragged_top_breaks_ties_by_id() -> None:
    found = Ragged.summed(
        np.array([1, 0, 0, 1, 0]),
        np.array([4, 2, 1, 4, 3], np.int32),
        np.array([1.0, 5, 5, 1, 9]),
        n_rows=3,
        n_targets=5,
    )
    best = found.top(2)
    np.testing.assert_array_equal(best.counts, [2, 1, 0])
    np.testing.assert_array_equal(best.row(0)[0], [3, 1])
    np.testing.assert_array_equal(best.row(1)[0], [4])
    np.testing.assert_array_equal(best.row(1)[1], [2.0])
