"""Clocks and rows: how long calls take, beside what, and whether a target holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Calls of one work before the next has its turn, so that a busy moment of the machine falls on all alike.
_BLOCK = 20


@dataclass(frozen=True)
class Timings:
    """How long n calls took, each in milliseconds.

    Attributes:
        wall: (n,) by the clock on the wall.
        cpu: (n,) by the processor's, which other programs on the machine do not lengthen.
    """

    wall: npt.NDArray[np.float64]
    cpu: npt.NDArray[np.float64]

    @property
    def p50(self) -> float:
        """Median of the wall clock, ms."""
        return float(np.percentile(self.wall, 50))

    @property
    def p99(self) -> float:
        """99th percentile of the wall clock, ms."""
        return float(np.percentile(self.wall, 99))

    @property
    def cpu_p99(self) -> float:
        """99th percentile of processor time, ms."""
        return float(np.percentile(self.cpu, 99))


def timed(works: Sequence[Callable[[int], object]], calls: int) -> list[Timings]:
    """How long each work takes, called with 0 .. calls - 1; the works take turns in small blocks.

    Args:
        works: what to time.
        calls: of each.
    """
    wall, cpu = np.empty((len(works), calls)), np.empty((len(works), calls))
    for start in range(0, calls, _BLOCK):
        for place, work in enumerate(works):
            for call in range(start, min(start + _BLOCK, calls)):
                began, cpu_began = time.perf_counter_ns(), time.thread_time_ns()
                work(call)
                cpu[place, call] = (time.thread_time_ns() - cpu_began) / 1e6
                wall[place, call] = (time.perf_counter_ns() - began) / 1e6
    return [Timings(wall[place], cpu[place]) for place in range(len(works))]


@dataclass(frozen=True)
class Goal:
    """What a figure should come to; None where nothing is asked.

    Attributes:
        most, least: bounds of the figure itself.
        times_most, times_least: bounds of its ratio to the reference.
        aim: what would be better still, in words.
    """

    most: float | None = None
    least: float | None = None
    times_most: float | None = None
    times_least: float | None = None
    aim: str = ""

    def __str__(self) -> str:
        bounds = (
            ("at most {:g}", self.most),
            ("at least {:g}", self.least),
            ("at most {:g} times", self.times_most),
            ("at least {:g} times", self.times_least),
        )
        asked = ", ".join(text.format(bound) for text, bound in bounds if bound is not None)
        return f"{asked}; aim {self.aim}" if self.aim else asked

    def holds(self, measured: float, ratio: float | None) -> bool:
        """Whether a figure and its ratio are within the bounds; a ratio that is asked for must be there."""
        times = np.nan if ratio is None else ratio
        return bool(
            (self.most is None or measured <= self.most)
            and (self.least is None or measured >= self.least)
            and (self.times_most is None or times <= self.times_most)
            and (self.times_least is None or times >= self.times_least)
        )


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        row: what was measured, with its unit.
        measured: the figure.
        reference: the same of what it is held against, in the same run; None where there is nothing.
        goal: what it should come to; None for a figure that only explains others.
    """

    row: str
    measured: float
    reference: float | None = None
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """measured / reference."""
        return None if not self.reference else self.measured / self.reference

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.goal is None else self.goal.holds(self.measured, self.ratio)


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Columns row, measured, reference, ratio and target."""
    return pa.table(
        {
            "row": pa.array([row.row for row in rows], pa.string()),
            "measured": pa.array([float(f"{row.measured:.4g}") for row in rows], pa.float64()),
            "reference": pa.array([_short(row.reference) for row in rows], pa.float64()),
            "ratio": pa.array([_short(row.ratio) for row in rows], pa.float64()),
            "target": pa.array([str(row.goal or "") for row in rows], pa.string()),
        }
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
