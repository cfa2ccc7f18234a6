"""The commands that measure the engine on a world made for the purpose: `recsys bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.options import Out
from recsys.terminal import console, errors, progress

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


@bench.command("soak")
def bench_soak(
    out: Out,
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Two or more to swap between; two synthetic ones if none.", metavar="[BUNDLE]..."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long.", min=0.01)] = 10.0,
    every: Annotated[float, typer.Option(help="Seconds from one swap to the next.", min=0.01)] = 2.0,
    threads: Annotated[int, typer.Option(help="Threads of requests.", min=1)] = 2,
    items: Annotated[int, typer.Option(help="Products of the synthetic bundles.", min=1_000)] = 50_000,
) -> None:
    """Ask without a pause while rooms end, products sell out and bundles are swapped; exit 1 if it shows.

    No request may fail, name what was gone before it began, or mix two bundles, and memory stays as it is.

    Example: recsys bench soak --minutes 10 --out experiments/results/soak.csv
    """
    import tempfile

    from recsys.bench.soak import SoakParams, soak, write_two_worlds
    from recsys.bench.timing import as_table
    from recsys.bench.world import WorldParams
    from recsys.reports import show_bench
    from recsys.tables import check_out, write_table

    check_out(out)
    params = SoakParams(minutes=minutes, every_s=every, threads=threads)
    with tempfile.TemporaryDirectory(prefix="recsys-soak-") as folder, progress() as report:
        worlds = bundles or write_two_worlds(Path(folder), WorldParams(items=items, users=2_000))
        found = soak(worlds, params, progress=report)
    write_table(as_table(found.rows), out)
    show_bench(console, found.rows)
    for complaint in found.complaints:
        errors.print(complaint, style="red", markup=False, highlight=False)
    if any(row.holds is False for row in found.rows):
        raise typer.Exit(1)
