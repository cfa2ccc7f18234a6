"""Which candidate models a log has data for, built from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np

from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.models.base import Model
from recsys.models.collaborative import ALS, BPR, ItemKNN
from recsys.models.history_models import CoVisitation, Repeat, SimilarItems
from recsys.models.linear_neighbours import EASEItems, GFCFItems
from recsys.models.popular import Popular
from recsys.models.two_tower import TwoTower
from recsys.models.two_tower_params import TwoTowerParams
from recsys.types import Params, Progress, Target
from training.config import Enabled, Part, TrainingConfig

#: Users with two targets or more, and targets, below which nothing is shared between users: what a factor
#: model would find is noise. A user's own past and what is popular need no others.
MIN_USERS = 10
MIN_TARGETS = 10
ALONE = (Repeat.name, Popular.name)
#: Interactions below which `auto` leaves the two-tower out.
MIN_TWO_TOWER_EVENTS = 1_000

#: Every candidate model by its name, which is its key under `models` too. Popularity, the fallback, is last.
MODELS: Mapping[str, Callable[..., Model]] = {
    kind.name: kind
    for kind in (
        TwoTower,
        ALS,
        BPR,
        ItemKNN,
        CoVisitation,
        SimilarItems,
        EASEItems,
        GFCFItems,
        Repeat,
        Popular,
    )
}

#: Steps of training by model name: how a fit of known length is repeated without holding anything out.
Steps = Mapping[str, int]


def candidate_models(
    config: TrainingConfig,
    dataset: Dataset,
    target: Target,
    *,
    steps: Steps | None = None,
    checkpoints: Path | None = None,
) -> list[Model]:
    """Unfitted models in a fixed order, popularity last.

    Args:
        config: of the run.
        dataset: decides what `auto` means; use the same one for every fit of a run, so that the fits agree.
        target: what is recommended.
        steps: see `Steps`; a model that is not named stops early on its own validation.
        checkpoints: folder in which long trainings keep their last state.
    """
    left = left_out(config, dataset, target)
    return [
        build_model(name, config, target, steps=steps, checkpoints=checkpoints)
        for name in MODELS
        if enabled(config, name) is not False and name not in left
    ]


def left_out(config: TrainingConfig, dataset: Dataset, target: Target) -> dict[str, str]:
    """Models that `auto` leaves out for this log, by name, and why."""
    interactions = dataset.interactions(target, config.weights)
    users, targets = int((np.diff(interactions.indptr) > 1).sum()), len(np.unique(interactions.indices))
    few = users < MIN_USERS or targets < MIN_TARGETS
    reasons: dict[str, str] = {}
    for name in MODELS:
        if enabled(config, name) != "auto":
            continue
        if few and name not in ALONE:
            reasons[name] = (
                f"{users} users of two {target.value}s or more and {targets} {target.value}s with"
                " interactions are too few"
            )
        elif name == TwoTower.name and interactions.nnz < MIN_TWO_TOWER_EVENTS:
            reasons[name] = f"{interactions.nnz} interactions are too few"
        elif (refusal := build_model(name, config, target).refusal(dataset)) is not None:
            reasons[name] = refusal
    return reasons


def enabled(config: TrainingConfig, name: str) -> Enabled:
    """Whether a model is trained. Popularity always is."""
    return True if name == Popular.name else cast(Enabled, getattr(config.models, name).enabled)


def build_model(
    name: str,
    config: TrainingConfig,
    target: Target,
    *,
    steps: Steps | None = None,
    checkpoints: Path | None = None,
) -> Model:
    """One model as the configuration says, not fitted; see `candidate_models`.

    Raises:
        ConfigError: no model has that name.
    """
    params = params_of(config, name)
    if isinstance(params, TwoTowerParams):
        if steps and name in steps:
            params = params.model_copy(update={"steps": max(1, steps[name])})
        return TwoTower(
            params,
            target=target,
            weights=config.weights,
            device=config.device,
            seed=config.seed,
            checkpoint_dir=None if checkpoints is None else checkpoints / f"{target.value}_{name}",
        )
    return MODELS[name](params, target=target)


def params_of(config: TrainingConfig, name: str) -> Params:
    """The parameters of one model.

    Raises:
        ConfigError: no model has that name.
    """
    if name not in MODELS:
        close = get_close_matches(name, MODELS, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"model {name!r}: there is no such model; {meant}there are {', '.join(MODELS)}")
    part = getattr(config.models, name)
    params: Params = part.params if isinstance(part, Part) else part
    return params


def with_params(config: TrainingConfig, name: str, changes: Mapping[str, Any]) -> TrainingConfig:
    """The configuration with some of a model's parameters changed; `changes` is a tree.

    Raises:
        ConfigError: as in `TrainingConfig.load`.
    """
    part = getattr(config.models, name)
    tree = {"params": changes} if isinstance(part, Part) else changes
    return config.changed({"models": {name: tree}}, f"models.{name}")


def fit_all(models: list[Model], dataset: Dataset, *, progress: Progress | None = None) -> list[Model]:
    """The models, fitted one after the other; returns them."""
    for done, model in enumerate(models):
        if progress is not None:
            progress(done, len(models), f"fitting {model.name}")
        model.fit(dataset, progress=progress)
    return models
