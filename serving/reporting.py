"""What changes by the moment, reported to a process: products, live rooms, what users do, who is forgotten.

Reports take turns, and each is visible to every request that begins after the call returns.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from recsys.bundle import MAX_BYTES
from recsys.data.ids import id_key
from recsys.data.tombstones import forgotten as read_forgotten
from recsys.data.tombstones import put_on_list, tombstone
from recsys.durations import SECOND_US
from recsys.types import Behaviour, Event, ExternalId
from serving.answer import RequestError
from serving.bitmap import Bitmap
from serving.decisions import DecisionLog
from serving.loaded import LoadedBundle
from serving.products import Asker
from serving.reports import Aired, EndedRoom, ForgottenUser, ItemReport, LiveRoom, Observed, Report
from serving.rooms import RoomJournal, RoomService
from serving.state import Action, Facts, FreshActions

#: The longest that an event may last: a year.
MAX_DURATION_S = 366 * 86_400
#: How far from the epoch a moment may be, in seconds: what 64 bits hold of microseconds, and of differences.
_MOMENTS_S = 9.0e12


@dataclass(frozen=True)
class Current:
    """The bundle in use, which of its items can be had, and its live state; replaced as one."""

    loaded: LoadedBundle
    available: Bitmap
    rooms: RoomService


class Reporting:
    """Takes in reports and applies them to the bundle in use; every method may be called from any thread.

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
        self._listener: Callable[[Report], None] | None = None
        self._previous: LoadedBundle | None = None
        self._current = self._serving(loaded)
        self.reread_forgotten()

    # -- reports --------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        """Takes in what a user has just done; the user's next answer knows it.

        Events without a product or on an unknown one, impressions, repeats of an event and events from the
        future are counted (see `counts`) and change nothing.

        Raises:
            RequestError: the behaviour is none of the log contract's, or a time or length is none.
        """
        event = _checked(event)
        self._count("observed")
        if self._see(event) and self._listener is not None:
            self._listener(Observed(event))

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
        self._report(LiveRoom(room_id, streamer_id, self._reported_us(at), category))

    def room_ended(self, room_id: ExternalId) -> None:
        """Says that a room is over: it is in no answer from now on, whatever events still come."""
        self._report(EndedRoom(room_id))

    def on_air(self, room_id: ExternalId, item_id: ExternalId, *, at: datetime | None = None) -> None:
        """Says which product is shown in a live room, until another is or `off_air` is told.

        Raises:
            RequestError: `at` is no time or in the future.
        """
        self._report(Aired(room_id, item_id, self._reported_us(at)))

    def off_air(self, room_id: ExternalId, *, at: datetime | None = None) -> None:
        """Says that a live room shows no product, until one is on air again.

        Raises:
            RequestError: `at` is no time or in the future.
        """
        self._report(Aired(room_id, None, self._reported_us(at)))

    def stock_changed(self, item_id: ExternalId, units: float) -> None:
        """Says how many units of a product are left; at 0 or below it is in no answer from now on.

        Raises:
            RequestError: the number of units is none.
        """
        given: object = units
        if not isinstance(given, int | float | np.integer | np.floating) or given != given:
            raise RequestError(f"units={units!r} of product {item_id!r}: give a number")
        self._report(ItemReport(item_id, units=float(min(max(units, -1.0), 1e18))))

    def item_listed(self, item_id: ExternalId, *, listed: bool = True) -> None:
        """Says whether a product is for sale."""
        self._report(ItemReport(item_id, listed=listed))

    def item_blocked(self, item_id: ExternalId, *, blocked: bool = True) -> None:
        """Says whether a product must not be shown, whatever its stock."""
        self._report(ItemReport(item_id, blocked=blocked))

    def forget(self, user_id: ExternalId) -> None:
        """Removes a person for good: from this process and its log, and from every bundle beside this one.

        The tombstone lies beside the bundles and outlives them. Other processes that follow the folder, or
        share their state, obey it when they next look.

        Raises:
            DataError: a file of the decision log cannot be read; the person is forgotten everywhere else.
            OSError: the tombstone cannot be written: until it is, a restart brings the person back.
        """
        self._report(ForgottenUser(user_id))
        self._clean_log(user_id)

    def listen(self, listener: Callable[[Report], None] | None) -> None:
        """Has every report that changes something told to one listener; None ends it.

        It is told in the order in which reports take effect, events aside, and may only make a note of it:
        the next report waits meanwhile.
        """
        with self._writing:
            self._listener = listener

    def take_in(self, report: Report, *, provided: Callable[[], bool] | None = None) -> bool:
        """Takes in what was reported to another process; the listener is not told.

        Args:
            report: what. An event that the bundle's own log holds changes nothing.
            provided: asked while no other report can come between; False leaves the report out.

        Returns:
            whether it was taken in.

        Raises:
            RequestError: as the call that it was reported by.
        """
        if isinstance(report, Observed):
            event = _checked(report.event)
            return _to_us(event.timestamp) > self._current.loaded.catalogue.as_of_us and self._see(event)
        with self._writing:
            if provided is not None and not provided():
                return False
            self._apply(report)
        if isinstance(report, ForgottenUser):
            self._clean_log(report.user_id)
        return True

    def reread_forgotten(self) -> None:
        """Reads the list of forgotten people again: other processes write to it too."""
        marks = read_forgotten(self.path.parent)
        if marks - self._forgotten:
            with self._writing:
                self._obey(marks)

    @property
    def forgotten(self) -> frozenset[str]:
        """The tombstones of everybody whom this process knows to be forgotten."""
        return self._forgotten

    def remember_forgotten(self, marks: frozenset[str]) -> None:
        """Puts people who were forgotten elsewhere on the list beside the bundles, by their tombstones."""
        with self._writing:
            new = marks - self._forgotten
            self._obey(marks)
            for mark in sorted(new):
                put_on_list(self.path.parent, mark)

    @property
    def path(self) -> Path:
        """Directory of the bundle in use."""
        return self._current.loaded.bundle.path

    # -- inside ---------------------------------------------------------------------------------------------

    def _in_use(self) -> tuple[Current, ...]:
        """What reports take effect in: the bundle that answers, first."""
        return (self._current,)

    def _serving(self, loaded: LoadedBundle) -> Current:
        """A bundle with all reports applied to it."""
        available = loaded.in_stock.copy()
        for item, facts in self._facts:
            index = loaded.catalogue.items.get(item)
            if index >= 0:
                available.put(index, facts.available(index in loaded.in_stock))
        return Current(loaded, available, RoomService.of(loaded.catalogue, loaded.rooms, self._journal))

    def _report(self, report: Report) -> None:
        with self._writing:
            self._apply(report)
            if self._listener is not None:
                self._listener(report)

    def _apply(self, report: Report) -> None:
        """A report takes effect; the caller holds `_writing`."""
        if isinstance(report, ItemReport):
            self._item(report)
        elif isinstance(report, LiveRoom):
            self._started(report)
        elif isinstance(report, EndedRoom):
            self._journal.over(report.room_id)
            for current in self._in_use():
                current.rooms.ended(report.room_id)
        elif isinstance(report, Aired):
            if self._journal.on_air(report):
                live = [current.rooms.on_air(report) for current in self._in_use()]
                self._count("on_air_in_no_live_room", times=not live[0])
        elif isinstance(report, ForgottenUser):
            self._forget(report.user_id)

    def _see(self, event: Event) -> bool:
        """An event takes effect, or is counted as one that has none: False."""
        at_us = _to_us(event.timestamp)
        if self._is_future(at_us):
            self._count("future_event")
            return False
        # A sender's clock may be a little ahead; what has not happened here yet would count as more than one.
        at_us = min(at_us, self._clock_us())
        self._log_time_reaches(at_us)
        loaded = self._current.loaded
        if self._asker(loaded, event.user_id, personalised=True).why_not is not None:
            self._count("not_kept")  # the person is forgotten or has opted out
            return False
        in_room = event.room_id is not None or event.streamer_id is not None
        if in_room:
            with self._writing:
                if self._is_forgotten(event.user_id):  # since the look above
                    return False
                if not self._journal.observed(event, at_us):
                    self._count("repeated_event")
                    return False
                for current in self._in_use():
                    current.rooms.observe(event, at_us)
        if event.item_id is None or event.event is Behaviour.IMPRESSION:
            return in_room
        if all(current.loaded.catalogue.items.get(event.item_id) < 0 for current in self._in_use()):
            self._count("unknown_item")
            return True  # a process with another bundle may know it
        action = Action(at_us, id_key(event.item_id), event.event, event.duration_s)
        if not self._fresh.add(id_key(event.user_id), action):
            self._count("repeated_event")
            return in_room
        if self._is_forgotten(event.user_id):  # since the look above
            self._fresh.forget(id_key(event.user_id))
            return False
        return True

    def _item(self, report: ItemReport) -> None:
        key = id_key(report.item_id)
        facts = self._facts.report(key, units=report.units, listed=report.listed, blocked=report.blocked)
        if not self._is_known(key):
            self._facts.is_unknown(key, known=self._is_known)
        for current in self._in_use():
            index = current.loaded.catalogue.items.get(report.item_id)
            if index >= 0:
                current.available.put(index, facts.available(index in current.loaded.in_stock))

    def _is_known(self, item: str) -> bool:
        return any(current.loaded.catalogue.items.get(item) >= 0 for current in self._in_use())

    def _started(self, room: LiveRoom) -> None:
        self._journal.started(room)
        aired = self._journal.aired.get(id_key(room.room_id))
        for current in self._in_use():
            current.rooms.started(room)
            if aired is not None:  # reported before the room was
                current.rooms.on_air(aired)

    def _forget(self, user_id: ExternalId) -> None:
        """Nothing of a person is used or kept from here on; the caller holds `_writing`."""
        mark = tombstone(user_id)
        self._forgotten |= {mark}
        self._drop(user_id)
        for folder in {current.loaded.bundle.path.parent for current in self._in_use()}:
            put_on_list(folder, mark)

    def _drop(self, user_id: ExternalId) -> None:
        """Drops what was reported of a person."""
        self._fresh.forget(id_key(user_id))
        self._journal.forget(user_id)
        for current in self._in_use():
            current.rooms.forget(user_id)

    def _clean_log(self, user_id: ExternalId) -> None:
        """Not under `_writing`: a long log takes seconds to read, and reports go on meanwhile."""
        if self._decisions is not None:
            self._decisions.forget(user_id)

    def _obey(self, marks: frozenset[str]) -> None:
        """Takes in who was forgotten elsewhere, by tombstone; the caller holds `_writing`."""
        new = marks - self._forgotten
        self._forgotten |= new
        if new:
            for user in {*self._fresh.users(), *self._journal.users()}:
                if tombstone(user) in new:
                    self._drop(user)
            if self._decisions is not None:
                self._decisions.obey(self._forgotten)

    def _carry_forgotten(self, folder: Path) -> None:
        """Has a bundle's folder know whom this process knows, and the other way; `_writing` is held."""
        there = read_forgotten(folder)
        self._obey(there)
        for mark in sorted(self._forgotten - there):
            put_on_list(folder, mark)

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
        return round(self._clock() * SECOND_US)

    def _is_future(self, at_us: int) -> bool:
        return at_us > self._clock_us() + self._future_tolerance_s * SECOND_US

    def _is_forgotten(self, user_id: ExternalId) -> bool:
        return bool(self._forgotten) and tombstone(user_id) in self._forgotten

    def _at_us(self, loaded: LoadedBundle, now: float | None) -> int:
        if now is not None:
            if not isinstance(now, int | float | np.integer | np.floating) or not abs(now) < _MOMENTS_S:
                raise RequestError(f"now={now!r}: give seconds since the epoch")
            return round(now * SECOND_US)
        return max(loaded.catalogue.as_of_us, self._newest_us)

    def _count(self, what: str, *, times: int = 1) -> None:
        if times:
            with self._counting:
                self._counts[what] += times


def _to_us(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * SECOND_US)


def _checked(event: Event) -> Event:
    """The event with its behaviour as a member, for callers who spell it as text."""
    name: object = event.event
    if not isinstance(event.timestamp, datetime):
        raise RequestError(f"timestamp {event.timestamp!r}: give a datetime")
    length: object = event.duration_s
    if length is not None and not (
        isinstance(length, int | float | np.integer | np.floating) and 0 <= length <= MAX_DURATION_S
    ):
        raise RequestError(f"duration_s {length!r}: give seconds, from 0 to {MAX_DURATION_S:,}")
    if isinstance(name, Behaviour):
        return event
    if name not in set(Behaviour):
        raise RequestError(f"event {name!r} is not one of {', '.join(Behaviour)}")
    return replace(event, event=Behaviour(str(name)))
