"""Trains the combiner of `recsys.models.fusion` on what users did after the base models were fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.durations import DAY_US
from recsys.errors import ModelError
from recsys.evaluation.bootstrap import paired_bootstrap
from recsys.models.base import Model
from recsys.models.fusion import (
    DEPTH,
    HALF_LIVES_DAYS,
    HISTORY_LENGTH,
    Combiner,
    ItemTable,
    Pool,
    features,
)
from recsys.models.trees import Trees
from recsys.slices import rank_in_group
from recsys.types import (
    Behaviour,
    BoolArray,
    DoubleArray,
    FloatArray,
    IntArray,
    LongArray,
    Params,
    Progress,
    Target,
)

_USERS_AT_ONCE = 512

#: Places of an answer that are judged.
JUDGED_AT = 20

#: Weights of reciprocal rank fusion where nothing can be learned. A user's own past speaks loudest, what is
#: popular only fills up; a source that is not named here counts 1.
RRF_WEIGHTS: Mapping[str, float] = {"repeat": 1.0, "popular": 0.1}

#: Weight of the sources behind the one that validation liked best: six of them together move nothing that it
#: names, for at the hundredth place two neighbours are 4e-5 apart.
BEHIND = 1e-4

#: Share of what is consumed that was consumed before, on an earlier day, from which on targets may return
#: where no validation could tell.
RETURNING_SHARE = 0.1


class FusionParams(Params):
    """How the combiner is trained.

    Attributes:
        depth: candidates read from each source.
        min_users: with fewer users to learn from, weighted reciprocal rank fusion stays.
        max_users: at most so many users of a fold are learned from.
        negatives: candidates kept of each user in training, besides all that were right.
        holdout: share of the users that decides how many trees there are and whether targets may return.
        rounds: trees at most.
        patience: trees without a better NDCG@20 on the held-out users after which no more are grown.
        learning_rate: shrinkage.
        leaves: of a tree.
        min_leaf: fewest candidates of a leaf.
        column_share: share of the features that each tree may use.
        row_share: share of the candidates that each tree learns from.
        l2: on the values of leaves.
        truncation: places that count: pairs with neither among the first so many teach nothing.
        returns: whether consumed targets may be recommended again; auto: if held-out users came back to any
            and NDCG@20 is not better without them; where trees are grown, by more than chance.
        seed: of the split, the sampling and what each tree may use.
    """

    depth: int = Field(default=DEPTH, ge=1)
    min_users: int = Field(default=200, ge=1)
    max_users: int = Field(default=20_000, ge=1)
    negatives: int = Field(default=150, ge=1)
    holdout: float = Field(default=0.2, gt=0, lt=1)
    rounds: int = Field(default=150, ge=1)
    patience: int = Field(default=40, ge=1)
    learning_rate: float = Field(default=0.07, gt=0)
    leaves: int = Field(default=15, ge=2)
    min_leaf: int = Field(default=100, ge=1)
    column_share: float = Field(default=0.5, gt=0, le=1)
    row_share: float = Field(default=0.8, gt=0, le=1)
    l2: float = Field(default=5.0, ge=0)
    truncation: int = Field(default=20, ge=1)
    returns: Literal["auto", "yes", "no"] = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Fold:
    """A window of validation: models fitted before it, and what users did inside it.

    Attributes:
        dataset: as of the window's start.
        sources: models fitted on it; the same ones, in the same order, in every fold.
        truth: (users, targets) CSR of what is to be found inside the window.
    """

    dataset: Dataset
    sources: Sequence[Model]
    truth: sparse.csr_matrix


@dataclass(frozen=True)
class FusionReport:
    """What the training found, on the held-out users (on all, where nothing was learned).

    Attributes:
        users: users with something to find, over all folds.
        reachable: share of what is to be found that is among the candidates.
        learned: whether trees were grown, or reciprocal ranks are fused.
        ndcg_returns: NDCG@20 with consumed targets allowed.
        ndcg_no_returns: NDCG@20 without.
        ndcg_rrf: NDCG@20 of weighted reciprocal rank fusion, in the mode that was chosen.
        ndcg_sources: NDCG@20 of each source's own order, in that mode.
    """

    users: int
    reachable: float
    learned: bool
    ndcg_returns: float
    ndcg_no_returns: float
    ndcg_rrf: float
    ndcg_sources: Mapping[str, float]


@dataclass(frozen=True)
class _Examples:
    """Candidates of many users, flat: (M,) arrays sorted by user; `total` (U,) counts what was sought."""

    row: LongArray
    x: FloatArray
    ranks: FloatArray  # (M, sources) reciprocal ranks
    right: BoolArray
    consumed: BoolArray
    total: LongArray

    def of_rows(self, chosen: BoolArray) -> _Examples:
        """Those of some of the users, renumbered."""
        new = np.cumsum(chosen) - 1
        kept = chosen[self.row]
        return _Examples(
            new[self.row[kept]],
            self.x[kept],
            self.ranks[kept],
            self.right[kept],
            self.consumed[kept],
            self.total[chosen],
        )

    def where(self, kept: BoolArray) -> _Examples:
        """Some of the candidates of every user."""
        return _Examples(
            self.row[kept], self.x[kept], self.ranks[kept], self.right[kept], self.consumed[kept], self.total
        )

    @classmethod
    def joined(cls, parts: Sequence[_Examples]) -> _Examples:
        """One after the other, users renumbered."""
        before = np.cumsum([0, *(len(part.total) for part in parts)])
        return cls(
            np.concatenate([part.row + n for part, n in zip(parts, before[:-1], strict=True)]),
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.consumed for part in parts]),
            np.concatenate([part.total for part in parts]),
        )


def consumption(dataset: Dataset) -> tuple[Behaviour, ...]:
    """What counts as having consumed a target: buying it where the log has purchases, else watching it."""
    counts = dataset.counts()
    if Behaviour.PURCHASE in counts:
        return (Behaviour.PURCHASE,)
    return (Behaviour.VIEW, Behaviour.ENTER, Behaviour.CLICK)


def item_table(dataset: Dataset, target: Target) -> ItemTable:
    """What is known of every target as of the Dataset's moment."""
    events = dataset.events
    index = events.target_idx(target)
    n = len(dataset.entities(target))
    consumed = (index >= 0) & events.is_any((Behaviour.CART, *consumption(dataset)))
    touched = (index >= 0) & (events.behaviour != Behaviour.IMPRESSION.code)
    age_days = (dataset.as_of_us - events.timestamp_us) / DAY_US

    def popularity(rows: BoolArray, half_life_days: float) -> FloatArray:
        weights = np.exp2(-age_days[rows] / half_life_days)
        count = np.bincount(index[rows], weights=weights, minlength=n)
        logs: FloatArray = np.log((count + 0.1) / (count.mean() + 0.1)).astype(np.float32)
        return logs

    first_seen_us = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first_seen_us, index[index >= 0], events.timestamp_us[index >= 0])
    entities = dataset.entities(target)
    price, category = entities.column("price"), entities.column("category")
    log_price = np.full(n, np.nan, dtype=np.float32)
    if price is not None:
        value = pc.fill_null(price.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        log_price[value > 0] = np.log(value[value > 0])
    codes = np.full(n, -1, dtype=np.int32)
    if category is not None and category.null_count < n:
        encoded = category.cast(pa.string()).dictionary_encode()
        codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return ItemTable(
        popularity=np.stack([popularity(consumed, days) for days in HALF_LIVES_DAYS], axis=1),
        attention=popularity(touched, HALF_LIVES_DAYS[1]),
        first_seen_us=first_seen_us,
        log_price=log_price,
        category=codes,
    )


def train_fusion(
    folds: Sequence[Fold], *, params: FusionParams | None = None, progress: Progress | None = None
) -> tuple[Combiner, FusionReport]:
    """A combiner that puts first what users turned to after the sources had been fitted.

    The trees are grown by LambdaRank: pairs of a right and a wrong candidate of a user, each by what swapping
    the two would change of NDCG (Burges 2010, "From RankNet to LambdaRank to LambdaMART: an overview").

    Args:
        folds: windows of validation; several where one holds few users.
        params: `FusionParams`.
        progress: told of users described and trees grown.

    Returns:
        The combiner, with the item table of the last fold: give it the newest by `Combiner.with_table`.

    Raises:
        ModelError: no fold, or the folds' sources differ.
    """
    params = params or FusionParams()
    if not folds:
        raise ModelError("fusion: no validation window to learn from")
    names = tuple(source.name for source in folds[0].sources)
    if any(tuple(source.name for source in fold.sources) != names for fold in folds):
        raise ModelError(f"fusion: every fold needs the same sources in the same order: {', '.join(names)}")
    rrf = _rrf_weights(names)
    rng = np.random.default_rng(params.seed)
    tables = [item_table(fold.dataset, fold.sources[0].target) for fold in folds]
    users = [_asked(fold, params, rng) for fold in folds]
    n_users = sum(map(len, users))
    if not n_users:
        raise ModelError("fusion: no user that the sources know has anything to find in the window")
    learned = n_users >= params.min_users
    held_out = (
        rng.permutation(n_users) < params.holdout * n_users if learned else np.ones(n_users, dtype=bool)
    )
    of_fold = np.split(held_out, np.cumsum([len(each) for each in users])[:-1])
    parts = [
        part
        for fold, table, asked, held in zip(folds, tables, users, of_fold, strict=True)
        for part in _described(fold, table, asked, held, params, rng, progress)
    ]
    judged = _Examples.joined([part for part, is_judged in parts if is_judged])
    for wanted in (True, False):
        learned = learned and any(part.right.any() for part, is_judged in parts if is_judged == wanted)
    trees = None
    if learned:
        taught = _Examples.joined([part for part, is_judged in parts if not is_judged])
        trees = Trees.of(_grow(taught, judged, params, progress))
    else:
        rrf = _best_weights(judged, rrf, names)
    rrf_scores = (judged.ranks * rrf).sum(axis=1)
    scores = rrf_scores if trees is None else trees.scores(judged.x)
    free = _ndcg_by_user(judged, scores)
    fresh = _ndcg_by_user(judged, np.where(judged.consumed, -np.inf, scores))
    if params.returns != "auto":
        returns = params.returns == "yes"
    elif trees is None:
        returns = bool(free.mean() > fresh.mean())
    else:
        returns = bool((judged.consumed & judged.right).any()) and may_return(free, fresh)
    out = judged.consumed & (not returns)
    report = FusionReport(
        users=n_users,
        reachable=float(
            sum(part.right.sum() for part, _ in parts) / max(sum(part.total.sum() for part, _ in parts), 1)
        ),
        learned=learned,
        ndcg_returns=float(free.mean()),
        ndcg_no_returns=float(fresh.mean()),
        ndcg_rrf=_ndcg(judged, np.where(out, -np.inf, rrf_scores)),
        ndcg_sources={
            name: _ndcg(judged, np.where(out | (judged.ranks[:, s] == 0), -np.inf, judged.ranks[:, s]))
            for s, name in enumerate(names)
        },
    )
    return Combiner(names, tables[-1], rrf, trees, returns, params.depth), report


def unlearned_combiner(
    sources: Sequence[str], dataset: Dataset, target: Target, params: FusionParams | None = None
) -> Combiner:
    """Weighted reciprocal rank fusion, for a log without anybody in a validation window to learn from.

    Args:
        sources: names of the models, in the order in which their candidates are handed in.
        dataset: tells whether people come back to what they consumed, and what is known of the targets.
        target: what is recommended.
        params: `FusionParams`.
    """
    params = params or FusionParams()
    auto = params.returns == "auto"
    returns = _returning_share(dataset, target) >= RETURNING_SHARE if auto else params.returns == "yes"
    return Combiner(
        tuple(sources), item_table(dataset, target), _rrf_weights(sources), None, returns, params.depth
    )


def _rrf_weights(sources: Sequence[str]) -> FloatArray:
    return np.array([RRF_WEIGHTS.get(name, 1.0) for name in sources], dtype=np.float32)


def _returning_share(dataset: Dataset, target: Target) -> float:
    """Of the days on which a user consumed a target, the share on which it was not the first time."""
    events = dataset.events
    index = events.target_idx(target)
    rows = (index >= 0) & events.is_any(consumption(dataset))
    pair = events.user_idx[rows] * np.int64(len(dataset.entities(target))) + index[rows]
    days = np.unique(np.stack([pair, events.timestamp_us[rows] // DAY_US]), axis=1)
    return float(1.0 - len(np.unique(days[0])) / max(days.shape[1], 1))


def _best_weights(judged: _Examples, rrf: FloatArray, names: Sequence[str]) -> FloatArray:
    """The weights of reciprocal rank fusion that validation liked best: all sources, or one and fillers.

    Popularity fills up, and behind it what the other sources name, in their order: a product listed after the
    training is named by one that reads content, which need not be the one that was liked best.
    """
    filler = np.array([RRF_WEIGHTS.get(name, 1.0) if name == "popular" else BEHIND for name in names])
    alone = [np.where(np.arange(len(names)) == s, 1.0, filler) for s in range(len(names))]
    options = [rrf, *(weights.astype(np.float32) for weights in alone)]
    return max(options, key=lambda weights: _ndcg(judged, (judged.ranks * weights).sum(axis=1)))


def _asked(fold: Fold, params: FusionParams, rng: np.random.Generator) -> IntArray:
    """Users that have something to find, at most `max_users`, ascending."""
    users = np.flatnonzero(np.diff(fold.truth.indptr)).astype(np.int32)
    if len(users) > params.max_users:
        users = np.sort(rng.choice(users, params.max_users, replace=False)).astype(np.int32)
    return users


def _described(
    fold: Fold,
    table: ItemTable,
    users: IntArray,
    held_out: BoolArray,
    params: FusionParams,
    rng: np.random.Generator,
    progress: Progress | None,
) -> Iterator[tuple[_Examples, bool]]:
    """The users' candidates with features and labels, some users at a time, and whether they are held out.

    Of those to learn from only so many wrong candidates are kept.
    """
    target = fold.sources[0].target
    histories = fold.dataset.histories(target)
    consumed = fold.dataset.done(target, consumption(fold.dataset))
    for is_judged in (False, True):
        of_kind = users[held_out == is_judged]
        for start in range(0, len(of_kind), _USERS_AT_ONCE):
            chosen = of_kind[start : start + _USERS_AT_ONCE]
            found = [source.recommend(chosen, k=params.depth) for source in fold.sources]
            pool = Pool.of(found, n_targets=len(table))
            at_us = np.full(len(chosen), fold.dataset.as_of_us, dtype=np.int64)
            described = _Examples(
                row=pool.row,
                x=features(pool, table, histories.last(chosen, HISTORY_LENGTH), at_us),
                ranks=pool.reciprocal_ranks(),
                right=_contains(fold.truth[chosen], pool),
                consumed=_contains(consumed[chosen], pool),
                total=np.diff(fold.truth[chosen].indptr).astype(np.int64),
            )
            yield (described if is_judged else _thin(described, params.negatives, rng)), is_judged
            if progress is not None:
                progress(
                    min(start + _USERS_AT_ONCE, len(of_kind)), len(of_kind), "candidates of validation users"
                )


def _contains(matrix: sparse.csr_matrix, pool: Pool) -> BoolArray:
    """(M,) whether the matrix (B, targets) has the candidate's cell."""
    pairs = sparse.coo_matrix(matrix)
    width = np.int64(matrix.shape[1])
    return np.isin(pool.row * width + pool.ids, pairs.row.astype(np.int64) * width + pairs.col)


def may_return(free: DoubleArray, fresh: DoubleArray) -> bool:
    """Whether targets that a user consumed stay among the candidates that trees order.

    Trees have learnt how seldom what was consumed is wanted again, and place it there; taking it out besides
    must be better by more than chance, or somebody's return is lost to noise.

    Args:
        free: (U,) NDCG of the held-out users with consumed targets.
        fresh: (U,) the same without them.
    """
    return paired_bootstrap(fresh, free).lower <= 0


def _ndcg(examples: _Examples, scores: FloatArray) -> float:
    """Mean over the users."""
    return float(_ndcg_by_user(examples, scores).mean())


def _ndcg_by_user(examples: _Examples, scores: FloatArray, k: int = JUDGED_AT) -> DoubleArray:
    """(U,) NDCG@k; a candidate scored minus infinity is left out."""
    order = np.lexsort((-scores, examples.row))
    row = examples.row[order]
    place = rank_in_group(row)
    hit = examples.right[order] & (place < k) & np.isfinite(scores[order])
    discount = 1.0 / np.log2(np.arange(k) + 2.0)
    gain = np.bincount(row[hit], weights=discount[place[hit]], minlength=len(examples.total))
    ideal = np.cumsum(discount)[np.minimum(examples.total, k) - 1]
    by_user: DoubleArray = gain / ideal
    return by_user


def _thin(examples: _Examples, negatives: int, rng: np.random.Generator) -> _Examples:
    """All right candidates of each user, if there are any, and at most so many wrong ones, drawn evenly."""
    draw = np.where(examples.right, -1.0, rng.random(len(examples.row)))
    order = np.lexsort((draw, examples.row))
    row = examples.row[order]
    place = rank_in_group(row)
    right = np.bincount(examples.row, examples.right, len(examples.total))
    kept = np.zeros(len(row), dtype=bool)
    kept[order] = (place < right[row] + negatives) & (right[row] > 0)
    return examples.where(kept)


def _grow(
    taught: _Examples, judged: _Examples, params: FusionParams, progress: Progress | None
) -> lgb.Booster:
    """Trees that rank the right candidates first, as many as are best on the judged users."""

    def ranked(examples: _Examples, like: lgb.Dataset | None = None) -> lgb.Dataset:
        sizes = np.bincount(examples.row, minlength=len(examples.total))
        label = examples.right.astype(np.int32)
        return lgb.Dataset(examples.x, label, group=sizes[sizes > 0], reference=like)

    def told(environment: Any) -> None:
        if progress is not None:
            (_, _, ndcg, _), *_ = environment.evaluation_result_list
            text = f"combiner, NDCG@{JUDGED_AT} of what is reachable {ndcg:.4f}"
            progress(environment.iteration + 1, params.rounds, text)

    # Who can reach nothing would count as perfectly served.
    judged = judged.where(np.isin(judged.row, judged.row[judged.right]))
    data = ranked(taught)
    settings: dict[str, Any] = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [JUDGED_AT],
        "lambdarank_truncation_level": params.truncation,
        "learning_rate": params.learning_rate,
        "num_leaves": params.leaves,
        "min_data_in_leaf": params.min_leaf,
        "feature_fraction": params.column_share,
        "bagging_fraction": params.row_share,
        "bagging_freq": 1,
        "lambda_l2": params.l2,
        "num_threads": 1,
        "seed": params.seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbose": -1,
    }
    stop = lgb.early_stopping(params.patience, verbose=False)
    return lgb.train(settings, data, params.rounds, valid_sets=[ranked(judged, data)], callbacks=[told, stop])
