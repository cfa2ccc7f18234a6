"""Where negatives come from, and how often each sampler is expected to draw a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.models.exposures import Exposures


@dataclass(frozen=True)
class Negatives:
    """N negatives that the rows of a batch share.

    Attributes:
        ids: (N,) int64 targets.
        log_expected: (N,) float32, log of the draws of this target expected of its own sampler, times the
            number of samplers: each of them alone estimates the whole partition sum, so they are averaged.
        n_in_batch: the first so many are the batch's own targets, row by row; the rest are uniform.
    """

    ids: Tensor
    log_expected: Tensor
    n_in_batch: int


class NegativeSampler:
    """Negatives from the batch itself, which come by popularity, and evenly from the targets there were.

    A target without any event is never drawn: if it could only be wrong, whatever is new would be pushed away
    from every user, by its content.

    Args:
        expected: (targets,) float64, how many examples of a pass are expected to have each target: the
            distribution of the batch's own.
        pool: (m,) int64, the targets that even draws are made from.
        in_batch: whether the targets of the other rows are negatives.
        n_uniform: how many even draws, with replacement, a batch gets.
        log_q: without it every negative counts once, whatever its chance.
    """

    def __init__(
        self, expected: Tensor, pool: Tensor, *, in_batch: bool, n_uniform: int, log_q: bool
    ) -> None:
        self.pool = pool
        self.in_batch = in_batch
        self.n_uniform = n_uniform
        self.log_q = log_q
        # A target that is in a batch was expected; the floor only keeps the logarithm of others finite.
        share = expected.float() / expected.sum().float()
        self.log_frequency = share.clamp(min=torch.finfo(torch.float32).tiny).log()

    def draw(self, batch_targets: Tensor, generator: torch.Generator) -> Negatives:
        """Negatives for a batch whose targets are (B,) int64."""
        ids, log_expected = [], []
        if self.in_batch:
            ids.append(batch_targets)
            log_expected.append(self.log_frequency[batch_targets] + math.log(len(batch_targets)))
        if self.n_uniform:
            device = batch_targets.device
            places = torch.randint(len(self.pool), (self.n_uniform,), generator=generator, device=device)
            ids.append(self.pool[places])
            log_expected.append(
                torch.full((self.n_uniform,), math.log(self.n_uniform / len(self.pool)), device=device)
            )
        together = torch.cat(log_expected) + math.log(len(ids))
        return Negatives(
            ids=torch.cat(ids),
            log_expected=together if self.log_q else torch.zeros_like(together),
            n_in_batch=len(batch_targets) if self.in_batch else 0,
        )


class ExposureSampler:
    """The showings before an event that the user let pass.

    Args:
        exposures: of the timelines that the examples are from.
        n: the most of an event, the latest first; 0 where there is none at all.
        device: where the ids are wanted.
    """

    def __init__(self, exposures: Exposures, n: int, device: torch.device) -> None:
        self.n = min(n, len(exposures))
        self.target_idx = torch.from_numpy(exposures.target_idx).to(device).long()
        self.start = torch.from_numpy(exposures.start).to(device)
        self.end = torch.from_numpy(exposures.end).to(device)

    def of(self, event: Tensor) -> tuple[Tensor, Tensor]:
        """The showings of events (E,): ids (E, n) int64, and (E, n) bool which places hold none."""
        place = self.end[event, None] - 1 - torch.arange(self.n, device=event.device)
        empty = place < self.start[event, None]
        return self.target_idx[place.masked_fill(empty, 0)], empty


class Had:
    """Which user ever turned to which target: what is no negative for that user.

    Args:
        user_idx, target_idx: (N,) int of every event, on the device that asks.
        n_targets: how many targets there are.
    """

    def __init__(self, user_idx: Tensor, target_idx: Tensor, n_targets: int) -> None:
        self.n_targets = n_targets
        self.pairs = torch.unique(user_idx.long() * n_targets + target_idx)

    def __call__(self, user_idx: Tensor, target_idx: Tensor) -> Tensor:
        """(E, n) bool, for users (E,) and targets (E, n)."""
        wanted = user_idx[:, None] * self.n_targets + target_idx
        place = torch.searchsorted(self.pairs, wanted).clamp(max=len(self.pairs) - 1)
        found: Tensor = self.pairs[place] == wanted
        return found
