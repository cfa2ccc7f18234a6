"""The plots of hot items: how honest the potential is, what followed, and week by week."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from recsys.data.dataset import Dataset, to_us
from recsys.durations import DAY_US
from recsys.hot.backtest import MODEL, BacktestReport
from recsys.hot.params import Horizon, TargetParams
from recsys.types import Behaviour
from training.drawing import BLUE, INK, ORANGE, QUIET, SHADE, dress, label, legend, new_figure

if TYPE_CHECKING:
    from recsys.hot.score import HotScores

_DAYS_BEFORE = 28
_CATEGORIES = 12


def reliability_figure(reliability: pa.Table) -> Figure:
    """How often what was given a potential came about: on the diagonal where potentials are honest.

    Args:
        reliability: predicted, observed (shares) and count of bins, as of `recsys.hot.backtest`. Intervals
            are Wilson's, 95 %.
    """
    predicted, observed, count = (
        reliability[name].to_numpy().astype(np.float64) for name in ("predicted", "observed", "count")
    )
    some = count > 0
    predicted, observed, count = predicted[some], observed[some], count[some]
    lower, upper = wilson(observed, count)
    figure = new_figure(5.4, 5.8)
    curve, sizes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top = min(1.0, 1.1 * float(max(predicted.max(), upper.max()))) if len(predicted) else 1.0
    curve.plot([0, top], [0, top], "--", color=QUIET, linewidth=1, label="honest")
    curve.vlines(predicted, lower, upper, color=BLUE, linewidth=1.4)
    curve.plot(predicted, observed, "o", color=BLUE, markersize=5, label="observed, with 95 % interval")
    curve.set_xlim(0, top)
    curve.set_ylim(0, top)
    curve.set_ylabel("share that came about", color=INK, fontsize=9)
    dress(curve, "Reliability of the hot-item potential", grid="both")
    legend(curve)
    sizes.bar(predicted, count, width=top / 60, color=QUIET)
    sizes.set_yscale("log")
    sizes.minorticks_off()
    sizes.set_xlabel("potential", color=INK, fontsize=9)
    dress(sizes, "samples in each bin", grid="y")
    return figure


def reliability_table(reliability: pa.Table) -> pa.Table:
    """The same as a table, with the bounds `lower` and `upper` of what was observed."""
    observed, count = (reliability[name].to_numpy().astype(np.float64) for name in ("observed", "count"))
    lower, upper = wilson(observed, count)
    return reliability.append_column("lower", pa.array(lower)).append_column("upper", pa.array(upper))


def hot_followed_figure(dataset: Dataset, scores: HotScores, *, k: int = 12) -> Figure:
    """What the k best of a list sold around its day, see `_followed`; the default horizon is shaded.

    Args:
        dataset: the log, with as many days after the list as there are.
        scores: the list.
        k: how many products.
    """
    picks = scores.table.slice(0, k).to_pylist()
    headings = [f"{pick['grade']}  {pick['potential']:.0%}" for pick in picks]
    items = [pick["item_idx"] for pick in picks]
    return _followed(dataset, items, headings, scores.as_of, TargetParams().horizon)


def hot_picks_figure(dataset: Dataset, report: BacktestReport, horizon: Horizon, *, k: int = 12) -> Figure:
    """What the k best of a backtest's last origin sold around it, see `_followed`.

    Args:
        dataset: the log.
        report: the backtest.
        horizon: days that were asked about.
        k: how many products.
    """
    samples, said = report.judged.samples, report.judged.prediction
    origin = int(samples.origin.max())
    rows = np.flatnonzero(samples.origin == origin)
    best = rows[np.argsort(-said.score[rows], kind="stable")[:k]]
    headings = [f"{potential:.0%}" for potential in said.potential[best]]
    items = samples.item_idx[best].tolist()
    return _followed(dataset, items, headings, report.panel.days.date_of(origin), horizon)


def _followed(
    dataset: Dataset, items: Sequence[int], headings: Sequence[str], as_of: date, horizon: Horizon
) -> Figure:
    """Daily units of products: grey before a day, in colour from then on, as far as is known.

    The days of the horizon are shaded; units are gross of refunds.
    """
    days, units = _daily_units(dataset, items, as_of, last=horizon.last)
    n_columns = min(3, max(1, len(items)))
    n_rows = max(1, -(-len(items) // n_columns))
    figure = new_figure(3.0 * n_columns, 0.4 + 1.25 * n_rows)
    panels = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False)
    for panel in panels.flat[len(items) :]:
        panel.set_axis_off()
    for panel, item, heading, sold in zip(panels.flat, items, headings, units, strict=False):
        panel.axvspan(horizon.first - 0.5, horizon.last + 0.5, color=SHADE, zorder=0)
        for part, colour in ((days < 0, QUIET), (days >= 0, ORANGE)):
            panel.bar(days[part], sold[part], width=0.85, color=colour)
        panel.set_xlim(-_DAYS_BEFORE - 0.5, horizon.last + 0.5)
        panel.set_ylim(0, max(1.0, 1.1 * float(sold.max(initial=0.0))))
        dress(panel, f"{heading}  {_product(dataset, item)}", grid=None, size=8)
        panel.tick_params(labelsize=7)
    figure.supxlabel(f"days from {as_of}; shaded: days {horizon.first} to {horizon.last}", fontsize=8)
    return figure


def _daily_units(
    dataset: Dataset, items: Sequence[int], as_of: date, *, last: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Days from `as_of` (D,), and the units of each item on them (items, D), up to the log's end."""
    start_us = to_us(datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC))
    known = min(last, (dataset.as_of_us - 1 - start_us) // DAY_US)
    days = np.arange(-_DAYS_BEFORE, known + 1)
    events = dataset.events
    day = (events.timestamp_us - start_us) // DAY_US
    of_item = np.full(len(dataset.items), -1)
    of_item[list(items)] = np.arange(len(items))
    rows = np.flatnonzero(
        (events.behaviour == Behaviour.PURCHASE.code)
        & (events.item_idx >= 0)
        & (day >= -_DAYS_BEFORE)
        & (day <= known)
    )
    place = of_item[events.item_idx[rows]]
    rows, place = rows[place >= 0], place[place >= 0]
    units = np.zeros((len(items), len(days)))
    np.add.at(units, (place, day[rows] + _DAYS_BEFORE), np.nan_to_num(events.quantity[rows], nan=1.0))
    return days, units


def _product(dataset: Dataset, item_idx: int) -> str:
    """The product's title, else its category and id, short enough for a heading."""
    for name in ("title", "category"):
        column = dataset.items.column(name)
        value = None if column is None else column[item_idx].as_py()
        if value is not None:
            words = str(value) if name == "title" else f"{value} {dataset.items.ids.one(item_idx)}"
            return label(words)
    return label(str(dataset.items.ids.one(item_idx)))


def precision_by_week_figure(by_origin: pa.Table, metric: str) -> Figure:
    """The model beside the rule that is best on average, at every weekly origin.

    Args:
        by_origin: of a `BacktestReport`.
        metric: such as `precision_at_50`.
    """
    rows = by_origin.filter(pc.equal(by_origin["metric"], metric))
    values: dict[str, dict[date, float]] = {}
    for row in rows.to_pylist():
        values.setdefault(row["ranking"], {})[row["origin"]] = row["value"]
    rules = {name: np.nanmean(list(of.values())) for name, of in values.items() if name != MODEL}
    days = sorted(values[MODEL])
    shown = [(MODEL, BLUE)]
    if rules:
        best = max(rules, key=lambda name: rules[name])
        shown.append((best, ORANGE))
    figure = new_figure(7.6, 3.2)
    axes = figure.subplots()
    for name, colour in shown:
        found = [values[name].get(day, np.nan) for day in days]
        axes.plot(range(len(days)), found, "-o", color=colour, markersize=3, label=name.replace("_", " "))
    axes.set_ylim(bottom=0)
    every = max(1, len(days) // 8)
    labels = [day.isoformat() for day in days]
    axes.set_xticks(range(0, len(days), every), labels[::every], rotation=30, ha="right")
    dress(axes, f"{metric.replace('_', ' ')}, week by week", grid="y")
    legend(axes)
    return figure


def category_heat_figure(report: BacktestReport, categories: tuple[str, ...]) -> Figure:
    """Mean potential of each category's items at every origin, the categories with most items at the top.

    Args:
        report: of the backtest.
        categories: name of each category code.
    """
    judged = report.judged
    origins = np.unique(judged.samples.origin)
    codes, counts = np.unique(judged.category, return_counts=True)
    top = codes[np.argsort(-counts, kind="stable")][:_CATEGORIES]
    means = np.full((len(top), len(origins)), np.nan)
    for row, code in enumerate(top):
        mine = judged.category == code
        for column, origin in enumerate(origins):
            at = mine & (judged.samples.origin == origin)
            if at.any():
                means[row, column] = judged.prediction.potential[at].mean()
    figure = new_figure(8.0, 0.9 + 0.32 * len(top))
    axes = figure.subplots()
    picture = axes.imshow(means, aspect="auto", cmap="YlOrRd", vmin=0)
    names = [categories[code] if 0 <= code < len(categories) else "no category" for code in top]
    axes.set_yticks(range(len(top)), [label(name) for name in names])
    every = max(1, len(origins) // 8)
    days = [report.panel.days.date_of(int(origin)).isoformat() for origin in origins]
    axes.set_xticks(range(0, len(origins), every), days[::every], rotation=30, ha="right")
    bar = figure.colorbar(picture, ax=axes, pad=0.01)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(QUIET)
    dress(axes, "Mean potential by category and week", grid=None)
    return figure


def wilson(
    share: np.ndarray[tuple[int], np.dtype[np.float64]], n: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """95 % bounds of shares seen in n trials (Wilson, 1927)."""
    z = 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
