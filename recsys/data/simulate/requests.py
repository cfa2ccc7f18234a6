"""Requests kept for evaluation: every live room with its true utility, and the one that was opened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys.data.simulate.log import TIME
from recsys.data.simulate.params import SimulationParams, stream
from recsys.types import BoolArray, FloatArray, IntArray, LongArray

#: One row for each live room of a kept request.
REQUEST = np.dtype(
    [
        ("request", "i4"),
        ("user", "i4"),
        ("at_ms", "i8"),
        ("room", "i4"),
        ("utility", "f4"),
        ("visits", "f4"),
        ("known", "?"),
        ("chosen", "?"),
    ]
)
REQUEST_SCHEMA = pa.schema(
    [
        ("request", pa.int32()),
        ("user_id", pa.string()),
        ("at", TIME),
        ("room_id", pa.string()),
        ("utility", pa.float32()),
        ("visits", pa.float32()),
        ("known", pa.bool_()),
        ("chosen", pa.bool_()),
    ]
)


class RequestLog:
    """Keeps a random sample of the requests of the last fifth of the log that led to a visit."""

    def __init__(self, params: SimulationParams) -> None:
        self._seed = params.seed
        self._first_day = params.days * 4 // 5
        traffic = params.traffic
        active = params.users * traffic.spell_days / (traffic.spell_days + traffic.pause_days)
        visits_a_day = active * traffic.sessions_a_day / (1 - traffic.stay)
        self._share = params.truth_requests / max(visits_a_day * (params.days - self._first_day), 1)
        self._kept: list[np.ndarray] = []
        self._offers = 0
        self._requests = 0

    def offer(
        self,
        day: int,
        user: IntArray,
        at_ms: LongArray,
        rooms: IntArray,
        live: BoolArray,
        utility: FloatArray,
        memory: tuple[FloatArray, FloatArray, np.ndarray],
        chosen: np.ndarray,
    ) -> None:
        """Keep some of B requests.

        Args:
            day: day on which their sessions began.
            user: (B,) user_idx.
            at_ms: (B,) moments.
            rooms: (R,) room_idx.
            live: (B, R) rooms that were live.
            utility: (B, R).
            memory: what `VisitMemory.recall` returned for them.
            chosen: (B,) columns of the rooms opened, -1 for none.
        """
        self._offers += 1
        if day < self._first_day:
            return
        draws = stream(self._seed, "requests", self._offers).random(len(user))
        visits, since_h, _ = memory
        for b in np.flatnonzero((draws < self._share) & (chosen >= 0)):
            columns = np.flatnonzero(live[b])
            rows = np.empty(len(columns), REQUEST)
            rows["request"], rows["user"], rows["at_ms"] = self._requests, user[b], at_ms[b]
            rows["room"], rows["utility"] = rooms[columns], utility[b, columns]
            rows["visits"], rows["known"] = visits[b, columns], np.isfinite(since_h[b, columns])
            rows["chosen"] = columns == chosen[b]
            self._kept.append(rows)
            self._requests += 1

    def rows(self) -> np.ndarray:
        """(N,) REQUEST rows, request by request."""
        return np.concatenate([np.empty(0, REQUEST), *self._kept])


@dataclass(frozen=True)
class RoomHeadroom:
    """NDCG@10 over all live rooms of kept requests; the target is the room that was opened."""

    requests: int
    live_rooms: float
    repeats: float
    baseline: float
    truth: float
    truth_new: float
    baseline_new: float


def room_headroom(requests: np.ndarray) -> RoomHeadroom | None:
    """NDCG@10 of the decayed visit count and of true utility over kept requests (REQUEST rows).

    Rooms of one score share their rank: the gain is the mean over the places that they take.
    """
    if not len(requests):
        return None
    bounds = np.flatnonzero(np.r_[True, np.diff(requests["request"]) != 0])
    gains = np.array(
        [
            (_gain(r["visits"] * r["known"], r["chosen"]), _gain(r["utility"], r["chosen"]))
            for r in np.split(requests, bounds[1:])
        ]
    )
    known = requests["known"][requests["chosen"]]
    new = gains[~known]
    return RoomHeadroom(
        requests=len(bounds),
        live_rooms=len(requests) / len(bounds),
        repeats=float(known.mean()),
        baseline=float(gains[:, 0].mean()),
        truth=float(gains[:, 1].mean()),
        truth_new=float(new[:, 1].mean()) if len(new) else float("nan"),
        baseline_new=float(new[:, 0].mean()) if len(new) else float("nan"),
    )


def _gain(score: FloatArray, chosen: BoolArray) -> float:
    own = score[chosen][0]
    above, level = int((score > own).sum()), int((score == own).sum())
    places = np.arange(above, min(above + level, 10))
    return float((1 / np.log2(places + 2)).sum() / level)
