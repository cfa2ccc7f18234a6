"""Trains the combiner of `recsys.models.fusion` on what users did after the base models were fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field
from scipy import sparse

from recsys.data.behaviours import DAY_US
from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.base import Model
from recsys.models.fusion import (
    CLIP,
    DEPTH,
    HALF_LIVES_DAYS,
    HISTORY_LENGTH,
    Combiner,
    ItemTable,
    Network,
    Pool,
    features,
)
from recsys.models.ragged import expand
from recsys.types import Behaviour, BoolArray, FloatArray, LongArray, Params, Progress, Target

_USERS_AT_ONCE = 512

#: Weights of reciprocal rank fusion where nothing can be learned. A user's own past speaks loudest, what is
#: popular only fills up; a source that is not named here counts 1.
RRF_WEIGHTS: Mapping[str, float] = {"repeat": 1.0, "popular": 0.1}


class FusionParams(Params):
    """How the combiner is trained.

    Attributes:
        depth: candidates read from each source.
        hidden: width of the network's one layer.
        members: networks trained from different seeds and put side by side: the score is their mean.
        min_users: with fewer users to learn from, weighted reciprocal rank fusion stays.
        max_users: at most so many users of a fold are learned from.
        negatives: candidates kept of each user in training, besides all that were right.
        holdout: share of the users that decides when to stop and whether targets may return.
        learning_rate, weight_decay: of AdamW.
        batch_users: users a step.
        max_epochs: passes over the users at most.
        patience: passes without a better NDCG@20 on the held-out users before it stops.
        returns: whether consumed targets may be recommended again; auto: if NDCG@20 is better so.
        seed: of the split, the sampling and the first weights.
    """

    depth: int = Field(default=DEPTH, ge=1)
    hidden: int = Field(default=32, ge=1)
    members: int = Field(default=3, ge=1)
    min_users: int = Field(default=200, ge=1)
    max_users: int = Field(default=5_000, ge=1)
    negatives: int = Field(default=150, ge=1)
    holdout: float = Field(default=0.2, gt=0, lt=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    batch_users: int = Field(default=64, ge=1)
    max_epochs: int = Field(default=30, ge=1)
    patience: int = Field(default=4, ge=1)
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
        learned: whether a network was trained, or reciprocal ranks are fused.
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

    The network is trained listwise: softmax cross-entropy of each user's right candidates against the wrong
    ones (Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach").

    Args:
        folds: windows of validation; several where one holds few users.
        params: `FusionParams`.
        progress: told of users described and epochs done.

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
    rrf = np.array([RRF_WEIGHTS.get(name, 1.0) for name in names], dtype=np.float32)
    rng = np.random.default_rng(params.seed)
    tables = [item_table(fold.dataset, fold.sources[0].target) for fold in folds]
    examples = _Examples.joined(
        [_describe(fold, table, params, rng, progress) for fold, table in zip(folds, tables, strict=True)]
    )
    n_users = len(examples.total)
    learned = n_users >= params.min_users and bool(examples.right.any())
    held_out = (
        rng.permutation(n_users) < params.holdout * n_users if learned else np.ones(n_users, dtype=bool)
    )
    judged = examples.of_rows(held_out)
    network = None
    if not learned:
        rrf = _best_weights(judged, rrf, names)
    if learned:
        network = _train(examples.of_rows(~held_out), judged, params, progress)
    rrf_scores = (judged.ranks * rrf).sum(axis=1)
    scores = network(judged.x) if network is not None else rrf_scores
    free = _ndcg(judged, scores)
    fresh = _ndcg(judged, np.where(judged.consumed, -np.inf, scores))
    returns = params.returns == "yes" or (params.returns == "auto" and free > fresh)
    out = judged.consumed & (not returns)
    report = FusionReport(
        users=n_users,
        reachable=float(examples.right.sum() / max(examples.total.sum(), 1)),
        learned=learned,
        ndcg_returns=free,
        ndcg_no_returns=fresh,
        ndcg_rrf=_ndcg(judged, np.where(out, -np.inf, rrf_scores)),
        ndcg_sources={
            name: _ndcg(judged, np.where(out | (judged.ranks[:, s] == 0), -np.inf, judged.ranks[:, s]))
            for s, name in enumerate(names)
        },
    )
    return Combiner(names, tables[-1], rrf, network, returns), report


def _best_weights(judged: _Examples, rrf: FloatArray, names: Sequence[str]) -> FloatArray:
    """The weights of reciprocal rank fusion that validation liked best: all sources, or one and a filler."""
    filler = np.array([RRF_WEIGHTS.get(name, 1.0) if name == "popular" else 0.0 for name in names])
    alone = [np.where(np.arange(len(names)) == s, 1.0, filler) for s in range(len(names))]
    options = [rrf, *(weights.astype(np.float32) for weights in alone)]
    return max(options, key=lambda weights: _ndcg(judged, (judged.ranks * weights).sum(axis=1)))


def _describe(
    fold: Fold, table: ItemTable, params: FusionParams, rng: np.random.Generator, progress: Progress | None
) -> _Examples:
    """The candidates of every user that has something to find, with features and labels."""
    target = fold.sources[0].target
    histories = fold.dataset.histories(target)
    consumed = fold.dataset.done(target, consumption(fold.dataset))
    users = np.flatnonzero(np.diff(fold.truth.indptr)).astype(np.int32)
    if len(users) > params.max_users:
        users = np.sort(rng.choice(users, params.max_users, replace=False)).astype(np.int32)
    parts = []
    for start in range(0, len(users), _USERS_AT_ONCE):
        chosen = users[start : start + _USERS_AT_ONCE]
        found = [source.recommend(chosen, k=params.depth) for source in fold.sources]
        pool = Pool.of(found, n_targets=len(table))
        at_us = np.full(len(chosen), fold.dataset.as_of_us, dtype=np.int64)
        parts.append(
            _Examples(
                row=pool.row,
                x=features(pool, table, histories.last(chosen, HISTORY_LENGTH), at_us),
                ranks=pool.reciprocal_ranks(),
                right=_contains(fold.truth[chosen], pool),
                consumed=_contains(consumed[chosen], pool),
                total=np.diff(fold.truth[chosen].indptr).astype(np.int64),
            )
        )
        if progress is not None:
            progress(min(start + _USERS_AT_ONCE, len(users)), len(users), "candidates of validation users")
    if not parts:
        raise ModelError("fusion: no user that the sources know has anything to find in the window")
    return _Examples.joined(parts)


def _contains(matrix: sparse.csr_matrix, pool: Pool) -> BoolArray:
    """(M,) whether the matrix (B, targets) has the candidate's cell."""
    pairs = sparse.coo_matrix(matrix)
    width = np.int64(matrix.shape[1])
    return np.isin(pool.row * width + pool.ids, pairs.row.astype(np.int64) * width + pairs.col)


