"""Puts a server together: a bundle, the edge, and what runs beside them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from recsys.errors import ConfigError
from serving.decisions import DecisionLog
from serving.edge import create_app
from serving.recommender import Recommender

if TYPE_CHECKING:
    from serving.shared import SharedState

ADMIN_TOKEN = "RECSYS_ADMIN_TOKEN"  # noqa: S105 - the variable's name


def run_server(bundle: Path, *, host: str, port: int, decisions: Path | None, redis: str | None) -> None:
    """Answers over HTTP until the process is told to end.

    Args:
        bundle: its directory.
        host, port: where to listen.
        decisions: folder of the decision log, if there is to be one.
        redis: URL through which processes share what is reported to them, if they do.

    Raises:
        BundleRefused: the bundle is not fit to answer.
        ConfigError: the URL is none, or the extra `redis` is not installed.
    """
    with ExitStack() as running:
        log = None if decisions is None else running.enter_context(DecisionLog(decisions))
        recommender = Recommender.load(bundle, decisions=log)
        shared = None if redis is None else running.enter_context(_shared(recommender, redis))
        app = create_app(recommender, admin_token=os.environ.get(ADMIN_TOKEN), shared=shared)
        uvicorn.run(app, host=host, port=port)


def _shared(recommender: Recommender, url: str) -> SharedState:
    try:
        from serving.shared import SharedState
    except ModuleNotFoundError as error:
        raise ConfigError(f"--redis needs the extra `redis`: {error}") from error
    try:
        return SharedState(recommender, url)
    except ValueError as error:
        raise ConfigError(f"--redis: {error}") from error
