"""The two-tower: it learns what is there to be learnt, for the known and the unknown."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.data.histories import HistoryBatch
from recsys.errors import DataError, ModelError
from recsys.models.training_examples import HISTORY_BEHAVIOURS
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour, Target
from tests.models.conftest import (
    BLOCK,
    N_BLOCKS,
    N_USERS,
    SMALL,
    START_US,
    BuildDataset,
    block_rows,
    share_of_own_block,
)

BUY = Behaviour.PURCHASE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fitted(blocks: Dataset) -> TwoTower:
    return TwoTower(SMALL.model_copy(update={"loss": "sampled"}), device="cpu").fit(blocks)


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "full"},
        {"loss": "sampled"},
        {"ahead": "all"},
        {"ahead": "all", "loss": "sampled", "hard_negatives": 4},
        {"ahead": "whole", "loss": "sampled"},
        {"cosine_decay": True},
        {"layers": 1},
        {"hard_negatives": 4, "loss": "sampled"},
        {"normalise": False, "temperature": 1.0},
        {"popularity": 0.5},
    ],
)
def test_a_planted_structure_is_learnt(blocks: Dataset, change: dict[str, object]) -> None:
    model = TwoTower(SMALL.model_copy(update=change), device="cpu").fit(blocks)
    assert share_of_own_block(model, np.arange(N_USERS)) > 0.9  # by chance 0.25


def test_shapes_and_learning_curve(fitted: TwoTower) -> None:
    assert fitted.user_vectors.shape == fitted.user_profiles.shape == (N_USERS, 16)
    assert fitted.target_vectors.shape == (N_BLOCKS * BLOCK, 16)
    assert fitted.user_vectors.dtype == fitted.target_vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fitted.target_vectors, axis=1), 1, rtol=1e-5)
    curve = fitted.learning_curve
    assert curve[-1].loss < curve[0].loss
    best = max(curve, key=lambda point: point.ndcg or 0)
    assert fitted.best_step == best.step


def test_popularity_is_added_to_what_was_learnt(blocks: Dataset) -> None:
    """In logs of how often each target was right, and apart from what was learnt."""
    params = SMALL.model_copy(update={"steps": 40, "temperature": 0.1, "learn_temperature": False})
    half, whole = (
        TwoTower(params.model_copy(update={"popularity": weight}), device="cpu").fit(blocks)
        for weight in (0.5, 1.0)
    )
    logs = np.log(np.bincount(blocks.events.target_idx(Target.ITEM)))
    users = np.arange(10)
    scores = [model.user_vectors[users] @ model.target_vectors.T / 0.1 for model in (half, whole)]
    np.testing.assert_allclose(scores[1] - scores[0], np.tile(0.5 * (logs - logs.mean()), (10, 1)), atol=1e-4)
    np.testing.assert_allclose(half.user_vectors[:, :-1], whole.user_vectors[:, :-1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(half.target_vectors[:, :-1], axis=1), 1, rtol=1e-5)


def test_a_user_nobody_knows_is_placed_by_history_alone(fitted: TwoTower) -> None:
    items = np.array([[0, 0, 1, 5], [0, 2, 6, 10]], dtype=np.int32)
    mask = np.array([[False, False, True, True], [False, True, True, True]])
    batch = HistoryBatch(
        items,
        np.full(items.shape, BUY.code, dtype=np.int8),
        np.where(mask, START_US + np.arange(4) * 3_600_000_000, 0),
        mask,
    )
    vectors = fitted.encode_histories(batch, now_us=START_US + 86_400_000_000)
    best = np.argsort(-(vectors @ fitted.target_vectors.T), axis=1)[:, :5]
    assert (best[0] % N_BLOCKS == 1).mean() > 0.7
    assert (best[1] % N_BLOCKS == 2).mean() > 0.7


def test_a_user_of_whom_nothing_is_known_has_no_vector(fitted: TwoTower) -> None:
    nothing = HistoryBatch(
        np.zeros((1, 8), np.int32),
        np.zeros((1, 8), np.int8),
        np.zeros((1, 8), np.int64),
        np.zeros((1, 8), bool),
    )
    assert not fitted.encode_histories(nothing, now_us=START_US).any()
    unknown = fitted.encode_histories(nothing, now_us=START_US, users=np.array([-1], dtype=np.int32))
    assert not unknown.any()


def test_batch_encoding_is_what_fit_stored(fitted: TwoTower, blocks: Dataset) -> None:
    users = np.array([3, 50], dtype=np.int32)
    histories = blocks.histories(Target.ITEM, HISTORY_BEHAVIOURS)
    vectors = fitted.encode_histories(histories.last(users, 8), now_us=blocks.as_of_us, users=users)
    np.testing.assert_allclose(vectors, fitted.user_vectors[users], atol=1e-6)
    # A longer history than the tower reads is cut to its newest events.
    longer = fitted.encode_histories(histories.last(users, 20), now_us=blocks.as_of_us, users=users)
    np.testing.assert_allclose(longer, vectors, atol=1e-6)


def test_rooms_are_learnt_by_streamer(blocks: Dataset) -> None:
    item, room = (TwoTower(SMALL, target=target, device="cpu").fit(blocks) for target in Target)
    np.testing.assert_array_equal(item.user_vectors, room.user_vectors)  # here streamer i shows item i


@pytest.mark.parametrize("popularity", [0.0, 0.2, -0.2])
def test_a_new_item_is_placed_by_its_content(build_dataset: BuildDataset, popularity: float) -> None:
    n_items = N_BLOCKS * BLOCK + N_BLOCKS  # the last four were never touched
    category = [f"block {i % N_BLOCKS}" for i in range(n_items)]
    dataset = build_dataset(block_rows(1), n_users=N_USERS, n_items=n_items, items={"category": category})
    params = SMALL.model_copy(update={"target_id_dropout": 0.5, "popularity": popularity})
    model = TwoTower(params, device="cpu").fit(dataset)
    new = np.arange(n_items - N_BLOCKS, n_items)
    scores = model.user_vectors @ model.target_vectors[new].T
    assert (new[scores.argmax(axis=1)] % N_BLOCKS == np.arange(N_USERS) % N_BLOCKS).mean() > 0.9
    again = model.encode_new_targets(dataset.items.table.slice(n_items - N_BLOCKS))
    np.testing.assert_allclose(again, model.target_vectors[new], atol=1e-6)


def test_a_new_item_is_placed_by_the_words_of_its_title(build_dataset: BuildDataset) -> None:
    n_items = N_BLOCKS * BLOCK + N_BLOCKS  # the last four were never touched
    kinds = ("保溫水杯", "運動鞋", "summer dress", "lipstick")
    title = [f"{n} {kinds[n % N_BLOCKS]} {n}" for n in range(n_items)]
    dataset = build_dataset(block_rows(1), n_users=N_USERS, n_items=n_items, items={"title": title})
    model = TwoTower(SMALL.model_copy(update={"target_id_dropout": 0.5}), device="cpu").fit(dataset)
    new = np.arange(n_items - N_BLOCKS, n_items)
    scores = model.user_vectors @ model.target_vectors[new].T
    assert (new[scores.argmax(axis=1)] % N_BLOCKS == np.arange(N_USERS) % N_BLOCKS).mean() > 0.9
    # Among words that nobody trained on, a known one still says what it is.
    served = model.encode_new_targets(pa.table({"title": ["全新運動鞋 limited", "unheard of", None]}))
    in_order = model.user_vectors[: 4 * N_BLOCKS] @ served.T
    assert (in_order[1::N_BLOCKS, 0] > in_order[0::N_BLOCKS, 0].max()).mean() > 0.9
    np.testing.assert_array_equal(served[1], served[2])


def test_categories_never_seen_say_nothing(build_dataset: BuildDataset) -> None:
    n_items = N_BLOCKS * BLOCK + N_BLOCKS
    category = [f"block {i % N_BLOCKS}" for i in range(n_items)]
    brand = [f"brand {i // N_BLOCKS % 2}" for i in range(N_BLOCKS * BLOCK)] + [
        "brand of new items"
    ] * N_BLOCKS
    dataset = build_dataset(
        block_rows(1), n_users=N_USERS, n_items=n_items, items={"category": category, "brand": brand}
    )
    model = TwoTower(SMALL.model_copy(update={"target_id_dropout": 0.5}), device="cpu").fit(dataset)
    new = np.arange(n_items - N_BLOCKS, n_items)
    table = dataset.items.table.slice(n_items - N_BLOCKS)
    # In the table or not, a brand that no trained item has is an unknown brand.
    for column in (pa.array(["of tomorrow"] * N_BLOCKS), pa.nulls(N_BLOCKS, pa.string())):
        served = model.encode_new_targets(table.set_column(1, "brand", column))
        np.testing.assert_allclose(served, model.target_vectors[new], atol=1e-6)
    scores = model.user_vectors @ model.target_vectors[new].T
    assert (new[scores.argmax(axis=1)] % N_BLOCKS == np.arange(N_USERS) % N_BLOCKS).mean() > 0.9


def test_given_vectors_place_a_new_item(build_dataset: BuildDataset) -> None:
    n_items = N_BLOCKS * BLOCK + N_BLOCKS
    dataset = build_dataset(block_rows(2), n_users=N_USERS, n_items=n_items)
    given = np.eye(N_BLOCKS, dtype=np.float32)[np.arange(n_items) % N_BLOCKS]
    params = SMALL.model_copy(update={"target_id_dropout": 0.5})
    model = TwoTower(params, device="cpu", given=given).fit(dataset)
    new = np.arange(n_items - N_BLOCKS, n_items)
    scores = model.user_vectors @ model.target_vectors[new].T
    assert (new[scores.argmax(axis=1)] % N_BLOCKS == np.arange(N_USERS) % N_BLOCKS).mean() > 0.9


def test_new_targets_that_cannot_be_read_are_named(blocks: Dataset) -> None:
    n_items = len(blocks.items)
    priced = replace(blocks.items, table=pa.table({"price": np.arange(n_items, dtype=float)}))
    model = TwoTower(SMALL, device="cpu", given=np.ones((n_items, 2), np.float32)).fit(
        replace(blocks, items=priced)
    )
    given = np.ones((1, 2), np.float32)
    with pytest.raises(DataError, match="values infinite; leave them empty"):
        model.encode_new_targets(pa.table({"price": [math.inf]}), given=given)
    with pytest.raises(DataError, match=r"price: .*abc"):
        model.encode_new_targets(pa.table({"price": ["abc"]}), given=given)
    for wrong in (None, np.ones((1, 3)), np.ones((0, 2))):
        with pytest.raises(ModelError, match="given vectors have shape"):
            model.encode_new_targets(pa.table({"price": [1.0]}), given=wrong)
    # Of another precision they are as good.
    table = pa.table({"price": [1.0]})
    found = [model.encode_new_targets(table, given=given.astype(type_)) for type_ in ("f8", "f4")]
    np.testing.assert_array_equal(*found)


def test_given_vectors_that_do_not_fit_are_refused(blocks: Dataset) -> None:
    with pytest.raises(ModelError, match="32 targets need a row each"):
        TwoTower(SMALL, device="cpu", given=np.zeros((3, 2), np.float32)).fit(blocks)
    broken = np.zeros((32, 2), np.float32)
    broken[7, 1] = np.nan
    with pytest.raises(ModelError, match="row 7 is not finite"):
        TwoTower(SMALL, device="cpu", given=broken).fit(blocks)


@pytest.mark.parametrize("purchase", [1.0, 5.0])
def test_what_a_behaviour_counts_is_what_it_counts_in_the_loss(
    build_dataset: BuildDataset, purchase: float
) -> None:
    # After item 2, half of the users look at item 0, and half buy item 1. Who minimises the weighted loss
    # gives the two scores that differ by ln of what the behaviours count.
    rows = [(u, 2, Behaviour.VIEW, 1.0) for u in range(100)]
    rows += [(u, u % 2, BUY if u % 2 else Behaviour.VIEW, 2.0) for u in range(100)]
    params = SMALL.model_copy(
        update={
            "loss": "full",
            "normalise": False,
            "temperature": 1.0,
            "learn_temperature": False,
            "user_id_embedding": False,
            "dropout": 0.0,
            "batch_size": 1_000,
            "steps": 150,
        }
    )
    weights = BehaviourWeights(weights={Behaviour.VIEW: 1.0, BUY: purchase}, half_life_days=None)
    model = TwoTower(params, weights=weights, device="cpu").fit(build_dataset(rows))
    asked = HistoryBatch(
        np.array([[2]], np.int32),
        np.array([[Behaviour.VIEW.code]], np.int8),
        np.array([[START_US + 86_400_000_000]]),
        np.array([[True]]),
    )
    vector = model.encode_histories(asked, now_us=START_US + 2 * 86_400_000_000)
    look, buy, _ = (vector @ model.target_vectors.T)[0]
    assert buy - look == pytest.approx(math.log(purchase), abs=0.1)


def test_user_features_alone_serve_a_user_without_history(build_dataset: BuildDataset) -> None:
    segment = [f"block {u % N_BLOCKS}" for u in range(N_USERS + N_BLOCKS)]
    dataset = build_dataset(
        block_rows(3), n_users=N_USERS + N_BLOCKS, n_items=N_BLOCKS * BLOCK, users={"city_tier": segment}
    )
    model = TwoTower(SMALL, device="cpu").fit(dataset)
    new = np.arange(N_USERS, N_USERS + N_BLOCKS)
    assert share_of_own_block(model, new) > 0.9


def test_two_fits_of_one_seed_agree_and_of_another_do_not(fitted: TwoTower, blocks: Dataset) -> None:
    again = TwoTower(fitted.params, device="cpu").fit(blocks)
    np.testing.assert_array_equal(again.user_vectors, fitted.user_vectors)
    other = TwoTower(fitted.params, device="cpu", seed=1).fit(blocks)
    assert not np.allclose(other.target_vectors, fitted.target_vectors)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        MemoryError("Unable to allocate 3 GiB"),
    ],
)
def test_too_little_memory_beside_the_training_is_named(
    blocks: Dataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("recsys.models.two_tower.encode_targets", fail)
    with pytest.raises(ModelError, match=r"cpu has too little memory for the towers .* at dim=16: lower it"):
        TwoTower(SMALL, device="cpu").fit(blocks)


def test_not_fitted_is_named() -> None:
    with pytest.raises(ModelError, match="not fitted"):
        TwoTower(device="cpu").query_tower_onnx()


def test_params_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(ValueError, match="heads=3 does not divide dim=64"):
        TwoTowerParams(heads=3)
    with pytest.raises(ValueError, match="no negatives"):
        TwoTowerParams(in_batch_negatives=False, uniform_negatives=0, loss="sampled")
