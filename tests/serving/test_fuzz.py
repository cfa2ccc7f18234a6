"""Whatever is asked and reported in process: an answer that holds its contract, or a typed error."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle import write_bundle
from recsys.errors import RecsysError
from recsys.types import Behaviour, Event
from serving.answer import Answer
from serving.recommender import Recommender
from tests.serving.conftest import AS_OF, CATEGORIES, N_ITEMS, load
from tests.serving.test_holds import sections

ITEMS = [f"i-{n:02d}" for n in range(N_ITEMS)]
#: Ids that the bundle knows beside any others: numbers of any size, and text that no encoding holds.
anything = st.text(max_size=6) | st.integers() | st.floats() | st.characters(categories=["Cs"])
items = st.sampled_from(ITEMS) | anything
users = st.integers(1000, 1031) | st.integers(1000, 1031).map(str) | anything
room_ids = st.sampled_from(["r-0", "r-1", "a", "b", 7]) | anything
good_ks = st.integers(1, 70)
ks = good_ks | good_ks | good_ks | st.integers() | st.sampled_from([True, 2.5, np.int32(3), 10**12])
good_moments = st.none() | st.floats(0, 2e9) | st.just(AS_OF.timestamp())
moments = good_moments | good_moments | st.floats() | st.integers()
zones = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
times = st.datetimes(timezones=zones) | st.just(AS_OF + timedelta(minutes=1))
numbers = st.none() | st.floats() | st.integers()
good_segments = st.lists(st.sampled_from(["minors", "guests"]), max_size=2)
segments = good_segments | good_segments | st.lists(st.text(max_size=3), max_size=2)
caps = st.none() | st.none() | st.integers(1, 5) | st.integers(-1, 5)
TRIES = settings(max_examples=300, deadline=None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "v1"
    return write_bundle(path, sections=sections(), config={}, metrics={}, model_version="v1")


@pytest.fixture(scope="module")
def recommender(bundle: Path) -> Recommender:
    return load(bundle)


def check(answer: Answer, k: int) -> None:
    assert len(answer) <= k
    assert len({str(id_) for id_ in answer.ids}) == len(answer)
    assert (answer.shortfall is None) == (len(answer) == k)
    assert all(math.isfinite(entry.score) for entry in answer)
    assert all(entry.reason and entry.source for entry in answer)


def is_whole(k: object) -> bool:
    return isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1


@TRIES
@given(
    user=users,
    k=ks,
    allow=st.none() | st.lists(items, max_size=8),
    deny=st.lists(items, max_size=8),
    category=st.none() | st.sampled_from(CATEGORIES) | st.text(max_size=3),
    price=st.none() | st.tuples(numbers, numbers),
    per_category=caps,
    per_brand=caps,
    diversity=st.just(0.0) | st.floats(0, 1) | st.floats(0, 1) | st.floats(),
    named=segments,
    personalised=st.booleans(),
    repeat=st.none() | st.booleans(),
    now=moments,
)
def test_products_hold_their_contract(recommender: Recommender, **asked: Any) -> None:
    k = asked["k"]
    try:
        answer = recommender.products(
            asked["user"],
            k=k,
            allow=asked["allow"],
            deny=asked["deny"],
            category=asked["category"],
            price=asked["price"],
            max_per_category=asked["per_category"],
            max_per_brand=asked["per_brand"],
            diversity=asked["diversity"],
            segments=asked["named"],
            personalised=asked["personalised"],
            repeat=asked["repeat"],
            now=asked["now"],
        )
    except RecsysError:
        return
    assert is_whole(k)
    check(answer, int(k))
    of = [int(str(id_)[2:]) for id_ in answer.ids]
    assert 59 not in of  # sold out
    assert not {str(id_) for id_ in asked["deny"]} & set(answer.ids)
    if asked["allow"] is not None:
        assert set(answer.ids) <= {str(id_) for id_ in asked["allow"]}
    if asked["category"] is not None:
        assert {CATEGORIES[n % 3] for n in of} <= {asked["category"]}
    if asked["price"] is not None:
        least, most = asked["price"]
        assert all(n % 5 and (least is None or 0.5 * n >= least) for n in of)
        assert all(most is None or 0.5 * n <= most for n in of)
    for cap, groups in ((asked["per_category"], 3), (asked["per_brand"], 4)):
        if cap is not None and of:
            assert max(np.bincount([n % groups for n in of])) <= cap
    if asked["diversity"] == 0.0:
        scores = [entry.score for entry in answer]
        assert scores == sorted(scores, reverse=True)
    if "minors" in asked["named"]:
        assert {CATEGORIES[n % 3] for n in of} <= {"tea", "dress"}


@TRIES
@given(item=items, k=ks, named=segments)
def test_lists_without_a_user_hold_their_contract(
    recommender: Recommender, item: Any, k: Any, named: list[str]
) -> None:
    for ask in (
        lambda: recommender.similar(item, k=k, segments=named),
        lambda: recommender.hot(k=k, segments=named),
    ):
        try:
            answer = ask()
        except RecsysError:
            continue
        assert is_whole(k)
        check(answer, int(k))
        assert item not in answer.ids or answer.entries[0].source == "hot"


reports = st.one_of(
    st.tuples(st.just("observe"), st.builds(
        Event,
        user_id=users,
        event=st.sampled_from(Behaviour) | st.text(max_size=4),
        timestamp=times,
        item_id=st.none() | items,
        room_id=st.none() | room_ids,
        streamer_id=st.none() | anything,
        duration_s=numbers,
    )),
    st.tuples(
        st.just("room_started"), room_ids, anything, st.none() | st.text(max_size=3), st.none() | times
    ),
    st.tuples(st.just("room_ended"), room_ids),
    st.tuples(st.just("on_air"), room_ids, items, st.none() | times),
    st.tuples(st.just("off_air"), room_ids, st.none() | times),
    st.tuples(st.just("stock_changed"), items, st.floats() | st.integers() | st.text(max_size=2)),
    st.tuples(st.just("item_listed"), items, st.booleans()),
    st.tuples(st.just("item_blocked"), items, st.booleans()),
    st.tuples(st.just("forget"), users),
)  # fmt: skip


def tell(recommender: Recommender, report: tuple[Any, ...]) -> None:
    name, *given_ = report
    if name == "room_started":
        recommender.room_started(given_[0], given_[1], category=given_[2], at=given_[3])
    elif name in ("on_air", "off_air"):
        getattr(recommender, name)(*given_[:-1], at=given_[-1])
    elif name in ("item_listed", "item_blocked"):
        getattr(recommender, name)(given_[0], **{name.removeprefix("item_"): given_[1]})
    else:
        getattr(recommender, name)(*given_)


@settings(max_examples=80, deadline=None)
@given(
    told=st.lists(reports, max_size=12),
    user=users,
    room=room_ids,
    k=ks,
    now=moments,
    per_streamer=caps,
    named=segments,
)
def test_after_any_reports_all_answers_hold_their_contract(
    bundle: Path, told: list[tuple[Any, ...]], user: Any, room: Any, k: Any, **asked: Any
) -> None:
    (bundle.parent / "forgotten.txt").unlink(missing_ok=True)
    recommender = load(bundle)
    for report in told:
        with suppress(RecsysError):
            tell(recommender, report)
    for ask in (
        lambda: recommender.rooms(
            user, k=k, now=asked["now"], max_per_streamer=asked["per_streamer"], segments=asked["named"]
        ),
        lambda: recommender.next_products(room, k=k, now=asked["now"]),
        lambda: recommender.products(user, k=k, now=asked["now"]),
    ):
        with suppress(RecsysError):
            check(ask(), int(k))
    assert recommender.products("someone else", k=3).version == "v1"
    recommender.swap(bundle)
    assert recommender.rooms("someone else", k=3).version == "v1"
