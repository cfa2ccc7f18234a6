"""EASE and GF-CF against their formulas on small dense matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models import linear
from recsys.models.linear import EASE, GFCF, EASEParams, GFCFParams
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset


@pytest.fixture(scope="module")
def dataset(build_dataset: BuildDataset) -> Dataset:
    rng = np.random.default_rng(8)
    rows = [
        (int(u), int(i), Behaviour.VIEW, float(d))
        for u, i, d in zip(
            rng.integers(0, 40, 300), rng.integers(0, 18, 300), 29 * rng.random(300), strict=True
        )
    ]
    return build_dataset(rows, n_users=41, n_items=19)


def dense(dataset: Dataset, *, binary: bool) -> np.ndarray:
    x = dataset.interactions(Target.ITEM, BehaviourWeights()).toarray().astype(np.float64)
    return (x > 0).astype(np.float64) if binary else x


def test_ease_minimises_its_objective_column_by_column(dataset: Dataset) -> None:
    """Oracle: each column on its own, a ridge regression on all other targets."""
    x = dense(dataset, binary=True)
    model = EASE(EASEParams(regularization=5.0)).fit(dataset)
    for j in range(18):
        others = [i for i in range(18) if i != j]
        a = x[:, others]
        expected = np.linalg.solve(a.T @ a + 5.0 * np.eye(17), a.T @ x[:, j])
        np.testing.assert_allclose(model.similarity[others, j], expected, rtol=1e-3, atol=1e-5)
        assert model.similarity[j, j] == 0
    scores = model.recommend(np.array([4], np.int32), k=19).row(0)
    expected_scores = x[4, :18] @ model.similarity
    np.testing.assert_allclose(scores[1], np.sort(expected_scores)[::-1], rtol=1e-4)


def test_ease_with_confidences_uses_them(dataset: Dataset) -> None:
    x = dense(dataset, binary=False)[:, :18]
    model = EASE(EASEParams(regularization=5.0, binary=False)).fit(dataset)
    p = np.linalg.inv(x.T @ x + 5.0 * np.eye(18))
    expected = np.where(np.eye(18), 0.0, -p / np.diag(p))
    np.testing.assert_allclose(model.similarity, expected, rtol=1e-3, atol=1e-5)


def test_ease_refuses_what_does_not_fit_and_says_what_it_needs(dataset: Dataset) -> None:
    with pytest.raises(ModelError, match=r"18 targets need about 0\.0 GB, memory_gb is 1e-09"):
        EASE(EASEParams(memory_gb=1e-9)).fit(dataset)


def test_gf_cf_refuses_what_does_not_fit_and_keeps_no_product_there_is_no_room_for(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ModelError, match=r"gf_cf: \d+ pairs of 19 targets need about 0\.0 GB, memory_gb is 1e-09"
    ):
        GFCF(GFCFParams(memory_gb=1e-9)).fit(dataset)
    users = np.arange(41, dtype=np.int32)
    roomy = GFCF(GFCFParams(factors=4)).fit(dataset)
    needed_gb = roomy._needed_gb(roomy.interactions)
    tight = GFCF(GFCFParams(factors=4, memory_gb=1.01 * needed_gb)).fit(dataset)
    assert roomy._gram is not None
    assert tight._gram is None
    np.testing.assert_allclose(tight._scores(users), roomy._scores(users), rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(linear, "_installed_gb", lambda: 0.5 * needed_gb)
    with pytest.raises(ModelError, match=r"the machine has 0\.0; lower factors"):
        GFCF(GFCFParams(factors=4)).fit(dataset)


def test_ease_refuses_what_the_machine_has_no_memory_for(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_installed_gb", lambda: 1e-9)
    with pytest.raises(ModelError, match=r"18 targets need about 0\.0 GB, the machine has 0\.0; lower"):
        EASE().fit(dataset)


@pytest.mark.parametrize(("limit", "gb"), [("2000000\n", 0.002), ("max\n", None)])
def test_a_container_has_what_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, gb: float | None
) -> None:
    monkeypatch.setattr(linear, "_CONTAINER_LIMITS", ())
    installed = linear._installed_gb()
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(linear, "_CONTAINER_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    assert linear._installed_gb() == pytest.approx(gb or installed)


@pytest.mark.parametrize("most_pairs", [0.0, 1e9])
@pytest.mark.parametrize(("factors", "popularity"), [(3, 0.0), (500, 0.0), (3, 0.3)])
def test_gf_cf_is_its_formula(
    dataset: Dataset, factors: int, popularity: float, most_pairs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With R'R kept, and without it where it would be too large."""
    monkeypatch.setattr("recsys.models.linear._MOST_PAIRS", most_pairs)
    x = dense(dataset, binary=True)
    degree = x.sum(axis=0)
    per_user = np.maximum(x.sum(axis=1), 1)
    r = x / np.sqrt(per_user)[:, None] / np.sqrt(np.maximum(degree, 1))
    v = np.linalg.svd(r, full_matrices=False)[2][: min(factors, 18)].T
    d = np.sqrt(degree[:18])
    low_pass = (v[:18] / d[:, None]) @ (v[:18] * d[:, None]).T
    expected = x[:, :18] @ (r.T @ r)[:18, :18] + 0.4 * x[:, :18] @ low_pass
    expected *= degree[:18] ** popularity
    model = GFCF(GFCFParams(factors=factors, alpha=0.4, popularity=popularity)).fit(dataset)
    for user in (0, 7, 31):
        ids, scores = model.recommend(np.array([user], np.int32), k=19).row(0)
        assert len(ids) == 18
        np.testing.assert_allclose(scores, expected[user, ids], rtol=1e-3, atol=1e-5)


def test_sharpening_follows_its_differential_equation(dataset: Dataset) -> None:
    """One step of Runge-Kutta from the blurred scores, by its textbook form."""
    blurred = GFCF(GFCFParams(factors=4, alpha=0.2)).fit(dataset)
    sharp = GFCF(GFCFParams(factors=4, alpha=0.2, sharpening=1.5)).fit(dataset)
    p = (blurred.adjacency.T @ blurred.adjacency).toarray().astype(np.float64)

    def slope(y: np.ndarray) -> np.ndarray:
        return -y @ p

    def full(model: GFCF, user: int) -> np.ndarray:
        ids, scores = model.recommend(np.array([user], np.int32), k=19).row(0)
        out = np.zeros(19)
        out[ids] = scores
        return out

    for user in (0, 7, 31):
        y, step = full(blurred, user), 1.5
        one = slope(y)
        two = slope(y + step / 2 * one)
        three = slope(y + step / 2 * two)
        four = slope(y + step * three)
        expected = y + step / 6 * (one + 2 * two + 2 * three + four)
        np.testing.assert_allclose(full(sharp, user), expected, rtol=1e-3, atol=1e-5)
