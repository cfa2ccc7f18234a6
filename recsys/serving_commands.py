"""The commands that bring a bundle to where it is served, and serve it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from recsys.errors import RecsysError
from recsys.options import BundleDir, ConfigFiles, Overrides
from recsys.terminal import console, errors


def deliver(
    model: Annotated[str, typer.Argument(help="models:/NAME@champion.", metavar="MODEL")],
    to: Annotated[Path, typer.Option(help="Folder with the bundles and CURRENT.")],
    every: Annotated[
        float | None, typer.Option(help="Look again every so many seconds, until stopped.", min=0.1)
    ] = None,
    keep: Annotated[int, typer.Option(help="Bundles that stay in the folder.", min=1)] = 3,
    while_stdin_open: Annotated[
        bool,
        typer.Option(
            "--while-stdin-open", help="Stop when standard input closes, as it does with its process."
        ),
    ] = False,
    config: ConfigFiles = None,
    set_: Overrides = None,
) -> None:
    """Bring the bundle that an MLflow alias names into a folder, for the processes that serve from it.

    Example: recsys deliver models:/live-commerce-recsys@champion --to bundles --every 30
    """
    from recsys.delivering import stdin_closed
    from training.config import TrainingConfig
    from training.delivery import deliver as bring
    from training.delivery import parse_model_uri
    from training.tracking import Tracker

    name, alias = parse_model_uri(model)
    tracking = TrainingConfig.load(config, set_ or []).tracking.model_copy(update={"model_name": name})
    over = stdin_closed() if while_stdin_open else threading.Event()
    while True:
        try:
            brought = bring(Tracker(tracking), alias, to, keep=keep)
        except (RecsysError, OSError) as error:
            if every is None:
                raise
            errors.print(f"not delivered, the old one stays: {error}", style="yellow", markup=False)
        else:
            if brought is not None:
                console.print(f"{brought} is current now", highlight=False, markup=False)
        if every is None or over.wait(every):
            return


def add_items(
    bundle: BundleDir,
    items: Annotated[Path, typer.Argument(help="Parquet or CSV with item_id, and what else is known.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.", show_default=False)],
    current: Annotated[
        bool, typer.Option("--current", help="Have CURRENT beside it name it, so that `watch` swaps it in.")
    ] = False,
) -> None:
    """Write a bundle with products that were listed since, placed by their content; nothing is trained.

    Example: recsys add-items bundles/v1 listed_today.csv --out bundles/v2 --current
    """
    from recsys.additions import add_items as run
    from recsys.pointer import point_to

    done = run(bundle, items, out)
    if current:
        point_to(done.path.parent, done.path.name)
    told = f"{done.added} products added, {done.placed} of them placed by their content"
    already = f"; {done.known} were there already" if done.known else ""
    console.print(f"{told}{already}. Bundle in {done.path}", highlight=False, markup=False)


def serve(
    bundle: Annotated[
        str,
        typer.Argument(
            help="Folder that `recsys train` wrote; to follow, one with CURRENT or models:/NAME@champion.",
            metavar="BUNDLE",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond loopback only if you say so.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 8000,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Folder in which what was shown to whom, and why, is logged as Parquet."),
    ] = None,
    to: Annotated[
        Path, typer.Option(help="Where bundles go that an alias of MLflow names; see `deliver`.")
    ] = Path("bundles"),
    every: Annotated[float, typer.Option(help="Seconds between two looks at what to follow.", min=0.1)] = 10,
    challenger: Annotated[Path | None, typer.Option(help="A bundle that answers some of the users.")] = None,
    share: Annotated[float, typer.Option(help="Which share of the users it has.", min=0, max=1)] = 0.1,
    salt: Annotated[str, typer.Option(help="Another salt draws other users.")] = "",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="The challenger's answers are only logged, see --decisions.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests a second at most, 429 beyond; no limit if not given.", min=1),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(help="URL of a Redis through which several processes share what is reported to them."),
    ] = None,
) -> None:
    """Answer over HTTP, for backends in other languages. OpenAPI is at /docs.

    What CURRENT or the alias comes to name is checked, warmed and taken into use while requests go on; a bad
    bundle is refused and the old one goes on. The tracking server is the one of MLFLOW_TRACKING_URI. Admin
    calls need the token in the environment variable RECSYS_ADMIN_TOKEN; without it they are refused. Logs are
    JSON on standard error, without ids of users; Prometheus reads /metrics.

    Example: recsys serve bundle --port 8000
    Example: recsys serve models:/live-commerce-recsys@champion
    """
    from recsys.json_log import log_as_json
    from recsys.server import run_server

    log_as_json()
    run_server(
        bundle,
        host=host,
        port=port,
        decisions=decisions,
        redis=redis,
        folder=to,
        every_s=every,
        challenger=challenger,
        share=share,
        salt=salt,
        shadow=shadow,
        max_rate=rate,
    )
