"""The training of the two-tower: steps, checkpoints, divergence, a device without memory."""

from __future__ import annotations

import itertools
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.checkpoint import load_checkpoint
from recsys.models.tower_loss import TowerLoss
from recsys.models.tower_training import CHECKPOINT, Trainer, learning_rate
from recsys.models.training_examples import Batch
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour
from tests.models.conftest import (
    BLOCK,
    N_BLOCKS,
    N_USERS,
    SMALL,
    BuildDataset,
    Row,
    share_of_own_block,
)

BUY = Behaviour.PURCHASE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_learning_rate_rises_then_stays_or_falls_to_nothing() -> None:
    def rates(**changed: object) -> list[float]:
        params = SMALL.model_copy(update={"learning_rate": 0.1, "warmup_steps": 10, **changed})
        return [learning_rate(params, step, 100, warmup=params.warmup_steps) for step in range(100)]

    assert rates() == pytest.approx([0.01 * n for n in range(1, 11)] + [0.1] * 90)
    falling = rates(cosine_decay=True)
    assert falling[10:] == sorted(falling[10:], reverse=True)
    assert falling[50] == pytest.approx(0.05)
    assert falling[99] < 1e-4
    assert rates(cosine_decay=True, warmup_steps=0)[0] == 0.1


def test_training_does_not_touch_the_callers_random_numbers(blocks: Dataset) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    TwoTower(SMALL.model_copy(update={"steps": 2}), device="cpu").fit(blocks)
    torch.testing.assert_close(torch.rand(3), expected)


def test_a_fit_of_known_steps_holds_nothing_out(blocks: Dataset) -> None:
    model = TwoTower(SMALL.model_copy(update={"steps": 25}), device="cpu").fit(blocks)
    assert model.best_step == model.learning_curve[-1].step == 25
    assert all(point.ndcg is None for point in model.learning_curve)


