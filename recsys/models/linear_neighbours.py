"""Closed-form models cut to their best neighbours, so that the request path can look them up.

What a linear model says of a history is the sum of what it says of each target in it. Kept are the best of
every target, and they are looked up from the latest actions instead of the whole past.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.models.base import SCORES_AT_ONCE, top_k
from recsys.models.history_models import HistoryModel
from recsys.models.linear import EASE, GFCF, EASEParams, GFCFParams, LinearModel
from recsys.models.neighbours import Neighbours, RecencyParams
from recsys.search import Within
from recsys.types import Params, Target


class LookUpParams(Params):
    """How a linear model is cut and looked up.

    Attributes:
        neighbours: how many are kept for each target.
        recency: how a history is weighed.
    """

    neighbours: Annotated[int, Within(20, 400, log=True)] = Field(default=100, ge=1)
    recency: RecencyParams = RecencyParams(half_life_hours=24.0 * 7)


class EASEItemsParams(LookUpParams):
    """EASE, looked up.

    Attributes:
        ease: how the weights are found.
    """

    ease: EASEParams = EASEParams(most_targets=6_000)


class GFCFItemsParams(LookUpParams):
    """A graph filter, looked up.

    Attributes:
        gf_cf: how the graph is filtered.
    """

    gf_cf: GFCFParams = GFCFParams(factors=128)


class _LinearItems(HistoryModel):
    """A linear model's neighbours."""

    def __init__(self, look_up: LookUpParams, *, target: Target) -> None:
        super().__init__(target=target)
        self.look_up = look_up
        self.length = look_up.recency.length

    def refusal(self, dataset: Dataset) -> str | None:
        """What the linear model says."""
        return self._linear().refusal(dataset)

    def _scorer(self, dataset: Dataset) -> Neighbours:
        model = self._linear().fit(dataset)
        return neighbours_of(model, k=self.look_up.neighbours, recency=self.look_up.recency)

    @abstractmethod
    def _linear(self) -> LinearModel:
        """The model, not fitted."""


class EASEItems(_LinearItems):
    """Neighbours by EASE."""

    name: ClassVar[str] = "ease_items"

    def __init__(self, params: EASEItemsParams | None = None, *, target: Target = Target.ITEM) -> None:
        self.params = params or EASEItemsParams()
        super().__init__(self.params, target=target)

    def _linear(self) -> EASE:
        return EASE(self.params.ease, target=self.target)


class GFCFItems(_LinearItems):
    """Neighbours by GF-CF or, with sharpening, BSPM."""

    name: ClassVar[str] = "gf_cf_items"

    def __init__(self, params: GFCFItemsParams | None = None, *, target: Target = Target.ITEM) -> None:
        self.params = params or GFCFItemsParams()
        super().__init__(self.params, target=target)

    def _linear(self) -> GFCF:
        return GFCF(self.params.gf_cf, target=self.target)


def neighbours_of(model: LinearModel, *, k: int, recency: RecencyParams) -> Neighbours:
    """The k best of each touched target, best first, without itself; a score of 0 or less says nothing."""
    touched = np.unique(model.interactions.indices).astype(np.int32)
    n = model.n_targets
    k = min(k, n)
    counts = np.zeros(n, dtype=np.int64)
    ids, scores = [], []
    batch = max(1, SCORES_AT_ONCE // n)
    for start in range(0, len(touched), batch):
        rows = touched[start : start + batch]
        alone = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), rows, np.arange(len(rows) + 1)), shape=(len(rows), n)
        )
        found = model.spoken_for(alone)
        found[found <= 0] = -np.inf
        best = top_k(found, k=k, exclude=alone)
        named = np.arange(k) < best.counts[:, None]
        counts[rows] = best.counts
        ids.append(best.ids[named])
        scores.append(best.scores[named])
    return Neighbours(
        indptr=np.concatenate([[0], np.cumsum(counts)]),
        ids=np.concatenate([np.zeros(0, np.int32), *ids]),
        scores=np.concatenate([np.zeros(0, np.float32), *scores]),
        recency=recency,
    )
