"""`recsys demo`: the main job end to end, on real purchases and on a simulated platform, with a report."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule

from recsys.data.dataset import Dataset, to_us
from recsys.data.prepare import prepare
from recsys.data.simulate import SimulationParams, simulate
from recsys.data.sources import import_source
from recsys.durations import DAY_US
from recsys.errors import DataError
from recsys.evaluation.table import ALL, Row
from recsys.hot.params import HotParams
from recsys.hot.score import HotScores, score_hot
from recsys.reports import (
    SHOWN,
    SHOWN_ROOMS,
    grid,
    show_hot,
    show_prepared,
    show_products,
    show_rooms,
    show_simulation,
)
from recsys.types import Behaviour, ExternalId
from serving.answer import Answer
from serving.recommender import Recommender
from training.config import TrainingConfig
from training.hot_plots import hot_followed_figure
from training.pipeline import Trained, refit, train
from training.plots import comparison_figure
from training.promote import promote
from training.tracking import Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The demo must end in minutes on two cores: shorter training than the defaults, nothing else is different.
QUICK = (
    "models.two_tower.params.epochs=2",
    "models.two_tower.params.examples_per_epoch=150000",
    "models.als.params.factors=64",
    "models.co_visitation.params.max_steps=5",
    "models.similar_items.enabled=false",
    "rooms.params.examples.visits=12000",
    "hot.params.learner.rounds=80",
    "hot.params.learner.max_rows=50000",
    "evaluation.k=[10, 20]",
    "evaluation.samples=500",
    "evaluation.max_visits=1000",
)
#: Fewer users and days than the defaults of the simulator, the same products and streamers.
PLATFORM = SimulationParams(users=2_000, days=66, seed=7)
#: Days held back from the hot list of the demo, to see what followed.
HELD_BACK_DAYS = 16


@dataclass
class Report:
    """What goes into the HTML page: headings, sentences, tables and pictures in order."""

    parts: list[dict[str, Any]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """A new section."""
        self.parts.append({"kind": "heading", "text": text})

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append({"kind": "text", "text": text})

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of words and numbers."""
        self.parts.append({"kind": "table", "title": title, "columns": columns, "rows": rows})

    def figure(self, figure: Figure, caption: str) -> None:
        """A picture, inside the page."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        data = base64.b64encode(buffer.getvalue()).decode()
        self.parts.append({"kind": "figure", "data": data, "caption": caption})

    def write(self, path: Path) -> None:
        """One file that needs nothing else."""
        source = files("recsys").joinpath("demo.html").read_text(encoding="utf-8")
        page = jinja2.Environment(autoescape=True).from_string(source)
        path.write_text(page.render(parts=self.parts, made=datetime.now(UTC)), encoding="utf-8")


def run_demo(out: Path, console: Console) -> None:
    """Run both halves in `out`, print short tables, and write `out`/report.html.

    Raises:
        DataError: `out` holds something that no demo made.
    """
    begin = time.perf_counter()
    _clear(out)
    report = Report()
    tracker = Tracker(TrainingConfig().tracking)
    _real_purchases(out / "journey", console, report, tracker)
    _live_platform(out / "platform", console, report, tracker)
    report.write(out / "report.html")
    console.print(Rule(style="dim"))
    console.print(f"report: {(out / 'report.html').resolve()}")
    console.print(
        f"runs:   .venv/bin/mlflow ui --backend-store-uri {tracker.uri}   (then open http://127.0.0.1:5000)"
    )
    console.print(f"done in {time.perf_counter() - begin:.0f} s", style="dim")


def _clear(out: Path) -> None:
    mark = out / ".recsys-demo"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise DataError(f"{out} holds something that no demo made: choose another --out")
    if mark.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()


@contextmanager
def _bar(console: Console, text: str) -> Iterator[Callable[[int, int, str], None]]:
    columns = (SpinnerColumn(), TextColumn(f"{text}: {{task.description}}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total or None, description=what
        )


def _prepared(logs: Path, out: Path, console: Console) -> Dataset:
    with _bar(console, "prepare") as tell:
        summary = prepare(logs, out, progress=lambda stage: tell(0, 0, stage))
    show_prepared(console, summary)
    return Dataset.load(out)


def _trained(
    dataset: Dataset, out: Path, console: Console, report: Report, tracker: Tracker, *settings: str
) -> Trained:
    config = TrainingConfig.load(None, (*QUICK, *settings))
    with _bar(console, "train") as tell:
        trained = train(
            dataset.path, config, out, tracker=tracker, name=f"demo {out.parent.name}", progress=tell
        )
    show_products(console, trained.rows)
    show_rooms(console, trained.room_rows)
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in trained.seconds.items())
    console.print(seconds, style="dim", highlight=False)
    for note in trained.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    if trained.rows:
        report.figure(
            comparison_figure(trained.rows, "ndcg@20"),
            "NDCG@20 in the test window, all available products ranked; bars are 95 % bootstrap intervals.",
        )
        report.table("Products", *_comparison_cells(trained.rows, tuple(SHOWN)))
    if trained.room_rows:
        report.table("Rooms live at a visit", *_comparison_cells(trained.room_rows, tuple(SHOWN_ROOMS)))
    return trained


def _comparison_cells(rows: Sequence[Row], metrics: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for row in rows:
        if row.segment == ALL:
            cells = []
            for metric in metrics:
                value = row.values[metric]
                spread = "" if value.lower != value.lower else f" ({value.lower:.4f} to {value.upper:.4f})"
                cells.append(f"{value.mean:.4f}{spread}")
            lines.append([row.model, *cells])
    return ["model", *metrics], lines


class _Names:
    """Titles and categories of products, for tables that a person can read."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._columns = {name: dataset.items.column(name) for name in ("title", "category")}

    def of(self, item_id: ExternalId) -> tuple[str, str]:
        """Title (or id) and category of a product."""
        index = self._dataset.items.ids.get(item_id)
        found = {}
        for name, column in self._columns.items():
            value = column[index].as_py() if column is not None and index >= 0 else None
            text = " ".join(str(value).split()) if value is not None else ""
            found[name] = text.capitalize() if text.isupper() else text
        return found["title"] or str(item_id), found["category"]


