"""Which rooms are live, what is on air in them, and how busy each has been: one dense row a live room."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from recsys.durations import HOUR_US
from recsys.rooms.audience import Audience
from recsys.rooms.decay import DecayedSums
from recsys.rooms.params import StateParams
from recsys.types import IntArray, LongArray

NEVER_SEEN, ENDED = -1, -2
COLUMNS = (
    "room_idx",
    "streamer_idx",
    "category",
    "item_idx",
    "started_us",
    "heard_us",
    "aired_us",
    "viewers",
)


class RoomCounter(IntEnum):
    """Columns of a room's decayed counters."""

    JOIN = 0
    LEAVE = 1
    CLICK = 2
    CART = 3
    PURCHASE = 4
    COMMENT = 5
    GIFT = 6
    LIKE = 7


class LiveRooms:
    """The live rooms are rows 0 .. `len(self)` - 1 of every array; the last takes the row of one that ends.

    Attributes:
        room_idx, streamer_idx: (capacity,) int32.
        category: (capacity,) int32 code, -1 where unknown.
        started_us, heard_us: (capacity,) int64 start, and the last sign of life.
        item_idx: (capacity,) int32 product on air, -1 for none; aired_us: since when.
        viewers: (capacity,) float64 joins less leaves; may be wrong where the log misses leaves.
        counters: (capacity, RoomCounter, half-lives).
        audience: the latest viewers of each.
    """

    def __init__(self, params: StateParams) -> None:
        self._params = params
        self._n = 0
        self._row_of = np.full(0, NEVER_SEEN, dtype=np.int32)  # by room_idx
        self.room_idx = np.full(0, -1, dtype=np.int32)
        self.streamer_idx = np.full(0, -1, dtype=np.int32)
        self.category = np.full(0, -1, dtype=np.int32)
        self.item_idx = np.full(0, -1, dtype=np.int32)
        self.started_us = np.zeros(0, dtype=np.int64)
        self.heard_us = np.zeros(0, dtype=np.int64)
        self.aired_us = np.zeros(0, dtype=np.int64)
        self.viewers = np.zeros(0, dtype=np.float64)
        self.counters = DecayedSums(len(RoomCounter), params.room_half_lives_s)
        self.audience = Audience(params.audience)

    def __len__(self) -> int:
        return self._n

    def rows(self, rooms: IntArray) -> IntArray:
        """(N,) rows of N rooms; `NEVER_SEEN` or `ENDED` where a room is not live."""
        found = np.full(len(rooms), NEVER_SEEN, dtype=np.int32)
        inside = (rooms >= 0) & (rooms < len(self._row_of))
        found[inside] = self._row_of[rooms[inside]]
        return found

    def row(self, room: int) -> int:
        """The row of one room; `NEVER_SEEN` or `ENDED` where it is not live."""
        return int(self._row_of[room]) if 0 <= room < len(self._row_of) else NEVER_SEEN

    def start(self, room: int, streamer: int, at_us: int, category: int = -1) -> int:
        """A room goes live, or what was only inferred of a live one is set right. Returns its row.

        A room that has ended goes live again: the caller says so explicitly.
        """
        row = self.row(room)
        if row < 0:
            row = self._new_row(room)
            self.item_idx[row] = -1
            self.viewers[row] = 0.0
            self.counters.values[row] = 0.0
            self.audience.clear(row)
            self.aired_us[row] = self.heard_us[row] = at_us
        self.streamer_idx[row] = streamer
        self.started_us[row] = at_us
        self.heard_us[row] = max(int(self.heard_us[row]), at_us)
        self.category[row] = category
        return row

    def end(self, room: int) -> bool:
        """A room is over. Whether it was live: a room that ends twice, or never began, changes nothing."""
        row = self.row(room)
        if room >= 0:
            self._reach(room)
            self._row_of[room] = ENDED
        if row < 0:
            return False
        self._free(row)
        return True

    def _drop(self, room: int) -> None:
        """A live room is taken for over, until something is heard of it."""
        row = self.row(room)
        self._row_of[room] = NEVER_SEEN
        self._free(row)

    def _free(self, row: int) -> None:
        self._n -= 1
        last = self._n
        if row != last:
            for name in COLUMNS:
                column = getattr(self, name)
                column[row] = column[last]
            self.counters.values[row] = self.counters.values[last]
            self.audience.move(last, row)
            self._row_of[self.room_idx[row]] = row

    def put_on_air(self, room: int, item: int, at_us: int) -> bool:
        """A product is on air; of two at once the one that began later. False where the room is not live."""
        row = self.row(room)
        if row < 0:
            return False
        self.heard_us[row] = max(int(self.heard_us[row]), at_us)
        if at_us >= self.aired_us[row] or self.item_idx[row] < 0:
            self.item_idx[row] = item
            self.aired_us[row] = at_us
        return True

    def take_off_air(self, room: int, item: int) -> None:
        """A product's time is over; nothing happens where another one is on air by now."""
        row = self.row(room)
        if row >= 0 and self.item_idx[row] == item:
            self.item_idx[row] = -1

    def hear(self, rows: IntArray, at_us: LongArray) -> None:
        """Signs of life at `at_us` (N,) from rooms in rows (N,)."""
        np.maximum.at(self.heard_us, rows, at_us)

    def end_silent(self, now_us: int) -> list[int]:
        """Take rooms for over that are silent too long, and return them; an event brings one back."""
        limit = now_us - int(self._params.silent_hours * HOUR_US)
        silent: list[int] = self.room_idx[: self._n][self.heard_us[: self._n] < limit].tolist()
        for room in silent:
            self._drop(room)
        return silent

    def to_parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """The live rooms as arrays, for a bundle."""
        parts = {f"live_{name}": getattr(self, name)[: self._n].copy() for name in COLUMNS}
        parts["live_counters"] = self.counters.values[: self._n].copy()
        parts["ended_rooms"] = np.flatnonzero(self._row_of == ENDED).astype(np.int32)
        parts["live_landmark_us"] = np.array([self.counters.landmark_us], dtype=np.int64)
        return parts | self.audience.to_parts(self._n)

    def load_parts(self, parts: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `to_parts` gave; no room may be live."""
        for room in parts["live_room_idx"].tolist():
            self._new_row(room)
        for name in COLUMNS:
            getattr(self, name)[: self._n] = parts[f"live_{name}"]
        self.counters.landmark_us = int(parts["live_landmark_us"][0])
        self.counters.values[: self._n] = parts["live_counters"]
        self.audience.load_parts(parts)
        ended = parts["ended_rooms"]
        if len(ended):
            self._reach(int(ended.max()))
            self._row_of[ended] = ENDED

    def _reach(self, room: int) -> None:
        if room >= len(self._row_of):
            more = max(room + 1, 2 * len(self._row_of)) - len(self._row_of)
            self._row_of = np.concatenate([self._row_of, np.full(more, NEVER_SEEN, dtype=np.int32)])

    def _new_row(self, room: int) -> int:
        if self._n >= self._params.max_rooms:
            self._drop(int(self.room_idx[int(np.argmin(self.heard_us[: self._n]))]))
        if self._n == len(self.room_idx):
            self._grow(max(64, 2 * self._n))
        self._reach(room)
        row = self._n
        self._n += 1
        self._row_of[room] = row
        self.room_idx[row] = room
        return row

    def _grow(self, capacity: int) -> None:
        for name in COLUMNS:
            column: npt.NDArray[np.generic] = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros(capacity - len(column), column.dtype)]))
        self.counters.grow(capacity)
        self.audience.grow(capacity)
