"""The configuration of a training run: typed, checked once, and then passed around as it is.

A YAML file and `key.sub=value` overrides are laid over the defaults, which live beside the code that they
steer: what a file leaves out keeps its default, in mappings too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from recsys.data.behaviours import BehaviourWeights
from recsys.data.split import SplitParams
from recsys.errors import ConfigError
from recsys.held import HoldParams
from recsys.hot.params import HotParams
from recsys.models.collaborative import ALSParams, BPRParams, ItemKNNParams
from recsys.models.fusion_training import FusionParams
from recsys.models.history_models import CoVisitationParams, RepeatParams, SimilarItemsParams
from recsys.models.linear_neighbours import EASEItemsParams, GFCFItemsParams
from recsys.models.popular import PopularParams
from recsys.models.two_tower_params import TwoTowerParams
from recsys.rooms.model import RoomParams
from recsys.types import Behaviour, Params, Target
from training.config_errors import explain

P = TypeVar("P", bound=Params)

#: `auto` in `enabled`: where the log has data for it.
Enabled = Literal["auto"] | bool


#: A metric that every judged user has a value of.
USER_METRIC = r"^(recall|ndcg|mrr|hit_rate)@[1-9][0-9]*$"


def metric_length(metric: str) -> int:
    """The k of a metric that every user has a value of, as `ndcg@20`.

    Raises:
        ConfigError: there is no such metric.
    """
    if not re.match(USER_METRIC, metric):
        raise ConfigError(f"metric {metric!r}: write recall, ndcg, mrr or hit_rate with a length, as ndcg@20")
    return int(metric.partition("@")[2])


class Part(Params, Generic[P]):
    """One part of the engine: whether it is trained, and how.

    Attributes:
        enabled: true, false, or auto: where the log has data for it.
        params: its own parameters; their defaults and meanings are beside its code.
    """

    enabled: Enabled = "auto"
    params: P


class Models(Params):
    """The candidate models. Decayed popularity is always trained: it is the baseline and the fallback."""

    popular: PopularParams = PopularParams()
    als: Part[ALSParams] = Part(params=ALSParams())
    bpr: Part[BPRParams] = Part(enabled=False, params=BPRParams())
    item_knn: Part[ItemKNNParams] = Part(params=ItemKNNParams())
    co_visitation: Part[CoVisitationParams] = Part(params=CoVisitationParams())
    similar_items: Part[SimilarItemsParams] = Part(params=SimilarItemsParams())
    ease_items: Part[EASEItemsParams] = Part(enabled=False, params=EASEItemsParams())
    gf_cf_items: Part[GFCFItemsParams] = Part(enabled=False, params=GFCFItemsParams())
    repeat: Part[RepeatParams] = Part(params=RepeatParams())
    two_tower: Part[TwoTowerParams] = Part(params=TwoTowerParams())


class Evaluation(Params):
    """How a fit is judged.

    Attributes:
        k: lengths of list that every metric is taken at.
        samples: resamplings behind an interval.
        max_users: judge a random sample of this many users; null judges all.
        max_visits: rooms are judged by at most so many visits, one of each user.
        segments: user columns by which the figures are also split; one that the log lacks is left out.
        hot_backtest: whether the hot-item potential is judged too: one fit before the last half of the log,
            and what it would have said every week of it.
    """

    k: tuple[int, ...] = (10, 20, 50)
    samples: int = Field(default=1000, ge=100)
    max_users: int | None = Field(default=None, ge=1)
    max_visits: int = Field(default=3_000, ge=1)
    segments: tuple[str, ...] = ("age_band", "gender", "city_tier", "income_band")
    hot_backtest: bool = True

    @model_validator(mode="after")
    def _k_is_sensible(self) -> Self:
        if not self.k or min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise ValueError(f"k={list(self.k)}: name at least one list length, each from 1 up and only once")
        return self


class TrackingParams(Params):
    """Where runs are recorded.

    Attributes:
        uri: any MLflow tracking URI; null takes MLFLOW_TRACKING_URI, or else sqlite:///mlflow.db.
        experiment: name of the MLflow experiment.
        model_name: name of the registered model, whose aliases are `challenger` and `champion`.
        artifacts: where the files of runs go, as a folder or URI; null leaves that to a tracking server, and
            takes the folder `mlruns` beside a database file.
        max_bundle_mib: a larger bundle is recorded by its path and manifest instead of being copied.
    """

    uri: str | None = None
    experiment: str = Field(default="live-commerce", min_length=1)
    model_name: str = Field(default="live-commerce-recsys", min_length=1, pattern=r"^[^/:]+$")
    artifacts: str | None = None
    max_bundle_mib: int = Field(default=1024, ge=0)


class Guard(Params):
    """A metric that a new champion must not make worse.

    A metric of each user falls where it is worse by more than chance. One over all lists at once, such as
    coverage, has no interval: what it may lose is its tolerance.

    Attributes:
        target: of the lists of products, or of live rooms; a log without rooms passes those of rooms.
        metric: as in the comparison table, for example `coverage@20`.
        segment: only these users, for example `new`; null is everybody.
        better: which way is better.
        tolerance: how much worse it may be, as a share of the champion's value.
    """

    target: Target = Target.ITEM

    metric: str = Field(pattern=r"^(recall|ndcg|mrr|hit_rate|coverage|novelty|head_share)@[1-9][0-9]*$")
    segment: str | None = None
    better: Literal["higher", "lower"] = "higher"
    tolerance: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _segment_has_values(self) -> Self:
        if self.segment is not None and self.metric.startswith(("coverage", "novelty", "head_share")):
            raise ValueError(f"{self.metric} is of all lists at once: leave segment={self.segment} out")
        return self


class PromoteParams(Params):
    """What a challenger must show to become champion.

    Attributes:
        metric: the gate, a metric of each user: the challenger's must be better by more than chance. It is
            taken over the lists of products, or of live rooms where a log has no products.
        guards: what must not fall.
        samples: resamplings behind the paired interval.
        min_users: with fewer judged users nothing is promoted: their interval means little.
    """

    metric: str = Field(default="ndcg@20", pattern=USER_METRIC)
    guards: tuple[Guard, ...] = (
        Guard(metric="recall@20", segment="new"),
        Guard(metric="coverage@20", tolerance=0.05),
        Guard(metric="head_share@20", better="lower", tolerance=0.05),
        Guard(target=Target.ROOM, metric="ndcg@20"),
    )
    samples: int = Field(default=2000, ge=100)
    min_users: int = Field(default=30, ge=1)


class TrainingConfig(Params):
    """Everything that decides what is trained, judged, recorded and promoted.

    `seed`, `device`, `threads` and `weights`, where given at this level, hold for every part that has a
    setting of that name and is not told otherwise itself.

    Attributes:
        seed: of every random draw.
        device: cpu, cuda, or auto: cuda where there is one.
        threads: CPU threads, or auto: all cores.
        goals: behaviours that a recommendation is for, or auto: carts and purchases where the log has any.
        weights: how much each behaviour counts.
        split: the validation and test windows.
        models: candidate models.
        rooms: the model of live rooms.
        fusion: the combiner that merges the models' candidates into one answer.
        hot: hot-item potential.
        hold: segments of users, by name, who are shown some categories only.
        evaluation: how a fit is judged.
        tracking: where runs are recorded.
        promote: what a challenger must show.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    goals: Literal["auto"] | tuple[Behaviour, ...] = "auto"
    weights: BehaviourWeights = BehaviourWeights()
    split: SplitParams = SplitParams()
    models: Models = Models()
    rooms: Part[RoomParams] = Part(params=RoomParams())
    fusion: Part[FusionParams] = Part(params=FusionParams())
    hot: Part[HotParams] = Part(params=HotParams())
    hold: dict[str, HoldParams] = Field(default_factory=dict)
    evaluation: Evaluation = Evaluation()
    tracking: TrackingParams = TrackingParams()
    promote: PromoteParams = PromoteParams()

    @model_validator(mode="after")
    def _gates_are_measured(self) -> Self:
        for metric in (self.promote.metric, *(guard.metric for guard in self.promote.guards)):
            if int(metric.partition("@")[2]) not in self.evaluation.k:
                raise ValueError(
                    f"promote asks for {metric}, evaluation.k measures {list(self.evaluation.k)}"
                )
        return self

    @classmethod
    def load(
        cls, path: Path | str | Sequence[Path | str] | None = None, overrides: Sequence[str] = ()
    ) -> Self:
        """The configuration in a YAML file or several, with overrides on top.

        Args:
            path: the file, or files of which what a later one says lies on top; None is the defaults alone.
            overrides: `key.sub=value`, the value written as in YAML: `models.als.params.factors=64`.

        Raises:
            ConfigError: the file cannot be read, or a key or value is not valid; the message names the key,
                the value and what is allowed.
        """
        files = [path] if isinstance(path, (str, Path)) else path or []
        given: dict[str, Any] = {}
        for file in files:
            given = _laid_over(given, _read_yaml(Path(file)))
        for override in overrides:
            given = _laid_over(given, _as_tree(override))
        where = " and ".join(map(str, files)) or "configuration"
        return cls._checked(given, where if not overrides else f"{where} with --set {' '.join(overrides)}")

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "configuration") -> Self:
        """The configuration that a mapping spells, as `to_dict` wrote it or shorter.

        Raises:
            ConfigError: as in `load`.
        """
        return cls._checked(given, where)

    @classmethod
    def _checked(cls, given: Mapping[str, Any], where: str) -> Self:
        defaults = cls()
        whole = _laid_over(defaults.model_dump(), given)
        try:
            config = cls.model_validate(whole)
            shared = {name: given[name] for name in _SHARED if given.get(name) not in (None, "auto")}
            if not shared:
                return config
            whole = _laid_over(defaults.model_dump(), _laid_over(_spread(defaults, shared), given))
            return cls.model_validate(whole)
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, whole, defaults)}") from None

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration in plain values, for YAML and JSON; a password in the URI is masked."""
        plain = self.model_dump(mode="json")
        if self.tracking.uri is not None:
            plain["tracking"]["uri"] = masked(self.tracking.uri)
        return plain

    def to_yaml(self) -> str:
        """The resolved configuration as a file that `load` reads back to an equal one."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def changed(self, given: Mapping[str, Any], where: str) -> Self:
        """This configuration with a tree of values laid over it.

        Raises:
            ConfigError: as in `load`.
        """
        whole = _laid_over(self.model_dump(), given)
        try:
            return type(self).model_validate(whole)
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, whole, type(self)())}") from None

    def judged_like(self, other: TrainingConfig) -> TrainingConfig:
        """This configuration's models under another's windows, goals and metrics, so that the two compare.

        The seed is the other's too, because it draws the users that are judged where not all are.
        """
        judging = ("seed", "split", "goals", "evaluation", "tracking", "promote")
        return self.model_copy(update={name: getattr(other, name) for name in judging})


#: `scheme://user:password@` in a URI.
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*@")


def masked(uri: str) -> str:
    """The URI with `***` for a password."""
    return _PASSWORD.sub(r"\1***@", uri)


#: Settings of the top level that hold for every part which has one of the same name.
_SHARED = ("seed", "device", "threads", "weights")


def _spread(node: Params, shared: Mapping[str, Any], *, top: bool = True) -> dict[str, Any]:
    """The tree of the shared settings, at every place under `node` that has a setting of that name."""
    tree: dict[str, Any] = {}
    for name in type(node).model_fields:
        value = getattr(node, name)
        if name in shared and not top:
            tree[name] = shared[name]
        elif isinstance(value, Params) and name not in _SHARED:
            below = _spread(value, shared, top=False)
            if below:
                tree[name] = below
    return tree


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The two trees merged; where both have a value the upper one's is taken."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _laid_over(below, value)
        else:
            merged[key] = value
    return merged


def _as_tree(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override!r}: write it as key.sub=value, for example seed=7")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value: {_one_line(error)}") from error
    for name in reversed(names):
        value = {name: value}
    return dict(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not `key: value` lines")
    return content


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """Safe YAML without two surprises: a key given twice is an error, and yes, no, on, off are words."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