# -- (a) real purchases ------------------------------------------------------------------------------------


def _real_purchases(folder: Path, console: Console, report: Report, tracker: Tracker) -> None:
    console.print(Rule("[bold]Complete Journey: a year of real purchases at one grocer", align="left"))
    report.heading("Complete Journey: a year of real purchases at one grocer")
    with _bar(console, "import") as tell:
        import_source("completejourney", None, folder / "logs", progress=lambda text: tell(0, 0, text))
    dataset = _prepared(folder / "logs", folder / "dataset", console)
    names = _Names(dataset)
    # The hot list comes below, as of an earlier day, so that what followed can be shown.
    trained = _trained(dataset, folder / "bundle", console, report, tracker, "hot.enabled=false")
    _promote(trained, console, report, tracker)
    _answers(trained.bundle, dataset, names, console, report)
    _hot_and_what_followed(dataset, names, console, report)


def _promote(trained: Trained, console: Console, report: Report, tracker: Tracker) -> None:
    if trained.run_id is None:
        return
    decision = promote(trained.run_id, tracker, refit=refit)
    for reason in decision.reasons:
        console.print(reason, highlight=False)
    report.text(" ".join(decision.reasons))


def _answers(bundle: Path, dataset: Dataset, names: _Names, console: Console, report: Report) -> None:
    """What two shoppers bought last, and what the bundle would show them."""
    recommender = Recommender.load(bundle)
    events = dataset.events
    bought = events.behaviour == Behaviour.PURCHASE.code
    busy = np.argsort(-np.bincount(events.user_idx[bought], minlength=len(dataset.users)), kind="stable")
    for user in busy[[20, 200]].tolist():
        user_id = dataset.users.ids.one(user)
        last = events.item_idx[bought & (events.user_idx == user)][-5:]
        bought_last = "; ".join(names.of(dataset.items.ids.one(int(item)))[0] for item in last[::-1])
        answer = recommender.products(user_id, k=6)
        _show_answer(f"Household {user_id}, who bought last: {bought_last}", answer, names, console, report)
    _show_answer(
        "A household nobody has seen before", recommender.products("nobody", k=4), names, console, report
    )


def _show_answer(title: str, answer: Answer, names: _Names, console: Console, report: Report) -> None:
    table = grid(title, "product", "category", "source", "why", whole=("source",))
    rows = []
    for entry in answer:
        name, category = names.of(entry.id)
        rows.append([name, category, entry.source, entry.reason])
        table.add_row(name[:32], *rows[-1][1:])
    if answer.fallback:
        table.caption = f"labelled: {answer.fallback}"
    console.print(table)
    report.table(title, ["product", "category", "source", "why"], rows)


def _hot_and_what_followed(dataset: Dataset, names: _Names, console: Console, report: Report) -> None:
    day = dataset.as_of.date() - timedelta(days=HELD_BACK_DAYS)
    with _bar(console, f"hot items as of {day}") as tell:
        scores = score_hot(dataset, as_of=day, params=_quick_hot(), progress=tell)
    followed = _units_after(dataset, scores, day)
    title = f"Hot items as of {scores.as_of}, days 7 to 15 ahead, and how they then sold"
    columns = ["product", "category", "potential", "grade", "before", "after", "why"]
    numbers = ("potential", "grade", "before", "after")
    table = grid(title, "product", *numbers, "first reason", right=numbers)
    rows = []
    for row, (before, after) in zip(scores.table.slice(0, 8).to_pylist(), followed[:8], strict=True):
        name, category = names.of(row["item_id"])
        potential = f"{row['potential']:.0%} ({row['lower']:.0%}–{row['upper']:.0%})"
        said = [potential, row["grade"], f"{before:.0f}", f"{after:.0f}"]
        rows.append([name, category, *said, row["reasons"]])
        table.add_row(name[:24], *said, row["reasons"].partition(";")[0])
    console.print(table)
    report.table(title, columns, rows)
    top = np.array(followed[:50])
    sentence = (
        f"The 50 best sold {top[:, 0].sum():.0f} units in the nine days before {scores.as_of} and "
        f"{top[:, 1].sum():.0f} in the nine days that were forecast; the base rate of a breakout is "
        f"{scores.base_rate:.1%}."
    )
    console.print(sentence)
    report.text(sentence)
    report.figure(
        hot_followed_figure(dataset, scores, k=12),
        "Daily units of the twelve best: before the day of the list (grey) and in the days after (colour).",
    )


