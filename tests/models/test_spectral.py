"""Where targets lie among the users that they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys.models.spectral import directions, normalised, right_singular_vectors
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour
from tests.models.conftest import BuildDataset


def two_groups() -> sparse.csr_matrix:
    """Users of even number turn to targets of even number, the others to the others; target 20 has none."""
    rng = np.random.default_rng(0)
    wants = rng.random((40, 21)) < 0.5
    wants &= np.arange(40)[:, None] % 2 == np.arange(21) % 2
    wants[:, 20] = False
    return sparse.csr_matrix(wants.astype(np.float32))


def test_directions_are_the_first_singular_vectors_of_length_one() -> None:
    x = two_groups()
    dense = x.toarray()
    scaled = dense / np.sqrt(np.maximum(np.outer(dense.sum(1), dense.sum(0)), 1))
    np.testing.assert_allclose(normalised(x)[0].toarray(), scaled, rtol=1e-5)
    found = directions(x, 4, seed=0)
    assert found is not None
    expected = np.linalg.svd(scaled)[2][:4].T[:20]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(
        found[:20] @ found[:20].T, expected @ expected.T, atol=1e-3
    )  # two are nearly equal
    assert not found[20].any()


@pytest.mark.parametrize("shape", [(300, 250), (250, 300), (400, 9), (9, 400)])
def test_beyond_the_rank_of_a_log_there_is_nothing(shape: tuple[int, int]) -> None:
    """Three groups of users, all alike: the other vectors that a solver gives are of the null space."""
    users, targets = shape
    groups = np.arange(users)[:, None] % 3 == np.arange(targets) % 3
    x = normalised(sparse.csr_matrix(groups.astype(np.float32)))[0]
    for factors in (2, 3, 8, 128):
        found = right_singular_vectors(x, factors, seed=0)
        assert found.shape == (targets, min(factors, 3))
        np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-4)
        # All three have the value 1, so that any two of them will do; together they span the groups.
        np.testing.assert_allclose(x.T @ (x @ found), found, atol=1e-3)


def test_a_log_of_fewer_directions_than_dimensions_has_none() -> None:
    assert directions(two_groups()[:2].tocsr()[np.arange(40) % 2], 4, seed=0) is None


def test_targets_of_other_users_are_at_right_angles() -> None:
    found = directions(two_groups(), 2, seed=0)
    assert found is not None
    cosines = found[:20] @ found[:20].T
    alike = np.arange(20)[:, None] % 2 == np.arange(20) % 2
    np.testing.assert_allclose(cosines, alike, atol=1e-4)


def test_a_log_with_fewer_targets_than_dimensions_has_none() -> None:
    assert directions(two_groups(), 21, seed=0) is None


def test_the_towers_begin_there_and_what_nobody_touched_where_it_was_drawn(
    build_dataset: BuildDataset,
) -> None:
    pairs = np.argwhere(two_groups().toarray()).tolist()
    rows = [(user, item, Behaviour.VIEW, float(n % 20)) for n, (user, item) in enumerate(pairs)]
    dataset = build_dataset(rows, n_users=40, n_items=21)
    params = TwoTowerParams(dim=4, steps=1, learning_rate=1e-9, warmup_steps=0)
    ids = {}
    for start in ("spectral", "random"):
        model = TwoTower(params.model_copy(update={"start": start}), device="cpu").fit(dataset)
        assert model.network.targets.ids is not None
        ids[start] = model.network.targets.ids.weight.detach()
    expected = directions(two_groups(), 4, seed=0)
    assert expected is not None
    torch.testing.assert_close(
        ids["spectral"][:20] @ ids["spectral"][:20].T,
        torch.from_numpy(expected[:20] @ expected[:20].T),
        atol=1e-4,
        rtol=0,
    )
    torch.testing.assert_close(ids["spectral"][20], ids["random"][20])
