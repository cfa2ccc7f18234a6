"""Live rooms on the request path: who is live, what is on air, and which room for whom.

The state itself is `recsys.rooms.state.LiveState`, in dense indices and seeded by the bundle. Here ids become
indices, calls take turns, and what was reported is kept by external id, so that it outlives the bundle.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from recsys.data.ids import IdMap, id_key
from recsys.durations import HOUR_US
from recsys.product_sections import Catalogue
from recsys.room_sections import RoomParts
from recsys.rooms.content import Content
from recsys.rooms.events import EventBatch
from recsys.rooms.explore import NO_FLOORS, ExploreParams, unknown_kinds, with_floors
from recsys.rooms.features import room_features
from recsys.rooms.live_rooms import LiveRooms
from recsys.rooms.params import StateParams
from recsys.rooms.reasons import room_reasons
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.state import LiveState
from recsys.types import Event, ExternalId, IntArray
from serving.answer import Entry
from serving.diversity import Caps, check_cap
from serving.holds import Hold
from serving.reports import Aired, LiveRoom

#: Ended rooms and events kept for the next bundle's state.
MAX_ENDED = 100_000
MAX_EVENTS = 50_000
#: Somebody who came longer ago and never left is taken to have left.
WATCHES_AT_MOST_US = 4 * HOUR_US


class GrowingIds:
    """External ids to dense indices: the bundle's, then those that come up, in order of appearance.

    Those that come up stay until the next bundle, some 200 bytes each.
    """

    def __init__(self, base: IdMap) -> None:
        self._base = base
        self._new: dict[str, int] = {}
        self._spelt: list[ExternalId] = []

    def get(self, value: ExternalId) -> int:
        """The index of an id, -1 where it never came up."""
        known = self._base.get(value)
        return known if known >= 0 else self._new.get(id_key(value), -1)

    def index(self, value: ExternalId) -> int:
        """The index of an id, a new one where it never came up."""
        found = self.get(value)
        if found < 0:
            found = self._new[id_key(value)] = len(self._base) + len(self._spelt)
            self._spelt.append(value)
        return found

    def spell(self, value: ExternalId) -> int:
        """The index of an id, given back from now on as it is spelt here; the bundle's keep theirs."""
        index = self.index(value)
        if index >= len(self._base):
            self._spelt[index - len(self._base)] = value
        return index

    def forget(self, value: ExternalId) -> None:
        """Drops an id that came up; its index is not given again."""
        index = self._new.pop(id_key(value), None)
        if index is not None:
            self._spelt[index - len(self._base)] = ""

    def one(self, index: int) -> ExternalId:
        """The id at an index, as it was spelt."""
        own = index - len(self._base)
        return self._spelt[own] if own >= 0 else self._base.one(index)


class RoomJournal:
    """What was reported since the bundle was made, for the state of the next one. Bounded."""

    def __init__(self) -> None:
        self.live: dict[str, LiveRoom] = {}
        self.aired: OrderedDict[str, Aired] = OrderedDict()  # of rooms that the bundle knew as live, too
        self.ended: OrderedDict[str, ExternalId] = OrderedDict()
        self.events: deque[tuple[Event, int]] = deque(maxlen=MAX_EVENTS)
        self._seen: OrderedDict[tuple[str, Event | str], None] = OrderedDict()

    def started(self, room: LiveRoom) -> None:
        """A room goes live, perhaps again."""
        self.live[id_key(room.room_id)] = room
        self.ended.pop(id_key(room.room_id), None)

    def over(self, room_id: ExternalId) -> None:
        """A room is over."""
        self.live.pop(id_key(room_id), None)
        self.aired.pop(id_key(room_id), None)
        self.ended[id_key(room_id)] = room_id
        while len(self.ended) > MAX_ENDED:
            self.ended.popitem(last=False)

    def on_air(self, aired: Aired) -> bool:
        """A product is on air in a room, or nothing is; False where something later was reported already."""
        key = id_key(aired.room_id)
        if key in self.aired and self.aired[key].at_us > aired.at_us:
            return False
        self.aired[key] = aired
        self.aired.move_to_end(key)
        while len(self.aired) > MAX_ENDED:
            self.aired.popitem(last=False)
        return True

    def observed(self, event: Event, at_us: int) -> bool:
        """An event in a room; False where it is one of the last `MAX_EVENTS` again."""
        key = (id_key(event.user_id), event if event.event_id is None else str(event.event_id))
        if key in self._seen:
            return False
        self._seen[key] = None
        while len(self._seen) > MAX_EVENTS:
            self._seen.popitem(last=False)
        self.events.append((event, at_us))
        return True

    def users(self) -> set[str]:
        """Id texts of those whose events are kept."""
        return {id_key(event.user_id) for event, _ in self.events}

    def forget(self, user_id: ExternalId) -> None:
        """Drops the events of a person."""
        key = id_key(user_id)
        for seen in [seen for seen in self._seen if seen[0] == key]:
            del self._seen[seen]
        kept = [entry for entry in self.events if id_key(entry[0].user_id) != key]
        self.events = deque(kept, maxlen=MAX_EVENTS)


