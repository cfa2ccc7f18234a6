"""Models whose answer follows from a user's latest actions: co-visitation, similar items, returns.

Each is fitted here and scored by its numpy half, which the request path uses as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse

from recsys.data.behaviours import HalfLife, half_life_in
from recsys.data.dataset import Dataset
from recsys.data.histories import Histories
from recsys.durations import DAY_US, HOUR_US
from recsys.models.collaborative import ItemKNN, ItemKNNParams
from recsys.models.history_scorer import HistoryScorer
from recsys.models.neighbours import INTENT, Neighbours, RecencyParams
from recsys.models.repeat import MAX_TOUCHES, N_AGES, N_STAGES, ReturnRates, Touches
from recsys.models.sparse_model import SparseModel
from recsys.search import Within
from recsys.slices import rank_in_group
from recsys.types import BEHAVIOURS, Behaviour, FloatArray, IntArray, LongArray, Params, Progress, Target


class HistoryModel(SparseModel):
    """A model that reads the latest `length` actions of a user, whoever the user is.

    Attributes:
        scorer: the fitted numpy half.
        histories: of the users of the fit.
        as_of_us: the moment of the fit, from which the age of an action is counted in `recommend`.
        length: how many of the latest actions are read.
    """

    scorer: HistoryScorer
    histories: Histories
    as_of_us: int
    length: int = 100

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        self.histories = dataset.histories(self.target)
        self.as_of_us = dataset.as_of_us
        self.scorer = self._scorer(dataset)

    def _pairs(self, users: IntArray) -> sparse.csr_matrix:
        at_us = np.full(len(users), self.as_of_us, dtype=np.int64)
        found = self.scorer.score(self.histories.last(users, self.length), at_us)
        indptr = np.searchsorted(found.row, np.arange(len(users) + 1))
        return sparse.csr_matrix((found.scores, found.ids, indptr), shape=(len(users), self.n_targets))

    @abstractmethod
    def _scorer(self, dataset: Dataset) -> HistoryScorer:
        """The numpy half, fitted; `histories` is set."""


class CoVisitationParams(Params):
    """Which actions follow each other, and how much each pair counts.

    Attributes:
        max_steps: how many actions apart two may be.
        max_gap_hours: how many hours apart.
        gap_half_life_hours: gap at which a pair counts half.
        backward: what a pair counts for its earlier item, of what it counts for the later one.
        half_life_days: age at which a pair counts half; auto is a sixth of the log's length.
        popularity_damping: exponent b of score = pairs(i, j) / (count(i) count(j)^b).
        prior: added to each item's count, so that one chance pair does not make a perfect neighbour.
        neighbours: how many are kept for each item.
        intent: weight of the later action of a pair, by its behaviour.
        recency: how a history is weighed when its neighbours are looked up.
    """

    max_steps: Annotated[int, Within(3, 40, log=True)] = Field(default=15, ge=1)
    max_gap_hours: Annotated[float, Within(1.0, 24.0 * 30, log=True)] = Field(default=24.0 * 7, gt=0)
    gap_half_life_hours: Annotated[float, Within(1.0, 24.0 * 30, log=True)] = Field(default=24.0, gt=0)
    backward: Annotated[float, Within(0.0, 1.0)] = Field(default=0.7, ge=0, le=1)
    half_life_days: Annotated[HalfLife, Within(0.5, 365.0, log=True)] = "auto"
    popularity_damping: Annotated[float, Within(0.0, 1.0)] = Field(default=0.4, ge=0, le=1)
    prior: Annotated[float, Within(0.0, 20.0)] = Field(default=2.0, ge=0)
    neighbours: Annotated[int, Within(20, 300, log=True)] = Field(default=100, ge=1)
    intent: dict[Behaviour, float] = Field(default_factory=lambda: dict(INTENT))
    recency: RecencyParams = RecencyParams()


class CoVisitation(HistoryModel):
    """Items that follow each other in users' histories, weighed by order, time between and behaviour."""

    name: ClassVar[str] = "co_visitation"

    def __init__(self, params: CoVisitationParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or CoVisitationParams()
        self.length = self.params.recency.length

    def _scorer(self, dataset: Dataset) -> Neighbours:
        params = self.params
        half_life_days = half_life_in(params.half_life_days, dataset.days)
        pairs = count_pairs(
            self.histories, dataset.as_of_us, self.n_targets, params, half_life_days=half_life_days
        )
        decay = np.exp2((self.histories.timestamp_us - dataset.as_of_us) / (half_life_days * DAY_US))
        count = np.bincount(self.histories.target_idx, weights=decay, minlength=self.n_targets) + params.prior
        pairs.data /= np.repeat(count, np.diff(pairs.indptr)).astype(np.float32)
        pairs.data /= (count[pairs.indices] ** params.popularity_damping).astype(np.float32)
        return neighbour_lists(pairs, k=params.neighbours, recency=params.recency)


def count_pairs(
    histories: Histories,
    as_of_us: int,
    n_targets: int,
    params: CoVisitationParams,
    *,
    half_life_days: float,
) -> sparse.csr_matrix:
    """Weighted pairs of actions of one user: (targets, targets) float32 CSR; row i speaks for column j.

    Args:
        histories: of all users.
        as_of_us: the moment from which the age of a pair is counted.
        n_targets: how many there are.
        params: which pairs count, and how much.
        half_life_days: age at which a pair counts half.
    """
    user = np.repeat(np.arange(len(histories)), np.diff(histories.indptr))
    table = np.zeros(len(BEHAVIOURS), dtype=np.float32)
    for behaviour, weight in params.intent.items():
        table[behaviour.code] = weight
    intent = table[histories.behaviour]
    at_us, item = histories.timestamp_us, histories.target_idx
    shape = (n_targets, n_targets)
    nothing = np.zeros(0, dtype=np.int32)
    total = sparse.csr_matrix((nothing.astype(np.float32), (nothing, nothing)), shape=shape)
    for step in range(1, min(params.max_steps, max(len(user) - 1, 0)) + 1):
        gap_hours = (at_us[step:] - at_us[:-step]) / HOUR_US
        together = (user[step:] == user[:-step]) & (item[step:] != item[:-step])
        first = np.flatnonzero(together & (gap_hours <= params.max_gap_hours))
        later = first + step
        age_days = (as_of_us - at_us[later]) / DAY_US
        halvings = gap_hours[first] / params.gap_half_life_hours + age_days / half_life_days
        closeness = np.exp2(-halvings) / step
        rows = np.concatenate([item[first], item[later]])
        columns = np.concatenate([item[later], item[first]])
        values = np.concatenate([closeness * intent[later], params.backward * closeness * intent[first]])
        total = total + sparse.csr_matrix((values.astype(np.float32), (rows, columns)), shape=shape)
    matrix = sparse.csr_matrix(total)
    matrix.eliminate_zeros()
    return matrix


def neighbour_lists(similarity: sparse.csr_matrix, *, k: int, recency: RecencyParams) -> Neighbours:
    """The k best of each row, best first, without the diagonal; for any item-to-item matrix."""
    pairs = sparse.coo_matrix(similarity)
    off = pairs.row != pairs.col
    row, column, score = pairs.row[off], pairs.col[off], pairs.data[off]
    order = np.lexsort((column, -score, row))
    row, column, score = row[order], column[order], score[order]
    kept = rank_in_group(row) < k
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=similarity.shape[0]))])
    return Neighbours(
        indptr=indptr.astype(np.int64),
        ids=column[kept].astype(np.int32),
        scores=score[kept].astype(np.float32),
        recency=recency,
    )


