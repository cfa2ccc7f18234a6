"""The comparison table: every model beside every other, with intervals, overall and by segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.evaluation.bootstrap import Interval, bootstrap
from recsys.evaluation.protocol import Report
from recsys.types import BoolArray

ALL = "all"
NEW_ITEMS = "new items"


@dataclass(frozen=True)
class Row:
    """One model in one segment.

    Attributes:
        model: its name.
        segment: `all`, a segment of users, or `new items`.
        n_users: users that the row's means are over.
        values: metric@k -> mean with its interval; the bounds are NaN for values over all lists at once.
    """

    model: str
    segment: str
    n_users: int
    values: Mapping[str, Interval]


def compare(
    reports: Mapping[str, Report],
    segments: Mapping[str, BoolArray],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """Rows for every model: all users first, then each segment, then new items.

    Args:
        reports: model name -> its report over the same users.
        segments: segment name -> (B,) mask of users.
        samples: of the bootstrap.
        seed: of the bootstrap; the same users are drawn for every model.
    """
    rows: list[Row] = []
    for model, report in reports.items():
        n_users = len(next(iter(report.by_user.values())))
        values = {name: bootstrap(v, samples=samples, seed=seed) for name, v in report.by_user.items()}
        values |= {name: Interval(v, float("nan"), float("nan")) for name, v in report.overall.items()}
        rows.append(Row(model, ALL, n_users, values))
        for segment, mask in segments.items():
            inside = {n: bootstrap(v[mask], samples=samples, seed=seed) for n, v in report.by_user.items()}
            rows.append(Row(model, segment, int(mask.sum()), inside))
        n_new = len(next(iter(report.new_items.values())))
        if n_new:
            new = {n: bootstrap(v, samples=samples, seed=seed) for n, v in report.new_items.items()}
            rows.append(Row(model, NEW_ITEMS, n_new, new))
    return rows


def markdown(rows: list[Row], metrics: tuple[str, ...], *, segment: str = ALL) -> str:
    """The rows of one segment as a Markdown table: mean and 95 % interval, the best mean of a metric bold."""
    chosen = [row for row in rows if row.segment == segment]
    best = {m: max((row.values[m].mean for row in chosen if m in row.values), default=0.0) for m in metrics}
    lines = [f"| model | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for row in chosen:
        cells = []
        for metric in metrics:
            value = row.values[metric]
            text = f"{value.mean:.4f}"
            if value.mean == best[metric] and value.lower == value.lower:
                text = f"**{text}**"
            if value.lower == value.lower:
                text += f" ({value.lower:.4f} to {value.upper:.4f})"
            cells.append(text)
        lines.append(f"| {row.model} | {' | '.join(cells)} |")
    return "\n".join(lines)