def _ndcg(examples: _Examples, scores: FloatArray, k: int = 20) -> float:
    """Mean NDCG@k over the users; a candidate scored minus infinity is left out."""
    order = np.lexsort((-scores, examples.row))
    row = examples.row[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(len(examples.total)))[row]
    hit = examples.right[order] & (place < k) & np.isfinite(scores[order])
    discount = 1.0 / np.log2(np.arange(k) + 2.0)
    gain = np.bincount(row[hit], weights=discount[place[hit]], minlength=len(examples.total))
    ideal = np.cumsum(discount)[np.minimum(examples.total, k) - 1]
    return float((gain / ideal).mean())


def _thin(examples: _Examples, negatives: int, rng: np.random.Generator) -> _Examples:
    """Users with a right candidate; all their right ones and at most so many wrong ones, drawn evenly."""
    examples = examples.of_rows(np.bincount(examples.row, examples.right, len(examples.total)) > 0)
    draw = np.where(examples.right, -1.0, rng.random(len(examples.row)))
    order = np.lexsort((draw, examples.row))
    row = examples.row[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(len(examples.total)))[row]
    right = np.bincount(examples.row, examples.right, len(examples.total))
    kept = np.zeros(len(row), dtype=bool)
    kept[order] = place < right[row] + negatives
    return examples.where(kept)


