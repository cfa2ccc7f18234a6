"""The decision log: who was shown what, where, by which version and why, as Parquet that training reads.

A file has the columns of the log contract's `events` table, each row an impression with position and source,
and beside them `call`, `version`, `reason`, `score` and `arm`. Laid beside the other part files of `events/`
it is a part of the log. What a challenger would have shown is no impression: it lies in the folder `shadow`
inside, its `event` is `shadow`, and it has the user and the moment of the answer that was shown.

A request only appends to a list in memory; a thread writes, in a forked process one of its own.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.ids import id_key, id_keys
from recsys.data.tombstones import tombstone
from recsys.errors import DataError
from recsys.types import Behaviour, ExternalId
from serving.answer import Answer
from serving.forks import tell_of_forks

_log = logging.getLogger(__name__)
_SUFFIX = ".parquet"
_SHOWN = Behaviour.IMPRESSION.value
#: Arm of answers that nobody saw, and the folder inside the log's in which they lie.
SHADOW, SHADOWS = "shadow", "shadow"
#: A file that was begun so long ago and has no name yet never will.
_ABANDONED_S = 600.0
#: As `prepare` tells whole numbers in a CSV.
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer to one user.

    Attributes:
        call: `products` or `rooms`.
        user_id: as the request spelt it.
        at_us: the moment of the answer, microseconds since the epoch.
        answer: what was shown; or, of the arm `shadow`, what would have been.
    """

    call: str
    user_id: ExternalId
    at_us: int
    answer: Answer


class DecisionLog:
    """Writes decisions to a folder, file by file; every method may be called from any thread.

    Args:
        folder: where the files go; it is made if it is not there.
        every_s: seconds after which what has come together becomes a file.
        max_waiting: decisions held in memory at most; more are dropped and counted.
        max_files: files kept; the oldest are removed.

    Attributes:
        dropped: decisions that were lost because too many were waiting, or no file could be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every_s: float = 60.0,
        max_waiting: int = 100_000,
        max_files: int = 10_000,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        self._every_s = every_s
        self._max_waiting = max_waiting
        self._max_files = max_files
        self._number = 0
        self._forgotten: frozenset[str] = frozenset()
        self._cleaned: frozenset[str] = frozenset()  # those of whom no file that was there has anything
        self._begin()
        tell_of_forks(self)

    def _begin(self) -> None:
        self._waiting: list[Decision] = []
        self._adding = threading.Lock()
        self._files = threading.Lock()  # one writer or remover of files at a time
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None  # begins with the first decision

    def add(self, decision: Decision) -> None:
        """Takes a decision in; it never waits for the disk."""
        with self._adding:
            self._start()
            if len(self._waiting) < self._max_waiting:
                self._waiting.append(decision)
            else:
                self.dropped += 1

    def flush(self) -> None:
        """Writes what has come together so far, and removes from the files who was forgotten.

        Raises:
            DataError: as `forget`; what has come together is written.
        """
        with self._files:
            with self._adding:
                taken, self._waiting = self._waiting, []
            # Somebody may have been forgotten between the answer and its decision.
            taken = [one for one in taken if not self._is_forgotten(one.user_id)]
            for folder in (self.folder, self.folder / SHADOWS):
                its = [one for one in taken if (one.answer.arm == SHADOW) == (folder != self.folder)]
                if its:
                    self._keep(its, folder)
            self._clean()

    def obey(self, marks: frozenset[str]) -> None:
        """Takes in who is forgotten, by tombstone: nothing of them is written, and files are cleaned soon."""
        with self._adding:
            self._forgotten |= marks
            if self._forgotten != self._cleaned:
                self._start()

    def forget(self, user_id: ExternalId) -> None:
        """Removes a person from what is waiting and from every file, before it returns.

        Raises:
            DataError: a file cannot be read; all others were cleaned.
        """
        self.obey(frozenset([tombstone(user_id)]))
        with self._files:
            with self._adding:
                self._waiting = [one for one in self._waiting if not self._is_forgotten(one.user_id)]
            self._clean()

    def close(self) -> None:
        """Writes what is left and ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._flush_or_say()

    def before_fork(self) -> None:
        """Lets a file under way be finished; see `serving.forks`."""
        self._files.acquire()
        self._adding.acquire()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        self._adding.release()
        self._files.release()

    def after_fork_in_child(self) -> None:
        """Begins anew with nothing waiting: what waited is the parent's to write."""
        closed = self._stop.is_set()
        self.dropped = 0
        self._begin()
        if closed:
            self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        """Begins to write; the caller holds `_adding`."""
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._flush_or_say()

    def _flush_or_say(self) -> None:
        try:
            self.flush()
        except (DataError, OSError) as error:
            _log.error("%s", error)

    def _is_forgotten(self, user_id: ExternalId) -> bool:
        return bool(self._forgotten) and tombstone(user_id) in self._forgotten

    def _clean(self) -> None:
        """Removes who is newly forgotten from every file; the caller holds `_files`."""
        marks = self._forgotten
        if marks == self._cleaned:
            return
        unread: list[str] = []
        for folder in (self.folder, self.folder / SHADOWS):
            for path in folder.glob(f".decisions-*{_SUFFIX}.*"):  # half a file, of a process that was killed
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink(missing_ok=True)
            for path in _paths(folder):
                try:
                    _remove(path, marks - self._cleaned)
                except FileNotFoundError:
                    continue  # another process has removed it, for its age
                except (pa.ArrowException, OSError) as error:
                    unread.append(f"{path}: {error}")
        if unread:
            raise DataError(
                f"decision log: who is forgotten may be in {unread[0]}; remove what cannot be read "
                f"({len(unread)} in all)"
            )
        self._cleaned = marks

    def _keep(self, decisions: list[Decision], folder: Path) -> None:
        # Sorted by name, files are sorted by time; the process keeps those of several workers apart.
        self._number += 1
        name = f"decisions-{time.time_ns():020d}-{os.getpid()}-{self._number:06d}{_SUFFIX}"
        try:
            folder.mkdir(exist_ok=True)
            _replace(folder / name, _table(decisions))
        except OSError as error:
            self.dropped += len(decisions)
            _log.error("%s: %d decisions are lost: %s", folder, len(decisions), error)
            return
        for old in _paths(folder)[: -self._max_files]:
            old.unlink(missing_ok=True)


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"decisions-*{_SUFFIX}"))


