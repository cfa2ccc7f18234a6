"""Plots: they draw what they are given, name what they cannot, and any title is drawable."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from recsys.data.dataset import Dataset
from recsys.errors import DataError
from recsys.evaluation.bootstrap import Interval
from recsys.evaluation.table import ALL, NEW_ITEMS, Row
from recsys.hot.score import HotScores
from recsys.models.tower_training import LearningPoint
from training.hot_plots import hot_followed_figure, reliability_figure
from training.plots import comparison_figure, learning_curve_figure, segments_figure

NAN = float("nan")
ROWS = [
    Row("als", ALL, 900, {"ndcg@20": Interval(0.2, 0.18, 0.22), "coverage@20": Interval(0.5, NAN, NAN)}),
    Row("als", "new", 90, {"ndcg@20": Interval(0.1, 0.05, 0.15)}),
    Row("als", "city_tier=一线 $5 and $6", 30, {"ndcg@20": Interval(0.3, 0.2, 0.4)}),
    Row("als", NEW_ITEMS, 12, {"recall@20": Interval(0.3, 0.2, 0.4)}),
    Row("popular", ALL, 900, {"ndcg@20": Interval(0.1, 0.09, 0.11), "coverage@20": Interval(0.1, NAN, NAN)}),
    Row("popular", "new", 90, {"ndcg@20": Interval(0.11, 0.06, 0.16)}),
]


def drawn(figure: Figure) -> Image.Image:
    """The figure as a picture; a warning of matplotlib on the way fails the test."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer)
    assert len(np.unique(np.asarray(picture.convert("L")))) > 2
    return picture


def segments_of(figure: Figure, *, panel: int = 0) -> list[list[float]]:
    """Every interval line as [lower, upper, place]."""
    lines = [c for c in figure.axes[panel].collections if isinstance(c, LineCollection)]
    return [[path[0][0], path[1][0], path[0][1]] for c in lines for path in c.get_segments()]


def rectangles(figure: Figure, panel: int) -> list[Rectangle]:
    return [patch for patch in figure.axes[panel].patches if isinstance(patch, Rectangle)]


def test_importing_the_plots_leaves_pyplot_alone() -> None:
    code = "import sys, training.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_comparison_puts_the_best_on_top_with_its_interval() -> None:
    figure = comparison_figure(ROWS, "ndcg@20")
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["popular", "als"]
    assert [bar.get_width() for bar in rectangles(figure, 0)] == [0.1, 0.2]
    assert segments_of(figure) == [[0.09, 0.11, 0], [0.18, 0.22, 1]]
    assert [text.get_text() for text in axes.texts] == ["0.1000", "0.2000"]
    assert axes.get_title(loc="left") == "NDCG@20 over 900 users"
    assert drawn(figure).width > 800


def test_comparison_of_a_metric_without_intervals_draws_none() -> None:
    figure = comparison_figure(ROWS, "coverage@20")
    assert segments_of(figure) == []
    assert figure.axes[0].get_xlim()[1] == pytest.approx(0.56)
    drawn(figure)


def test_an_unknown_metric_or_model_names_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no mrr@5: choose one of ndcg@20, coverage@20, recall@20"):
        comparison_figure(ROWS, "mrr@5")
    with pytest.raises(DataError, match="of 'bpr': its models are als, popular"):
        segments_figure(ROWS, "ndcg@20", model="bpr")


def test_segments_pair_a_model_with_popularity_where_both_have_a_value() -> None:
    figure = segments_figure(ROWS, "ndcg@20", model="als")
    mine, popular = figure.axes[0].lines
    assert list(np.asarray(mine.get_xdata(), dtype=float)) == [0.3, 0.1, 0.2]
    assert list(np.asarray(popular.get_xdata(), dtype=float)) == [0.11, 0.1]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[1:] == ["new users  (90)", "all users  (900)"]
    assert labels[0].endswith(r"\$5 and \$6  (30)")
    drawn(figure)


def test_segments_of_popularity_show_it_once() -> None:
    assert len(segments_figure(ROWS, "ndcg@20", model="popular").axes[0].lines) == 1


