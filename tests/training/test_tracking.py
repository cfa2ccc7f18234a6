"""Tracking against a real SQLite store: what is recorded, how runs end, versions and aliases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient
from PIL import Image

from recsys.errors import BundleError, ConfigError, RecsysError
from training.config import TrackingParams, TrainingConfig
from training.provenance import code_version, is_gone, this_process
from training.tracking import Tracker, markdown


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def tracker(store: Path) -> Tracker:
    return Tracker(TrackingParams(uri=f"sqlite:///{store}/mlflow.db", model_name="first"))


@pytest.fixture(scope="module")
def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracker.uri, tracker.uri)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "sources").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format_version": 1}')
    (folder / "sources" / "vectors.npy").write_bytes(b"\x93NUMPY" + bytes(2 << 20))
    return folder


def renamed(tracker: Tracker, name: str, **changes: object) -> Tracker:
    return Tracker(tracker.params.model_copy(update={"model_name": name, **changes}))


def test_default_store_is_beside_the_caller_and_neither_it_nor_telemetry_says_a_word(tmp_path: Path) -> None:
    unset = ("MLFLOW_", "DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
    code = (
        "from training.tracking import Tracker\n"
        "with Tracker().run('first') as run: run.log_metrics({'ndcg@20': 0.5})\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "mlflow.db").is_file()


def test_tracking_uri_of_mlflow_itself_is_the_fallback(
    monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    assert Tracker().uri == tracker.uri


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/runs", "bogus://me:s3cret@host/runs"])
def test_a_store_that_cannot_be_used_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri") as caught:
        Tracker(TrackingParams(uri=uri))
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value).split(" cannot be used")[0]


def test_a_run_records_its_config_its_code_and_its_metrics_by_step(
    tracker: Tracker, client: MlflowClient
) -> None:
    config = TrainingConfig.load(None, ["seed=7", "models.als.params.factors=8"])
    with tracker.run("train") as run:
        run.log_config(config)
        for step, loss in enumerate([3.0, 2.0, 1.5]):
            run.log_metrics({"two_tower/loss": loss, "two_tower/ndcg@20": 1 - loss / 4}, step=step)
        assert tracker.status(run.id) == "RUNNING"
    recorded = client.get_run(run.id)
    assert tracker.status(run.id) == "FINISHED"
    assert recorded.data.params["seed"] == "7"
    assert recorded.data.params["models.als.params.factors"] == "8"
    assert recorded.data.tags["mlflow.source.git.commit"] == code_version()
    assert tracker.config(run.id) == config
    history = client.get_metric_history(run.id, "two_tower/loss")
    assert [(point.step, point.value) for point in history] == [(0, 3.0), (1, 2.0), (2, 1.5)]
    assert recorded.data.metrics["two_tower/ndcg_at_20"] == 0.625


def test_a_long_value_is_cut_among_the_parameters_and_whole_in_the_file(
    tracker: Tracker, client: MlflowClient
) -> None:
    columns = [f"column_{i}" for i in range(400)]
    config = TrainingConfig.from_dict({"evaluation": {"segments": columns}})
    with tracker.run("long") as run:
        run.log_config(config)
    assert len(client.get_run(run.id).data.params["evaluation.segments"]) == 500
    with tracker.files(run.id, "config.yaml") as path:
        assert yaml.safe_load(path.read_text())["evaluation"]["segments"] == columns


def test_tables_figures_and_files_come_back(tracker: Tracker, tmp_path: Path) -> None:
    table = pd.DataFrame({"model": ["als | cosine", "popular"], "ndcg@20": [0.123456, np.nan], "n": [10, 20]})
    (tmp_path / "users.csv").write_text("user_id\n007\n")
    with tracker.run("artifacts") as run:
        run.log_table("comparison", table)
        run.log_figure("curve", Figure(figsize=(2, 1), dpi=100))
        run.log_files(tmp_path / "users.csv", "evaluation")
    with tracker.files(run.id, "tables") as folder:
        pd.testing.assert_frame_equal(pd.read_csv(folder / "comparison.csv"), table)
        assert (folder / "comparison.md").read_text() == (
            "| model | ndcg@20 | n |\n| --- | --- | --- |\n"
            "| als \\| cosine | 0.1235 | 10 |\n| popular |  | 20 |\n"
        )
    with tracker.files(run.id, "plots/curve.png") as path, Image.open(path) as image:
        assert image.size == (200, 100)
    with tracker.files(run.id, "evaluation/users.csv") as path:
        assert path.read_text() == "user_id\n007\n"


def test_markdown_keeps_a_cell_on_its_line() -> None:
    assert markdown(pd.DataFrame({"a": ["x\ny"]})) == "| a |\n| --- |\n| x y |\n"


def test_a_missing_file_and_a_missing_run_are_named(tracker: Tracker) -> None:
    with tracker.run("empty") as run:
        pass
    with (
        pytest.raises(RecsysError, match=r"has no evaluation/users\.parquet"),
        tracker.files(run.id, "evaluation/users.parquet"),
    ):
        pass
    with pytest.raises(ConfigError, match="there is no run 'deadbeef'"):
        tracker.status("deadbeef")


def test_an_error_marks_the_run_failed_and_is_raised_again(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match="diverged at step 3"), tracker.run("fails") as run:
        raise ValueError("diverged at step 3")
    assert tracker.status(run.id) == "FAILED"
    assert tracker.tags(run.id)["recsys.error"] == "ValueError: diverged at step 3"


def test_ctrl_c_marks_the_run_killed(tracker: Tracker) -> None:
    with pytest.raises(KeyboardInterrupt), tracker.run("interrupted") as run:
        raise KeyboardInterrupt
    assert tracker.status(run.id) == "KILLED"


@pytest.fixture(scope="module")
def victims(tracker: Tracker) -> dict[int, str]:
    """Signal -> id of a run in another process which that signal ended."""
    code = (
        "import sys, time\n"
        "from training.config import TrackingParams\n"
        "from training.tracking import Tracker\n"
        "with Tracker(TrackingParams(uri=sys.argv[1])).run('victim') as run:\n"
        "    print(run.id, flush=True)\n"
        "    time.sleep(600)\n"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code, tracker.uri], stdout=subprocess.PIPE, text=True)

    ended = {}
    with start() as polite, start() as hard:
        for number, process in ((signal.SIGTERM, polite), (signal.SIGKILL, hard)):
            assert process.stdout is not None
            ended[int(number)] = process.stdout.readline().strip()
            process.send_signal(number)
            process.wait()
    return ended


def test_a_polite_kill_marks_the_run_at_once_a_hard_one_is_marked_by_the_next_that_comes_by(
    tracker: Tracker, victims: dict[int, str]
) -> None:
    assert tracker.status(victims[signal.SIGTERM]) == "KILLED"
    assert tracker.status(victims[signal.SIGKILL]) == "RUNNING"
    with tracker.run("alive") as alive:
        Tracker(tracker.params)
        assert tracker.status(victims[signal.SIGKILL]) == "KILLED"
        assert tracker.status(alive.id) == "RUNNING"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_killed_run_goes_on_under_its_own_id(tracker: Tracker) -> None:
    config = TrainingConfig.load(None, ["seed=1"])
    with pytest.raises(KeyboardInterrupt), tracker.run("long") as first:
        raise KeyboardInterrupt
    with tracker.run("long", resume=first.id) as second:
        assert second.id == first.id
        assert tracker.status(first.id) == "RUNNING"
        second.log_config(config)
        second.log_config(config)
    assert tracker.status(first.id) == "FINISHED"
    assert "recsys.error" not in tracker.tags(first.id)


def test_a_resumed_run_keeps_its_configuration(tracker: Tracker) -> None:
    with tracker.run("long") as first:
        first.log_config(TrainingConfig.load(None, ["seed=1"]))
    other = TrainingConfig.load(None, ["seed=2"])
    with (
        tracker.run("long", resume=first.id) as second,
        pytest.raises(ConfigError, match="begun with another configuration"),
    ):
        second.log_config(other)


def test_a_part_of_a_run_names_its_parent(tracker: Tracker) -> None:
    with tracker.run("whole") as whole, tracker.run("part", parent=whole) as part:
        pass
    assert tracker.tags(part.id)["mlflow.parentRunId"] == whole.id


def test_runs_do_not_touch_the_global_state_of_mlflow(tracker: Tracker) -> None:
    with tracker.run("quiet"):
        assert mlflow.active_run() is None


def test_a_bundle_becomes_the_challenger_and_then_the_champion(tracker: Tracker, bundle: Path) -> None:
    mine = renamed(tracker, "registered")
    assert (mine.versions(), mine.champion()) == ([], None)
    with mine.run("one") as one:
        first = one.register(bundle)
    assert (first.number, first.run_id, first.aliases) == (1, one.id, ("challenger",))
    with mine.files(one.id, "bundle") as folder:
        assert (folder / "sources" / "vectors.npy").read_bytes() == (
            bundle / "sources" / "vectors.npy"
        ).read_bytes()
    assert Path(first.source.removeprefix("file://"), "manifest.json").is_file()
    mine.set_champion(first)
    champion = mine.champion()
    assert champion is not None
    assert champion.aliases == ("challenger", "champion")
    with mine.run("two") as two:
        second = two.register(bundle)
    assert [version.aliases for version in mine.versions()] == [("challenger",), ("champion",)]
    for name in ("2", two.id, "challenger"):
        assert mine.version(name) == second
    with pytest.raises(ConfigError, match=r"'7' is no run, version or alias .* it has 2 \(run"):
        mine.version("7")


def test_a_large_bundle_stays_where_it_is(tracker: Tracker, bundle: Path) -> None:
    mine = renamed(tracker, "large", max_bundle_mib=1)
    with mine.run("large") as run:
        version = run.register(bundle)
    assert version.source == bundle.as_uri()
    with mine.files(run.id, "bundle") as folder:
        assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_a_folder_that_is_no_bundle_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.run("none") as run, pytest.raises(BundleError, match=r"manifest\.json is missing"):
        run.register(tmp_path)


def test_artifacts_go_where_they_are_told(store: Path, tracker: Tracker, tmp_path: Path) -> None:
    elsewhere = renamed(tracker, "first", experiment="else/where", artifacts=str(tmp_path / "files"))
    with elsewhere.run("far") as run:
        run.log_config(TrainingConfig())
    assert (tmp_path / "files" / "else-where" / run.id / "artifacts" / "config.yaml").is_file()
    with tracker.run("near") as run:
        run.log_config(TrainingConfig())
    assert (store / "mlruns" / "live-commerce" / run.id / "artifacts" / "config.yaml").is_file()


def test_a_process_is_gone_only_if_it_surely_is() -> None:
    host, pid, *started = this_process().split()
    assert not is_gone(this_process())
    assert not is_gone(f"another-host {pid}")
    assert not is_gone("")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert is_gone(f"{host} {ended.pid} 1")
    if started:
        assert is_gone(f"{host} {pid} {int(started[0]) + 1}")


@pytest.fixture(autouse=True)
def _no_stray_run() -> Iterator[None]:
    yield
    assert mlflow.active_run() is None
