"""What every plot shares: colours, a figure, axes with few lines, and text in a font that can draw it."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from recsys.evaluation.bootstrap import Interval

INK = "#20262e"
QUIET = "#8a939e"
GRID = "#e4e7eb"
BLUE = "#2563a8"
ORANGE = "#d9772b"
SHADE = "#fbeee2"

_DPI = 144
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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches wide and high; matplotlib's global state is left alone."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def draw_interval(axes: Axes, value: Interval, place: float, *, colour: str = INK) -> None:
    """A horizontal line from the lower to the upper bound, where there are bounds."""
    if not np.isnan(value.lower):
        axes.hlines(place, value.lower, value.upper, color=colour, linewidth=1.4)


def dress(axes: Axes, title: str, *, grid: Literal["x", "y", "both"] | None, size: int = 11) -> None:
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


def legend(axes: Axes) -> None:
    """The legend, where it hides least."""
    axes.legend(frameon=False, fontsize=9, loc="best")


def label(words: str) -> str:
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
