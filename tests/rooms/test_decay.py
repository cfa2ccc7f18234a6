from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from recsys.rooms.decay import DecayedSums

SECOND = 1_000_000


def test_an_amount_halves_with_every_half_life() -> None:
    sums = DecayedSums(1, (10.0, 60.0), rows=1)
    sums.add(np.array([0]), 0, np.array([0], dtype=np.int64), 8.0)
    np.testing.assert_allclose(sums.read(slice(0, 1), 20 * SECOND)[0, 0], [8 / 4, 8 / 2 ** (20 / 60)])


def test_a_landmark_far_behind_loses_nothing_recent() -> None:
    sums = DecayedSums(1, (30.0,), rows=2)
    sums.add(np.array([0]), 0, np.array([0], dtype=np.int64))
    year = 365 * 86_400 * SECOND
    sums.add(np.array([1, 1]), 0, np.array([year, year - 30 * SECOND], dtype=np.int64))
    np.testing.assert_allclose(sums.read(slice(0, 2), year)[:, 0, 0], [0.0, 1.5], atol=1e-300)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=30), st.randoms())
@example(seconds=[58_103, 70_103], random=Random(0))
def test_the_order_of_adding_is_free(seconds: list[int], random: Random) -> None:
    now = 100_000 * SECOND
    at = np.array(seconds, dtype=np.int64) * SECOND
    together, apart = DecayedSums(1, (30.0, 3600.0), rows=1), DecayedSums(1, (30.0, 3600.0), rows=1)
    together.add(np.zeros(len(at), dtype=np.int64), 0, at)
    shuffled = at.copy()
    random.shuffle(shuffled)
    for moment in shuffled:
        apart.add(np.zeros(1, dtype=np.int64), 0, np.array([moment]))
    by_hand = np.exp2(-(now - at[:, None]) / SECOND / np.array([30.0, 3600.0])).sum(axis=0)
    # What is a thousand half-lives old is nothing, whatever is left of it in the last bits.
    np.testing.assert_allclose(together.read(slice(0, 1), now)[0, 0], by_hand, rtol=1e-9, atol=1e-100)
    np.testing.assert_allclose(apart.read(slice(0, 1), now)[0, 0], by_hand, rtol=1e-9, atol=1e-100)