@dataclass(frozen=True, slots=True)
class RoomCaps:
    """How many rooms of one streamer, and of one category, a list may have; None is all.

    Raises:
        RequestError: a cap below 1.
    """

    max_per_streamer: int | None = None
    max_per_category: int | None = None

    def __post_init__(self) -> None:
        check_cap("max_per_streamer", self.max_per_streamer)
        check_cap("max_per_category", self.max_per_category)

    def __bool__(self) -> bool:
        return self.max_per_streamer is not None or self.max_per_category is not None

    def __str__(self) -> str:
        caps = {"max_per_streamer": self.max_per_streamer, "max_per_category": self.max_per_category}
        return " and ".join(f"{name}={cap}" for name, cap in caps.items() if cap is not None)

    def best(self, rooms: LiveRooms, rows: IntArray, *, k: int) -> IntArray:
        """(up to k,) places in `rows`, best first, such that no group has more than its cap."""
        groups = (
            (rooms.streamer_idx[rows], self.max_per_streamer),
            (rooms.category[rows], self.max_per_category),
        )
        caps = Caps(groups)
        chosen: list[int] = []
        while len(chosen) < k and caps.room.any():
            chosen.append(int(np.argmax(caps.room)))
            caps.take(chosen[-1])
        return np.array(chosen, dtype=np.int32)


#: The caps that leave everything as it is.
NO_CAPS = RoomCaps()


