"""Matrix factorisation and item neighbours from the library `implicit`, with this engine's confidences.

The library does the fitting; here it is given the confidences, kept from running BLAS threads inside its own
threads (one ALS fit: 350 s with two, 14.7 s with one), and asked for plain arrays.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import implicit.cpu.als
import implicit.cpu.bpr
import implicit.gpu
import implicit.gpu.als
import implicit.gpu.bpr
import implicit.nearest_neighbours as library_neighbours
import numpy as np
import threadpoolctl
from implicit.recommender_base import ModelFitError
from pydantic import Field
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.base import VectorModel
from recsys.models.fold_in import FoldIn
from recsys.models.sparse_model import SparseModel
from recsys.search import OneOf, Within
from recsys.types import FloatArray, IntArray, Params, Progress, Target

Device = Literal["auto", "cpu", "cuda"]


class ALSParams(Params):
    """Alternating least squares. alpha and regularization at 10 beat the library's defaults widely.

    Attributes:
        weights: the confidences.
        factors: size of a vector.
        regularization: lambda, added to the diagonal of every solve.
        alpha: what a confidence is multiplied by.
        iterations: sweeps over users and targets.
        seed: of the first vectors.
        device: cpu, cuda, or auto: cuda where the library finds it.
    """

    weights: BehaviourWeights = BehaviourWeights(half_life_days="auto")
    factors: Annotated[int, OneOf(32, 64, 96, 128, 192, 256)] = Field(default=128, ge=1)
    regularization: Annotated[float, Within(0.1, 100.0, log=True)] = Field(default=10.0, ge=0)
    alpha: Annotated[float, Within(0.3, 100.0, log=True)] = Field(default=10.0, gt=0)
    iterations: Annotated[int, Within(4, 30)] = Field(default=12, ge=1)
    seed: int = 0
    device: Device = "auto"


class BPRParams(Params):
    """Bayesian personalised ranking. It reads which pairs occur, not how sure they are.

    Attributes:
        weights: which behaviours count at all (those above 0).
        factors: size of a vector, without its bias.
        learning_rate: of each step.
        regularization: lambda on the vectors.
        iterations: epochs.
        seed: of the first vectors and of the sampling. Several threads update without locks, so two fits are
            alike, not equal, unless `threads` is 1.
        threads: CPU threads; 0 takes all cores.
        device: cpu, cuda, or auto: cuda where the library finds it.
    """

    weights: BehaviourWeights = BehaviourWeights()
    factors: Annotated[int, OneOf(32, 64, 96, 128, 192, 256)] = Field(default=128, ge=1)
    learning_rate: Annotated[float, Within(0.005, 0.2, log=True)] = Field(default=0.05, gt=0)
    regularization: Annotated[float, Within(1e-4, 0.1, log=True)] = Field(default=0.01, ge=0)
    iterations: Annotated[int, Within(20, 150)] = Field(default=60, ge=1)
    seed: int = 0
    threads: int = Field(default=0, ge=0)
    device: Device = "auto"


class ItemKNNParams(Params):
    """Item-to-item neighbours by similarity of who interacts with them.

    Attributes:
        weights: the confidences.
        similarity: bm25, cosine or tfidf.
        neighbours: how many most similar targets are kept for each, itself included.
        k1: BM25's saturation of confidence.
        b: BM25's length normalisation, 0 to 1.
    """

    weights: BehaviourWeights = BehaviourWeights(half_life_days="auto")
    similarity: Annotated[Literal["bm25", "cosine", "tfidf"], OneOf("bm25", "cosine", "tfidf")] = "bm25"
    neighbours: Annotated[int, Within(20, 400, log=True)] = Field(default=100, ge=1)
    k1: Annotated[float, Within(0.1, 5.0, log=True)] = Field(default=1.2, gt=0)
    b: Annotated[float, Within(0.0, 1.0)] = Field(default=0.75, ge=0, le=1)


class _Factorisation(VectorModel):
    """The library's factor models: a pair of vector tables, zero for users and targets without a pair.

    Attributes:
        weights: those of the parameters, settled by the log that it was fitted on.
    """

    #: Settings by which a fit comes apart.
    lower: ClassVar[tuple[str, ...]]

    params: ALSParams | BPRParams
    weights: BehaviourWeights

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        self.weights = dataset.settle(self.params.weights)
        interactions = dataset.interactions(self.target, self.weights)
        with _single_threaded_blas():
            library = self._library()

            def report(epoch: int, *_: Any) -> None:
                if progress is not None:
                    progress(epoch + 1, library.iterations, self.name)

            try:
                library.fit(interactions, show_progress=False, callback=report)
            except ModelFitError as error:
                raise ModelError(
                    f"{self.name}: training diverged: {error}; lower {' or '.join(self.lower)}"
                ) from error
        self.user_vectors = _as_array(library.user_factors)
        self.target_vectors = _as_array(library.item_factors)
        self.user_vectors[np.diff(interactions.indptr) == 0] = 0.0
        self.target_vectors[np.bincount(interactions.indices, minlength=self.n_targets) == 0] = 0.0

    def _scores(self, users: IntArray) -> FloatArray:
        scores = super()._scores(users)
        unseen = ~self.target_vectors.any(axis=1)
        if unseen.any():
            scores[:, unseen] = -np.inf
        return scores

    @abstractmethod
    def _library(self) -> Any:
        """The library's own model, not fitted."""


