"""What a training stops by: how well held-out events are predicted from what came before them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.data.histories import HistoryBatch
from recsys.durations import DAY_US, SECOND_US
from recsys.evaluation import metrics
from recsys.models.base import top_k
from recsys.models.towers import QueryTower, TwoTowerNetwork
from recsys.models.training_examples import HISTORY_BEHAVIOURS
from recsys.models.two_tower_params import TwoTowerParams
from recsys.types import FloatArray, IntArray, LongArray, Target

#: Users or targets that go through a tower at once.
ROWS_AT_ONCE = 4_096
_RANKED_AT_ONCE = 512
_TOP = 20

_log = logging.getLogger(__name__)


@torch.no_grad()
def encode_targets(network: TwoTowerNetwork) -> FloatArray:
    """Vectors of all targets, (targets, d) float32. The network is in evaluation mode afterwards."""
    network.eval()
    rows = torch.arange(network.targets.n, device=network.log_temperature.device)
    parts = [network.target_vectors(part).cpu() for part in torch.split(rows, ROWS_AT_ONCE)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def encode_profiles(network: TwoTowerNetwork, users: IntArray) -> FloatArray:
    """What is known of users apart from their histories, (B, d) float32."""
    network.eval()
    rows = torch.from_numpy(users.astype(np.int64)).to(network.log_temperature.device)
    parts = [network.users(part).cpu() for part in torch.split(rows, ROWS_AT_ONCE)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def encode_users(
    network: TwoTowerNetwork,
    histories: HistoryBatch,
    *,
    now_us: int | LongArray,
    target_vectors: FloatArray,
    profiles: FloatArray,
) -> FloatArray:
    """Vectors of users at a moment, (B, d) float32.

    Args:
        network: the fitted towers.
        histories: of B users, all before `now_us`.
        now_us: the moment, or (B,) one for each user; microseconds since the epoch.
        target_vectors: (targets, d).
        profiles: (B, d).
    """
    network.eval()
    tower = QueryTower(network)
    age_us = np.reshape(now_us, (-1, 1)) - histories.timestamp_us
    age_s = np.where(histories.mask, age_us / SECOND_US, 0).astype(np.float32)

    def put(values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(values).to(network.log_temperature.device)

    parts = []
    for begin in range(0, len(profiles), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        vectors = tower(
            put(target_vectors[histories.target_idx[rows]]),
            put(histories.behaviour[rows].astype(np.int64)),
            put(age_s[rows]),
            put(histories.mask[rows]),
            put(profiles[rows]),
        )
        parts.append(vectors.cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, target_vectors.shape[1]), np.float32)


class Validation:
    """Recall@20 and NDCG@20 of a sample of users on the targets that they turned to after a moment.

    Args:
        users: (B,) int32.
        histories: of these users, before the moment.
        now_us: the moment.
        wanted: (B, targets) CSR of ones, what each turned to after it; no row is empty.
        seen: (B, targets) CSR of what is not to be predicted again; None leaves everything in.
    """

    def __init__(
        self,
        *,
        users: IntArray,
        histories: HistoryBatch,
        now_us: int,
        wanted: sparse.csr_matrix,
        seen: sparse.csr_matrix | None,
    ) -> None:
        self.users = users
        self.histories = histories
        self.now_us = now_us
        self.wanted = wanted
        self.seen = seen

    def measure(self, network: TwoTowerNetwork) -> tuple[float, float]:
        """Mean recall@20 and NDCG@20 over the users."""
        targets = encode_targets(network)
        users = encode_users(
            network,
            self.histories,
            now_us=self.now_us,
            target_vectors=targets,
            profiles=encode_profiles(network, self.users),
        )
        recall, ndcg = [], []
        for begin in range(0, len(users), _RANKED_AT_ONCE):
            rows = slice(begin, begin + _RANKED_AT_ONCE)
            best = top_k(
                users[rows] @ targets.T,
                k=min(_TOP, len(targets)),
                exclude=None if self.seen is None else self.seen[rows],
            )
            wanted = self.wanted[rows]
            found = metrics.hits(best, wanted, k=_TOP)
            n_wanted = np.diff(wanted.indptr)
            recall.append(metrics.recall(found, n_wanted))
            ndcg.append(metrics.ndcg(found, n_wanted))
        return float(np.concatenate(recall).mean()), float(np.concatenate(ndcg).mean())


def hold_out(
    dataset: Dataset,
    params: TwoTowerParams,
    *,
    target: Target,
    weights: BehaviourWeights,
    seed: int,
) -> tuple[Validation | None, Dataset]:
    """The validation, of the log's end, and what is left to train on: all, where nothing can be held out.

    Args:
        dataset: what may be trained on.
        params: how much is held out, if anything is, and what of it is predicted.
        target: what is recommended.
        weights: an event that counts nothing is not predicted.
        seed: of the users who are drawn.
    """
    if params.steps is not None:
        return None, dataset
    events = dataset.events
    if params.validation_days is not None:
        cut_us = dataset.as_of_us - int(params.validation_days * DAY_US)
    else:
        cut_us = int(events.timestamp_us[int(len(events) * (1 - params.validation_share))])
    if cut_us <= events.timestamp_us[0]:
        _log.warning("all events are of the validation window: training without one")
        return None, dataset
    before = dataset.until(cut_us)
    after = events.where(slice(len(before.events), None))
    weight = dataset.settle(weights).of(after, dataset.as_of_us)
    index = after.target_idx(target)
    wanted = (index >= 0) & (weight > 0)
    if params.target_behaviours is not None:
        wanted &= after.is_any(params.target_behaviours)
    shape = (len(dataset.users), len(dataset.entities(target)))
    pairs = _ones(after.user_idx[wanted], index[wanted], shape)
    seen = None
    if not params.repeats:
        done = before.done(target, HISTORY_BEHAVIOURS).tocoo()
        seen = _ones(done.row, done.col, shape)
        pairs = pairs - pairs.multiply(seen)
        pairs.eliminate_zeros()
    histories = before.histories(target, HISTORY_BEHAVIOURS)
    known = np.diff(histories.indptr) > 0
    users = np.flatnonzero((np.diff(pairs.indptr) > 0)[: len(known)] & known).astype(np.int32)
    if len(users) == 0:
        _log.warning("no user of the validation window was there before it: training without one")
        return None, dataset
    users = np.sort(np.random.default_rng(seed).permutation(users)[: params.validation_users])
    validation = Validation(
        users=users,
        histories=histories.last(users, params.history_length),
        now_us=cut_us,
        wanted=pairs[users],
        seen=None if seen is None else seen[users],
    )
    return validation, before


def _ones(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
