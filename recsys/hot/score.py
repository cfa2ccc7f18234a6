"""Score every item as of a day: potential, bounds, rank, grade, expected units and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from recsys.data.dataset import Dataset, Entities
from recsys.hot.calibration import Floats
from recsys.hot.cautions import cautions
from recsys.hot.features import FeatureTable
from recsys.hot.groups import category_codes, memberships
from recsys.hot.model import HotModel, Prediction
from recsys.hot.panel import build_panel
from recsys.hot.params import HotParams
from recsys.hot.reasons import explain, plain_reasons
from recsys.hot.samples import build_training_set, samples_at
from recsys.hot.targets import TargetBuilder
from recsys.types import BoolArray, IntArray, LongArray, Progress

#: Best-ranked items whose reasons are drawn from the model; the others' from their sales alone.
EXPLAINED = 500
#: Columns of `HotScores.table`.
COLUMNS = (
    "item_idx",
    "item_id",
    "potential",
    "rank",
    "grade",
    "lower",
    "upper",
    "expected_units",
    "reasons",
    "flags",
    "potential_a_week_ago",
)


@dataclass(frozen=True)
class HotScores:
    """What is said of every item as of a day.

    Attributes:
        table: one row an item, best first: item_idx int32, item_id in the log's type, potential, lower and
            upper (probabilities, float64), rank int32 from 1, grade (S, A, B, C), expected_units float64 over
            the horizon, reasons (up to three, joined by "; "), flags (what is doubtful of the last week's
            orders and prices, and a stock that does not last; empty for nothing), potential_a_week_ago
            float64: the same model on what was known seven days earlier, null where the item had not been
            seen then.
        as_of: everything before the start of this day, UTC, was known.
        base_rate: share of past samples in which the target came about.
        grades: grade, best first -> its least potential; what is below them all is of grade C.
        gaps: first and last days missing from the log; they are no time at all, not read as no sales.
        training_origins: how many past origins the model learnt from.
    """

    table: pa.Table
    as_of: date
    base_rate: float
    grades: Mapping[str, float]
    gaps: list[tuple[date, date]]
    training_origins: int


def score_hot(
    dataset: Dataset,
    *,
    as_of: date | None = None,
    params: HotParams | None = None,
    progress: Progress | None = None,
) -> HotScores:
    """Fit on the origins before a day, and score every item known by then.

    Items neither seen nor listed in the last `population_days` are not shown to the model: they get the least
    potential of all. Items for which the target has come about already cannot reach it anew: potential 0.

    Args:
        dataset: the log.
        as_of: rows before the start of this day, UTC, are known; by default the day after the last whole one.
        params: the target, its horizon and the learner.
        progress: called as progress(done, total, text).

    Raises:
        DataError: nothing is known before that day, or no event is about an item.
        ModelError: too few days or too few past successes to learn from; says how many more are needed.
    """
    params = params or HotParams()
    panel = build_panel(dataset, as_of=as_of, progress=progress)
    known = dataset.items.known(panel.days.start_us(panel.n_days))
    groups = memberships(known)
    # By what is believed: a faked rise is nothing to learn from, nor does it take a product off the list.
    builder = TargetBuilder(panel.believed, params.target, category_codes(known))
    asked = samples_at(
        panel, np.array([panel.n_days, panel.n_days - 7], dtype=np.int32), params.target.population_days
    )
    training, features = build_training_set(panel, builder, params, groups, asked=asked, progress=progress)
    model = HotModel(params.learner, params.calibration).fit(training, progress=progress)

    is_now = asked.origin == panel.n_days
    now, before = asked.at(is_now), asked.at(~is_now)
    features, past = (features.at(np.flatnonzero(rows)) for rows in (is_now, ~is_now))
    already, already_then = builder.already(now), builder.already(before)
    earlier = model.predict(past, before.origin, (~already_then).astype(np.float32)).potential
    a_week_ago = np.full(panel.n_items, np.nan)
    a_week_ago[before.item_idx] = np.where(already_then, 0.0, earlier)
    prediction = model.predict(features, now.origin, (~already).astype(np.float32))
    # Ties in potential go by the score itself, then by the item's index.
    order = np.lexsort((now.item_idx, -prediction.score, already))
    active = _active(now.item_idx, prediction, already, _reasons(model, features, order, already, params))
    lowest = float(prediction.potential[~already].min(initial=model.base_rate))
    quiet = np.setdiff1d(np.arange(panel.n_items, dtype=np.int32), now.item_idx)
    said = pa.concat_tables([active.take(pa.array(order)), _quiet(quiet, lowest, model.base_rate, params)])
    flags = pa.array(cautions(panel, known, now.item_idx, prediction.expected_units))
    least = params.grades.least(model.base_rate)
    return HotScores(
        table=_ranked(said, known, least, flags, a_week_ago),
        as_of=panel.days.date_of(panel.n_days),
        base_rate=model.base_rate,
        grades=least,
        gaps=panel.days.gaps,
        training_origins=len(np.unique(training.samples.origin)),
    )


def grades(potential: Floats, least: Mapping[str, float]) -> list[str]:
    """Grade of each potential, from the least potential of each but C, of `GradeParams.least`."""
    chosen: list[str] = np.select([potential >= each for each in least.values()], list(least), "C").tolist()
    return chosen


def _reasons(
    model: HotModel, features: FeatureTable, order: LongArray, already: BoolArray, params: HotParams
) -> list[str]:
    """Of every row of the features: of the best of the order from the model, of the rest from their sales."""
    reasons = [""] * len(order)
    n_explained = min(EXPLAINED, int((~already).sum()))
    best, rest = order[:n_explained], order[n_explained:]
    for rows, texts in ((best, explain(model, features, best)), (rest, plain_reasons(features, rest))):
        for row, text in zip(rows, texts, strict=True):
            reasons[row] = text
    for row in np.flatnonzero(already):
        reasons[row] = f"{params.target.target.value.replace('_', ' ')} already, so it cannot become so anew"
    return reasons


def _active(items: IntArray, prediction: Prediction, already: BoolArray, reasons: list[str]) -> pa.Table:
    """What is said of the items that the model was shown."""
    return pa.table(
        {
            "item_idx": pa.array(items, pa.int32()),
            "potential": np.where(already, 0.0, prediction.potential),
            "lower": np.where(already, 0.0, prediction.lower),
            "upper": np.where(already, 0.0, prediction.upper),
            "expected_units": prediction.expected_units,
            "reasons": pa.array(reasons, pa.string()),
        }
    )


def _quiet(items: IntArray, lowest: float, base_rate: float, params: HotParams) -> pa.Table:
    """What is said of the items that it was not shown, `lowest` being the least potential of those it was."""
    silence = f"no sale or other sign in the last {params.target.population_days} days"
    return pa.table(
        {
            "item_idx": pa.array(items, pa.int32()),
            "potential": np.full(len(items), min(lowest, base_rate)),
            "lower": np.zeros(len(items)),
            "upper": np.full(len(items), max(lowest, base_rate)),
            "expected_units": np.zeros(len(items)),
            "reasons": pa.array([silence] * len(items), pa.string()),
        }
    )


def _ranked(
    said: pa.Table, known: Entities, least: Mapping[str, float], flags: pa.Array, a_week_ago: Floats
) -> pa.Table:
    """All items by potential, those of equal potential as they come; flags and last week's are by item."""
    potential = said["potential"].to_numpy()
    said = said.take(pa.array(np.lexsort((np.arange(len(said)), -potential))))
    items, potential = said["item_idx"].to_numpy(), said["potential"].to_numpy()
    return pa.table(
        {
            **{name: said[name] for name in said.column_names},
            "item_id": known.ids.external(items),
            "rank": pa.array(np.arange(1, len(said) + 1), pa.int32()),
            "grade": pa.array(grades(potential, least), pa.string()),
            "flags": flags.take(pa.array(items)),
            "potential_a_week_ago": pa.array(a_week_ago[items], from_pandas=True),
        }
    ).select(COLUMNS)
