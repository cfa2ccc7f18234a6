"""Who is in each live room right now: the latest viewers of a room, in a ring of fixed length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recsys.rooms.memory import NEVER_US
from recsys.slices import rank_in_group
from recsys.types import IntArray, LongArray


class Audience:
    """Rows as in `LiveRooms`; a room remembers its latest `length` viewers, however many there are.

    Attributes:
        user_idx: (rows, length) int32, -1 for nobody.
        since_us: (rows, length) int64, when they came.
        count: (rows,) int64 entries ever written to a row.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.user_idx = np.full((0, length), -1, dtype=np.int32)
        self.since_us = np.full((0, length), NEVER_US, dtype=np.int64)
        self.count = np.zeros(0, dtype=np.int64)

    def grow(self, rows: int) -> None:
        """Make place for so many rows."""
        more = rows - len(self.count)
        if more > 0:
            self.user_idx = np.concatenate([self.user_idx, np.full((more, self.length), -1, np.int32)])
            empty = np.full((more, self.length), NEVER_US, np.int64)
            self.since_us = np.concatenate([self.since_us, empty])
            self.count = np.concatenate([self.count, np.zeros(more, np.int64)])

    def clear(self, row: int) -> None:
        """Nobody is in the room."""
        self.user_idx[row] = -1
        self.since_us[row] = NEVER_US
        self.count[row] = 0

    def move(self, source: int, row: int) -> None:
        """The room of one row takes another."""
        self.user_idx[row] = self.user_idx[source]
        self.since_us[row] = self.since_us[source]
        self.count[row] = self.count[source]

    def come(self, rows: LongArray | IntArray, users: IntArray, at_us: LongArray) -> None:
        """N users enter the rooms in rows (N,), in the order of time; one who was there is there anew."""
        self.go(rows, users, at_us)
        order = np.argsort(rows, kind="stable")
        of_row = rows[order]
        place = (self.count[of_row] + rank_in_group(of_row)) % self.length
        # Of more newcomers than places the later ones overwrite the earlier.
        self.user_idx[of_row, place] = users[order]
        self.since_us[of_row, place] = at_us[order]
        np.add.at(self.count, rows, 1)

    def go(self, rows: LongArray | IntArray, users: IntArray, at_us: LongArray) -> None:
        """N users leave at `at_us` (N,); who came back after that moment stays."""
        there = (self.user_idx[rows] == users[:, None]) & (self.since_us[rows] <= at_us[:, None])
        event, place = np.nonzero(there)
        self.user_idx[rows[event], place] = -1

    def forget(self, user: int) -> None:
        """A person was never there."""
        self.user_idx[self.user_idx == user] = -1

    def of(self, row: int, *, since_us: int) -> IntArray:
        """(M,) users in a room who came at `since_us` or later, newest first, each once."""
        order = np.argsort(-self.since_us[row], kind="stable")
        users, came_us = self.user_idx[row][order], self.since_us[row][order]
        users = users[(users >= 0) & (came_us >= since_us)]
        once: IntArray = users[np.sort(np.unique(users, return_index=True)[1])]
        return once

    def to_parts(self, n: int) -> dict[str, npt.NDArray[np.generic]]:
        """The first n rows as arrays, for a bundle."""
        return {
            "audience_user_idx": self.user_idx[:n].copy(),
            "audience_since_us": self.since_us[:n].copy(),
            "audience_count": self.count[:n].copy(),
        }

    def load_parts(self, parts: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `to_parts` gave; there must be as many rows."""
        n = len(parts["audience_count"])
        self.user_idx[:n] = parts["audience_user_idx"]
        self.since_us[:n] = parts["audience_since_us"]
        self.count[:n] = parts["audience_count"]