class RoomService:
    """The live state of one bundle, with ids at its edge. Every method may be called from any thread.

    Args:
        state: seeded by the bundle, or empty.
        scorer: of the bundle, or the rule where it has none.
        explore: floors of the lists that are answered.
        users, items, streamers, rooms: ids in the indices of the state; all but items grow.
    """

    def __init__(
        self,
        state: LiveState,
        scorer: RoomScorer,
        *,
        explore: ExploreParams,
        users: IdMap,
        items: IdMap,
        streamers: IdMap,
        rooms: IdMap,
    ) -> None:
        self._scorer = scorer
        self._explore = explore
        self._state = state
        self._users = GrowingIds(users)
        self._items = items
        self._streamers = GrowingIds(streamers)
        self._rooms = GrowingIds(rooms)
        self._categories = scorer.content.category_code
        self._reported: dict[int, str] = {}  # categories of live rooms, known to the bundle or not
        self._lock = threading.Lock()  # rows move when a room ends: nobody may read meanwhile

    @classmethod
    def of(cls, catalogue: Catalogue, parts: RoomParts | None, journal: RoomJournal) -> Self:
        """The service of a bundle, brought up to date with what was reported under others.

        A bundle that knows nothing of rooms ranks by what is observed: visits to the streamer, then joins.
        """
        nobody = IdMap(catalogue.users.keys.slice(0, 0), catalogue.users.id_type)
        service = cls(
            LiveState() if parts is None else parts.state(),
            _rule() if parts is None else parts.scorer,
            explore=ExploreParams() if parts is None else parts.explore,
            users=catalogue.users,
            items=catalogue.items,
            streamers=nobody if parts is None else parts.streamers,
            rooms=nobody if parts is None else parts.rooms,
        )
        service.replay(journal)
        return service

    def replay(self, journal: RoomJournal) -> None:
        """Tells a new bundle's state what was reported under the old one."""
        for room in journal.live.values():
            self.started(room)
        # Rooms that were live at the bundle's moment first, so that events find what was on air.
        self._replay_aired(journal)
        for event, at_us in journal.events:
            if at_us > self._state.now_us:  # what is older the bundle has counted
                self.observe(event, at_us)
        self._replay_aired(journal)
        for room_id in journal.ended.values():
            self.ended(room_id)

    def _replay_aired(self, journal: RoomJournal) -> None:
        for aired in journal.aired.values():
            self.on_air(aired)

    def started(self, room: LiveRoom) -> None:
        """A room goes live."""
        with self._lock:
            index = self._rooms.spell(room.room_id)
            streamer = self._streamers.spell(room.streamer_id)
            category = self._categories.get(room.category, -1) if room.category is not None else -1
            self._state.room_started(index, streamer, room.started_us, category=category)
            if room.category is None:
                self._reported.pop(index, None)
            else:
                self._reported[index] = room.category

    def ended(self, room_id: ExternalId) -> None:
        """A room is over and in no answer from now on."""
        with self._lock:
            index = self._rooms.index(room_id)
            self._state.room_ended(index)
            self._reported.pop(index, None)

    def on_air(self, aired: Aired) -> bool:
        """A product is on air in a room, or nothing is; whether the room is live."""
        with self._lock:
            room, item = self._rooms.get(aired.room_id), self._items.get(aired.item_id)
            return self._state.on_air(room, item, aired.at_us)

    def observe(self, event: Event, at_us: int) -> None:
        """An event in a room, or of a user with a streamer."""
        with self._lock:
            room = self._rooms.index(event.room_id) if event.room_id is not None else -1
            streamer = self._streamers.index(event.streamer_id) if event.streamer_id is not None else -1
            row = self._state.rooms.row(room)
            if streamer < 0 and row >= 0:
                streamer = int(self._state.rooms.streamer_idx[row])
            on_air = self._state.item_on_air(room)
            item = self._items.get(event.item_id) if event.item_id is not None else -1

            def one(value: Any, kind: type[np.generic]) -> Any:
                return np.array([value], dtype=kind)

            self._state.observe_many(
                EventBatch(
                    timestamp_us=one(at_us, np.int64),
                    behaviour=one(event.event.code, np.int8),
                    user_idx=one(self._users.index(event.user_id), np.int32),
                    streamer_idx=one(streamer, np.int32),
                    room_idx=one(room, np.int32),
                    item_idx=one(item, np.int32),
                    on_air_idx=one(on_air, np.int32),
                    duration_s=one(np.nan if event.duration_s is None else event.duration_s, np.float32),
                )
            )

    def forget(self, user_id: ExternalId) -> None:
        """Forgets a person."""
        with self._lock:
            user = self._users.get(user_id)
            if user >= 0:
                self._state.forget(user)
                self._users.forget(user_id)

    def rank(
        self,
        user_id: ExternalId | None,
        *,
        k: int,
        now_us: int,
        available: Callable[[int], bool],
        explore: bool = True,
        caps: RoomCaps = NO_CAPS,
        hold: Hold | None = None,
    ) -> tuple[list[Entry], bool, int]:
        """The best k live rooms; whether the user is known; how many are live and may be shown.

        Args:
            user_id: None for an answer that uses nothing of the user.
            k: how many.
            now_us: the moment of asking.
            available: whether a product, by index, may be named as on air.
            explore: whether the floors for new streamers hold, as far as the caps allow.
            caps: of what is ranked.
            hold: what the user may be shown; None is everything.
        """
        with self._lock:
            self._state.advance(now_us)
            user = -1 if user_id is None else self._users.get(user_id)
            known = 0 <= user < len(self._state.last_visit_us)
            user = user if known else -1
            state, rooms = self._state, self._state.rooms
            if not len(rooms):
                return [], known, 0
            floors = unknown_kinds(self._explore if explore else NO_FLOORS, state, user)
            kinds = [kind for share, kind in floors if share > 0]
            depth = k if hold is None and not caps else len(rooms)
            ranking = self._scorer.rank(state, user, state.now_us, k=depth, kinds=kinds)
            ranked = rooms.rows(ranking.room_idx)
            places = with_floors([(share, kind[ranked]) for share, kind in floors], k=depth)
            rows, scores = ranked[places], ranking.scores[places]
            live = len(rooms)
            if hold is not None:
                kept = np.array([self._is_within(hold, row) for row in rows.tolist()], dtype=bool)
                rows, scores, live = rows[kept], scores[kept], int(kept.sum())
            if caps:
                chosen = caps.best(rooms, rows, k=k)
                rows, scores = rows[chosen], scores[chosen]
            rows, scores = rows[:k], scores[:k]
            features = room_features(state, self._scorer.content, user, rows, state.now_us)
            entries = []
            for row, score, reason in zip(
                rows.tolist(), scores.tolist(), room_reasons(features), strict=True
            ):
                item = int(rooms.item_idx[row])
                facts = {
                    "streamer_id": self._streamers.one(int(rooms.streamer_idx[row])),
                    "item_id": self._items.one(item) if item >= 0 and available(item) else None,
                }
                room_id = self._rooms.one(int(rooms.room_idx[row]))
                entries.append(Entry(room_id, score, "rooms", reason, facts))
            return entries, known, live

    def _is_within(self, hold: Hold, row: int) -> bool:
        """Whether all that is known of what a live room is about is allowed, and something is known."""
        rooms = self._state.rooms
        code, item = int(rooms.category[row]), int(rooms.item_idx[row])
        category = self._reported.get(int(rooms.room_idx[row]))
        if category is None and code >= 0:
            category = self._scorer.content.categories[code]
        if category is not None and category not in hold.categories:
            return False
        return item in hold.items if item >= 0 else category is not None

    def audience(
        self, room_id: ExternalId, *, now_us: int
    ) -> tuple[list[ExternalId], ExternalId | None] | None:
        """Viewers of a room, newest first, and the product on air in it; None where it is not live."""
        with self._lock:
            self._state.advance(now_us)
            rooms = self._state.rooms
            row = rooms.row(self._rooms.get(room_id))
            if row < 0:
                return None
            users = rooms.audience.of(row, since_us=self._state.now_us - WATCHES_AT_MOST_US)
            item = int(rooms.item_idx[row])
            viewers = [self._users.one(int(user)) for user in users]
            return viewers, self._items.one(item) if item >= 0 else None


def _rule() -> RoomScorer:
    """The rule that every model has to beat, which needs no training."""
    none = np.zeros(0, dtype=np.int32)
    content = Content(
        categories=(), item_category=none, item_price=none.astype(np.float32), streamer_category=none
    )
    return RoomScorer(StateParams(), content)