def test_a_small_log_is_passed_over_until_it_is_learnt(build_dataset: BuildDataset) -> None:
    """Its epochs are of two steps: twenty of them would end before the learning rate has risen."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 60, 1_500)
    item = user % 4 + 4 * rng.integers(0, 10, len(user))
    rows = [
        (u, i, Behaviour.CART, d) for u, i, d in zip(user, item, np.sort(rng.random(1_500) * 29), strict=True)
    ]
    dataset = build_dataset([(int(u), int(i), b, float(d)) for u, i, b, d in rows], n_users=60, n_items=40)
    model = TwoTower(TwoTowerParams(dim=16), device="cpu").fit(dataset)
    steps = [point.step for point in model.learning_curve]
    assert min(np.diff([0, *steps])) >= 20
    assert model.best_step >= 40
    best = model.recommend(np.arange(60, dtype=np.int32), k=5).ids
    assert (best % 4 == np.arange(60)[:, None] % 4).mean() > 0.9


@pytest.mark.parametrize("sparse_tables", [False, True])
def test_sparse_tables_learn_too(blocks: Dataset, sparse_tables: bool) -> None:
    params = SMALL.model_copy(update={"sparse_tables": sparse_tables, "loss": "sampled"})
    assert share_of_own_block(TwoTower(params, device="cpu").fit(blocks), np.arange(N_USERS)) > 0.9


class Killed(Exception):
    pass


@pytest.mark.parametrize("sparse_tables", [False, True])
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse_tables: bool
) -> None:
    params = SMALL.model_copy(
        update={
            "checkpoint_every": 7,
            "sparse_tables": sparse_tables,
            "loss": "sampled",
            "patience": 3,
            "cosine_decay": not sparse_tables,
        }
    )
    whole = TwoTower(params, device="cpu").fit(blocks)
    step, killed_at = Trainer._step, 25

    def step_until_killed(trainer: Trainer, windows: np.ndarray) -> None:
        if trainer._state.step == killed_at:
            raise Killed
        step(trainer, windows)

    monkeypatch.setattr(Trainer, "_step", step_until_killed)
    with pytest.raises(Killed):
        TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    resumed_from = []

    def note_step(trainer: Trainer, windows: np.ndarray) -> None:
        resumed_from.append(trainer._state.step)
        step(trainer, windows)

    monkeypatch.setattr(Trainer, "_step", note_step)
    resumed = TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    assert resumed_from[0] == 21
    np.testing.assert_array_equal(resumed.target_vectors, whole.target_vectors)
    np.testing.assert_array_equal(resumed.user_vectors, whole.user_vectors)
    assert resumed.learning_curve == whole.learning_curve
    assert resumed.best_step == whole.best_step


def test_a_checkpoint_of_another_training_is_not_used(
    blocks: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = SMALL.model_copy(update={"steps": 10})
    TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    fresh = TwoTower(params, device="cpu", seed=4).fit(blocks)
    other = TwoTower(params, device="cpu", seed=4, checkpoint_dir=tmp_path).fit(blocks)
    assert "another training (seed differ)" in caplog.text
    np.testing.assert_array_equal(other.target_vectors, fresh.target_vectors)


def test_a_checkpoint_of_other_given_vectors_is_not_used(
    blocks: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = SMALL.model_copy(update={"steps": 10})
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(N_BLOCKS * BLOCK, 4)).astype(np.float32) for _ in range(2))
    TwoTower(params, device="cpu", given=first, checkpoint_dir=tmp_path).fit(blocks)
    fresh = TwoTower(params, device="cpu", given=second).fit(blocks)
    other = TwoTower(params, device="cpu", given=second, checkpoint_dir=tmp_path).fit(blocks)
    assert "another training (given differ)" in caplog.text
    np.testing.assert_array_equal(other.target_vectors, fresh.target_vectors)


def test_a_damaged_checkpoint_is_named(blocks: Dataset, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ModelError, match=f"{CHECKPOINT} is no whole checkpoint"):
        TwoTower(SMALL, device="cpu", checkpoint_dir=tmp_path).fit(blocks)


def test_divergence_names_step_and_loss_and_keeps_the_checkpoint(
    blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SMALL.model_copy(update={"checkpoint_every": 5})
    loss, calls = TowerLoss.__call__, itertools.count(1)

    def diverge(self: TowerLoss, batch: Batch) -> torch.Tensor:
        return loss(self, batch) * (math.nan if next(calls) == 13 else 1.0)

    monkeypatch.setattr(TowerLoss, "__call__", diverge)
    with pytest.raises(ModelError, match=r"loss of step 13 is nan at learning_rate=0\.01"):
        TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    monkeypatch.setattr(TowerLoss, "__call__", loss)
    model = TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    np.testing.assert_array_equal(
        model.target_vectors, TwoTower(params, device="cpu").fit(blocks).target_vectors
    )


@pytest.mark.parametrize("loss", ["sampled", "full"])
def test_a_learning_rate_that_is_far_too_high_diverges_by_name(
    blocks: Dataset, tmp_path: Path, loss: str
) -> None:
    """The temperature runs away: the loss stays finite, at that of an even guess, and so do the weights."""
    params = SMALL.model_copy(
        update={"learning_rate": 3.0, "warmup_steps": 0, "checkpoint_every": 2, "loss": loss}
    )
    with pytest.raises(
        ModelError, match=r"by step \d+ the temperature .*, and the loss 3\.\d+.*lower it.*kept"
    ):
        TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept is not None
    assert kept.state["training"]["step"] >= 2
    assert all(torch.isfinite(tensor).all() for tensor in kept.tensors.values())
    assert kept.tensors["network.log_temperature"].exp() < 100


def test_a_divergence_before_the_first_checkpoint_promises_none(blocks: Dataset, tmp_path: Path) -> None:
    params = SMALL.model_copy(update={"learning_rate": 30.0, "warmup_steps": 0, "loss": "sampled"})
    with pytest.raises(ModelError, match=r"learning_rate=30\.0; lower it$"):
        TwoTower(params, device="cpu", checkpoint_dir=tmp_path).fit(blocks)
    assert not (tmp_path / CHECKPOINT).exists()


def test_weights_that_the_last_step_broke_are_not_returned(blocks: Dataset) -> None:
    params = SMALL.model_copy(update={"learning_rate": 1e38, "warmup_steps": 0, "steps": 1})
    with pytest.raises(ModelError, match=r"is not finite after step 1 at learning_rate=1e\+38; lower it$"):
        TwoTower(params, device="cpu").fit(blocks)


def test_an_infinite_learning_rate_is_no_rate() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        TwoTowerParams(learning_rate=math.inf)


def test_the_best_before_a_divergence_is_kept(
    blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SMALL.model_copy(update={"evaluate_every": 4})
    loss, calls = TowerLoss.__call__, itertools.count(1)

    def diverge(self: TowerLoss, batch: Batch) -> torch.Tensor:
        return loss(self, batch) * (math.nan if next(calls) == 6 else 1.0)

    monkeypatch.setattr(TowerLoss, "__call__", diverge)
    model = TwoTower(params, device="cpu", checkpoint_dir=tmp_path)
    with pytest.raises(ModelError, match=r"loss of step 6 is nan .* the checkpoint of step 4 is kept"):
        model.fit(blocks)


def test_a_single_target_is_no_failure_to_learn(
    build_dataset: BuildDataset, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Row] = [(user, 0, BUY, day) for user in range(8) for day in (1.0, 9.0, 20.0, 28.0)]
    TwoTower(SMALL, device="cpu").fit(build_dataset(rows, n_users=8, n_items=1))
    assert "no more of users than popularity" not in caplog.text


def test_towers_that_learnt_nothing_say_so(blocks: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    TwoTower(SMALL, device="cpu").fit(blocks)
    assert "no more of users than popularity" not in caplog.text
    params = SMALL.model_copy(update={"learning_rate": 1e-6, "loss": "full"})
    TwoTower(params, device="cpu").fit(blocks)
    assert "no more of users than popularity does" in caplog.text


def test_a_device_without_memory_names_the_batch_that_fits(
    blocks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = TowerLoss.__call__

    def with_little_memory(self: TowerLoss, batch: Batch) -> torch.Tensor:
        if len(batch.row) > 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss(self, batch)

    monkeypatch.setattr(TowerLoss, "__call__", with_little_memory)
    with pytest.raises(ModelError, match=r"batch_size=64: (\d|1\d|20) would fit"):
        TwoTower(SMALL, device="cpu").fit(blocks)


def test_what_failed_is_let_go_of_before_a_smaller_batch_is_tried(
    blocks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, failed = TowerLoss.__call__, list[weakref.ref[torch.Tensor]]()
    alive: list[bool] = []

    def with_little_memory(self: TowerLoss, batch: Batch) -> torch.Tensor:
        alive.append(any(tensor() is not None for tensor in failed))
        found = loss(self, batch)
        if len(batch.row) > 10:
            failed.append(weakref.ref(found))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(TowerLoss, "__call__", with_little_memory)
    with pytest.raises(ModelError, match="would fit"):
        TwoTower(SMALL, device="cpu").fit(blocks)
    assert len(failed) >= 2
    assert not any(alive)


def test_an_optimiser_without_memory_fits_no_batch(blocks: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(ModelError, match=r"cpu has too little memory for batch_size=64, and for a single"):
        TwoTower(SMALL, device="cpu").fit(blocks)
