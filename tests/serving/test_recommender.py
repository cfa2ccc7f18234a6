"""Answers: what comes back, for whom, and that what is gone is gone from the very next one."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from recsys.bundle import Section
from recsys.index import IndexParams
from recsys.types import Behaviour, Event, ExternalId
from serving.answer import NotServed, RequestError
from serving.recommender import Recommender
from serving.state import Facts
from tests.serving.conftest import (
    AS_OF,
    CLOCK_S,
    N_ITEMS,
    MakeBundle,
    item_id,
    item_vectors,
    load,
    make_sections,
    user_id,
)

KNOWN = user_id(0)
DRESSES = {item_id(i) for i in range(0, N_ITEMS, 3)}


def event(
    user: ExternalId,
    item: ExternalId | None,
    behaviour: Behaviour = Behaviour.VIEW,
    *,
    after: timedelta = timedelta(hours=1),
) -> Event:
    return Event(user_id=user, event=behaviour, timestamp=AS_OF + after, item_id=item)


# -- products -----------------------------------------------------------------------------------------------


def test_a_known_user_gets_a_personal_answer(recommender: Recommender) -> None:
    answer = recommender.products(KNOWN, k=5)

    assert answer.version == "v1"
    assert answer.fallback is None
    assert answer.shortfall is None
    assert len(answer) == 5
    assert set(answer.ids) <= DRESSES  # all that the user ever did was with dresses
    scores = [entry.score for entry in answer]
    assert scores == sorted(scores, reverse=True)
    assert {entry.source for entry in answer} <= {"two_tower", "co_visitation", "repeat", "popular"}
    assert all(entry.reason for entry in answer)


def test_ids_come_back_as_the_log_spelled_them(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle())
    assert all(isinstance(entry, str) for entry in recommender.products(KNOWN).ids)
    assert recommender.products(str(KNOWN)).ids == recommender.products(KNOWN).ids
    assert recommender.products(float(KNOWN)).ids == recommender.products(KNOWN).ids


@pytest.mark.parametrize("stranger", ["nobody", -1, 10**30, "", "0" + str(KNOWN), 1000.5, "客人"])
def test_an_unknown_user_gets_the_labelled_fallback(recommender: Recommender, stranger: ExternalId) -> None:
    answer = recommender.products(stranger, k=4)
    assert answer.fallback == "popular: unknown user"
    assert answer.ids == [item_id(i) for i in range(4)]
    assert {entry.source for entry in answer} == {"popular"}


def test_a_known_user_of_whom_nothing_is_known_gets_it_too(recommender: Recommender) -> None:
    answer = recommender.products(user_id(1), k=4)
    assert answer.fallback == "popular: nothing is known of the user"
    assert answer.ids == [item_id(i) for i in range(4)]


def test_no_personalisation_by_request_or_by_user(recommender: Recommender) -> None:
    popular = recommender.products("nobody", k=10).ids
    by_request = recommender.products(KNOWN, k=10, personalised=False)
    assert by_request.fallback == "popular: asked for without personalisation"
    assert by_request.ids == popular
    opted_out = user_id(2)
    for _ in range(2):
        answer = recommender.products(opted_out, k=10)
        assert answer.fallback == "popular: the user has opted out"
        assert answer.ids == popular
        recommender.observe(event(opted_out, item_id(5)))


def test_k_over_the_catalogue_gives_what_there_is_and_says_why(recommender: Recommender) -> None:
    for user in (KNOWN, "nobody"):
        answer = recommender.products(user, k=10**9)
        assert sorted(map(str, answer.ids)) == [item_id(i) for i in range(N_ITEMS - 1)]  # 59 is sold out
        assert answer.shortfall == "only 59 products are both available and allowed"
        scores = [entry.score for entry in answer]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_an_error(recommender: Recommender, k: int) -> None:
    for ask in (recommender.products, recommender.similar):
        with pytest.raises(RequestError, match=f"k={k}"):
            ask(KNOWN, k=k)
    with pytest.raises(RequestError, match=f"k={k}"):
        recommender.hot(k=k)


def test_everything_filtered_gives_an_empty_answer_that_says_so(recommender: Recommender) -> None:
    for answer in (
        recommender.products(KNOWN, allow=[]),
        recommender.products(KNOWN, allow=["none such"]),
        recommender.products("nobody", category="none such"),
        recommender.products(KNOWN, deny=[item_id(i) for i in range(N_ITEMS)]),
    ):
        assert answer.ids == []
        assert answer.shortfall == "no product is both available and allowed"


def test_an_empty_catalogue_answers_with_nothing(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle(n_items=0))
    assert recommender.products(KNOWN).ids == []
    assert recommender.products("nobody").shortfall == "no product is both available and allowed"
    assert recommender.hot().ids == []
    assert recommender.similar("i-00").ids == []


def test_lists_and_categories_limit_the_answer(recommender: Recommender) -> None:
    allow = [item_id(i) for i in (1, 2, 4, 6)]
    assert set(recommender.products(KNOWN, allow=[*allow, "none such"]).ids) == set(allow)
    assert set(recommender.products(KNOWN, allow=allow, deny=[item_id(4), "none such"]).ids) == {
        item_id(i) for i in (1, 2, 6)
    }
    tea = recommender.products(KNOWN, k=100, category="tea")
    assert set(tea.ids) == {item_id(i) for i in range(1, N_ITEMS, 3)}


def test_what_one_request_leaves_out_of_a_category_or_price_is_there_for_the_next(
    recommender: Recommender,
) -> None:
    tea = recommender.products(KNOWN, k=100, category="tea", price=(1.0, 20.0))
    assert len(tea) > 3
    for denied in tea.ids[:3]:
        left = recommender.products(KNOWN, k=100, category="tea", price=(1.0, 20.0), deny=[denied])
        assert set(left.ids) == set(tea.ids) - {denied}
    assert recommender.products(KNOWN, k=100, category="tea", price=(1.0, 20.0)) == tea


def test_consumed_products_return_only_where_they_may(make_bundle: MakeBundle) -> None:
    bought = item_id(6)
    for returns in (True, False):
        recommender = load(make_bundle(f"returns_{returns}", returns=returns))
        assert (bought in recommender.products(KNOWN, k=N_ITEMS).ids) == returns
        assert bought in recommender.products(KNOWN, k=N_ITEMS, repeat=True).ids
        assert bought not in recommender.products(KNOWN, k=N_ITEMS, repeat=False).ids
        recommender.observe(event(KNOWN, item_id(9), Behaviour.PURCHASE))
        assert item_id(9) not in recommender.products(KNOWN, k=N_ITEMS, repeat=False).ids


def test_who_has_consumed_all_that_can_be_had_sees_it_again_rather_than_nothing(
    make_bundle: MakeBundle,
) -> None:
    recommender = load(make_bundle("no_returns", returns=False))
    own = [item_id(6), item_id(9)]
    recommender.observe(event(KNOWN, own[1], Behaviour.PURCHASE))
    for item in set(map(item_id, range(N_ITEMS))) - set(own):
        recommender.stock_changed(item, 0)
    assert set(recommender.products(KNOWN, k=5).ids) == set(own)
    assert len(recommender.products(KNOWN, k=5, repeat=False)) == 0
    recommender.observe(event(KNOWN, own[1], Behaviour.HIDE))
    assert recommender.products(KNOWN, k=5).ids == [own[0]]


def test_a_hidden_product_never_comes_back(recommender: Recommender) -> None:
    hidden = recommender.products(KNOWN, k=1).ids[0]
    recommender.observe(event(KNOWN, hidden, Behaviour.HIDE))
    assert hidden not in recommender.products(KNOWN, k=N_ITEMS, repeat=True).ids
    assert hidden in recommender.products(user_id(5), k=N_ITEMS).ids


def test_inverted_lists_answer_as_the_exact_index_does(make_bundle: MakeBundle) -> None:
    exact = load(make_bundle("exact")).products(KNOWN, k=10)
    lists = load(make_bundle("lists", index=IndexParams(exact_up_to=0, recall=1.0))).products(KNOWN, k=10)
    assert lists.ids == exact.ids


def test_one_source_alone_needs_no_combiner(make_bundle: MakeBundle) -> None:
    sections = make_sections()
    alone = {name: sections[name] for name in ("core", "popular")}
    answer = load(make_bundle("alone", sections=alone)).products(KNOWN, k=5)
    vectors = item_vectors(0)
    scores = vectors @ vectors[[0, 3, 6, 6]].mean(axis=0)
    scores[59] = -np.inf
    assert answer.ids == [item_id(i) for i in np.argsort(-scores)[:5]]
    assert {entry.source for entry in answer} == {"two_tower"}
    popular = load(make_bundle("popular", sections={**alone, "core": without_vectors()}))
    assert popular.products(KNOWN, k=2).fallback == "popular: nothing is known of the user"


def without_vectors() -> Section:
    core = make_sections()["core"]
    arrays = {
        name: array
        for name, array in core.arrays.items()
        if name not in ("item_vectors", "user_vectors", "user_profiles")
    }
    return Section(arrays, core.tables, {}, {**core.meta, "vectors": None}, core.may_be_nan)


# -- fresh events -------------------------------------------------------------------------------------------


def test_the_next_answer_knows_what_a_stranger_has_just_done(recommender: Recommender) -> None:
    assert recommender.products("new", k=3).fallback == "popular: unknown user"
    recommender.observe(event("new", item_id(1)))
    recommender.observe(event("new", item_id(4)))
    answer = recommender.products("new", k=5)
    assert answer.fallback is None
    assert set(answer.ids) <= {item_id(i) for i in range(1, N_ITEMS, 3)}  # all tea


def test_observing_moves_the_vector_of_a_known_user(recommender: Recommender) -> None:
    before = recommender.products(KNOWN, k=10).ids
    for n in range(12):
        recommender.observe(event(KNOWN, item_id(1 + 3 * n), after=timedelta(minutes=n)))
    after = recommender.products(KNOWN, k=10).ids
    assert set(before) <= DRESSES
    assert not set(after) <= DRESSES


def test_events_may_come_twice_late_and_in_any_order(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    events = [event("new", item_id(7 * n % N_ITEMS), after=timedelta(minutes=n)) for n in range(8)]
    in_order, shuffled = load(path), load(path)
    for one in events:
        in_order.observe(one)
    for place in np.random.default_rng(3).permutation(np.repeat(np.arange(8), 3)):
        shuffled.observe(events[int(place)])
    assert shuffled.products("new") == in_order.products("new")
    assert shuffled.counts["repeated_event"] == 16


def test_what_the_bundle_knows_already_changes_nothing(recommender: Recommender) -> None:
    before = recommender.products(KNOWN)
    recommender.observe(event(KNOWN, item_id(0), after=-timedelta(hours=4)))  # the user's first action
    assert recommender.products(KNOWN) == before


def test_events_of_no_use_are_counted_and_change_nothing(recommender: Recommender) -> None:
    before = recommender.products(KNOWN)
    recommender.observe(event(KNOWN, "none such"))
    recommender.observe(event(KNOWN, None, Behaviour.FOLLOW))
    recommender.observe(event(KNOWN, item_id(1), Behaviour.IMPRESSION))
    recommender.observe(event(KNOWN, item_id(1), after=timedelta(days=400)))
    assert [entry.id for entry in recommender.products(KNOWN)] == [entry.id for entry in before]
    assert (recommender.counts["unknown_item"], recommender.counts["future_event"]) == (1, 1)
    assert recommender.counts["observed"] == 4


def test_a_time_without_a_zone_is_utc(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    aware, naive = load(path), load(path)
    aware.observe(event("new", item_id(1)))
    naive.observe(Event("new", Behaviour.VIEW, datetime(2026, 3, 1, 1), item_id(1)))
    assert naive.products("new") == aware.products("new")


# -- hot and similar ----------------------------------------------------------------------------------------


def test_hot_items_come_with_interval_and_grade(recommender: Recommender) -> None:
    answer = recommender.hot(k=10)
    assert answer.ids == [item_id(7), item_id(12), item_id(3)]  # 59 is sold out
    assert answer.entries[0].facts["grade"] == "S"
    assert answer.entries[0].reason == "carts rise"
    assert answer.shortfall is not None
    recommender.stock_changed(item_id(7), 0)
    assert recommender.hot(k=1).ids == [item_id(12)]


def test_a_bundle_without_a_hot_list_says_so(make_bundle: MakeBundle) -> None:
    sections = make_sections()
    del sections["hot"]
    with pytest.raises(NotServed, match="has no hot list"):
        load(make_bundle(sections=sections)).hot()


def test_similar_products_are_of_the_same_kind_and_not_the_product_itself(recommender: Recommender) -> None:
    answer = recommender.similar(item_id(3), k=5)
    assert answer.fallback is None
    assert set(answer.ids) <= DRESSES - {item_id(3)}
    gone = answer.ids[0]
    recommender.item_blocked(gone)
    assert gone not in recommender.similar(item_id(3), k=5).ids
    assert recommender.similar("none such", k=3).fallback == "popular: unknown item"


# -- forgetting ---------------------------------------------------------------------------------------------


def test_a_forgotten_user_is_a_stranger_at_once_and_after_a_reload(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = make_bundle()
    recommender = load(path)
    recommender.observe(event(KNOWN, item_id(1)))
    recommender.forget(KNOWN)
    for serving in (recommender, load(path)):
        assert serving.products(KNOWN).fallback == "popular: unknown user"
        serving.observe(event(KNOWN, item_id(1)))
        assert serving.products(KNOWN).fallback == "popular: unknown user"
        assert serving.products(user_id(5)).fallback is None
    listed = (path.parent / "forgotten.txt").read_text()
    assert str(KNOWN) not in listed.split()
    assert len(listed.splitlines()) == 1


def test_another_process_that_forgets_is_heard(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    one, other = load(path), load(path)
    one.forget(KNOWN)
    assert other.products(KNOWN).fallback is None
    other.reread_forgotten()
    assert other.products(KNOWN).fallback == "popular: unknown user"


# -- what is gone is gone -----------------------------------------------------------------------------------


class Shop(RuleBasedStateMachine):
    """Stock, listing and blocking change in any order; no answer ever shows what cannot be had."""

    path: Path
    items = st.integers(0, N_ITEMS - 1).map(item_id)

    @initialize()
    def opens(self) -> None:
        self.recommender = load(self.path)
        self.units: dict[str, float] = {item_id(59): 0.0}
        self.unlisted: set[str] = set()
        self.blocked: set[str] = set()

    @rule(item=items, units=st.sampled_from([-1.0, 0.0, 1.0, 7.5]))
    def stock(self, item: str, units: float) -> None:
        self.recommender.stock_changed(item, units)
        self.units[item] = units

    @rule(item=items, listed=st.booleans())
    def lists(self, item: str, listed: bool) -> None:
        self.recommender.item_listed(item, listed=listed)
        (self.unlisted.discard if listed else self.unlisted.add)(item)

    @rule(item=items, blocked=st.booleans())
    def blocks(self, item: str, blocked: bool) -> None:
        self.recommender.item_blocked(item, blocked=blocked)
        (self.blocked.add if blocked else self.blocked.discard)(item)

    @rule()
    def swaps(self) -> None:
        self.recommender.swap(self.path)

    @rule()
    def reports_on_an_unknown_product(self) -> None:
        self.recommender.stock_changed("none such", 3)

    @invariant()
    def only_what_can_be_had(self) -> None:
        gone = {item for item, units in self.units.items() if units <= 0} | self.unlisted | self.blocked
        for user in (KNOWN, "nobody"):
            shown = set(self.recommender.products(user, k=N_ITEMS).ids)
            assert shown == {item_id(i) for i in range(N_ITEMS)} - gone
        assert not gone & set(self.recommender.hot(k=10).ids)
        assert not gone & set(self.recommender.similar(item_id(0), k=N_ITEMS).ids)


def test_what_is_gone_is_gone_from_the_very_next_answer(make_bundle: MakeBundle) -> None:
    Shop.path = make_bundle()
    run_state_machine_as_test(
        Shop,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_reports_on_products_of_the_next_bundle_are_kept_for_it(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("small", n_items=30))
    recommender.stock_changed(item_id(40), 0)
    recommender.swap(make_bundle("large"))
    shown = recommender.products("nobody", k=N_ITEMS).ids
    assert item_id(41) in shown
    assert item_id(40) not in shown


def test_the_moment_of_asking_may_be_given(recommender: Recommender) -> None:
    now = recommender.products(KNOWN, now=AS_OF.timestamp())
    assert now == recommender.products(KNOWN)
    assert recommender.products(KNOWN, now=CLOCK_S + 90 * 86_400).ids


def test_reports_on_products_that_no_bundle_knows_are_bounded(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("v1", n_items=50))
    recommender._facts = Facts(max_unknown=5)
    for item in (1, 51, 52, 53):  # 51 and above are of the next bundle only
        recommender.stock_changed(item_id(item), 0)
    recommender.swap(make_bundle("v2"))
    for n in range(40):
        recommender.item_blocked(f"never heard of {n}")
    assert len(list(recommender._facts)) == 4 + 5
    for _ in range(2):
        shown = recommender.products("nobody", k=N_ITEMS).ids
        assert len(shown) == N_ITEMS - 5  # and 59, which the catalogue calls sold out
        assert not {item_id(item) for item in (1, 51, 52, 53)} & set(shown)
        recommender.swap(recommender.path)
