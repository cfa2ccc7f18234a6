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
from recsys.rooms.showcases import NEVER_ENDS_US, AirChanges, air_changes
from recsys.rooms.state import LiveState
from recsys.types import IntArray, LongArray

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
        showcases = _showcases(dataset)
        self.events = _mapped(_events(dataset, showcases), maps)
        self._starts = _room_starts(dataset, categories, maps, first_us)
        self._ends = _room_ends(dataset, maps, first_us)
        self._air_changes = _air_changes(showcases, maps, first_us)
        self._event = int(np.searchsorted(self.events.timestamp_us, first_us, side="left"))
        self._start = self._end = self._air = 0

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
            room, streamer, category = starts.room[n], starts.streamer[n], starts.category[n]
            state.room_started(room, streamer, starts.at_us[n], category=category)
            self._start += 1

    def _play_showcases(self, state: LiveState, at_us: int) -> None:
        """Products on air before `at_us`, and off it by then."""
        changes = self._air_changes
        while self._air < len(changes.at_us):
            n = self._air
            known = changes.at_us[n] < at_us or (changes.at_us[n] == at_us and changes.by_end[n])
            if not known:
                return
            room = changes.room[n]
            if changes.by_end[n]:
                state.off_air(room, state.item_on_air(room))
            if changes.item[n] >= 0:
                state.on_air(room, changes.item[n], changes.since_us[n])
            self._air += 1

    def _play_ends(self, state: LiveState, at_us: int) -> None:
        ends = self._ends
        while self._end < len(ends.at_us) and ends.at_us[self._end] <= at_us:
            state.room_ended(ends.room[self._end])
            self._end += 1


@dataclass(frozen=True)
class _Starts:
    """Rooms that begin, in time order, as plain lists, which are read one by one."""

    at_us: list[int]
    room: list[int]
    streamer: list[int]
    category: list[int]


@dataclass(frozen=True)
class _Ends:
    """Rooms that end, in time order."""

    at_us: list[int]
    room: list[int]


@dataclass(frozen=True)
class _AirChanges:
    """`AirChanges` as plain lists, which are read one by one."""

    at_us: list[int]
    room: list[int]
    item: list[int]
    since_us: list[int]
    by_end: list[bool]


def _times(column: pa.ChunkedArray | pa.Array | None, n: int) -> LongArray:
    """(n,) microseconds since the epoch; the greatest int64 where there is none."""
    if column is None:
        return np.full(n, NEVER_ENDS_US, dtype=np.int64)
    filled = pc.fill_null(pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64()), NEVER_ENDS_US)
    return np.asarray(filled.to_numpy(), dtype=np.int64)


def _room_starts(dataset: Dataset, categories: Mapping[str, int], maps: IndexMaps, first_us: int) -> _Starts:
    rooms = dataset.rooms
    start_us = _times(rooms.table["started_at"], len(rooms))
    streamer = maps.streamer[room_streamers(dataset)] if len(rooms) else np.zeros(0, np.int32)
    names = rooms.column("category")
    codes = np.full(len(rooms), -1, dtype=np.int32)
    if names is not None:
        codes[:] = [categories.get(name, -1) for name in names.to_pylist()]
    own = np.flatnonzero((start_us >= first_us) & (start_us < NEVER_ENDS_US))
    own = own[np.argsort(start_us[own], kind="stable")]
    return _Starts(*(column[own].tolist() for column in (start_us, maps.room, streamer, codes)))


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


def _room_ends(dataset: Dataset, maps: IndexMaps, first_us: int) -> _Ends:
    end_us = _times(dataset.rooms.table["ended_at"], len(dataset.rooms))
    start_us = _times(dataset.rooms.table["started_at"], len(dataset.rooms))
    # An end before the start is a slip of the log: the room ends by silence.
    own = np.flatnonzero((end_us >= first_us) & (end_us < NEVER_ENDS_US))
    own = own[(start_us[own] == NEVER_ENDS_US) | (end_us[own] >= start_us[own])]
    own = own[np.argsort(end_us[own], kind="stable")]
    return _Ends(end_us[own].tolist(), maps.room[own].tolist())


def _showcases(dataset: Dataset) -> AirChanges:
    table = dataset.showcases
    return air_changes(
        table["room_idx"].to_numpy(),
        table["item_idx"].to_numpy(),
        _times(table["started_at"], len(table)),
        _times(table["ended_at"], len(table)),
    )


def _air_changes(changes: AirChanges, maps: IndexMaps, first_us: int) -> _AirChanges:
    own = changes.at_us >= first_us
    return _AirChanges(
        at_us=changes.at_us[own].tolist(),
        room=_spelt(changes.room[own], maps.room).tolist(),
        item=_spelt(changes.item[own], maps.item).tolist(),
        since_us=changes.since_us[own].tolist(),
        by_end=changes.by_end[own].tolist(),
    )


def _events(dataset: Dataset, showcases: AirChanges) -> EventBatch:
    events = dataset.events
    on_air = showcases.at(events.room_idx, events.timestamp_us)
    return EventBatch(
        timestamp_us=events.timestamp_us,
        behaviour=events.behaviour,
        user_idx=events.user_idx,
        streamer_idx=events.streamer_idx,
        room_idx=events.room_idx,
        item_idx=events.item_idx,
        on_air_idx=on_air,
        duration_s=events.duration_s,
    )


def _mapped(events: EventBatch, maps: IndexMaps) -> EventBatch:
    return EventBatch(
        timestamp_us=events.timestamp_us,
        behaviour=events.behaviour,
        user_idx=_spelt(events.user_idx, maps.user),
        streamer_idx=_spelt(events.streamer_idx, maps.streamer),
        room_idx=_spelt(events.room_idx, maps.room),
        item_idx=_spelt(events.item_idx, maps.item),
        on_air_idx=_spelt(events.on_air_idx, maps.item),
        duration_s=events.duration_s,
    )


def _spelt(index: IntArray, table: IntArray) -> IntArray:
    if not len(table):
        return index
    return np.where(index >= 0, table[np.maximum(index, 0)], -1).astype(np.int32)
