"""A process that keeps a folder at what an alias of MLflow names, and ends with the one that started it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import ConfigError
from recsys.pointer import POINTER

_log = logging.getLogger(__name__)
_STDIN = 0
#: Seconds that it is given to finish what it is bringing.
_PATIENCE_S = 10.0


@contextmanager
def delivered(model: str, folder: Path, *, every_s: float) -> Iterator[None]:
    """Has `recsys deliver` keep `folder` at what the alias names: MLflow stays out of this process.

    It holds the other end of a pipe, which closes with this process however that ends; and where it ends by
    itself it is started again.

    Args:
        model: URI of the alias.
        folder: of the bundles and CURRENT.
        every_s: seconds between two looks, and before it is started again.

    Raises:
        ConfigError: nothing could be delivered, and the folder holds no bundle from before.
    """
    command = [sys.executable, "-m", "recsys.cli", "deliver", model, "--to", str(folder)]
    first = subprocess.run(command, stdin=subprocess.DEVNULL)
    if first.returncode and not (folder / POINTER).exists():
        raise ConfigError(f"{model} cannot be served: nothing was delivered, and {folder} holds no bundle")
    command += ["--every", str(every_s), "--while-stdin-open"]
    over = threading.Event()
    child = subprocess.Popen(command, stdin=subprocess.PIPE)

    def keep() -> None:
        nonlocal child
        while True:
            status = child.wait()
            if over.is_set():
                return
            _log.error("`recsys deliver` ended with status %d and is started again", status)
            if over.wait(every_s):
                return
            child = subprocess.Popen(command, stdin=subprocess.PIPE)

    keeper = threading.Thread(target=keep, name="delivery", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        if child.stdin is not None:
            child.stdin.close()
        keeper.join(_PATIENCE_S)
        child.kill()
        child.wait()


def stdin_closed() -> threading.Event:
    """Set when standard input ends: the process at its other end is gone."""
    closed = threading.Event()

    def read() -> None:
        while os.read(_STDIN, 1 << 10):
            pass
        closed.set()

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return closed
