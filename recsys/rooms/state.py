"""The live state: one truth about rooms, users, streamers and products, for training, replay and serving.

It is told what happens (`room_started`, `on_air`, `observe_many`, `advance`) and answers nothing itself:
`recsys.rooms.features` reads it. numpy and the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from recsys.rooms.decay import DecayedSums
from recsys.rooms.events import EventBatch
from recsys.rooms.live_rooms import LiveRooms, RoomCounter
from recsys.rooms.memory import FOLLOWS, HIDDEN, NEVER_US, PairCounter, PairMemory, Recent
from recsys.rooms.params import StateParams
from recsys.rooms.under_way import Lengths, RoomsEntered, ViewsUnderWay
from recsys.types import BEHAVIOURS, Behaviour, BoolArray, LongArray

_ENGAGEMENT = (
    Behaviour.LIKE,
    Behaviour.COMMENT,
    Behaviour.SHARE,
    Behaviour.FOLLOW,
    Behaviour.FAVOURITE,
    Behaviour.GIFT,
    Behaviour.CART,
)
#: What a behaviour adds to its room's counters; joins and leaves are told by `StateParams`.
_ROOM_COLUMN = {
    Behaviour.CART: RoomCounter.CART,
    Behaviour.PURCHASE: RoomCounter.PURCHASE,
    Behaviour.COMMENT: RoomCounter.COMMENT,
    Behaviour.SHARE: RoomCounter.COMMENT,
    Behaviour.GIFT: RoomCounter.GIFT,
    Behaviour.LIKE: RoomCounter.LIKE,
    Behaviour.FOLLOW: RoomCounter.LIKE,
    Behaviour.FAVOURITE: RoomCounter.LIKE,
}


class StreamerCounter(IntEnum):
    """Columns of a streamer's decayed counters."""

    VISIT = 0
    DWELL_S = 1
    PURCHASE = 2


class ItemCounter(IntEnum):
    """Columns of a product's decayed counters."""

    CLICK = 0
    CART = 1
    TALK = 2
    PURCHASE = 3


_ITEM_COLUMN = {
    Behaviour.CLICK: ItemCounter.CLICK,
    Behaviour.CART: ItemCounter.CART,
    Behaviour.COMMENT: ItemCounter.TALK,
    Behaviour.SHARE: ItemCounter.TALK,
    Behaviour.FAVOURITE: ItemCounter.TALK,
    Behaviour.FOLLOW: ItemCounter.TALK,
    Behaviour.PURCHASE: ItemCounter.PURCHASE,
}


def _table(columns: Mapping[Behaviour, IntEnum]) -> npt.NDArray[np.int64]:
    """(behaviours,) the column of each behaviour, -1 for none."""
    table = np.full(len(BEHAVIOURS), -1, dtype=np.int64)
    for behaviour, column in columns.items():
        table[behaviour.code] = int(column)
    return table


def _mask(*behaviours: Behaviour) -> BoolArray:
    mask = np.zeros(len(BEHAVIOURS), dtype=bool)
    mask[[behaviour.code for behaviour in behaviours]] = True
    return mask


