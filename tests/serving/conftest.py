"""A small bundle made straight from arrays: 60 products in three categories, 30 users, every source."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from recsys.bundle import Section, write_bundle
from recsys.data.histories import Histories
from recsys.data.ids import IdMap
from recsys.index import IndexParams, build_index
from recsys.models.fusion import Combiner, ItemTable
from recsys.models.neighbours import Neighbours, RecencyParams
from recsys.models.repeat import MAX_TOUCHES, N_AGES, N_STAGES, ReturnRates
from recsys.product_sections import (
    Catalogue,
    PopularLists,
    TowerQuery,
    Vectors,
    core_section,
    fusion_section,
    hot_section,
    neighbours_section,
    popular_section,
    returns_section,
)
from recsys.types import Behaviour, FloatArray
from serving.recommender import Recommender

N_ITEMS, N_USERS, D = 60, 30, 8
CATEGORIES = ("dress", "tea", "phone")
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
AS_OF_US = int(AS_OF.timestamp()) * 1_000_000
HOUR_US = 3_600_000_000
#: The wall clock of the tests: a day after the bundle's moment.
CLOCK_S = AS_OF_US / 1e6 + 86_400


def item_id(index: int) -> str:
    """`i-00`, `i-01` ..."""
    return f"i-{index:02d}"


def user_id(index: int) -> int:
    """1000, 1001 ...: the log held users as integers."""
    return 1000 + index


def mean_tower(length: int, d: int = D) -> bytes:
    """An ONNX graph with the query tower's inputs: the mean of the visible history, plus the profile."""

    def info(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    nodes = [
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "last"], ["weight"]),
        helper.make_node("Mul", ["history", "weight"], ["visible"]),
        helper.make_node("ReduceSum", ["visible", "first"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "first"], ["count"], keepdims=0),
        helper.make_node("Max", ["count", "one"], ["at_least_one"]),
        helper.make_node("Div", ["total", "at_least_one"], ["mean"]),
        helper.make_node("Add", ["mean", "profile"], ["user"]),
    ]
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("first", TensorProto.INT64, [1], [1]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [
            info("history", TensorProto.FLOAT, "b", length, d),
            info("behaviour", TensorProto.INT64, "b", length),
            info("age_s", TensorProto.FLOAT, "b", length),
            info("mask", TensorProto.BOOL, "b", length),
            info("profile", TensorProto.FLOAT, "b", d),
        ],
        [info("user", TensorProto.FLOAT, "b", d)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def item_vectors(seed: int) -> FloatArray:
    """Unit vectors: products of a category lie together."""
    rng = np.random.default_rng(seed)
    vectors = 2.0 * np.eye(D)[np.arange(N_ITEMS) % 3] + 0.3 * rng.normal(size=(N_ITEMS, D))
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def make_sections(
    *, seed: int = 0, n_items: int = N_ITEMS, index: IndexParams | None = None, returns: bool = True
) -> dict[str, Section]:
    """The sections of a bundle that answers for products; another seed is another model of the same items.

    User 0 has viewed and bought products 0, 3 and 6 (dresses), user 1 nothing; the rest act at random.
    Product 59 is sold out, user 2 has opted out.
    """
    rng = np.random.default_rng(seed)
    vectors = item_vectors(seed)[:n_items]
    rows: list[list[tuple[int, Behaviour]]] = [[] for _ in range(N_USERS)]
    if n_items:
        rows[0] = [(0, Behaviour.VIEW), (3, Behaviour.VIEW), (6, Behaviour.VIEW), (6, Behaviour.PURCHASE)]
        for user in range(2, N_USERS):
            items = rng.integers(0, n_items, 5).tolist()
            rows[user] = [(item, Behaviour.VIEW) for item in items] + [(items[-1], Behaviour.PURCHASE)]
    lengths = [len(row) for row in rows]
    flat = [pair for row in rows for pair in row]
    histories = Histories(
        indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target_idx=np.array([item for item, _ in flat], dtype=np.int32),
        behaviour=np.array([behaviour.code for _, behaviour in flat], dtype=np.int8),
        timestamp_us=np.array(
            [AS_OF_US - (n - place) * HOUR_US for n in lengths for place in range(n)], dtype=np.int64
        ),
        duration_s=np.full(len(flat), np.nan, dtype=np.float32),
    )
    bought = [[item for item, behaviour in row if behaviour is Behaviour.PURCHASE] for row in rows]
    users = np.stack([vectors[[i for i, _ in row]].mean(axis=0) if row else np.zeros(D) for row in rows])
    catalogue = Catalogue(
        items=IdMap(pa.array([item_id(i) for i in range(n_items)], pa.string()), pa.string()),
        item_table=pa.table(
            {
                "category": pa.array([CATEGORIES[i % 3] for i in range(n_items)], pa.string()),
                "brand": pa.array([f"brand {i % 4}" for i in range(n_items)], pa.string()),
                "title": pa.array([f"商品 {i}" for i in range(n_items)], pa.string()),
                "stock": pa.array(
                    [None if i % 7 == 0 else 5 * (i != 59) for i in range(n_items)], pa.int64()
                ),
                "price": pa.array([None if i % 5 == 0 else 0.5 * i for i in range(n_items)], pa.float64()),
            }
        ),
        users=IdMap(pa.array([str(user_id(u)) for u in range(N_USERS)], pa.string()), pa.int64()),
        personalised=np.arange(N_USERS) != 2,
        histories=histories,
        seen_indptr=np.concatenate([[0], np.cumsum([len(items) for items in bought])]).astype(np.int64),
        seen_ids=np.array([item for items in bought for item in items], dtype=np.int32),
        consumption=(Behaviour.PURCHASE,),
        as_of_us=AS_OF_US,
    )
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    near = np.argsort(-scores, axis=1, kind="stable")[:, : min(10, max(n_items - 1, 0))]
    neighbours = Neighbours(
        indptr=np.arange(n_items + 1, dtype=np.int64) * near.shape[1],
        ids=near.ravel().astype(np.int32),
        scores=np.take_along_axis(scores, near, axis=1).ravel().astype(np.float32),
        recency=RecencyParams(),
    )
    everybody = np.arange(n_items, dtype=np.int32)
    popular = {"": (everybody, np.linspace(1, 0.1, n_items).astype(np.float32))}
    combiner = Combiner(
        sources=("two_tower", "co_visitation", "repeat", "popular"),
        table=ItemTable(
            popularity=np.zeros((n_items, 3), dtype=np.float32),
            attention=np.zeros(n_items, dtype=np.float32),
            first_seen_us=np.full(n_items, AS_OF_US, dtype=np.int64),
            log_price=np.full(n_items, np.nan, dtype=np.float32),
            category=(everybody % 3).astype(np.int32),
        ),
        rrf_weights=np.array([1.0, 1.0, 0.5, 0.01], dtype=np.float32),
        trees=None,
        returns=returns,
    )
    hot = [i for i in (7, 12, 59, 3) if i < n_items]
    return {
        "core": core_section(
            catalogue,
            Vectors(
                source="two_tower",
                item_vectors=vectors,
                user_vectors=users.astype(np.float32),
                index=build_index(vectors, params=index),
                query=TowerQuery(mean_tower(20), 20, np.zeros((N_USERS, D), dtype=np.float32)),
            ),
        ),
        "neighbours_co_visitation": neighbours_section("co_visitation", neighbours),
        "returns": returns_section(
            "repeat",
            ReturnRates(
                np.full(N_STAGES * MAX_TOUCHES * N_AGES, 0.1, np.float32), np.ones(n_items, dtype=np.float32)
            ),
            length=200,
        ),
        "popular": popular_section("popular", PopularLists.of(popular, np.zeros(N_USERS, dtype=np.int32))),
        "fusion": fusion_section(combiner),
        "hot": hot_section(
            pa.table(
                {
                    "item_idx": pa.array(hot, pa.int32()),
                    "potential": pa.array([0.9 - 0.1 * n for n in range(len(hot))], pa.float64()),
                    "lower": pa.array([0.5] * len(hot), pa.float64()),
                    "upper": pa.array([0.95] * len(hot), pa.float64()),
                    "grade": pa.array(["S", "A", "B", "C"][: len(hot)], pa.string()),
                    "reasons": pa.array(["carts rise"] * len(hot), pa.string()),
                }
            )
        ),
    }


MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """`make_bundle("v2", seed=1)`: writes a bundle and gives its path; all lie in one folder."""

    def make(version: str = "v1", *, sections: dict[str, Section] | None = None, **world: Any) -> Path:
        return write_bundle(
            tmp_path / "bundles" / version,
            sections=sections if sections is not None else make_sections(**world),
            config={},
            metrics={},
            model_version=version,
        )

    return make


@pytest.fixture
def recommender(make_bundle: MakeBundle) -> Recommender:
    """A recommender of `make_bundle()`, a day after the bundle's moment."""
    return load(make_bundle())


def load(path: Path, **options: Any) -> Recommender:
    """A recommender by the tests' clock."""
    return Recommender.load(path, clock=lambda: CLOCK_S, **options)
