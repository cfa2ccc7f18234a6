"""Records training runs in MLflow and keeps the registered model. The one importer of mlflow."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# MLflow reports usage to its makers, and draws progress bars, unless it is told before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from recsys.bundle import MANIFEST
from recsys.errors import BundleError, ConfigError, RecsysError
from training.config import TrackingParams, TrainingConfig, masked
from training.provenance import code_version, is_gone, termination_raises, this_process

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from recsys.data.dataset import Dataset

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)

CHALLENGER = "challenger"
CHAMPION = "champion"
DEFAULT_URI = "sqlite:///mlflow.db"

#: Tag with the folder of the Dataset that a run was made from, and folder of its bundle.
DATA_PATH = "data.path"
BUNDLE = "bundle"

_CONFIG = "config.yaml"
_PROCESS = "recsys.process"
_ERROR = "recsys.error"
_DECISION = "recsys.promotion"
_MAX_PARAM = 500  # MLflow itself allows 6000; the whole value is in config.yaml
_MAX_TAG = 5000
_PARAMS_AT_ONCE = 100  # MLflow's limit for one request
_METRICS_AT_ONCE = 1000


@dataclass(frozen=True)
class ModelVersion:
    """One version of the registered model.

    Attributes:
        number: counts up from 1.
        run_id: the run that made it.
        source: where its bundle is, a URI.
        aliases: `champion`, `challenger`, both or none.
    """

    number: int
    run_id: str
    source: str
    aliases: tuple[str, ...]


class Tracker:
    """A place where runs are recorded, and the registered model there.

    Args:
        params: where; see `TrackingParams`.

    Raises:
        ConfigError: the URI is none that MLflow can write to.
    """

    def __init__(self, params: TrackingParams | None = None) -> None:
        self.params = params or TrackingParams()
        self.uri = self.params.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        database = _database_file(self.uri)
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
        with _as_config_error(self.uri), warnings.catch_warnings():
            # MLflow's own tables use a loader that SQLAlchemy 2.1 calls deprecated.
            warnings.filterwarnings("ignore", message="The ``noload`` loader", category=DeprecationWarning)
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self.experiment_id = self._experiment(database)
            self._mark_killed_runs()

    @contextmanager
    def run(self, name: str, *, parent: Run | None = None, resume: str | None = None) -> Iterator[Run]:
        """A run while the block lasts: finished at its end, else failed or killed with the reason, re-raised.

        Args:
            name: shown in MLflow.
            parent: the run that this one is a part of.
            resume: id of a run that was cut off and goes on, instead of a new one.
        """
        tags = {_PROCESS: this_process(), "mlflow.source.git.commit": code_version()}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.id
        if resume is None:
            run_id = self._client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id
        else:
            run_id = self._run_id(resume)
            self._client.update_run(run_id, status="RUNNING", name=name)
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            if _ERROR in self.tags(run_id):
                self._client.delete_tag(run_id, _ERROR)
        run = Run(self, self._client, run_id)
        try:
            with termination_raises():
                yield run
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
            try:
                self._client.set_tag(run_id, _ERROR, f"{type(error).__name__}: {error}"[:_MAX_PARAM])
                self._client.set_terminated(run_id, status="KILLED" if stopped else "FAILED")
            except MlflowException as lost:
                error.add_note(f"run {run_id} could not be marked as ended: {lost}")
            raise
        self._client.set_terminated(run_id, status="FINISHED")

    def status(self, run_id: str) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return str(self._client.get_run(self._run_id(run_id)).info.status)

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        return dict(self._client.get_run(self._run_id(run_id)).data.tags)

    def config(self, run_id: str) -> TrainingConfig:
        """The resolved configuration that a run was made with."""
        with self.files(run_id, _CONFIG) as path:
            return TrainingConfig.load(path)

    def has(self, run_id: str, name: str) -> bool:
        """Whether a run kept a file or folder of that name."""
        path, _, _ = name.rpartition("/")
        return any(file.path == name for file in self._client.list_artifacts(self._run_id(run_id), path))

    @contextmanager
    def files(self, run_id: str, name: str) -> Iterator[Path]:
        """A file or folder of a run, on this machine while the block lasts.

        Raises:
            RecsysError: the run has no such file.
        """
        with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
            try:
                path = Path(self._client.download_artifacts(self._run_id(run_id), name, folder))
            except (MlflowException, OSError) as error:
                raise RecsysError(f"run {run_id} at {masked(self.uri)} has no {name}: {error}") from error
            yield path

    def version(self, run_or_version: str) -> ModelVersion:
        """The registered version that a version number, an alias or a run id names.

        Raises:
            ConfigError: there is none.
        """
        name = self.params.model_name
        known = self.versions()
        for version in known:
            if run_or_version in (str(version.number), version.run_id, *version.aliases):
                return version
        listed = ", ".join(f"{version.number} (run {version.run_id})" for version in known[:5]) or "none yet"
        raise ConfigError(
            f"{run_or_version!r} is no run, version or alias of the model {name!r} at {masked(self.uri)}; "
            f"it has {listed}"
        )

    def versions(self) -> list[ModelVersion]:
        """Every version of the registered model, newest first."""
        name = self.params.model_name.replace("'", "''")
        try:
            model = self._client.get_registered_model(self.params.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return []
        aliases: dict[str, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        found = _all_pages(
            lambda token: self._client.search_model_versions(f"name='{name}'", page_token=token)
        )
        versions = [
            ModelVersion(
                int(v.version), str(v.run_id), str(v.source), tuple(sorted(aliases.get(str(v.version), [])))
            )
            for v in found
        ]
        return sorted(versions, key=lambda version: -version.number)

    def champion(self) -> ModelVersion | None:
        """The version that serves, or None before the first promotion."""
        return next((version for version in self.versions() if CHAMPION in version.aliases), None)

    def set_champion(self, version: ModelVersion) -> None:
        """Move the alias `champion`."""
        self._client.set_registered_model_alias(self.params.model_name, CHAMPION, str(version.number))

    def note_decision(self, version: ModelVersion, reasons: tuple[str, ...]) -> None:
        """Write beside a version why it was promoted, or was not."""
        text = "\n".join(reasons)[:_MAX_TAG]
        self._client.set_model_version_tag(self.params.model_name, str(version.number), _DECISION, text)

    def decision(self, version: ModelVersion) -> tuple[str, ...]:
        """What `note_decision` wrote beside a version, line by line; empty if nothing was decided yet."""
        tags = self._client.get_model_version(self.params.model_name, str(version.number)).tags
        return tuple(tags.get(_DECISION, "").splitlines())

    def _experiment(self, database: Path | None) -> str:
        found = self._client.get_experiment_by_name(self.params.experiment)
        if found is not None:
            return str(found.experiment_id)
        where = self.params.artifacts
        if where is None and database is not None:
            where = str(database.parent / "mlruns")
        if where is not None:
            folder = where if "://" in where else Path(where).resolve().as_uri()
            where = f"{folder}/{re.sub(r'[^A-Za-z0-9._-]+', '-', self.params.experiment)}"
        return str(self._client.create_experiment(self.params.experiment, artifact_location=where))

    def _mark_killed_runs(self) -> None:
        """Runs of this machine whose process is gone without a word were killed: say so."""
        running = _all_pages(
            lambda token: self._client.search_runs(
                [self.experiment_id], "attributes.status = 'RUNNING'", page_token=token
            )
        )
        for run in running:
            if is_gone(run.data.tags.get(_PROCESS, "")):
                self._client.set_tag(run.info.run_id, _ERROR, "the process ended without a word")
                self._client.set_terminated(run.info.run_id, status="KILLED")

    def _run_id(self, run_id: str) -> str:
        try:
            return str(self._client.get_run(run_id).info.run_id)
        except MlflowException as error:
            raise ConfigError(f"there is no run {run_id!r} at {masked(self.uri)}") from error


class Run:
    """One run, being recorded: what it was made of, and what came out. Made by `Tracker.run`."""

    def __init__(self, tracker: Tracker, client: MlflowClient, run_id: str) -> None:
        self.tracker = tracker
        self.id = run_id
        self._client = client

    def log_config(self, config: TrainingConfig) -> None:
        """Record the resolved configuration: as parameters to compare by, and whole as config.yaml.

        Raises:
            ConfigError: a resumed run was begun with another configuration.
        """
        try:
            self.log_params(dict(_flat(config.to_dict())))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise ConfigError(f"run {self.id} was begun with another configuration: {error}") from error
        self._client.log_text(self.id, config.to_yaml(), _CONFIG)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Record what the run was made with, by key, to compare runs by."""
        params = [Param(key, _clipped(value)) for key, value in values.items()]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self.id, params=params[start : start + _PARAMS_AT_ONCE])

    def log_dataset(self, dataset: Dataset) -> None:
        """Record which data it was trained on: path, moment and fingerprint."""
        self.log_tags(
            {
                DATA_PATH: str(dataset.path.resolve()),
                "data.as_of": dataset.as_of.isoformat(),
                "data.fingerprint": dataset.fingerprint,
            }
        )

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record words by which runs are found."""
        self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record values at a step. MLflow allows no `@` in a name: ndcg@20 is shown as ndcg_at_20."""
        now_ms = int(time.time() * 1000)
        rows = [Metric(_metric_name(name), float(value), now_ms, step) for name, value in metrics.items()]
        for start in range(0, len(rows), _METRICS_AT_ONCE):
            self._client.log_batch(self.id, metrics=rows[start : start + _METRICS_AT_ONCE])

    def log_table(self, name: str, table: pd.DataFrame) -> None:
        """Record a table as `tables/NAME.csv` for machines and `tables/NAME.md` for people."""
        self._client.log_text(self.id, table.to_csv(index=False), f"tables/{name}.csv")
        self._client.log_text(self.id, markdown(table), f"tables/{name}.md")

    def log_figure(self, name: str, figure: Figure) -> None:
        """Record a plot as `plots/NAME.png`."""
        with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
            path = Path(folder) / f"{name}.png"
            figure.savefig(path)
            self._client.log_artifact(self.id, str(path), "plots")

    def log_files(self, path: Path, folder: str) -> None:
        """Record a file, or all that is in a folder, under `folder`."""
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        log(self.id, str(path), folder)

    def register(self, bundle_dir: Path) -> ModelVersion:
        """Record a bundle and register it as a new version, which becomes the `challenger`.

        A bundle above `max_bundle_mib` stays where it is: its manifest is recorded, its path is the source.

        Raises:
            BundleError: there is no bundle in that folder.
        """
        manifest = bundle_dir / MANIFEST
        if not manifest.is_file():
            raise BundleError(f"{bundle_dir} is no bundle: {MANIFEST} is missing")
        params = self.tracker.params
        size = sum(path.stat().st_size for path in bundle_dir.rglob("*") if path.is_file())
        if size <= params.max_bundle_mib << 20:
            self._client.log_artifacts(self.id, str(bundle_dir), BUNDLE)
            source = f"{self._client.get_run(self.id).info.artifact_uri}/{BUNDLE}"
        else:
            self._client.log_artifact(self.id, str(manifest), BUNDLE)
            source = bundle_dir.resolve().as_uri()
        try:
            self._client.create_registered_model(params.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self._client.create_model_version(
            params.model_name, source, run_id=self.id, await_creation_for=0
        )
        self._client.set_registered_model_alias(params.model_name, CHALLENGER, made.version)
        return self.tracker.version(str(made.version))


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, numbers to four digits, an empty cell where a value is missing."""

    def cell(value: Any) -> str:
        if value is None or value != value:
            return ""
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [list(table.columns), ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(cell(value) for value in line)} |\n" for line in lines)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _clipped(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_PARAM else f"{text[: _MAX_PARAM - 1]}…"


def _metric_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def _all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    found, token = [], None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found


def _database_file(uri: str) -> Path | None:
    """The file of an SQLite store, None for any other."""
    scheme, _, path = uri.partition(":///")
    is_file = scheme == "sqlite" and path not in ("", ":memory:")
    return Path(path.partition("?")[0]).resolve() if is_file else None


@contextmanager
def _as_config_error(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise ConfigError(
            f"tracking.uri = {masked(uri)!r} cannot be used: {str(error).splitlines()[0]} "
            f"(a local store is written as {DEFAULT_URI})"
        ) from error
