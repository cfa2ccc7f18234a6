"""The plots of a run, for people. Each function returns a Figure; matplotlib's global state is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from recsys.errors import DataError
from recsys.evaluation.table import ALL, NEW_ITEMS, Row
from training.drawing import BLUE, INK, ORANGE, QUIET, draw_interval, dress, label, legend, new_figure

if TYPE_CHECKING:
    from recsys.models.tower_training import LearningPoint

_BASELINE = "popular"


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
    figure = new_figure(7.2, 1.2 + 0.36 * len(chosen))
    axes = figure.add_subplot()
    best = chosen[-1]
    for place, row in enumerate(chosen):
        value = row.values[metric]
        colour = ORANGE if row is best else QUIET if row.model == _BASELINE else BLUE
        axes.barh(place, value.mean, height=0.62, color=colour, alpha=0.85)
        draw_interval(axes, value, place)
        right = value.mean if np.isnan(value.upper) else value.upper
        axes.annotate(
            f"{value.mean:.4f}", (right, place), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(chosen)), [label(row.model) for row in chosen])
    furthest = max(np.fmax(row.values[metric].mean, row.values[metric].upper) for row in chosen)
    axes.set_xlim(0, 1.12 * furthest or 1.0)
    dress(axes, f"{_pretty(metric)} over {chosen[0].n_users:,} users", grid="x")
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
    figure = new_figure(7.2, 1.5 + 0.34 * len(mine))
    axes = figure.add_subplot()
    shown = [(model, ORANGE, 0.13)]
    if model != _BASELINE:
        shown.append((_BASELINE, QUIET, -0.13))
    for name, colour, offset in shown:
        places = [place for place, row in enumerate(mine) if (name, row.segment) in values]
        points = [values[name, mine[place].segment] for place in places]
        heights = [place + offset for place in places]
        axes.plot(
            [point.mean for point in points], heights, "o", color=colour, markersize=6, label=label(name)
        )
        for point, height in zip(points, heights, strict=True):
            draw_interval(axes, point, height, colour=colour)
    labels = [f"{_segment(row.segment)}  ({row.n_users:,})" for row in mine]
    axes.set_yticks(range(len(mine)), labels)
    axes.set_xlim(left=0)
    dress(axes, f"{_pretty(metric)} by segment (users)", grid="x")
    legend(axes)
    return figure


def learning_curve_figure(points: Sequence[LearningPoint]) -> Figure:
    """Training loss, and NDCG@20 on the held-out events where there were any, by step; the best is marked."""
    held_out = [(point.step, point.ndcg) for point in points if point.ndcg is not None]
    figure = new_figure(7.2, 4.6 if held_out else 2.8)
    panels = figure.subplots(2 if held_out else 1, 1, sharex=True, squeeze=False)[:, 0]
    loss = panels[0]
    loss.plot(
        [point.step for point in points], [point.loss for point in points], "-o", color=BLUE, markersize=3
    )
    dress(loss, "Training loss", grid="y")
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
        dress(panels[1], "NDCG@20 on held-out events", grid="y")
    panels[-1].set_xlabel("step", color=INK, fontsize=9)
    return figure


def _metrics(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(metric for row in rows for metric in row.values))


def _pretty(metric: str) -> str:
    name, _, k = metric.partition("@")
    words = {"ndcg": "NDCG", "mrr": "MRR", "head_share": "Share of the top 1 %"}
    return f"{words.get(name, name.replace('_', ' ').capitalize())}@{k}"


def _segment(name: str) -> str:
    words = {ALL: "all users", NEW_ITEMS: "new items", "new": "new users"}
    return label(words.get(name, name.replace("_", " ").replace("=", " ")))
