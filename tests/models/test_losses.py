"""Softmax losses by hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from recsys.models.losses import (
    accidental_hits,
    hard_softmax,
    log_partition,
    sampled_softmax,
    weighted_mean,
)


def test_accidental_hits_are_the_rows_own_targets() -> None:
    hits = accidental_hits(torch.tensor([3, 5]), torch.tensor([5, 3, 7, 3]))
    assert hits.tolist() == [[False, True, False, True], [True, False, False, False]]


def test_log_q_by_value() -> None:
    # One negative of score 1, drawn half a time on average: it stands for two such terms.
    loss = sampled_softmax(
        torch.tensor([2.0]), torch.tensor([[1.0]]), torch.tensor([math.log(0.5)]), torch.tensor([[False]])
    )
    expected = -math.log(math.exp(2) / (math.exp(2) + 2 * math.exp(1)))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_negatives_left_out_do_not_count() -> None:
    loss = sampled_softmax(
        torch.tensor([2.0]), torch.tensor([[1.0, 9.0]]), torch.zeros(2), torch.tensor([[False, True]])
    )
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(1)))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_no_negative_left_is_no_loss() -> None:
    positive = torch.tensor([2.0], requires_grad=True)
    loss = sampled_softmax(positive, torch.tensor([[1.0]]), torch.zeros(1), torch.tensor([[True]]))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert positive.grad is not None
    assert positive.grad.item() == 0.0


def test_sampled_softmax_over_every_target_is_the_full_softmax() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(4, 9, generator=generator)
    targets = torch.tensor([0, 8, 3, 3])
    positive = scores[torch.arange(4), targets]
    hits = accidental_hits(targets, torch.arange(9))
    sampled = sampled_softmax(positive, scores, torch.zeros(9), hits)
    torch.testing.assert_close(sampled, cross_entropy(scores, targets, reduction="none"))


def test_weighted_mean_by_value() -> None:
    assert weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 3.0])).item() == 3.25


def test_hard_negatives_by_value() -> None:
    # 1.95 is more than .95 of 2: likely right. 1.0 is had already. 0.5 is left.
    loss = hard_softmax(
        torch.tensor([2.0]),
        torch.tensor([[1.95, 1.0, 0.5]]),
        torch.tensor([[False, True, False]]),
        below=0.95,
    )
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + math.exp(0.5))), abs=1e-6)


def test_a_target_that_is_not_liked_yet_has_hard_negatives_above_it() -> None:
    loss = hard_softmax(torch.tensor([-1.0]), torch.tensor([[1.0]]), torch.tensor([[False]]), below=0.95)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(2)), abs=1e-6)


def test_the_log_partition_and_its_gradient_are_those_of_the_plain_chain() -> None:
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(6, 4, generator=generator, requires_grad=True)
    targets = torch.randn(9, 4, generator=generator, requires_grad=True)
    log_expected = torch.randn(9, generator=generator)
    left_out = torch.rand(6, 9, generator=generator) < 0.4
    left_out[2] = True  # a row without any negative
    weight = torch.rand(6, generator=generator)
    plain = (users @ targets.T - log_expected).masked_fill(left_out, -torch.inf)
    positive = torch.zeros(6, requires_grad=True)

    def gradients(partition: torch.Tensor) -> list[torch.Tensor]:
        loss = (torch.logaddexp(positive, partition) * weight).sum()
        return [loss, *torch.autograd.grad(loss, [users, targets, positive])]

    chain = torch.logsumexp(torch.where(left_out, -1e30, plain), dim=1)
    for found, expected in zip(
        gradients(log_partition(users, targets, log_expected, left_out)), gradients(chain), strict=True
    ):
        torch.testing.assert_close(found, expected)
