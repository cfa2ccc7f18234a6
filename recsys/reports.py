"""What the command line prints: short tables that a person can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from recsys.evaluation.bootstrap import Interval
from recsys.evaluation.table import ALL, Row
from recsys.search import Value
from recsys.types import ExternalId

if TYPE_CHECKING:
    from recsys.bench.timing import Row as BenchRow
    from recsys.data.prepare import PrepareSummary
    from recsys.data.simulate import SimulationSummary
    from recsys.data.sources import ImportSummary
    from recsys.hot.backtest import BacktestReport
    from recsys.hot.score import HotScores
    from training.pipeline import Trained
    from training.tuning import Tuned

#: Metrics of the comparison table and the heads of their columns: they fit a terminal of 80 characters.
SHOWN = {
    "ndcg@20": "NDCG@20",
    "recall@20": "recall@20",
    "hit_rate@20": "hit@20",
    "coverage@20": "coverage",
    "head_share@20": "to top 1 %",
}
#: The same of rooms.
SHOWN_ROOMS = {"ndcg@10": "NDCG@10", "recall@10": "recall@10", "mrr@10": "MRR@10", "coverage@10": "coverage"}
#: The same of hot items.
SHOWN_HOT = {
    "average_precision": "avg. precision",
    "precision_at_50": "P@50",
    "recall_top_2_percent": "in top 2 %",
    "matched_lift_50": "lift",
    "median_lead_days": "lead days",
    "sold_out_50": "then out",
}
#: Quarantine reasons shown in full; the rest is in the Dataset's manifest.
MAX_REASONS = 12


def grid(title: str, *columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers, those in `whole` words that do not wrap."""
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in (*right, *whole),
            overflow="fold",
        )
    return table


def interval_text(value: Interval) -> str:
    """The mean, and the interval where there is one."""
    if value.lower != value.lower:
        return f"{value.mean:.3f}"
    return f"{value.mean:.4f} [dim]({value.lower:.3f}–{value.upper:.3f})[/]"


def show_simulation(console: Console, summary: SimulationSummary) -> None:
    """Counts, rates beside their targets, and how hard the platform's two problems are."""
    console.print(
        f"{summary.events:,} events of {summary.users:,} users, {summary.items:,} products, "
        f"{summary.streamers:,} streamers and {summary.rooms:,} rooms in {summary.out}"
    )
    table = grid("Rates of the log", "rate", "value", "target", right=("value",))
    for rate in summary.rates:
        low, high = rate.target
        table.add_row(rate.name, f"{rate.value:.3g}", f"{low:g}" if low == high else f"{low:g} to {high:g}")
    console.print(table)
    hot = summary.hot_ceiling
    if hot is not None:
        console.print(
            f"Hot products, precision@50 over {hot.origins} weeks, 7 to 15 days ahead: recent sales alone "
            f"{hot.sales:.2f}, ranking by the truth {hot.truth:.2f}"
        )
    rooms = summary.room_headroom
    if rooms is not None:
        console.print(
            f"Rooms, NDCG@10 over all {rooms.live_rooms:.0f} live: decayed visit count "
            f"{rooms.baseline:.3f}, ranking by the truth {rooms.truth:.3f} ({rooms.requests:,} requests, "
            f"{rooms.repeats:.0%} returns)"
        )


def show_import(console: Console, summary: ImportSummary) -> None:
    """Rows written, and rows left out with the reason."""
    for table, rows in summary.rows.items():
        console.print(f"{rows:>12,} {table}")
    for raw, reasons in summary.skipped.items():
        for reason, rows in reasons.items():
            console.print(f"{rows:>12,} rows of {raw} left out: {reason}", style="yellow")
    console.print(f"log tables in {summary.out}")


