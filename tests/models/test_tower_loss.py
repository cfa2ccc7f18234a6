"""The loss of a batch: its sampled form stands for the full softmax, in value and in gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.dataset import Dataset
from recsys.models.exposures import Exposures
from recsys.models.sampling import ExposureSampler, Had, NegativeSampler
from recsys.models.tower_loss import TowerLoss
from recsys.models.towers import TwoTowerNetwork
from recsys.models.training_examples import Batch, ExampleSource, Timelines, Windows
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset

N_ITEMS, UNTOUCHED = 14, 2
PARAMS = TwoTowerParams(dim=8, history_length=6, dropout=0, user_id_dropout=0, temperature=0.5)


@pytest.fixture(scope="module")
def dataset(build_dataset: BuildDataset) -> Dataset:
    rng = np.random.default_rng(4)
    popular = rng.dirichlet(np.ones(N_ITEMS - UNTOUCHED))
    rows = [
        (u, int(rng.choice(N_ITEMS - UNTOUCHED, p=popular)), Behaviour.VIEW, float(rng.uniform(0, 29)))
        for u in range(60)
        for _ in range(6)
    ]
    return build_dataset(rows, n_items=N_ITEMS)


@pytest.fixture(scope="module")
def timelines(dataset: Dataset) -> Timelines:
    weight = np.ones(len(dataset.events), dtype=np.float32)
    return Timelines.of(dataset.events, weight, n_users=len(dataset.users), target=Target.ITEM)


@pytest.fixture(scope="module")
def network(dataset: Dataset) -> TwoTowerNetwork:
    return TwoTower(PARAMS.model_copy(update={"steps": 30}), device="cpu").fit(dataset).network.train()


def _loss(network: TwoTowerNetwork, timelines: Timelines, *, n_uniform: int | None) -> TowerLoss:
    pool = torch.from_numpy(timelines.targets)
    counts = torch.from_numpy(np.bincount(timelines.target_idx, minlength=N_ITEMS))
    sampler = NegativeSampler(counts, pool, in_batch=False, n_uniform=n_uniform or 0, log_q=True)
    nothing = np.zeros(len(timelines.target_idx), dtype=np.int64)
    return TowerLoss(
        network,
        PARAMS,
        pool=pool,
        sampler=None if n_uniform is None else sampler,
        exposures=ExposureSampler(Exposures(np.zeros(0, np.int32), nothing, nothing), 8, torch.device("cpu")),
        had=Had(torch.from_numpy(timelines.user_idx), torch.from_numpy(timelines.target_idx), N_ITEMS),
        generator=torch.Generator().manual_seed(0),
    )


def _batch(timelines: Timelines) -> Batch:
    windows = Windows.of(timelines, PARAMS.history_length, from_nothing=False)
    return ExampleSource(timelines, windows, torch.device("cpu")).batch(np.arange(40))


def _gradient(network: TwoTowerNetwork, loss: torch.Tensor) -> torch.Tensor:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    parts = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


def test_many_sampled_negatives_come_to_the_full_softmax(
    network: TwoTowerNetwork, timelines: Timelines
) -> None:
    batch = _batch(timelines)
    full = _loss(network, timelines, n_uniform=None)(batch)
    sampled = _loss(network, timelines, n_uniform=60_000)(batch)
    assert sampled.item() == pytest.approx(full.item(), rel=0.01)
    expected, found = _gradient(network, full), _gradient(network, sampled)
    assert torch.nn.functional.cosine_similarity(expected, found, dim=0) > 0.999
    assert found.norm() == pytest.approx(expected.norm().item(), rel=0.02)


def test_what_is_predicted_from_one_moment_does_not_compete(
    network: TwoTowerNetwork, timelines: Timelines
) -> None:
    windows = Windows.of(timelines, PARAMS.history_length, from_nothing=False)
    source = ExampleSource(timelines, windows, torch.device("cpu"), "all")
    batch, network = source.batch(np.arange(40), np.linspace(0, 0.9, 40, dtype=np.float32)), network.eval()
    assert len(batch.row) == 40 < len(batch.event)
    full, sampled = (_loss(network, timelines, n_uniform=n) for n in (None, 60_000))
    with torch.no_grad():
        history = network.target_vectors(batch.target_idx.flatten()).view(*batch.target_idx.shape, -1)
        scores = network.scores(full._users(batch, history), network.target_vectors(torch.arange(N_ITEMS)))
    expected = []
    for moment, target in zip(batch.moment.tolist(), batch.examples.target_idx.tolist(), strict=True):
        right = set(batch.examples.target_idx[batch.moment == moment].tolist())
        others = [scores[moment, item] for item in timelines.targets.tolist() if item not in right]
        expected.append(
            torch.logsumexp(torch.stack([*others, scores[moment, target]]), 0) - scores[moment, target]
        )
    assert full(batch).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert sampled(batch).item() == pytest.approx(full(batch).item(), rel=0.01)


def test_targets_without_an_event_are_no_wrong_answers(
    network: TwoTowerNetwork, timelines: Timelines
) -> None:
    batch = _batch(timelines)
    assert network.targets.ids is not None
    for n_uniform in (None, 500):
        loss = _loss(network, timelines, n_uniform=n_uniform)(batch)
        (gradient,) = torch.autograd.grad(loss, [network.targets.ids.weight])
        assert gradient[: N_ITEMS - UNTOUCHED].abs().sum(dim=1).count_nonzero() == len(timelines.targets)
        assert not gradient[N_ITEMS - UNTOUCHED :].any()


@pytest.mark.parametrize("n_uniform", [None, 500])  # 500 draws have every target, most of them many times
def test_hard_negatives_are_the_batchs_nearest_that_the_user_never_had(
    network: TwoTowerNetwork, timelines: Timelines, n_uniform: int | None
) -> None:
    batch, network = _batch(timelines), network.eval()  # without dropout, so that scores can be repeated
    loss = _loss(network, timelines, n_uniform=n_uniform)
    loss.generator.manual_seed(0)
    plain = loss(batch)
    loss.generator.manual_seed(0)
    loss.params = PARAMS.model_copy(update={"hard_negatives": 3, "hard_below": 1.0, "hard_weight": 0.5})
    with torch.no_grad():
        found = (loss(batch) - plain).item()
        history = network.target_vectors(batch.target_idx.flatten()).view(*batch.target_idx.shape, -1)
        users = loss._users(batch, history)
        scores = network.scores(users, network.target_vectors(torch.arange(N_ITEMS)))
    had: dict[int, set[int]] = {}
    for user, target in zip(timelines.user_idx.tolist(), timelines.target_idx.tolist(), strict=True):
        had.setdefault(user, set()).add(target)
    pool = set(timelines.targets.tolist())
    expected = []
    for row, user, target in zip(
        scores.tolist(), batch.examples.user_idx.tolist(), batch.examples.target_idx.tolist(), strict=True
    ):
        nearest = sorted(pool - {target}, key=lambda item: -row[item])[:3]
        kept = [row[item] for item in nearest if item not in had[user]]
        kept = [score for score in kept if row[target] <= 0 or score <= row[target]]
        expected.append(np.log(1 + sum(np.exp(score - row[target]) for score in kept)))
    assert found == pytest.approx(0.5 * float(np.mean(expected)), rel=1e-3)
    assert found > 0


def test_the_loss_of_popularity_by_hand(network: TwoTowerNetwork, timelines: Timelines) -> None:
    loss = _loss(network, timelines, n_uniform=None)
    assert loss.of_popularity(np.array([3, 1, 0])) == pytest.approx(
        -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    )
    loss.params = PARAMS.model_copy(update={"hard_negatives": 3, "hard_weight": 0.5})
    assert loss.of_popularity(np.array([1, 1])) == pytest.approx(np.log(2) + 0.5 * np.log(4))
