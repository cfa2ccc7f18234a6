"""The command `recsys`. Every command's imports are its own, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.text import Text

from recsys.bench_commands import bench
from recsys.errors import ConfigError, ModelError, RecsysError
from recsys.openmp import wait_passively
from recsys.options import BundleDir, ConfigFiles, DatasetDir, Out, Overrides
from recsys.serving_commands import add_items, deliver, serve
from recsys.terminal import console, errors, progress, stages
from recsys.tune_command import tune

if TYPE_CHECKING:
    from recsys.hot.params import HotParams
    from training.config import TrackingParams

app = typer.Typer(
    name="recsys",
    help="Products, live rooms and hot-item potential from the logs of live commerce.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")

wait_passively()

#: Exit status of bad input.
BAD_INPUT = 2


class EngineChoice(StrEnum):
    """Where `prepare` runs."""

    DUCKDB = "duckdb"
    SPARK = "spark"


class RepeatChoice(StrEnum):
    """Whether what a user consumed may be recommended again."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


class TargetChoice(StrEnum):
    """What `hot` scores."""

    BREAKOUT = "breakout"
    NEWLY_HOT = "newly_hot"
    HOT = "hot"


@app.command()
def simulate(
    out: Out,
    users: Annotated[int | None, typer.Option(help="Users.", min=1)] = None,
    items: Annotated[int | None, typer.Option(help="Products.", min=1)] = None,
    streamers: Annotated[int | None, typer.Option(help="Streamers.", min=1)] = None,
    days: Annotated[int | None, typer.Option(help="Days of log.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the same one writes the same log.", min=0)] = None,
) -> None:
    """Write the log of a simulated live-commerce platform, and its truth in a folder of its own.

    Example: recsys simulate --out logs --users 5000 --days 90 --seed 1
    """
    from recsys.data.simulate import SimulationParams
    from recsys.data.simulate import simulate as run
    from recsys.reports import show_simulation

    given = {"users": users, "items": items, "streamers": streamers, "days": days, "seed": seed}
    params = SimulationParams(**{name: value for name, value in given.items() if value is not None})
    with progress() as report:
        summary = run(out, params, progress=lambda done, total: report(done, total, "simulating days"))
    show_simulation(console, summary)


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="retailrocket, kuairand, kuailive, twitch, taobao, completejourney, onlineretail or tafeng.",
            metavar="SOURCE",
        ),
    ],
    raw: Annotated[
        Path | None,
        typer.Argument(
            help="The publisher's file or folder; completejourney can do without.", metavar="[RAW]"
        ),
    ] = None,
    *,
    out: Out,
) -> None:
    """Turn a public data set's raw files into log tables.

    Example: recsys import retailrocket downloads/retailrocket --out logs
    """
    from recsys.data.sources import import_source
    from recsys.reports import show_import

    with stages() as report:
        summary = import_source(source, raw, out, progress=report)
    show_import(console, summary)


@app.command()
def prepare(
    logs: Annotated[Path, typer.Argument(help="Folder with the log tables.", metavar="LOGS")],
    out: Out,
    engine: Annotated[EngineChoice, typer.Option(help="Where to compute.")] = EngineChoice.DUCKDB,
    memory: Annotated[
        str | None, typer.Option(help="Most that DuckDB holds before it spills to disk, as 4GB.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Leave out what was not known before this time (UTC).")
    ] = None,
) -> None:
    """Check a log, set bad rows aside, and build the Dataset.

    Example: recsys prepare logs --out dataset --until 2024-06-01
    """
    from recsys.data.prepare import prepare as run
    from recsys.reports import show_prepared

    limit = None if until is None else _time(until, "--until")
    with stages() as report:
        summary = run(logs, out, engine=engine.value, memory=memory, until=limit, progress=report)
    show_prepared(console, summary)


@app.command()
def train(
    dataset: DatasetDir,
    out: Out,
    config: ConfigFiles = None,
    set_: Overrides = None,
    track: Annotated[bool, typer.Option(help="Record the run in MLflow.")] = True,
) -> None:
    """Fit, evaluate, track, register, and write the bundle.

    Under torchrun the first process does so, and the others share the training steps of the two-tower:
    torchrun --standalone --nproc-per-node 2 -m recsys.cli train dataset --out bundle

    Example: recsys train dataset --config configs/default.yaml --set seed=7 --out bundle
    """
    from recsys.reports import show_trained
    from training.config import TrainingConfig
    from training.pipeline import train as run
    from training.torchrun import leading
    from training.tracking import Tracker

    settings = TrainingConfig.load(config, set_ or [])
    with leading() as leads:
        if not leads:
            return
        tracker = Tracker(settings.tracking) if track else None
        with progress() as report:
            trained = run(dataset, settings, out, tracker=tracker, name=out.name, progress=report)
    show_trained(console, trained)


