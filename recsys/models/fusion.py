"""Merges the candidates of several sources by a small learned combiner, for the request path.

Every source names its best targets for a user. Their union is described, candidate by candidate, by how each
source placed it, what the user did with it before, and what is known of the target; boosted trees grown by
`recsys.models.fusion_training` turn that into one score. One code path serves a batch and one request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data.histories import HistoryBatch
from recsys.durations import HOUR_US
from recsys.errors import BundleError, ModelError
from recsys.models.ragged import Ragged
from recsys.models.repeat import N_STAGES, Touches
from recsys.models.trees import Trees
from recsys.types import BoolArray, Candidates, FloatArray, IntArray, LongArray

_FORMAT = 3

#: Half-lives, days, of the popularity columns of an ItemTable: now, this week, this month.
HALF_LIVES_DAYS: tuple[float, ...] = (1.0, 7.0, 30.0)
#: Candidates that are read from each source.
DEPTH = 100
#: Latest actions of a user that the features are computed from.
HISTORY_LENGTH = 100
#: How much later places count less in reciprocal rank fusion (Cormack, Clarke, Buettcher 2009).
RRF_OFFSET = 60.0
#: What a reciprocal rank counts beside the trees, which cannot tell apart what falls into the same leaves.
_TIE = 1e-3
#: The file of the trees among the blobs of a bundle's section.
_TREES = "combiner.onnx"

_PER_SOURCE = ("present", "place", "relative score", "score")
_PER_TOUCH = ("times", "recency")
_STAGE_NAMES = ("viewed", "liked", "carted", "purchased")
_OF_TARGET = (
    *(f"popularity {days:g} d" for days in HALF_LIVES_DAYS),
    "attention",
    "trend",
    "age",
    "price known",
    "price over user's",
    "category affinity",
    "category recency",
)
_USER = ("user actions", "user targets", "user idle", "user purchases")


@dataclass(frozen=True)
class ItemTable:
    """What is known of each target as of the fit.

    Attributes:
        popularity: (targets, half-lives) float32 log of decayed consumption per target, 0 at the mean.
        attention: (targets,) float32 the same of all behaviours, at the middle half-life.
        first_seen_us: (targets,) int64 moment of the first event; the largest int64 where there was none.
        log_price: (targets,) float32, NaN where unknown.
        category: (targets,) int32 code, -1 where unknown.
    """

    popularity: FloatArray
    attention: FloatArray
    first_seen_us: LongArray
    log_price: FloatArray
    category: IntArray

    def __len__(self) -> int:
        return len(self.attention)

    @cached_property
    def n_categories(self) -> int:
        """How many category codes there are."""
        return int(self.category.max(initial=-1)) + 1


@dataclass(frozen=True)
class Pool:
    """The union of the sources' candidates of B users: M pairs, sorted by user and target.

    Attributes:
        row: (M,) int64 which user of the batch.
        ids: (M,) int32 dense target ids.
        place: (M, sources) float32 rank from 0; infinite where the source does not name the target.
        score: (M, sources) float32 the source's own score, 0 where it does not name the target.
        relative: (M, sources) float32 score between the least (0) and best (1) that the source gave the user.
        n_rows: B.
    """

    row: LongArray
    ids: IntArray
    place: FloatArray
    score: FloatArray
    relative: FloatArray
    n_rows: int

    @classmethod
    def of(
        cls,
        sources: Sequence[Candidates],
        *,
        n_targets: int,
        drop: BoolArray | None = None,
        exclude: LongArray | None = None,
    ) -> Pool:
        """Merges the candidates of one batch of users.

        Args:
            sources: of each source, (B, k_s).
            n_targets: how many targets there are.
            drop: (targets,) targets that may not be recommended to anybody.
            exclude: (E,) pairs that may not be, as row x targets + target.
        """
        n_rows = len(sources[0])
        keys, places, scores, relatives, owners = [], [], [], [], []
        for owner, found in enumerate(sources):
            valid = np.arange(found.ids.shape[1]) < found.counts[:, None]
            if drop is not None:
                valid &= ~drop[found.ids]
            row, place = np.nonzero(valid)
            score = found.scores[row, place]
            last = np.maximum(found.counts - 1, 0)
            least = found.scores[np.arange(n_rows), last][row]
            span = found.scores[row, 0] - least
            relative = np.where(span > 0, (score - least) / np.where(span > 0, span, 1.0), 1.0)
            keys.append(row * np.int64(n_targets) + found.ids[row, place])
            places.append(place)
            scores.append(score)
            relatives.append(relative)
            owners.append(np.full(len(row), owner))
        named = np.concatenate(keys)
        if exclude is not None:
            kept = ~np.isin(named, exclude)
            named = named[kept]
        else:
            kept = np.ones(len(named), dtype=bool)
        key, pair = np.unique(named, return_inverse=True)
        cell = (pair, np.concatenate(owners)[kept])
        shape = (len(key), len(sources))
        place_of = np.full(shape, np.inf, dtype=np.float32)
        place_of[cell] = np.concatenate(places)[kept]
        score_of, relative_of = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        score_of[cell] = np.concatenate(scores)[kept]
        relative_of[cell] = np.concatenate(relatives)[kept]
        return cls(
            key // n_targets, (key % n_targets).astype(np.int32), place_of, score_of, relative_of, n_rows
        )

    def __len__(self) -> int:
        return len(self.ids)

    def reciprocal_ranks(self) -> FloatArray:
        """(M, sources) float32 1 / (60 + place), place from 1; 0 where the source does not name it."""
        return (1.0 / (RRF_OFFSET + 1.0 + self.place)).astype(np.float32)


def feature_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that `features` gives, in order."""
    return (
        *(f"{source}: {name}" for name in _PER_SOURCE for source in sources),
        *(f"{stage}: {name}" for name in _PER_TOUCH for stage in _STAGE_NAMES),
        *_OF_TARGET,
        *_USER,
    )


