"""The wrappers of `implicit`: its own answer, ours; closed forms; BLAS threads."""

from __future__ import annotations

from typing import Literal

import implicit.cpu.als
import implicit.gpu
import numpy as np
import pytest
import threadpoolctl
from implicit.nearest_neighbours import (
    BM25Recommender,
    CosineRecommender,
    ItemItemRecommender,
    TFIDFRecommender,
)
from implicit.utils import ParameterWarning
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.collaborative import ALS, BPR, ALSParams, BPRParams, ItemKNN, ItemKNNParams
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset

BUY, VIEW = Behaviour.PURCHASE, Behaviour.VIEW
PARAMS = ALSParams(factors=6, iterations=5, device="cpu")


@pytest.fixture(scope="module")
def dataset(build_dataset: BuildDataset) -> Dataset:
    rng = np.random.default_rng(5)
    rows = [
        (int(u), int(i), BUY if b else VIEW, float(d))
        for u, i, b, d in zip(
            rng.integers(0, 30, 400),
            rng.integers(0, 20, 400),
            rng.random(400) < 0.2,
            rng.random(400) * 29,
            strict=True,
        )
    ]
    return build_dataset(rows, n_users=31, n_items=21)


def test_als_is_the_library_given_the_confidences(dataset: Dataset) -> None:
    confidences = dataset.interactions(Target.ITEM, ALSParams().weights)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        library = implicit.cpu.als.AlternatingLeastSquares(
            factors=6, regularization=10.0, alpha=10.0, iterations=5, random_state=0
        )
        library.fit(confidences, show_progress=False)
    model = ALS(PARAMS).fit(dataset)
    np.testing.assert_allclose(model.user_vectors, library.user_factors, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.target_vectors, library.item_factors, rtol=1e-4, atol=1e-6)


def test_fold_in_solves_the_normal_equations(dataset: Dataset) -> None:
    """Oracle: minimise sum_i c_i (p_i - x.y_i)^2 + lambda |x|^2 over all targets, densely, in float64."""
    model = ALS(PARAMS).fit(dataset)
    history = dataset.interactions(Target.ITEM, ALSParams().weights)[[0, 7, 30]]
    vectors = model.fold_in(history)
    y = model.target_vectors.astype(np.float64)
    for row in range(2):
        touched = history[row].toarray().ravel() > 0
        c = np.where(touched, PARAMS.alpha * history[row].toarray().ravel(), 1.0)
        a = y.T @ (c[:, None] * y) + PARAMS.regularization * np.eye(6)
        np.testing.assert_allclose(
            vectors[row], np.linalg.solve(a, y.T @ (c * touched)), rtol=1e-3, atol=1e-5
        )
    assert not vectors[2].any(), "user 30 has no history"


def test_fold_in_ranks_a_known_user_as_the_fit_does(dataset: Dataset) -> None:
    model = ALS(ALSParams(factors=6, iterations=60, device="cpu")).fit(dataset)
    users = np.arange(30)
    folded = model.fold_in(dataset.interactions(Target.ITEM, ALSParams().weights)[users])
    np.testing.assert_allclose(
        folded @ model.target_vectors.T, model.user_vectors[users] @ model.target_vectors.T, atol=0.05
    )


def test_fold_in_refuses_another_catalogue(dataset: Dataset) -> None:
    with pytest.raises(ModelError, match="5 targets, the model was fitted on 21"):
        ALS(PARAMS).fit(dataset).fold_in(sparse.csr_matrix((1, 5), dtype=np.float32))
    with pytest.raises(ModelError, match="not fitted"):
        ALS(PARAMS).fold_in(sparse.csr_matrix((1, 21), dtype=np.float32))


def test_bpr_reads_which_pairs_occur_and_not_how_often(build_dataset: BuildDataset) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (int(u), int(i), VIEW, 1.0)
        for u, i in zip(rng.integers(0, 20, 90), rng.integers(0, 9, 90), strict=True)
    ]
    params = BPRParams(factors=4, iterations=5, threads=1, device="cpu")
    once = BPR(params).fit(build_dataset(rows, n_users=20, n_items=9))
    twice = BPR(params).fit(build_dataset(rows + rows[:45], n_users=20, n_items=9))
    np.testing.assert_array_equal(once.user_vectors, twice.user_vectors)


def test_cosine_neighbours_by_hand(build_dataset: BuildDataset) -> None:
    # Items 0 and 1 share one of their two users each; item 2 is bought by user 2 alone.
    dataset = build_dataset(
        [(0, 0, BUY, 1.0), (0, 1, BUY, 1.0), (1, 0, BUY, 1.0), (2, 1, BUY, 1.0), (2, 2, BUY, 1.0)]
    )
    weights = BehaviourWeights(weights={BUY: 1.0}, half_life_days=None)
    model = ItemKNN(ItemKNNParams(weights=weights, similarity="cosine")).fit(dataset)
    half, root = 1 / 2, 1 / np.sqrt(2)
    expected = [[1, half, 0], [half, 1, root], [0, root, 1]]
    np.testing.assert_allclose(model.similarity.toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(model.recommend(np.array([1], np.int32), k=3).row(0)[1], [1, half])


@pytest.mark.parametrize(
    ("similarity", "library"),
    [
        ("bm25", BM25Recommender(K=4, K1=1.2, B=0.75)),
        ("cosine", CosineRecommender(K=4)),
        ("tfidf", TFIDFRecommender(K=4)),
    ],
)
def test_item_knn_answers_as_the_library_does(
    dataset: Dataset, similarity: Literal["bm25", "cosine", "tfidf"], library: ItemItemRecommender
) -> None:
    confidences = dataset.interactions(Target.ITEM, ALSParams().weights)
    with pytest.warns(ParameterWarning):
        library.fit(confidences, show_progress=False)
    model = ItemKNN(ItemKNNParams(similarity=similarity, neighbours=4)).fit(dataset)
    np.testing.assert_array_equal(model.similarity.toarray(), library.similarity.toarray().astype(np.float32))
    for user in range(30):
        ids, scores = library.recommend(user, confidences[user], N=5, filter_already_liked_items=False)
        ours = model.recommend(np.array([user], dtype=np.int32), k=5).row(0)
        np.testing.assert_array_equal(ours[0], ids)
        np.testing.assert_allclose(ours[1], scores, rtol=1e-5)


def test_blas_threads_are_as_before_after_a_fit(dataset: Dataset) -> None:
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    inside: list[int] = []

    def look(done: int, total: int, text: str) -> None:
        assert (total, text) == (5, "als")
        pools = threadpoolctl.threadpool_info()
        inside.extend(pool["num_threads"] for pool in pools if pool["user_api"] == "blas")

    ALS(PARAMS).fit(dataset, progress=look)
    assert set(inside) == {1}
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_a_fit_that_diverges_names_what_to_lower(dataset: Dataset) -> None:
    with pytest.raises(ModelError, match=r"bpr: training diverged: .*; lower learning_rate"):
        BPR(BPRParams(learning_rate=1e6, device="cpu")).fit(dataset)
    with pytest.raises(ModelError, match=r"als: training diverged: .*; lower alpha or weights"):
        ALS(ALSParams(alpha=1e30, device="cpu")).fit(dataset)


@pytest.mark.skipif(implicit.gpu.HAS_CUDA, reason="implicit finds a GPU here")
def test_cuda_where_there_is_none_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ModelError, match="device=cuda"):
        ALS(ALSParams(device="cuda")).fit(dataset)