def show_prepared(console: Console, summary: PrepareSummary) -> None:
    """Counts, the time span, and what is in quarantine."""
    entities = ", ".join(f"{n:,} {kind}s" for kind, n in summary.entities.items() if n)
    console.print(f"{summary.rows['events']:,} events, {entities}")
    console.print(f"{summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M} UTC")
    console.print(", ".join(f"{name} {n:,}" for name, n in summary.behaviours.items()))
    for fault in summary.quarantined[:MAX_REASONS]:
        console.print(
            f"quarantined {fault.rows:,} of {fault.table}: {fault.reason}", style="yellow", highlight=False
        )
        console.print(f"    as in {fault.example[:160]}", style="dim", highlight=False, markup=False)
    if len(summary.quarantined) > MAX_REASONS:
        console.print(f"and {len(summary.quarantined) - MAX_REASONS} more reasons: see dataset.json")
    for table in summary.unmatched:
        console.print(
            f"none of the {table.rows:,} ids of {table.table} occurs in the rest of the log,"
            f" {table.example!r} beside {table.elsewhere!r}:"
            f" what {table.table} says is of nothing that anybody did",
            style="yellow",
            highlight=False,
            markup=False,
        )
    for column in summary.dropped_columns:
        console.print(f"column {column} is of a type that no model reads", style="yellow")
    console.print(f"Dataset in {summary.path}")


def show_products(console: Console, rows: list[Row], *, segments: bool = False) -> None:
    """Every model of products beside every other, over all judged users and, if asked, by segment."""
    _show_comparison(console, rows, "Products", SHOWN, segments)


def show_rooms(console: Console, rows: list[Row], *, segments: bool = False) -> None:
    """The same of the rooms live at a visit, one visit of each user."""
    _show_comparison(console, rows, "Rooms live at a visit", SHOWN_ROOMS, segments)


def _show_comparison(
    console: Console, rows: list[Row], what: str, shown: Mapping[str, str], segments: bool
) -> None:
    overall = [row for row in rows if row.segment == ALL]
    metrics = [metric for metric in shown if overall and metric in overall[0].values]
    if not metrics:
        return
    heads = tuple(shown[metric] for metric in metrics)
    title = f"{what}, test window, {overall[0].n_users:,} users: means, with the 95 % interval of {heads[0]}"
    table = grid(title, "model", *heads, right=heads, whole=("model",))
    for row in overall:
        first, *rest = (row.values[metric] for metric in metrics)
        table.add_row(row.model, interval_text(first), *(f"{value.mean:.3f}" for value in rest))
    console.print(table)
    if not segments:
        return
    for segment in dict.fromkeys(row.segment for row in rows if row.segment != ALL):
        inside = [row for row in rows if row.segment == segment]
        metrics = [metric for metric in shown if metric in inside[0].values][:2]
        heads = tuple(shown[metric] for metric in metrics)
        table = grid(
            f"{segment}, {inside[0].n_users:,} users", "model", *heads, right=heads, whole=("model",)
        )
        for row in inside:
            table.add_row(row.model, *(interval_text(row.values[metric]) for metric in metrics))
        console.print(table)


def show_trained(console: Console, trained: Trained) -> None:
    """The comparison, what was left out, how long it took, and where things are."""
    show_products(console, trained.rows)
    show_rooms(console, trained.room_rows)
    for note in trained.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    console.print(
        ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in trained.seconds.items()), style="dim"
    )
    if trained.run_id is not None:
        console.print(f"MLflow run {trained.run_id}, registered as challenger")
    console.print(f"bundle in {trained.bundle}")


