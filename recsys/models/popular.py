"""Decayed popularity, overall and per user segment: the baseline to beat, and the answer for a cold user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset, Entities
from recsys.durations import DAY_US
from recsys.models.base import Model, top_k
from recsys.search import Within
from recsys.types import FloatArray, IntArray, Params, Progress, Target


class PopularParams(Params):
    """How popularity is counted.

    Attributes:
        weights: what each behaviour counts; its `half_life_days` is how fast popularity fades: a few days
            give what is trending, None all time.
        least_events: where the newest so many events that count reach further back than a half-life, that is
            the half-life: a few events say nothing of what is trending.
        segment_by: user columns whose combinations are the segments; one that the log lacks is left out.
        shrinkage_users: a segment of so many active users is trusted half; a smaller one leans on the whole.
    """

    weights: BehaviourWeights = BehaviourWeights(half_life_days=7.0)
    least_events: int = Field(default=500, ge=0)
    segment_by: tuple[str, ...] = ("age_band", "gender")
    shrinkage_users: Annotated[float, Within(1.0, 10_000.0, log=True)] = Field(default=100.0, ge=0)


@dataclass(frozen=True)
class Segments:
    """Which segment each user is in. Segment 0 is everybody, and holds those of whom nothing is known.

    Attributes:
        names: as `age_band=25-34 gender=F`; "" for segment 0.
        of_user: (users,) int32.
    """

    names: tuple[str, ...]
    of_user: IntArray

    @classmethod
    def of(cls, users: Entities, columns: tuple[str, ...]) -> Segments:
        """The combinations of the columns' values that occur; a missing value is left out of the name."""
        labels = np.full(len(users), "", dtype=object)
        for name in columns:
            column = users.column(name)
            if column is None or column.null_count == len(column):
                continue
            values = column.cast(pa.string()).to_pylist()
            labels += np.array(
                [f" {name}={value}" if value is not None else "" for value in values], dtype=object
            )
        # A fixed-width copy of at least the empty label keeps "" first: numpy sorts it before any other.
        names, of_user = np.unique(np.append([""], labels.astype(str)), return_inverse=True)
        return cls(tuple(str(name).strip() for name in names), of_user[1:].astype(np.int32))


class Popular(Model):
    """Ranks targets by decayed popularity in the user's segment, shrunk towards everybody's.

    With c(s, i) the summed confidence of target i in segment s, n(s) the segment's active users and m
    `shrinkage_users`, the score is the share c(s, i) / c(s) with weight n(s) / (n(s) + m), plus everybody's
    share c(i) / c with the rest of the weight.

    Attributes:
        params: `PopularParams`.
        segments: which segment each user is in.
        shares: (segments, targets) float32; a row sums to 1. Row 0 is everybody.
    """

    name: ClassVar[str] = "popular"

    segments: Segments
    shares: FloatArray

    def __init__(self, params: PopularParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or PopularParams()

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        interactions = dataset.interactions(self.target, self._weights(dataset))
        self.segments = Segments.of(dataset.users, self.params.segment_by)
        n_segments = len(self.segments.names)
        member = sparse.csr_matrix(
            (np.ones(self.n_users), (self.segments.of_user, np.arange(self.n_users))),
            shape=(n_segments, self.n_users),
        )
        counts = np.asarray((member @ interactions).todense(), dtype=np.float64)
        counts[0] = np.asarray(interactions.sum(axis=0, dtype=np.float64)).ravel()
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        active = np.bincount(
            self.segments.of_user, weights=np.diff(interactions.indptr) > 0, minlength=n_segments
        )
        trust = np.divide(
            active, active + self.params.shrinkage_users, out=np.zeros(n_segments), where=active > 0
        )
        trust[0] = 1.0
        self.shares = (trust[:, None] * shares + (1 - trust[:, None]) * shares[0]).astype(np.float32)

    def _weights(self, dataset: Dataset) -> BehaviourWeights:
        weights, events = dataset.settle(self.params.weights), dataset.events
        counted = events.is_any(tuple(weights.weights)) & (events.target_idx(self.target) >= 0)
        newest_us = events.timestamp_us[counted][-self.params.least_events :]
        if weights.half_life_days is None or not self.params.least_events or not len(newest_us):
            return weights
        reach_days = (dataset.as_of_us - int(newest_us[0])) / DAY_US
        return weights.model_copy(update={"half_life_days": max(float(weights.half_life_days), reach_days)})

    def _scores(self, users: IntArray) -> FloatArray:
        scores = self.shares[self.segments.of_user[users]]
        scores[scores <= 0] = -np.inf
        return scores

    def segment_lists(self, *, k: int) -> dict[str, tuple[IntArray, FloatArray]]:
        """The best k targets of each segment: name -> ids and shares, best first; "" is everybody."""
        scores = np.where(self.shares > 0, self.shares, np.float32(-np.inf))
        best = top_k(scores, k=min(k, self.n_targets))
        return {name: best.row(row) for row, name in enumerate(self.segments.names)}
