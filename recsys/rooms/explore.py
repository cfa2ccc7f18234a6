"""Which places of a list of rooms go to streamers that are new to the user, or hardly known to anybody.

A ranking by what users did returns them to whom they know: a streamer without visits gets none. Each kind of
unknown streamer has a floor: its least share of any beginning of the list, filled with the best of its kind.
The greedy rule is DetGreedy of Geyik, Ambler & Kenthapadi 2019, "Fairness-aware ranking in search &
recommendation systems", with floors alone.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from recsys.rooms.memory import NEVER_US
from recsys.rooms.state import LiveState, StreamerCounter
from recsys.types import BoolArray, IntArray, Params


class ExploreParams(Params):
    """Floors of a served list of rooms; a ranking that is measured has none.

    Attributes:
        new: least share of the list for streamers that the user has not visited.
        fresh: least share for streamers that had fewer than `fresh_visits` visits in the last weeks.
        fresh_visits: visits, decayed with the longest of `StateParams.popularity_half_lives_h`.
    """

    new: float = Field(default=0.2, ge=0, le=1)
    fresh: float = Field(default=0.1, ge=0, le=1)
    fresh_visits: float = Field(default=20.0, ge=0)


#: A list as it was ranked.
NO_FLOORS = ExploreParams(new=0.0, fresh=0.0)


def unknown_kinds(params: ExploreParams, state: LiveState, user: int) -> list[tuple[float, BoolArray]]:
    """The floor of each kind, and which of the n live rooms are of it (n,).

    Args:
        params: the floors.
        state: advanced to the moment of asking.
        user: user_idx; -1 for somebody unknown, to whom every streamer is new.
    """
    streamers = state.rooms.streamer_idx[: len(state.rooms)]
    met, memory_rows = state.pairs.of_user(user)
    visited = np.zeros(len(state.first_seen_us), dtype=bool)
    visited[met[state.pairs.last_us[memory_rows] != NEVER_US]] = True
    visits = state.streamers.one(streamers, StreamerCounter.VISIT, -1, state.now_us)
    return [(params.new, ~visited[streamers]), (params.fresh, visits < params.fresh_visits)]


def with_floors(floors: list[tuple[float, BoolArray]], *, k: int) -> IntArray:
    """(min(k, R),) places of R ranked entries: every first n hold at least floor(share * n) of each kind.

    Where a floor would be missed its best entry comes next, the kinds in their order; else the best of all. A
    kind that has run out asks for nothing.

    Args:
        floors: share in [0, 1] and (R,) membership of each kind.
        k: entries wanted.
    """
    n = len(floors[0][1])
    left = np.ones(n, dtype=bool)
    shown = np.zeros(len(floors), dtype=np.int64)
    members = np.stack([kind for _, kind in floors])
    order = np.zeros(min(k, n), dtype=np.int32)
    for place in range(len(order)):
        chosen = int(np.argmax(left))
        for kind, (share, _) in enumerate(floors):
            candidates = left & members[kind]
            # A share such as 0.1 times 30 is a hair below 3 in binary.
            if shown[kind] < int(share * (place + 1) + 1e-9) and candidates.any():
                chosen = int(np.argmax(candidates))
                break
        order[place] = chosen
        left[chosen] = False
        shown += members[:, chosen]
    return order
