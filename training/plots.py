"""The plots of a run, for people. Each function returns a Figure; matplotlib's global state is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from recsys.data.behaviours import DAY_US
from recsys.data.dataset import Dataset, to_us
from recsys.errors import DataError
from recsys.evaluation.bootstrap import Interval
from recsys.evaluation.table import ALL, NEW_ITEMS, Row
from recsys.hot.params import TargetParams
from recsys.types import Behaviour

if TYPE_CHECKING:
    from recsys.hot.score import HotScores
    from recsys.models.tower_training import LearningPoint

INK = "#20262e"
QUIET = "#8a939e"
GRID = "#e4e7eb"
BLUE = "#2563a8"
ORANGE = "#d9772b"
SHADE = "#fbeee2"

_DPI = 144
_BASELINE = "popular"
_DAYS_BEFORE = 28
_LABEL_WIDTH = 34
#: Tried in this order for every character, so that titles in Chinese are drawn where a font for them is.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK TC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Arial Unicode MS",
)


def comparison_figure(rows: Sequence[Row], metric: str) -> Figure:
    """Every model's mean over all users with its 95 % interval, the best at the top.

    Args:
        rows: the comparison table.
        metric: such as `ndcg@20`.

    Raises:
        DataError: no row has the metric.
    """
    chosen = [row for row in rows if row.segment == ALL and metric in row.values]
    if not chosen:
        raise DataError(
            f"the comparison has no {metric}: choose one of {', '.join(_metrics(rows)) or 'none'}"
        )
    chosen.sort(key=lambda row: row.values[metric].mean)
    figure = _figure(7.2, 1.2 + 0.36 * len(chosen))
    axes = figure.add_subplot()
    best = chosen[-1]
    for place, row in enumerate(chosen):
        value = row.values[metric]
        colour = ORANGE if row is best else QUIET if row.model == _BASELINE else BLUE
        axes.barh(place, value.mean, height=0.62, color=colour, alpha=0.85)
        _interval(axes, value, place)
        right = value.mean if np.isnan(value.upper) else value.upper
        axes.annotate(
            f"{value.mean:.4f}", (right, place), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(chosen)), [_text(row.model) for row in chosen])
    furthest = max(np.fmax(row.values[metric].mean, row.values[metric].upper) for row in chosen)
    axes.set_xlim(0, 1.12 * furthest or 1.0)
    _dress(axes, f"{_pretty(metric)} over {chosen[0].n_users:,} users", grid="x")
    return figure


def segments_figure(rows: Sequence[Row], metric: str, *, model: str) -> Figure:
    """One model beside decayed popularity in every segment: means with 95 % intervals.

    Args:
        rows: the comparison table.
        metric: such as `recall@20`.
        model: the model to show.

    Raises:
        DataError: the model has no row with the metric.
    """
    values = {(row.model, row.segment): row.values[metric] for row in rows if metric in row.values}
    mine = [row for row in rows if row.model == model and metric in row.values]
    if not mine:
        named = ", ".join(dict.fromkeys(row.model for row in rows)) or "none"
        raise DataError(f"the comparison has no {metric} of {model!r}: its models are {named}")
    mine.reverse()
    figure = _figure(7.2, 1.5 + 0.34 * len(mine))
    axes = figure.add_subplot()
    shown = [(model, ORANGE, 0.13)]
    if model != _BASELINE:
        shown.append((_BASELINE, QUIET, -0.13))
    for name, colour, offset in shown:
        places = [place for place, row in enumerate(mine) if (name, row.segment) in values]
        points = [values[name, mine[place].segment] for place in places]
        heights = [place + offset for place in places]
        axes.plot(
            [point.mean for point in points], heights, "o", color=colour, markersize=6, label=_text(name)
        )
        for point, height in zip(points, heights, strict=True):
            _interval(axes, point, height, colour=colour)
    labels = [f"{_segment(row.segment)}  ({row.n_users:,})" for row in mine]
    axes.set_yticks(range(len(mine)), labels)
    axes.set_xlim(left=0)
    _dress(axes, f"{_pretty(metric)} by segment (users)", grid="x")
    _legend(axes)
    return figure


def learning_curve_figure(points: Sequence[LearningPoint]) -> Figure:
    """Training loss, and NDCG@20 on the held-out events where there were any, by step; the best is marked."""
    held_out = [(point.step, point.ndcg) for point in points if point.ndcg is not None]
    figure = _figure(7.2, 4.6 if held_out else 2.8)
    panels = figure.subplots(2 if held_out else 1, 1, sharex=True, squeeze=False)[:, 0]
    loss = panels[0]
    loss.plot(
        [point.step for point in points], [point.loss for point in points], "-o", color=BLUE, markersize=3
    )
    _dress(loss, "Training loss", grid="y")
    if held_out:
        steps, values = zip(*held_out, strict=True)
        best = int(np.argmax(values))
        panels[1].plot(steps, values, "-o", color=BLUE, markersize=3)
        panels[1].plot(steps[best], values[best], "o", color=ORANGE, markersize=7)
        panels[1].annotate(
            f"best {values[best]:.4f} at step {steps[best]:,}",
            (steps[best], values[best]),
            (0, -14),
            textcoords="offset points",
            ha="right" if best > len(steps) // 2 else "left",
            fontsize=9,
        )
        panels[1].margins(y=0.2)
        _dress(panels[1], "NDCG@20 on held-out events", grid="y")
    panels[-1].set_xlabel("step", color=INK, fontsize=9)
    return figure


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
    lower, upper = _wilson(observed, count)
    figure = _figure(5.4, 5.8)
    curve, sizes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top = min(1.0, 1.1 * float(max(predicted.max(), upper.max()))) if len(predicted) else 1.0
    curve.plot([0, top], [0, top], "--", color=QUIET, linewidth=1, label="honest")
    curve.vlines(predicted, lower, upper, color=BLUE, linewidth=1.4)
    curve.plot(predicted, observed, "o", color=BLUE, markersize=5, label="observed, with 95 % interval")
    curve.set_xlim(0, top)
    curve.set_ylim(0, top)
    curve.set_ylabel("share that came about", color=INK, fontsize=9)
    _dress(curve, "Reliability of the hot-item potential", grid="both")
    _legend(curve)
    sizes.bar(predicted, count, width=top / 60, color=QUIET)
    sizes.set_yscale("log")
    sizes.minorticks_off()
    sizes.set_xlabel("potential", color=INK, fontsize=9)
    _dress(sizes, "samples in each bin", grid="y")
    return figure


def hot_followed_figure(dataset: Dataset, scores: HotScores, *, k: int = 12) -> Figure:
    """Daily units of the k best: grey before the day of the list, in colour from then on, as far as is known.

    The days of the default horizon are shaded; units are gross of refunds.

    Args:
        dataset: the log, with as many days after the list as there are.
        scores: the list.
        k: how many products.
    """
    picks = scores.table.slice(0, k).to_pylist()
    horizon = TargetParams().horizon
    days, units = _daily_units(dataset, [pick["item_idx"] for pick in picks], scores, last=horizon.last)
    n_columns = min(3, max(1, len(picks)))
    n_rows = max(1, -(-len(picks) // n_columns))
    figure = _figure(3.0 * n_columns, 0.4 + 1.25 * n_rows)
    panels = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False)
    for panel in panels.flat[len(picks) :]:
        panel.set_axis_off()
    for panel, pick, sold in zip(panels.flat, picks, units, strict=False):
        panel.axvspan(horizon.first - 0.5, horizon.last + 0.5, color=SHADE, zorder=0)
        for part, colour in ((days < 0, QUIET), (days >= 0, ORANGE)):
            panel.bar(days[part], sold[part], width=0.85, color=colour)
        panel.set_xlim(-_DAYS_BEFORE - 0.5, horizon.last + 0.5)
        panel.set_ylim(0, max(1.0, 1.1 * float(sold.max(initial=0.0))))
        heading = f"{pick['grade']}  {pick['potential']:.0%}  {_product(dataset, pick['item_idx'])}"
        _dress(panel, heading, grid=None, size=8)
        panel.tick_params(labelsize=7)
    figure.supxlabel(f"days from {scores.as_of}; shaded: days {horizon.first} to {horizon.last}", fontsize=8)
    return figure


def _daily_units(
    dataset: Dataset, items: Sequence[int], scores: HotScores, *, last: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Days from the list's own (D,), and the units of each item on them (items, D), up to the log's end."""
    start_us = to_us(datetime(scores.as_of.year, scores.as_of.month, scores.as_of.day, tzinfo=UTC))
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
            return _text(words)
    return _text(str(dataset.items.ids.one(item_idx)))


