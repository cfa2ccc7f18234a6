"""The command `recsys tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.options import ConfigFiles, DatasetDir, Overrides
from recsys.terminal import console, progress


def tune(
    dataset: DatasetDir,
    out: Annotated[Path, typer.Option("--out", help="Folder of the study; one that is there goes on.")],
    model: Annotated[str, typer.Option(help="A candidate model, by its key under `models`.")] = "als",
    config: ConfigFiles = None,
    set_: Overrides = None,
    metric: Annotated[str, typer.Option(help="recall, ndcg, mrr or hit_rate with a length.")] = "ndcg@20",
    trials: Annotated[int, typer.Option(help="How many the study shall hold in all.", min=1)] = 30,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further trial after so long.", min=0)
    ] = None,
    track: Annotated[bool, typer.Option(help="Record each trial in MLflow, nested in one run.")] = True,
) -> None:
    """Search a model's settings on the validation window; the test window is never read.

    The first trial is the configuration as it stands. The best is written to OUT/best.yaml, which
    `recsys train --config` takes.

    Example: recsys tune dataset --model als --trials 30 --minutes 20 --out tuned
    """
    from recsys.reports import show_tuned
    from training.config import TrainingConfig
    from training.torchrun import refuse_company
    from training.tracking import Tracker
    from training.tuning import tune as run

    refuse_company("recsys tune")
    settings = TrainingConfig.load(config, set_ or [])
    tracker = Tracker(settings.tracking) if track else None
    with progress() as report:
        tuned = run(
            dataset,
            settings,
            model,
            out,
            metric=metric,
            trials=trials,
            minutes=minutes,
            tracker=tracker,
            progress=report,
        )
    show_tuned(console, tuned)
