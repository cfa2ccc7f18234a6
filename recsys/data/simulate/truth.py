"""The truth behind a simulated log: written beside it, and read by evaluation alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.simulate.heat import HotEpisodes
from recsys.data.simulate.log import ids, timestamps
from recsys.data.simulate.params import DAY_MS, SimulationParams
from recsys.data.simulate.requests import REQUEST_SCHEMA
from recsys.data.simulate.warehouse import Warehouse
from recsys.data.simulate.world import CATEGORIES, World

FOLDER = "truth"
PARAMS_FILE = f"{FOLDER}/params.json"


def write_truth(
    out: Path,
    world: World,
    episodes: HotEpisodes,
    warehouse: Warehouse,
    requests: np.ndarray,
    rooms: int,
) -> None:
    """Write what the log only hints at into `out`/truth."""
    folder, params = out / FOLDER, world.params
    folder.mkdir(exist_ok=True)
    (out / PARAMS_FILE).write_text(params.model_dump_json(indent=2), encoding="utf-8")
    users, items, streamers = world.users, world.items, world.streamers
    for name, vectors in (
        ("user_taste_start", users.taste_start),
        ("user_taste_end", users.taste_end),
        ("item_vectors", items.vector),
        ("streamer_vectors", streamers.vector),
    ):
        np.save(folder / f"{name}.npy", vectors, allow_pickle=False)
    item_ids = ids("i", params.items)
    units = [np.concatenate(column) for column in zip(*warehouse.deliveries, strict=True)]
    tables = {
        "users": {
            "user_id": ids("u", params.users),
            "wallet": users.wallet,
            "hour": users.hour,
            "home_streamers": pa.array([[f"s{s:05d}" for s in row] for row in users.home.tolist()]),
        },
        "streamers": {"streamer_id": ids("s", params.streamers), "charm": streamers.charm},
        "items": {
            "item_id": item_ids,
            "price_level": items.price_level,
            "popularity": items.popularity,
            "return_rate": items.return_rate,
        },
        "return_rates": {
            "category": [category.name for category in CATEGORIES],
            "return_rate": [category.return_rate for category in CATEGORIES],
        },
        "deliveries": {
            "item_id": item_ids.take(pa.array(units[0])),
            "at": timestamps(params, units[1]),
            "units": units[2],
        },
        "hot_items": _hot_table(params, episodes, ~episodes.decoy),
        "decoys": _hot_table(params, episodes, episodes.decoy),
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", compression="zstd")
    pq.write_table(_requests(params, requests, rooms), folder / "room_requests.parquet", compression="zstd")


def _hot_table(params: SimulationParams, episodes: HotEpisodes, rows: np.ndarray) -> dict[str, Any]:
    def moments(day: np.ndarray) -> pa.Array:
        return timestamps(params, (day[rows].astype(np.float64) * DAY_MS).astype(np.int64))

    return {
        "item_id": ids("i", params.items).take(pa.array(episodes.item[rows])),
        "lead_started_at": moments(episodes.lead_day),
        "turn_at": moments(episodes.turn_day),
        "ends_at": moments(episodes.end_day),
        "peak": episodes.peak[rows],
    }


def _requests(params: SimulationParams, rows: np.ndarray, rooms: int) -> pa.Table:
    columns = [
        rows["request"],
        ids("u", params.users).take(pa.array(rows["user"])),
        timestamps(params, rows["at_ms"]),
        ids("r", rooms).take(pa.array(rows["room"])),
        *(rows[name] for name in ("utility", "visits", "known", "chosen")),
    ]
    return pa.table(columns, schema=REQUEST_SCHEMA)
