"""Closed-form models: EASE, one dense solve, and graph filters that stay sparse, GF-CF and BSPM."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy import linalg, sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.base import Model
from recsys.models.spectral import inverse, normalised, right_singular_vectors
from recsys.search import OneOf, Within
from recsys.types import FloatArray, IntArray, Params, Progress, Target

_GB = 1e9
#: Where Linux says how much memory a container may have, by version 2 and 1 of its control groups.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_MIRRORED_AT_ONCE = 1024

#: Pairs of targets of one user, summed over users, up to which GF-CF keeps R'R if there is room: at most 12
#: bytes each.
_MOST_PAIRS = 5e8


class LinearModel(Model):
    """A model whose score is linear in the user's row: what each touched target speaks for, added up.

    Attributes:
        interactions: (users, targets) float32 CSR, the rows.
    """

    interactions: sparse.csr_matrix

    @abstractmethod
    def spoken_for(self, history: sparse.csr_matrix) -> FloatArray:
        """(B, targets) float32 scores of (B, targets) CSR rows; minus infinity for an untouched target."""

    def _scores(self, users: IntArray) -> FloatArray:
        history = self.interactions[users]
        scores = self.spoken_for(history)
        scores[np.diff(history.indptr) == 0] = -np.inf
        return scores


class EASEParams(Params):
    """A ridge regression of every target on all others.

    Attributes:
        weights: which behaviours count, and how much.
        binary: whether a pair counts 1, however sure it is.
        regularization: lambda on the diagonal of the Gram matrix.
        most_targets: only so many targets take part, those that most users touched; None takes all.
        memory_gb: refuse a catalogue whose fit may need more, or more than the machine has: 12 bytes a pair
            of touched targets, 4 in the dense matrix and up to 8 in the sparse product before it.
    """

    weights: BehaviourWeights = BehaviourWeights()
    binary: Annotated[bool, OneOf(True, False)] = True
    regularization: Annotated[float, Within(5.0, 5_000.0, log=True)] = Field(default=200.0, gt=0)
    most_targets: int | None = Field(default=None, ge=1)
    memory_gb: float = Field(default=24.0, gt=0)


class EASE(LinearModel):
    """Item-item weights of least squared error with a zero diagonal.

    B = I - P / diag(P), P = (X'X + lambda I)^-1, scores X B (Steck, "Embarrassingly Shallow Autoencoders for
    Sparse Data", 2019). Only targets that somebody touched take part.

    Attributes:
        similarity: (touched, touched) float32; row i holds what i's presence says of every other.
        touched: (touched,) int32 the target of each row.
    """

    name: ClassVar[str] = "ease"

    similarity: FloatArray
    touched: IntArray

    def __init__(self, params: EASEParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or EASEParams()

    def refusal(self, dataset: Dataset) -> str | None:
        """Refuses where `memory_gb` is too little, or the machine."""
        n = len(_touched(self._interactions(dataset), self.params.most_targets))
        short_of = _short_of(12.0 * n * n / _GB, self.params.memory_gb)
        if short_of is None:
            return None
        return (
            f"{n} targets need {short_of} lower most_targets, or use a graph filter (gf_cf_items), which"
            " stays sparse"
        )

    def _interactions(self, dataset: Dataset) -> sparse.csr_matrix:
        return _interactions(dataset, self.target, self.params.weights, binary=self.params.binary)

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        interactions = self._interactions(dataset)
        self.touched = _touched(interactions, self.params.most_targets)
        n = len(self.touched)
        self.interactions = interactions
        x = sparse.csr_matrix(interactions[:, self.touched])
        gram = (x.T @ x).toarray().astype(np.float32, copy=False)
        gram[np.diag_indices(n)] += np.float32(self.params.regularization)
        precision = _inverse_of_positive(gram)
        precision /= -precision.diagonal()
        precision[np.diag_indices(n)] = 0.0
        self.similarity = precision

    def spoken_for(self, history: sparse.csr_matrix) -> FloatArray:
        """What a row's targets speak for: x B."""
        known = np.asarray(history[:, self.touched] @ self.similarity, dtype=np.float32)
        return _spread(known, self.touched, self.n_targets)


class GFCFParams(Params):
    """A linear filter and an ideal low-pass filter on the graph of who touched what.

    Attributes:
        weights: which behaviours count, and how much.
        binary: whether a pair counts 1, however sure it is.
        factors: how many of the lowest graph frequencies pass.
        alpha: weight of the low-pass filter.
        memory_gb: refuse a log whose fit may need more, or more than the machine has: 24 bytes a pair of user
            and target, and 12 a factor and target for V and the vectors that the solver iterates on.
        sharpening: for how long what the filters blurred is sharpened again, as in BSPM; 0 for GF-CF.
        popularity: scores are multiplied by this power of the targets' degrees: more than 0 where what is
            popular will be turned to more than the log says, less for what is rare.
        seed: of the iterative solver's first vector.
    """

    weights: BehaviourWeights = BehaviourWeights()
    binary: Annotated[bool, OneOf(True, False)] = True
    factors: Annotated[int, Within(16, 512, log=True)] = Field(default=256, ge=1)
    alpha: Annotated[float, Within(0.03, 3.0, log=True)] = Field(default=0.3, ge=0)
    sharpening: Annotated[float, Within(0.0, 3.0)] = Field(default=0.0, ge=0, le=4)
    popularity: Annotated[float, Within(0.0, 0.5)] = 0.0
    memory_gb: float = Field(default=24.0, gt=0)
    seed: int = 0


class GFCF(LinearModel):
    """Scores r (R'R + alpha D^-1/2 V V' D^1/2), R the adjacency normalised on both sides, V its first right
    singular vectors, D the targets' degrees (Shen et al., "How Powerful is Graph Convolution for
    Recommendation?", 2021).

    With sharpening these are the start of dY/dt = -Y R'R, followed for time T by one step of Runge-Kutta of
    order 4: Y (I - TP + (TP)^2/2 - (TP)^3/6 + (TP)^4/24), P = R'R (Choi et al., "Blurring-Sharpening Process
    Models for Collaborative Filtering", 2023, there BSPM-EM).

    Attributes:
        adjacency: (users, targets) float32 CSR, R.
        basis: (targets, factors) float32, V.
        root_degree: (targets,) float32, D^1/2; 0 for a target that nobody touched.
    """

    name: ClassVar[str] = "gf_cf"

    adjacency: sparse.csr_matrix
    basis: FloatArray
    root_degree: FloatArray

    def __init__(self, params: GFCFParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or GFCFParams()

    def refusal(self, dataset: Dataset) -> str | None:
        """Refuses where `memory_gb` is too little, or the machine."""
        x = self._interactions(dataset)
        short_of = _short_of(self._needed_gb(x), self.params.memory_gb)
        if short_of is None:
            return None
        return f"{x.nnz} pairs of {x.shape[1]} targets need {short_of} lower factors"

    def _interactions(self, dataset: Dataset) -> sparse.csr_matrix:
        return _interactions(dataset, self.target, self.params.weights, binary=self.params.binary)

    def _needed_gb(self, x: sparse.csr_matrix) -> float:
        """The pairs as read, normalised and turned; V, and the solver's 2 d vectors of the smaller side.

        Where the smaller side has no more than d, its products with itself, twice over in float64, instead.
        """
        factors = min(self.params.factors, *x.shape)
        solver = (4 if factors == min(x.shape) else 2) * factors * min(x.shape)
        return float(24 * x.nnz + 4 * (factors * x.shape[1] + solver)) / _GB

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        x = self._interactions(dataset)
        self.interactions = x
        self.adjacency, self.root_degree = normalised(x)
        self.basis = right_singular_vectors(self.adjacency, self.params.factors, self.params.seed)
        pairs = float((np.diff(self.adjacency.indptr).astype(np.float64) ** 2).sum())
        room_gb = min(self.params.memory_gb, _installed_gb()) - self._needed_gb(x)
        kept = pairs <= _MOST_PAIRS and 12.0 * pairs / _GB <= room_gb
        self._gram = sparse.csr_matrix(self.adjacency.T @ self.adjacency) if kept else None

    def spoken_for(self, history: sparse.csr_matrix) -> FloatArray:
        """What passes the filters."""
        if self._gram is not None:
            linear = (history @ self._gram).toarray()
        else:
            linear = (history @ self.adjacency.T).toarray() @ self.adjacency
        passed = history @ (self.basis * inverse(self.root_degree)[:, None])
        scores = linear + (self.params.alpha * passed) @ (self.basis * self.root_degree[:, None]).T
        if self.params.sharpening:
            scores = self._sharpened(scores.astype(np.float32, copy=False))
        if self.params.popularity:
            scores *= np.where(self.root_degree > 0, self.root_degree, 1.0) ** (2 * self.params.popularity)
        scores[:, self.root_degree == 0] = -np.inf
        filtered: FloatArray = scores.astype(np.float32, copy=False)
        return filtered

    def _sharpened(self, blurred: FloatArray) -> FloatArray:
        """(B, targets) the blurred scores after the sharpening process."""
        scores, term = blurred.copy(), blurred
        for order in range(1, 5):
            term = (term @ self.adjacency.T) @ self.adjacency
            term *= np.float32(-self.params.sharpening / order)
            scores += term
        return scores


def _short_of(needed_gb: float, memory_gb: float) -> str | None:
    """What is too little for so much, as the middle of a sentence; None where there is enough."""
    if needed_gb > memory_gb:
        return f"about {needed_gb:.1f} GB, memory_gb is {memory_gb:g}; raise it, or"
    if needed_gb > _installed_gb():
        return f"about {needed_gb:.1f} GB, the machine has {_installed_gb():.1f};"
    return None


def _installed_gb() -> float:
    """Memory of the machine, or of the container where that has less."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _CONTAINER_LIMITS:
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            installed = min(installed, int(text))
    return installed / _GB


def _interactions(
    dataset: Dataset, target: Target, weights: BehaviourWeights, *, binary: bool
) -> sparse.csr_matrix:
    matrix = dataset.interactions(target, weights)
    if binary:
        matrix.data[:] = 1.0
    return matrix


def _touched(interactions: sparse.csr_matrix, most: int | None) -> IntArray:
    """The targets that somebody touched, ascending; at most so many, those with the most users."""
    users = np.bincount(interactions.indices, minlength=interactions.shape[1])
    order = np.argsort(-users, kind="stable")[: np.count_nonzero(users)]
    return np.sort(order[:most]).astype(np.int32)


def _inverse_of_positive(matrix: FloatArray) -> FloatArray:
    """The inverse of a symmetric positive definite matrix by Cholesky, in place where LAPACK can."""
    if len(matrix) == 0:
        return matrix
    factor, info = linalg.lapack.spotrf(matrix.T, lower=1, overwrite_a=1)
    if info == 0:
        factor, info = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise ModelError("ease: the Gram matrix is not positive definite in float32; raise regularization")
    inverted: FloatArray = factor
    for start in range(0, len(inverted), _MIRRORED_AT_ONCE):  # LAPACK fills the lower triangle alone
        stop = start + _MIRRORED_AT_ONCE
        inverted[start:stop, stop:] = inverted[stop:, start:stop].T
        block = inverted[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
    return inverted


def _spread(scores: FloatArray, columns: IntArray, n: int) -> FloatArray:
    """(B, n): the scores at their columns, minus infinity elsewhere."""
    if len(columns) == n:
        return scores
    out = np.full((len(scores), n), -np.inf, dtype=np.float32)
    out[:, columns] = scores
    return out