class LiveState:
    """What is known at `now_us`.

    Attributes:
        now_us: the latest moment that `advance` was told.
        rooms: the live rooms.
        pairs: users with streamers.
        actions: the latest actions of every user; a visit's product is the one then on air.
        shown: the latest rooms shown to every user.
        users: (users, 1, pair half-lives) visits; last_visit_us: (users,).
        streamers: (streamers, StreamerCounter, half-lives); first_seen_us: (streamers,).
        items: (items, ItemCounter, half-lives).
    """

    def __init__(self, params: StateParams | None = None) -> None:
        self.params = params or StateParams()
        day_s, hour_s = 86_400.0, 3_600.0
        self.now_us = NEVER_US
        self.rooms = LiveRooms(self.params)
        self.pairs = PairMemory(self.params)
        self.actions = Recent(self.params.history)
        self.shown = Recent(self.params.shown)
        self.users = DecayedSums(1, tuple(d * day_s for d in self.params.pair_half_lives_days))
        self.last_visit_us = np.full(0, NEVER_US, dtype=np.int64)
        self.streamers = DecayedSums(
            len(StreamerCounter), tuple(h * hour_s for h in self.params.popularity_half_lives_h)
        )
        self.first_seen_us = np.full(0, np.iinfo(np.int64).max, dtype=np.int64)
        self.items = DecayedSums(len(ItemCounter), tuple(h * hour_s for h in self.params.item_half_lives_h))
        self._views = ViewsUnderWay(self.params.max_watching)
        self._entered = RoomsEntered(self.params.max_watching)
        room_columns = dict(_ROOM_COLUMN) | {self.params.visit: RoomCounter.JOIN}
        if self.params.leave is not None:
            room_columns[self.params.leave] = RoomCounter.LEAVE
        self._room_column = _table(room_columns)
        self._item_column = _table(_ITEM_COLUMN)
        self._is_engagement = _mask(*_ENGAGEMENT)
        self._is_action = _mask(self.params.visit, *_ENGAGEMENT, Behaviour.PURCHASE, Behaviour.HIDE)

    # What happens, one thing at a time.

    def room_started(self, room: int, streamer: int, at_us: int, *, category: int = -1) -> None:
        """A room goes live. One that is live already, or was inferred to be, keeps what was counted."""
        self._reach_streamers(streamer)
        self.rooms.start(room, streamer, at_us, category)
        self.first_seen_us[streamer] = min(int(self.first_seen_us[streamer]), at_us)

    def room_ended(self, room: int) -> bool:
        """A room is over and is never answered again; whether it was live."""
        return self.rooms.end(room)

    def on_air(self, room: int, item: int, at_us: int) -> bool:
        """A product is on air in a room, until another is or `off_air` is told; False if it is not live."""
        return self.rooms.put_on_air(room, item, at_us)

    def off_air(self, room: int, item: int) -> None:
        """A product is no longer on air."""
        self.rooms.take_off_air(room, item)

    def item_on_air(self, room: int) -> int:
        """The product on air in a room, -1 for none."""
        row = self.rooms.row(room)
        return int(self.rooms.item_idx[row]) if row >= 0 else -1

    def advance(self, now_us: int) -> None:
        """Time passes: views that were over before `now_us` become known, silent rooms end.

        A clock that runs backwards is held: nothing becomes unknown again.
        """
        self.now_us = max(self.now_us, now_us)
        self._learn_dwell(self._views.over(self.now_us))
        self.rooms.end_silent(self.now_us)

    def forget(self, user: int) -> None:
        """Forget everything about one user."""
        self.pairs.forget(user)
        self.actions.forget(user)
        self.shown.forget(user)
        self.rooms.audience.forget(user)
        if user < len(self.last_visit_us):
            self.users.values[user] = 0.0
            self.last_visit_us[user] = NEVER_US
        self._views.forget(user)
        self._entered.forget(user)

    # Events, many at a time.

    def observe_many(self, events: EventBatch, *, received_us: int | None = None) -> None:
        """Take in events, oldest first; an event of another batch may be older.

        Args:
            events: N events.
            received_us: the receiver's clock; events that claim to be later count as of this moment.
        """
        if received_us is not None and (events.timestamp_us > received_us).any():
            columns = {name: getattr(events, name) for name in events.__dataclass_fields__}
            columns["timestamp_us"] = np.minimum(events.timestamp_us, received_us)
            events = EventBatch(**columns)
        events = events.where((events.user_idx >= 0) & (events.user_idx < self.params.max_users))
        if len(events) == 0:
            return
        self._reach_users(int(events.user_idx.max()))
        self._reach_streamers(int(events.streamer_idx.max()))
        self._count_in_rooms(events)
        self._count_items(events)
        self._remember(events)

    def _count_in_rooms(self, events: EventBatch) -> None:
        """Room counters. An event of a room that never started shows that it is live."""
        inside = events.where(events.room_idx >= 0)
        if len(inside) == 0:
            return
        rows = self.rooms.rows(inside.room_idx)
        unseen = np.flatnonzero((rows == -1) & (inside.streamer_idx >= 0))
        if len(unseen):
            for n in unseen.tolist():
                room, at_us = int(inside.room_idx[n]), int(inside.timestamp_us[n])
                if self.rooms.row(room) == -1:
                    self.room_started(room, int(inside.streamer_idx[n]), at_us)
            rows = self.rooms.rows(inside.room_idx)
        live = rows >= 0
        inside, rows = inside.where(live), rows[live]
        self.rooms.hear(rows, inside.timestamp_us)
        column = self._room_column[inside.behaviour]
        product_click = (inside.behaviour == Behaviour.CLICK.code) & (inside.item_idx >= 0)
        column = np.where(product_click, int(RoomCounter.CLICK), column)
        counted = column >= 0
        self.rooms.counters.add(rows[counted], column[counted], inside.timestamp_us[counted])
        came, went = column == RoomCounter.JOIN, column == RoomCounter.LEAVE
        np.add.at(self.rooms.viewers, rows[came], 1.0)
        np.add.at(self.rooms.viewers, rows[went], -1.0)
        if came.any():
            self.rooms.audience.come(rows[came], inside.user_idx[came], inside.timestamp_us[came])
        if went.any():
            self.rooms.audience.go(rows[went], inside.user_idx[went], inside.timestamp_us[went])

    def _count_items(self, events: EventBatch) -> None:
        item = np.where(events.item_idx >= 0, events.item_idx, events.on_air_idx)
        column = self._item_column[events.behaviour]
        # A click on a room is no click on what is on air in it.
        room_click = (events.behaviour == Behaviour.CLICK.code) & (events.item_idx < 0)
        rows = np.flatnonzero((item >= 0) & (column >= 0) & ~room_click)
        if len(rows):
            self.items.grow(int(item.max()) + 1)
            self.items.add(item[rows], column[rows], events.timestamp_us[rows])

    def _remember(self, events: EventBatch) -> None:
        """What the events say of their users, and of the streamers that they met."""
        code = events.behaviour
        met = events.streamer_idx >= 0
        is_shown = met & (code == Behaviour.IMPRESSION.code)
        self._push(self.shown, events.where(is_shown))
        click = (code == Behaviour.CLICK.code) & (events.item_idx >= 0)
        acted = (self._is_action[code] & (met | (events.item_idx >= 0))) | click
        self._push(self.actions, events.where(acted))
        visited = met & (code == self.params.visit.code)
        # A view makes the pair at its start, so that there is a place for its length when it is over.
        related = met & (self._is_action[code] | click | (code == Behaviour.VIEW.code))
        known = events.where(related)
        if len(known):
            rows = self.pairs.touch(known.user_idx, known.streamer_idx)
            kept = rows >= 0
            self._learn_pairs(known.where(kept), rows[kept])
        visits = events.where(visited)
        if len(visits):
            self.users.add(visits.user_idx, 0, visits.timestamp_us)
            np.maximum.at(self.last_visit_us, visits.user_idx, visits.timestamp_us)
            self.streamers.add(visits.streamer_idx, StreamerCounter.VISIT, visits.timestamp_us)
            np.minimum.at(self.first_seen_us, visits.streamer_idx, visits.timestamp_us)
        sold = events.where(met & (code == Behaviour.PURCHASE.code))
        self.streamers.add(sold.streamer_idx, StreamerCounter.PURCHASE, sold.timestamp_us)
        if self.params.length == "view":
            self._views.add(
                events.where(met & (code == Behaviour.VIEW.code) & np.isfinite(events.duration_s))
            )
        elif self.params.leave is not None:
            enters, leaves = self.params.visit.code, self.params.leave.code
            self._learn_dwell(self._entered.pass_on(events, enters=enters, leaves=leaves))

    def _push(self, ring: Recent, events: EventBatch) -> None:
        item = np.where(events.item_idx >= 0, events.item_idx, events.on_air_idx).astype(np.int32)
        ring.push(events.user_idx, events.streamer_idx, item, events.behaviour, events.timestamp_us)

    def _learn_pairs(self, events: EventBatch, rows: LongArray) -> None:
        code, at_us = events.behaviour, events.timestamp_us
        visit = code == self.params.visit.code
        self.pairs.sums.add(rows[visit], PairCounter.VISIT, at_us[visit])
        np.add.at(self.pairs.visits, rows[visit], np.float32(1))
        np.maximum.at(self.pairs.last_us, rows[visit], at_us[visit])
        bought = code == Behaviour.PURCHASE.code
        self.pairs.sums.add(rows[bought], PairCounter.PURCHASE, at_us[bought])
        engaged = self._is_engagement[code]
        self.pairs.sums.add(rows[engaged], PairCounter.ENGAGE, at_us[engaged])
        # Of a pair's several the last one stays.
        says = (code == Behaviour.FOLLOW.code) | (code == Behaviour.HIDE.code)
        self.pairs.relation[rows[says]] = np.where(code[says] == Behaviour.HIDE.code, HIDDEN, FOLLOWS)

    def _learn_dwell(self, over: Lengths) -> None:
        if not len(over):
            return
        rows = self.pairs.find(over.user, over.streamer)
        kept = rows >= 0
        self.pairs.sums.add(rows[kept], PairCounter.DWELL_S, over.over_us[kept], over.dwell_s[kept])
        short = kept & (over.dwell_s < self.params.bounce_s)
        self.pairs.sums.add(rows[short], PairCounter.BOUNCE, over.over_us[short])
        met = over.streamer >= 0
        self.streamers.add(over.streamer[met], StreamerCounter.DWELL_S, over.over_us[met], over.dwell_s[met])
        if self.params.leave is None:
            place = self.rooms.rows(over.room)
            live = place >= 0
            self.rooms.counters.add(place[live], RoomCounter.LEAVE, over.over_us[live])
            np.add.at(self.rooms.viewers, place[live], -1.0)
            self.rooms.audience.go(place[live], over.user[live], over.over_us[live])

    def _reach_users(self, user: int) -> None:
        if user >= len(self.last_visit_us):
            self.actions.grow(user + 1)
            self.shown.grow(user + 1)
            self.users.grow(user + 1)
            more = len(self.users) - len(self.last_visit_us)
            self.last_visit_us = np.concatenate([self.last_visit_us, np.full(more, NEVER_US, dtype=np.int64)])

    def _reach_streamers(self, streamer: int) -> None:
        if streamer >= len(self.first_seen_us):
            self.streamers.grow(streamer + 1)
            more = len(self.streamers) - len(self.first_seen_us)
            unseen = np.full(more, np.iinfo(np.int64).max, dtype=np.int64)
            self.first_seen_us = np.concatenate([self.first_seen_us, unseen])

    # What a bundle carries.

    def to_parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state as arrays by name, such that `from_parts` gives the same state."""
        parts: dict[str, npt.NDArray[np.generic]] = {**self.rooms.to_parts(), **self.pairs.to_parts()}
        for name in ("users", "streamers", "items"):
            sums: DecayedSums = getattr(self, name)
            parts[name] = sums.values
            parts[f"{name}_landmark_us"] = np.array([sums.landmark_us], dtype=np.int64)
        for name in ("actions", "shown"):
            ring: Recent = getattr(self, name)
            for column in ("streamer_idx", "item_idx", "behaviour", "at_us", "count"):
                parts[f"{name}_{column}"] = getattr(ring, column)
        parts["last_visit_us"] = self.last_visit_us
        parts["first_seen_us"] = self.first_seen_us
        parts |= self._views.to_parts() | self._entered.to_parts()
        parts["now_us"] = np.array([self.now_us], dtype=np.int64)
        return parts

    @classmethod
    def from_parts(cls, params: StateParams, parts: Mapping[str, npt.NDArray[np.generic]]) -> LiveState:
        """A state of its own from what `to_parts` gave; the arrays are copied, for they may be read-only."""
        state = cls(params)
        state.rooms.load_parts(parts)
        state.pairs.load_parts(parts)
        for name in ("users", "streamers", "items"):
            sums: DecayedSums = getattr(state, name)
            sums.values = np.array(parts[name], dtype=np.float64)
            sums.landmark_us = int(parts[f"{name}_landmark_us"][0])
        for name in ("actions", "shown"):
            ring: Recent = getattr(state, name)
            for column in ("streamer_idx", "item_idx", "behaviour", "at_us", "count"):
                setattr(ring, column, np.array(parts[f"{name}_{column}"]))
        state.last_visit_us = np.array(parts["last_visit_us"], dtype=np.int64)
        state.first_seen_us = np.array(parts["first_seen_us"], dtype=np.int64)
        state._views.load_parts(parts)
        state._entered.load_parts(parts)
        state.now_us = int(parts["now_us"][0])
        return state
