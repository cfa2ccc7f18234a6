"""The history encoder: what it reads, by hand, and parts that differ from torch's own for speed alone."""

from __future__ import annotations

import math

import pytest
import torch

from recsys.models.history_encoder import Dropout, HistoryEncoder, LogTime, Lookup
from recsys.types import BEHAVIOURS

DIM, HEADS, LENGTH = 8, 2, 4


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.full((1_000, 1_001), 2.0, requires_grad=True)
    dropped = Dropout(0.3)(values)
    assert abs((dropped == 0).float().mean().item() - 0.3) < 0.002
    assert abs(dropped.mean().item() - 2.0) < 0.01
    (gradient,) = torch.autograd.grad(dropped.sum(), values)
    torch.testing.assert_close(gradient * 2, dropped)
    again = Dropout(0.3)(values)
    assert abs(((again == 0) & (dropped == 0)).float().mean().item() - 0.09) < 0.002


def test_dropout_leaves_a_finished_tower_alone() -> None:
    values = torch.randn(5, 3)
    assert Dropout(0.3).eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_a_narrow_lookup_has_the_gradient_of_an_embedding() -> None:
    torch.manual_seed(1)
    table = Lookup(7, 2)
    rows = torch.randint(7, (4, 5))
    outward = torch.randn(4, 5, 2)
    (found,) = torch.autograd.grad((table(rows) * outward).sum(), table.weight)
    plain = torch.nn.functional.embedding(rows, table.weight)
    (expected,) = torch.autograd.grad((plain * outward).sum(), table.weight)
    torch.testing.assert_close(found, expected)


def _events(b: int, n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """B histories of N events with a moment at each; the first of them has two empty places before."""
    generator = torch.Generator().manual_seed(seed)
    gap_s = torch.rand(b, n, generator=generator) * 5_000
    mask = torch.ones(b, n, dtype=torch.bool)
    mask[0, :2] = False
    gap_s[:, 0] = 0.0
    gap_s[0, :3] = 0.0
    time = gap_s.cumsum(1)
    age_s = time[:, :, None] - time[:, None, :]
    return {
        "vectors": torch.randn(b, n, DIM, generator=generator) * mask[..., None],
        "behaviour": torch.randint(len(BEHAVIOURS), (b, n), generator=generator) * mask,
        "gap_s": gap_s * mask,
        "mask": mask,
        "age_s": age_s,
        "visible": (age_s > 0) & mask[:, None, :],
    }


def _encoder(layers: int) -> HistoryEncoder:
    """With weights drawn at random, those too that training begins at zero."""
    torch.manual_seed(5)
    encoder = HistoryEncoder(dim=DIM, heads=HEADS, layers=layers, length=LENGTH, dropout=0.3).eval()
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return encoder


def _at(scale: LogTime, seconds: float) -> torch.Tensor:
    place = math.log2(1.0 + seconds)
    low = int(place)
    return (1 - (place - low)) * scale.knots.weight[low] + (place - low) * scale.knots.weight[low + 1]


@torch.no_grad()
def test_it_reads_order_gaps_and_behaviour_as_by_hand() -> None:
    encoder, given = _encoder(layers=0), _events(3, 6)
    out = encoder(**given)
    for b in range(3):
        there = [n for n in range(6) if given["mask"][b, n]]
        events = {
            n: given["vectors"][b, n]
            + encoder.behaviour.weight[given["behaviour"][b, n]]
            + _at(encoder.gap, float(given["gap_s"][b, n]))
            for n in there
        }
        for t in there:
            seen = [n for n in there if given["visible"][b, t, n]]
            if not seen:
                assert not out[b, t].any()
                continue
            asking = events[seen[-1]]
            query, read = encoder.query(asking).view(HEADS, -1), []
            for head in range(HEADS):
                scores = [
                    query[head] @ encoder.key(events[n]).view(HEADS, -1)[head] / math.sqrt(DIM / HEADS)
                    + encoder.rank_bias.weight[min(seen[-1] - n, LENGTH - 1), head]
                    + _at(encoder.age_bias, float(given["age_s"][b, t, n]))[head]
                    + encoder.behaviour_bias.weight[given["behaviour"][b, n], head]
                    for n in seen
                ]
                weights = torch.softmax(torch.stack(scores), 0)
                values = torch.stack([encoder.value(events[n]).view(HEADS, -1)[head] for n in seen])
                read.append(weights @ values)
            wanted = torch.cat(read) + encoder.skip(asking)
            torch.testing.assert_close(out[b, t], wanted + encoder.feed_forward(wanted), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layers", [0, 2])
def test_a_moment_sees_nothing_of_what_comes_at_it_or_after(layers: int) -> None:
    encoder, given, other = _encoder(layers), _events(3, 6), _events(3, 6, seed=9)
    moment = 3
    changed = dict(given)
    for name in ("vectors", "behaviour", "gap_s"):
        changed[name] = given[name].clone()
        changed[name][:, moment:] = other[name][:, moment:]
    before, after = encoder(**given), encoder(**changed)
    torch.testing.assert_close(before[:, : moment + 1], after[:, : moment + 1])
    assert not torch.allclose(before[:, moment + 1 :], after[:, moment + 1 :])
