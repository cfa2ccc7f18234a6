"""Rolling origins: what would have been said every week, by a model refitted as in life."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import Dataset, Entities
from recsys.errors import ModelError
from recsys.evaluation.bootstrap import Interval, bootstrap
from recsys.hot import judging
from recsys.hot.baselines import decayed_units, plain_lags, rankings
from recsys.hot.features import FeatureTable, build_features
from recsys.hot.groups import category_codes, memberships
from recsys.hot.model import LEAST_POSITIVES, HotModel, Prediction
from recsys.hot.panel import Panel, build_panel
from recsys.hot.params import HotParams, TargetParams
from recsys.hot.samples import WISHED_ORIGINS, TrainingSet, open_samples, samples_at, thinning_weight
from recsys.hot.targets import Outcomes, TargetBuilder
from recsys.hot.windows import Samples, log_ratio
from recsys.types import BoolArray, FloatArray, IntArray, Progress

MODEL, LAGS = "model", "lightgbm_plain_lags"
TOP_SHARE = 0.02
ORIGIN_STEP_DAYS = 7
#: Scores (R,) of samples, read off the panel's days before their origins.
Rule = Callable[[Panel, TargetParams, Samples], FloatArray]


@dataclass(frozen=True)
class Judged:
    """Every sample that was judged, and what the model said of it: what the plots are drawn from.

    Attributes:
        samples: items and origins, days from the panel's first.
        category: (R,) int32 code.
        outcomes: what followed.
        prediction: what was said.
    """

    samples: Samples
    category: IntArray
    outcomes: Outcomes
    prediction: Prediction


@dataclass(frozen=True)
class BacktestReport:
    """Rankings side by side.

    Attributes:
        by_origin: one row an origin, ranking and metric: origin (date), ranking, metric, value.
        summary: one row a ranking and metric: mean over the origins, lower and upper of its 95 % interval
            (bootstrap over origins), and over_best_rule: the mean over the best rule's (a rule is any ranking
            but the model and the LightGBM on plain lags).
        reliability: predicted, observed, count, of bins of the model's potential over all origins.
        judged: every sample behind it.
        panel: the daily facts, for the plots.
        half_life_days: of the exponentially weighted units, chosen on origins before the first one judged.
    """

    by_origin: pa.Table
    summary: pa.Table
    reliability: pa.Table
    judged: Judged
    panel: Panel
    half_life_days: int

    def mean(self, metric: str, ranking: str = MODEL) -> Interval:
        """A metric's mean over the origins with its 95 % interval."""
        return bootstrap(_values(self.by_origin, ranking, metric))


