"""Item-to-item lists applied to a user's latest actions: numpy only, for the request path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from recsys.data.histories import HistoryBatch
from recsys.durations import HOUR_US
from recsys.models.ragged import Ragged
from recsys.search import Within
from recsys.slices import expand
from recsys.types import BEHAVIOURS, Behaviour, FloatArray, IntArray, LongArray, Params

#: How much an action says about what its user wants next.
INTENT: Mapping[Behaviour, float] = {
    Behaviour.CLICK: 1.0,
    Behaviour.VIEW: 1.0,
    Behaviour.ENTER: 1.0,
    Behaviour.LIKE: 1.5,
    Behaviour.COMMENT: 1.5,
    Behaviour.SHARE: 2.0,
    Behaviour.FOLLOW: 2.0,
    Behaviour.FAVOURITE: 2.0,
    Behaviour.GIFT: 2.0,
    Behaviour.CART: 3.0,
    Behaviour.PURCHASE: 2.0,
}


class RecencyParams(Params):
    """How the actions of a history are weighed.

    Attributes:
        length: how many of the latest actions count.
        half_life_hours: age at which an action counts half, down to `floor`.
        step: what each action counts of the one after it, so that the order matters whatever the clock says.
        floor: least share of its weight that an old action keeps.
        intent: weight of each behaviour; one left out counts 0.
    """

    length: Annotated[int, Within(5, 100, log=True)] = Field(default=30, ge=1)
    half_life_hours: Annotated[float, Within(1.0, 24.0 * 90, log=True)] = Field(default=24.0, gt=0)
    step: Annotated[float, Within(0.8, 1.0)] = Field(default=0.95, gt=0, le=1)
    floor: Annotated[float, Within(0.0, 0.5)] = Field(default=0.1, ge=0, le=1)
    intent: dict[Behaviour, float] = Field(default_factory=lambda: dict(INTENT))

    def weights(self, history: HistoryBatch, at_us: LongArray) -> FloatArray:
        """(B, L) float32 weight of each action at the moments `at_us` (B,); 0 where the mask is False."""
        table = np.zeros(len(BEHAVIOURS), dtype=np.float32)
        for behaviour, weight in self.intent.items():
            table[behaviour.code] = weight
        age_hours = np.maximum(at_us[:, None] - history.timestamp_us, 0) / HOUR_US
        steps_back = np.arange(history.mask.shape[1])[::-1]
        decay = np.maximum(np.exp2(-age_hours / self.half_life_hours), self.floor)
        weights = table[history.behaviour] * decay * self.step**steps_back
        weights[~history.mask | (steps_back >= self.length)] = 0.0
        masked: FloatArray = weights.astype(np.float32)
        return masked


@dataclass(frozen=True)
class Neighbours:
    """For each target, the targets that its presence in a history speaks for.

    Attributes:
        indptr: (targets + 1,) int64; the list of target i is at `indptr[i]:indptr[i + 1]`.
        ids: (N,) int32 neighbours, best first within a list.
        scores: (N,) float32.
        recency: how a history's actions are weighed.
    """

    indptr: LongArray
    ids: IntArray
    scores: FloatArray
    recency: RecencyParams

    @property
    def n_targets(self) -> int:
        """How many targets there are."""
        return len(self.indptr) - 1

    def score(self, history: HistoryBatch, at_us: LongArray) -> Ragged:
        """Sum over a user's latest actions of weight x neighbour score, for all that they speak for.

        Args:
            history: of B users, (B, L).
            at_us: (B,) int64, the moments of asking.
        """
        weights = self.recency.weights(history, at_us)
        row, column = np.nonzero(weights)
        source = history.target_idx[row, column]
        start = self.indptr[source]
        position, owner = expand(start, self.indptr[source + 1] - start)
        return Ragged.summed(
            row[owner],
            self.ids[position],
            weights[row, column][owner] * self.scores[position],
            n_rows=len(at_us),
            n_targets=self.n_targets,
        )

    def to_parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by name; `recency` goes with the manifest."""
        return {"indptr": self.indptr, "ids": self.ids, "scores": self.scores}
