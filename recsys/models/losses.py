"""Softmax losses over targets, in full or by sampled negatives with the logQ correction.

The softmax's partition sum is estimated by importance sampling: a negative that its sampler is expected to
draw c times stands for 1 / c of a term, so log c is taken from its score. Bengio and Senecal 2003; for
retrieval: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def accidental_hits(target_ids: Tensor, negative_ids: Tensor) -> Tensor:
    """(B, N) bool: where a negative is the very target of the row.

    Args:
        target_ids: (B,) int64.
        negative_ids: (N,) int64, shared by the rows.
    """
    # As int32, of which twice as many are compared at once.
    return target_ids.int()[:, None] == negative_ids.int()[None, :]


def own_targets(moment: Tensor, target_ids: Tensor, negative_ids: Tensor, n_moments: int) -> Tensor:
    """(M, N) bool: where a negative is among the targets of the row's moment.

    Args:
        moment: (E,) int64 ascending, below M, whose each target is; every moment has one.
        target_ids: (E,) int64.
        negative_ids: (N,) int64, shared by the rows.
        n_moments: M.
    """
    if len(target_ids) == n_moments:
        return accidental_hits(target_ids, negative_ids)
    ids, place = torch.unique(torch.cat([target_ids, negative_ids]), return_inverse=True)
    marked = torch.zeros(n_moments, len(ids), dtype=torch.bool, device=target_ids.device)
    marked[moment, place[: len(target_ids)]] = True
    return marked[:, place[len(target_ids) :]]


def sampled_softmax(positive: Tensor, negative: Tensor, log_expected: Tensor, left_out: Tensor) -> Tensor:
    """Loss of each row, (B,): -log(exp(p) / (exp(p) + sum_j exp(n_j) / expected_j)).

    Args:
        positive: (B,) score of the target.
        negative: (B, N) scores of the negatives.
        log_expected: (N,) or (B, N), log of how often negative j's sampler was expected to draw it.
        left_out: (B, N) bool, negatives that do not count for the row, such as accidental hits.
    """
    corrected = (negative - log_expected).masked_fill(left_out, -torch.inf)
    partition = torch.logsumexp(torch.cat([positive[:, None], corrected], dim=1), dim=1)
    return partition - positive


class _LogPartition(torch.autograd.Function):
    """See `log_partition`.

    The (B, N) scores are written once and turned in place into what the gradient needs; as a chain of
    operations, each with a copy of its own for the way back, the same took 2.3 times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, targets: Tensor, log_expected: Tensor, left_out: Tensor) -> Tensor:
        """(B,) from (B, d), (N, d), (N,) and (B, N)."""
        device = users.device.type
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
            users, targets = users.to(kind), targets.to(kind)
        terms = (users @ targets.T).float()
        terms.sub_(log_expected).masked_fill_(left_out, -torch.inf)
        top = terms.amax(dim=1).clamp(min=torch.finfo(terms.dtype).min)
        total = terms.sub_(top[:, None]).exp_().sum(dim=1)
        ctx.save_for_backward(users, targets, terms, total)
        return total.log() + top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of the rows' partitions (B,)."""
        users, targets, terms, total = ctx.saved_tensors
        # Rows are weighted on their d values, not on their N terms.
        rows = torch.where(total > 0, gradient / total, 0.0)[:, None]
        terms = terms.to(users.dtype)
        to_users = (terms @ targets).float() * rows
        to_targets = (terms.T @ (users * rows).to(users.dtype)).float()
        return to_users, to_targets, None, None


def log_partition(users: Tensor, targets: Tensor, log_expected: Tensor, left_out: Tensor) -> Tensor:
    """ln sum_j exp(u . t_j - log_expected_j) over the targets left in, of each row: (B,), -inf if none is.

    Args:
        users: (B, d), over the temperature.
        targets: (N, d) negatives.
        log_expected: (N,) log of how often negative j's sampler was expected to draw it.
        left_out: (B, N) bool, negatives that do not count for the row.
    """
    partition: Tensor = _LogPartition.apply(  # type: ignore[no-untyped-call]
        users, targets, log_expected, left_out
    )
    return partition


def hard_softmax(positive: Tensor, hardest: Tensor, left_out: Tensor, *, below: float) -> Tensor:
    """Loss of each row, (B,), against its hardest negatives alone; 0 where none is left.

    Args:
        positive: (B,) score of the target.
        hardest: (B, n) scores of the negatives.
        left_out: (B, n) bool, negatives that do not count for the row.
        below: a negative that scores more than this share of a positive score does not count either.
    """
    likely_right = (hardest > below * positive[:, None]) & (positive[:, None] > 0)
    return sampled_softmax(positive, hardest, torch.zeros_like(hardest), left_out | likely_right)


def weighted_mean(losses: Tensor, weights: Tensor, *, total: Tensor | None = None) -> Tensor:
    """Mean of the losses (B,) by their weights (B,), of which at least one is positive.

    Args:
        losses, weights: (B,).
        total: what the weights of a larger batch sum to, of which these losses are a part.
    """
    return (losses * weights).sum() / (weights.sum() if total is None else total)


def first_of_each(ids: Tensor) -> Tensor:
    """(m,) int64 places at which each of the m different values of (N,) int64 occurs first."""
    values, which = torch.unique(ids, return_inverse=True)
    place = torch.full((len(values),), len(ids), dtype=torch.int64, device=ids.device)
    return place.scatter_reduce(0, which, torch.arange(len(ids), device=ids.device), "amin")
