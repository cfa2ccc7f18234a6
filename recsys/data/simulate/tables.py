"""The catalogue tables of the simulated log: users, items, streamers, rooms, showcases, promotions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.simulate.heat import Promotions
from recsys.data.simulate.log import ids, timestamps
from recsys.data.simulate.params import DAY_MS, MINUTE_MS, MINUTES_A_DAY, stream
from recsys.data.simulate.schedule import Schedule
from recsys.data.simulate.world import (
    AGE_BANDS,
    CATEGORIES,
    CITY_TIERS,
    GENDERS,
    INCOME_BANDS,
    REGIONS,
    World,
)
from recsys.types import LongArray


def write_tables(
    out: Path, world: World, schedule: Schedule, promotions: Promotions, stock: LongArray
) -> None:
    """Write the tables beside events.parquet as the platform would export them when the log ends.

    `stock` (I,) is what is left at that moment; a room or showcase still running then has no end, and what
    is listed, begins or is announced later is not there.
    """
    end_minute = world.params.days * MINUTES_A_DAY
    tables = {
        "users": _users(world),
        "items": _items(world, stock),
        "streamers": _streamers(world),
        "rooms": _rooms(world, schedule, end_minute),
        "showcases": _showcases(world, schedule, end_minute),
        "promotions": _promotions(world, promotions),
    }
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")


def _named(names: tuple[str, ...], codes: np.ndarray) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(codes))


def _category(codes: np.ndarray) -> pa.Array:
    return _named(tuple(category.name for category in CATEGORIES), codes)


def _users(world: World) -> pa.Table:
    users, params = world.users, world.params
    return pa.table(
        {
            "user_id": ids("u", params.users),
            "age_band": _named(AGE_BANDS, users.age),
            "gender": _named(GENDERS, users.gender),
            "city_tier": _named(CITY_TIERS, users.city_tier),
            "region": _named(REGIONS, users.region),
            "income_band": _named(INCOME_BANDS, users.income),
            "personalised": stream(params.seed, "opt-out").random(params.users) > 0.02,
        }
    )


def _items(world: World, stock: LongArray) -> pa.Table:
    items, params = world.items, world.params
    return pa.table(
        {
            "item_id": ids("i", params.items),
            "category": _category(items.category),
            "price": items.price.astype(np.float64).round(2),
            "cost": items.cost.astype(np.float64).round(2),
            "stock": stock,
            "title": items.title,
            "listed_at": timestamps(params, items.listed_day.astype(np.int64) * DAY_MS),
        }
    )


def _streamers(world: World) -> pa.Table:
    streamers = world.streamers
    return pa.table(
        {
            "streamer_id": ids("s", world.params.streamers),
            "category": _category(streamers.category),
            "second_category": _category(streamers.second_category),
        }
    )


def _ended(minute: LongArray, end_minute: int) -> LongArray:
    return np.where(minute <= end_minute, minute, -1)


def _times(world: World, minute: LongArray, *, null: bool = False) -> pa.Array:
    times = timestamps(world.params, minute * MINUTE_MS)
    return pa.compute.if_else(pa.array(minute >= 0), times, None) if null else times


def _rooms(world: World, schedule: Schedule, end_minute: int) -> pa.Table:
    begun = schedule.start < end_minute
    streamer = schedule.streamer[begun]
    names = ids("s", world.params.streamers).take(pa.array(streamer))
    category = _category(world.streamers.category[streamer])
    return pa.table(
        {
            "room_id": ids("r", len(schedule.start)).filter(pa.array(begun)),
            "streamer_id": names,
            "started_at": _times(world, schedule.start[begun]),
            "ended_at": _times(world, _ended(schedule.end[begun], end_minute), null=True),
            "category": category,
            "title": pa.compute.binary_join_element_wise(names, category, " live: "),
        }
    )


def _showcases(world: World, schedule: Schedule, end_minute: int) -> pa.Table:
    begun = schedule.slot_start < end_minute
    return pa.table(
        {
            "room_id": ids("r", len(schedule.start)).take(pa.array(schedule.slot_room[begun])),
            "item_id": ids("i", world.params.items).take(pa.array(schedule.slot_item[begun])),
            "started_at": _times(world, schedule.slot_start[begun]),
            "ended_at": _times(world, _ended(schedule.slot_end[begun], end_minute), null=True),
        }
    )


def _promotions(world: World, promotions: Promotions) -> pa.Table:
    known = np.flatnonzero(promotions.announced_day < world.params.days)

    def days(column: np.ndarray) -> pa.Array:
        return timestamps(world.params, column[known].astype(np.int64) * DAY_MS)

    return pa.table(
        {
            "item_id": ids("i", world.params.items).take(pa.array(promotions.item[known])),
            "started_at": days(promotions.start_day),
            "ended_at": days(promotions.end_day),
            "kind": _named(("own", "festival"), promotions.festival[known].astype(np.int8)),
            "discount": promotions.discount[known].astype(np.float64).round(2),
            "announced_at": days(promotions.announced_day),
        }
    )
