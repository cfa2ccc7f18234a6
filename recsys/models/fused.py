"""The fused answer as a model: fitted sources, merged by a combiner. What is evaluated is what is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.base import Model, asked_of
from recsys.models.fusion import HISTORY_LENGTH, Combiner, Fused
from recsys.models.fusion_training import consumption, item_table
from recsys.types import BoolArray, Candidates, IntArray

_USERS_AT_ONCE = 512


class FusedModel:
    """Answers as the request path does, for a batch of the users of a Dataset.

    Args:
        sources: fitted on `dataset`, in the order of `combiner.sources`.
        combiner: from `train_fusion`; its item table is renewed from `dataset`.
        dataset: the log as of the moment of asking.

    Raises:
        ModelError: the sources are not those that the combiner was trained on.
    """

    name: ClassVar[str] = "fused"

    def __init__(self, sources: Sequence[Model], combiner: Combiner, dataset: Dataset) -> None:
        names = tuple(source.name for source in sources)
        if names != combiner.sources:
            raise ModelError(
                f"the combiner was trained on {', '.join(combiner.sources)}; "
                f"these sources are {', '.join(names)}"
            )
        self.sources = tuple(sources)
        self.target = sources[0].target
        self.combiner = combiner.with_table(item_table(dataset, self.target))
        self.n_users = len(dataset.users)
        self.n_targets = len(self.combiner.table)
        self.as_of_us = dataset.as_of_us
        self.histories = dataset.histories(self.target)
        self.consumed = dataset.done(self.target, consumption(dataset))

    def recommend(
        self,
        users: IntArray,
        *,
        k: int,
        exclude: sparse.csr_matrix | None = None,
        allowed: BoolArray | None = None,
    ) -> Candidates:
        """The best k targets of each user; see `Model.recommend`."""
        return self.recommend_fused(users, k=k, exclude=exclude, allowed=allowed).candidates

    def recommend_fused(
        self,
        users: IntArray,
        *,
        k: int,
        exclude: sparse.csr_matrix | None = None,
        allowed: BoolArray | None = None,
    ) -> Fused:
        """The best k targets of each user, and which source speaks most for each.

        Consumed targets are left out where the combiner says so, besides what `exclude` holds.

        Args:
            users: (B,) int32 user indices as of the fit.
            k: how many; at most sources x depth come back.
            exclude: (B, targets) CSR; its stored cells are left out, row b for users[b].
            allowed: (targets,) which targets may be recommended at all.

        Raises:
            ModelError: k below 1, or a user index outside the fit.
        """
        users = asked_of(users, k=k, n_users=self.n_users)
        parts = []
        for start in range(0, max(len(users), 1), _USERS_AT_ONCE):
            chosen = slice(start, start + _USERS_AT_ONCE)
            batch = users[chosen]
            out = None if exclude is None else exclude[chosen]
            if not self.combiner.returns:
                consumed = self.consumed[batch]
                out = consumed if out is None else sparse.csr_matrix(out + consumed)
            found = [
                source.recommend(batch, k=self.combiner.depth, exclude=out, allowed=allowed)
                for source in self.sources
            ]
            at_us = np.full(len(batch), self.as_of_us, dtype=np.int64)
            history = self.histories.last(batch, HISTORY_LENGTH)
            parts.append(self.combiner.recommend(found, history, at_us, k=min(k, self.n_targets)))
        return Fused(
            Candidates(
                np.concatenate([part.candidates.ids for part in parts]),
                np.concatenate([part.candidates.scores for part in parts]),
                np.concatenate([part.candidates.counts for part in parts]),
            ),
            np.concatenate([part.source for part in parts]),
        )
