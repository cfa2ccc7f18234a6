"""Which code and which process makes a run: to repeat it, and to tell a dead one from one that runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

DISTRIBUTION = "live-commerce-recsys"
_ROOT = Path(__file__).resolve().parents[1]


def code_version() -> str:
    """The git commit if this code runs from a checkout (`-dirty` with changes to tracked files), else the
    version of the installed package."""
    if (_ROOT / ".git").exists():
        commit = _git("rev-parse", "HEAD")
        if commit:
            return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    """What git prints, or nothing where there is no git or it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def this_process() -> str:
    """The mark of this process: host, id and, where the system tells, when it started."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}".strip()


def is_gone(mark: str) -> bool:
    """Whether the process that made the mark has surely ended; unknown for other hosts, so False."""
    host, _, rest = mark.partition(" ")
    pid, _, started = rest.partition(" ")
    if host != socket.gethostname() or not pid.isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(int(pid)) != started


def _started(pid: int) -> str:
    """Clock ticks from boot to the start of a process, as Linux counts them; "" elsewhere."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


@contextmanager
def termination_raises() -> Iterator[None]:
    """While the block lasts a polite kill (SIGTERM) raises SystemExit, so that the run can say goodbye.

    A handler that somebody else has set stays, and so does the default outside the main thread.
    """
    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
