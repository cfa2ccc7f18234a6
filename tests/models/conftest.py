"""Datasets built from arrays, without the preparation: a test of a model says all that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.data.dataset import Dataset, Entities, Events
from recsys.data.ids import IdMap
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour

DAY_US = 86_400_000_000
START_US = 19_000 * DAY_US

#: Towers that learn a planted log within a second.
SMALL = TwoTowerParams(
    dim=16,
    history_length=8,
    batch_size=64,
    uniform_negatives=16,
    epochs=8,
    warmup_steps=10,
    learning_rate=0.01,
)

#: The planted log: user u likes the items of block u % 4 alone; item i is of block i % 4.
N_USERS, N_BLOCKS, BLOCK = 120, 4, 8

#: user, item, behaviour, day (a fraction is a time of day)
Row = tuple[int, int, Behaviour, float]
BuildDataset = Callable[..., Dataset]


def _entities(kind: str, n: int, columns: Mapping[str, Any], known_at_us: np.ndarray) -> Entities:
    ids = IdMap(pa.array([f"{kind}{index}" for index in range(n)]), pa.string())
    table = pa.table({"row": np.arange(n), **columns}).drop_columns(["row"]) if columns else pa.table({})
    return Entities(ids, table, known_at_us)


@pytest.fixture(scope="session")
def build_dataset() -> BuildDataset:
    """build(rows, n_users=, n_items=, users={column: values}, items=, days=) -> Dataset as of day `days`.

    The items double as streamers, so that the same rows serve both targets.
    """

    def build(
        rows: Sequence[Row],
        *,
        n_users: int | None = None,
        n_items: int | None = None,
        users: Mapping[str, Any] | None = None,
        items: Mapping[str, Any] | None = None,
        days: float = 30.0,
    ) -> Dataset:
        rows = sorted(rows, key=lambda row: row[3])
        user = np.array([row[0] for row in rows], dtype=np.int32)
        item = np.array([row[1] for row in rows], dtype=np.int32)
        nothing = np.full(len(rows), np.nan, dtype=np.float32)
        events = Events(
            timestamp_us=np.array([START_US + round(row[3] * DAY_US) for row in rows], dtype=np.int64),
            behaviour=np.array([row[2].code for row in rows], dtype=np.int8),
            user_idx=user,
            item_idx=item,
            room_idx=item.copy(),
            streamer_idx=item.copy(),
            duration_s=nothing,
            quantity=nothing.copy(),
            amount=nothing.astype(np.float64),
            position=nothing.copy(),
        )
        n_users = int(user.max()) + 1 if n_users is None else n_users
        n_items = int(item.max()) + 1 if n_items is None else n_items
        always = np.iinfo(np.int64).min
        time = pa.array([], pa.timestamp("us"))
        return Dataset(
            path=Path("built-in-memory"),
            as_of_us=START_US + round(days * DAY_US),
            users=_entities("u", n_users, users or {}, np.full(n_users, always)),
            items=_entities("i", n_items, items or {}, np.full(n_items, always)),
            rooms=Entities(
                IdMap(pa.array([], pa.string()), pa.string()),
                pa.table({"started_at": time, "ended_at": time}),
                np.zeros(0, dtype=np.int64),
            ),
            streamers=_entities("s", n_items, {}, np.full(n_items, always)),
            events=events,
            showcases=pa.table({"started_at": time, "ended_at": time}),
            promotions=pa.table({"started_at": time, "ended_at": time, "announced_at": time}),
            manifest={"fingerprint": "0"},
        )

    return build


def block_rows(seed: int, n_users: int = N_USERS) -> list[Row]:
    """The planted log: seven purchases a user, each within the user's block."""
    rng = np.random.default_rng(seed)
    return [
        (
            u,
            int(u % N_BLOCKS + N_BLOCKS * rng.integers(BLOCK)),
            Behaviour.PURCHASE,
            float(rng.uniform(0, 29)),
        )
        for u in range(n_users)
        for _ in range(7)
    ]


@pytest.fixture(scope="session")
def blocks(build_dataset: BuildDataset) -> Dataset:
    return build_dataset(block_rows(0), n_users=N_USERS, n_items=N_BLOCKS * BLOCK)


def share_of_own_block(model: TwoTower, users: np.ndarray, k: int = 5) -> float:
    """Of the best k of each user of the planted log, how many are right; a quarter by chance."""
    best = model.recommend(users.astype(np.int32), k=k)
    return float((best.ids % N_BLOCKS == users[:, None] % N_BLOCKS).mean())


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are multiplied fastest by one thread, whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
