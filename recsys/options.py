"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="What to write.", show_default=False)]
DatasetDir = Annotated[Path, typer.Argument(help="Folder that `recsys prepare` wrote.", metavar="DATASET")]
BundleDir = Annotated[Path, typer.Argument(help="Folder that `recsys train` wrote.", metavar="BUNDLE")]
ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="YAML file; configs/default.yaml suits any log. Repeatable: what a later one says lies on top.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, as models.als.params.factors=64; repeatable."),
]
