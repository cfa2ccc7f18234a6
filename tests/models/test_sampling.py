"""Negative samplers: what they draw, and how often they say that they do."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from recsys.models.losses import accidental_hits, sampled_softmax
from recsys.models.sampling import Had, NegativeSampler


def _sampler(
    counts: list[int], *, in_batch: bool = True, n_uniform: int = 4, log_q: bool = True
) -> NegativeSampler:
    pool = torch.arange(len(counts))
    return NegativeSampler(torch.tensor(counts), pool, in_batch=in_batch, n_uniform=n_uniform, log_q=log_q)


def test_each_negative_is_corrected_by_its_own_sampler() -> None:
    negatives = _sampler([6, 2], n_uniform=4).draw(torch.tensor([0, 1, 0]), torch.Generator().manual_seed(0))
    # In the batch: 3 draws at 6/8 and 2/8. Evenly: 4 draws at 1/2. Two samplers share the partition sum.
    in_batch = [math.log(2 * 3 * 6 / 8), math.log(2 * 3 * 2 / 8), math.log(2 * 3 * 6 / 8)]
    uniform = [math.log(2 * 4 / 2)] * 4
    assert negatives.ids[:3].tolist() == [0, 1, 0]
    assert negatives.n_in_batch == 3
    assert negatives.log_expected.tolist() == pytest.approx(in_batch + uniform, abs=1e-6)


def test_one_sampler_shares_with_nobody() -> None:
    negatives = _sampler([6, 2], in_batch=False, n_uniform=4).draw(torch.tensor([0]), torch.Generator())
    assert negatives.n_in_batch == 0
    assert negatives.log_expected.tolist() == pytest.approx([math.log(2.0)] * 4, abs=1e-6)


def test_without_log_q_a_negative_is_a_negative() -> None:
    negatives = _sampler([6, 2], log_q=False).draw(torch.tensor([0, 1]), torch.Generator())
    assert negatives.log_expected.tolist() == [0.0] * 6


def test_uniform_draws_are_even() -> None:
    drawn = _sampler([1] * 10, in_batch=False, n_uniform=100_000).draw(
        torch.tensor([0]), torch.Generator().manual_seed(3)
    )
    shares = torch.bincount(drawn.ids, minlength=10) / 100_000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.005)


def test_targets_outside_the_pool_are_never_drawn() -> None:
    counts = torch.tensor([3, 0, 1, 0, 0, 2])
    sampler = NegativeSampler(counts, torch.tensor([0, 2, 5]), in_batch=False, n_uniform=300, log_q=True)
    negatives = sampler.draw(torch.tensor([0]), torch.Generator().manual_seed(1))
    assert sorted(set(negatives.ids.tolist())) == [0, 2, 5]
    assert negatives.log_expected.tolist() == pytest.approx([math.log(300 / 3)] * 300, abs=1e-6)


def test_the_corrected_partition_sum_is_that_of_all_targets() -> None:
    # exp(p) is counted once; the estimate of the others' sum must come out even over many batches.
    generator = torch.Generator().manual_seed(5)
    counts = [50, 30, 15, 5]
    scores = torch.tensor([0.3, -0.2, 0.9, 0.1])
    sampler = _sampler(counts, n_uniform=64)
    target = torch.tensor([0])
    sums = []
    for _ in range(400):
        others = torch.multinomial(torch.tensor(counts).float(), 64, replacement=True, generator=generator)
        negatives = sampler.draw(others, generator)
        hits = accidental_hits(target, negatives.ids)
        loss = sampled_softmax(scores[:1], scores[negatives.ids][None], negatives.log_expected, hits)
        sums.append(torch.exp(loss + scores[0]).item())
    expected = torch.exp(cross_entropy(scores[None], target, reduction="none") + scores[0]).item()
    assert sum(sums) / len(sums) == pytest.approx(expected, rel=0.02)


def test_what_a_user_had_is_known_by_user() -> None:
    had = Had(torch.tensor([0, 0, 2]), torch.tensor([3, 1, 3]), 5)
    found = had(torch.tensor([0, 2, 1]), torch.tensor([[1, 3, 4], [1, 3, 4], [1, 3, 4]]))
    assert found.tolist() == [[True, True, False], [False, True, False], [False, False, False]]
