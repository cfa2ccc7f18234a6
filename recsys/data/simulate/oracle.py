"""The oracle: true utility of every live room for any user at any moment. For evaluation alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.simulate.heat import hot_episodes, signals
from recsys.data.simulate.log import ids
from recsys.data.simulate.memory import VisitMemory
from recsys.data.simulate.params import DAY_MS, MINUTES_A_DAY, SimulationParams
from recsys.data.simulate.schedule import plan
from recsys.data.simulate.truth import PARAMS_FILE
from recsys.data.simulate.utility import progress, room_utilities, tastes_of
from recsys.data.simulate.world import build_world
from recsys.errors import DataError
from recsys.types import Behaviour, FloatArray

_REMEMBERED = (Behaviour.VIEW, Behaviour.FOLLOW, Behaviour.HIDE)


@dataclass(frozen=True)
class TrueRanking:
    """The rooms live at one moment, best first, with one user's true utility for each.

    Attributes:
        room_ids: (R,) external ids.
        utilities: (R,) float32, descending; empty where nothing is live.
    """

    room_ids: list[str]
    utilities: FloatArray


class RoomOracle:
    """Rebuilds the world from its params and replays what users remember from the log."""

    def __init__(self, logs: Path) -> None:
        """Read the truth of the simulated log in folder `logs`.

        Raises:
            DataError: the folder holds no truth of the simulated platform.
        """
        file = logs / PARAMS_FILE
        if not file.is_file():
            raise DataError(f"{file} is not there: the oracle needs a log written by `recsys simulate`")
        self._params = SimulationParams.model_validate_json(file.read_text(encoding="utf-8"))
        self._world = build_world(self._params)
        self._episodes = hot_episodes(self._params, self._world.items)
        self._schedule = plan(self._world, self._episodes)
        self._room_ids = ids("r", len(self._schedule.start))
        self._user_ids = ids("u", self._params.users)
        self._origin_ms = round(self._params.start.timestamp() * 1000)
        self._read_memories(logs / "events.parquet")

    def rank(self, requests: Sequence[tuple[str, datetime]]) -> list[TrueRanking]:
        """The true ranking for each (user_id, at), from what the user had done strictly before `at`.

        Raises:
            DataError: a user is not of this platform.
        """
        names = pa.array([user for user, _ in requests], pa.string())
        user = pc.index_in(names, self._user_ids)
        if user.null_count:
            missing = names.filter(pc.is_null(user))[0].as_py()
            raise DataError(f"user_id {missing!r} is not a user of this simulated platform")
        user_idx = user.to_numpy().astype(np.int32)
        at_ms = np.array([round(at.timestamp() * 1000) for _, at in requests], np.int64) - self._origin_ms
        memory = VisitMemory(
            self._world.users, self._params.streamers, memory_days=self._params.choice.memory_days
        )
        rankings: list[TrueRanking | None] = [None] * len(requests)
        done = 0
        for row in np.argsort(at_ms, kind="stable"):
            until = int(np.searchsorted(self._time_ms, at_ms[row], side="left"))
            self._remember(memory, done, until)
            done = until
            rankings[row] = self._rank(memory, user_idx[row : row + 1], at_ms[row : row + 1])
        return [ranking for ranking in rankings if ranking is not None]

    def _rank(self, memory: VisitMemory, user: np.ndarray, at_ms: np.ndarray) -> TrueRanking:
        world, schedule, day = self._world, self._schedule, int(at_ms[0] // DAY_MS)
        rooms = schedule.overlapping(day * MINUTES_A_DAY, (day + 1) * MINUTES_A_DAY)
        live, air = schedule.on_air(rooms, at_ms)
        rooms, air = rooms[live[0]], air[:, live[0]]
        streamer = schedule.streamer[rooms]
        utilities = room_utilities(
            self._params,
            tastes_of(world),
            taste=world.users.taste(user, progress(self._params, at_ms)),
            wallet=world.users.wallet[user],
            streamer=streamer,
            air=air,
            demand=signals(self._params, self._episodes, day).demand[air],
            memory=memory.recall(user, streamer, at_ms),
        )[0]
        best = np.argsort(-utilities, kind="stable")
        return TrueRanking(self._room_ids.take(pa.array(rooms[best])).to_pylist(), utilities[best])

    def _read_memories(self, file: Path) -> None:
        columns = ["user_id", "streamer_id", "event", "timestamp"]
        names = pa.array([behaviour.value for behaviour in _REMEMBERED])
        table = pq.read_table(file, columns=columns, filters=pc.field("event").isin(names))
        self._time_ms = table["timestamp"].cast(pa.int64()).to_numpy() - self._origin_ms
        self._event = pc.index_in(table["event"], names).to_numpy()
        self._user = pc.index_in(table["user_id"], self._user_ids).to_numpy()
        streamers = ids("s", self._params.streamers)
        self._streamer = pc.index_in(table["streamer_id"], streamers).to_numpy()

    def _remember(self, memory: VisitMemory, first: int, last: int) -> None:
        """Take the log's rows [first, last), which are in time order, into the memory."""
        for row in range(first, last):
            user, streamer = self._user[row : row + 1], self._streamer[row : row + 1]
            behaviour = _REMEMBERED[self._event[row]]
            if behaviour is Behaviour.VIEW:
                memory.visit(user, streamer, self._time_ms[row : row + 1])
            elif behaviour is Behaviour.FOLLOW:
                memory.follow(user, streamer)
            else:
                memory.hide(user, streamer)
