"""A synthetic bundle of any size: clustered products, users with histories, an untrained query tower.

The speed of a search depends on how vectors lie, not on what was learnt, and an untrained tower gives the
mean of the history and its latest product: a vector close to what the user turned to. Fusion and rooms are
left out, so that a request is one search and what serving adds to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys.bundle import write_bundle
from recsys.data.histories import Histories
from recsys.data.ids import IdMap
from recsys.durations import HOUR_US
from recsys.index import IndexParams, build_index
from recsys.product_sections import (
    Catalogue,
    PopularLists,
    TowerQuery,
    Vectors,
    core_section,
    popular_section,
)
from recsys.types import Behaviour, FloatArray, IntArray, Params

#: The bundle's moment: 2026-03-01 UTC in microseconds.
AS_OF_US = 1_772_323_200_000_000
SOURCE = "two_tower"
_POPULAR = 10_000
_ROWS_AT_ONCE = 1 << 16


class WorldParams(Params):
    """What the synthetic catalogue looks like.

    Attributes:
        items: products, n.
        dim: d, width of the vectors.
        users: with a history each.
        actions: length of a history; every fourth action is a purchase.
        clusters_per_sqrt: groups of products that lie together = this x sqrt(items).
        spread: length of what sets a product apart from its group's centre, which has length 1.
        spread_dim: in how many dimensions products of a group differ, as learnt vectors differ in few.
        interests: groups that a user turns to.
        sold_out: share of products without stock.
        seed: of everything.
    """

    items: int = Field(default=1_000_000, ge=1_000)
    dim: int = Field(default=128, ge=2)
    users: int = Field(default=20_000, ge=10)
    actions: int = Field(default=50, ge=1)
    clusters_per_sqrt: float = Field(default=1.0, gt=0)
    spread: float = Field(default=1.0, ge=0)
    spread_dim: int = Field(default=24, ge=1)
    interests: int = Field(default=2, ge=1)
    sold_out: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 0


def write_world(path: Path, params: WorldParams) -> Path:
    """Write the bundle of a world and return its path; it takes minutes at a million products.

    Product `p00000042` costs its place in a random order over the number of products, so that a price limit
    of 0 to 0.3 allows 30 % of them wherever they lie; its category is a tenth of all groups.

    Args:
        path: where the bundle goes; nothing may be there.
        params: what it holds.
    """
    rng = np.random.default_rng(params.seed)
    vectors, cluster = item_vectors(params, rng)
    history = _history_items(params, cluster, rng)
    users = _unit(vectors[history].mean(axis=1) + vectors[history[:, -1]])
    n_users, length = history.shape
    bought = np.arange(length) % 4 == 3
    behaviour = np.where(bought, Behaviour.PURCHASE.code, Behaviour.VIEW.code).astype(np.int8)
    catalogue = Catalogue(
        items=IdMap(_ids("p", params.items), pa.string()),
        item_table=_item_table(params, cluster, rng),
        users=IdMap(_ids("u", n_users), pa.string()),
        personalised=np.ones(n_users, dtype=bool),
        histories=Histories(
            indptr=np.arange(n_users + 1, dtype=np.int64) * length,
            target_idx=history.ravel(),
            behaviour=np.tile(behaviour, n_users),
            timestamp_us=np.tile(AS_OF_US - np.arange(length, 0, -1) * HOUR_US, n_users),
            duration_s=np.full(history.size, np.nan, dtype=np.float32),
        ),
        seen_indptr=np.arange(n_users + 1, dtype=np.int64) * int(bought.sum()),
        seen_ids=history[:, bought].ravel(),
        consumption=(Behaviour.PURCHASE,),
        as_of_us=AS_OF_US,
    )
    model = Vectors(
        source=SOURCE,
        item_vectors=vectors,
        user_vectors=users,
        index=build_index(vectors, queries=users, params=IndexParams(seed=params.seed)),
        query=TowerQuery(untrained_tower(params.dim, length), length, np.zeros_like(users)),
    )
    popular = rng.permutation(params.items)[:_POPULAR].astype(np.int32)
    lists = {"": (popular, np.linspace(1, 0.1, len(popular)).astype(np.float32))}
    return write_bundle(
        path,
        sections={
            "core": core_section(catalogue, model),
            "popular": popular_section("popular", PopularLists.of(lists, np.zeros(n_users, np.int32))),
        },
        config={"world": params.model_dump(mode="json")},
        metrics={},
        model_version=f"synthetic-{params.items}-{params.seed}",
    )


def item_vectors(params: WorldParams, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Unit vectors (n, d) float32 around the centres of their groups, and the group of each (n,) int32."""
    centres, basis, cluster = _groups(params, rng)
    width = len(basis)
    vectors = np.empty((params.items, params.dim), dtype=np.float32)
    for start in range(0, params.items, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        apart = rng.normal(size=(len(cluster[part]), width)).astype(np.float32) / np.sqrt(width)
        vectors[part] = _unit(centres[cluster[part]] + params.spread * apart @ basis)
    return vectors, cluster


def product_groups(params: WorldParams) -> IntArray:
    """(n,) int32 the group of each product of the world, as `write_world` drew it."""
    return _groups(params, np.random.default_rng(params.seed))[2]


def untrained_tower(dim: int, length: int) -> bytes:
    """The query tower of a two-tower before its first step, as ONNX: what a trained one costs.

    Args:
        dim: d.
        length: of the history that it reads.
    """
    import torch

    from recsys.models.history_encoder import HistoryEncoder
    from recsys.models.onnx_export import query_tower_onnx
    from recsys.models.tower_features import EncodedTable
    from recsys.models.towers import EntityTower, TwoTowerNetwork
    from recsys.models.two_tower_params import TwoTowerParams

    torch.manual_seed(0)
    params = TwoTowerParams(dim=dim, history_length=length)

    def entities() -> EntityTower:
        return EntityTower(
            1,
            dim,
            features=EncodedTable.nothing(1),
            cardinalities=(),
            id_embedding=True,
            id_dropout=0.0,
            id_scale=0.1,
            sparse=False,
        )

    network = TwoTowerNetwork(
        users=entities(),
        targets=entities(),
        history=HistoryEncoder(
            dim=dim, heads=params.heads, layers=params.layers, length=length, dropout=params.dropout
        ),
        normalise=True,
        temperature=params.temperature,
        learn_temperature=False,
    )
    return query_tower_onnx(network, length=length)


def _groups(params: WorldParams, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, IntArray]:
    """Centres (groups, d), the directions (w, d) in which products of a group differ, and groups (n,)."""
    n_groups = max(1, round(params.clusters_per_sqrt * np.sqrt(params.items)))
    centres = _unit(rng.normal(size=(n_groups, params.dim)).astype(np.float32))
    width = min(params.spread_dim, params.dim)
    basis = rng.normal(size=(width, params.dim)).astype(np.float32) / np.sqrt(params.dim)
    return centres, basis, rng.integers(0, n_groups, params.items).astype(np.int32)


def _history_items(params: WorldParams, cluster: IntArray, rng: np.random.Generator) -> IntArray:
    """(users, actions) int32 products of the few groups that each user turns to."""
    by_cluster = np.argsort(cluster, kind="stable").astype(np.int32)
    sizes = np.bincount(cluster)
    filled = np.flatnonzero(sizes)
    starts = np.cumsum(sizes) - sizes
    interest = rng.choice(filled, (params.users, params.interests))
    chosen = np.take_along_axis(
        interest, rng.integers(0, params.interests, (params.users, params.actions)), 1
    )
    items: IntArray = by_cluster[starts[chosen] + (rng.random(chosen.shape) * sizes[chosen]).astype(np.int64)]
    return items


def _item_table(params: WorldParams, cluster: IntArray, rng: np.random.Generator) -> pa.Table:
    n = params.items
    stock = np.where(rng.permutation(n) < params.sold_out * n, 0, 5)
    return pa.table(
        {
            "category": pa.array([f"c{code}" for code in (cluster % 10).tolist()], pa.string()),
            "price": pa.array(rng.permutation(n) / n, pa.float64()),
            "stock": pa.array(stock, pa.int64()),
        }
    )


def _ids(letter: str, n: int) -> pa.Array:
    return pa.array([f"{letter}{index:08d}" for index in range(n)], pa.string())


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
