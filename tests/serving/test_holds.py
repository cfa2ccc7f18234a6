"""Users of a segment are shown its categories only, by whatever call and however they are known."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle import BundleRefused, Section
from recsys.data.dataset import Dataset
from recsys.errors import DataError
from recsys.held import Held, HoldParams, held_section
from recsys.types import Behaviour, Event
from serving.answer import RequestError
from serving.recommender import Recommender
from tests.serving.conftest import (
    AS_OF,
    CATEGORIES,
    N_ITEMS,
    N_USERS,
    MakeBundle,
    item_id,
    load,
    make_sections,
    user_id,
)
from tests.serving.test_rooms import sections_with_rooms
from training.holding import held_users

MINOR, GROWN, NOT_PERSONALISED = user_id(0), user_id(3), user_id(2)


def sections() -> dict[str, Section]:
    """Users 0 and 2 are minors, who are shown tea and dresses; `guests` are shown tea and phones."""
    flags = np.zeros((2, N_USERS), dtype=bool)
    flags[0, [0, 2]] = True
    held = Held({"minors": ("tea", "dress"), "guests": ("tea", "phone")}, flags)
    return {**sections_with_rooms(), "held": held_section(held)}


@pytest.fixture
def recommender(make_bundle: MakeBundle) -> Recommender:
    return load(make_bundle(sections=sections()))


def kinds(ids: list[object]) -> set[str]:
    return {CATEGORIES[int(str(id_)[2:]) % 3] for id_ in ids}


@pytest.mark.parametrize("user", [MINOR, str(MINOR), NOT_PERSONALISED])
def test_a_minor_by_the_log_sees_nothing_else(recommender: Recommender, user: object) -> None:
    assert kinds(recommender.products(user, k=N_ITEMS).ids) == {"tea", "dress"}
    for filters in (
        {"personalised": False},
        {"allow": [item_id(n) for n in range(N_ITEMS)]},
        {"diversity": 1.0, "max_per_category": 20},
        {"repeat": True},
    ):
        assert kinds(recommender.products(user, k=N_ITEMS, **filters).ids) <= {"tea", "dress"}
    phones = recommender.products(user, category="phone")
    assert phones.ids == []
    assert phones.shortfall == "no product is both available and allowed"
    assert kinds(recommender.products(GROWN, k=N_ITEMS).ids) == set(CATEGORIES)


def test_a_minor_by_the_request_sees_nothing_else(recommender: Recommender) -> None:
    for user in (GROWN, "a stranger"):
        assert kinds(recommender.products(user, k=N_ITEMS, segments=["minors"]).ids) == {"tea", "dress"}
    assert kinds(recommender.products(MINOR, k=N_ITEMS, segments="guests").ids) == {"tea"}  # what both allow
    assert kinds(recommender.hot(segments=["minors"]).ids) <= {"tea", "dress"}
    near_a_phone = recommender.similar(item_id(2), k=N_ITEMS, segments=["minors"])
    assert kinds(near_a_phone.ids) <= {"tea", "dress"}
    with pytest.raises(RequestError, match=r"'children' is not held.*minors, guests"):
        recommender.products(GROWN, segments=["minors", "children"])


def test_what_was_just_done_lets_nobody_out(recommender: Recommender) -> None:
    for minute in range(5):
        at = AS_OF + timedelta(minutes=minute)
        recommender.observe(Event(MINOR, Behaviour.VIEW, at, item_id=item_id(2 + 3 * minute)))
    assert kinds(recommender.products(MINOR, k=N_ITEMS).ids) == {"tea", "dress"}


def test_rooms_of_other_categories_or_with_such_products_are_not_shown(recommender: Recommender) -> None:
    recommender.room_ended("r-1")
    rooms = {
        "tea": ("tea", None),
        "tea with a dress": ("tea", item_id(0)),
        "tea with a phone": ("tea", item_id(2)),
        "no category": (None, None),
        "a dress": (None, item_id(3)),
        "a phone": (None, item_id(5)),
        "alcohol, which the log never had": ("alcohol", item_id(0)),
        "dance": ("dance", None),
    }
    for room, (category, item) in rooms.items():
        recommender.room_started(room, f"streamer of {room}", category=category)
        if item is not None:
            recommender.on_air(room, item)
    allowed = {"tea", "tea with a dress", "a dress"}
    answer = recommender.rooms(MINOR, k=10)
    assert set(answer.ids) == allowed
    assert answer.shortfall == "only 3 rooms are live and allowed"
    assert set(recommender.rooms("a stranger", k=10, segments=["minors"]).ids) == allowed
    assert len(recommender.rooms(MINOR, k=2, max_per_streamer=1)) == 2
    assert set(recommender.rooms(GROWN, k=10).ids) == set(rooms)
    recommender.on_air("tea", item_id(5))
    assert "tea" not in recommender.rooms(MINOR, k=10).ids
    recommender.swap(recommender.path)
    assert set(recommender.rooms(MINOR, k=10).ids) == allowed - {"tea"}


def test_a_bundle_without_segments_refuses_to_be_asked_by_one(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("v1", sections=sections()))
    recommender.swap(make_bundle("v2"))
    for call in (recommender.hot, lambda **segments: recommender.products(GROWN, **segments)):
        with pytest.raises(RequestError, match="minors"):
            call(segments=["minors"])


def test_members_that_do_not_fit_are_refused(make_bundle: MakeBundle) -> None:
    wrong = held_section(Held({"minors": ("tea",)}, np.zeros((1, N_USERS + 1), dtype=bool)))
    with pytest.raises(BundleRefused, match="members"):
        load(make_bundle(sections={**make_sections(), "held": wrong}))


def test_members_are_read_from_a_column_of_users(make_dataset, tmp_path: Path) -> None:
    at = AS_OF.isoformat()
    dataset: Dataset = make_dataset(
        [{"user_id": user, "event": "view", "timestamp": at, "item_id": "i"} for user in (1, 2, 3, 4)],
        users=[{"user_id": user, "age": age} for user, age in ((1, 12.0), (2, 17.0), (3, 40.0), (4, None))],
    )
    minors = HoldParams(column="age", values=(12, "17"), categories=("tea",))
    by_request = HoldParams(categories=("phone",))
    held = held_users(dataset, {"minors": minors, "guests": by_request})
    flags = {dataset.users.ids.one(n): held.members[:, n].tolist() for n in range(len(dataset.users))}
    assert flags == {1: [True, False], 2: [True, False], 3: [False, False], 4: [False, False]}
    with pytest.raises(DataError, match="'birthday'"):
        held_users(dataset, {"minors": minors.model_copy(update={"column": "birthday"})})
