"""Replay answers with what was known then, and nothing of what came later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.dataset import Dataset
from recsys.data.ids import IdMap
from recsys.errors import DataError
from recsys.rooms.catalogue import content_of, state_params_of
from recsys.rooms.log_feed import LogFeed
from recsys.rooms.memory import PairCounter
from recsys.rooms.params import StateParams
from recsys.rooms.replay import KnownIds, Replay, moments_us, replay
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.state import LiveState
from recsys.types import Behaviour
from tests.rooms.conftest import Rows, us

Make = Callable[..., Dataset]


def ask(dataset: Dataset, *requests: tuple[str, str], k: int = 10) -> list[list[str]]:
    scorer = RoomScorer(state_params_of(dataset), content_of(dataset))
    moments = [datetime.fromisoformat(f"2026-03-02T{at}") for _, at in requests]
    table = pa.table({"user_id": [user for user, _ in requests], "at": pa.array(moments, pa.timestamp("us"))})
    answers: list[list[str]] = [[] for _ in requests]
    asked = list(zip(table["user_id"].to_pylist(), moments, strict=True))
    for row in replay(scorer, dataset, table, k=k).to_pylist():
        answers[asked.index((row["user_id"], row["at"]))].append(row["room_id"])
        assert row["rank"] == len(answers[asked.index((row["user_id"], row["at"]))])
    return answers


def test_a_known_streamer_comes_first_and_every_live_room_is_ranked(
    make_dataset: Make, evening: dict[str, Rows]
) -> None:
    dataset = Dataset.whole(make_dataset(**evening).path)
    ann, ben, new = ask(dataset, ("ann", "20:09:00"), ("ben", "20:09:00"), ("zoe", "20:30:00"))
    assert ann[0] == "r4"
    assert ben[0] == "r5"
    assert sorted(ann) == ["r3", "r4", "r5"]
    # Nobody knows Zoe: what is busy now, and the empty room last.
    assert new == ["r5", "r4", "r3"]


def test_a_room_is_answered_from_its_start_until_its_end_is_reached(
    make_dataset: Make, evening: dict[str, Rows]
) -> None:
    dataset = Dataset.whole(make_dataset(**evening).path)
    before, first, last, after, nothing = ask(
        dataset,
        ("ann", "19:59:59"),
        ("ann", "20:00:00"),
        ("ann", "20:59:59"),
        ("ann", "21:00:00"),
        ("ann", "22:00:00"),
    )
    assert before == []
    assert sorted(first) == ["r3", "r4", "r5"]
    assert sorted(last) == ["r3", "r4", "r5"]
    assert after == ["r5"]
    assert nothing == []


def test_only_events_strictly_before_the_request_are_known(
    make_dataset: Make, evening: dict[str, Rows]
) -> None:
    dataset = Dataset.whole(make_dataset(**evening).path)
    at_the_moment, just_after = ask(dataset, ("zoe", "20:10:00"), ("zoe", "20:10:01"))
    assert at_the_moment[0] == "r3"  # all are empty: the lowest index
    assert just_after[0] == "r4"


def test_what_happens_later_changes_no_answer(make_dataset: Make, evening: dict[str, Rows]) -> None:
    requests = [("ann", "20:09:00"), ("ben", "20:12:00"), ("ann", "20:25:00")]
    dataset = Dataset.whole(make_dataset(**evening).path)
    scorer = RoomScorer(state_params_of(dataset), content_of(dataset))
    future = [
        {"user_id": "ann", "event": "enter", "timestamp": "2026-03-02T20:25:00", "room_id": "r3"},
        {"user_id": "new", "event": "enter", "timestamp": "2026-03-02T20:40:00", "room_id": "r9"},
        {
            "user_id": "ann",
            "event": "view",
            "timestamp": "2026-03-02T20:40:00",
            "room_id": "r3",
            "duration_s": 900.0,
        },
    ]
    later = Dataset.whole(make_dataset(**{**evening, "events": [*evening["events"], *future]}).path)
    moments = [datetime.fromisoformat(f"2026-03-02T{at}") for _, at in requests]
    table = pa.table({"user_id": [user for user, _ in requests], "at": pa.array(moments, pa.timestamp("us"))})
    ids = KnownIds(dataset.users.ids, dataset.items.ids, dataset.streamers.ids)
    before = replay(scorer, dataset, table, k=3)
    assert before.num_rows == 9
    assert replay(scorer, later, table, k=3, ids=ids).equals(before)


def test_a_user_is_known_by_the_scorer_or_by_the_log(make_dataset: Make, evening: dict[str, Rows]) -> None:
    dataset = Dataset.whole(make_dataset(**evening).path)
    scorer = RoomScorer(state_params_of(dataset), content_of(dataset))
    known = IdMap(pa.array(["ben", "of last year"]), pa.string())
    ids = KnownIds(known, dataset.items.ids, dataset.streamers.ids)
    found = Replay(scorer, dataset, ids).users(pa.array(["ann", "ben", "of last year", "nobody"]))
    assert found[0] >= len(known)  # of the log alone: numbered behind those of the scorer
    assert found[1:].tolist() == [0, 1, -1]


def test_answers_keep_the_order_and_spelling_of_the_requests(
    make_dataset: Make, evening: dict[str, Rows]
) -> None:
    dataset = Dataset.whole(make_dataset(**evening).path)
    scorer = RoomScorer(state_params_of(dataset), content_of(dataset))
    table = pa.table({"user_id": ["ben", "ann"], "at": ["2026-03-02T20:30:00Z", "2026-03-02T20:05:00+00:00"]})
    answer = replay(scorer, dataset, table, k=1)
    assert answer.column_names == ["user_id", "at", "room_id", "rank", "score"]
    assert answer["user_id"].to_pylist() == ["ben", "ann"]
    assert answer["at"].to_pylist() == table["at"].to_pylist()
    assert answer["rank"].to_pylist() == [1, 1]


def test_moments_are_read_in_every_usual_spelling() -> None:
    moment = us("10:00:00")
    aware = pa.array([datetime.fromisoformat("2026-03-02T10:00:00+00:00")], pa.timestamp("ms", tz="UTC"))
    for column in (
        aware,
        pa.array([datetime.fromisoformat("2026-03-02T10:00:00")], pa.timestamp("ns")),
        pa.array(["2026-03-02 10:00:00"]),
        pa.array(["2026-03-02T18:00:00+08:00"]),
        pa.array(["2026-03-02 10:00:00 UTC"]),
        pa.array([str(moment // 1_000_000)]),
        pa.array([moment // 1_000_000]),
        pa.array([moment // 1_000]),
        pa.array([moment]),
        pa.array([moment * 1_000]),
        pa.array([moment / 1_000_000]),
        pa.array([moment / 1_000]),
    ):
        assert moments_us(column).tolist() == [moment]


def test_requests_that_break_the_contract_are_refused(make_dataset: Make, evening: dict[str, Rows]) -> None:
    dataset = Dataset.whole(make_dataset(**evening).path)
    scorer = RoomScorer(state_params_of(dataset), content_of(dataset))
    good = pa.table({"user_id": ["ann"], "at": ["2026-03-02T20:30:00"]})
    with pytest.raises(DataError, match="'at' is missing"):
        replay(scorer, dataset, good.drop_columns(["at"]), k=3)
    with pytest.raises(DataError, match="no time"):
        replay(scorer, dataset, good.set_column(1, "at", [["soon"]]), k=3)
    with pytest.raises(DataError, match="empty in 1 rows"):
        replay(scorer, dataset, good.set_column(1, "at", [pa.array([None], pa.string())]), k=3)
    with pytest.raises(DataError, match="k=0"):
        replay(scorer, dataset, good, k=0)


def test_what_counts_as_a_visit_is_read_off_the_log(make_dataset: Make, evening: dict[str, Rows]) -> None:
    params = state_params_of(make_dataset(**evening))
    assert (params.visit, params.leave, params.length) == (Behaviour.ENTER, None, "view")
    untimed = [{key: row[key] for key in row if key != "duration_s"} for row in evening["events"]]
    left = [row | {"event": "leave"} for row in untimed if row["event"] == "view"]
    params = state_params_of(make_dataset(**(evening | {"events": [*untimed, *left]})))
    assert (params.leave, params.length) == (Behaviour.LEAVE, "leave")


def test_a_long_jump_forgets_no_view(make_dataset: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that were over long before the moment asked for do not take the places of later ones."""
    start = datetime(2026, 3, 2, 10)
    views = [
        {
            "user_id": f"u{n % 7}",
            "event": "view",
            "timestamp": (start + timedelta(seconds=30 * n)).isoformat(),
            "room_id": "r",
            "streamer_id": "s",
            "duration_s": 20.0,
        }
        for n in range(200)
    ]
    dataset = Dataset.whole(make_dataset(events=views).path)
    monkeypatch.setattr("recsys.rooms.log_feed._CHUNK", 4)
    dwell = []
    for steps in (1, 50):
        state, feed = LiveState(StateParams(visit=Behaviour.VIEW, max_watching=8)), LogFeed(dataset, {})
        end_us = us("13:00:00")
        for moment in np.linspace(us("10:00:00"), end_us, steps + 1)[1:].astype(np.int64):
            feed.advance(state, int(moment))
        rows = np.concatenate([state.pairs.of_user(user)[1] for user in range(7)])
        dwell.append(float(state.pairs.sums.read(rows, end_us)[:, PairCounter.DWELL_S, -1].sum()))
    assert dwell[0] == pytest.approx(dwell[1])
    assert dwell[0] > 0.9 * 200 * 20
