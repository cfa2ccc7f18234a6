"""Rankings of rooms over a window: one visit of each user, all live rooms, nothing known that came later."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from recsys.data.dataset import Dataset, to_us
from recsys.data.prepare import prepare
from recsys.data.split import Window
from recsys.errors import DataError
from recsys.rooms.baselines import PopularNow, VisitCount
from recsys.rooms.catalogue import content_of, state_params_of
from recsys.rooms.judging import JudgedRooms, judge_rooms
from tests.conftest import write_logs

DAY = datetime(2026, 3, 2)
N_DAYS = 6


def hour(day: int, hours: float) -> str:
    return (DAY + timedelta(days=day, hours=hours)).isoformat()


def platform(*, last_day: list[dict] | None = None) -> dict[str, list[dict]]:
    """Every evening three rooms; Ann visits s1 and Ben s2, at 20:30; Cat comes on the last day, to s3."""
    rooms, events = [], []
    for day in range(N_DAYS):
        for streamer in ("s1", "s2", "s3"):
            span = {"started_at": hour(day, 20), "ended_at": hour(day, 22)}
            rooms.append({"room_id": f"{streamer} day {day}", "streamer_id": streamer, **span})
        for user, streamer in (("ann", "s1"), ("ben", "s2")):
            events.append(visit(user, streamer, day, 20.5))
    events.append(visit("cat", "s3", N_DAYS - 1, 20.75))
    return {"rooms": rooms, "events": events + (last_day or [])}


def visit(user: str, streamer: str, day: int, hours: float) -> dict:
    return {
        "user_id": user,
        "event": "enter",
        "timestamp": hour(day, hours),
        "room_id": f"{streamer} day {day}",
        "streamer_id": streamer,
    }


def loaded(folder, tables) -> Dataset:
    prepare(write_logs(folder / "logs", **tables), folder / "dataset")
    return Dataset.load(folder / "dataset")


def judged(dataset: Dataset, *, end: str = hour(N_DAYS, 0), **options) -> JudgedRooms:
    cut = to_us(datetime.fromisoformat(hour(N_DAYS - 1, 0)))
    window = Window(cut, cut, to_us(datetime.fromisoformat(end)))
    state_params, content = state_params_of(dataset), content_of(dataset.until(cut))
    rankers = {"visits": VisitCount(state_params, content), "popular": PopularNow(state_params, content)}
    return judge_rooms(rankers, dataset, window, max_visits=100, ks=(1, 3), **options)


def test_each_user_is_judged_once_among_the_rooms_live_at_the_visit(tmp_path):
    found = judged(loaded(tmp_path, platform()))
    assert found.n_live.tolist() == [3, 3, 3]
    assert found.at_us.tolist() == sorted(found.at_us.tolist())
    # Ann's and Ben's streamers are known by their visits; Cat is new, and the room that she enters is empty.
    assert found.reports["visits"].by_user["hit_rate@1"].tolist() == [1.0, 1.0, 0.0]
    assert found.reports["visits"].by_user["hit_rate@3"].tolist() == [1.0, 1.0, 1.0]
    assert found.segments["new"].tolist() == [False, False, True]
    assert found.segments["streamer visited before"].tolist() == [True, True, False]
    assert found.segments["streamer new to the user"].tolist() == [False, False, True]
    assert found.segments["large streamers"].tolist() == [True, False, False]


def test_one_visit_a_user_and_the_same_ones_for_the_same_seed(tmp_path):
    more = [visit("ann", "s1", N_DAYS - 1, 20.5 + minute / 60) for minute in range(1, 20)]
    dataset = loaded(tmp_path, platform(last_day=more))
    found = judged(dataset)
    assert len(found.judged) == 3
    np.testing.assert_array_equal(found.at_us, judged(dataset).at_us)
    assert any(judged(dataset, seed=seed).at_us.tolist() != found.at_us.tolist() for seed in range(1, 5))


def test_what_comes_after_a_visit_does_not_change_its_answer(tmp_path):
    rush = [visit(f"u{n}", "s3", N_DAYS - 1, 21 + n / 60) for n in range(50)]
    end = hour(N_DAYS - 1, 20.9)
    quiet = judged(loaded(tmp_path / "quiet", platform()), end=end)
    rushed = judged(loaded(tmp_path / "rushed", platform(last_day=rush)), end=end)
    for name, report in quiet.reports.items():
        for metric, values in report.by_user.items():
            np.testing.assert_array_equal(values, rushed.reports[name].by_user[metric])


def test_a_visit_without_a_choice_is_no_judge(tmp_path):
    tables = platform()
    tables["rooms"] = [room for room in tables["rooms"] if room["streamer_id"] == "s1"]
    tables["events"] = [event for event in tables["events"] if event["streamer_id"] == "s1"]
    with pytest.raises(DataError, match="no visit of the window had two live rooms"):
        judged(loaded(tmp_path, tables))


def test_a_streamer_with_two_live_rooms_counts_once(tmp_path):
    tables = platform()
    span = {"started_at": hour(N_DAYS - 1, 20), "ended_at": hour(N_DAYS - 1, 22)}
    tables["rooms"].append({"room_id": "second", "streamer_id": "s1", **span})
    found = judged(loaded(tmp_path, tables))
    assert found.n_live.tolist() == [4, 4, 4]
    for report in found.reports.values():
        assert all((values <= 1).all() for values in report.by_user.values())
