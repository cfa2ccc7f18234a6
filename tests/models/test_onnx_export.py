"""The exported query tower gives what torch gives, at any batch, and carries no table of targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest

from recsys.models.onnx_export import CONTENT_INPUTS, INPUTS
from recsys.models.tower_features import TableEncoder
from recsys.models.training_examples import HISTORY_BEHAVIOURS
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset

N_USERS, N_ITEMS, LENGTH = 40, 3_000, 12

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("layers", "popularity"), [(0, 0.0), (1, 0.0), (1, 0.7)])
def test_onnx_equals_torch(build_dataset: BuildDataset, layers: int, popularity: float) -> None:
    rng = np.random.default_rng(0)
    behaviours = (Behaviour.VIEW, Behaviour.CART, Behaviour.PURCHASE)
    rows = [
        (u, int(rng.integers(N_ITEMS)), behaviours[int(rng.integers(3))], float(rng.uniform(0, 29)))
        for u in range(N_USERS)
        for _ in range(int(rng.integers(0, 2 * LENGTH)))
    ]
    dataset = build_dataset(rows, n_users=N_USERS, n_items=N_ITEMS)
    params = TwoTowerParams(
        dim=16,
        history_length=LENGTH,
        layers=layers,
        popularity=popularity,
        batch_size=64,
        steps=60,
        learning_rate=0.02,
    )
    model = TwoTower(params, device="cpu").fit(dataset)
    graph = model.query_tower_onnx()
    onnx.checker.check_model(onnx.load_from_string(graph))
    assert b".py" not in graph  # no path of the machine that trained it
    assert len(graph) < N_ITEMS * 16 * 4  # smaller than a table of targets would be
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert tuple(entry.name for entry in session.get_inputs()) == INPUTS
    history = dataset.histories(Target.ITEM, HISTORY_BEHAVIOURS).last(
        np.arange(N_USERS, dtype=np.int32), LENGTH
    )
    age_s = np.where(history.mask, (dataset.as_of_us - history.timestamp_us) / 1e6, 0).astype(np.float32)
    feeds = (
        model.target_vectors[history.target_idx],
        history.behaviour.astype(np.int64),
        age_s,
        history.mask,
        model.user_profiles,
    )
    for users in (slice(0, N_USERS), slice(3, 4), slice(5, 12)):
        (vectors,) = session.run(None, {name: feed[users] for name, feed in zip(INPUTS, feeds, strict=True)})
        np.testing.assert_allclose(vectors, model.user_vectors[users], atol=1e-5)


@pytest.mark.parametrize("popularity", [0.0, 0.7])
def test_a_new_target_is_placed_without_torch_as_with_it(
    build_dataset: BuildDataset, popularity: float
) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (u, int(rng.integers(60)), Behaviour.PURCHASE, float(rng.uniform(0, 29)))
        for u in range(N_USERS)
        for _ in range(12)
    ]
    dataset = build_dataset(rows, n_users=N_USERS, n_items=60)
    known = pa.table(
        {
            "category": [["tea", "rice", None][n % 3] for n in range(60)],
            "price": [float(n) if n % 7 else None for n in range(60)],
            "title": [f"{['green', 'black'][n % 2]} tea number {n % 5}" for n in range(60)],
        }
    )
    dataset = replace(dataset, items=replace(dataset.items, table=known))
    params = TwoTowerParams(
        dim=16,
        history_length=LENGTH,
        popularity=popularity,
        batch_size=64,
        steps=40,
        learning_rate=0.02,
    )
    model = TwoTower(params, device="cpu").fit(dataset)
    tower = model.content_tower()
    assert tower is not None
    session = onnxruntime.InferenceSession(tower[0], providers=["CPUExecutionProvider"])
    assert tuple(entry.name for entry in session.get_inputs()) == CONTENT_INPUTS
    new = pa.table(
        {
            "category": ["tea", "never seen", None, "rice"],
            "price": [3.0, None, 1e6, 0.0],
            "title": ["green tea", "", None, "a black tea of no known name, number 3"],
        }
    )
    for part in (new, new.slice(2, 1), new.slice(0, 2)):
        encoded = TableEncoder.from_json(tower[1]).encode(part, len(part))
        feeds = (encoded.codes, encoded.numbers, encoded.words)
        (vectors,) = session.run(None, dict(zip(CONTENT_INPUTS, feeds, strict=True)))
        np.testing.assert_allclose(vectors, model.encode_new_targets(part), atol=1e-5)
        if popularity:  # nobody turned to it yet
            np.testing.assert_allclose(vectors[:, -1], model.target_vectors[:, -1].min(), rtol=1e-5)
