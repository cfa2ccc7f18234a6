"""What is on air when showcases overlap, have no end, or are of one product twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.rooms.showcases import NEVER_ENDS_US, air_changes

SHOWCASES = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 12),
        st.one_of(st.none(), st.integers(0, 16)),
    ),
    max_size=12,
)


def columns(showcases: list[tuple[int, int, int, int | None]]) -> tuple[np.ndarray, ...]:
    room, item, start, end = zip(*showcases, strict=True) if showcases else ((), (), (), ())
    ends = [NEVER_ENDS_US if moment is None else moment for moment in end]
    small, large = np.int32, np.int64
    return np.array(room, small), np.array(item, small), np.array(start, large), np.array(ends, large)


@given(SHOWCASES)
def test_of_the_products_begun_and_not_over_the_one_begun_last_is_on_air(
    showcases: list[tuple[int, int, int, int | None]],
) -> None:
    room, item, start_us, end_us = columns(showcases)
    changes = air_changes(room, item, start_us, end_us)
    for asked in range(3):
        for moment in range(18):
            running = (room == asked) & (start_us <= moment) & (end_us > moment)
            found = int(changes.at(np.array([asked], np.int32), np.array([moment]))[0])
            if not running.any():
                assert found == -1
            else:
                assert found in item[running & (start_us == start_us[running].max())]


@given(SHOWCASES)
def test_changes_are_in_time_order_and_ends_come_first(
    showcases: list[tuple[int, int, int, int | None]],
) -> None:
    changes = air_changes(*columns(showcases))
    order = np.lexsort((~changes.by_end, changes.at_us))
    np.testing.assert_array_equal(order, np.arange(len(changes)))


def test_what_outlasts_a_later_product_is_on_air_again() -> None:
    changes = air_changes(*columns([(0, 5, 0, 60), (0, 7, 10, 20)]))
    assert changes.at_us.tolist() == [0, 10, 20, 60]
    assert changes.item.tolist() == [5, 7, 5, -1]
    assert changes.since_us.tolist() == [0, 10, 0, 60]


def test_a_product_shown_twice_stays_until_its_second_time_is_over() -> None:
    changes = air_changes(*columns([(0, 5, 0, 20), (0, 5, 10, 40)]))
    assert changes.at_us.tolist() == [0, 10, 40]
    assert changes.item.tolist() == [5, 5, -1]
