"""What is on air in each room: of the products whose time has begun and is not over, the one begun last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.types import BoolArray, IntArray, LongArray

#: The end of what has none.
NEVER_ENDS_US = np.iinfo(np.int64).max


@dataclass(frozen=True)
class AirChanges:
    """N moments at which what is on air in a room changes, in time order.

    Attributes:
        at_us: (N,) int64.
        room: (N,) int32.
        item: (N,) int32 what is on air from then on, -1 for nothing.
        since_us: (N,) int64 when the time of `item` began.
        by_end: (N,) bool, whether it changes because a product's time is over. Of changes at one moment these
            come first.
    """

    at_us: LongArray
    room: IntArray
    item: IntArray
    since_us: LongArray
    by_end: BoolArray

    def __len__(self) -> int:
        return len(self.at_us)

    def at(self, room: IntArray, moment_us: LongArray) -> IntArray:
        """(M,) what is on air in M rooms at M moments, -1 for nothing; what begins then is on air."""
        on_air = np.full(len(room), -1, dtype=np.int32)
        if not len(self) or not len(room):
            return on_air
        moments, place = np.unique(np.concatenate([self.at_us, moment_us]), return_inverse=True)
        key = self.room.astype(np.int64) * len(moments) + place[: len(self)]
        order = np.argsort(key, kind="stable")
        asked = room.astype(np.int64) * len(moments) + place[len(self) :]
        last = order[np.maximum(np.searchsorted(key[order], asked, side="right") - 1, 0)]
        known = (self.room[last] == room) & (self.at_us[last] <= moment_us)
        on_air[known] = self.item[last[known]]
        return on_air


def air_changes(room: IntArray, item: IntArray, start_us: LongArray, end_us: LongArray) -> AirChanges:
    """Read the changes off S showcases, which may overlap and may have no end.

    Args:
        room, item: (S,) int32.
        start_us: (S,) int64.
        end_us: (S,) int64, `NEVER_ENDS_US` for none; a showcase that ends as it begins is left out.
    """
    real = np.flatnonzero(end_us > start_us)
    ending = real[end_us[real] < NEVER_ENDS_US]
    showcase = np.concatenate([real, ending])
    at_us = np.concatenate([start_us[real], end_us[ending]])
    by_end = np.arange(len(showcase)) >= len(real)
    order = np.lexsort((~by_end, at_us))
    begun: dict[int, list[int]] = {}  # room -> showcases begun, the last one on air
    over: set[int] = set()
    changes: list[tuple[int, int, bool]] = []  # place in `showcase`, what is on air then, by_end
    columns = (order, showcase[order], room[showcase[order]], by_end[order])
    for place, case, where, ended in zip(*(column.tolist() for column in columns), strict=True):
        stack = begun.setdefault(where, [])
        if not ended:
            stack.append(case)
            changes.append((place, case, False))
            continue
        over.add(case)
        if stack[-1] != case:
            continue
        while stack and stack[-1] in over:
            over.discard(stack.pop())
        changes.append((place, stack[-1] if stack else -1, True))
    places = np.array([change[0] for change in changes], dtype=np.int64)
    shown = np.array([change[1] for change in changes], dtype=np.int64)
    nothing = shown < 0
    at = at_us[places]
    return AirChanges(
        at_us=at,
        room=room[showcase[places]].astype(np.int32),
        item=np.where(nothing, -1, item[shown] if len(item) else -1).astype(np.int32),
        since_us=np.where(nothing, at, start_us[shown] if len(start_us) else 0),
        by_end=np.array([change[2] for change in changes], dtype=bool),
    )
