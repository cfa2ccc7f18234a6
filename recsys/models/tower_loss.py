"""The loss of a batch: a softmax over targets, one over what was shown, one over what is hard."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.stats import entropy
from torch import Tensor

from recsys.models import losses
from recsys.models.sampling import ExposureSampler, Had, NegativeSampler
from recsys.models.towers import TwoTowerNetwork
from recsys.models.training_examples import Batch, Examples
from recsys.models.two_tower_params import TwoTowerParams
from recsys.types import DoubleArray


class TowerLoss:
    """Weighted mean loss of a batch, as a scalar.

    Args:
        network: on its device.
        params: which terms there are, and how much each counts.
        pool: (m,) int64 ascending, the targets that there are to choose from: those with an event.
        sampler: of negatives; None for the full softmax over the pool.
        exposures: what was shown before an event and let pass, all of it in the pool.
        had: what is no hard negative for a user.
        generator: of what is drawn, on the network's device.
    """

    def __init__(
        self,
        network: TwoTowerNetwork,
        params: TwoTowerParams,
        *,
        pool: Tensor,
        sampler: NegativeSampler | None,
        exposures: ExposureSampler,
        had: Had,
        generator: torch.Generator,
    ) -> None:
        self.network = network
        self.params = params
        self.pool = pool
        self.sampler = sampler
        self.exposures = exposures
        self.had = had
        self.generator = generator
        self._place = torch.zeros(network.targets.n, dtype=torch.int64, device=pool.device)
        self._encode: Callable[..., Tensor] = network.history
        if params.compile and pool.device.type == "cuda":
            self._encode = torch.compile(network.history, dynamic=True)

    def of_popularity(self, expected: DoubleArray) -> float:
        """At most what towers have that know how often each target is right, and nothing of users.

        The entropy of the targets, and ln(1 + n) for every choice among 1 + n. Infinite without logQ, for
        then negatives are no sample of anything.

        Args:
            expected: (targets,) how many examples of a pass are expected to have each.
        """
        if self.sampler is not None and not self.sampler.log_q:
            return math.inf
        params = self.params
        among_shown = params.exposure_weight * math.log1p(self.exposures.n)
        return float(entropy(expected)) + among_shown + params.hard_weight * math.log1p(params.hard_negatives)

    def __call__(self, batch: Batch, whole: Examples | None = None) -> Tensor:
        """The weighted mean over the batch's examples, a scalar.

        Args:
            batch: of this process.
            whole: the examples of all processes: negatives are their targets, and the losses are divided by
                their weight, so that the scalars of all sum to what one process would have.
        """
        whole = batch.examples if whole is None else whole
        device = batch.target_idx.device
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.params.bf16 and device.type == "cuda"
        ):
            each = self._each(batch, whole)
            return losses.weighted_mean(each, batch.examples.weight, total=whole.weight.sum())

    def _each(self, batch: Batch, whole: Examples) -> Tensor:
        """(E,) the loss of each example."""
        network, params, targets = self.network, self.params, batch.examples.target_idx
        negatives = None if self.sampler is None else self.sampler.draw(whole.target_idx, self.generator)
        ids = self.pool if negatives is None else negatives.ids
        shown, nothing_shown = self.exposures.of(batch.event)
        vectors = self._target_vectors(ids, batch.target_idx, targets, shown)
        users = self._users(batch, vectors[self._place[batch.target_idx]])  # (M, d)
        positive = self._scored(users[batch.moment], vectors[self._place[targets]])
        candidates = vectors[self._place[ids]]
        # What is predicted from one moment does not compete: it is all right.
        left_out = losses.own_targets(batch.moment, targets, ids, len(users))
        log_expected = torch.zeros(len(ids), device=ids.device)
        if negatives is not None:
            log_expected = negatives.log_expected
            # A user's other events are no negatives drawn by popularity: they are that user's taste.
            left_out[:, : negatives.n_in_batch] |= losses.accidental_hits(
                batch.user_idx[batch.row], whole.user_idx[: negatives.n_in_batch]
            )
        others = losses.log_partition(users / network.temperature, candidates, log_expected, left_out)
        others = others[batch.moment]
        each = torch.logaddexp(positive, others) - positive
        if self.exposures.n:
            # What was shown was not drawn from the catalogue, so no correction fits it: it is a choice apart.
            passed_by = self._scored(users[batch.moment, None], vectors[self._place[shown]])
            chosen = losses.sampled_softmax(positive, passed_by, torch.zeros_like(passed_by), nothing_shown)
            each = each + params.exposure_weight * chosen
        if params.hard_negatives:
            once = losses.first_of_each(ids)  # a target drawn several times is no harder for that
            ids, candidates, left_out = ids[once], candidates[once], left_out[:, once]
            n = min(params.hard_negatives, len(ids))
            with torch.no_grad():
                scores = network.scores(users, candidates).masked_fill(left_out, -torch.inf)
            _, place = scores.topk(n, dim=1)
            hardest = self._scored(users[:, None], candidates[place])
            had = self.had(batch.user_idx[batch.row], ids[place]) | left_out.gather(1, place)
            of = batch.moment
            hard = losses.hard_softmax(positive, hardest[of], had[of], below=params.hard_below)
            each = each + params.hard_weight * hard
        return each

    def _target_vectors(self, *ids: Tensor) -> Tensor:
        """(m, d) of the pool or, with sampled negatives, of the step's ids, each once: at `_place`."""
        if self.sampler is None:
            rows = self.pool
        else:
            wanted = torch.zeros(len(self._place), dtype=torch.bool, device=self.pool.device)
            for some in ids:
                wanted[some] = True
            rows = wanted.nonzero().squeeze(1)
        self._place[rows] = torch.arange(len(rows), device=rows.device)
        return self.network.target_vectors(rows)

    def _users(self, batch: Batch, history: Tensor) -> Tensor:
        """(M, d) vectors of the users at their moments, from (B, N, d) of their events' targets."""
        wanted = self._encode(
            history,
            batch.behaviour,
            batch.gap_s,
            batch.mask,
            batch.age_s,
            batch.visible,
            asked=(batch.row, batch.slot),
        )
        return self.network.finish(wanted + self.network.users(batch.user_idx)[batch.row])

    def _scored(self, users: Tensor, targets: Tensor) -> Tensor:
        """Scores (...) float32 of users (..., d) with targets (..., d)."""
        return (users * targets).sum(dim=-1).float() / self.network.temperature