class _Net(torch.nn.Module):
    def __init__(self, n_features: int, hidden: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(n_features, hidden)
        self.outer = torch.nn.Linear(hidden, 1, bias=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.outer(torch.relu(self.inner(z)))  # (M, 1)
        return scores.squeeze(-1)


def _train(train: _Examples, judged: _Examples, params: FusionParams, progress: Progress | None) -> Network:
    """The mean of a few small networks, each stopped at its best epoch on the judged users."""
    mean = train.x.mean(axis=0)
    scale = np.maximum(train.x.std(axis=0), 1e-3)
    rng = np.random.default_rng(params.seed)
    train = _thin(train, params.negatives, rng)
    members = [
        _train_one(train, judged, mean, scale, params, params.seed + member, progress)
        for member in range(params.members)
    ]
    return Network(
        mean=mean,
        scale=scale,
        w1=np.concatenate([member.w1 for member in members], axis=1),
        b1=np.concatenate([member.b1 for member in members]),
        w2=np.concatenate([member.w2 / np.float32(len(members)) for member in members]),
    )


def _train_one(
    train: _Examples,
    judged: _Examples,
    mean: FloatArray,
    scale: FloatArray,
    params: FusionParams,
    seed: int,
    progress: Progress | None,
) -> Network:
    z = torch.from_numpy(np.clip((train.x - mean) / scale, -CLIP, CLIP).astype(np.float32))
    right = torch.from_numpy(train.right)
    starts = np.searchsorted(train.row, np.arange(len(train.total) + 1))
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Net(z.shape[1], params.hidden)
    optimiser = torch.optim.AdamW(net.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    best, best_ndcg, since = _as_network(net, mean, scale), -1.0, 0
    for epoch in range(params.max_epochs):
        order = rng.permutation(len(train.total))
        for start in range(0, len(order), params.batch_users):
            users = order[start : start + params.batch_users]
            position, owner = expand(starts[users], starts[users + 1] - starts[users])
            loss = _listwise_loss(net(z[position]), right[position], torch.from_numpy(owner), len(users))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        now = _as_network(net, mean, scale)
        ndcg = _ndcg(judged, now(judged.x))
        if progress is not None:
            progress(epoch + 1, params.max_epochs, f"combiner, NDCG@20 {ndcg:.4f}")
        if ndcg > best_ndcg:
            best, best_ndcg, since = now, ndcg, 0
        else:
            since += 1
            if since >= params.patience:
                break
    return best


def _listwise_loss(
    scores: torch.Tensor, right: torch.Tensor, owner: torch.Tensor, n_users: int
) -> torch.Tensor:
    """Mean over users of the mean over right candidates p of -log(e^p / (e^p + sum over wrong n of e^n)).

    Args:
        scores: (M,) of the candidates of a batch of users.
        right: (M,) bool.
        owner: (M,) int64 which user of the batch.
        n_users: users in the batch.
    """
    peak = torch.full((n_users,), -torch.inf).scatter_reduce(0, owner, scores.detach(), "amax")
    shifted = scores - peak[owner]
    wrong = torch.zeros(n_users).index_add(0, owner[~right], shifted[~right].exp())
    right_owner, right_score = owner[right], shifted[right]
    loss = torch.log(right_score.exp() + wrong[right_owner]) - right_score
    count = torch.zeros(n_users).index_add(0, right_owner, torch.ones_like(right_score))
    return (loss / count[right_owner]).sum() / n_users


def _as_network(net: _Net, mean: FloatArray, scale: FloatArray) -> Network:
    w1, b1, w2 = net.inner.weight, net.inner.bias, net.outer.weight
    return Network(
        mean=mean,
        scale=scale,
        w1=w1.detach().numpy().T.copy(),
        b1=b1.detach().numpy().copy(),
        w2=w2.detach().numpy()[0].copy(),
    )
