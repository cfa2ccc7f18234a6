"""What was said of a product: only from the moment at which it was said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.rooms.content import Content
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.params import StateParams
from recsys.rooms.potential import Potential
from recsys.rooms.state import LiveState
from tests.rooms.conftest import us

NOON, EVENING = us("12:00:00"), us("18:00:00")


@pytest.fixture
def potential() -> Potential:
    noon, evening = ([0.1, np.nan], [0.2, 0.9])
    return Potential.of({EVENING: np.array(evening, np.float32), NOON: np.array(noon, np.float32)})


@pytest.mark.parametrize(
    ("time", "said"),
    [("11:59:59", None), ("12:00:00", [0.1, np.nan]), ("17:59:59", [0.1, np.nan]), ("18:00:00", [0.2, 0.9])],
)
def test_the_latest_that_was_said_is_seen(potential: Potential, time: str, said: Any) -> None:
    found = potential.at(us(time))
    if said is None:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(found, np.array(said, np.float32))


def test_later_words_are_added_in_time_order(potential: Potential) -> None:
    more = potential.and_later(us("15:00:00"), np.array([0.5, 0.5], np.float32))
    np.testing.assert_array_equal(more.from_us, [NOON, us("15:00:00"), EVENING])
    found = more.at(us("16:00:00"))
    assert found is not None
    np.testing.assert_array_equal(found, np.array([0.5, 0.5], np.float32))


@pytest.mark.parametrize(
    ("time", "seen"), [("11:00:00", [0, 0]), ("13:00:00", [0.1, 0]), ("19:00:00", [0.2, 0.9])]
)
def test_a_request_sees_what_was_said_of_the_product_on_air(
    potential: Potential, time: str, seen: list[float]
) -> None:
    state = LiveState(StateParams())
    for room in (0, 1):
        state.room_started(room, room, us("10:00:00"))
        state.on_air(room, room, us("10:00:00"))
    state.room_started(2, 2, us("10:00:00"))
    none = np.full(3, -1, dtype=np.int32)
    content = Content((), none, np.full(3, np.nan, np.float32), none, potential=potential)
    rows = state.rooms.rows(np.arange(3, dtype=np.int32))
    features = room_features(state, content, 0, rows, us(time))
    np.testing.assert_allclose(features[:, FEATURES.index("air_potential")], [*seen, 0], atol=1e-7)