@app.command()
def evaluate(bundle: BundleDir, dataset: DatasetDir) -> None:
    """Compare the bundle's models over the Dataset's test window, with intervals and segments.

    The models are fitted anew, from the bundle's own configuration, on what was known before the window.

    Example: recsys evaluate bundle dataset
    """
    from recsys.bundle import open_bundle
    from recsys.data.dataset import Dataset
    from recsys.reports import show_products, show_rooms
    from recsys.types import Target
    from training.config import TrainingConfig
    from training.judging import run_trial
    from training.room_judging import room_trial_or_reason

    opened = open_bundle(bundle)
    settings = TrainingConfig.from_dict(opened.config, f"{bundle}/manifest.json")
    log = Dataset.load(dataset)
    with progress() as report:
        if len(log.items):
            rows = run_trial(settings, log, Target.ITEM, progress=report).comparison.rows
            show_products(console, rows, segments=True)
        if len(log.rooms) and settings.rooms.enabled is not False:
            rooms = room_trial_or_reason(settings, log, progress=report)
            if isinstance(rooms, str):
                console.print(f"note: {rooms}", style="yellow", highlight=False, markup=False)
            else:
                show_rooms(console, rooms.rows, segments=True)


@app.command()
def promote(
    run: Annotated[str, typer.Argument(help="A run id, a version number, or `challenger`.", metavar="RUN")],
    config: ConfigFiles = None,
    set_: Overrides = None,
) -> None:
    """Make a run's model the champion if it is better by more than chance; says why if not.

    A guard stands in the way where its metric is worse by more than chance or, for one over all lists at once
    such as coverage, by more than its tolerance: see `promote` in configs/default.yaml.

    Example: recsys promote challenger
    """
    from training.config import TrainingConfig
    from training.pipeline import refit
    from training.promote import promote as decide
    from training.tracking import Tracker

    settings = TrainingConfig.load(config, set_ or [])
    with progress() as report:
        decision = decide(run, Tracker(settings.tracking), refit=partial(refit, progress=report))
    for reason in decision.reasons:
        console.print(reason)
    if not decision.promoted:
        raise typer.Exit(1)


@app.command()
def recommend(
    bundle: BundleDir,
    users: Annotated[Path, typer.Option(help="Parquet or CSV with a column user_id.")],
    out: Out,
    k: Annotated[int, typer.Option("-k", help="Products a user.", min=1)] = 20,
    repeat: Annotated[
        RepeatChoice, typer.Option(help="Whether what a user consumed may return.")
    ] = RepeatChoice.AUTO,
) -> None:
    """Products for a batch of users, by the same code that serves requests; on every line of theirs.

    Example: recsys recommend bundle --users users.parquet -k 20 --out products.parquet
    """
    from recsys.batch import recommend_users

    again = {RepeatChoice.AUTO: None, RepeatChoice.YES: True, RepeatChoice.NO: False}[repeat]
    with progress() as report:
        found = recommend_users(bundle, users, out, k=k, repeat=again, progress=report)
    console.print(f"{found.rows:,} rows in {out}")
    if found.without or not found.users:
        why = "can be had" if again is not False else "can be had that they did not consume"
        users_without = f"for {found.without:,} of {found.users:,} users there is no product that {why}"
        console.print(users_without if found.users else f"{users}: there is no user in it", style="yellow")


@app.command()
def hot(
    dataset: DatasetDir,
    out: Out,
    as_of: Annotated[
        str | None, typer.Option(help="Rows before the start of this day (UTC) are known.")
    ] = None,
    horizon: Annotated[
        str | None, typer.Option(help="Days ahead, first:last, both included; 7:15 if not given.")
    ] = None,
    target: Annotated[
        TargetChoice | None, typer.Option(help="What to look for; breakout if not given.")
    ] = None,
    config: ConfigFiles = None,
    set_: Overrides = None,
    backtest: Annotated[
        bool,
        typer.Option(
            "--backtest",
            help="Judge it instead, at every week of the last half of the log, each target if none is given;"
            " --out is a table, and beside it is one of the calibration.",
        ),
    ] = False,
    track: Annotated[bool, typer.Option(help="Record a backtest in MLflow.")] = True,
) -> None:
    """Each product's chance of becoming hot in the days ahead, with grade, bounds and reasons.

    What hot means is set under hot.params.target: by units or by money, in the shop or in the category,
    the top how many. Grades are set under hot.params.grades: S from 10 times the base rate's odds and 30 %,
    A from 5 times and 10 %, B from twice. potential_a_week_ago is what the same model makes of what was known
    seven days earlier.

    Example: recsys hot dataset --as-of 2024-06-01 --horizon 7:15 --out hot.parquet

    Example: recsys hot dataset --target hot --set hot.params.target.scope=category --out hot.parquet
    """
    from recsys.batch import score_hot_items
    from recsys.reports import show_hot
    from training.config import TrainingConfig

    settings = TrainingConfig.load(config, set_ or [])
    params = settings.hot.params.asked(horizon=horizon, target=target)
    if backtest:
        tracking = settings.tracking if track else None
        targets = list(TargetChoice) if target is None else [target]
        _backtest_hot(
            dataset,
            out,
            as_of=_day(as_of),
            each=[params.asked(target=each) for each in targets],
            tracking=tracking,
        )
        return
    with progress() as report:
        scores = score_hot_items(dataset, out, as_of=_day(as_of), params=params, progress=report)
    show_hot(console, scores)
    console.print(f"{scores.table.num_rows:,} products in {out}")