class SimilarItemsParams(Params):
    """Item-kNN, looked up from the latest actions instead of the whole past.

    Attributes:
        knn: how the neighbours are found.
        recency: how a history is weighed.
    """

    knn: ItemKNNParams = ItemKNNParams()
    recency: RecencyParams = RecencyParams(half_life_hours=24.0 * 7)


class SimilarItems(HistoryModel):
    """Neighbours by who interacts with them (`ItemKNN`), without the item itself."""

    name: ClassVar[str] = "similar_items"

    def __init__(self, params: SimilarItemsParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or SimilarItemsParams()
        self.length = self.params.recency.length

    def _scorer(self, dataset: Dataset) -> Neighbours:
        knn = ItemKNN(self.params.knn, target=self.target).fit(dataset)
        return neighbour_lists(knn.similarity, k=self.params.knn.neighbours, recency=self.params.recency)


class RepeatParams(Params):
    """How returns are counted.

    Attributes:
        behaviours: what counts as coming back; those that the log lacks do nothing.
        horizon_share: length of the window in which a return is looked for, as a share of the log's length.
        origins: from how many moments, one horizon apart, returns are counted.
        prior_pairs: a state or a target with so many pairs is trusted half.
        length: how many of the latest actions are read.
    """

    behaviours: tuple[Behaviour, ...] = (Behaviour.CART, Behaviour.PURCHASE)
    horizon_share: Annotated[float, Within(0.02, 0.3, log=True)] = Field(default=0.1, gt=0, lt=1)
    origins: Annotated[int, Within(1, 8)] = Field(default=4, ge=1)
    prior_pairs: Annotated[float, Within(1.0, 200.0, log=True)] = Field(default=20.0, gt=0)
    length: int = Field(default=200, ge=1)


class Repeat(HistoryModel):
    """What a user will come back to, by how its kind of touch was come back to before.

    At a few moments before the Dataset's own, every pair of user and target that had been touched is put into
    a state (furthest stage, touches, time since the last), and it is counted how many of a state were come
    back to within the horizon.
    """

    name: ClassVar[str] = "repeat"

    def __init__(self, params: RepeatParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or RepeatParams()
        self.length = self.params.length

    def _scorer(self, dataset: Dataset) -> ReturnRates:
        params, events = self.params, dataset.events
        n_states = N_STAGES * MAX_TOUCHES * N_AGES
        pairs, returns = np.zeros(n_states), np.zeros(n_states)
        seen: list[tuple[IntArray, LongArray, FloatArray]] = []
        first_us = int(events.timestamp_us[0])
        horizon_us = max(int((dataset.as_of_us - first_us) * params.horizon_share), 1)
        index = events.target_idx(self.target)
        counted = (index >= 0) & events.is_any(params.behaviours)
        key = events.user_idx.astype(np.int64) * self.n_targets + index
        users = np.arange(self.n_users, dtype=np.int32)
        known = self.histories
        for origin in range(1, params.origins + 1):
            at_us = dataset.as_of_us - origin * horizon_us
            ends = _ends_before(known, at_us)
            if at_us <= first_us or not (ends > known.indptr[:-1]).any():
                break
            inside = counted & (events.timestamp_us >= at_us) & (events.timestamp_us < at_us + horizon_us)
            touches = Touches.of(
                known.last(users, self.length, ends=ends),
                np.full(self.n_users, at_us, dtype=np.int64),
                n_targets=self.n_targets,
            )
            state = touches.state()
            back = np.isin(touches.key, key[inside]).astype(np.float32)
            pairs += np.bincount(state, minlength=n_states)
            returns += np.bincount(state, weights=back, minlength=n_states)
            seen.append((touches.ids, state, back))
        hazard = _smooth(pairs, returns, params.prior_pairs)
        expected, actual = np.zeros(self.n_targets), np.zeros(self.n_targets)
        for ids, state, back in seen:
            expected += np.bincount(ids, weights=hazard[state], minlength=self.n_targets)
            actual += np.bincount(ids, weights=back, minlength=self.n_targets)
        shrink = max(float(hazard.mean()) * params.prior_pairs, 1e-9)
        lift = (actual + shrink) / (expected + shrink)
        return ReturnRates(hazard.astype(np.float32), lift.astype(np.float32))


def _ends_before(histories: Histories, at_us: int) -> LongArray:
    """(U,) int64 exclusive end of each user's actions before the moment."""
    before = np.concatenate([[0], np.cumsum(histories.timestamp_us < at_us)])
    ends: LongArray = histories.indptr[:-1] + before[histories.indptr[1:]] - before[histories.indptr[:-1]]
    return ends


def _smooth(
    pairs: npt.NDArray[np.float64], returns: npt.NDArray[np.float64], prior: float
) -> npt.NDArray[np.float64]:
    """Return rate of each state, shrunk to its stage and age's, that to its stage's, and that to all's."""
    shape = (N_STAGES, MAX_TOUCHES, N_AGES)
    n, r = pairs.reshape(shape), returns.reshape(shape)
    overall = (r.sum() + 1e-3) / (n.sum() + 1.0)
    by_stage = (r.sum((1, 2), keepdims=True) + prior * overall) / (n.sum((1, 2), keepdims=True) + prior)
    by_age = (r.sum(1, keepdims=True) + prior * by_stage) / (n.sum(1, keepdims=True) + prior)
    rate: npt.NDArray[np.float64] = ((r + prior * by_age) / (n + prior)).ravel()
    return rate
