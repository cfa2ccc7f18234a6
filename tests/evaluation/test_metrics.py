"""Metrics against arithmetic that can be read."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.evaluation import metrics
from recsys.evaluation.bootstrap import bootstrap, paired_bootstrap
from recsys.types import Candidates

# Two users. The first is shown 4, 2, 0 and wants 2 and 5; the second is shown 1 alone and wants 1.
LISTS = Candidates(
    ids=np.array([[4, 2, 0], [1, 0, 0]], dtype=np.int32),
    scores=np.array([[3.0, 2.0, 1.0], [9.0, 0.0, 0.0]], dtype=np.float32),
    counts=np.array([3, 1], dtype=np.int32),
)
TRUTH = sparse.csr_matrix(np.array([[0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0]], dtype=np.float32))
N_RELEVANT = np.array([2, 1])


@pytest.fixture
def found():
    return metrics.hits(LISTS, TRUTH, k=3)


def test_hits_ignore_what_lies_beyond_the_count(found):
    assert found.tolist() == [[False, True, False], [True, False, False]]


def test_places_that_no_list_has_are_no_hits():
    assert metrics.hits(LISTS, TRUTH, k=5).shape == (2, 5)
    assert metrics.hits(LISTS, TRUTH, k=5).sum() == 2


def test_recall(found):
    assert metrics.recall(found, N_RELEVANT).tolist() == [1 / 2, 1 / 1]


def test_reciprocal_rank(found):
    assert metrics.reciprocal_rank(found).tolist() == [1 / 2, 1.0]


def test_hit_rate_of_a_user_without_hits():
    none = np.zeros((1, 3), dtype=bool)
    assert metrics.hit_rate(none).tolist() == [0.0]
    assert metrics.reciprocal_rank(none).tolist() == [0.0]


def test_ndcg(found):
    ideal_of_two = 1 / math.log2(2) + 1 / math.log2(3)
    expected = [1 / math.log2(3) / ideal_of_two, 1.0]
    assert metrics.ndcg(found, N_RELEVANT) == pytest.approx(expected)


def test_ndcg_is_one_for_a_list_full_of_hits_when_more_is_relevant_than_shown():
    assert metrics.ndcg(np.ones((1, 3), dtype=bool), np.array([7])).tolist() == pytest.approx([1.0])


def test_coverage_counts_what_is_shown():
    assert metrics.coverage(LISTS, 6, k=3) == 4 / 6  # 4, 2, 0 and 1
    assert metrics.coverage(LISTS, 6, k=1) == 2 / 6


def test_novelty():
    popularity = np.array([0, 1, 3, 0, 0, 0])  # smoothed by one: 1, 2, 4, 1, 1, 1 of 10
    expected = -(math.log2(1 / 10) + math.log2(4 / 10) + math.log2(1 / 10) + math.log2(2 / 10)) / 4
    assert metrics.novelty(LISTS, popularity, k=3) == pytest.approx(expected)


def test_head_share_has_a_head_of_at_least_one_target():
    assert metrics.head_share(LISTS, np.array([0, 1, 3, 0, 0, 0]), k=3) == 1 / 4


@given(st.lists(st.booleans(), min_size=3, max_size=12), st.integers(1, 20))
def test_every_metric_lies_between_zero_and_one(places, n_relevant):
    found = np.array([places])
    relevant = np.array([max(n_relevant, int(found.sum()))])
    for value in (
        metrics.recall(found, relevant),
        metrics.ndcg(found, relevant),
        metrics.reciprocal_rank(found),
        metrics.hit_rate(found),
    ):
        assert 0.0 <= value[0] <= 1.0


@given(st.permutations(list(range(6))))
def test_a_hit_moved_forward_never_lowers_ndcg(order):
    places = np.isin(order, [0, 1])[None, :]
    first_hit = int(places[0].argmax())
    if first_hit == 0:
        return
    better = places.copy()
    better[0, [first_hit - 1, first_hit]] = better[0, [first_hit, first_hit - 1]]
    assert metrics.ndcg(better, np.array([2]))[0] > metrics.ndcg(places, np.array([2]))[0]


def test_interval_holds_the_mean_and_narrows_with_more_users():
    rng = np.random.default_rng(0)
    few, many = bootstrap(rng.normal(1.0, 1.0, 50)), bootstrap(rng.normal(1.0, 1.0, 5000))
    assert few.lower < few.mean < few.upper
    assert many.upper - many.lower < few.upper - few.lower


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(0.0, 2.0, 4000)
    interval = bootstrap(values, samples=2000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.upper - interval.mean == pytest.approx(half, rel=0.1)


def test_paired_interval_sees_a_difference_that_the_single_ones_hide():
    rng = np.random.default_rng(2)
    b = rng.normal(0.0, 1.0, 500)
    a = b + rng.normal(0.05, 0.05, 500)
    assert bootstrap(a).lower < bootstrap(b).upper
    assert paired_bootstrap(a, b).lower > 0


def test_paired_values_must_be_of_the_same_users():
    with pytest.raises(ValueError, match="same users"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
