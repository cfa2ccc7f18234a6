"""A Dataset's log as a stream into the live state: the same calls, in the same order, that serving makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import Dataset
from recsys.rooms.events import EventBatch
from recsys.rooms.state import LiveState
from recsys.types import IntArray, LongArray

_NEVER = np.iinfo(np.int64).max
#: Most events handed to the state at once.
_CHUNK = 65_536


@dataclass(frozen=True)
class IndexMaps:
    """How the log's dense indices are spelt in the state: the state's index at each of the log's.

    A state that goes on from a bundle has the bundle's indices; what is new in the log comes after them.
    """

    user: IntArray
    item: IntArray
    streamer: IntArray
    room: IntArray

    @classmethod
    def identity(cls, dataset: Dataset) -> Self:
        """The log's own indices."""
        sizes = (len(dataset.users), len(dataset.items), len(dataset.streamers), len(dataset.rooms))
        return cls(*(np.arange(size, dtype=np.int32) for size in sizes))


class LogFeed:
    """Feeds a log to a state up to any moment, strictly before it.

    What is known at `at`: events before it, rooms begun by then, products put on air before it; a room or
    product whose end is reached is gone.
    """

    def __init__(
        self,
        dataset: Dataset,
        categories: Mapping[str, int],
        maps: IndexMaps | None = None,
        *,
        after_us: int | None = None,
    ) -> None:
        """Order the log.

        Args:
            dataset: the log.
            categories: code of each room category.
            maps: the state's indices; by default the log's own.
            after_us: leave out what the state has seen already, everything before this moment.
        """
        maps = maps or IndexMaps.identity(dataset)
        first_us = np.iinfo(np.int64).min if after_us is None else after_us
        self.events = _mapped(_events(dataset), maps)
        self._starts = _room_starts(dataset, categories, maps, first_us)
        self._ends = _room_ends(dataset, maps, first_us)
        self._aired, self._unaired = _showcases(dataset, maps, first_us)
        self._event = int(np.searchsorted(self.events.timestamp_us, first_us, side="left"))
        self._start = self._end = self._air = self._unair = 0

    def advance(self, state: LiveState, at_us: int) -> None:
        """Tell the state everything that is known at `at_us` and that it was not told before."""
        stop = int(np.searchsorted(self.events.timestamp_us, at_us, side="left"))
        self._play_starts(state, at_us)
        while self._event < stop:
            chunk = slice(self._event, min(stop, self._event + _CHUNK))
            state.observe_many(self.events.where(chunk))
            self._event = chunk.stop
            # Views that are over make room for those that are not.
            state.advance(int(self.events.timestamp_us[chunk.stop - 1]))
        self._play_showcases(state, at_us)
        self._play_ends(state, at_us)
        state.advance(at_us)

    def _play_starts(self, state: LiveState, at_us: int) -> None:
        starts = self._starts
        while self._start < len(starts.at_us) and starts.at_us[self._start] <= at_us:
            n = self._start
            state.room_started(starts.room[n], starts.other[n], starts.at_us[n], category=starts.category[n])
            self._start += 1

    def _play_showcases(self, state: LiveState, at_us: int) -> None:
        """Products on air before `at_us`, and off it by then; of two at one moment the end comes first."""
        aired, unaired = self._aired, self._unaired
        while True:
            on_us = aired.at_us[self._air] if self._air < len(aired.at_us) else _NEVER
            off_us = unaired.at_us[self._unair] if self._unair < len(unaired.at_us) else _NEVER
            if off_us <= on_us and off_us <= at_us:
                state.off_air(unaired.room[self._unair], unaired.other[self._unair])
                self._unair += 1
            elif on_us < at_us:
                state.on_air(aired.room[self._air], aired.other[self._air], on_us)
                self._air += 1
            else:
                return

    def _play_ends(self, state: LiveState, at_us: int) -> None:
        ends = self._ends
        while self._end < len(ends.at_us) and ends.at_us[self._end] <= at_us:
            state.room_ended(ends.room[self._end])
            self._end += 1


@dataclass(frozen=True)
class _Changes:
    """Changes in time order as plain lists, which are read one by one; `other` is a streamer or a product."""

    at_us: list[int]
    room: list[int]
    other: list[int]
    category: list[int]


def _changes(at_us: LongArray, room: IntArray, other: IntArray, category: IntArray | None = None) -> _Changes:
    order = np.argsort(at_us, kind="stable")
    if category is None:
        category = np.full(len(at_us), -1, dtype=np.int32)
    return _Changes(*(column[order].tolist() for column in (at_us, room, other, category)))


def _times(column: pa.ChunkedArray | pa.Array | None, n: int) -> LongArray:
    """(n,) microseconds since the epoch; the greatest int64 where there is none."""
    if column is None:
        return np.full(n, _NEVER, dtype=np.int64)
    filled = pc.fill_null(pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64()), _NEVER)
    return np.asarray(filled.to_numpy(), dtype=np.int64)


