"""The Dataset as of a moment: what happens later changes nothing, and arrays say what the log says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recsys.data.behaviours import BehaviourWeights, returned_share
from recsys.data.dataset import Dataset, to_us
from recsys.data.prepare import prepare
from recsys.data.split import SplitParams, split_by_time
from recsys.errors import DataError
from recsys.types import Behaviour, Target
from tests.conftest import write_logs

CUT = datetime(2024, 3, 10, tzinfo=UTC)
PLAIN = BehaviourWeights(half_life_days=None)
AUTO = BehaviourWeights(half_life_days="auto")


def at(days=0.0, **over):
    return {"user_id": 1, "event": "view", "timestamp": CUT + timedelta(days=days), "item_id": 10} | over


PAST = {
    "events": [
        at(-5, user_id="b", item_id="z", duration_s=60.0),
        at(-4, user_id="a", item_id="y", room_id="r1"),
        at(-0.001, user_id="a", item_id="z", duration_s=3600.0),  # is still being watched at the cut
    ],
    "items": [
        {"item_id": "y", "category": "c", "listed_at": CUT - timedelta(days=30)},
        {"item_id": "z", "category": "c", "listed_at": CUT - timedelta(days=20)},
    ],
    "rooms": [
        {
            "room_id": "r1",
            "streamer_id": "s",
            "started_at": CUT - timedelta(days=4, hours=1),
            "ended_at": CUT + timedelta(1),
        }
    ],
    "showcases": [{"room_id": "r1", "item_id": "y", "started_at": CUT - timedelta(days=4), "ended_at": CUT}],
    "promotions": [
        {
            "item_id": "y",
            "started_at": CUT + timedelta(days=3),
            "ended_at": CUT + timedelta(days=4),
            "announced_at": CUT - timedelta(days=1),
        }
    ],
}
# Everything below happens, or becomes known, at the cut or later. Ids that sort before all others are there.
FUTURE = {
    "events": [
        at(0, user_id="0", item_id="0"),
        at(0, user_id="a", event="purchase", item_id="z", quantity=3.0),
        at(1, user_id="b", event="refund", item_id="z"),
        at(2, user_id="b", item_id="y", room_id="r0"),
    ],
    "items": [{"item_id": "0", "category": "new", "listed_at": CUT}],
    "rooms": [{"room_id": "r0", "streamer_id": "0", "started_at": CUT, "ended_at": None}],
    "showcases": [{"room_id": "r1", "item_id": "0", "started_at": CUT, "ended_at": None}],
    "promotions": [
        {
            "item_id": "z",
            "started_at": CUT + timedelta(days=3),
            "ended_at": CUT + timedelta(days=4),
            "announced_at": CUT,
        }
    ],
}


@pytest.fixture(scope="module")
def as_of_cut(tmp_path_factory):
    """The same moment, seen from a log that ends there and from one that goes on."""
    root = tmp_path_factory.mktemp("as_of")
    longer = {name: PAST[name] + FUTURE[name] for name in PAST}
    prepare(write_logs(root / "short", **PAST), root / "short_set")
    prepare(write_logs(root / "long", **longer), root / "long_set")
    return tuple(Dataset.load(root / name, as_of=CUT) for name in ("short_set", "long_set"))


def test_no_array_changes_when_the_future_is_appended(as_of_cut):
    short, long = as_of_cut
    for name in vars(short.events):
        np.testing.assert_array_equal(getattr(short.events, name), getattr(long.events, name), err_msg=name)
    for kind in ("users", "items", "rooms", "streamers"):
        a, b = getattr(short, kind), getattr(long, kind)
        assert a.ids.keys.to_pylist() == b.ids.keys.to_pylist(), kind
        assert a.table.to_pylist() == b.table.to_pylist(), kind
    assert short.showcases.to_pylist() == long.showcases.to_pylist()
    assert short.promotions.to_pylist() == long.promotions.to_pylist()


def test_no_relation_changes_when_the_future_is_appended(as_of_cut):
    short, long = as_of_cut
    for name in ("events", "users", "items", "rooms", "streamers", "showcases", "promotions"):
        rows = [dataset.relation(name).to_pyarrow().to_pylist() for dataset in as_of_cut]
        assert sorted(map(str, rows[0])) == sorted(map(str, rows[1])), name
    assert short.interactions(Target.ITEM, PLAIN).toarray().tolist() == (
        long.interactions(Target.ITEM, PLAIN).toarray().tolist()
    )


def test_what_is_not_over_at_the_cut_is_not_known(as_of_cut):
    for dataset in as_of_cut:
        assert np.isnan(dataset.events.duration_s).tolist() == [False, True, True]
        assert dataset.rooms.column("ended_at").to_pylist() == [None]
        assert dataset.showcases["ended_at"].to_pylist() == [None]
        assert len(dataset.promotions) == 1  # announced before the cut, though it starts after it


def test_prepare_until_equals_a_later_look_back(tmp_path):
    longer = {name: PAST[name] + FUTURE[name] for name in PAST}
    prepare(write_logs(tmp_path / "logs", **longer), tmp_path / "until", until=CUT)
    prepare(tmp_path / "logs", tmp_path / "whole")
    until, whole = Dataset.load(tmp_path / "until"), Dataset.load(tmp_path / "whole", as_of=CUT)
    assert until.as_of == CUT
    assert until.users.ids.keys.to_pylist() == whole.users.ids.keys.to_pylist()
    assert until.items.ids.keys.to_pylist() == whole.items.ids.keys.to_pylist()
    np.testing.assert_array_equal(until.events.item_idx, whole.events.item_idx)


def test_nothing_is_known_before_the_first_event(as_of_cut):
    with pytest.raises(DataError, match="choose a later moment"):
        as_of_cut[0].until(to_us(CUT - timedelta(days=6)))


def test_interactions_add_up_the_weights(make_dataset):
    dataset = make_dataset(
        [
            at(0),
            at(1),
            at(2, event="cart"),
            at(3, event="impression"),
            at(3, user_id=2, item_id=11, event="like"),
        ]
    )
    matrix = dataset.interactions(Target.ITEM, PLAIN).toarray()
    users, items = dataset.users.ids, dataset.items.ids
    assert matrix[users.get(1), items.get(10)] == 1 + 1 + 4
    assert matrix[users.get(2), items.get(11)] == 2
    assert matrix.sum() == 8


def test_an_event_of_one_half_life_ago_counts_half(make_dataset):
    dataset = make_dataset([at(0), at(30)])
    weights = BehaviourWeights(half_life_days=30.0)
    # The last event happened a microsecond before the Dataset's moment.
    assert weights.of(dataset.events, dataset.as_of_us).tolist() == pytest.approx([0.5, 1.0])


def test_the_half_life_left_to_the_log_is_a_sixth_of_its_length(make_dataset):
    dataset = make_dataset([at(0), at(45), at(90)])
    weights = dataset.settle(AUTO)
    assert weights.half_life_days == pytest.approx(15.0)
    assert weights.of(dataset.events, dataset.as_of_us).tolist() == pytest.approx([1 / 64, 1 / 8, 1.0])
    assert dataset.settle(BehaviourWeights(half_life_days=7.0)).half_life_days == 7.0
    assert dataset.settle(PLAIN).half_life_days is None
    interactions = dataset.interactions(Target.ITEM, AUTO)
    assert interactions.sum() == pytest.approx(1 / 64 + 1 / 8 + 1.0)
    with pytest.raises(ValueError, match="must be settled by a log"):
        AUTO.of(dataset.events, dataset.as_of_us)


def test_a_log_of_one_moment_has_a_half_life(make_dataset):
    dataset = make_dataset([at(0)])
    assert dataset.interactions(Target.ITEM, AUTO).sum() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("seconds", "factor"), [(0, 0.0), (60, 1.0), (180, 2.0), (80_000, 3.0)])
def test_dwell_scales_a_view(make_dataset, seconds, factor):
    dataset = make_dataset([at(0, duration_s=float(seconds))])
    assert PLAIN.of(dataset.events, dataset.as_of_us).tolist() == pytest.approx([factor])


def test_what_was_bought_in_no_units_is_taken_back_whole(make_dataset):
    rows = [("purchase", 0, 0), ("purchase", 1, 2), ("refund", 2, 1), ("purchase", 3, 0), ("refund", 4, 1)]
    events = [
        {
            "user_id": "u",
            "item_id": "i",
            "event": name,
            "timestamp": f"2024-01-01T0{hour}:00:00",
            "quantity": units,
        }
        for name, hour, units in rows
    ]
    assert returned_share(make_dataset(events).events).tolist() == [0.0, 0.5, 0.0, 1.0, 0.0]


def test_a_refund_takes_back_the_latest_purchases_unit_by_unit(make_dataset):
    dataset = make_dataset(
        [
            at(0, event="purchase", quantity=2.0),
            at(1, event="purchase", quantity=4.0),
            at(2, event="refund", quantity=5.0),
            at(3, event="purchase", quantity=1.0),
            at(4, event="refund", item_id=11),  # of something never bought
        ]
    )
    assert returned_share(dataset.events).tolist() == [0.5, 1.0, 0.0, 0.0, 0.0]
    assert PLAIN.of(dataset.events, dataset.as_of_us).tolist() == [2.5, 0.0, 0.0, 5.0, 0.0]


def test_histories_are_in_order_and_end_where_asked(make_dataset):
    dataset = make_dataset(
        [at(2, item_id=12), at(0), at(1, item_id=11), at(0, user_id=2), at(3, event="impression")]
    )
    histories = dataset.histories(Target.ITEM)
    items, users = dataset.items.ids, dataset.users.ids
    user = np.array([users.get(1)], dtype=np.int32)
    batch = histories.last(user, 2)
    assert batch.target_idx.tolist() == [[items.get(11), items.get(12)]]
    assert batch.mask.all()
    earlier = histories.last(user, 2, ends=histories.indptr[user] + 1)
    assert earlier.mask.tolist() == [[False, True]]
    assert earlier.target_idx[0, 1] == items.get(10)
    assert (histories.behaviour != Behaviour.IMPRESSION.code).all()


def test_windows_do_not_touch_and_end_with_the_log(make_dataset):
    dataset = make_dataset([at(day) for day in range(100)])
    split = split_by_time(dataset, SplitParams(test_days=10, validation_days=5, gap_hours=12))
    day = 86_400_000_000
    assert split.test.end_us == dataset.events.timestamp_us[-1] + 1
    assert split.test.start_us - split.test.fit_end_us == day // 2
    assert split.validation.end_us == split.test.fit_end_us
    assert split.validation.end_us - split.validation.start_us == 5 * day
    assert split.validation.start_us - split.validation.fit_end_us == day // 2


def test_windows_longer_than_the_log_are_refused(make_dataset):
    dataset = make_dataset([at(day) for day in range(10)])
    with pytest.raises(DataError, match=r"spans 9\.00 days.*test_days"):
        split_by_time(dataset, SplitParams(test_days=8))
