"""Which candidate models a log has data for, built from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from recsys.data.dataset import Dataset
from recsys.models.base import Model
from recsys.models.collaborative import ALS, BPR, ItemKNN
from recsys.models.history_models import CoVisitation, Repeat, SimilarItems
from recsys.models.popular import Popular
from recsys.models.two_tower import TwoTower
from recsys.types import Progress, Target
from training.config import Enabled, Models, TrainingConfig

_log = logging.getLogger(__name__)

#: Users and targets with an interaction below which only popularity is trained: nothing is shared between
#: so few, and `implicit` has nothing to factorise.
MIN_USERS = 10
MIN_TARGETS = 10
#: Interactions below which `auto` leaves the two-tower out.
MIN_TWO_TOWER_EVENTS = 1_000

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
    chosen = config.models
    interactions = dataset.interactions(target, config.weights)
    users, targets = len(set(interactions.nonzero()[0])), len(set(interactions.indices))
    enough = users >= MIN_USERS and targets >= MIN_TARGETS
    if not enough:
        _log.warning("%d users and %d %ss with interactions: popularity alone", users, targets, target.value)
    builders = _builders(config, chosen, target, steps or {}, checkpoints)
    models: list[Model] = []
    for name, (enabled, build) in builders.items():
        if enabled is False or (enabled == "auto" and not enough):
            continue
        if name == TwoTower.name and enabled == "auto" and interactions.nnz < MIN_TWO_TOWER_EVENTS:
            continue
        models.append(build())
    return [*models, Popular(chosen.popular, target=target)]


def _builders(
    config: TrainingConfig, chosen: Models, target: Target, steps: Steps, checkpoints: Path | None
) -> dict[str, tuple[Enabled, Callable[[], Model]]]:
    def two_tower() -> Model:
        params = chosen.two_tower.params
        if TwoTower.name in steps:
            params = params.model_copy(update={"steps": max(1, steps[TwoTower.name])})
        return TwoTower(
            params,
            target=target,
            weights=config.weights,
            device=config.device,
            seed=config.seed,
            checkpoint_dir=None if checkpoints is None else checkpoints / f"{target.value}_{TwoTower.name}",
        )

    return {
        TwoTower.name: (chosen.two_tower.enabled, two_tower),
        ALS.name: (chosen.als.enabled, lambda: ALS(chosen.als.params, target=target)),
        BPR.name: (chosen.bpr.enabled, lambda: BPR(chosen.bpr.params, target=target)),
        ItemKNN.name: (chosen.item_knn.enabled, lambda: ItemKNN(chosen.item_knn.params, target=target)),
        CoVisitation.name: (
            chosen.co_visitation.enabled,
            lambda: CoVisitation(chosen.co_visitation.params, target=target),
        ),
        SimilarItems.name: (
            chosen.similar_items.enabled,
            lambda: SimilarItems(chosen.similar_items.params, target=target),
        ),
        Repeat.name: (chosen.repeat.enabled, lambda: Repeat(chosen.repeat.params, target=target)),
    }


def fit_all(models: list[Model], dataset: Dataset, *, progress: Progress | None = None) -> list[Model]:
    """The models, fitted one after the other; returns them."""
    for done, model in enumerate(models):
        if progress is not None:
            progress(done, len(models), f"fitting {model.name}")
        model.fit(dataset, progress=progress)
    return models
