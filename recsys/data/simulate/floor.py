"""The floor of the platform: users are shown rooms, open one, stay, and come to the next."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from recsys.data.simulate.audience import Sessions
from recsys.data.simulate.heat import HotEpisodes, signals
from recsys.data.simulate.log import SOURCES, events
from recsys.data.simulate.memory import VisitMemory
from recsys.data.simulate.params import DAY_MS, MINUTE_MS, MINUTES_A_DAY, stream
from recsys.data.simulate.requests import RequestLog
from recsys.data.simulate.schedule import Schedule
from recsys.data.simulate.utility import progress, room_utilities, tastes_of
from recsys.data.simulate.world import World
from recsys.types import Behaviour, FloatArray, IntArray, LongArray

#: Requests scored at once, so that the (requests, rooms of a day) matrices stay small.
_CHUNK = 1024
#: The utility of an ordinary visit, around which visits are longer or shorter.
_ORDINARY_UTILITY = 5.0
#: The shelf comes first; rooms are asked for this long after a session begins.
_SHELF_MS = 3 * MINUTE_MS
#: A visit leaves the room at the latest this long before it ends.
_LAST_MS = 500


@dataclass(frozen=True)
class Visits:
    """Visits (V,) to rooms; `session` is the row in the day's Sessions."""

    session: IntArray
    user: IntArray
    room: IntArray
    streamer: IntArray
    start_ms: LongArray
    end_ms: LongArray
    utility: FloatArray

    @classmethod
    def joined(cls, parts: list[Visits]) -> Visits:
        """Several lots of visits as one."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def __len__(self) -> int:
        return len(self.user)


def no_visits() -> Visits:
    """Visits of a day on which nobody came."""
    none, moments = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return Visits(none, none, none, none, moments, moments, np.zeros(0, np.float32))


class Floor:
    """Plays one day's sessions at a time; the memory of visits lives from day to day."""

    def __init__(
        self,
        world: World,
        schedule: Schedule,
        episodes: HotEpisodes,
        memory: VisitMemory,
        requests: RequestLog,
    ) -> None:
        self._world = world
        self._schedule = schedule
        self._episodes = episodes
        self._memory = memory
        self._requests = requests
        self._tastes = tastes_of(world)

    def walk(self, sessions: Sessions, day: int) -> tuple[Visits, list[np.ndarray]]:
        """The visits of a day's sessions, and the events of exposure, entry, watching and leaving."""
        params = self._world.params
        rng = stream(params.seed, "visits", day)
        rooms = self._schedule.overlapping(day * MINUTES_A_DAY, (day + 2) * MINUTES_A_DAY)
        today = [signals(params, self._episodes, d) for d in (day, day + 1)]
        demand = np.stack([s.demand for s in today])
        heat_follow = np.stack([s.follow for s in today])
        waiting, now = np.arange(len(sessions.user), dtype=np.int32), sessions.start_ms + _SHELF_MS
        made, log = [no_visits()], [np.empty(0, events(Behaviour.VIEW, now[:0], user=waiting[:0]).dtype)]
        while len(waiting) and len(rooms):
            opened = []
            for at in range(0, len(waiting), _CHUNK):
                part = waiting[at : at + _CHUNK]
                visits, exposures = self._request(rng, sessions, part, now[part], rooms, demand, day)
                opened.append(visits)
                log.extend(exposures)
            visits = Visits.joined(opened)
            made.append(visits)
            log.extend(self._relate(rng, visits, heat_follow, day))
            more = rng.random(len(visits)) < params.traffic.stay
            waiting = visits.session[more]
            now[waiting] = visits.end_ms[more] + rng.integers(5_000, 60_000, len(waiting))
            waiting = waiting[now[waiting] < params.days * DAY_MS]
        return Visits.joined(made), log

    def _request(
        self,
        rng: np.random.Generator,
        sessions: Sessions,
        part: IntArray,
        now: LongArray,
        rooms: IntArray,
        demand: FloatArray,
        day: int,
    ) -> tuple[Visits, list[np.ndarray]]:
        """One request each of the sessions `part` (B,): exposures, the choice, and the visit that follows."""
        params, choice, schedule = self._world.params, self._world.params.choice, self._schedule
        user = sessions.user[part]
        streamer = schedule.streamer[rooms]
        live, air = schedule.on_air(rooms, now)
        memory = self._memory.recall(user, streamer, now)
        utility = room_utilities(
            params,
            self._tastes,
            taste=self._world.users.taste(user, progress(params, now)),
            wallet=self._world.users.wallet[user],
            streamer=streamer,
            air=air,
            demand=demand[(now // DAY_MS - day)[:, None], air],
            memory=memory,
        )
        # The feed: what an imperfect recommender of the past put before the user.
        feed = np.where(live, choice.feed_sharpness * utility + rng.gumbel(size=utility.shape), -np.inf)
        size = min(choice.feed_size, len(rooms))
        shown = np.argpartition(-feed, size - 1, axis=1)[:, :size]
        shown = np.take_along_axis(shown, np.argsort(-np.take_along_axis(feed, shown, 1), axis=1), 1)
        is_live = np.take_along_axis(live, shown, 1)
        position = np.arange(1, size + 1)
        appeal = np.take_along_axis(utility, shown, 1) - choice.position_bias * np.log(position)
        appeal = np.where(is_live, appeal + choice.noise * rng.gumbel(size=appeal.shape), -np.inf)
        outside = choice.outside + choice.noise * rng.gumbel(size=len(part))
        best = appeal.argmax(axis=1)
        rows = np.arange(len(part))
        stays = appeal[rows, best] > outside
        chosen = shown[rows, best]
        self._requests.offer(day, user, now, rooms, live, utility, memory, np.where(stays, chosen, -1))

        grid_user, grid_time = np.broadcast_to(user[:, None], shown.shape), now[:, None] + 40 * position
        follows = self._memory.follows(grid_user, streamer[shown])
        exposures = events(
            Behaviour.IMPRESSION,
            grid_time[is_live],
            user=grid_user[is_live],
            room=rooms[shown][is_live],
            streamer=streamer[shown][is_live],
            position=np.broadcast_to(position, shown.shape)[is_live],
            source=np.where(follows, SOURCES.index("follow"), SOURCES.index("feed"))[is_live],
        )
        visits = self._stay(
            rng, part[stays], user[stays], now[stays], rooms[chosen[stays]], utility[rows, chosen][stays]
        )
        source = np.where(follows[rows, best], SOURCES.index("follow"), SOURCES.index("feed"))[stays]
        seen = {"user": visits.user, "room": visits.room, "streamer": visits.streamer, "source": source}
        spent_s = (visits.end_ms - visits.start_ms) / 1000
        return visits, [
            exposures,
            events(Behaviour.CLICK, visits.start_ms - 100, position=best[stays] + 1, **seen),
            events(Behaviour.ENTER, visits.start_ms, **seen),
            events(Behaviour.VIEW, visits.start_ms, duration_s=spent_s, **seen),
            events(Behaviour.LEAVE, visits.end_ms, **seen),
        ]

    def _stay(
        self,
        rng: np.random.Generator,
        session: IntArray,
        user: IntArray,
        now: LongArray,
        room: IntArray,
        utility: FloatArray,
    ) -> Visits:
        """How long each user stays: log-normal, longer where utility is high, never past the room's end."""
        traffic = self._world.params.traffic
        start = now + 2_000 + rng.integers(0, 4_000, len(user))
        pull = traffic.visit_pull * np.clip(utility - _ORDINARY_UTILITY, -10, 10)
        minutes = traffic.visit_minutes * np.exp(pull + rng.normal(0, traffic.visit_spread, len(user)))
        end = start + np.maximum(minutes * MINUTE_MS, 3_000).astype(np.int64)
        end = np.minimum(end, self._schedule.end[room] * MINUTE_MS - _LAST_MS)
        streamer = self._schedule.streamer[room]
        self._memory.visit(user, streamer, start)
        return Visits(session, user, room, streamer, start, end, utility)

    def _relate(
        self, rng: np.random.Generator, visits: Visits, heat_follow: FloatArray, day: int
    ) -> list[np.ndarray]:
        """Likes, gifts, follows and hides of visits; a follow is owed in part to what is on air."""
        rates = self._world.params.purchase
        n = len(visits)
        spent = visits.end_ms - visits.start_ms
        about = {"user": visits.user, "room": visits.room, "streamer": visits.streamer}
        log = []
        for behaviour, rate in ((Behaviour.LIKE, rates.like), (Behaviour.GIFT, rates.gift)):
            does = rng.random(n) < rate * np.minimum(spent / (10 * MINUTE_MS), 3)
            at = visits.start_ms + (spent * rng.random(n)).astype(np.int64)
            amount = (
                np.round(np.exp(rng.normal(1.5, 1.0, n)), 1)
                if behaviour is Behaviour.GIFT
                else np.full(n, np.nan)
            )
            rows = {name: column[does] for name, column in about.items()}
            log.append(events(behaviour, at[does], amount=amount[does], **rows))
        at = visits.start_ms + (spent * rng.random(n)).astype(np.int64)
        item = self._schedule.showing(visits.room, at)
        chance = rates.follow * np.minimum(spent / (3 * MINUTE_MS), 8)
        chance *= heat_follow[np.minimum(at // DAY_MS - day, 1), item]
        does = (rng.random(n) < chance) & ~self._memory.follows(visits.user, visits.streamer)
        rows = {name: column[does] for name, column in about.items()}
        log.append(events(Behaviour.FOLLOW, at[does], item=item[does], **rows))
        self._memory.follow(visits.user[does], visits.streamer[does])
        hides = (rng.random(n) < rates.hide) & (spent < MINUTE_MS) & ~does
        rows = {name: column[hides] for name, column in about.items()}
        log.append(events(Behaviour.HIDE, visits.end_ms[hides], **rows))
        self._memory.hide(visits.user[hides], visits.streamer[hides])
        return log
