"""Who comes on which day, and when: spells of activity, own hours, weekdays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.simulate.params import DAY_MS, HOUR_MS, stream
from recsys.data.simulate.world import World
from recsys.types import BoolArray, IntArray, LongArray

_WEEKDAYS = np.array([0.92, 0.9, 0.92, 0.96, 1.06, 1.18, 1.06])


@dataclass(frozen=True)
class Sessions:
    """The sessions (N,) that begin on one day, at most one a user."""

    user: IntArray
    start_ms: LongArray
    shopping: BoolArray


class Audience:
    """Draws the sessions of one day after the other."""

    def __init__(self, world: World) -> None:
        self._params = world.params
        self._users = world.users
        traffic = world.params.traffic
        share = traffic.spell_days / (traffic.spell_days + traffic.pause_days)
        self._active: BoolArray = stream(world.params.seed, "spells").random(world.params.users) < share
        self._busy_until_ms = np.zeros(world.params.users, np.int64)

    def sessions(self, day: int) -> Sessions:
        """The sessions that begin on `day`; days are asked for in order."""
        params, traffic, n = self._params, self._params.traffic, self._params.users
        rng = stream(params.seed, "sessions", day)
        self._active ^= rng.random(n) < np.where(self._active, 1 / traffic.spell_days, 1 / traffic.pause_days)
        comes = self._active & (rng.random(n) < self._users.visits * _WEEKDAYS[day % 7])
        own = self._users.hour + rng.normal(0, 1.0, n)
        anybodys = np.where(rng.random(n) < 0.7, rng.normal(20.5, 2.0, n), rng.normal(12.5, 2.5, n))
        hour = np.where(rng.random(n) < traffic.own_hour, own, anybodys) % 24
        start = day * DAY_MS + (hour * HOUR_MS).astype(np.int64)
        # Yesterday's session may have run past midnight.
        comes &= start > self._busy_until_ms + HOUR_MS
        shopping = rng.random(n) < params.purchase.shopping
        user = np.flatnonzero(comes).astype(np.int32)
        return Sessions(user, start[user], shopping[user])

    def stayed_until(self, user: IntArray, at_ms: LongArray) -> None:
        """Note until when users were busy; rows of one user come in time order."""
        self._busy_until_ms[user] = at_ms
