"""What stands before the application: limits of body, number and rate, and a line of log a request."""

from __future__ import annotations

import logging
import time

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.edge_metrics import RequestMetrics
from serving.edge_schema import MAX_BODY_BYTES

_access = logging.getLogger("recsys.access")
#: What watches the process is answered also where it has too much to do: it must not be taken for dead.
WATCHING = frozenset({"/healthz", "/readyz", "/metrics"})


class Limits:
    """Turns away what is too long, of no declared length, or too much at once or in a second.

    Args:
        app: what is behind.
        max_in_flight: requests at once; beyond, 503.
        max_rate: requests a second, as many in one burst; beyond, 429. None is no limit.
    """

    def __init__(self, app: ASGIApp, *, max_in_flight: int, max_rate: float | None) -> None:
        self._app = app
        self._free = max_in_flight
        self._rate = max_rate
        self._burst = self._tokens = max(1.0, max_rate or 0.0)
        self._filled_s = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; on one event loop nothing comes between a look and a step."""
        if scope["type"] != "http" or scope["path"] in WATCHING:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit():
            await _refuse(411, "declare the body's length")(scope, receive, send)
        elif int(length) > MAX_BODY_BYTES:
            await _refuse(413, f"a body has at most {MAX_BODY_BYTES} bytes")(scope, receive, send)
        elif self._free < 1:
            await _refuse(503, "too many requests at once; come again")(scope, receive, send)
        elif not self._has_token():
            await _refuse(429, f"more than {self._rate:g} requests a second")(scope, receive, send)
        else:
            self._free -= 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._free += 1

    def _has_token(self) -> bool:
        if self._rate is None:
            return True
        now_s = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self._rate)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Watched:
    """Times every request and logs it, without its query: that has the user's id in it.

    Args:
        app: what is behind.
        metrics: where the times go.
    """

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        marks = self._metrics.begin()
        try:
            await self._app(scope, receive, noted)
        finally:
            seconds = self._metrics.end(marks, status)
            level = logging.DEBUG if scope["path"] in WATCHING else logging.INFO
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            _access.log(
                level,
                "%s %s %d",
                *fields.values(),
                extra={"fields": {**fields, "ms": round(1e3 * seconds, 3)}},
            )


def _refuse(status: int, why: str) -> JSONResponse:
    again = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"detail": why}, status, headers=again)