def show_tuned(console: Console, tuned: Tuned, *, k: int = 5) -> None:
    """The k best trials, what failed, and where the best is written."""
    title = f"{tuned.model}: {tuned.metric} in the validation windows, {tuned.users:,} users"
    table = grid(title, "trial", tuned.metric, "s", "settings", right=("trial", tuned.metric, "s"))
    complete = [attempt for attempt in tuned.attempts if attempt.state == "complete"]
    for attempt in sorted(complete, key=lambda attempt: -(attempt.value or 0.0))[:k]:
        settings = ", ".join(f"{key}={_value(value)}" for key, value in attempt.settings.items())
        table.add_row(str(attempt.number), f"{attempt.value:.4f}", f"{attempt.seconds:.0f}", settings)
    console.print(table)
    for attempt in tuned.attempts:
        if attempt.state == "failed":
            note = f"note: trial {attempt.number} failed: {attempt.reason}"
            console.print(note, style="yellow", highlight=False, markup=False)
    pruned = sum(attempt.state == "pruned" for attempt in tuned.attempts)
    given = "failed" if tuned.as_given is None else f"{tuned.as_given:.4f}"
    console.print(f"{len(tuned.attempts)} trials, {pruned} pruned; as configured: {given}")
    if tuned.run_id is not None:
        console.print(f"MLflow run {tuned.run_id}")
    console.print(f"best settings in {tuned.file}")


def _value(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_backtest(console: Console, report: BacktestReport) -> None:
    """Every ranking of hot items beside every other: means over the weekly origins, the model's first."""
    _show_gaps(console, report.panel.days.gaps)
    metrics = dict.fromkeys(name for name in report.summary["metric"].to_pylist() if name in SHOWN_HOT)
    rows: dict[str, dict[str, Interval]] = {}
    for row in report.summary.to_pylist():
        found = Interval(row["mean"], row["lower"], row["upper"])
        rows.setdefault(row["ranking"], {})[row["metric"]] = found
    heads = tuple(SHOWN_HOT[name] for name in metrics)
    origins = len(set(report.by_origin["origin"].to_pylist()))
    title = f"{origins} weekly origins: means, with the 95 % interval of {heads[0]}"
    table = grid(title, "ranking", *heads, right=heads, whole=("ranking",))
    for ranking, values in rows.items():
        first, *rest = (values[name] for name in metrics)
        table.add_row(ranking, interval_text(first), *(f"{value.mean:.3f}" for value in rest))
    console.print(table)
    said, seen, skill = (report.mean(name).mean for name in ("potential_mean", "base_rate", "brier_skill"))
    console.print(
        f"calibration: mean potential {said:.2%}, observed {seen:.2%}; Brier skill over the base rate "
        f"{skill:.3f}"
    )


def _show_gaps(console: Console, gaps: Sequence[tuple[date, date]]) -> None:
    for first, last in gaps:
        console.print(f"the log has nothing from {first} to {last}: no time passes in it", style="yellow")


def show_hot(
    console: Console, scores: HotScores, *, k: int = 10, name: Callable[[ExternalId], str] = str
) -> None:
    """The k best products, named by `name`, with grade, bounds and the first reason."""
    _show_gaps(console, scores.gaps)
    table = grid(
        f"As of {scores.as_of}: base rate {scores.base_rate:.1%}, {scores.training_origins} past origins",
        "rank",
        "product",
        "potential",
        "range",
        "grade",
        "first reason",
        right=("rank", "potential"),
        whole=("range", "grade"),
    )
    for row in scores.table.slice(0, k).to_pylist():
        bounds = f"{row['lower']:.0%}–{row['upper']:.0%}"
        table.add_row(
            str(row["rank"]),
            name(row["item_id"]),
            f"{row['potential']:.1%}",
            bounds,
            row["grade"],
            row["reasons"].partition(";")[0],
        )
    console.print(table)
    least = ", ".join(f"{grade} from {potential:.1%}" for grade, potential in scores.grades.items())
    console.print(f"grades by potential: {least}, below it C")


def show_bench(console: Console, rows: list[BenchRow]) -> None:
    """The rows of a benchmark beside their targets."""
    numbers = ("measured", "reference", "ratio")
    table = grid("", "what", *numbers, "", "target", right=numbers)
    for row in rows:
        values = (row.measured, row.reference, row.ratio)
        figures = ("" if value is None else f"{value:,.4g}" for value in values)
        mark = {None: "", True: "[green]holds[/]", False: "[red]missed[/]"}[row.holds]
        table.add_row(row.row, *figures, mark, str(row.goal or ""))
    console.print(table)
