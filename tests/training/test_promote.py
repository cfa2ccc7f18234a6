"""Promotion: only on evidence, from fits that have not seen their judge, with reasons for a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.dataset import Dataset, to_us
from recsys.data.split import SplitParams, split_by_time
from recsys.errors import ConfigError, DataError, RecsysError
from recsys.evaluation.protocol import activity_segments, evaluate, judge
from recsys.types import Behaviour, Candidates, Target
from training.config import Guard, PromoteParams, TrackingParams, TrainingConfig
from training.promote import ANSWER, BASELINE, Results, compare, promote, record_result, recorded_results
from training.tracking import DATA_PATH, ModelVersion, Tracker
from training.window_result import JudgedWindow, WindowResult

N_USERS = 400
CUT_OFF = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = JudgedWindow(
    fingerprint="f" * 64,
    fit_end_us=to_us(CUT_OFF),
    start_us=to_us(CUT_OFF + timedelta(hours=1)),
    end_us=to_us(CUT_OFF + timedelta(days=7)),
    target="item",
    goals=("cart", "purchase"),
)
LATER = replace(WINDOW, fingerprint="a" * 64, fit_end_us=to_us(CUT_OFF + timedelta(days=9)))


def result(
    ndcg: float,
    *,
    window: JudgedWindow = WINDOW,
    recall_of_new: float = 0.1,
    coverage: float = 0.4,
    head_share: float = 0.2,
    n_users: int = N_USERS,
) -> WindowResult:
    """Values that scatter over users by much, between models of the same user by little; a tenth is new."""
    noise = np.random.default_rng(0).normal(0, 0.1, n_users)
    noise -= noise.mean()
    own = np.random.default_rng(round(ndcg * 1e6)).normal(0, 0.02, n_users)
    own -= own.mean()
    new = np.arange(n_users) % 10 == 0
    return WindowResult(
        window=window,
        users=pa.array([f"user {i:04d}" for i in range(n_users)]),
        by_user={
            "ndcg@20": ndcg + noise + own,
            "recall@20": np.where(new, recall_of_new, ndcg) + own * 0.1,
        },
        overall={"coverage@20": coverage, "head_share@20": head_share},
        segments={"new": new, "20+ events": ~new},
    )


def items(made: WindowResult) -> Results:
    return {Target.ITEM: made}


def no_refit(config: TrainingConfig, dataset_path: Path, cut_off: datetime) -> Results:
    raise AssertionError("the champion's own evaluation is over the same window: nothing is to be fitted")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store: str, request: pytest.FixtureRequest) -> Tracker:
    return Tracker(
        TrackingParams(uri=store, model_name=request.node.name.replace("/", "-").replace(":", "-"))
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def trained(
    tracker: Tracker,
    bundle: Path,
    answer: WindowResult | None,
    *,
    baseline: WindowResult | None = None,
    overrides: tuple[str, ...] = (),
    data: str = "/data/one",
    rooms: tuple[WindowResult, ...] = (),
) -> ModelVersion:
    """A recorded and registered run, as the pipeline leaves one."""
    with tracker.run("train") as run:
        run.log_config(TrainingConfig.load(None, overrides))
        run.log_tags({DATA_PATH: data})
        if answer is not None:
            record_result(run, ANSWER, answer)
            record_result(run, BASELINE, baseline or result(0.05, coverage=0.01, head_share=1.0))
        for name, made in zip((ANSWER, BASELINE), rooms, strict=False):
            record_result(run, name, made)
        return run.register(bundle)


def test_the_first_model_must_beat_decayed_popularity(tracker: Tracker, bundle: Path) -> None:
    version = trained(tracker, bundle, result(0.05), baseline=result(0.05))
    decision = promote("challenger", tracker, refit=no_refit)
    assert not decision.promoted
    assert tracker.champion() is None
    assert decision.reasons[0] == "There is no champion yet: decayed popularity must be beaten."
    assert decision.reasons[-1] == "There is still no champion: ndcg@20 did not hold."
    better = trained(tracker, bundle, result(0.10), baseline=result(0.05))
    decision = promote(better.run_id, tracker, refit=no_refit)
    assert decision.promoted
    assert (decision.version.number, decision.rival) == (version.number + 1, "decayed popularity")
    champion = tracker.champion()
    assert champion is not None
    assert champion.number == better.number


def test_better_by_more_than_chance_moves_the_alias_and_says_by_how_much(
    tracker: Tracker, bundle: Path
) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10)))
    trained(tracker, bundle, result(0.12))
    decision = promote("challenger", tracker, refit=no_refit)
    gate = decision.checks[0]
    assert decision.promoted
    assert gate.difference.mean == pytest.approx(0.02)
    assert 0 < gate.difference.lower < 0.02 < gate.difference.upper
    assert "ndcg@20 rises from 0.1000 to 0.1200 (+0.0200, 95 % interval" in decision.reasons[1]
    assert decision.reasons[1].endswith("400 users): better by more than chance.")
    assert decision.reasons[-1] == "Version 2 is champion now."
    assert [version.aliases for version in tracker.versions()] == [("challenger", "champion"), ()]


@pytest.mark.parametrize(("ndcg", "ending"), [(0.1001, "not better by more than chance."), (0.08, "worse.")])
def test_chance_and_a_fall_leave_the_champion(
    tracker: Tracker, bundle: Path, ndcg: float, ending: str
) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10)))
    trained(tracker, bundle, result(ndcg))
    decision = promote("challenger", tracker, refit=no_refit)
    assert not decision.promoted
    assert decision.reasons[1].endswith(ending)
    assert decision.reasons[-1] == "Version 1 stays champion: ndcg@20 did not hold."
    assert [version.aliases for version in tracker.versions()] == [("challenger",), ("champion",)]


def test_the_champion_is_not_promoted_again(tracker: Tracker, bundle: Path) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10)))
    decision = promote("1", tracker, refit=no_refit)
    assert (decision.promoted, decision.reasons) == (False, ("Version 1 is the champion already.",))
    assert decision.table.empty


def check(challenger: WindowResult, guard: Guard, champion: WindowResult | None = None) -> tuple[bool, str]:
    params = PromoteParams(guards=(guard,))
    made = compare(items(challenger), items(champion or result(0.10)), params)[1]
    return made.passed, made.reason


@pytest.mark.parametrize(
    ("coverage", "passed", "ending"),
    [(0.5, True, "no worse."), (0.33, True, "within the 20% allowed."), (0.31, False, "the 20% allowed.")],
)
def test_a_guard_over_all_lists_allows_its_tolerance_of_the_champions_value(
    coverage: float, passed: bool, ending: str
) -> None:
    held, reason = check(result(0.12, coverage=coverage), Guard(metric="coverage@20", tolerance=0.2))
    assert held is passed
    assert reason.endswith(ending)
    assert f"from 0.4000 to {coverage:.4f}" in reason


@pytest.mark.parametrize(("head_share", "passed"), [(0.1, True), (0.23, True), (0.25, False)])
def test_a_guard_may_want_less(head_share: float, passed: bool) -> None:
    guard = Guard(metric="head_share@20", better="lower", tolerance=0.2)
    assert check(result(0.12, head_share=head_share), guard)[0] is passed


def test_a_guard_of_a_segment_looks_at_its_users_alone() -> None:
    guard = Guard(metric="recall@20", segment="new", tolerance=0.05)
    held, reason = check(result(0.12, recall_of_new=0.05), guard)
    assert not held
    assert reason.startswith("recall@20 of new users falls from 0.1")
    assert "40 users" in reason
    assert check(result(0.12, recall_of_new=0.0999), guard)[0]
    assert check(result(0.12, recall_of_new=0.05), Guard(metric="recall@20", segment="20+ events"))[0]


def test_a_fall_that_chance_explains_stops_nobody() -> None:
    champion = result(0.10)
    noisy = np.where(np.arange(N_USERS) % 2 == 0, 0.5, -0.505)
    challenger = replace(
        champion, by_user={**champion.by_user, "recall@20": champion.by_user["recall@20"] + noisy}
    )
    held, reason = check(challenger, Guard(metric="recall@20", tolerance=0.0), champion)
    assert held
    assert reason.endswith("chance explains the fall.")


def test_a_segment_of_nobody_or_of_a_handful_stops_nobody() -> None:
    assert "nobody of that segment" in check(result(0.12), Guard(metric="recall@20", segment="gone"))[1]
    challenger, champion = result(0.12, recall_of_new=0.01, n_users=100), result(0.10, n_users=100)
    held, reason = check(challenger, Guard(metric="recall@20", segment="new"), champion)
    assert held
    assert reason.endswith("10 users): too few users to tell.")


def test_a_handful_of_judged_users_promotes_nobody() -> None:
    few = (items(result(ndcg, n_users=20)) for ndcg in (0.5, 0.1))
    gate = compare(*few, PromoteParams(guards=()))[0]
    assert gate.difference.lower > 0
    assert not gate.passed
    assert "20 users are too few to tell, promote.min_users is 30" in gate.reason


def test_a_failed_guard_is_named_in_the_verdict(tracker: Tracker, bundle: Path) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10)))
    trained(tracker, bundle, result(0.12, coverage=0.1, head_share=0.9))
    decision = promote("challenger", tracker, refit=no_refit)
    assert decision.reasons[-1] == "Version 1 stays champion: coverage@20 and head_share@20 did not hold."
    assert decision.table.set_index("metric")["passed"].to_dict() == {
        "ndcg@20": True,
        "recall@20 of new users": True,
        "coverage@20": False,
        "head_share@20": False,
    }


ROOMS = replace(WINDOW, target="room", goals=("enter",))


def of_rooms(ndcg: float) -> WindowResult:
    return result(ndcg, window=ROOMS)


def test_rooms_that_got_worse_stop_better_products(tracker: Tracker, bundle: Path) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10), rooms=(of_rooms(0.5),)))
    trained(tracker, bundle, result(0.12), rooms=(of_rooms(0.4),))
    decision = promote("challenger", tracker, refit=no_refit)
    assert decision.reasons[-1] == "Version 1 stays champion: ndcg@20 of rooms did not hold."
    trained(tracker, bundle, result(0.12), rooms=(of_rooms(0.5),))
    assert promote("challenger", tracker, refit=no_refit).promoted


def test_a_challenger_that_lost_its_rooms_is_stopped(tracker: Tracker, bundle: Path) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10), rooms=(of_rooms(0.5),)))
    trained(tracker, bundle, result(0.12))
    decision = promote("challenger", tracker, refit=no_refit)
    assert "ndcg@20 of rooms: the challenger was not judged by it, its rival was." in decision.reasons
    assert not decision.promoted


def test_a_log_of_rooms_alone_has_them_as_its_gate(tracker: Tracker, bundle: Path) -> None:
    worse = trained(tracker, bundle, None, rooms=(of_rooms(0.3), of_rooms(0.4)))
    assert not promote(worse.run_id, tracker, refit=no_refit).promoted
    better = trained(tracker, bundle, None, rooms=(of_rooms(0.5), of_rooms(0.4)))
    decision = promote(better.run_id, tracker, refit=no_refit)
    assert decision.promoted
    assert decision.reasons[0] == "There is no champion yet: decayed popularity must be beaten."


Refitted = tuple[TrainingConfig, Path, datetime]


def recording(made: WindowResult, calls: list[Refitted]) -> Callable[..., Results]:
    def refit(config: TrainingConfig, dataset_path: Path, cut_off: datetime) -> Results:
        calls.append((config, dataset_path, cut_off))
        return items(made)

    return refit


def test_a_champion_of_another_window_is_refitted_to_the_cut_off_from_its_own_config(
    tracker: Tracker, bundle: Path
) -> None:
    champion = trained(
        tracker, bundle, result(0.01), overrides=("models.als.params.factors=8", "split.test_days=3")
    )
    tracker.set_champion(champion)
    trained(
        tracker,
        bundle,
        result(0.12, window=LATER),
        overrides=("models.als.params.factors=16", "split.test_days=5"),
        data="/data/two",
    )
    calls: list[Refitted] = []
    # The champion's stored figures would lose; what it reaches when fitted again wins.
    decision = promote("challenger", tracker, refit=recording(result(0.20, window=LATER), calls))
    assert not decision.promoted
    [(config, dataset_path, cut_off)] = calls
    assert config.models.als.params.factors == 8
    assert config.split.test_days == 5
    assert dataset_path == Path("/data/two")
    assert cut_off == CUT_OFF + timedelta(days=9)
    assert "fitted again from its own configuration up to 2026-03-10 00:00 UTC" in decision.reasons[0]


@pytest.mark.parametrize("goals", [("view",), ("cart", "purchase")])
def test_other_goals_are_another_judge(tracker: Tracker, bundle: Path, goals: tuple[str, ...]) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10, window=replace(WINDOW, goals=goals))))
    trained(tracker, bundle, result(0.12))
    calls: list[Refitted] = []
    promote("challenger", tracker, refit=recording(result(0.10), calls))
    assert len(calls) == (goals != WINDOW.goals)


def test_a_refit_over_changed_data_is_refused(tracker: Tracker, bundle: Path) -> None:
    tracker.set_champion(trained(tracker, bundle, result(0.10, window=LATER)))
    trained(tracker, bundle, result(0.12))
    changed = result(0.01, window=replace(WINDOW, fingerprint="c" * 64))
    with pytest.raises(DataError, match="the data has changed since"):
        promote("challenger", tracker, refit=recording(changed, []))
    champion = tracker.champion()
    assert champion is not None
    assert champion.number == 1


def test_unknown_runs_runs_without_a_result_and_unmeasured_metrics_are_named(
    tracker: Tracker, bundle: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'nothing' is no run, version or alias .* none yet"):
        promote("nothing", tracker, refit=no_refit)
    trained(tracker, bundle, None)
    with pytest.raises(RecsysError, match="was not evaluated, so it cannot be compared"):
        promote("1", tracker, refit=no_refit)
    trained(tracker, bundle, result(0.12))
    with pytest.raises(ConfigError, match=r"promote asks for mrr@20, the evaluation has ndcg@20, recall@20"):
        promote("2", tracker, refit=no_refit, params=PromoteParams(metric="mrr@20"))


def test_the_reasons_are_kept_beside_the_version(tracker: Tracker, bundle: Path) -> None:
    trained(tracker, bundle, result(0.04))
    decision = promote("1", tracker, refit=no_refit)
    assert tracker.decision(decision.version) == decision.reasons


def test_a_result_comes_back_as_it_was(tracker: Tracker, bundle: Path, tmp_path: Path) -> None:
    made = replace(result(0.1, n_users=3), users=pa.array(["007", "7 b", "é😀,"]))
    with tracker.run("one") as run:
        record_result(run, ANSWER, made)
    back = recorded_results(tracker, run.id, ANSWER)[Target.ITEM]
    assert back.compares_with(made)
    assert back.users.to_pylist() == ["007", "7 b", "é😀,"]
    np.testing.assert_array_equal(back.by_user["ndcg@20"], made.by_user["ndcg@20"])
    np.testing.assert_array_equal(back.segments["new"], made.segments["new"])
    assert back.overall == made.overall
    (tmp_path / "window.json").write_text("{}")
    with pytest.raises(DataError, match="train the model again"):
        WindowResult.read(tmp_path)


def test_results_compare_only_over_the_same_users_and_window() -> None:
    one = result(0.1)
    assert one.compares_with(result(0.2))
    assert not one.compares_with(result(0.2, n_users=N_USERS - 1))
    assert not one.compares_with(replace(one, users=one.users.take(pa.array(range(N_USERS)[::-1]))))
    for change in ({"end_us": 1}, {"fit_end_us": 1}, {"target": "room"}, {"fingerprint": ""}):
        assert not one.compares_with(replace(one, window=replace(WINDOW, **change)))


def test_a_result_names_its_users_by_their_own_ids(make_dataset: Callable[..., Dataset]) -> None:
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=6 * i) for i in range(120)]
    events = [
        {"user_id": f"0{i % 3}", "event": "purchase", "item_id": f"p{i % 4}", "timestamp": moment.isoformat()}
        for i, moment in enumerate(moments)
    ]
    dataset = make_dataset(events)
    window = split_by_time(dataset, SplitParams(test_days=3)).test
    goals = (Behaviour.PURCHASE,)
    judged = judge(dataset, window, target=Target.ITEM, goals=goals)

    def first_item(users: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Candidates:
        n = len(users)
        return Candidates(np.zeros((n, 1), np.int32), np.ones((n, 1), np.float32), np.ones(n, np.int32))

    report = evaluate(first_item, judged, ks=(1,))
    made = WindowResult.of(
        report,
        judged,
        activity_segments(judged),
        dataset=dataset,
        window=window,
        target=Target.ITEM,
        goals=goals,
    )
    assert made.users.to_pylist() == ["00", "01", "02"]
    assert made.window.fingerprint == dataset.fingerprint
    assert made.window.goals == ("purchase",)
    assert set(made.segments) == set(activity_segments(judged))
    assert made.by_user["recall@1"].tolist() == report.by_user["recall@1"].tolist()
