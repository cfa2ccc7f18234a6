"""Past origins and what followed them: what the model learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.errors import ModelError
from recsys.hot.features import FeatureTable, build_features
from recsys.hot.panel import Panel
from recsys.hot.params import HotParams
from recsys.hot.targets import Outcomes, TargetBuilder, population
from recsys.hot.windows import Samples
from recsys.types import BoolArray, FloatArray, IntArray, LongArray, Progress

#: A short log is used more closely: at least so many origins, if need be a day apart.
WISHED_ORIGINS = 12


@dataclass(frozen=True)
class TrainingSet:
    """R labelled samples, none of which had come about already at its origin.

    Attributes:
        samples: items and origins.
        features: (R, F).
        outcomes: what followed each.
        weight: (R,) float32 how many samples each stands for, above 1 where negatives were thinned.
        horizon_last_day: days from an origin to the last day its label depends on.
    """

    samples: Samples
    features: FeatureTable
    outcomes: Outcomes
    weight: FloatArray
    horizon_last_day: int

    def at(self, rows: LongArray) -> TrainingSet:
        """Some of the samples."""
        return TrainingSet(
            samples=self.samples.at(rows),
            features=self.features.at(rows),
            outcomes=self.outcomes.at(rows),
            weight=self.weight[rows],
            horizon_last_day=self.horizon_last_day,
        )


def training_origins(builder: TargetBuilder, params: HotParams) -> IntArray:
    """Past origins to learn from, ascending; the last one's horizon ends with the panel's last day.

    Raises:
        ModelError: too few days; says how many more are needed.
    """
    learner, last = params.learner, builder.last_origin()
    first = learner.min_history_days
    missing = first + learner.min_origins - 1 - last
    if missing > 0:
        raise ModelError(
            f"the log has {builder.panel.days} before the origin, and a horizon of"
            f" {params.target.horizon} needs {builder.panel.n_days + missing}: {missing} more"
        )
    step = int(np.clip((last - first) // (WISHED_ORIGINS - 1), 1, learner.origin_step_days))
    origins = np.arange(last, first - 1, -step, dtype=np.int32)
    return origins[: learner.max_origins][::-1]


def samples_at(panel: Panel, origins: IntArray, population_days: int) -> Samples:
    """Every item active or listed before each origin."""
    items = [population(panel, int(origin), population_days) for origin in origins]
    return Samples(
        np.concatenate(items),
        np.repeat(origins, [len(each) for each in items]).astype(np.int32),
    )


def open_samples(panel: Panel, origins: IntArray, *builders: TargetBuilder) -> tuple[Samples, list[Outcomes]]:
    """Items active or listed before each origin for which the target had not come about by the first of the
    builders, and what followed them by each.

    Who is in the top share depends on all who are there: outcomes are read before anybody is left out.
    """
    every = samples_at(panel, origins, builders[0].params.population_days)
    still_open = np.flatnonzero(~builders[0].already(every))
    return every.at(still_open), [builder.outcomes(every).at(still_open) for builder in builders]


def build_training_set(
    panel: Panel,
    builder: TargetBuilder,
    params: HotParams,
    memberships: Mapping[str, sparse.csr_matrix],
    *,
    asked: Samples,
    progress: Progress | None = None,
) -> tuple[TrainingSet, FeatureTable]:
    """Labelled samples of past origins, negatives thinned to `max_rows`, and features of those asked for.

    Both come from one pass over the panel: the running totals cost more than reading them.

    Raises:
        ModelError: the log is too short.
    """
    every, [outcomes] = open_samples(panel, training_origins(builder, params), builder)
    weight = thinning_weight(outcomes.label, params.learner.max_rows, params.learner.seed)
    kept = np.flatnonzero(weight)
    samples = every.at(kept)
    features = build_features(
        panel,
        params.target,
        Samples.joined(samples, asked),
        memberships,
        threads=params.learner.threads,
        progress=progress,
    )
    training = TrainingSet(
        samples=samples,
        features=FeatureTable(features.names, features.values[: len(samples)]),
        outcomes=outcomes.at(kept),
        weight=weight[kept],
        horizon_last_day=params.target.horizon_last_day,
    )
    return training, FeatureTable(features.names, features.values[len(samples) :])


def thinning_weight(label: BoolArray, max_rows: int, seed: int) -> FloatArray:
    """(R,) float32: 0 for negatives left out, so that `max_rows` stay; the kept ones stand for those."""
    weight = np.ones(len(label), dtype=np.float32)
    negatives = np.flatnonzero(~label)
    room = max(max_rows - int(label.sum()), max_rows // 2)
    if len(negatives) > room:
        kept = np.random.default_rng(seed).choice(negatives, size=room, replace=False)
        weight[negatives] = 0.0
        weight[kept] = len(negatives) / room
    return weight
