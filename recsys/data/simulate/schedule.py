"""Rooms and what is on air in them: planned for the whole log before the first user comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.simulate.heat import HotEpisodes, life_cycle, signals, talked_about
from recsys.data.simulate.params import MINUTE_MS, MINUTES_A_DAY, stream
from recsys.data.simulate.world import World
from recsys.types import BoolArray, IntArray, LongArray

#: A room in its last minute takes no new viewers.
CLOSING_MS = 60_000


@dataclass(frozen=True)
class Schedule:
    """Rooms (R,) by start, and showcases (K,) room by room without gaps; whole minutes since the start.

    `minute_slot[first_minute[room] + m]` is the showcase on air in minute m of a room.
    """

    streamer: IntArray
    start: LongArray
    end: LongArray
    slot_room: IntArray
    slot_item: IntArray
    slot_start: LongArray
    slot_end: LongArray
    first_minute: LongArray
    minute_slot: IntArray

    def overlapping(self, start_minute: int, end_minute: int) -> IntArray:
        """Room_idx of the rooms that are live at some time of [start_minute, end_minute)."""
        return np.flatnonzero((self.start < end_minute) & (self.end > start_minute)).astype(np.int32)

    def on_air(self, rooms: IntArray, at_ms: LongArray) -> tuple[BoolArray, IntArray]:
        """Which rooms are live at each moment, and what is on air.

        Args:
            rooms: (R,) room_idx.
            at_ms: (B,) moments, ms since the start of the log.

        Returns:
            live (B, R), and item_idx (B, R), which means nothing where a room is not live.
        """
        minute = at_ms[:, None] // MINUTE_MS - self.start[rooms]
        length = self.end[rooms] - self.start[rooms]
        live = (minute >= 0) & (at_ms[:, None] + CLOSING_MS <= self.end[rooms] * MINUTE_MS)
        slot = self.minute_slot[self.first_minute[rooms] + np.clip(minute, 0, length - 1)]
        return live, self.slot_item[slot]

    def slot(self, room: IntArray, at_ms: LongArray) -> IntArray:
        """(N,) the showcase on air in room `room[n]`, which is live, at `at_ms[n]`."""
        slot: IntArray = self.minute_slot[self.first_minute[room] + at_ms // MINUTE_MS - self.start[room]]
        return slot

    def showing(self, room: IntArray, at_ms: LongArray) -> IntArray:
        """(N,) item_idx on air in room `room[n]`, which is live, at `at_ms[n]`."""
        return self.slot_item[self.slot(room, at_ms)]


def plan(world: World, episodes: HotEpisodes) -> Schedule:
    """Every room and showcase of the log: streamers keep their hours, and air what is in demand longer."""
    params, streamers = world.params, world.streamers
    rooms: list[tuple[int, int, int]] = []
    slots: list[tuple[np.ndarray, np.ndarray]] = []
    for day in range(params.days):
        rng = stream(params.seed, "rooms", day)
        # Drawn for all streamers, so that who is live does not move the others' rooms.
        present = rng.random(params.streamers) < params.rooms_a_day
        present &= (streamers.weekly < 0) | (streamers.weekly == day % 7)
        starts = np.round(streamers.hour * 60 + rng.normal(0, 8, params.streamers)).astype(np.int64)
        minutes = np.round(streamers.hours * 60 * np.exp(rng.normal(0, 0.1, params.streamers))).astype(
            np.int64
        )
        wanted = life_cycle(world.items, day) * signals(params, episodes, day).airtime
        air = stream(params.seed, "showcases", day)
        talked = talked_about(episodes, day)
        category = world.items.category[talked]
        for streamer in np.flatnonzero(present):
            # What is talked about is taken up by every streamer of its category.
            own = (category == streamers.category[streamer]) | (
                category == streamers.second_category[streamer]
            )
            pool = np.union1d(streamers.pool[streamer], talked[own])
            items, lengths = _showcases(air, pool, wanted, int(minutes[streamer]), world)
            if len(items):
                start = day * MINUTES_A_DAY + max(int(starts[streamer]), 0)
                rooms.append((start, int(streamer), int(minutes[streamer])))
                slots.append((items, lengths))
    return _assemble(rooms, slots)


def _showcases(
    rng: np.random.Generator, pool: IntArray, wanted: np.ndarray, minutes: int, world: World
) -> tuple[np.ndarray, np.ndarray]:
    """Items on air one after the other in a room of `minutes`, and for how many minutes each."""
    shortest, longest = world.params.showcase_minutes
    lengths = rng.integers(shortest, longest + 1, minutes // shortest + 1)
    n = int(np.searchsorted(np.cumsum(lengths), minutes)) + 1
    lengths = lengths[:n].copy()
    lengths[-1] -= lengths.sum() - minutes
    cumulative = np.cumsum(wanted[pool])
    draws = rng.random(n)
    if cumulative[-1] <= 0:
        return pool[:0], lengths[:0]
    items = pool[np.minimum(np.searchsorted(cumulative, draws * cumulative[-1], side="right"), len(pool) - 1)]
    # The same product twice in a row is one longer showcase.
    first = np.r_[True, items[1:] != items[:-1]]
    return items[first], np.add.reduceat(lengths, np.flatnonzero(first))


def _assemble(rooms: list[tuple[int, int, int]], slots: list[tuple[np.ndarray, np.ndarray]]) -> Schedule:
    order = sorted(range(len(rooms)), key=lambda row: rooms[row])
    table = np.array([rooms[row] for row in order], np.int64).reshape(-1, 3)
    items = [slots[row][0] for row in order]
    lengths = np.concatenate([slots[row][1] for row in order]) if order else np.zeros(0, np.int64)
    counts = np.array([len(row) for row in items], np.int64)
    start, minutes = table[:, 0], table[:, 2]
    first_minute = np.cumsum(minutes) - minutes
    room_of = np.repeat(np.arange(len(order)), counts)
    # Showcases lie end to end over all rooms, so a running sum places them.
    slot_start = np.cumsum(lengths) - lengths - first_minute[room_of] + start[room_of]
    return Schedule(
        streamer=table[:, 1].astype(np.int32),
        start=start,
        end=start + minutes,
        slot_room=room_of.astype(np.int32),
        slot_item=(np.concatenate(items) if items else np.zeros(0)).astype(np.int32),
        slot_start=slot_start,
        slot_end=slot_start + lengths,
        first_minute=first_minute,
        minute_slot=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    )
