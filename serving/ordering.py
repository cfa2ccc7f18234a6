"""What makes reports that come twice, late or out of order harmless."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from recsys.data.ids import id_key
from serving.reports import Aired, EndedRoom, Message, subject

#: (time by which reports on a subject are ordered, when it was reported, by whom): the largest one counts.
Version = tuple[int, int, str]


def version(message: Message) -> Version:
    """When a report counts from. What is on air goes by the time that the report itself names."""
    report = message.report
    at_us = report.at_us if isinstance(report, Aired) else message.reported_us
    return at_us, message.reported_us, message.origin


class Latest:
    """The latest report on each subject. Bounded: what was settled longest ago is dropped.

    Args:
        max_subjects: subjects kept; each takes some 500 bytes.
    """

    def __init__(self, max_subjects: int) -> None:
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._max_subjects = max_subjects
        self._lock = threading.Lock()

    def put(self, message: Message) -> bool:
        """Takes a report on a subject in; False where it is no later than what is known already."""
        about = subject(message.report)
        if about is None:
            return True
        with self._lock:
            return self._put(about, message)

    def messages(self) -> list[Message]:
        """The latest report on every subject, the one settled longest ago first."""
        with self._lock:
            return list(self._messages.values())

    def __len__(self) -> int:
        return len(self._messages)

    def _put(self, about: str, message: Message) -> bool:
        known = self._messages.get(about)
        if known is not None and version(known) >= version(message):
            return False
        if isinstance(message.report, Aired) and self._ended_since(message.report, message.reported_us):
            return False
        self._messages[about] = message
        self._messages.move_to_end(about)
        while len(self._messages) > self._max_subjects:
            self._messages.popitem(last=False)
        return True

    def _ended_since(self, aired: Aired, reported_us: int) -> bool:
        known = self._messages.get(f"room:{id_key(aired.room_id)}")
        return known is not None and isinstance(known.report, EndedRoom) and known.reported_us > reported_us


@dataclass(slots=True)
class _Seen:
    """The numbers of one origin that came: the largest, and a bit for each of the `WIDTH` below it."""

    top: int
    bits: int


class Arrivals:
    """Which messages of each origin have come, in a window that slides with the largest number.

    The same as the anti-replay window of IPsec (RFC 4303, section 3.4.3): a number below the window counts as
    one that came. Bounded by the number of origins; the one heard of longest ago is dropped.
    """

    WIDTH = 4096

    def __init__(self, max_origins: int = 4096) -> None:
        self._origins: OrderedDict[str, _Seen] = OrderedDict()
        self._max_origins = max_origins

    def first(self, origin: str, number: int) -> bool:
        """Whether this message comes for the first time; it has come from now on."""
        seen = self._origins.get(origin)
        if seen is None:
            self.all_up_to(origin, number, came=False)
            return True
        self._origins.move_to_end(origin)
        if number > seen.top:
            seen.bits = (seen.bits << min(number - seen.top, self.WIDTH) | 1) & ((1 << self.WIDTH) - 1)
            seen.top = number
            return True
        below = seen.top - number
        if below >= self.WIDTH or seen.bits >> below & 1:
            return False
        seen.bits |= 1 << below
        return True

    def all_up_to(self, origin: str, number: int, *, came: bool = True) -> None:
        """An origin is at a number; whether those before it came too."""
        self._origins[origin] = _Seen(number, (1 << self.WIDTH) - 1 if came else 1)
        self._origins.move_to_end(origin)
        while len(self._origins) > self._max_origins:
            self._origins.popitem(last=False)
