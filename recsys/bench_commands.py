"""The commands that measure the engine on a world made for the purpose: `recsys bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.options import Out
from recsys.terminal import console, progress

bench = typer.Typer(help="Measure the engine on a world made for the purpose.", no_args_is_help=True)


@bench.command("serve")
def bench_serve(
    out: Out,
    items: Annotated[int, typer.Option(help="Products of the synthetic catalogue.", min=1_000)] = 1_000_000,
    calls: Annotated[int, typer.Option(help="Requests of each kind.", min=100)] = 2_000,
    seconds: Annotated[
        float, typer.Option(help="That each measurement of requests a second lasts.", min=0.1)
    ] = 2.0,
    keep: Annotated[
        Path | None, typer.Option(help="Folder of the synthetic bundle; used again if it is there.")
    ] = None,
) -> None:
    """Measure serving beside a bare FAISS search of the same index, in the same run.

    A million products take about four minutes to index and four to measure on two cores.

    Example: recsys bench serve --out experiments/results/serve.csv
    """
    from recsys.bench.serve import BenchParams
    from recsys.bench.serve import bench_serve as run
    from recsys.bench.timing import as_table
    from recsys.bench.world import WorldParams
    from recsys.reports import show_bench
    from recsys.tables import check_out, write_table

    check_out(out)
    world, params = WorldParams(items=items), BenchParams(calls=calls, seconds=seconds)
    with progress() as report:
        rows = run(world, params, keep=keep, progress=report)
    write_table(as_table(rows), out)
    show_bench(console, rows)
    console.print(f"{len(rows)} figures in {out}")