def _wilson(
    share: np.ndarray[tuple[int], np.dtype[np.float64]], n: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """95 % bounds of shares seen in n trials (Wilson, 1927)."""
    z = 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def _interval(axes: Axes, value: Interval, place: float, *, colour: str = INK) -> None:
    if not np.isnan(value.lower):
        axes.hlines(place, value.lower, value.upper, color=colour, linewidth=1.4)


def _dress(axes: Axes, title: str, *, grid: Literal["x", "y", "both"] | None, size: int = 11) -> None:
    """Few lines, a title on the left, and every text in a font that has its characters."""
    axes.set_title(title, loc="left", color=INK, fontsize=size)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    if grid is not None:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    families = list(_installed_fonts())
    for text in (axes.title, *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_fontfamily(families)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, loc="best")


def _metrics(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(metric for row in rows for metric in row.values))


def _pretty(metric: str) -> str:
    name, _, k = metric.partition("@")
    words = {"ndcg": "NDCG", "mrr": "MRR", "head_share": "Share of the top 1 %"}
    return f"{words.get(name, name.replace('_', ' ').capitalize())}@{k}"


def _segment(name: str) -> str:
    words = {ALL: "all users", NEW_ITEMS: "new items", "new": "new users"}
    return _text(words.get(name, name.replace("_", " ").replace("=", " ")))


def _text(words: str) -> str:
    """One short line: no mathematics from `$`, and a box for what no font here can draw."""
    line = " ".join(words.split())
    if len(line) > _LABEL_WIDTH:
        line = f"{line[: _LABEL_WIDTH - 1]}…"
    drawable = "".join(character if _can_draw(character) else "□" for character in line)
    return drawable.replace("$", r"\$")


@cache
def _installed_fonts() -> tuple[str, ...]:
    installed = set(font_manager.get_font_names())
    return tuple(name for name in _FONTS if name in installed)


@cache
def _can_draw(character: str) -> bool:
    return any(
        font_manager.get_font(font_manager.findfont(FontProperties(family=[name]))).get_char_index(
            ord(character)
        )
        for name in _installed_fonts()
    )
