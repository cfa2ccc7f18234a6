"""Training examples: what is predicted, and from what. The future must never be in a history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.training_examples import Ahead, ExampleSource, Timelines, Windows
from recsys.types import Behaviour, FloatArray, Target
from tests.models.conftest import BuildDataset

BUY, VIEW = Behaviour.PURCHASE, Behaviour.VIEW


def _timelines(times: list[list[int]]) -> Timelines:
    """Users whose event n of the whole has target n, at these times in seconds."""
    flat = [t for user in times for t in user]
    return Timelines(
        indptr=np.concatenate([[0], np.cumsum([len(user) for user in times])]).astype(np.int64),
        target_idx=np.arange(len(flat), dtype=np.int32),
        behaviour=np.full(len(flat), VIEW.code, dtype=np.int8),
        timestamp_us=np.array(flat, dtype=np.int64) * 1_000_000,
        weight=np.ones(len(flat), dtype=np.float32),
    )


def _examples(timelines: Timelines, windows: Windows) -> dict[int, list[int]]:
    """Target -> the history it is predicted from, over one pass in batches of about four."""
    source = ExampleSource(timelines, windows, torch.device("cpu"))
    found: dict[int, list[int]] = {}
    for chosen in windows.batches(batch_size=4, at_most=10**6, rng=np.random.default_rng(0)):
        batch = source.batch(chosen)
        for row, slot, target in zip(batch.row, batch.slot, batch.examples.target_idx.tolist(), strict=True):
            assert target not in found
            found[target] = batch.target_idx[row, batch.visible[row, slot]].tolist()
    return found


def test_examples_by_hand() -> None:
    # User 0: events 0, 1 and 2, the last two at one instant. User 1: event 3 alone.
    timelines = _timelines([[10, 20, 20], [5]])
    assert _examples(timelines, Windows.of(timelines, 5, from_nothing=False)) == {1: [0], 2: [0]}
    assert _examples(timelines, Windows.of(timelines, 5, from_nothing=True)) == {0: [], 1: [0], 2: [0], 3: []}


def test_ages_and_gaps_are_seconds() -> None:
    timelines = _timelines([[10, 25, 85]])
    windows = Windows.of(timelines, 5, from_nothing=False)
    batch = ExampleSource(timelines, windows, torch.device("cpu")).batch(np.array([0]))
    assert batch.gap_s[0].tolist() == [0.0, 15.0, 60.0]
    assert batch.age_s[0, 2].tolist() == [75.0, 60.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.lists(st.integers(0, 30), max_size=25).map(sorted), min_size=1, max_size=5),
    length=st.integers(1, 8),
)
def test_every_event_with_a_past_is_predicted_once_from_that_past_alone(
    times: list[list[int]], length: int
) -> None:
    timelines = _timelines(times)
    windows = Windows.of(timelines, length, from_nothing=False)
    found = _examples(timelines, windows)
    begin = 0
    for user in times:
        for place, moment in enumerate(user):
            past = [begin + n for n, t in enumerate(user) if t < moment]
            history = found.get(begin + place, [])
            assert history == past[len(past) - len(history) :] or set(history) <= set(past)
            assert len(history) <= length
            if len(set(user)) == len(user):  # no two at one instant: at least half a window is there
                assert len(history) >= min(len(past), length // 2)
        begin += len(user)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.lists(st.integers(0, 30), max_size=25).map(sorted), min_size=1, max_size=5),
    length=st.integers(1, 8),
    at=st.floats(0, 1, exclude_max=True, width=32),
)
def test_from_the_moment_of_a_window_all_that_is_left_of_it_is_predicted(
    times: list[list[int]], length: int, at: float
) -> None:
    timelines = _timelines(times)
    windows = Windows.of(timelines, length, from_nothing=False)
    by_event = ExampleSource(timelines, windows, torch.device("cpu"))
    source = ExampleSource(timelines, windows, torch.device("cpu"), "all")
    for one in range(len(windows)):
        own = np.array([one])
        each, batch = by_event.batch(own), source.batch(own, np.array([at], np.float32))
        first = int(np.float32(at) * len(each.event))
        assert batch.event.tolist() == each.event[first:].tolist()
        assert (len(batch.row), batch.slot.tolist(), batch.moment.unique().tolist()) == (1, [0], [0])
        torch.testing.assert_close(batch.age_s[0, 0], each.age_s[0, each.slot[first]])
        assert batch.visible[0, 0].tolist() == each.visible[0, each.slot[first]].tolist()
        assert (
            source.examples(own, np.array([at], np.float32)).target_idx.tolist()
            == each.examples.target_idx[first:].tolist()
        )


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.lists(st.integers(0, 30), max_size=25).map(sorted), min_size=1, max_size=5),
    length=st.integers(1, 8),
    from_nothing=st.booleans(),
    ahead=st.sampled_from(["next", "all", "whole"]),
)
def test_how_often_an_event_is_an_example_is_told(
    times: list[list[int]], length: int, from_nothing: bool, ahead: Ahead
) -> None:
    timelines = _timelines(times)
    timelines.weight[::4] = 0.0
    windows = Windows.of(timelines, length, from_nothing=from_nothing)
    source = ExampleSource(timelines, windows, torch.device("cpu"), ahead)
    drawn = np.zeros(len(timelines.weight))
    for window, m in enumerate(windows.n_examples.tolist()):
        moments: list[FloatArray | None] = [None]
        if ahead == "all":  # every one that the window may have, each as likely
            moments = [np.array([(n + 0.5) / m], np.float32) for n in range(m)]
        for at in moments:
            event = source.batch(np.array([window]), at).event
            drawn += np.bincount(event, minlength=len(drawn)) / len(moments)
    np.testing.assert_allclose(windows.draws(timelines, ahead), drawn, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.lists(st.integers(0, 30), max_size=25).map(sorted), min_size=1, max_size=5),
    length=st.integers(1, 8),
)
def test_as_a_whole_every_event_is_predicted_once_from_a_window_that_holds_it(
    times: list[list[int]], length: int
) -> None:
    timelines = _timelines(times)
    windows = Windows.of(timelines, length, from_nothing=True)
    source = ExampleSource(timelines, windows, torch.device("cpu"), "whole")
    found: list[int] = []
    for one in range(len(windows)):
        batch = source.batch(np.array([one]))
        seen = list(range(windows.start[one], windows.end[one]))
        assert batch.target_idx[0, batch.visible[0, 0]].tolist() == seen
        assert batch.age_s[0, 0, len(seen) - 1] == 0
        assert (len(batch.row), batch.slot.tolist(), batch.moment.unique().tolist()) == (1, [0], [0])
        assert set(batch.event.tolist()) <= set(seen)
        assert batch.examples.target_idx.tolist() == timelines.target_idx[batch.event.numpy()].tolist()
        found += batch.event.tolist()
    # What happened at the instant of a later window's first event may be in no window: it has no history.
    whole = [n for n in range(len(timelines.target_idx)) if n not in found]
    assert len(set(found)) == len(found)
    assert not whole or any(len(set(user)) < len(user) for user in times)


def test_events_without_weight_are_history_but_no_examples(build_dataset: BuildDataset) -> None:
    dataset = build_dataset(
        [(0, 0, VIEW, 1), (0, 1, BUY, 2), (0, 0, BUY, 3), (0, 2, Behaviour.IMPRESSION, 4)]
    )
    weight = np.ones(4, dtype=np.float32)
    bought = Timelines.of(dataset.events, weight, n_users=1, target=Target.ITEM, predicted=(BUY,))
    assert bought.target_idx.tolist() == [0, 1, 0]
    assert bought.weight.tolist() == [0, 1, 1]
    new = Timelines.of(dataset.events, weight, n_users=1, target=Target.ITEM, repeats=False)
    assert new.weight.tolist() == [1, 1, 0]


def test_a_pass_takes_every_window_once_in_batches_of_the_size_asked() -> None:
    rng = np.random.default_rng(2)
    timelines = _timelines([sorted(rng.integers(0, 10**6, n).tolist()) for n in rng.integers(2, 12, 300)])
    windows = Windows.of(timelines, 20, from_nothing=False)
    parts = list(windows.batches(batch_size=50, at_most=10**6, rng=np.random.default_rng(0)))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(windows)))
    assert max(windows.n_examples[part].sum() for part in parts) < 50 + windows.n_examples.max()


def test_a_pass_can_be_cut_short() -> None:
    timelines = _timelines([[0, 1, 2, 3, 4]] * 100)
    windows = Windows.of(timelines, 20, from_nothing=False)
    parts = list(windows.batches(batch_size=40, at_most=100, rng=np.random.default_rng(0)))
    assert sum(windows.n_examples[part].sum() for part in parts) == pytest.approx(100, abs=4)
