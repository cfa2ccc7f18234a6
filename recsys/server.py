"""Puts a server together: a bundle, the edge, and what runs beside them."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from recsys.delivering import delivered
from recsys.errors import ConfigError
from recsys.pointer import POINTER, pointed_to
from serving.decisions import DecisionLog
from serving.edge import create_app
from serving.recommender import Recommender

if TYPE_CHECKING:
    from serving.shared import SharedState

_log = logging.getLogger(__name__)
ADMIN_TOKEN = "RECSYS_ADMIN_TOKEN"  # noqa: S105 - the variable's name


def run_server(
    bundle: str,
    *,
    host: str,
    port: int,
    decisions: Path | None,
    redis: str | None,
    folder: Path = Path("bundles"),
    every_s: float = 10.0,
    challenger: Path | None = None,
    share: float = 0.0,
    salt: str = "",
    shadow: bool = False,
    max_rate: float | None = None,
) -> None:
    """Answers over HTTP until the process is told to end.

    Args:
        bundle: its directory; or one with CURRENT, or the URI of an alias of MLflow, to be followed.
        host, port: where to listen.
        decisions: folder of the decision log, if there is to be one.
        redis: URL through which processes share what is reported to them, if they do.
        folder: where the bundles go that an alias names.
        every_s: seconds between two looks at what is followed.
        challenger, share, salt, shadow: a trial from the start; see `Recommender.challenge`.
        max_rate: requests a second that are answered at most; None is no limit.

    Raises:
        BundleRefused: the bundle is not fit to answer.
        ConfigError: a URL or URI is none, or the extra `redis` is not installed.
    """
    with ExitStack() as running:
        if bundle.startswith("models:"):
            running.enter_context(delivered(bundle, folder, every_s=every_s))
            bundle = str(folder)
        path = Path(bundle)
        followed = (path / POINTER).exists()
        log = None if decisions is None else running.enter_context(DecisionLog(decisions))
        recommender = Recommender.load(pointed_to(path) if followed else path, decisions=log)
        if followed:
            running.enter_context(recommender.watch(path, interval_s=every_s))
        _log.info("answering from %s, version %s", recommender.path, recommender.version)
        token = os.environ.get(ADMIN_TOKEN)
        if not token:
            _log.warning("admin calls are refused: %s is not set", ADMIN_TOKEN)
        if challenger is not None:
            recommender.challenge(challenger, share=share, salt=salt, shadow=shadow)
        shared = None if redis is None else running.enter_context(_shared(recommender, redis))
        app = create_app(recommender, admin_token=token, max_rate=max_rate, shared=shared)
        # The edge logs requests itself: uvicorn would log queries, and with them who asks.
        uvicorn.run(app, host=host, port=port, log_config=None, access_log=False)


def _shared(recommender: Recommender, url: str) -> SharedState:
    try:
        from serving.shared import SharedState
    except ModuleNotFoundError as error:
        raise ConfigError(f"--redis needs the extra `redis`: {error}") from error
    try:
        return SharedState(recommender, url)
    except ValueError as error:
        raise ConfigError(f"--redis: {error}") from error
