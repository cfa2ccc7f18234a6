"""What a process has to tell the others and has not yet: bounded, and it never waits."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from recsys.data.ids import id_key
from serving.reports import ForgottenUser, Message, Observed, subject


class Outbox:
    """Messages that wait to be sent. Of reports on one subject only the latest waits.

    Reports go before events: when the others are told late, they hear first what is sold out and over.

    Args:
        max_reports: reports that wait at most, and people to be forgotten.
        max_events: events that wait at most; some 700 bytes each.

    Attributes:
        lost: messages that were dropped, the oldest first, because too many waited.
    """

    def __init__(self, *, max_reports: int, max_events: int) -> None:
        self.lost = 0
        self._max_reports = max_reports
        self._max_events = max_events
        self._reports: OrderedDict[str, Message] = OrderedDict()
        self._events: deque[Message] = deque()
        self._changed = threading.Condition()

    def put(self, message: Message) -> None:
        """Has a message wait to be sent."""
        report = message.report
        with self._changed:
            if isinstance(report, Observed):
                self._events.append(message)
                if len(self._events) > self._max_events:
                    self._events.popleft()
                    self.lost += 1
            else:
                if isinstance(report, ForgottenUser):
                    self._drop_events(report)
                about = subject(report) or f"forgotten:{message.number}"
                self._reports.pop(about, None)
                self._reports[about] = message
                if len(self._reports) > self._max_reports:
                    self._reports.popitem(last=False)
                    self.lost += 1
            self._changed.notify()

    def take(self, most: int, *, timeout_s: float) -> list[Message]:
        """Up to `most` messages, which wait no longer; waits until there is one, or the time is over."""
        with self._changed:
            if not self._reports and not self._events:
                self._changed.wait(timeout_s)
            taken = [self._reports.popitem(last=False)[1] for _ in range(min(most, len(self._reports)))]
            taken += [self._events.popleft() for _ in range(min(most - len(taken), len(self._events)))]
            return taken

    def wake(self) -> None:
        """Has `take` return at once."""
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._reports) + len(self._events)

    def _drop_events(self, person: ForgottenUser) -> None:
        key = id_key(person.user_id)
        self._events = deque(
            message
            for message in self._events
            if isinstance(message.report, Observed) and id_key(message.report.event.user_id) != key
        )
