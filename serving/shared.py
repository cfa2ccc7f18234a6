"""Several processes that answer from one state: what is reported to one, the others hear through Redis.

A report takes effect at once where it was made, and milliseconds later in the others, as they read it. It
waits for nobody: one thread writes what was reported to the shared log, another follows the log.

- What comes twice counts once: messages are numbered, and a process passes its own over.
- Of reports on one subject (a room's life, what it shows, a product's stock) the later one counts, however
  they arrive. "Later" is by the clocks of the processes that they were made to: keep these together (NTP).
- Redis gone: requests go on from what is known, reports wait in a bounded box until it is back, and `stats`
  says how old the news is. Redis back and empty: every process writes again what it knows to be settled.
- A process that starts reads what is settled, then the stream from its beginning; one that was cut off goes
  on from its place. Where the stream was trimmed beyond that place, what is settled is read again: no room
  and no stock is wrong, but events are lost, and `gaps` counts it.
- A forked process follows by itself, over connections of its own, from the state that it inherits.

Memory of a process: the latest message of `max_subjects` subjects, 500 bytes each, and what waits in the box.
In Redis: `max_messages` of some 300 bytes, no older than `max_age_s`, and 500 bytes a subject.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from pydantic import Field

from recsys.errors import DataError, RecsysError
from recsys.types import Params
from serving.forks import tell_of_forks
from serving.ordering import Arrivals, Latest
from serving.outbox import Outbox
from serving.redis_log import START, LogError, RedisLog
from serving.reporting import Reporting
from serving.reports import ForgottenUser, Message, Observed, Report, decode

_log = logging.getLogger(__name__)
_AT_ONCE = 256
_TRIM_EVERY_S = 60.0


class SharedParams(Params):
    """How much is kept for others, and how long.

    Attributes:
        max_messages: length that the stream is trimmed to, about.
        max_age_s: age at which a message leaves the stream, checked every minute; also the longest that the
            stream holds an event, or the id of somebody who is forgotten.
        max_subjects: subjects whose latest report is kept here, in Redis, and among what waits.
        max_waiting_events: events that wait for Redis at most; the oldest are dropped and counted.
        future_tolerance_s: a report that claims to be further ahead of the clock here counts as of so much.
        block_s: how long a follower waits for news at a time.
        timeout_s: how long Redis may take to answer.
        most_backoff_s: the longest pause between two attempts to reach Redis.
    """

    max_messages: int = Field(default=200_000, ge=1)
    max_age_s: float = Field(default=6 * 3600.0, gt=0)
    max_subjects: int = Field(default=500_000, ge=1)
    max_waiting_events: int = Field(default=50_000, ge=0)
    future_tolerance_s: float = Field(default=5.0, ge=0)
    block_s: float = Field(default=0.5, gt=0)
    timeout_s: float = Field(default=2.0, gt=0)
    most_backoff_s: float = Field(default=2.0, gt=0)


@dataclass(frozen=True, slots=True)
class SharedStats:
    """How the sharing goes.

    Attributes:
        connected: whether the last word from Redis was a good one.
        stale_s: seconds since all that the others had written was known here; infinite before the first time.
        waiting: messages that wait to be sent.
        lost: messages that were dropped because too many waited, or that cannot be written as JSON.
        sent, applied: messages of this process, and of others.
        repeated: events that came twice.
        without_effect: messages that a later report has overtaken, or that change nothing here.
        unreadable: messages that are none, are of a later version of this library, or could not be applied.
        gaps: how often messages were gone, trimmed or lost by Redis, before they were read.
    """

    connected: bool
    stale_s: float
    waiting: int
    lost: int
    sent: int
    applied: int
    repeated: int
    without_effect: int
    unreadable: int
    gaps: int


class SharedState:
    """Shares what is reported to a recommender with the processes that use the same Redis and name.

    Args:
        recommender: whose reports are shared; it answers from its own memory as before.
        url: of Redis: `redis://`, `rediss://` or `unix://`.
        name: processes with the same name share.
        params: bounds.
        clock: seconds since the epoch, by which of two reports the later one is told.

    Needs the extra `redis`. Following begins with `start`, or as a context.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(
        self,
        recommender: Reporting,
        url: str,
        *,
        name: str = "recsys",
        params: SharedParams | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._recommender = recommender
        self._url = url
        self._name = name
        self._params = params or SharedParams()
        self._clock = clock
        self._latest = Latest(self._params.max_subjects)  # changed under the recommender's lock only
        self._arrivals = Arrivals()
        self._applying = threading.Lock()  # held while messages take effect, and across a fork
        self._position = START
        self._epoch = ""
        self._level_s = -math.inf
        self._running = False
        self._connect().close()  # a URL that is none is an error now, and a Redis that is gone is not
        self._renew()

    def _renew(self) -> None:
        """A new origin with nothing of its own under way: at the beginning, and in a forked process."""
        self._origin = uuid.uuid4().hex[:16]
        self._numbering = threading.Lock()
        self._number = 0
        self._newest_us = 0
        self._outbox = Outbox(
            max_reports=self._params.max_subjects, max_events=self._params.max_waiting_events
        )
        self._in_hand: list[Message] = []
        self._counts: Counter[str] = Counter()
        self._levels = 0
        self._level = threading.Condition()
        self._stop = threading.Event()
        self._connected = False
        self._threads: list[threading.Thread] = []

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begins to write and to follow, from threads; after a `stop` it goes on from its place."""
        if not self._running:
            self._running = True
            self._stop.clear()
            tell_of_forks(self)
            self._recommender.listen(self._note)
            self._begin()
        return self

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Sends what waits, if Redis is there to take it within the time, and ends the threads."""
        if not self._running:
            return
        self._running = False
        self._recommender.listen(None)
        end_s = time.monotonic() + timeout_s
        while self._waiting() and self._connected and time.monotonic() < end_s:
            self._stop.wait(0.01)
        self._stop.set()
        self._outbox.wake()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_until_level(self, timeout_s: float) -> bool:
        """Waits until all that the others had written by now is known here; False where it takes too long."""
        with self._level:
            asked = self._levels
            # The look that is under way may have begun before this call; the next one has not.
            return self._level.wait_for(lambda: self._levels >= asked + 2, timeout_s)

    @property
    def position(self) -> str:
        """Place in the stream up to which all is known here."""
        return self._position

    def stats(self) -> SharedStats:
        """How the sharing goes."""
        counts = self._counts
        return SharedStats(
            connected=self._connected,
            stale_s=time.monotonic() - self._level_s,
            waiting=self._waiting(),
            lost=self._outbox.lost + counts["unfit"],
            sent=counts["sent"],
            applied=counts["applied"],
            repeated=counts["repeated"],
            without_effect=counts["without_effect"],
            unreadable=counts["unreadable"],
            gaps=counts["gaps"],
        )

    # -- forks ----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Lets what is under way take effect; see `serving.forks`."""
        self._applying.acquire()
        self._numbering.acquire()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        self._numbering.release()
        self._applying.release()

    def after_fork_in_child(self) -> None:
        """Follows anew from the inherited state; what waits, the parent sends."""
        self._arrivals.all_up_to(self._origin, self._number)
        self._renew()
        self._applying = threading.Lock()
        if self._running:
            self._begin()

    # -- inside ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        for work, name in ((self._send, "shared-state-writer"), (self._follow, "shared-state-follower")):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def _connect(self) -> RedisLog:
        params = self._params
        return RedisLog(
            self._url,
            name=self._name,
            max_messages=params.max_messages,
            max_subjects=params.max_subjects,
            timeout_s=params.timeout_s + params.block_s,
        )

    def _waiting(self) -> int:
        return len(self._outbox) + len(self._in_hand)

    def _note(self, report: Report) -> None:
        """A report took effect here; it only waits to be sent."""
        with self._numbering:
            self._number += 1
            self._newest_us = max(self._newest_us + 1, round(self._clock() * 1e6))
            message = Message(self._origin, self._number, self._newest_us, report)
            self._latest.put(message)
            self._outbox.put(message)

    def _send(self) -> None:
        """Writes what waits, in its order; what may not have arrived is written again."""
        log, backoff_s, trimmed_s = self._connect(), 0.05, -math.inf
        while not self._stop.is_set():
            if not self._in_hand:
                self._in_hand = self._outbox.take(_AT_ONCE, timeout_s=1.0)
            try:
                if self._in_hand:
                    unfit = log.append(self._in_hand)
                    for message in self._in_hand:
                        if isinstance(message.report, ForgottenUser):
                            log.erase(message.report)
                    self._counts["unfit"] += unfit
                    self._counts["sent"] += len(self._in_hand) - unfit
                    self._in_hand = []
                if time.monotonic() - trimmed_s > _TRIM_EVERY_S:
                    log.trim(before_ms=round((time.time() - self._params.max_age_s) * 1000))
                    trimmed_s = time.monotonic()
                backoff_s = 0.05
            except LogError as error:
                self._lost_touch(error)
                self._stop.wait(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311
                backoff_s = min(2 * backoff_s, self._params.most_backoff_s)
        log.close()

    def _follow(self) -> None:
        """Reads what the others write; each time that Redis is reached anew, what is settled first."""
        log, backoff_s = self._connect(), 0.05
        while not self._stop.is_set():
            try:
                self._catch_up(log)
                while not self._stop.is_set():
                    self._read(log)
                    backoff_s = 0.05
            except LogError as error:
                self._lost_touch(error)
                self._stop.wait(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311
                backoff_s = min(2 * backoff_s, self._params.most_backoff_s)
        log.close()

    def _lost_touch(self, error: Exception) -> None:
        if self._connected:
            _log.warning("shared state: Redis is gone, answers go on from what is known: %s", error)
        self._connected = False

    def _catch_up(self, log: RedisLog) -> None:
        epoch = log.epoch()
        if (self._epoch not in (epoch, "")) or not log.holds(self._position):
            _log.warning("shared state: Redis has lost messages; what is settled is written again")
            self._counts["gaps"] += 1
            with self._applying:
                self._position = START
            for message in self._latest.messages():
                self._outbox.put(message)
        elif log.is_trimmed(self._position):
            self._counts["gaps"] += 1
            _log.warning("shared state: messages behind %s are gone; events are lost", self._position)
        self._epoch = epoch
        self._settle(log)
        self._connected = True

    def _settle(self, log: RedisLog) -> None:
        self._recommender.remember_forgotten(log.forgotten(self._recommender.forgotten))
        for content in log.settled():
            self._take_in(content, numbered=False)

    def _read(self, log: RedisLog) -> None:
        """One look at the stream."""
        began_s = time.monotonic()
        rows = log.after(self._position, most=_AT_ONCE, wait_s=self._params.block_s)
        if len(rows) == _AT_ONCE and log.is_trimmed(self._position):  # slower than the others write
            self._counts["gaps"] += 1
            self._settle(log)
        for at, content in rows:
            with self._applying:
                self._take_in(content, numbered=True)
                self._position = at
        if len(rows) < _AT_ONCE:
            self._level_s = began_s
            with self._level:
                self._levels += 1
                self._level.notify_all()

    def _take_in(self, content: bytes, *, numbered: bool) -> None:
        """A message takes effect, unless it is one's own, came before, or is overtaken."""
        try:
            message = decode(content)
        except DataError:
            self._counts["unreadable"] += 1
            return
        if message.origin == self._origin:
            return
        # A report on a subject is harmless twice, and may be told again by a third process.
        if (
            numbered
            and isinstance(message.report, Observed)
            and not self._arrivals.first(message.origin, message.number)
        ):
            self._counts["repeated"] += 1
            return
        latest_us = round((self._clock() + self._params.future_tolerance_s) * 1e6)
        if message.reported_us > latest_us:
            message = replace(message, reported_us=latest_us)
        try:
            taken = self._recommender.take_in(message.report, provided=lambda: self._latest.put(message))
        except (RecsysError, OSError) as error:
            _log.error("shared state: %r could not be applied: %s", message.report, error)
            self._counts["unreadable"] += 1
            return
        self._counts["applied" if taken else "without_effect"] += 1
