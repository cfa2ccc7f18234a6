"""What a visit came to: read off the log as of its end, learnt beside entering, and weighed in the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.rooms.examples import NO_ACTION_DAYS, RoomExamples
from recsys.rooms.features import FEATURES
from recsys.rooms.network import TARGETS, RoomNetwork, TargetWeights
from recsys.rooms.network_training import Attributes, NetworkParams, fit_network
from recsys.rooms.outcomes import outcomes
from recsys.rooms.params import StateParams
from recsys.types import Behaviour
from tests.rooms.conftest import batch, us

WAIT_S = 1_800.0
VIEWS, LEAVES = StateParams(), StateParams(length="leave")


def test_length_is_known_only_of_views_that_are_over() -> None:
    events = batch(
        (Behaviour.VIEW, us("10:00:00"), {"user": 0, "room": 0, "duration_s": 60.0}),
        (Behaviour.VIEW, us("10:00:00"), {"user": 1, "room": 1, "duration_s": 180.0}),
        (Behaviour.VIEW, us("10:58:00"), {"user": 0, "room": 1, "duration_s": 600.0}),
        (Behaviour.ENTER, us("10:59:00"), {"user": 1, "room": 0}),
    )
    found = outcomes(events, np.arange(4), VIEWS, us("11:00:00"), WAIT_S)
    np.testing.assert_array_equal(found.dwell_s, [60.0, 180.0, np.nan, np.nan])
    # The median of what is known is 120 s.
    np.testing.assert_allclose(found.stayed, [60 / 180, 180 / 300, np.nan, np.nan])


def test_where_views_have_no_length_leaving_tells_it() -> None:
    events = batch(
        (Behaviour.ENTER, us("10:00:00"), {"user": 0, "room": 0}),
        (Behaviour.ENTER, us("10:00:00"), {"user": 1, "room": 0}),
        (Behaviour.LEAVE, us("10:01:00"), {"user": 0, "room": 1}),
        (Behaviour.LEAVE, us("10:05:00"), {"user": 0, "room": 0}),
        (Behaviour.ENTER, us("10:10:00"), {"user": 0, "room": 0}),
        (Behaviour.ENTER, us("10:20:00"), {"user": 0, "room": 0}),
        (Behaviour.LEAVE, us("10:21:00"), {"user": 0, "room": 0}),
    )
    found = outcomes(events, np.array([0, 1, 4, 5]), LEAVES, us("11:00:00"), WAIT_S)
    # Left; never left; come again before leaving; left.
    np.testing.assert_array_equal(found.dwell_s, [300.0, np.nan, np.nan, 60.0])


def test_a_purchase_counts_for_the_visit_that_it_came_of() -> None:
    events = batch(
        (Behaviour.PURCHASE, us("09:59:00"), {"user": 0, "room": 0, "item": 0}),
        (Behaviour.ENTER, us("10:00:00"), {"user": 0, "room": 0}),
        (Behaviour.ENTER, us("10:01:00"), {"user": 1, "room": 0}),
        (Behaviour.ENTER, us("10:05:00"), {"user": 0, "room": 1}),
        (Behaviour.PURCHASE, us("10:30:00"), {"user": 1, "room": 0, "item": 0}),
        (Behaviour.PURCHASE, us("10:36:00"), {"user": 0, "room": 1, "item": 0}),
        (Behaviour.PURCHASE, us("10:40:00"), {"user": 1, "item": 0}),
    )
    found = outcomes(events, np.array([1, 2, 3]), VIEWS, us("12:00:00"), WAIT_S)
    # Bought before it, bought within the half hour, bought a minute too late.
    np.testing.assert_array_equal(found.bought, [0.0, 1.0, 0.0])


def test_a_purchase_that_may_still_come_is_unknown() -> None:
    events = batch(
        (Behaviour.ENTER, us("10:00:00"), {"user": 0, "room": 0}),
        (Behaviour.ENTER, us("10:40:00"), {"user": 0, "room": 1}),
        (Behaviour.ENTER, us("10:50:00"), {"user": 1, "room": 1}),
        (Behaviour.PURCHASE, us("10:51:00"), {"user": 1, "room": 1, "item": 0}),
    )
    found = outcomes(events, np.array([0, 1, 2]), VIEWS, us("11:00:00"), WAIT_S)
    # Known of the last half hour are only those who did buy: a label of them alone would be always 1.
    np.testing.assert_array_equal(found.bought, [0.0, np.nan, np.nan])


def test_a_log_without_views_or_sales_has_no_outcome() -> None:
    events = batch((Behaviour.ENTER, us("10:00:00"), {"user": 0, "room": 0}))
    found = outcomes(events, np.array([0]), VIEWS, us("12:00:00"), WAIT_S)
    assert np.isnan(found.dwell_s).all()
    assert np.isnan(found.stayed).all()
    np.testing.assert_array_equal(found.bought, [0.0])


ENTICING, LASTING = FEATURES.index("room_viewers"), FEATURES.index("streamer_mean_dwell")


@pytest.fixture(scope="module")
def network() -> RoomNetwork:
    """Fitted where one feature says which room is entered and another how long one stays; nobody buys."""
    rng = np.random.default_rng(0)
    n, places = 1_500, 4
    features = np.zeros((n, places, len(FEATURES)), dtype=np.float32)
    features[..., [ENTICING, LASTING]] = rng.normal(size=(n, places, 2))
    entered = (2 * features[..., ENTICING] + rng.gumbel(size=(n, places))).argmax(axis=1)
    features = features[np.arange(n)[:, None], (entered[:, None] + np.arange(places)) % places]
    none = np.full((n, places), -1, dtype=np.int32)
    examples = RoomExamples(
        at_us=np.arange(n, dtype=np.int64),
        user_idx=np.zeros(n, dtype=np.int32),
        weight=np.ones(n, dtype=np.float32),
        stayed=(1 / (1 + np.exp(-2 * features[:, 0, LASTING]))).astype(np.float32),
        bought=np.full(n, np.nan, dtype=np.float32),
        mask=np.ones((n, places), dtype=bool),
        features=features,
        streamer_idx=none,
        item_idx=none,
        read_streamer=none,
        read_item=none,
        read_behaviour=np.zeros((n, places), dtype=np.int8),
        read_age_days=np.full((n, places), NO_ACTION_DAYS, dtype=np.float32),
    )
    constant = np.ones((1, 1), dtype=np.float32)
    params = NetworkParams(dimensions=2, hidden=8, epochs=10, batch=32)
    return fit_network(examples, Attributes(constant, constant, constant), params).network


def _rooms(*values: tuple[float, float]) -> np.ndarray:
    features = np.zeros((len(values), len(FEATURES)), dtype=np.float32)
    features[:, [ENTICING, LASTING]] = values
    return features


def test_the_network_tells_entering_from_staying(network: RoomNetwork) -> None:
    enticing, lasting = network.logits(_rooms((1.0, -1.0), (-1.0, 1.0)))
    enter, stay = TARGETS.index("enter"), TARGETS.index("stay")
    assert enticing[enter] > lasting[enter] + 1
    assert lasting[stay] > enticing[stay] + 1


@pytest.mark.parametrize(("stay", "best"), [(0.0, 0), (1.0, 0), (20.0, 1)])
def test_the_configured_weights_decide_between_them(network: RoomNetwork, stay: float, best: int) -> None:
    weighed = replace(network, weights=TargetWeights(stay=stay, buy=0.0).to_array())
    assert weighed.scores(_rooms((1.0, -1.0), (-1.0, 1.0))).argmax() == best


def test_the_score_is_the_weighted_product_of_the_chances(network: RoomNetwork) -> None:
    features = _rooms((0.3, -0.2), (-1.5, 2.0))
    weighed = replace(network, weights=TargetWeights(enter=0.7, stay=0.4, buy=0.2).to_array())
    logits = network.logits(features).astype(float)
    chances = 1 / (1 + np.exp(-logits[:, 1:]))
    wanted = 0.7 * logits[:, 0] + 0.4 * np.log(chances[:, 0]) + 0.2 * np.log(chances[:, 1])
    np.testing.assert_allclose(weighed.scores(features), wanted, rtol=1e-5)


def test_weights_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="all 0"):
        TargetWeights(enter=0.0, stay=0.0, buy=0.0)
    with pytest.raises(ValueError, match="finite"):
        TargetWeights(buy=float("inf"))


def test_a_target_that_the_log_tells_nothing_of_does_not_count(network: RoomNetwork) -> None:
    assert network.weights[TARGETS.index("stay")] == np.float32(TargetWeights().stay)
    assert network.weights[TARGETS.index("buy")] == 0.0  # nobody bought
