"""The recommender of a live-room backend: products, rooms and hot items, in process.

A request reads one pointer to the bundle and one copy of what is available, and needs no lock. Reports and
swaps take turns; a report is visible to every request that begins after the call returns.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from recsys.bundle import MAX_BYTES
from recsys.data.ids import id_key
from recsys.data.tombstones import forget as write_tombstone
from recsys.data.tombstones import forgotten, tombstone
from recsys.types import Behaviour, Event, ExternalId
from serving import products
from serving.answer import Answer, RequestError
from serving.bitmap import Bitmap
from serving.decisions import Decision, DecisionLog
from serving.diversity import Shape
from serving.loaded import LoadedBundle
from serving.products import Asker, Filters
from serving.reload import Follower
from serving.rooms import LiveRoom, RoomJournal, RoomService
from serving.state import Action, Facts, FreshActions

_SECOND_US = 1_000_000


@dataclass(frozen=True)
class _Current:
    """The bundle in use, which of its items can be had, and its live state; replaced as one."""

    loaded: LoadedBundle
    available: Bitmap
    rooms: RoomService


class Recommender:
    """Answers from one bundle at a time; every method may be called from any thread.

    Args:
        loaded: the bundle to begin with.
        max_bytes: the most that a bundle's files may take.
        future_tolerance_s: an observed event that is further ahead of the clock than this is not believed.
        clock: seconds since the epoch.
        decisions: where answers to users are logged, if anywhere; who opened it closes it.
    """

    def __init__(
        self,
        loaded: LoadedBundle,
        *,
        decisions: DecisionLog | None = None,
        max_bytes: int = MAX_BYTES,
        future_tolerance_s: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_bytes = max_bytes
        self._future_tolerance_s = future_tolerance_s
        self._clock = clock
        self._decisions = decisions
        self._writing = threading.Lock()  # one report, swap or roll-back at a time
        self._swapping = threading.Lock()  # one bundle is read at a time, while reports go on
        self._facts = Facts()
        self._fresh = FreshActions()
        self._journal = RoomJournal()
        self._forgotten: frozenset[str] = frozenset()
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._newest_us = 0
        self._previous: LoadedBundle | None = None
        self._current = self._serving(loaded)
        self.reread_forgotten()

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        decisions: DecisionLog | None = None,
    ) -> Self:
        """A recommender that answers from the bundle at `path`.

        Args:
            path: a bundle's directory.
            max_bytes: the most that its files may take.
            clock: seconds since the epoch; it is only used to tell events of the future.
            decisions: where answers to users are logged, if anywhere.

        Raises:
            BundleRefused: damaged, mixed, of an unknown format, or unfit to answer; `reason` says which.
        """
        loaded = LoadedBundle.open(path, max_bytes=max_bytes)
        return cls(loaded, max_bytes=max_bytes, clock=clock, decisions=decisions)

    # -- requests -------------------------------------------------------------------------------------------

    def products(
        self,
        user_id: ExternalId,
        *,
        k: int = 20,
        repeat: bool | None = None,
        allow: Iterable[ExternalId] | None = None,
        deny: Iterable[ExternalId] = (),
        category: str | None = None,
        price: tuple[float | None, float | None] | None = None,
        max_per_category: int | None = None,
        diversity: float = 0.0,
        personalised: bool = True,
        now: float | None = None,
    ) -> Answer:
        """The best k products for a user, among those that can be had right now.

        Args:
            user_id: as the log spells it; an unknown one gets what is popular, and the answer says so.
            k: how many, at least 1.
            repeat: whether what the user consumed before may return; None is as training found it better.
            allow: only these products; ids that the bundle does not know are passed over.
            deny: none of these products.
            category: only products of this category.
            price: only products that cost from the first to the second; None is no bound.
            max_per_category: at most so many products of one category.
            diversity: from 0, the order of the scores, to 1, what is least like the products above it; see
                `serving.diversity`. A product may then score less than one below it.
            personalised: False answers without using anything of this user.
            now: the moment of asking, seconds since the epoch; None is the time of the log: the latest of
                the bundle's own moment and all observed events, so that a replay needs no clock.

        Raises:
            RequestError: k, `now`, max_per_category or diversity outside its range.
        """
        products.check_k(k)
        shape = Shape(max_per_category, diversity)
        current = self._current
        at_us = self._at_us(current.loaded, now)
        answer = products.for_user(
            current.loaded,
            current.available,
            self._asker(current.loaded, user_id, personalised),
            Filters(allow, deny, category, price),
            shape,
            k=k,
            repeat=repeat,
            at_us=at_us,
        )
        return self._shown("products", user_id, at_us, answer)

    def rooms(
        self,
        user_id: ExternalId,
        *,
        k: int = 10,
        personalised: bool = True,
        explore: bool = True,
        now: float | None = None,
    ) -> Answer:
        """The best k rooms for a user, among those that are live right now.

        Args:
            user_id: as the log spells it.
            k: how many, at least 1.
            personalised: False answers without using anything of this user.
            explore: whether streamers new to the user, or to everybody, have their share of the list; see
                `recsys.rooms.explore`. A room that is there for it may score less than one below.
            now: the moment of asking, seconds since the epoch, which must not run backwards; None is the
                time of the log, as for `products`.

        Raises:
            RequestError: k is no whole number of at least 1, or `now` none or in the future.
        """
        products.check_k(k)
        current = self._current
        loaded, available = current.loaded, current.available
        why_not, at_us = self._asker(loaded, user_id, personalised).why_not, self._live_us(loaded, now)
        entries, known, live = current.rooms.rank(
            user_id if why_not is None else None,
            k=k,
            now_us=at_us,
            available=lambda item: item in available,
            explore=explore,
        )
        if why_not is None and not known:
            why_not = "unknown user"
        fallback = None if why_not is None else f"popular: {why_not}"
        answer = Answer(tuple(entries), loaded.version, fallback, _shortfall(len(entries), k, live))
        return self._shown("rooms", user_id, at_us, answer)

    def next_products(
        self,
        room_id: ExternalId,
        *,
        k: int = 5,
        allow: Iterable[ExternalId] | None = None,
        deny: Iterable[ExternalId] = (),
        category: str | None = None,
        now: float | None = None,
    ) -> Answer:
        """What a live room should pitch next for those who are in it now: products that can be had.

        It is the same for a human host, who reads the reasons, and a virtual one, which takes the first.
        The viewers' own lists vote; the product on air is left out. Where nobody in the room is known the
        answer is what is popular, and says so.

        Args:
            room_id: a live room.
            k: how many, at least 1.
            allow: only these products: the line-up of the host, say.
            deny: none of these.
            category: only products of this category.
            now: as for `rooms`.

        Raises:
            RequestError: k is no whole number of at least 1, `now` is none or in the future, or the room is
                not live.
        """
        products.check_k(k)
        current = self._current
        loaded, at_us = current.loaded, self._live_us(current.loaded, now)
        there = current.rooms.audience(room_id, now_us=at_us)
        if there is None:
            raise RequestError(f"room {room_id!r} is not live; report room_started first")
        viewers, on_air = there
        denied = deny if on_air is None else (*deny, on_air)
        return self._counted(
            products.for_audience(
                loaded,
                current.available,
                [self._asker(loaded, viewer, personalised=True) for viewer in viewers],
                Filters(allow, denied, category),
                k=k,
                at_us=at_us,
            )
        )

    def hot(self, *, k: int = 20) -> Answer:
        """The k products most likely to become hot that can be had; the facts hold interval and grade.

        Raises:
            NotServed: the bundle has no hot list.
            RequestError: k is no whole number of at least 1.
        """
        products.check_k(k)
        current = self._current
        return products.hottest(current.loaded, current.available, k=k)

    def similar(self, item_id: ExternalId, *, k: int = 20) -> Answer:
        """The k products that go with a product, or what is popular for one that the bundle does not know.

        Raises:
            RequestError: k is no whole number of at least 1.
        """
        products.check_k(k)
        current = self._current
        return self._counted(products.beside(current.loaded, current.available, item_id, k=k))

    # -- reports --------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        """Takes in what a user has just done; the user's next answer knows it.

        Events without a product or on an unknown one, impressions, repeats of an event and events from the
        future are counted (see `counts`) and change nothing.

        Raises:
            RequestError: the behaviour is none of the log contract's, or a time or length is none.
        """
        event = _checked(event)
        at_us = _to_us(event.timestamp)
        self._count("observed")
        if self._is_future(at_us):
            self._count("future_event")
            return
        # A sender's clock may be a little ahead; what has not happened here yet would count as more than one.
        at_us = min(at_us, self._clock_us())
        self._log_time_reaches(at_us)
        loaded = self._current.loaded
        if self._asker(loaded, event.user_id, personalised=True).why_not is not None:
            self._count("not_kept")  # the person is forgotten or has opted out
            return
        if event.room_id is not None or event.streamer_id is not None:
            with self._writing:
                if not self._journal.observed(event, at_us):
                    self._count("repeated_event")
                    return
                self._current.rooms.observe(event, at_us)
        if event.item_id is None or event.event is Behaviour.IMPRESSION:
            return
        if loaded.catalogue.items.get(event.item_id) < 0:
            self._count("unknown_item")
            return
        action = Action(at_us, id_key(event.item_id), event.event)
        if not self._fresh.add(id_key(event.user_id), action):
            self._count("repeated_event")

    def room_started(
        self,
        room_id: ExternalId,
        streamer_id: ExternalId,
        *,
        category: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Says that a room is live since `at`: UTC where it has no zone, None is the time of the log.

        Raises:
            RequestError: an id is None, or `at` is no time or in the future.
        """
        for name, value in (("room_id", room_id), ("streamer_id", streamer_id)):
            if value is None:
                raise RequestError(f"room_started: {name} is None")
        at_us = self._reported_us(at)
        with self._writing:
            room = LiveRoom(room_id, streamer_id, at_us, category)
            self._journal.started(room)
            self._current.rooms.started(room)

    def room_ended(self, room_id: ExternalId) -> None:
        """Says that a room is over: it is in no answer from now on, whatever events still come."""
        with self._writing:
            self._journal.over(room_id)
            self._current.rooms.ended(room_id)

    def on_air(self, room_id: ExternalId, item_id: ExternalId, *, at: datetime | None = None) -> None:
        """Says which product is shown in a live room, until another is.

        Raises:
            RequestError: `at` is no time or in the future.
        """
        at_us = self._reported_us(at)
        with self._writing:
            self._journal.on_air(room_id, item_id, at_us)
            if not self._current.rooms.on_air(room_id, item_id, at_us):
                self._count("on_air_in_no_live_room")

    def stock_changed(self, item_id: ExternalId, units: float) -> None:
        """Says how many units of a product are left; at 0 or below it is in no answer from now on.

        Raises:
            RequestError: the number of units is none.
        """
        if not isinstance(units, int | float | np.number) or np.isnan(units):
            raise RequestError(f"units={units!r} of product {item_id!r}: give a number")
        self._report(item_id, units=float(units))

    def item_listed(self, item_id: ExternalId, *, listed: bool = True) -> None:
        """Says whether a product is for sale."""
        self._report(item_id, listed=listed)

    def item_blocked(self, item_id: ExternalId, *, blocked: bool = True) -> None:
        """Says whether a product must not be shown, whatever its stock."""
        self._report(item_id, blocked=blocked)

    def forget(self, user_id: ExternalId) -> None:
        """Removes a person for good: from this process now, and from every bundle beside this one.

        The tombstone lies beside the bundles and outlives them.
        """
        with self._writing:
            mark = write_tombstone(self.path.parent, user_id)
            self._forgotten |= {mark}
            self._fresh.forget(id_key(user_id))
            self._journal.forget(user_id)
            self._current.rooms.forget(user_id)
            if self._decisions is not None:
                self._decisions.forget(user_id)

    def reread_forgotten(self) -> None:
        """Reads the list of forgotten people again: other processes write to it too."""
        with self._writing:
            self._forgotten |= forgotten(self.path.parent)

    # -- bundles --------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Model version of the bundle in use."""
        return self._current.loaded.version

    @property
    def path(self) -> Path:
        """Directory of the bundle in use."""
        return self._current.loaded.bundle.path

    @property
    def n_items(self) -> int:
        """Products that the bundle in use knows."""
        return self._current.loaded.n_items

    @property
    def item_id_type(self) -> pa.DataType:
        """The Arrow type that the log held the products' ids in."""
        return self._current.loaded.catalogue.items.id_type

    @property
    def counts(self) -> Mapping[str, int]:
        """How often what happened: requests by fallback, observed, unknown, repeated and future events."""
        return dict(self._counts)

    def swap(self, path: Path | str) -> str:
        """Takes another bundle into use and returns its version; requests in flight finish on the old one.

        Raises:
            BundleRefused: as `load`; the old bundle goes on.
        """
        with self._swapping:
            loaded = LoadedBundle.open(path, max_bytes=self._max_bytes)
            with self._writing:
                self._forgotten |= forgotten(loaded.bundle.path.parent)
                self._previous = self._current.loaded
                self._current = self._serving(loaded)
        return loaded.version

    def rollback(self) -> str:
        """Goes back to the bundle before the last swap and returns its version.

        Raises:
            RequestError: there was no swap.
        """
        with self._swapping, self._writing:
            if self._previous is None:
                raise RequestError("rollback: there is no bundle before this one; swap comes first")
            before, self._previous = self._previous, self._current.loaded
            self._current = self._serving(before)
            return before.version

    def watch(self, directory: Path | str, *, interval_s: float = 2.0) -> Follower:
        """Follows the directory's CURRENT pointer from a thread; `stop()` on what comes back ends it."""
        return Follower(self, directory, interval_s=interval_s).start()

    # -- inside ---------------------------------------------------------------------------------------------

    def _serving(self, loaded: LoadedBundle) -> _Current:
        """A bundle with all reports applied to it."""
        available = loaded.in_stock.copy()
        for item, facts in self._facts:
            index = loaded.catalogue.items.get(item)
            if index >= 0:
                available.put(index, facts.available(index in loaded.in_stock))
        return _Current(loaded, available, RoomService.of(loaded.catalogue, loaded.rooms, self._journal))

    def _report(
        self,
        item_id: ExternalId,
        *,
        units: float | None = None,
        listed: bool | None = None,
        blocked: bool | None = None,
    ) -> None:
        with self._writing:
            facts = self._facts.report(id_key(item_id), units=units, listed=listed, blocked=blocked)
            loaded = self._current.loaded
            index = loaded.catalogue.items.get(item_id)
            if index >= 0:
                self._current.available.put(index, facts.available(index in loaded.in_stock))

    def _asker(self, loaded: LoadedBundle, user_id: ExternalId, personalised: bool) -> Asker:
        if not personalised:
            return Asker(-1, (), "asked for without personalisation")
        if self._is_forgotten(user_id):
            return Asker(-1, (), "unknown user")
        user_idx = loaded.catalogue.users.get(user_id)
        if user_idx >= 0 and not loaded.catalogue.personalised[user_idx]:
            return Asker(-1, (), "the user has opted out")
        return Asker(user_idx, self._fresh.of(id_key(user_id)))

    def _log_time_reaches(self, at_us: int) -> None:
        with self._counting:
            self._newest_us = max(self._newest_us, at_us)

    def _reported_us(self, at: datetime | None) -> int:
        if at is None:
            return self._at_us(self._current.loaded, None)
        if not isinstance(at, datetime):
            raise RequestError(f"at={at!r}: give a datetime")
        at_us = _to_us(at)
        if self._is_future(at_us):
            raise RequestError(f"at={at}: that is in the future")
        at_us = min(at_us, self._clock_us())
        self._log_time_reaches(at_us)
        return at_us

    def _clock_us(self) -> int:
        return round(self._clock() * _SECOND_US)

    def _is_future(self, at_us: int) -> bool:
        return at_us > self._clock_us() + self._future_tolerance_s * _SECOND_US

    def _is_forgotten(self, user_id: ExternalId) -> bool:
        return bool(self._forgotten) and tombstone(user_id) in self._forgotten

    def _live_us(self, loaded: LoadedBundle, now: float | None) -> int:
        """The moment of a request for live rooms: their time passes with it, and cannot be taken back."""
        at_us = self._at_us(loaded, now)
        if now is not None and self._is_future(at_us):
            raise RequestError(f"now={now!r}: that is in the future; give seconds since the epoch")
        return at_us

    def _at_us(self, loaded: LoadedBundle, now: float | None) -> int:
        if now is not None:
            if not isinstance(now, int | float | np.number) or not np.isfinite(now):
                raise RequestError(f"now={now!r}: give seconds since the epoch")
            return round(now * _SECOND_US)
        return max(loaded.catalogue.as_of_us, self._newest_us)

    def _shown(self, call: str, user_id: ExternalId, at_us: int, answer: Answer) -> Answer:
        if self._decisions is not None and not self._is_forgotten(user_id):
            self._decisions.add(Decision(call, user_id, at_us, answer))
        return self._counted(answer)

    def _counted(self, answer: Answer) -> Answer:
        self._count("answered")
        if answer.fallback is not None:
            self._count("fallback")
        return answer

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1


def _to_us(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * _SECOND_US)


def _shortfall(shown: int, k: int, live: int) -> str | None:
    if shown == k:
        return None
    return "no room is live" if live == 0 else f"only {live} room{'s are' if live > 1 else ' is'} live"


def _checked(event: Event) -> Event:
    """The event with its behaviour as a member, for callers who spell it as text."""
    name: object = event.event
    if not isinstance(event.timestamp, datetime):
        raise RequestError(f"timestamp {event.timestamp!r}: give a datetime")
    length: object = event.duration_s
    if length is not None and not (isinstance(length, int | float | np.number) and float(length) >= 0):
        raise RequestError(f"duration_s {length!r}: give seconds, 0 or more")
    if isinstance(name, Behaviour):
        return event
    if name not in set(Behaviour):
        raise RequestError(f"event {name!r} is not one of {', '.join(Behaviour)}")
    return replace(event, event=Behaviour(str(name)))