def features(pool: Pool, table: ItemTable, history: HistoryBatch, at_us: LongArray) -> FloatArray:
    """What is known of each candidate: (M, F) float32, columns as `feature_names` says.

    Args:
        pool: the candidates of B users.
        table: what is known of the targets.
        history: (B, L) latest actions.
        at_us: (B,) int64 moments of asking.
    """
    m, n_sources = pool.place.shape
    touch_at = len(_PER_SOURCE) * n_sources
    target_at = touch_at + 2 * N_STAGES
    user_at = target_at + len(_OF_TARGET)
    out = np.empty((m, user_at + len(_USER)), dtype=np.float32)
    named = np.isfinite(pool.place)
    per_source = out[:, :touch_at].reshape(m, len(_PER_SOURCE), n_sources)
    per_source[:, 0] = named
    per_source[:, 1] = np.where(named, 1.0 - np.log1p(pool.place) / np.float32(np.log(DEPTH)), 0.0)
    per_source[:, 2] = pool.relative
    np.arcsinh(pool.score, out=per_source[:, 3])
    touches = Touches.of(history, at_us, n_targets=len(table))
    mine = _find(touches.key, pool.row * np.int64(len(table)) + pool.ids)
    out[:, touch_at:target_at] = _touched(touches)[mine]
    of_target = out[:, target_at:user_at]
    popularity = table.popularity[pool.ids]
    of_target[:, 0:3] = popularity
    of_target[:, 3] = table.attention[pool.ids]
    of_target[:, 4] = popularity[:, 0] - popularity[:, -1]
    age_us = np.maximum(at_us[pool.row] - table.first_seen_us[pool.ids], 0)
    of_target[:, 5] = np.log1p((age_us / (24 * HOUR_US)).astype(np.float32))
    of_target[:, 6:8] = _price(pool, table, touches)
    of_target[:, 8:10] = _category(pool, table, history, at_us)
    out[:, user_at:] = _user(touches)[pool.row]
    return out


