"""`recsys tune`: nested runs, a study that goes on, failures that stop nothing, and no look at the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from recsys.cli import BAD_INPUT, main
from recsys.data.dataset import Dataset
from recsys.data.split import split_by_time
from recsys.errors import ConfigError, ModelError
from recsys.models.base import Model
from recsys.search import OneOf, Range, Searched, Within, search_space
from tests.training.conftest import N_ITEMS, N_USERS, prepared, shop_events
from training import tuning
from training.candidates import MODELS, build_model, params_of, with_params
from training.config import TrackingParams, TrainingConfig
from training.study import Study
from training.tracking import Tracker
from training.tuning import Tuned, tune

CONFIG = TrainingConfig.load(None, ["models.als.params.factors=8", "fusion.params.min_users=5"])
SPACE = {"x": Searched(Within(0.0, 1.0), 0.5), "kind": Searched(OneOf("a", "b"), "a")}

Tune = Callable[..., Tuned]


@pytest.fixture(scope="module")
def log(shop: Path) -> Dataset:
    return Dataset.load(shop)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(TrackingParams(uri=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"))


def children(tracker: Tracker, parent: str | None) -> list[Any]:
    """The runs nested in one, oldest first."""
    client = MlflowClient(tracker.uri)
    found = client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return sorted(found, key=lambda run: int(run.info.run_name.split()[-1]))


def test_every_trial_is_a_nested_run_and_the_best_is_a_configuration(
    shop: Path, tmp_path: Path, tracker: Tracker
) -> None:
    tuned = tune(shop, CONFIG, "als", tmp_path / "study", metric="recall@10", trials=4, tracker=tracker)
    runs = children(tracker, tuned.run_id)
    assert [run.info.run_name for run in runs] == [f"als {n}" for n in range(4)]
    for run, attempt in zip(runs, tuned.attempts, strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.params == {key: str(value) for key, value in attempt.settings.items()}
        assert run.data.metrics["recall_at_10"] == pytest.approx(attempt.value)
        assert run.data.tags["tuning.state"] == attempt.state
    assert tuned.attempts[0].settings["factors"] == 8
    assert tuned.as_given == tuned.attempts[0].value
    assert tuned.best.value == max(a.value or 0 for a in tuned.attempts if a.state == "complete")
    found = TrainingConfig.load(tuned.file)
    assert {key: s.value for key, s in search_space(found.models.als.params).items()} == tuned.best.settings
    with tracker.files(str(tuned.run_id), "tuning/best.yaml") as recorded:
        assert recorded.read_text() == tuned.file.read_text()


def test_what_happens_in_the_test_window_changes_nothing(shop: Path, tmp_path: Path) -> None:
    events = shop_events()
    test = split_by_time(Dataset.load(shop), CONFIG.split).test
    late = (events.timestamp >= pd.Timestamp(test.fit_end_us, unit="us", tz="UTC")).to_numpy()
    assert late.sum() > 100
    changed = events.copy()
    # Other pairs, other behaviours and a user and an item that are new, at the same moments.
    changed.loc[late, "item_id"] = (events.item_id[late] * 7 + 3) % (N_ITEMS + 5)
    changed.loc[late, "user_id"] = (events.user_id[late] * 3 + 1) % (N_USERS + 9)
    changed.loc[late, "event"] = "cart"
    other = prepared(tmp_path, changed)
    assert Dataset.load(other).fingerprint != Dataset.load(shop).fingerprint

    def found(dataset: Path, out: str) -> list[tuple[Any, ...]]:
        tuned = tune(dataset, CONFIG, "similar_items", tmp_path / out, trials=5)
        return [(a.state, a.value, dict(a.settings)) for a in tuned.attempts]

    mine = found(shop, "mine")
    assert len({value for _, value, _ in mine}) > 1
    assert mine == found(other, "other")


def test_a_study_goes_on_where_it_was(shop: Path, tmp_path: Path, tracker: Tracker) -> None:
    first = tune(shop, CONFIG, "repeat", tmp_path / "study", trials=2, tracker=tracker)
    second = tune(shop, CONFIG, "repeat", tmp_path / "study", trials=5, tracker=tracker)
    assert second.run_id == first.run_id
    assert second.attempts[:2] == first.attempts
    assert [attempt.number for attempt in second.attempts] == [0, 1, 2, 3, 4]
    assert len({tuple(attempt.settings.values()) for attempt in second.attempts}) == 5
    assert len(children(tracker, second.run_id)) == 5
    assert tracker.status(str(second.run_id)) == "FINISHED"
    third = tune(shop, CONFIG, "repeat", tmp_path / "study", trials=5)
    assert third.attempts == second.attempts
    assert third.best == second.best


def test_no_time_left_means_one_trial(shop: Path, tmp_path: Path) -> None:
    assert len(tune(shop, CONFIG, "repeat", tmp_path / "study", trials=50, minutes=0).attempts) == 1


def refusing(numbers: set[int]) -> Callable[..., Model]:
    """Builds models, but the fits of some numbers fail."""
    made = -1

    def build(*args: Any, **kwargs: Any) -> Model:
        nonlocal made
        made += 1
        if made in numbers:
            raise ModelError(f"step {made}: the loss is not a number")
        return build_model(*args, **kwargs)

    return build


def test_a_trial_that_fails_is_recorded_and_the_study_goes_on(
    shop: Path, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "build_model", refusing({0, 2}))
    tuned = tune(shop, CONFIG, "repeat", tmp_path / "study", trials=4, tracker=tracker)
    assert [attempt.state for attempt in tuned.attempts] == ["failed", "complete", "failed", "complete"]
    assert tuned.attempts[2].reason == "ModelError: step 2: the loss is not a number"
    assert tuned.as_given is None
    runs = children(tracker, tuned.run_id)
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED", "FAILED", "FINISHED"]
    assert "step 2: the loss is not a number" in runs[2].data.tags["recsys.error"]
    assert tracker.status(str(tuned.run_id)) == "FINISHED"


def test_a_trial_that_diverges_has_failed_and_the_search_ends_as_any(shop: Path, tmp_path: Path) -> None:
    config = CONFIG.changed({"models": {"als": {"params": {"alpha": 1e30}}}}, "a test")
    with pytest.raises(
        ModelError, match=r"als: all 2 trials failed; .*als: training diverged: .*lower alpha"
    ):
        tune(shop, config, "als", tmp_path / "tuned", trials=2)


def test_where_all_trials_fail_the_last_reason_is_said(
    shop: Path, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "build_model", refusing({0, 1, 2}))
    with pytest.raises(ModelError, match=r"repeat: all 3 trials failed; the last: .*step 2: the loss"):
        tune(shop, CONFIG, "repeat", tmp_path / "study", trials=3, tracker=tracker)
    assert not (tmp_path / "study" / "best.yaml").exists()
    (parent,) = MlflowClient(tracker.uri).search_runs(
        [tracker.experiment_id], "attributes.run_name = 'tune repeat' AND attributes.status = 'FAILED'"
    )
    assert len(children(tracker, parent.info.run_id)) == 3


def test_a_trial_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    study = Study(tmp_path, {}, SPACE, seed=0)
    study.ask().succeed(0.1, seconds=1.0)
    cut_off = study.ask().settings
    again = Study(tmp_path, {}, SPACE, seed=0)
    assert len(again.attempts) == 1
    assert again.ask().settings == cut_off


def test_what_is_below_the_median_early_is_hopeless(tmp_path: Path) -> None:
    study = Study(tmp_path, {}, SPACE, seed=0)
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):
        trial = study.ask()
        assert not trial.is_hopeless(value, step=1)
        trial.succeed(value, seconds=1.0)
    good, bad = study.ask(), study.ask()
    assert not good.is_hopeless(0.45, step=1)
    assert bad.is_hopeless(0.15, step=1)
    bad.prune(seconds=1.0)
    good.succeed(0.45, seconds=1.0)
    assert [attempt.state for attempt in study.attempts][-2:] == ["complete", "pruned"]
    assert study.best is not None
    assert study.best.value == 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "alss"], r"model 'alss': there is no such model; did you mean als\?"),
        (["--metric", "auc"], r"metric 'auc': write recall, ndcg, mrr or hit_rate"),
        (["--metric", "ndcg@0"], r"metric 'ndcg@0': write"),
        (["--set", "models.als.params.factors=0"], r"models\.als\.params\.factors = 0: must be at least 1"),
        (["--set", "split.validation_days=500"], r"the log spans .* days"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], said: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["tune", str(shop), "--no-track", "--out", str(tmp_path / "study"), *arguments])
    assert left.value.code == BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("recsys: ")
    assert message.count("\n") == 1
    assert pd.Series([message]).str.contains(said).all()
    assert not (tmp_path / "study").exists()


def test_the_command_prints_the_best_and_train_takes_its_file(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--set", "fusion.params.min_users=5", "--trials", "2", "--metric", "recall@5"]
    with pytest.raises(SystemExit) as left:
        main(["tune", str(shop), "--model", "item_knn", "--out", "tuned", *quick])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "item_knn: recall@5 in the validation windows" in printed
    assert "2 trials, 0 pruned; as configured: 0." in printed
    assert "best settings in tuned/best.yaml" in printed
    only = [f"models.{name}.enabled=false" for name in MODELS if name not in ("item_knn", "popular")]
    trained = [
        part for value in ("hot.enabled=false", "evaluation.samples=100", *only) for part in ("--set", value)
    ]
    with pytest.raises(SystemExit) as left:
        main(["train", str(shop), "--config", "tuned/best.yaml", *trained, "--no-track", "--out", "bundle"])
    assert left.value.code == 0


def test_another_study_in_the_folder_is_refused(shop: Path, tmp_path: Path) -> None:
    tune(shop, CONFIG, "repeat", tmp_path, trials=1)
    with pytest.raises(ConfigError, match=r"study\.db: the study was begun with another metric"):
        tune(shop, CONFIG, "repeat", tmp_path, metric="recall@5", trials=1)
    for what, override in (
        ("weights", "weights.half_life_days=7"),
        ("filler", "models.popular.least_events=10"),
        ("returns", "fusion.params.returns=no"),
    ):
        other = TrainingConfig.load(None, ["fusion.params.min_users=5", override])
        with pytest.raises(ConfigError, match=rf"study\.db: the study was begun with another {what}"):
            tune(shop, other, "repeat", tmp_path, trials=1)
    (tmp_path / "study.db").write_bytes(b"no database, but long enough to be looked at" * 10)
    with pytest.raises(ConfigError, match=r"study\.db: is no study"):
        tune(shop, CONFIG, "repeat", tmp_path, trials=1)


def bounds(allowed: Range) -> tuple[Any, ...]:
    return allowed.values if isinstance(allowed, OneOf) else (allowed.low, allowed.high)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_says_what_may_be_searched_and_takes_all_of_it(name: str, log: Dataset) -> None:
    space = search_space(tuning._settled(params_of(CONFIG, name), log))
    assert space
    for key, searched in space.items():
        whole = isinstance(searched.value, int)
        for value in bounds(searched.allowed):
            tried = with_params(CONFIG, name, tuning._tree({key: int(value) if whole else value}))
            now = search_space(tuning._settled(params_of(tried, name), log))
            assert now[key].value == value


def test_a_search_begins_at_days_where_the_half_life_is_left_to_the_log(log: Dataset) -> None:
    for name in ("als", "co_visitation", "similar_items"):
        space = search_space(tuning._settled(params_of(CONFIG, name), log))
        half_lives = [key for key in space if key.endswith("half_life_days")]
        assert half_lives
        assert all(space[key].value == pytest.approx(log.days / 6) for key in half_lives)


def test_a_setting_outside_its_range_widens_it_and_one_switched_off_stays_off() -> None:
    config = CONFIG.changed(
        {"models": {"als": {"params": {"alpha": 500.0, "weights": {"half_life_days": None}}}}}, "test"
    )
    space = search_space(params_of(config, "als"))
    assert space["alpha"].allowed == Within(0.3, 500.0, log=True)
    assert space["factors"].allowed == OneOf(32, 64, 96, 128, 192, 256, 8)
    assert "weights.half_life_days" not in space
