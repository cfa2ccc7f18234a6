"""A challenger beside the champion: it answers a share of the users, or all it answers is logged, unseen."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from recsys.data.ids import id_key
from recsys.types import ExternalId
from serving.answer import RequestError
from serving.forks import tell_of_forks
from serving.reporting import Current

CHAMPION, CHALLENGER = "champion", "challenger"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Which users the challenger has: always the same ones, and more of them as the share grows.

    A user is the challenger's if the first 64 bits of SHA-256 of the salt and the id, as a share of 2^64, lie
    below the share. Another salt draws other users.

    Attributes:
        share: from 0 to 1, of all users.
        salt: of this trial.

    Raises:
        RequestError: the share is none.
    """

    share: float
    salt: str

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise RequestError(f"share={self.share}: choose from 0 to 1")

    def has(self, user_id: ExternalId) -> bool:
        """Whether the challenger has the user."""
        text = f"{self.salt}\0{id_key(user_id)}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:8]) < self.share * 2**64


class Shadow:
    """Work that nobody waits for, done by one thread: bounded, and what is too much is refused.

    Args:
        max_waiting: pieces of work that wait at most.

    Attributes:
        failed: pieces of work that raised an error, which is logged.
    """

    def __init__(self, *, max_waiting: int) -> None:
        self.failed = 0
        self._max_waiting = max_waiting
        self._begin()
        tell_of_forks(self)

    def _begin(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._over = False
        self._thread: threading.Thread | None = None  # begins with the first piece of work

    def put(self, work: Callable[[], None]) -> bool:
        """Has a piece of work wait its turn; False where too many wait already."""
        with self._changed:
            if self._over or len(self._waiting) >= self._max_waiting:
                return False
            self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
            self._changed.notify()
            return True

    def close(self) -> None:
        """Drops what waits and ends the thread."""
        with self._changed:
            self._over = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def before_fork(self) -> None:
        """Nothing is taken or put during the fork; see `serving.forks`."""
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Begins anew: what waited, the parent does."""
        over = self._over
        self._begin()
        self._over = over

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._over:
                    self._changed.wait()
                if self._over:
                    return
                work = self._waiting.popleft()
            try:
                work()
            except Exception:  # noqa: BLE001 - whatever a challenger does, the next one is tried
                self.failed += 1
                _log.exception("the challenger failed in the shadow")


@dataclass(frozen=True)
class Trial:
    """A challenger on trial; replaced as one.

    Attributes:
        challenger: its bundle and live state.
        split: whose requests it answers, or shadows.
        shadow: where its answers are made if nobody is to see them; None where the users do.
    """

    challenger: Current
    split: Split
    shadow: Shadow | None
