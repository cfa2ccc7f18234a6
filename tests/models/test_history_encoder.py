"""Parts of the history encoder that differ from torch's own for speed alone."""

from __future__ import annotations

import torch

from recsys.models.history_encoder import Dropout, Lookup


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
