"""Follows a directory's CURRENT pointer and swaps the bundle that it names into a running process."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from recsys.errors import RecsysError
from recsys.pointer import pointed_to
from serving.forks import tell_of_forks

_log = logging.getLogger(__name__)


class Swappable(Protocol):
    """What a follower keeps up to date."""

    @property
    def path(self) -> Path:
        """The directory of the bundle in use."""
        ...

    def swap(self, path: Path | str) -> str:
        """Takes another bundle into use and returns its version."""
        ...

    def reread_forgotten(self) -> None:
        """Reads the list of forgotten people again."""
        ...


class Follower:
    """Looks at the pointer every so often; a bad bundle is refused once, logged, and the old one goes on.

    What the pointer names is taken once: whoever rolls back keeps the older bundle until the pointer moves.

    Args:
        recommender: what to keep up to date.
        directory: holds the bundles and CURRENT.
        interval_s: seconds between two looks.
    """

    def __init__(self, recommender: Swappable, directory: Path | str, *, interval_s: float = 2.0) -> None:
        self._recommender = recommender
        self._directory = Path(directory)
        self._interval_s = interval_s
        self._looking = threading.Lock()  # held during a look, and across a fork
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._named: Path | None = None  # by the pointer, when it last moved
        self.last_error: Exception | None = None

    def check(self) -> bool:
        """One look: True where another bundle was taken into use."""
        with self._looking:
            return self._look()

    def _look(self) -> bool:
        try:
            self._recommender.reread_forgotten()
            target = pointed_to(self._directory)
            if target == self._named:
                return False  # it was taken, or refused, or the platform rolled it back
            self._named = target
            if target == self._recommender.path:
                return False
            version = self._recommender.swap(target)
        except Exception as error:  # noqa: BLE001 - FAISS and ONNX Runtime have errors of their own
            self.last_error = error
            _log.warning("bundle not taken, the old one goes on: %s", error, exc_info=not _is_said(error))
            return False
        self.last_error = None
        _log.info("now answering from %s, version %s", target, version)
        return True

    def start(self) -> Self:
        """Looks from a thread of its own until `stop`; a forked process does so by itself."""
        if self._thread is None:
            tell_of_forks(self)
            self._begin()
        return self

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="bundle-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a swap in progress is finished first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def before_fork(self) -> None:
        """Lets a swap under way be finished; see `serving.forks`."""
        self._looking.acquire()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        self._looking.release()

    def after_fork_in_child(self) -> None:
        """Looks from a thread of this process, unless it was stopped before."""
        self._looking = threading.Lock()
        if self._thread is not None and not self._stop.is_set():
            self._stop = threading.Event()
            self._begin()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.check()


def _is_said(error: Exception) -> bool:
    """Whether the message says it all; of other errors it takes the traceback."""
    return isinstance(error, RecsysError | OSError | MemoryError)