class ALS(_Factorisation):
    """Weighted matrix factorisation (Hu, Koren, Volinsky 2008) by `implicit`, conjugate gradient solver."""

    name: ClassVar[str] = "als"
    lower = ("alpha", "weights")

    params: ALSParams

    def __init__(self, params: ALSParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or ALSParams()

    def _library(self) -> Any:
        params = self.params
        kind = implicit.gpu.als if _on_gpu(params.device) else implicit.cpu.als
        return kind.AlternatingLeastSquares(
            factors=params.factors,
            regularization=params.regularization,
            alpha=params.alpha,
            iterations=params.iterations,
            random_state=params.seed,
        )

    def fold_in(self, history: sparse.csr_matrix) -> FloatArray:
        """Vectors of users, known or new, from their history alone, by the closed form.

        Args:
            history: (B, targets) CSR of confidences, as `Dataset.interactions` gives them.

        Returns:
            (B, d) float32; zero for an empty history.

        Raises:
            ModelError: not fitted, or the history has another number of targets.
        """
        if self.n_targets == 0:
            raise ModelError(f"{self.name} is not fitted: call fit(dataset) first")
        if history.shape[1] != self.n_targets:
            raise ModelError(
                f"history has {history.shape[1]} targets, the model was fitted on {self.n_targets}"
            )
        solver = FoldIn.of(
            self.target_vectors, alpha=self.params.alpha, regularization=self.params.regularization
        )
        vectors = np.zeros((history.shape[0], self.params.factors), dtype=np.float32)
        for row in np.flatnonzero(np.diff(history.indptr)):
            place = slice(history.indptr[row], history.indptr[row + 1])
            vectors[row] = solver.vector(history.indices[place], history.data[place])
        return vectors


class BPR(_Factorisation):
    """Bayesian personalised ranking (Rendle et al. 2009) by `implicit`; a vector ends in the bias."""

    name: ClassVar[str] = "bpr"
    lower = ("learning_rate",)

    params: BPRParams

    def __init__(self, params: BPRParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or BPRParams()

    def _library(self) -> Any:
        params = self.params
        common = {
            "factors": params.factors,
            "learning_rate": params.learning_rate,
            "regularization": params.regularization,
            "iterations": params.iterations,
            "random_state": params.seed,
        }
        if _on_gpu(params.device):
            return implicit.gpu.bpr.BayesianPersonalizedRanking(**common)
        return implicit.cpu.bpr.BayesianPersonalizedRanking(**common, num_threads=params.threads)


class ItemKNN(SparseModel):
    """Scores a target by its similarity to those of the user's history: the sum over the history of
    confidence x similarity.

    Attributes:
        similarity: (targets, targets) float32 CSR; row i holds the neighbours that i's presence speaks for.
        interactions: (users, targets) float32 CSR of confidences.
    """

    name: ClassVar[str] = "item_knn"

    similarity: sparse.csr_matrix
    interactions: sparse.csr_matrix

    def __init__(self, params: ItemKNNParams | None = None, *, target: Target = Target.ITEM) -> None:
        super().__init__(target=target)
        self.params = params or ItemKNNParams()

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        self.interactions = dataset.interactions(self.target, self.params.weights)
        # Where every user of a target has all but one of the targets, TF-IDF is 0 and its norm divides by 0.
        with np.errstate(invalid="ignore"):
            weighted = sparse.csr_matrix(self._weighted(self.interactions.T).T)
        # As the library's recommenders do it; but they sort its answer, which is in the order of rows but
        # for padding by zeros, and that takes as long as the neighbours themselves.
        found = library_neighbours.all_pairs_knn(weighted, self.params.neighbours, show_progress=False)
        similarity = found.data.astype(np.float32)
        alike = np.flatnonzero(np.isfinite(similarity) & (similarity != 0.0))
        indptr = np.searchsorted(found.row[alike], np.arange(self.n_targets + 1))
        self.similarity = sparse.csr_matrix(
            (similarity[alike], found.col[alike], indptr), shape=(self.n_targets, self.n_targets)
        )

    def _weighted(self, counts: sparse.csc_matrix) -> Any:
        """(targets, users) COO of confidences, weighed for the similarity."""
        params = self.params
        if params.similarity == "bm25":
            return library_neighbours.bm25_weight(counts, params.k1, params.b)
        if params.similarity == "tfidf":
            counts = library_neighbours.tfidf_weight(counts)
        return library_neighbours.normalize(counts)

    def _pairs(self, users: IntArray) -> sparse.csr_matrix:
        return sparse.csr_matrix(self.interactions[users] @ self.similarity)


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        yield


def _on_gpu(device: Device) -> bool:
    if device == "cuda" and not implicit.gpu.HAS_CUDA:
        raise ModelError("device=cuda: implicit finds no usable GPU here; use device=auto or device=cpu")
    return device != "cpu" and bool(implicit.gpu.HAS_CUDA)


def _as_array(factors: Any) -> FloatArray:
    """The library's factors, on the CPU or a GPU, as (n, d) float32."""
    array = factors if isinstance(factors, np.ndarray) else factors.to_numpy()
    return np.array(array, dtype=np.float32, order="C", copy=True)
