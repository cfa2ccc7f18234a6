"""What "hot" means and how its potential is learnt: every default of the hot-item part in one place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from recsys.errors import ConfigError
from recsys.types import Params

#: Of a day of a horizon, at most.
_DIGITS = 4


class HotTarget(StrEnum):
    """Which event the potential is the probability of."""

    BREAKOUT = "breakout"
    NEWLY_HOT = "newly_hot"
    HOT = "hot"


class Measure(StrEnum):
    """What items are compared by: units bought, or the money paid for them."""

    UNITS = "units"
    AMOUNT = "amount"


class Scope(StrEnum):
    """Among which items an item must be at the top."""

    SHOP = "shop"
    CATEGORY = "category"


@dataclass(frozen=True, slots=True)
class Horizon:
    """Days `first` to `last` after the origin, both included; the origin's own day is day 0."""

    first: int
    last: int

    @property
    def days(self) -> int:
        """How many days it spans."""
        return self.last - self.first + 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `a:b`, such as `7:15`.

        Raises:
            ConfigError: not two whole numbers with 0 <= a <= b.
        """
        first, colon, last = text.partition(":")
        days = [part.strip() for part in (first, last)]
        if not (colon and all(part.isdecimal() and len(part) <= _DIGITS for part in days)):
            raise ConfigError(f"horizon {text[:40]!r}: write it as a:b in days, such as 7:15")
        if int(first) > int(last):
            raise ConfigError(f"horizon {text!r}: the first day must not come after the last")
        return cls(int(first), int(last))

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


class TargetParams(Params):
    """When an item counts as hot, newly hot or breaking out.

    Past windows have the horizon's own length. `share` and `min_units` of *hot* and *newly hot* are
    `hot_share` and `hot_min_units`; those of *breakout* are `breakout_share` and `breakout_min_units`.
    """

    target: HotTarget = HotTarget.BREAKOUT
    horizon_first_day: int = Field(7, ge=0)
    horizon_last_day: int = Field(15, ge=0)
    measure: Measure = Measure.UNITS
    scope: Scope = Scope.SHOP
    hot_share: float = Field(0.02, gt=0, lt=1, description="top share by the measure that is hot")
    hot_min_units: float = Field(3.0, ge=0)
    breakout_share: float = Field(0.05, gt=0, lt=1)
    breakout_min_units: float = Field(4.0, ge=0)
    breakout_factor: float = Field(2.0, gt=0, description="least multiple of the item's own recent rate")
    recent_days: int = Field(28, ge=1, description="days that the recent rate is taken over")
    population_days: int = Field(56, ge=1, description="items active within so many days are compared")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.horizon_first_day > self.horizon_last_day:
            first, last = self.horizon_first_day, self.horizon_last_day
            raise ValueError(f"horizon_first_day {first} comes after horizon_last_day {last}")
        return self

    @property
    def horizon(self) -> Horizon:
        """Days ahead that count."""
        return Horizon(self.horizon_first_day, self.horizon_last_day)

    def with_horizon(self, horizon: Horizon) -> Self:
        """The same definition over other days ahead."""
        return self.model_copy(update={"horizon_first_day": horizon.first, "horizon_last_day": horizon.last})


class LearnerParams(Params):
    """How the model is fitted."""

    origin_step_days: int = Field(
        7, ge=1, description="days between two training origins; fewer on a short log"
    )
    max_origins: int = Field(40, ge=1, description="most recent training origins used")
    min_history_days: int = Field(28, ge=7, description="days of log that the first training origin needs")
    min_origins: int = Field(3, ge=2, description="fewer training origins than this are refused")
    max_rows: int = Field(120_000, ge=1_000, description="training rows kept; negatives are thinned beyond")
    bags: int = Field(2, ge=1, description="pairs of models averaged, each of another seed")
    rounds: int = Field(200, ge=1, description="trees of each model")
    learning_rate: float = Field(0.05, gt=0, le=1)
    leaves: int = Field(31, ge=2)
    min_leaf: int = Field(60, ge=1)
    feature_share: float = Field(0.3, gt=0, le=1)
    row_share: float = Field(0.8, gt=0, le=1)
    bins: int = Field(127, ge=15, description="histogram bins of a feature")
    l2: float = Field(5.0, ge=0)
    seed: int = 0
    threads: int = Field(2, ge=1)


class CalibrationParams(Params):
    """How scores become probabilities, and how wide their bounds are."""

    folds: int = Field(
        2, ge=1, description="blocks of later origins, each predicted by a model of earlier ones"
    )
    level: float = Field(0.9, gt=0, lt=1, description="coverage of the bounds")


class GradeParams(Params):
    """Least potential of each grade: a multiple of the base rate's odds and a probability; both must hold."""

    s_odds: float = Field(10.0, gt=0)
    s_probability: float = Field(0.30, ge=0, le=1)
    a_odds: float = Field(5.0, gt=0)
    a_probability: float = Field(0.10, ge=0, le=1)
    b_odds: float = Field(2.0, gt=0)

    def least(self, base_rate: float) -> dict[str, float]:
        """Grade, best first -> its least potential; what is below them all is of grade C."""

        def of(times: float) -> float:
            return times * base_rate / (1.0 - base_rate + times * base_rate)

        return {
            "S": max(of(self.s_odds), self.s_probability),
            "A": max(of(self.a_odds), self.a_probability),
            "B": of(self.b_odds),
        }


class HotParams(Params):
    """Everything that decides a hot-item score."""

    target: TargetParams = TargetParams()
    learner: LearnerParams = LearnerParams()
    calibration: CalibrationParams = CalibrationParams()
    grades: GradeParams = GradeParams()

    def asked(self, *, horizon: str | None = None, target: str | None = None) -> Self:
        """The same with a horizon, written `first:last` in days ahead, and a target, where they are given.

        Raises:
            ConfigError: the horizon cannot be read.
        """
        wanted = self.target if horizon is None else self.target.with_horizon(Horizon.parse(horizon))
        if target is not None:
            wanted = wanted.model_copy(update={"target": HotTarget(target)})
        return self.model_copy(update={"target": wanted})
