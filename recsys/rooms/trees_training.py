"""Fits the second stage, LightGBM over the features alone."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
from pydantic import Field

from recsys.rooms.examples import RoomExamples
from recsys.types import LongArray, Params


class TreeParams(Params):
    """The second stage: a listwise ranker (XE-NDCG; Bruch et al., WWW 2021).

    Attributes:
        rounds: trees.
        learning_rate: shrinkage.
        leaves: of a tree.
        min_leaf: fewest rows of a leaf.
        column_share: share of the features that each tree may use.
        threads: at fitting.
        seed: of the columns drawn.
    """

    rounds: int = Field(default=120, ge=1)
    learning_rate: float = Field(default=0.06, gt=0)
    leaves: int = Field(default=15, ge=2)
    min_leaf: int = Field(default=100, ge=1)
    column_share: float = Field(default=0.5, gt=0, le=1)
    threads: int = Field(default=1, ge=1)
    seed: int = 0


def fit_trees(examples: RoomExamples, params: TreeParams) -> lgb.Booster:
    """Trees that put the room entered before the others of its example.

    Args:
        examples: to learn from; the taste columns are zero, so no tree uses them.
        params: of the trees.
    """
    settings: dict[str, Any] = {
        "objective": "rank_xendcg",
        "learning_rate": params.learning_rate,
        "num_leaves": params.leaves,
        "min_data_in_leaf": params.min_leaf,
        "feature_fraction": params.column_share,
        "num_threads": params.threads,
        "seed": params.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    return lgb.train(settings, lgb.Dataset(**_rows(examples)), params.rounds)


def _rows(examples: RoomExamples) -> dict[str, Any]:
    mask = examples.mask
    entered = np.zeros(mask.shape, dtype=np.int32)
    entered[:, 0] = 1
    sizes: LongArray = mask.sum(axis=1)
    return {
        "data": examples.features[mask],
        "label": entered[mask],
        "group": sizes,
        "weight": np.repeat(examples.weight, sizes),
        "free_raw_data": True,
    }
