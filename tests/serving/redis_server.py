"""A real redis-server on a socket of its own, which tests can kill and start again."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest


class RedisServer:
    """Listens at `url`, a unix socket in `folder`; it keeps what it holds on disk only if told to."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self._keep = keep
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        append = "yes" if self._keep else "no"
        options = ["--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--dir", str(self.folder)]
        options += ["--save", "", "--appendonly", append, "--appendfsync", "always"]
        self._process = subprocess.Popen(
            ["redis-server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end_s = time.monotonic() + 20
        while True:
            client = self.client()
            try:
                client.ping()
                return
            except Exception:  # noqa: BLE001 - not yet
                assert time.monotonic() < end_s
                time.sleep(0.02)
            finally:
                client.close()

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url, protocol=2)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            (self.folder / "redis.sock").unlink(missing_ok=True)


def skip_without_redis() -> None:
    pytest.importorskip("redis", reason="redis-py is not installed: pip install '.[redis]'")
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH", allow_module_level=True)
