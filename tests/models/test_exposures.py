"""What was shown and let pass: found by hand, and learnt from where it is all that tells targets apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.models.exposures import Exposures
from recsys.models.sampling import ExposureSampler
from recsys.models.training_examples import Timelines
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset, Row

SHOWN, CLICK, HIDE = Behaviour.IMPRESSION, Behaviour.CLICK, Behaviour.HIDE
SECOND = 1 / 86_400  # of a day


def test_exposures_by_hand(build_dataset: BuildDataset) -> None:
    day_one = [
        (0, 4, SHOWN, 0.9),  # more than an hour before the click
        (0, 1, SHOWN, 1 - 30 * SECOND),
        (0, 2, SHOWN, 1 - 20 * SECOND),  # clicked a day later: not refused
        (0, 3, SHOWN, 1 - 10 * SECOND),  # hidden: refused all the same
        (0, 5, SHOWN, 1 - 10 * SECOND),  # nobody ever turned to it
        (1, 1, SHOWN, 1 - 5 * SECOND),  # another user's
        (0, 4, SHOWN, 1.0),  # at the very instant
        (0, 0, CLICK, 1.0),
        (0, 1, SHOWN, 1 + SECOND),  # after it
    ]
    others = [(2, item, CLICK, 0.5) for item in (1, 3, 4)]
    later = [(0, 2, CLICK, 2.0), (0, 3, HIDE, 2.5)]
    dataset = build_dataset([*day_one, *others, *later], n_users=3, n_items=6)
    weight = np.ones(len(dataset.events), dtype=np.float32)
    timelines = Timelines.of(dataset.events, weight, n_users=3, target=Target.ITEM)
    exposures = Exposures.of(
        dataset.events, timelines, target=Target.ITEM, window_s=3_600, trained=np.array([0, 1, 2, 3, 4])
    )
    before = {
        (int(user), int(item)): exposures.target_idx[start:end].tolist()
        for user, item, start, end in zip(
            timelines.user_idx, timelines.target_idx, exposures.start, exposures.end, strict=True
        )
    }
    assert before[0, 0] == [1, 3, 4]
    assert all(not shown for event, shown in before.items() if event != (0, 0))

    sampler = ExposureSampler(exposures, 2, torch.device("cpu"))
    ids, empty = sampler.of(torch.from_numpy(np.flatnonzero(timelines.target_idx == 0)))
    assert ids.tolist() == [[4, 3]]  # the latest first
    assert empty.tolist() == [[False, False]]
    _, empty = sampler.of(torch.from_numpy(np.flatnonzero(timelines.target_idx == 2)))
    assert empty.tolist() == [[True, True]]


def test_a_log_without_impressions_has_none(build_dataset: BuildDataset) -> None:
    dataset = build_dataset([(0, 0, CLICK, 1), (0, 1, CLICK, 2)])
    weight = np.ones(2, dtype=np.float32)
    timelines = Timelines.of(dataset.events, weight, n_users=1, target=Target.ITEM)
    exposures = Exposures.of(
        dataset.events, timelines, target=Target.ITEM, window_s=60, trained=timelines.targets
    )
    sampler = ExposureSampler(exposures, 8, torch.device("cpu"))
    assert sampler.n == 0
    assert sampler.of(torch.tensor([0, 1]))[0].shape == (2, 0)


N_USERS, N_PAIRS = 160, 12


def _shown_in_pairs(seed: int) -> list[Row]:
    """Pairs (2p, 2p + 1) are shown together; an even user takes the even one, an odd user the odd one.

    Every tenth choice is the other, so that either half of a pair has been clicked by both kinds of user.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for user in range(N_USERS):
        for pair in rng.permutation(N_PAIRS)[:6]:
            day = float(rng.uniform(0, 29))
            chosen = (user + (rng.random() < 0.1)) % 2
            rows += [(user, int(2 * pair + half), SHOWN, day - SECOND) for half in range(2)]
            rows.append((user, int(2 * pair + chosen), CLICK, day))
    return rows


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_what_was_let_pass_tells_a_pair_apart(build_dataset: BuildDataset, loss: str) -> None:
    dataset = build_dataset(_shown_in_pairs(0), n_users=N_USERS, n_items=2 * N_PAIRS)
    done = dataset.done(Target.ITEM, [CLICK]).toarray() > 0
    right = []
    for exposed in (0, 4):
        params = TwoTowerParams(
            dim=16,
            history_length=6,
            batch_size=64,
            uniform_negatives=16,
            steps=60,
            learning_rate=5e-3,
            warmup_steps=10,
            loss=loss,
            exposed_negatives=exposed,
            exposure_weight=1.0,
        )
        model = TwoTower(params, device="cpu").fit(dataset)
        scores = (model.user_vectors @ model.target_vectors.T).reshape(N_USERS, N_PAIRS, 2)
        untouched = ~done.reshape(N_USERS, N_PAIRS, 2).any(axis=2)
        own_half = scores.argmax(axis=2) == np.arange(N_USERS)[:, None] % 2
        right.append(float(own_half[untouched].mean()))
    assert right[1] > right[0] + 0.05  # .94 and .82