def test_learning_curve_marks_the_best_step() -> None:
    values = [0.1, 0.3, 0.2]
    points = [
        LearningPoint(step, 2.0 / step, None, value) for step, value in zip((1, 2, 3), values, strict=True)
    ]
    figure = learning_curve_figure(points)
    loss, ndcg = figure.axes
    assert list(np.asarray(loss.lines[0].get_ydata(), dtype=float)) == [2.0, 1.0, 2.0 / 3]
    assert [text.get_text() for text in ndcg.texts] == ["best 0.3000 at step 2"]
    drawn(figure)


def test_learning_curve_without_held_out_events_is_the_loss_alone() -> None:
    figure = learning_curve_figure([LearningPoint(1, 2.0), LearningPoint(2, 1.0)])
    assert len(figure.axes) == 1
    drawn(figure)


def test_reliability_shows_wilson_intervals_and_leaves_empty_bins_out() -> None:
    table = pa.table({"predicted": [0.1, 0.5, 0.9], "observed": [0.0, 0.5, NAN], "count": [10, 100, 0]})
    figure = reliability_figure(table)
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    bounds = [[path[0][1], path[1][1]] for c in lines for path in c.get_segments()]
    # Wilson at 0 of 10: upper z² / (n + z²); at 50 of 100: 0.5 ∓ z / (2 sqrt(n + z²)).
    z2 = 1.959964**2
    half = np.sqrt(z2) / (2 * np.sqrt(100 + z2))
    np.testing.assert_allclose(bounds, [[0, z2 / (10 + z2)], [0.5 - half, 0.5 + half]], atol=1e-12)
    drawn(figure)


def hot_list(dataset: Dataset, as_of: date, items: list[str]) -> HotScores:
    index = dataset.items.ids.index(items)
    n = len(items)
    table = pa.table({"item_idx": index, "potential": [0.5] * n, "grade": ["S"] * n})
    return HotScores(table=table, as_of=as_of, base_rate=0.05, grades={}, gaps=[], training_origins=9)


def shop(make_dataset: Callable[..., Dataset], *, days: int) -> Dataset:
    """Two units of `a` every day at noon from 1 January, one purchase of `b` without a quantity on day 3."""
    first = datetime(2026, 1, 1, 12, tzinfo=UTC)
    events = [
        {
            "user_id": "u",
            "event": "purchase",
            "item_id": "a",
            "timestamp": (first + timedelta(days=day)).isoformat(),
            "quantity": 2.0,
        }
        for day in range(days)
    ]
    events.append(events[3] | {"item_id": "b", "quantity": None})
    events.append(events[4] | {"event": "view"})
    titles = [
        {
            "item_id": "a",
            "title": "水乳套装 🎁 $9.9 and $19.9, a title far too long for a heading",
            "category": "x",
        },
        {"item_id": "b", "title": None, "category": "soap"},
    ]
    return make_dataset(events, items=titles)


def bars(figure: Figure, panel: int) -> dict[int, float]:
    """Day -> units of one product, without the shading."""
    heights = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in rectangles(figure, panel)[1:]}
    return {day: height for day, height in heights.items() if height}


def test_hot_picks_show_units_by_day_before_and_after_the_list(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset, days=30)
    figure = hot_followed_figure(dataset, hot_list(dataset, date(2026, 1, 11), ["a", "b"]))
    assert bars(figure, 0) == dict.fromkeys(range(-10, 16), 2.0)
    assert bars(figure, 1) == {-7: 1.0}
    assert figure.axes[1].get_title(loc="left") == "S  50%  soap b"
    drawn(figure)


def test_hot_picks_at_the_end_of_the_log_have_nothing_after(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset, days=10)
    figure = hot_followed_figure(dataset, hot_list(dataset, date(2026, 1, 11), ["b", "a"]), k=1)
    assert len([axes for axes in figure.axes if axes.axison]) == 1
    assert bars(figure, 0) == {-7: 1.0}
    drawn(figure)


def test_an_empty_hot_list_is_an_empty_figure(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset, days=10)
    figure = hot_followed_figure(dataset, hot_list(dataset, date(2026, 1, 5), []))
    assert not any(axes.axison for axes in figure.axes)
