"""Validation of a training: the best weights stay, and nothing of the window is read or learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recsys.models.tower_validation import Validation, encode_targets
from recsys.models.towers import TwoTowerNetwork
from recsys.models.two_tower import TwoTower
from recsys.types import Behaviour, FloatArray
from tests.models.conftest import SMALL, BuildDataset, Row

N_USERS, N_ITEMS = 60, 24
PARAMS = SMALL.model_copy(update={"evaluate_every": 20})


def _rows() -> list[Row]:
    """Users turn to items of their own kind of four, oldest first."""
    rng = np.random.default_rng(0)
    rows = [
        (user, int(user % 4 + 4 * rng.integers(6)), Behaviour.PURCHASE, float(rng.uniform(0, 29)))
        for user in range(N_USERS)
        for _ in range(7)
    ]
    return sorted(rows, key=lambda row: row[3])


def _watched(
    monkeypatch: pytest.MonkeyPatch, ndcg: Sequence[float]
) -> tuple[list[Validation], list[FloatArray]]:
    """The validations that are made, and the targets' vectors at each; the measured NDCG is as given."""
    made: list[Validation] = []
    vectors: list[FloatArray] = []

    def measure(self: Validation, network: TwoTowerNetwork) -> tuple[float, float]:
        made.append(self)
        vectors.append(encode_targets(network))
        return 0.0, ndcg[min(len(vectors), len(ndcg)) - 1]

    monkeypatch.setattr(Validation, "measure", measure)
    return made, vectors


def test_the_weights_of_the_best_validation_are_those_that_stay(
    build_dataset: BuildDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, vectors = _watched(monkeypatch, [0.1, 0.5, 0.2, 0.3, 0.1])
    params = PARAMS.model_copy(update={"patience": 3})
    model = TwoTower(params, device="cpu").fit(build_dataset(_rows(), n_users=N_USERS, n_items=N_ITEMS))
    assert (len(vectors), model.best_step) == (5, 40)
    np.testing.assert_array_equal(model.target_vectors, vectors[1])


def test_validation_is_of_what_came_later_than_all_that_is_learnt_or_read(
    build_dataset: BuildDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _rows()
    dataset = build_dataset(rows, n_users=N_USERS, n_items=N_ITEMS)
    made, vectors = _watched(monkeypatch, [0.1, 0.2, 0.1])
    params = PARAMS.model_copy(update={"patience": 1})
    TwoTower(params, device="cpu").fit(dataset)
    held_out = made[0]
    assert held_out.histories.timestamp_us[held_out.histories.mask].max() < held_out.now_us
    after = dataset.events.timestamp_us >= held_out.now_us
    assert 0 < after.sum() < 0.5 * len(rows)
    later = set(zip(dataset.events.user_idx[after], dataset.events.item_idx[after], strict=True))
    user, item = held_out.wanted.nonzero()
    assert set(zip(held_out.users[user], item, strict=True)) <= later
    # Other events in the window: the training comes to the same weights, bit by bit.
    before = len(rows) - int(after.sum())
    others = [(user, (item + 7) % N_ITEMS, what, day) for user, item, what, day in rows[before:]]
    first = list(vectors)
    vectors.clear()
    TwoTower(params, device="cpu").fit(
        build_dataset([*rows[:before], *others], n_users=N_USERS, n_items=N_ITEMS)
    )
    assert len(vectors) == len(first) > 1
    for mine, theirs in zip(vectors, first, strict=True):
        np.testing.assert_array_equal(mine, theirs)