def _remove(path: Path, marks: frozenset[str]) -> None:
    """Rewrites a file that names one of the people, without their rows."""
    users = id_keys(pq.read_table(path, columns=["user_id"])["user_id"])
    theirs = [user for user in pc.unique(users).to_pylist() if tombstone(user) in marks]
    if theirs:
        kept = pc.invert(pc.is_in(users, value_set=pa.array(theirs, users.type)))
        _replace(path, pq.read_table(path).filter(kept))


def _replace(path: Path, table: pa.Table) -> None:
    """The file appears whole, or not at all; readers of a folder pass hidden names over."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, hidden)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def _table(decisions: Iterable[Decision]) -> pa.Table:
    rows = list(_rows(decisions))
    columns = {
        "user_id": _ids([row[0] for row in rows]),
        "event": pa.array([SHADOW if row[11] == SHADOW else _SHOWN for row in rows], pa.string()),
        "timestamp": pa.array([row[1] for row in rows], pa.timestamp("us", tz="UTC")),
        "item_id": _ids([row[2] for row in rows]),
        "room_id": _ids([row[3] for row in rows]),
        "streamer_id": _ids([row[4] for row in rows]),
        "position": pa.array([row[5] for row in rows], pa.int32()),
        "source": pa.array([row[6] for row in rows], pa.string()),
        "call": pa.array([row[7] for row in rows], pa.string()),
        "version": pa.array([row[8] for row in rows], pa.string()),
        "reason": pa.array([row[9] for row in rows], pa.string()),
        "score": pa.array([row[10] for row in rows], pa.float64()),
        "arm": pa.array([row[11] for row in rows], pa.string()),
    }
    return pa.table(columns)


_Row = tuple[
    ExternalId,
    int,
    ExternalId | None,
    ExternalId | None,
    ExternalId | None,
    int,
    str,
    str,
    str,
    str,
    float,
    str | None,
]


def _rows(decisions: Iterable[Decision]) -> Iterator[_Row]:
    for one in decisions:
        for position, entry in enumerate(one.answer, 1):
            room = one.call == "rooms"
            yield (
                one.user_id,
                one.at_us,
                entry.facts.get("item_id") if room else entry.id,
                entry.id if room else None,
                entry.facts.get("streamer_id") if room else None,
                position,
                entry.source,
                one.call,
                one.answer.version,
                entry.reason,
                entry.score,
                one.answer.arm,
            )


def _ids(values: list[ExternalId | None]) -> pa.Array:
    """Whole numbers where all are spelt as such, for a request over HTTP spells them as text; else text."""
    texts = [None if value is None else id_key(value) for value in values]
    if all(text is None or _WHOLE.fullmatch(text) for text in texts):
        return pa.array([None if text is None else int(text) for text in texts], pa.int64())
    return pa.array(texts, pa.string())
