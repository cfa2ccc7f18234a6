"""What every candidate model promises: fit(dataset), then recommend(users, k) -> Candidates.

The public methods check and prepare; a model computes. It scores every target for a batch of users, and the
best k allowed ones are picked here, so that masks and ties mean the same in every model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Self

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.ragged import Ragged
from recsys.types import BoolArray, Candidates, FloatArray, IntArray, Progress, Target

#: Most scores of one batch of `recommend`: 16 Mi float32, 64 MiB.
SCORES_AT_ONCE = 1 << 24

#: Targets of one block whose best score bounds the k-th best from below.
_BLOCK = 64


class Model(ABC):
    """A candidate model. A user that it knows nothing of gets no candidates: the caller has a fallback.

    Args:
        target: what it recommends; a room is learnt by its streamer.
    """

    name: ClassVar[str]

    def __init__(self, *, target: Target = Target.ITEM) -> None:
        self.target = target
        self.n_users = 0
        self.n_targets = 0

    def fit(self, dataset: Dataset, *, progress: Progress | None = None) -> Self:
        """Learn from everything that the Dataset knows as of its moment.

        Raises:
            ModelError: there is nothing to recommend, the model refuses, or its training failed.
        """
        refusal = self.refusal(dataset)
        if refusal is not None:
            raise ModelError(f"{self.name}: {refusal}")
        self.n_users, self.n_targets = len(dataset.users), len(dataset.entities(self.target))
        if self.n_targets == 0:
            raise ModelError(f"{self.name}: the log has no {self.target.value}s to recommend")
        self._fit(dataset, progress)
        return self

    def refusal(self, dataset: Dataset) -> str | None:
        """Why it cannot be fitted on this Dataset, and what it would need; None if it can."""
        return None

    def recommend(
        self,
        users: IntArray,
        *,
        k: int,
        exclude: sparse.csr_matrix | None = None,
        allowed: BoolArray | None = None,
    ) -> Candidates:
        """The best k targets of each user, best first.

        Args:
            users: (B,) int32 user indices as of the fit.
            k: how many; more than there are targets gives all of them.
            exclude: (B, targets) CSR; its stored cells are left out, row b for users[b].
            allowed: (targets,) which targets may be recommended at all.

        Returns:
            Candidates of shape (B, min(k, targets)). A target that the model gives no score (minus infinity)
            is left out, so a row may be shorter: see `counts`.

        Raises:
            ModelError: not fitted, k below 1, or a user index outside the fit.
        """
        if self.n_targets == 0:
            raise ModelError(f"{self.name} is not fitted: call fit(dataset) first")
        users = asked_of(users, k=k, n_users=self.n_users)
        k = min(k, self.n_targets)
        batch = self._users_at_once()

        def best(start: int) -> Candidates:
            chosen = slice(start, start + batch)
            out = None if exclude is None else exclude[chosen]
            return self._best(users[chosen], k=k, exclude=out, allowed=allowed)

        parts = _one_each(best, range(0, max(len(users), 1), batch))
        return Candidates(
            ids=np.concatenate([part.ids for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            counts=np.concatenate([part.counts for part in parts]),
        )

    @abstractmethod
    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        """Learn; `n_users` and `n_targets` are set."""

    def _best(
        self, users: IntArray, *, k: int, exclude: sparse.csr_matrix | None, allowed: BoolArray | None
    ) -> Candidates:
        """`recommend` for one batch, its arguments checked."""
        return top_k(self._scores(users), k=k, exclude=exclude, allowed=allowed)

    def _users_at_once(self) -> int:
        return max(1, SCORES_AT_ONCE // self.n_targets)

    @abstractmethod
    def _scores(self, users: IntArray) -> FloatArray:
        """(B, targets) float32, fresh, writable; minus infinity where the model has nothing to say."""


class VectorModel(Model):
    """A model whose score is an inner product, so that FAISS can search it.

    Attributes:
        user_vectors: (users, d) float32.
        target_vectors: (targets, d) float32.
    """

    user_vectors: FloatArray
    target_vectors: FloatArray

    def _scores(self, users: IntArray) -> FloatArray:
        vectors = self.user_vectors[users]
        scores = vectors @ self.target_vectors.T
        scores[~vectors.any(axis=1)] = -np.inf  # a user of no history has no vector
        return scores


def asked_of(users: IntArray, *, k: int, n_users: int) -> IntArray:
    """(B,) int32, the users of a request for k targets each.

    Raises:
        ModelError: k below 1, or a user index outside the fit.
    """
    if k < 1:
        raise ModelError(f"k={k}: ask for at least 1")
    users = np.asarray(users, dtype=np.int32)
    if len(users) and (users.min() < 0 or users.max() >= n_users):
        raise ModelError(f"user index outside 0 .. {n_users - 1}: {users.min()} .. {users.max()}")
    return users


def _one_each(work: Callable[[int], Candidates], batches: Sequence[int]) -> list[Candidates]:
    """The batches' answers in order, as many at once as BLAS may have threads: numpy lets others run."""
    threads = max(
        (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1
    )
    workers = min(threads, len(batches))
    if workers <= 1:
        return [work(start) for start in batches]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, batches))


def top_k(
    scores: FloatArray,
    *,
    k: int,
    exclude: sparse.csr_matrix | None = None,
    allowed: BoolArray | None = None,
) -> Candidates:
    """The best k of each row; ties go to the lower index, so that the answer does not depend on the batch.

    Args:
        scores: (B, n) float32, overwritten; minus infinity leaves a target out, NaN is an error.
        k: how many, at most n.
        exclude: (B, n) CSR whose non-zeros are left out.
        allowed: (n,) which targets may be picked.

    Raises:
        ModelError: a score is NaN.
    """
    n_rows, n = scores.shape
    if exclude is not None:
        scores[np.repeat(np.arange(n_rows), np.diff(exclude.indptr)), exclude.indices] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    # The k-th best of the blocks' maxima is at most the k-th best score: what is below it cannot be picked.
    block = max(1, min(_BLOCK, n // (4 * k)))
    whole = n - n % block
    peaks = np.concatenate(
        [scores[:, :whole].reshape(n_rows, block, whole // block).max(axis=1), scores[:, whole:]], axis=1
    )
    if np.isnan(peaks).any():
        bad_row, target = np.argwhere(np.isnan(scores))[0]
        raise ModelError(f"score of target {target} in row {bad_row} is NaN: the model's training diverged")
    kth = np.partition(peaks, peaks.shape[1] - k, axis=1)[:, peaks.shape[1] - k]
    flat = np.flatnonzero(scores >= np.maximum(kth, np.finfo(np.float32).min)[:, None])
    row, column = np.divmod(flat, n)
    score = scores.ravel()[flat]
    return Ragged(row, column.astype(np.int32), score, n_rows).top(k)