def _find(keys: LongArray, wanted: LongArray) -> LongArray:
    """(M,) where each wanted key stands among the sorted ones; -1 where it does not."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = np.searchsorted(keys, wanted)
    at[at == len(keys)] = 0
    at[keys[at] != wanted] = -1
    return at


def _touched(touches: Touches) -> FloatArray:
    """(P + 1, 2 x stages) float32: times and recency of every kind of touch; the last row is of no touch."""
    out = np.zeros((len(touches.key) + 1, 2 * N_STAGES), dtype=np.float32)
    np.log1p(touches.counts, out=out[:-1, :N_STAGES])
    out[:-1, N_STAGES:] = _recency(touches.hours)
    return out


def _recency(hours: FloatArray) -> FloatArray:
    """1 just now, about 0.5 after two days, 0 never: 1 / (1 + ln(1 + hours) / 4)."""
    recency: FloatArray = (1.0 / (1.0 + np.log1p(hours) / 4.0)).astype(np.float32)
    return recency


def _price(pool: Pool, table: ItemTable, touches: Touches) -> FloatArray:
    """(M, 2): whether the candidate's and the user's price are known, and the log of their ratio."""
    price = table.log_price[touches.ids]
    known = np.isfinite(price)
    row = touches.row[known]
    n = np.bincount(row, minlength=pool.n_rows)
    mean = np.bincount(row, weights=price[known], minlength=pool.n_rows) / np.maximum(n, 1)
    ratio = table.log_price[pool.ids] - np.where(n > 0, mean, np.nan)[pool.row]
    comparable = np.isfinite(ratio)
    return np.stack([comparable, np.where(comparable, ratio, 0.0)], axis=1).astype(np.float32)


def _category(pool: Pool, table: ItemTable, history: HistoryBatch, at_us: LongArray) -> FloatArray:
    """(M, 2): share of the user's actions that were in the candidate's category, and how lately the last."""
    row, column = np.nonzero(history.mask)
    category = table.category[history.target_idx[row, column]]
    has_one = category >= 0
    row, column, category = row[has_one], column[has_one], category[has_one]
    width = np.int64(table.n_categories)
    key, cell = np.unique(row * width + category, return_inverse=True)
    known = np.zeros((len(key) + 1, 2), dtype=np.float32)  # the last row is of no category in common
    known[:-1, 0] = np.bincount(cell, minlength=len(key)) / np.bincount(row)[key // width]
    hours = np.empty(len(key), dtype=np.float32)
    hours[cell] = np.maximum(at_us[row] - history.timestamp_us[row, column], 0) / HOUR_US
    known[:-1, 1] = _recency(hours)
    mine = table.category[pool.ids]
    found: FloatArray = known[_find(key, np.where(mine >= 0, pool.row * width + mine, -1))]
    return found


def _user(touches: Touches) -> FloatArray:
    """(B, 4) float32: how much the user did, with how many targets, how lately, and how often it bought."""
    row, n_rows = touches.row, touches.n_rows
    actions = np.bincount(row, weights=touches.counts.sum(axis=1), minlength=n_rows)
    bought = np.bincount(row, weights=touches.counts[:, -1], minlength=n_rows)
    idle = np.full(n_rows, np.inf, dtype=np.float32)
    np.minimum.at(idle, row, touches.hours.min(axis=1, initial=np.inf))
    targets = np.bincount(row, minlength=n_rows)
    out = np.stack([np.log1p(actions), np.log1p(targets), _recency(idle), np.log1p(bought)], axis=1)
    return out.astype(np.float32)


@dataclass(frozen=True)
class Fused:
    """The best k targets of B users and where they come from.

    Attributes:
        candidates: ids, scores and counts.
        source: (B, k) int8 index into `Combiner.sources` of the source that speaks most for the target.
    """

    candidates: Candidates
    source: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Combiner:
    """Scores the union of the sources' candidates.

    Attributes:
        sources: their names, in the order in which candidates are handed in.
        table: what is known of the targets.
        rrf_weights: (sources,) float32, used where there are no trees and to break their ties.
        trees: None where validation had too few users to learn from: then weighted reciprocal rank fusion.
        returns: whether targets that the user already consumed may be recommended again.
        depth: how many candidates it has learnt to read from each source, and is to be given.
    """

    sources: tuple[str, ...]
    table: ItemTable
    rrf_weights: FloatArray
    trees: Trees | None
    returns: bool
    depth: int = DEPTH

    def score(self, pool: Pool, history: HistoryBatch, at_us: LongArray) -> FloatArray:
        """(M,) float32 score of each candidate, by the last `HISTORY_LENGTH` actions; more is better."""
        # Not by BLAS, whose kernels now and then flag a few columns of numbers as invalid that are not.
        fused: FloatArray = (pool.reciprocal_ranks() * self.rrf_weights).sum(axis=1)
        if self.trees is not None:
            x = features(pool, self.table, history.last(HISTORY_LENGTH), at_us)
            fused = self.trees.scores(x) + np.float32(_TIE) * fused
        return fused

    def recommend(
        self,
        candidates: Sequence[Candidates],
        history: HistoryBatch,
        at_us: LongArray,
        *,
        k: int,
        drop: BoolArray | None = None,
        exclude: LongArray | None = None,
    ) -> Fused:
        """The best k of the sources' candidates for each of B users.

        Args:
            candidates: of each source, in the order of `sources`, (B, k_s) each.
            history: (B, L) latest actions.
            at_us: (B,) int64 moments of asking.
            k: how many.
            drop: (targets,) targets that may not be recommended to anybody.
            exclude: (E,) pairs that may not be, as row x targets + target.

        Raises:
            ModelError: not one set of candidates for each source.
        """
        if len(candidates) != len(self.sources):
            raise ModelError(
                f"{len(candidates)} sets of candidates for the sources {', '.join(self.sources)}"
            )
        pool = Pool.of(candidates, n_targets=len(self.table), drop=drop, exclude=exclude)
        scores = self.score(pool, history, at_us)
        best = Ragged(pool.row, pool.ids, scores, pool.n_rows).top(k)
        row, column = np.nonzero(np.arange(k) < best.counts[:, None])
        key = pool.row * np.int64(len(self.table)) + pool.ids
        chosen = np.searchsorted(key, row * np.int64(len(self.table)) + best.ids[row, column])
        source = np.zeros(best.ids.shape, dtype=np.int8)
        source[row, column] = (pool.reciprocal_ranks()[chosen] * self.rrf_weights).argmax(axis=1)
        return Fused(best, source)

    def with_table(self, table: ItemTable) -> Combiner:
        """The same combiner on newer knowledge of the targets."""
        return replace(self, table=table)

    def to_parts(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, bytes], dict[str, Any]]:
        """Everything that the request path needs: arrays and blobs by name, and a JSON-ready description."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "popularity": self.table.popularity,
            "attention": self.table.attention,
            "first_seen_us": self.table.first_seen_us,
            "log_price": self.table.log_price,
            "category": self.table.category,
            "rrf_weights": self.rrf_weights,
        }
        meta = {
            "format": _FORMAT,
            "sources": list(self.sources),
            "returns": self.returns,
            "depth": self.depth,
            "trees": self.trees is not None,
            "features": list(feature_names(self.sources)),
        }
        return arrays, {} if self.trees is None else {_TREES: self.trees.graph}, meta

    @classmethod
    def from_parts(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        blobs: Mapping[str, bytes | memoryview],
        meta: Mapping[str, Any],
    ) -> Combiner:
        """What `to_parts` took apart.

        Raises:
            BundleError: written by another version, a part is missing, or the sizes do not agree.
        """
        if meta.get("format") != _FORMAT:
            raise BundleError(f"combiner: format {meta.get('format')!r}, this engine reads {_FORMAT}")
        sources = tuple(meta["sources"])
        if tuple(meta["features"]) != feature_names(sources):
            raise BundleError("combiner: its features are not those that this engine computes; train again")
        try:
            table = ItemTable(**{name: arrays[name] for name in ItemTable.__dataclass_fields__})
            rrf_weights = arrays["rrf_weights"]
            trees = Trees(blobs[_TREES]) if meta["trees"] else None
        except KeyError as error:
            raise BundleError(f"combiner: {error} is missing") from error
        if trees is not None and trees.n_features != len(feature_names(sources)):
            n_features = len(feature_names(sources))
            raise BundleError(f"combiner: trees over {trees.n_features} features, and there are {n_features}")
        return cls(sources, table, rrf_weights, trees, bool(meta["returns"]), int(meta["depth"]))