def _quick_hot() -> HotParams:
    return TrainingConfig.load(None, QUICK).hot.params


def _units_after(dataset: Dataset, scores: HotScores, day: date) -> list[tuple[float, float]]:
    """Units of each product, best first: in the nine days before the day, and on days 7 to 15 after it."""
    events = dataset.events
    bought = events.behaviour == Behaviour.PURCHASE.code
    start = to_us(datetime(day.year, day.month, day.day, tzinfo=UTC))
    since = (events.timestamp_us - start) / DAY_US
    units = np.nan_to_num(events.quantity, nan=1.0)

    def total(low: int, high: int) -> np.ndarray[Any, Any]:
        inside = bought & (since >= low) & (since < high)
        return np.bincount(events.item_idx[inside], weights=units[inside], minlength=len(dataset.items))

    before, after = total(-9, 0), total(7, 16)
    return [(float(before[item]), float(after[item])) for item in scores.table["item_idx"].to_pylist()]


# -- (b) a simulated live platform -------------------------------------------------------------------------


def _live_platform(folder: Path, console: Console, report: Report, tracker: Tracker) -> None:
    heading = "A simulated live-commerce platform (nothing below is real)"
    console.print(Rule(f"[bold]{heading}", align="left"))
    report.heading(heading)
    with _bar(console, "simulate") as tell:
        summary = simulate(folder / "logs", PLATFORM, progress=lambda done, n: tell(done, n, "days"))
    show_simulation(console, summary)
    dataset = _prepared(folder / "logs", folder / "dataset", console)
    names = _Names(dataset)
    trained = _trained(dataset, folder / "bundle", console, report, tracker)
    if trained.hot is not None:
        show_hot(console, trained.hot, k=5, name=lambda item_id: names.of(item_id)[0])
    recommender = Recommender.load(trained.bundle)
    counts = np.bincount(dataset.events.user_idx, minlength=len(dataset.users))
    user_id = dataset.users.ids.one(int(np.argsort(-counts, kind="stable")[10]))
    products = recommender.products(user_id, k=5)
    _show_answer(f"Products for viewer {user_id}", products, names, console, report)
    sold_out = products.ids[0]
    recommender.stock_changed(sold_out, 0)
    title = f"{names.of(sold_out)[0]} sells out: the very next answer"
    _show_answer(title, recommender.products(user_id, k=5), names, console, report)
    live = recommender.rooms(user_id, k=4)
    _show_rooms(f"Rooms live now for viewer {user_id}", live, dataset, console, report)
    if live.entries:
        ended = live.ids[0]
        recommender.room_ended(ended)
        title = f"Room {ended} ends: the very next answer"
        _show_rooms(title, recommender.rooms(user_id, k=4), dataset, console, report)
        rooms = recommender.rooms(user_id, k=50).ids
        pitches = {room: recommender.next_products(room, k=4) for room in rooms}
        busiest = max(pitches, key=lambda room: _viewers(pitches[room]), default=None)
        if busiest is not None:
            title = f"What room {busiest} should pitch next, by the lists of those who are in it"
            _show_answer(title, pitches[busiest], names, console, report)


def _viewers(pitch: Answer) -> int:
    """How many of a room's viewers had a vote."""
    return max((int(entry.facts.get("viewers", 0)) for entry in pitch), default=0)


def _show_rooms(title: str, answer: Answer, dataset: Dataset, console: Console, report: Report) -> None:
    columns = ["room", "streamer", "category", "why"]
    table = grid(title, *columns)
    rows = []
    streamers, categories = dataset.rooms.column("streamer_id"), dataset.rooms.column("category")
    for entry in answer:
        index = dataset.rooms.ids.get(entry.id)
        cells = [
            str(column[index].as_py() or "") if column is not None else ""
            for column in (streamers, categories)
        ]
        rows.append([str(entry.id), *cells, entry.reason])
        table.add_row(*rows[-1])
    if answer.shortfall:
        table.caption = answer.shortfall
    console.print(table)
    report.table(title, columns, rows)