def backtest(
    dataset: Dataset,
    *,
    params: HotParams | None = None,
    as_of: date | None = None,
    refit_every: int = 4,
    k: int = 50,
    others: Mapping[str, Rule] | None = None,
    progress: Progress | None = None,
) -> BacktestReport:
    """Judge the model and the rules at every weekly origin of the last half of the log.

    Judged are items sold in the last `population_days` for which the target has not come about already. At
    every `refit_every`-th origin the model is fitted anew on origins whose horizon had ended by then.
    Features come from one panel, whose cells never change after their day, and from the catalogue as it was
    known at the fit or, for what is asked, at its origin.

    Args:
        dataset: the log.
        params: target and learner.
        as_of: the day before whose start everything may be used to judge by; by default all of the log.
        refit_every: origins, a week apart, that one fit serves.
        k: how many picks precision and lift are taken over.
        others: further rules to judge beside the built-in ones, by name.
        progress: called as progress(done, total, text).

    Raises:
        ModelError: too few days for one origin in the last half of the log after enough to learn from.
    """
    params = params or HotParams()
    panel = build_panel(dataset, as_of=as_of, progress=progress)
    categories = category_codes(dataset.items)[: panel.n_items]
    builder = TargetBuilder(panel, params.target, categories)
    judged_origins, learnt_origins = _origins(builder, params)
    # Judged by what was logged, from which the baselines learn too; the model, as in `score_hot`, from
    # what is believed of it.
    believed = TargetBuilder(panel.believed, params.target, categories)
    origins = np.union1d(judged_origins, learnt_origins)
    every, [outcomes, lessons] = open_samples(panel, origins, builder, believed)
    sold = builder.units.total(every, -params.target.population_days, 0) > 0
    kept = _pool(every, lessons.label, params)
    judged_origins = _after_enough(judged_origins, every, lessons.label, kept, params)
    judged = np.isin(every.origin, judged_origins) & sold
    used = np.flatnonzero(judged | (kept > 0))
    samples, followed, taught = every.at(used), outcomes.at(used), lessons.at(used)
    judged, weight = judged[used], kept[used]
    lags = FeatureTable(*plain_lags(panel, samples))

    said: dict[str, list[Prediction]] = {MODEL: [], LAGS: []}
    blocks = [
        judged_origins[start : start + refit_every] for start in range(0, len(judged_origins), refit_every)
    ]
    for number, block in enumerate(blocks):
        if progress is not None:
            progress(number, len(blocks), f"backtest: fit as of {panel.days.date_of(int(block[0]))}")
        rows = _learnable(samples, weight, int(block[0]), params)
        asked = np.flatnonzero(np.isin(samples.origin, block))
        answered = judged[asked]
        learnt, then = _features_then(dataset.items, panel, params, samples.at(rows), samples.at(asked))
        of = {MODEL: (learnt, then, taught), LAGS: (lags.at(rows), lags.at(asked), followed)}
        for name, (features, of_block, outcome) in of.items():
            training = TrainingSet(
                samples=samples.at(rows),
                features=features,
                outcomes=outcome.at(rows),
                weight=weight[rows],
                horizon_last_day=params.target.horizon_last_day,
            )
            model = HotModel(params.learner, params.calibration).fit(training)
            stands_for = np.where(answered, np.float32(1), weight[asked])
            said[name].append(model.predict(of_block, samples.origin[asked], stands_for).at(answered))
    rows = np.flatnonzero(judged)
    prediction, plain = (Prediction.joined(said[name]) for name in (MODEL, LAGS))
    asked_samples = samples.at(rows)
    scores = rankings(panel, params.target, asked_samples)
    half_life = _half_life(panel, builder, every, outcomes, learnt_origins, int(judged_origins[0]))
    scores |= {name: rule(panel, params.target, asked_samples) for name, rule in (others or {}).items()}
    scores["ewma"] = decayed_units(panel, asked_samples, (half_life,))[half_life]
    said_of = Judged(asked_samples, categories[asked_samples.item_idx], followed.at(rows), prediction)
    found = _judge(
        panel,
        builder,
        said_of,
        {MODEL: prediction.score, LAGS: plain.score, **scores},
        k,
    )
    predicted, observed, count = judging.reliability(followed.label[rows], prediction.potential)
    return BacktestReport(
        by_origin=found,
        summary=_summary(found),
        reliability=pa.table({"predicted": predicted, "observed": observed, "count": count}),
        judged=said_of,
        panel=panel,
        half_life_days=half_life,
    )


def _features_then(
    catalogue: Entities, panel: Panel, params: HotParams, learnt: Samples, asked: Samples
) -> tuple[FeatureTable, FeatureTable]:
    """Features of what is learnt from, and of what is asked, by the catalogue as it was known then.

    A product listed later has no part in the size of a group, nor in how rare a word is.

    Args:
        catalogue: all items.
        panel: the daily facts.
        params: for the horizon, and how many threads.
        learnt: samples of origins before those asked; read by the catalogue of the first one asked.
        asked: samples in the order of their origins.
    """
    starts = np.array([panel.days.start_us(int(origin)) for origin in np.unique(asked.origin)])
    known = np.searchsorted(catalogue.known_at_us, starts)[np.unique(asked.origin, return_inverse=True)[1]]
    tables = []
    for number, n_known in enumerate(np.unique(known)):
        part = asked.at(known == n_known)
        groups = memberships(catalogue.first(int(n_known)), rows=panel.n_items)
        read = Samples.joined(learnt, part) if number == 0 else part
        tables.append(build_features(panel, params.target, read, groups, threads=params.learner.threads))
    names, n_learnt = tables[0].names, len(learnt)
    values = [table.named(names).values for table in tables]
    return (
        FeatureTable(names, values[0][:n_learnt]),
        FeatureTable(names, np.concatenate([values[0][n_learnt:], *values[1:]])),
    )


