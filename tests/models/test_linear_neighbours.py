"""Closed-form models cut to neighbours: the same scores as the whole model, where nothing was cut."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.linear import EASE, GFCF, EASEParams, GFCFParams, LinearModel
from recsys.models.linear_neighbours import EASEItems, EASEItemsParams, neighbours_of
from recsys.models.neighbours import RecencyParams
from recsys.types import Behaviour, Target
from tests.models.conftest import BuildDataset

N_USERS, N_ITEMS = 40, 19
#: Every action counts alike, however old.
FLAT = RecencyParams(length=100, floor=1.0, step=1.0, intent={Behaviour.VIEW: 1.0})


@pytest.fixture(scope="module")
def dataset(build_dataset: BuildDataset) -> Dataset:
    """Each pair once, so that a history and a binary row say the same; nobody touched the last item."""
    rng = np.random.default_rng(8)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers((0, 0), (N_USERS, N_ITEMS - 1), (300, 2))})
    rows = [(u, i, Behaviour.VIEW, float(d)) for (u, i), d in zip(pairs, 29 * rng.random(300), strict=False)]
    return build_dataset(rows, n_users=N_USERS, n_items=N_ITEMS)


@pytest.mark.parametrize(
    "model",
    [
        EASE(EASEParams(regularization=5.0)),
        GFCF(GFCFParams(factors=4)),
        GFCF(GFCFParams(factors=4, sharpening=1.5)),
    ],
    ids=["ease", "gf_cf", "bspm"],
)
def test_the_lists_add_up_to_the_model(model: LinearModel, dataset: Dataset) -> None:
    """Oracle: a dense matrix of what each target speaks for, with its diagonal and negatives left out."""
    model.fit(dataset)
    whole = model.spoken_for(sparse.eye_array(N_ITEMS, dtype=np.float32, format="csr"))
    kept = np.where(np.isfinite(whole) & (whole > 0) & ~np.eye(N_ITEMS, dtype=bool), whole, 0.0)
    kept[N_ITEMS - 1] = 0.0  # nobody touched it, so it speaks for nothing
    lists = neighbours_of(model, k=N_ITEMS, recency=FLAT)
    users = np.arange(N_USERS, dtype=np.int32)
    found = lists.score(dataset.histories(Target.ITEM).last(users, 100), np.full(N_USERS, dataset.as_of_us))
    scores = np.zeros((N_USERS, N_ITEMS))
    scores[found.row, found.ids] = found.scores
    expected = model.interactions.toarray() @ kept
    assert (expected > 0).sum() > 300
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_only_the_best_are_kept_best_first(dataset: Dataset) -> None:
    model = EASE(EASEParams(regularization=5.0)).fit(dataset)
    lists = neighbours_of(model, k=3, recency=FLAT)
    assert lists.n_targets == N_ITEMS
    for item in range(N_ITEMS - 1):
        place = slice(lists.indptr[item], lists.indptr[item + 1])
        row = np.append(model.similarity[item], 0.0)
        best = np.argsort(-row, kind="stable")[:3]
        np.testing.assert_array_equal(lists.ids[place], best[row[best] > 0])
        np.testing.assert_allclose(lists.scores[place], row[best][row[best] > 0])


def test_only_the_most_touched_take_part(dataset: Dataset) -> None:
    users = np.bincount(dataset.interactions(Target.ITEM, EASEParams().weights).indices, minlength=N_ITEMS)
    model = EASE(EASEParams(most_targets=5)).fit(dataset)
    assert len(model.touched) == 5
    assert users[model.touched].min() >= np.sort(users)[-5]
    answer = model.recommend(np.arange(N_USERS, dtype=np.int32), k=N_ITEMS)
    named = {int(i) for row in range(N_USERS) for i in answer.row(row)[0]}
    assert named <= set(model.touched.tolist())


def test_a_refusal_is_heard_before_the_fit_and_in_it(dataset: Dataset) -> None:
    model = EASEItems(EASEItemsParams(ease=EASEParams(memory_gb=1e-9)))
    refusal = model.refusal(dataset)
    assert refusal is not None
    assert refusal.startswith("18 targets need about 0.0 GB, memory_gb is 1e-09; raise it")
    with pytest.raises(ModelError, match="ease_items: 18 targets need about"):
        model.fit(dataset)
    assert EASEItems().refusal(dataset) is None
