"""A world without products: Zipf streamers whose popularity wanders, loyal viewers, daily habits.

It shares no formula with the first platform, so that what leans on one simulator's shape is found out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from pydantic import Field

from recsys.data.simulate.params import DAY_MS, HOUR_MS, MINUTE_MS, stream
from recsys.data.simulate.requests import REQUEST
from recsys.types import FloatArray, IntArray, LongArray, Params

#: Visits of one user on one day, at most, about two hours apart.
_TURNS = 5
#: A room takes no new viewers in its last ten minutes.
_CLOSING_MS = 10 * MINUTE_MS


class DriftParams(Params):
    """Size and character of the second world.

    With n a user's visits to a streamer, each counting 0.5^(days ago / half-life), and g the hours since the
    last one, utility is

        taste * <user, streamer> + popularity * z(streamer, day) + loyalty * n / (n + 2)
        + habit * max(0, cos(2 pi g / 24)) * [g > 12].
    """

    users: int = Field(default=1_500, ge=1)
    streamers: int = Field(default=250, ge=1)
    days: int = Field(default=28, ge=1)
    seed: int = Field(default=0, ge=0)
    start: datetime = Field(
        default=datetime(2025, 5, 5, tzinfo=UTC), description="first day of a KuaiLive log"
    )
    visits_a_day: float = Field(default=1.6, gt=0, description="visits of an average user")
    zipf: float = Field(default=0.9, ge=0, description="exponent of the streamers' popularity")
    wander: float = Field(default=0.45, ge=0, description="daily standard deviation of ln(popularity)")
    dimensions: int = Field(default=6, ge=1, description="latent dimensions of tastes")
    taste: float = 1.6
    popularity: float = 1.2
    loyalty: float = 1.2
    habit: float = 2.5
    half_life_days: float = Field(default=6.0, gt=0)
    noise: float = Field(default=0.8, gt=0, description="scale of the Gumbel noise of a choice")
    exposures: int = Field(default=4, ge=0, description="rooms shown and passed over at a visit")
    truth_requests: int = Field(
        default=2_000, ge=0, description="requests of the last fifth kept for evaluation"
    )


@dataclass(frozen=True)
class DriftLog:
    """All that happened: rooms (R,), visits (V,) by time, exposures passed over (N,), and the truth."""

    params: DriftParams
    room_streamer: IntArray
    room_start_ms: LongArray
    room_end_ms: LongArray
    visit_user: IntArray
    visit_room: IntArray
    visit_ms: LongArray
    visit_length_ms: LongArray
    passed_user: IntArray
    passed_room: IntArray
    passed_ms: LongArray
    requests: np.ndarray
    user_vectors: FloatArray
    streamer_vectors: FloatArray
    popularity: FloatArray  # (days, S) z of the utility


def play(params: DriftParams, *, step_ms: int) -> DriftLog:
    """The whole log of a world whose moments are multiples of `step_ms`."""
    streamer, start, end = _rooms(params, step_ms)
    viewers = _Viewers(params)
    visits: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64),) * 4]
    passed: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64),) * 3]
    requests = [np.empty(0, REQUEST)]
    first_kept = params.days * 4 // 5
    share = params.truth_requests / (params.users * params.visits_a_day * (params.days - first_kept))
    for day in range(params.days):
        rng = stream(params.seed, "drift-visits", day)
        rooms = np.flatnonzero((start < (day + 1) * DAY_MS) & (end > day * DAY_MS))
        for user, moment in viewers.turns(rng, day):
            at_ms = moment // step_ms * step_ms
            live = (start[rooms] <= at_ms[:, None]) & (at_ms[:, None] + _CLOSING_MS <= end[rooms])
            some = live.any(axis=1)
            user, at_ms, live = user[some], at_ms[some], live[some]
            if not len(user):
                continue
            utility, count = viewers.utilities(user, streamer[rooms], at_ms, day)
            order = np.argsort(-np.where(live, utility + params.noise * rng.gumbel(size=live.shape), -np.inf))
            room = rooms[order[:, 0]]
            if day >= first_kept:
                for b in np.flatnonzero(rng.random(len(user)) < share):
                    number = len(requests) - 1
                    requests.append(
                        _request(number, user[b], at_ms[b], rooms, live[b], utility[b], count[b], room[b])
                    )
            stay = (np.exp(rng.normal(2.6, 0.9, len(user))) * MINUTE_MS).astype(np.int64)
            visits.append((user, room, at_ms, np.minimum(stay, end[room] - at_ms)))
            beside = order[:, 1 : params.exposures + 1]
            shown = np.take_along_axis(live, beside, axis=1)
            who, when = (np.broadcast_to(column[:, None], beside.shape)[shown] for column in (user, at_ms))
            passed.append((who, rooms[beside][shown], when))
            viewers.visit(user, streamer[room], at_ms)
    visit = [np.concatenate(column) for column in zip(*visits, strict=True)]
    rows = np.lexsort((visit[0], visit[2]))
    beside_visit = [np.concatenate(column) for column in zip(*passed, strict=True)]
    return DriftLog(
        params=params,
        room_streamer=streamer,
        room_start_ms=start,
        room_end_ms=end,
        visit_user=visit[0][rows],
        visit_room=visit[1][rows],
        visit_ms=visit[2][rows],
        visit_length_ms=visit[3][rows],
        passed_user=beside_visit[0],
        passed_room=beside_visit[1],
        passed_ms=beside_visit[2],
        requests=np.concatenate(requests),
        user_vectors=viewers.user_vectors,
        streamer_vectors=viewers.streamer_vectors,
        popularity=viewers.popularity,
    )


def _rooms(params: DriftParams, step_ms: int) -> tuple[IntArray, LongArray, LongArray]:
    """Streamer (R,), start and end of every room: one a day around the streamer's own hour, or none."""
    rng, n = stream(params.seed, "drift-rooms"), params.streamers
    hour = np.where(rng.random(n) < 0.7, 17.0, 10.0) + rng.normal(0, 2, n)
    length = rng.uniform(2, 5, n)
    streamer, start, end = [], [], []
    for day in range(params.days):
        draws = rng.normal(0, 0.25, (2, n))
        present = rng.random(n) < 0.8
        begins = day * DAY_MS + ((hour + draws[0]).clip(0, 23) * HOUR_MS).astype(np.int64)
        lasts = (length * np.exp(draws[1]) * HOUR_MS).astype(np.int64)
        # A room ends before the day of its streamer's next one is three hours old.
        ends = np.minimum(begins + lasts, (day + 1) * DAY_MS)
        streamer.append(np.flatnonzero(present))
        start.append(begins[present] // step_ms * step_ms)
        end.append(ends[present] // step_ms * step_ms)
    return np.concatenate(streamer).astype(np.int32), np.concatenate(start), np.concatenate(end)


def _request(
    number: int,
    user: int,
    at_ms: int,
    rooms: LongArray,
    live: np.ndarray,
    utility: FloatArray,
    count: FloatArray,
    chosen: int,
) -> np.ndarray:
    rows = np.empty(int(live.sum()), REQUEST)
    rows["request"], rows["user"], rows["at_ms"], rows["room"] = number, user, at_ms, rooms[live]
    rows["utility"], rows["visits"], rows["known"] = utility[live], count[live], count[live] > 0
    rows["chosen"] = rooms[live] == chosen
    return rows


class _Viewers:
    """The viewers' tastes and what they remember; the streamers' popularity day by day."""

    def __init__(self, params: DriftParams) -> None:
        self._params = params
        rng, scale = stream(params.seed, "drift-users"), params.dimensions**-0.5
        self.user_vectors: FloatArray = rng.normal(0, 1, (params.users, params.dimensions)).astype(np.float32)
        self._hour = (20 + rng.normal(0, 3, params.users)) % 24
        self._activity = rng.gamma(1.5, params.visits_a_day / 1.5, params.users)
        rng = stream(params.seed, "drift-streamers")
        vectors = rng.normal(0, scale, (params.streamers, params.dimensions))
        self.streamer_vectors: FloatArray = vectors.astype(np.float32)
        rng = stream(params.seed, "drift-popularity")
        walk = np.cumsum(rng.normal(0, params.wander, (params.days, params.streamers)), axis=0)
        level = walk - params.zipf * np.log(1.0 + np.arange(params.streamers))
        self.popularity: FloatArray = (level - level.mean(axis=1, keepdims=True)).astype(np.float32)
        self._count: FloatArray = np.zeros((params.users, params.streamers), np.float32)
        self._last_ms = np.full((params.users, params.streamers), -1, np.int64)

    def turns(self, rng: np.random.Generator, day: int) -> list[tuple[IntArray, LongArray]]:
        """Users (B,) and moments of the day's first visits, its second ones, and so on."""
        wanted = rng.poisson(self._activity)
        first = np.maximum(self._hour + rng.normal(0, 0.7, len(wanted)) - 2, 0)
        turns = []
        for turn in range(_TURNS):
            hour = first + 2 * turn + rng.uniform(0, 1.5, len(wanted))
            user = np.flatnonzero((wanted > turn) & (hour < 24)).astype(np.int32)
            turns.append((user, day * DAY_MS + (hour[user] * HOUR_MS).astype(np.int64)))
        return turns

    def utilities(
        self, user: IntArray, streamer: IntArray, at_ms: LongArray, day: int
    ) -> tuple[FloatArray, FloatArray]:
        """True utilities and decayed visit counts, each (B, R), of users (B,) for streamers (R,)."""
        params, rows = self._params, user[:, None]
        last = self._last_ms[rows, streamer]
        since_h = np.where(last < 0, 0, (at_ms[:, None] - last) / HOUR_MS)
        count = self._count[rows, streamer] * 0.5 ** (since_h / 24 / params.half_life_days)
        habit = np.maximum(np.cos(since_h * np.pi / 12), 0) * (since_h > 12)
        utility = (
            params.taste * self.user_vectors[user] @ self.streamer_vectors[streamer].T
            + params.popularity * self.popularity[day, streamer]
            + params.loyalty * count / (count + 2)
            + params.habit * habit
        )
        return utility.astype(np.float32), count.astype(np.float32)

    def visit(self, user: IntArray, streamer: IntArray, at_ms: LongArray) -> None:
        """Count one visit of each user (B,), no user twice."""
        last = self._last_ms[user, streamer]
        days = np.where(last < 0, 0, (at_ms - last) / DAY_MS)
        self._count[user, streamer] = 1 + self._count[user, streamer] * 0.5 ** (
            days / self._params.half_life_days
        )
        self._last_ms[user, streamer] = at_ms