@app.command()
def rooms(
    bundle: BundleDir,
    logs: Annotated[Path, typer.Argument(help="Folder with the log tables.", metavar="LOGS")],
    requests: Annotated[Path, typer.Option(help="Parquet or CSV with columns user_id and at.")],
    out: Out,
    k: Annotated[int, typer.Option("-k", help="Rooms a request.", min=1)] = 10,
) -> None:
    """Replay a log and answer each request with the rooms live then, from what was known before it.

    A log that begins later than what the bundle was trained on goes on where the bundle ends.

    Example: recsys rooms bundle logs --requests requests.csv -k 10 --out rooms.parquet
    """
    from recsys.batch import replay_rooms

    with progress() as report:
        replayed = replay_rooms(bundle, logs, requests, out, k=k, progress=report)
    console.print(f"{replayed.rows:,} rows in {out}")
    if replayed.blind_before is not None:
        console.print(
            f"nothing before {replayed.blind_before:%Y-%m-%d %H:%M} UTC is known to the requests: the log"
            " begins there, later than what the bundle was trained on, and some requests are before the"
            " bundle's moment",
            style="yellow",
        )
    if replayed.rows == 0:
        console.print("no room of the log was live at any of the requests", style="yellow")


app.command()(tune)
app.command()(add_items)
app.command()(deliver)
app.command()(serve)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to work in.")] = Path("demo_out"),
) -> None:
    """The main job, end to end, on the data that comes with the install.

    Example: recsys demo
    """
    from recsys.demo import run_demo

    run_demo(out, console)


def _backtest_hot(
    path: Path,
    out: Path,
    *,
    as_of: date | None,
    each: Sequence[HotParams],
    tracking: TrackingParams | None,
) -> None:
    import pyarrow as pa

    from recsys.data.dataset import Dataset
    from recsys.reports import show_backtest
    from recsys.tables import check_out, write_table
    from training.hot_backtest import hot_backtest
    from training.hot_plots import reliability_table
    from training.tracking import Tracker

    check_out(out)
    curve_out = out.with_stem(f"{out.stem}_reliability")
    tracker = None if tracking is None else Tracker(tracking)
    dataset = Dataset.load(path)
    summaries: list[pa.Table] = []
    curves: list[pa.Table] = []
    for params in each:
        name = params.target.target.value
        try:
            with progress() as report:
                found = hot_backtest(dataset, params, as_of=as_of, tracker=tracker, progress=report)
        except ModelError as error:
            if params is each[-1] and not summaries:
                raise
            console.print(f"{name}: {error}", style="yellow", markup=False)
            continue
        for table, tables in ((found.summary, summaries), (reliability_table(found.reliability), curves)):
            tables.append(table.add_column(0, "target", pa.array([name] * table.num_rows, pa.string())))
        # What one target took so long to find is kept if the next is not finished.
        write_table(pa.concat_tables(summaries), out)
        write_table(pa.concat_tables(curves), curve_out)
        console.print(f"[bold]{name}[/]")
        show_backtest(console, found)
    figures = sum(table.num_rows for table in summaries)
    console.print(f"{figures:,} figures in {out}, the calibration in {curve_out}")


def _time(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: write a time as 2024-06-01 or 2024-06-01T12:00:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--as-of {text!r}: write a day as 2024-06-01") from None


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; bad input is one clear line and exit status 2."""
    try:
        return app(arguments, standalone_mode=True)
    except RecsysError as error:
        _refuse(str(error))
    except MemoryError as error:  # numpy's says how much
        _refuse(f"too little memory: {error}; lower the sizes in the configuration, or take a larger machine")


def _refuse(why: str) -> NoReturn:
    errors.print(Text("recsys: ", style="bold red").append(why, style="not bold default"), soft_wrap=True)
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
