"""What is remembered of every user: each streamer they know, their latest actions, what they were shown."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from recsys.durations import DAY_S
from recsys.rooms.decay import DecayedSums
from recsys.rooms.params import StateParams
from recsys.slices import rank_in_group
from recsys.types import IntArray, LongArray

#: Time of a visit that never was.
NEVER_US = np.iinfo(np.int64).min
FOLLOWS, HIDDEN = 1, -1


class PairCounter(IntEnum):
    """Columns of the decayed sums of one user with one streamer."""

    VISIT = 0
    DWELL_S = 1
    BOUNCE = 2
    PURCHASE = 3
    ENGAGE = 4


class PairMemory:
    """One row for each user and streamer that met, least recently used first out.

    Attributes:
        sums: (rows, PairCounter, half-lives).
        last_us: (rows,) int64 last visit, `NEVER_US` for none.
        visits: (rows,) float32 visits in all.
        relation: (rows,) int8 `FOLLOWS`, `HIDDEN` or 0.
    """

    def __init__(self, params: StateParams) -> None:
        self._params = params
        self._rows_of: dict[int, dict[int, int]] = {}  # user -> streamer -> row, least recently used first
        self._used = 0
        self._free: list[int] = []
        self.sums = DecayedSums(len(PairCounter), tuple(d * DAY_S for d in params.pair_half_lives_days))
        self.last_us = np.full(0, NEVER_US, dtype=np.int64)
        self.visits = np.zeros(0, dtype=np.float32)
        self.relation = np.zeros(0, dtype=np.int8)

    def __len__(self) -> int:
        return self._used - len(self._free)

    def of_user(self, user: int) -> tuple[IntArray, LongArray]:
        """Streamers (M,) that one user met, and the rows (M,) that hold what is known of it."""
        known = self._rows_of.get(user)
        if not known:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
        n = len(known)
        return np.fromiter(known, dtype=np.int32, count=n), np.fromiter(known.values(), np.int64, count=n)

    def find(self, users: IntArray, streamers: IntArray) -> LongArray:
        """(N,) rows of N pairs, -1 where a pair is not remembered."""
        none: dict[int, int] = {}
        of = self._rows_of
        pairs = zip(users.tolist(), streamers.tolist(), strict=True)
        return np.array([of.get(u, none).get(s, -1) for u, s in pairs], dtype=np.int64)

    def touch(self, users: IntArray, streamers: IntArray) -> LongArray:
        """(N,) rows of N pairs in the order of time, made where they are new; -1 where memory is full."""
        rows, evicted = [], []
        for user, streamer in zip(users.tolist(), streamers.tolist(), strict=True):
            known = self._rows_of.setdefault(user, {})
            row = known.pop(streamer, -1)
            if row < 0:
                if len(known) >= self._params.max_streamers_a_user:
                    evicted.append(known.pop(next(iter(known))))
                row = self._new_row()
            if row >= 0:
                known[streamer] = row
            rows.append(row)
        # Rows are given to others only after this batch: its earlier events still point to them.
        self._free += evicted
        return np.array(rows, dtype=np.int64)

    def forget(self, user: int) -> None:
        """Forget all streamers of one user."""
        self._free += list(self._rows_of.pop(user, {}).values())

    def _new_row(self) -> int:
        if self._free:
            row = self._free.pop()
        elif self._used < self._params.max_pairs:
            row = self._used
            self._used += 1
            self._grow(self._used)
        else:
            return -1
        self.sums.values[row] = 0.0
        self.last_us[row] = NEVER_US
        self.visits[row] = 0.0
        self.relation[row] = 0
        return row

    def _grow(self, rows: int) -> None:
        if rows <= len(self.last_us):
            return
        self.sums.grow(max(1024, rows))
        n = len(self.sums) - len(self.last_us)
        self.last_us = np.concatenate([self.last_us, np.full(n, NEVER_US, dtype=np.int64)])
        self.visits = np.concatenate([self.visits, np.zeros(n, dtype=np.float32)])
        self.relation = np.concatenate([self.relation, np.zeros(n, dtype=np.int8)])

    def to_parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """The memory as arrays, for a bundle: pairs user by user, least recently used first."""
        users = [user for user, known in self._rows_of.items() for _ in known]
        streamers = [streamer for known in self._rows_of.values() for streamer in known]
        rows = np.array([row for known in self._rows_of.values() for row in known.values()], dtype=np.int64)
        return {
            "pair_user": np.array(users, dtype=np.int32),
            "pair_streamer": np.array(streamers, dtype=np.int32),
            "pair_sums": self.sums.values[rows],
            "pair_last_us": self.last_us[rows],
            "pair_visits": self.visits[rows],
            "pair_relation": self.relation[rows],
            "pair_landmark_us": np.array([self.sums.landmark_us], dtype=np.int64),
        }

    def load_parts(self, parts: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `to_parts` gave; the memory must be empty."""
        rows = self.touch(
            np.asarray(parts["pair_user"], dtype=np.int32), np.asarray(parts["pair_streamer"], dtype=np.int32)
        )
        kept = rows >= 0
        self.sums.landmark_us = int(parts["pair_landmark_us"][0])
        self.sums.values[rows[kept]] = parts["pair_sums"][kept]
        self.last_us[rows[kept]] = parts["pair_last_us"][kept]
        self.visits[rows[kept]] = parts["pair_visits"][kept]
        self.relation[rows[kept]] = parts["pair_relation"][kept]


class Recent:
    """The latest entries of every user in a ring of fixed length: where, what, how and when.

    Attributes:
        streamer_idx, item_idx: (users, length) int32, -1 for none.
        behaviour: (users, length) int8.
        at_us: (users, length) int64.
        count: (users,) int64 entries ever written.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.streamer_idx = np.full((0, length), -1, dtype=np.int32)
        self.item_idx = np.full((0, length), -1, dtype=np.int32)
        self.behaviour = np.zeros((0, length), dtype=np.int8)
        self.at_us = np.full((0, length), NEVER_US, dtype=np.int64)
        self.count = np.zeros(0, dtype=np.int64)

    def grow(self, users: int) -> None:
        """Make room for at least `users` users."""
        have = len(self.count)
        if users > have:
            more = max(users, 2 * have) - have
            for name, empty in (
                ("streamer_idx", -1),
                ("item_idx", -1),
                ("behaviour", 0),
                ("at_us", NEVER_US),
            ):
                column = getattr(self, name)
                fresh = np.full((more, self.length), empty, dtype=column.dtype)
                setattr(self, name, np.concatenate([column, fresh]))
            self.count = np.concatenate([self.count, np.zeros(more, dtype=np.int64)])

    def push(
        self,
        users: IntArray,
        streamers: IntArray,
        items: IntArray,
        behaviours: npt.NDArray[np.int8],
        at_us: LongArray,
    ) -> None:
        """Write N entries, oldest first; users (N,) may repeat."""
        if len(users) == 0:
            return
        order = np.argsort(users, kind="stable")
        who = users[order]
        place = (self.count[who] + rank_in_group(who)) % self.length
        # Of entries that fall on the same place the newest is written last, and stays.
        self.streamer_idx[who, place] = streamers[order]
        self.item_idx[who, place] = items[order]
        self.behaviour[who, place] = behaviours[order]
        self.at_us[who, place] = at_us[order]
        np.add.at(self.count, who, 1)

    def forget(self, user: int) -> None:
        """Forget one user's entries."""
        if user < len(self.count):
            self.streamer_idx[user] = self.item_idx[user] = -1
            self.behaviour[user] = 0
            self.at_us[user] = NEVER_US
            self.count[user] = 0