def _room_starts(dataset: Dataset, categories: Mapping[str, int], maps: IndexMaps, first_us: int) -> _Changes:
    rooms = dataset.rooms
    start_us = _times(rooms.table["started_at"], len(rooms))
    streamer = maps.streamer[room_streamers(dataset)] if len(rooms) else np.zeros(0, np.int32)
    names = rooms.column("category")
    codes = np.full(len(rooms), -1, dtype=np.int32)
    if names is not None:
        codes[:] = [categories.get(name, -1) for name in names.to_pylist()]
    own = (start_us >= first_us) & (start_us < _NEVER)
    return _changes(start_us[own], maps.room[own], streamer[own], codes[own])


def room_streamers(dataset: Dataset) -> IntArray:
    """(rooms,) streamer_idx of each room; a room of no streamer is its own."""
    rooms = dataset.rooms
    if not len(rooms):
        return np.zeros(0, dtype=np.int32)
    of_room = dataset.streamers.ids.index(rooms.ids.keys)
    names = rooms.column("streamer_id")
    if names is None:
        return of_room
    named = dataset.streamers.ids.index(names)
    return np.where(named >= 0, named, of_room).astype(np.int32)


def _room_ends(dataset: Dataset, maps: IndexMaps, first_us: int) -> _Changes:
    end_us = _times(dataset.rooms.table["ended_at"], len(dataset.rooms))
    start_us = _times(dataset.rooms.table["started_at"], len(dataset.rooms))
    # An end before the start is a slip of the log: the room ends by silence.
    own = (end_us >= first_us) & (end_us < _NEVER) & ((start_us == _NEVER) | (end_us >= start_us))
    return _changes(end_us[own], maps.room[own], maps.room[own])


def _showcases(dataset: Dataset, maps: IndexMaps, first_us: int) -> tuple[_Changes, _Changes]:
    table = dataset.showcases
    start_us, end_us = _times(table["started_at"], len(table)), _times(table["ended_at"], len(table))
    room = maps.room[table["room_idx"].to_numpy()]
    item = maps.item[table["item_idx"].to_numpy()]
    begun = start_us >= first_us
    over = (end_us >= first_us) & (end_us < _NEVER)
    return _changes(start_us[begun], room[begun], item[begun]), _changes(end_us[over], room[over], item[over])


def _events(dataset: Dataset) -> EventBatch:
    events = dataset.events
    return EventBatch(
        timestamp_us=events.timestamp_us,
        behaviour=events.behaviour,
        user_idx=events.user_idx,
        streamer_idx=events.streamer_idx,
        room_idx=events.room_idx,
        item_idx=events.item_idx,
        on_air_idx=_on_air(dataset),
        duration_s=events.duration_s,
    )


def _on_air(dataset: Dataset) -> IntArray:
    """(N,) the product on air in each event's room at its moment: the one begun last if not over, or -1."""
    events, table = dataset.events, dataset.showcases
    on_air = np.full(len(events), -1, dtype=np.int32)
    rows = np.flatnonzero(events.room_idx >= 0)
    if not len(table) or not len(rows):
        return on_air
    room, item = table["room_idx"].to_numpy(), table["item_idx"].to_numpy()
    start_us, end_us = _times(table["started_at"], len(table)), _times(table["ended_at"], len(table))
    moments, place = np.unique(np.concatenate([start_us, events.timestamp_us[rows]]), return_inverse=True)
    key = room.astype(np.int64) * len(moments) + place[: len(table)]
    order = np.argsort(key, kind="stable")
    asked = events.room_idx[rows].astype(np.int64) * len(moments) + place[len(table) :]
    last = np.searchsorted(key[order], asked, side="right") - 1
    found = order[np.maximum(last, 0)]
    fits = (last >= 0) & (room[found] == events.room_idx[rows]) & (end_us[found] > events.timestamp_us[rows])
    on_air[rows[fits]] = item[found[fits]]
    return on_air


def _mapped(events: EventBatch, maps: IndexMaps) -> EventBatch:
    def spelt(index: IntArray, table: IntArray) -> IntArray:
        if not len(table):
            return index
        return np.where(index >= 0, table[np.maximum(index, 0)], -1).astype(np.int32)

    return EventBatch(
        timestamp_us=events.timestamp_us,
        behaviour=events.behaviour,
        user_idx=spelt(events.user_idx, maps.user),
        streamer_idx=spelt(events.streamer_idx, maps.streamer),
        room_idx=spelt(events.room_idx, maps.room),
        item_idx=spelt(events.item_idx, maps.item),
        on_air_idx=spelt(events.on_air_idx, maps.item),
        duration_s=events.duration_s,
    )