def _origins(builder: TargetBuilder, params: HotParams) -> tuple[IntArray, IntArray]:
    """Origins that are judged (the last half of the log, weekly) and those that are learnt from."""
    last, first = builder.last_origin(), params.learner.min_history_days
    ahead = params.target.horizon_last_day + 1
    half = max(builder.panel.n_days // 2, first + ahead + params.learner.min_origins)
    # Before the first judged origin there should be enough others: a short log is used more closely.
    step = int(np.clip((half - ahead - first) // (WISHED_ORIGINS - 1), 1, params.learner.origin_step_days))

    judged = np.arange(last, half - 1, -ORIGIN_STEP_DAYS, dtype=np.int32)[::-1]
    learnt = np.arange(last - ahead, first - 1, -step, dtype=np.int32)[::-1]
    if not len(judged):
        raise ModelError(
            f"the log has {builder.panel.days}, and a backtest over {params.target.horizon} needs"
            f" {half + ahead}"
        )
    ready = [origin for origin in judged if (learnt + ahead <= origin).sum() >= params.learner.min_origins]
    if not ready:
        raise ModelError(
            f"no origin of the last half has {params.learner.min_origins} origins to learn from before it:"
            " use a longer log or a smaller origin_step_days"
        )
    return np.array(ready, dtype=np.int32), learnt


def _pool(every: Samples, label: BoolArray, params: HotParams) -> FloatArray:
    """(R,) training weight, 0 for thinned samples: about `max_rows` stay for any `max_origins` origins."""
    n_origins = len(np.unique(every.origin))
    rows = int(params.learner.max_rows * max(1.0, n_origins / params.learner.max_origins))
    return thinning_weight(label, rows, params.learner.seed)


def _learnable(
    samples: Samples, weight: FloatArray, origin: int, params: HotParams
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Rows whose horizon had ended before the origin, of the most recent origins alone."""
    past = samples.origin + params.target.horizon_last_day < origin
    origins = np.unique(samples.origin[past])[-params.learner.max_origins :]
    return np.flatnonzero(past & (weight > 0) & np.isin(samples.origin, origins))


def _after_enough(
    origins: IntArray, every: Samples, label: BoolArray, weight: FloatArray, params: HotParams
) -> IntArray:
    """The origins from the first one on by which the target had come about often enough to learn from."""
    known = np.array([label[_learnable(every, weight, int(origin), params)].sum() for origin in origins])
    enough = np.flatnonzero(known >= LEAST_POSITIVES)
    if not len(enough):
        raise ModelError(
            f"the target had come about {known.max()} times by the best of {len(origins)} weekly origins, and"
            f" {LEAST_POSITIVES} are needed: use a longer log or a less rare target"
        )
    return origins[enough[0] :]


def _half_life(
    panel: Panel,
    builder: TargetBuilder,
    every: Samples,
    outcomes: Outcomes,
    learnt: IntArray,
    first_judged: int,
) -> int:
    """The half-life whose exponentially weighted units rank best on the origins before the judged ones."""
    early = learnt[learnt + builder.params.horizon_last_day < first_judged]
    rows = np.flatnonzero(np.isin(every.origin, early))
    scores = decayed_units(panel, every.at(rows))
    quality = {
        half_life: float(
            np.nanmean(
                [
                    judging.average_precision(outcomes.label[rows][at], score[at])
                    for origin in early
                    if (at := every.origin[rows] == origin).any()
                ]
            )
        )
        for half_life, score in scores.items()
    }
    return max(quality, key=lambda half_life: quality[half_life])


def _judge(
    panel: Panel, builder: TargetBuilder, judged: Judged, scores: Mapping[str, npt.NDArray[Any]], k: int
) -> pa.Table:
    rows: list[dict[str, object]] = []
    samples, label, units = judged.samples, judged.outcomes.label, judged.outcomes.units
    before = builder.units.total(samples, -28, 0)
    ahead = builder.params.horizon.first, builder.params.horizon.last + 1
    sold_out = None
    if panel.has("sold_out"):
        sold_out = panel.running("sold_out")
    for origin in np.unique(samples.origin):
        at = np.flatnonzero(samples.origin == origin)
        y, u = label[at], units[at]
        everybody = samples_at(panel, np.array([origin], np.int32), builder.params.population_days)
        lead = np.full(panel.n_items, np.nan, dtype=np.float32)
        lead[everybody.item_idx] = builder.lead_days(everybody)
        day = panel.days.date_of(int(origin))

        def note(ranking: str, metric: str, value: float, day: date = day) -> None:
            rows.append({"origin": day, "ranking": ranking, "metric": metric, "value": value})

        for name, score in scores.items():
            s = np.asarray(score[at], dtype=np.float64)
            note(name, "average_precision", judging.average_precision(y, s))
            note(name, f"precision_at_{k}", judging.precision_at(y, s, k))
            note(name, "recall_top_2_percent", judging.recall_at_share(y, s, TOP_SHARE))
            note(name, f"matched_lift_{k}", judging.matched_lift(u, s, before[at], k))
            note(name, f"lift_over_average_{k}", judging.lift_over_average(u, s, k))
            top = judging.best_first(s)[: max(1, round(TOP_SHARE * len(at)))]
            leads = lead[samples.item_idx[at[top[y[top]]]]]
            if sold_out is not None:
                out = sold_out.total(samples.at(at[judging.best_first(s)[:k]]), *ahead)
                note(name, f"sold_out_{k}", float((out > 0).mean()))
            note(name, "median_lead_days", float(np.median(leads)) if len(leads) else float("nan"))
        p = judged.prediction.potential[at]
        top = judging.best_first(judged.prediction.score[at])[: max(1, round(TOP_SHARE * len(at)))]
        note(MODEL, "base_rate", float(y.mean()))
        note(MODEL, "brier", float(np.mean((p - y) ** 2)))
        note(MODEL, "brier_skill", judging.brier_skill(y, p))
        note(MODEL, "potential_mean", float(p.mean()))
        note(MODEL, "potential_top_2_percent", float(p[top].mean()))
        note(MODEL, "observed_top_2_percent", float(y[top].mean()))
        note(
            MODEL,
            "units_log_error",
            float(np.abs(log_ratio(u, judged.prediction.expected_units[at], 1.0)).mean()),
        )
    return pa.Table.from_pylist(rows)


def _values(table: pa.Table, ranking: str, metric: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rows = table.filter(pc.and_(pc.equal(table["ranking"], ranking), pc.equal(table["metric"], metric)))
    values = rows["value"].to_numpy()
    return np.asarray(values[np.isfinite(values)])


def _summary(by_origin: pa.Table) -> pa.Table:
    names = list(
        dict.fromkeys(zip(by_origin["ranking"].to_pylist(), by_origin["metric"].to_pylist(), strict=True))
    )
    means = {name: bootstrap(_values(by_origin, *name)) for name in names}
    rows = []
    for (ranking, metric), interval in means.items():
        rules = [
            other.mean
            for (name, of), other in means.items()
            if of == metric and name not in (MODEL, LAGS) and np.isfinite(other.mean)
        ]
        best = max(rules, default=float("nan"))
        rows.append(
            {
                "ranking": ranking,
                "metric": metric,
                "mean": interval.mean,
                "lower": interval.lower,
                "upper": interval.upper,
                "over_best_rule": interval.mean / best if best else float("nan"),
            }
        )
    return pa.Table.from_pylist(rows)
