"""Visits whose length is not known yet: views that are not over, and rooms entered and not left."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from recsys.durations import SECOND_US
from recsys.rooms.events import EventBatch
from recsys.types import IntArray, LongArray


@dataclass(frozen=True)
class Lengths:
    """N visits that are over.

    Attributes:
        over_us: (N,) int64 when.
        user, streamer, room: (N,) int32.
        dwell_s: (N,) float64.
    """

    over_us: LongArray
    user: IntArray
    streamer: IntArray
    room: IntArray
    dwell_s: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.over_us)

    @classmethod
    def of(cls, visits: list[tuple[int, int, int, int, float]]) -> Self:
        """Of (over_us, user, streamer, room, seconds)."""
        who = np.array([visit[:4] for visit in visits], dtype=np.int64).reshape(-1, 4)
        dwell_s = np.array([visit[4] for visit in visits], dtype=np.float64)
        user, streamer, room = (who[:, column].astype(np.int32) for column in (1, 2, 3))
        return cls(who[:, 0], user, streamer, room, dwell_s)


class ViewsUnderWay:
    """Views that are not over, whose length their event told: at most `most`, those above are lost."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, int, int, int, float]] = []  # over_us, user, streamer, room, seconds

    def add(self, views: EventBatch) -> None:
        """Views with a length."""
        over_us = views.timestamp_us + (views.duration_s.astype(np.float64) * SECOND_US).astype(np.int64)
        columns = (over_us, views.user_idx, views.streamer_idx, views.room_idx, views.duration_s)
        for view in zip(*(column.tolist() for column in columns), strict=True):
            if len(self._heap) >= self._most:
                return
            heapq.heappush(self._heap, view)

    def over(self, now_us: int) -> Lengths:
        """Take out those that were over before `now_us`."""
        found = []
        while self._heap and self._heap[0][0] < now_us:
            found.append(heapq.heappop(self._heap))
        return Lengths.of(found)

    def forget(self, user: int) -> None:
        """Drop one user's."""
        self._heap = [view for view in self._heap if view[1] != user]
        heapq.heapify(self._heap)

    def to_parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """As arrays by name."""
        return {
            "watching": np.array([view[:4] for view in self._heap], dtype=np.int64).reshape(-1, 4),
            "watching_s": np.array([view[4] for view in self._heap], dtype=np.float64),
        }

    def load_parts(self, parts: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `to_parts` gave."""
        views = zip(parts["watching"].tolist(), parts["watching_s"].tolist(), strict=True)
        self._heap = [(*view, seconds) for view, seconds in views]
        heapq.heapify(self._heap)


class RoomsEntered:
    """Rooms that users have entered and not left, in a log whose views have no length: at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._since: dict[tuple[int, int], tuple[int, int]] = {}  # (user, room) -> (at_us, streamer)

    def pass_on(self, events: EventBatch, *, enters: int, leaves: int) -> Lengths:
        """Take in events in their order, and give the visits that end with them.

        Args:
            events: N events.
            enters, leaves: codes of the behaviours that begin and end a visit.
        """
        ends = (events.behaviour == enters) | (events.behaviour == leaves)
        part = events.where(ends & (events.room_idx >= 0))
        columns = (part.behaviour, part.timestamp_us, part.user_idx, part.streamer_idx, part.room_idx)
        found = []
        for code, at_us, user, streamer, room in zip(*(c.tolist() for c in columns), strict=True):
            since = self._since.pop((user, room), None)
            if code == enters:
                if len(self._since) >= self._most:
                    del self._since[next(iter(self._since))]
                self._since[user, room] = (at_us, streamer)
            elif since is not None and at_us >= since[0]:
                found.append((at_us, user, since[1], room, (at_us - since[0]) / SECOND_US))
        return Lengths.of(found)

    def forget(self, user: int) -> None:
        """Drop one user's."""
        self._since = {key: since for key, since in self._since.items() if key[0] != user}

    def to_parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """As arrays by name."""
        rows = [(*key, *since) for key, since in self._since.items()]
        return {"entered": np.array(rows, dtype=np.int64).reshape(-1, 4)}

    def load_parts(self, parts: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `to_parts` gave."""
        rows = parts["entered"].tolist()
        self._since = {(user, room): (at_us, streamer) for user, room, at_us, streamer in rows}
