"""The simulated platform, day by day, from its params to the log and the truth beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recsys.data.simulate.audience import Audience
from recsys.data.simulate.floor import Floor, Visits
from recsys.data.simulate.heat import hot_episodes, promotion_calendar, signals
from recsys.data.simulate.log import EventLog
from recsys.data.simulate.memory import VisitMemory
from recsys.data.simulate.params import DAY_MS, SimulationParams, stream
from recsys.data.simulate.reactions import Purchases, Shoppers, purchase_events, refunds
from recsys.data.simulate.requests import RequestLog, room_headroom
from recsys.data.simulate.schedule import plan
from recsys.data.simulate.summary import (
    SimulationSummary,
    hot_ceiling,
    rates_of,
    sessions_of,
)
from recsys.data.simulate.tables import write_tables
from recsys.data.simulate.truth import write_truth
from recsys.data.simulate.warehouse import Warehouse
from recsys.data.simulate.world import build_world
from recsys.errors import DataError


def simulate(
    out: Path, params: SimulationParams, *, progress: Callable[[int, int], None] | None = None
) -> SimulationSummary:
    """Write the log of a simulated platform to `out` and its truth to `out`/truth.

    The same params write the same files, byte for byte. Tables of an earlier run in `out` are replaced.

    Args:
        out: folder of the log; made if it is not there.
        params: size, seed and character of the platform.
        progress: told (days done, days in all) after every day.

    Raises:
        DataError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder for the simulated log")
    out.mkdir(parents=True, exist_ok=True)
    world = build_world(params)
    episodes, promotions = hot_episodes(params, world.items), promotion_calendar(params)
    schedule = plan(world, episodes)
    memory = VisitMemory(world.users, params.streamers, memory_days=params.choice.memory_days)
    requests = RequestLog(params)
    audience, warehouse = Audience(world), Warehouse(world.items, params.seed)
    floor = Floor(world, schedule, episodes, memory, requests)
    shoppers = Shoppers(world, schedule, promotions)
    visits: list[Visits] = []
    orders: list[Purchases] = []
    returned: list[np.ndarray] = []
    sold_out = []
    with EventLog(out / "events.parquet", params, rooms=len(schedule.start)) as log:
        for day in range(params.days):
            warehouse.deliver(day)
            sessions = audience.sessions(day)
            made, rows = floor.walk(sessions, day)
            audience.stayed_until(made.user, made.end_ms)
            reactions, wanted = shoppers.react(made, sessions, signals(params, episodes, day), day)
            filled = warehouse.fill(wanted.where(wanted.at_ms < params.days * DAY_MS))
            back, returns = refunds(filled, world.items.return_rate, stream(params.seed, "refunds", day))
            for lot in (*rows, *reactions, purchase_events(filled), returns):
                log.add(lot)
            log.flush((day + 1) * DAY_MS)
            visits.append(made)
            orders.append(filled)
            returned.append(back)
            sold_out.append(float((warehouse.stock <= 0).mean()))
            if progress is not None:
                progress(day + 1, params.days)
    write_tables(out, world, schedule, promotions, warehouse.stock)
    kept = requests.rows()
    write_truth(out, world, episodes, warehouse, kept, len(schedule.start))
    seen, bought = Visits.joined(visits), Purchases.joined(orders)
    watching = sessions_of(seen.user, seen.start_ms, seen.end_ms)
    return SimulationSummary(
        out=out,
        events=log.written,
        users=params.users,
        items=params.items,
        streamers=params.streamers,
        rooms=len(schedule.start),
        sessions=len(watching.user),
        purchases=len(bought.user),
        rates=rates_of(world, watching, bought, np.concatenate(returned)),
        sold_out=float(np.mean(sold_out)),
        hot_ceiling=hot_ceiling(world, episodes, bought),
        room_headroom=room_headroom(kept),
    )
