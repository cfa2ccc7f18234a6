"""The loss of a batch of training examples: a softmax over targets, in full or sampled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recsys.models import losses
from recsys.models.sampling import NegativeSampler
from recsys.models.towers import TwoTowerNetwork
from recsys.models.training_examples import Batch
from recsys.models.two_tower_params import TwoTowerParams


class TowerLoss:
    """Weighted mean loss of a batch, as a scalar.

    Args:
        network: on its device.
        params: which terms there are.
        pool: (m,) int64 ascending, the targets that there are to choose from: those with an event.
        sampler: of negatives; None for the full softmax over the pool.
        generator: of what is drawn, on the network's device.
    """

    def __init__(
        self,
        network: TwoTowerNetwork,
        params: TwoTowerParams,
        *,
        pool: Tensor,
        sampler: NegativeSampler | None,
        generator: torch.Generator,
    ) -> None:
        self.network = network
        self.params = params
        self.pool = pool
        self.sampler = sampler
        self.generator = generator
        self.place_in_pool = torch.zeros(network.targets.n, dtype=torch.int64, device=pool.device)
        self.place_in_pool[pool] = torch.arange(len(pool), device=pool.device)
        self._encode: Callable[..., Tensor] = network.history
        if params.compile and pool.device.type == "cuda":
            self._encode = torch.compile(network.history, dynamic=True)

    def __call__(self, batch: Batch) -> Tensor:
        """The weighted mean over the batch's examples, a scalar."""
        device = batch.target_idx.device
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.params.bf16 and device.type == "cuda"
        ):
            each = self._full(batch) if self.sampler is None else self._sampled(batch, self.sampler)
            return losses.weighted_mean(each, batch.examples.weight)

    def _full(self, batch: Batch) -> Tensor:
        """(E,) over the whole pool."""
        vectors = self.network.target_vectors(self.pool)
        users = self._users(batch, vectors[self.place_in_pool[batch.target_idx]])
        scores = self.network.scores(users, vectors)
        return losses.full_softmax(scores, self.place_in_pool[batch.examples.target_idx])

    def _sampled(self, batch: Batch, sampler: NegativeSampler) -> Tensor:
        """(E,) over the negatives that the rows share."""
        network, examples = self.network, batch.examples
        negatives = sampler.draw(examples.target_idx, self.generator)
        # The target tower runs once for each distinct target of the step.
        parts = [batch.target_idx, negatives.ids, examples.target_idx]
        rows, place = torch.unique(torch.cat([part.flatten() for part in parts]), return_inverse=True)
        vectors = network.target_vectors(rows)
        history, candidates, positives = (
            vectors[where.view_as(part)]
            for where, part in zip(place.split([part.numel() for part in parts]), parts, strict=True)
        )
        users = self._users(batch, history)
        scores = network.scores(users, candidates)
        left_out = losses.accidental_hits(examples.target_idx, negatives.ids)
        # A user's other events are no negatives drawn by popularity: they are that user's taste.
        others = examples.user_idx[: negatives.n_in_batch]
        left_out[:, : negatives.n_in_batch] |= examples.user_idx[:, None] == others[None, :]
        positive = (users * positives).sum(dim=-1).float() / network.temperature
        return losses.sampled_softmax(positive, scores, negatives.log_expected, left_out)

    def _users(self, batch: Batch, history: Tensor) -> Tensor:
        """(E, d) vectors of the users at their examples' moments, from (B, N, d) of their events' targets."""
        moments = self._encode(history, batch.behaviour, batch.gap_s, batch.mask, batch.age_s, batch.visible)
        profiles = self.network.users(batch.user_idx)
        return self.network.finish(moments[batch.row, batch.slot] + profiles[batch.row])
