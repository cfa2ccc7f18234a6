"""What every candidate model promises, asked of each of them. A new model joins by one line in MODELS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.base import Model
from recsys.models.collaborative import ALS, BPR, ALSParams, BPRParams, ItemKNN, ItemKNNParams
from recsys.models.history_models import CoVisitation, Repeat, SimilarItems
from recsys.models.linear import EASE, GFCF, EASEParams, GFCFParams
from recsys.models.linear_neighbours import EASEItems, EASEItemsParams, GFCFItems, GFCFItemsParams
from recsys.models.popular import Popular
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.types import Behaviour, Target
from tests.models.conftest import START_US, BuildDataset

BUY, VIEW = Behaviour.PURCHASE, Behaviour.VIEW
Build = Callable[..., Model]

MODELS: dict[str, Build] = {
    "popular": Popular,
    "als": lambda **kw: ALS(ALSParams(factors=8, device="cpu"), **kw),
    "bpr": lambda **kw: BPR(BPRParams(factors=8, iterations=150, threads=1, device="cpu"), **kw),
    "knn-bm25": lambda **kw: ItemKNN(ItemKNNParams(similarity="bm25"), **kw),
    "knn-cosine": lambda **kw: ItemKNN(ItemKNNParams(similarity="cosine"), **kw),
    "co-visitation": CoVisitation,
    "repeat": Repeat,
    "similar-items": SimilarItems,
    "ease": lambda **kw: EASE(EASEParams(regularization=5.0), **kw),
    "gf-cf": lambda **kw: GFCF(GFCFParams(factors=4), **kw),
    "ease-items": lambda **kw: EASEItems(EASEItemsParams(ease=EASEParams(regularization=5.0)), **kw),
    "gf-cf-items": lambda **kw: GFCFItems(GFCFItemsParams(gf_cf=GFCFParams(factors=4)), **kw),
    "two-tower": lambda **kw: TwoTower(
        TwoTowerParams(dim=16, history_length=30, ahead="whole", steps=60, learning_rate=0.02),
        device="cpu",
        **kw,
    ),
    "knn-tfidf": lambda **kw: ItemKNN(ItemKNNParams(similarity="tfidf"), **kw),
}
#: Popularity knows no taste, and what was not touched yet cannot be returned to.
PERSONAL = sorted(set(MODELS) - {"popular", "repeat"})
N = 30


@pytest.fixture(params=sorted(MODELS))
def build(request: pytest.FixtureRequest) -> Build:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def checkerboard(build_dataset: BuildDataset) -> Dataset:
    """User u bought every item of its own parity, but item u itself. User N bought nothing."""
    rows = [(u, i, BUY, 1 + i / 2) for u in range(N) for i in range(u % 2, N, 2) if i != u]
    return build_dataset(rows, n_users=N + 1, n_items=N + 1)


@pytest.fixture(scope="module")
def random_log(build_dataset: BuildDataset) -> Dataset:
    rng = np.random.default_rng(3)
    rows = [
        (int(u), int(i), (VIEW, BUY)[int(b)], float(d))
        for u, i, b, d in zip(
            rng.integers(0, 40, 600),
            rng.integers(0, 25, 600) ** 2 // 25,
            rng.random(600) < 0.3,
            rng.random(600) * 29,
            strict=True,
        )
    ]
    return build_dataset(rows, n_users=40, n_items=25)


def assert_same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a.counts, b.counts)
    for row in range(len(a)):
        np.testing.assert_array_equal(a.row(row)[0], b.row(row)[0])
        # A sum that cancels to next to nothing is only as exact as what it sums.
        np.testing.assert_allclose(a.row(row)[1], b.row(row)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PERSONAL)
def test_the_withheld_cell_comes_back_first(name: str, checkerboard: Dataset) -> None:
    users = np.arange(N, dtype=np.int32)
    done = checkerboard.done(Target.ITEM, [BUY])[users]
    best = MODELS[name]().fit(checkerboard).recommend(users, k=1, exclude=done)
    np.testing.assert_array_equal(best.ids[:, 0], users)


def test_scores_descend_and_ids_are_distinct_and_known(build: Build, random_log: Dataset) -> None:
    answer = build().fit(random_log).recommend(np.arange(40, dtype=np.int32), k=10)
    assert answer.ids.shape == (40, 10)
    assert answer.ids.dtype == np.int32
    assert answer.scores.dtype == np.float32
    assert answer.counts.max() == 10
    for row in range(40):
        ids, scores = answer.row(row)
        assert len(set(ids.tolist())) == len(ids)
        assert ids.min() >= 0
        assert ids.max() < 25
        assert np.isfinite(scores).all()
        assert (np.diff(scores) <= 0).all()


def test_a_batch_equals_single_requests(build: Build, random_log: Dataset) -> None:
    model = build().fit(random_log)
    users = np.array([7, 0, 7, 33], dtype=np.int32)
    exclude = random_log.done(Target.ITEM, [BUY])[users]
    batch = model.recommend(users, k=6, exclude=exclude)
    for row, user in enumerate(users):
        single = model.recommend(np.array([user], dtype=np.int32), k=6, exclude=exclude[row])
        assert single.counts[0] == batch.counts[row]
        np.testing.assert_array_equal(single.row(0)[0], batch.row(row)[0])
        np.testing.assert_allclose(single.row(0)[1], batch.row(row)[1], rtol=1e-4)


def test_batches_side_by_side_are_those_one_after_the_other(
    build: Build, random_log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build().fit(random_log)
    users = np.arange(40, dtype=np.int32)
    exclude = random_log.done(Target.ITEM, [BUY])
    at_once = model.recommend(users, k=6, exclude=exclude)
    monkeypatch.setattr(model, "_users_at_once", lambda: 3)
    with threadpool_limits(2, user_api="blas"):
        assert_same(model.recommend(users, k=6, exclude=exclude), at_once)


def test_excluded_and_disallowed_targets_stay_out_and_change_nothing_else(
    build: Build, random_log: Dataset
) -> None:
    model = build().fit(random_log)
    users = np.arange(40, dtype=np.int32)
    everything = model.recommend(users, k=25)
    allowed = np.arange(25) % 3 != 0
    exclude = sparse.csr_matrix((np.arange(40)[:, None] + np.arange(25)) % 5 == 0, dtype=np.float32)
    left = model.recommend(users, k=25, exclude=exclude, allowed=allowed)
    for row in range(40):
        ids, _ = everything.row(row)
        expected = [i for i in ids.tolist() if allowed[i] and (row + i) % 5 != 0]
        assert left.row(row)[0].tolist() == expected


def test_k_beyond_the_catalogue_gives_the_catalogue(build: Build, random_log: Dataset) -> None:
    model = build().fit(random_log)
    users = np.arange(5, dtype=np.int32)
    more = model.recommend(users, k=1000)
    assert more.ids.shape == (5, 25)
    assert_same(more, model.recommend(users, k=25))


def test_a_user_of_no_history_gets_popular_targets_or_none(build: Build, checkerboard: Dataset) -> None:
    model = build().fit(checkerboard)
    answer = model.recommend(np.array([N], dtype=np.int32), k=5)
    assert answer.counts[0] == (5 if isinstance(model, Popular) else 0)


def test_a_target_that_nobody_touched_is_not_recommended(build: Build, checkerboard: Dataset) -> None:
    answer = build().fit(checkerboard).recommend(np.arange(N, dtype=np.int32), k=N + 1)
    assert all(N not in answer.row(row)[0] for row in range(N))


def test_events_at_or_after_the_moment_change_nothing(
    build: Build, build_dataset: BuildDataset, random_log: Dataset
) -> None:
    events = random_log.events
    past = [
        (int(u), int(i), (BUY if b == BUY.code else VIEW), (int(t) - START_US) / 86_400_000_000)
        for u, i, b, t in zip(
            events.user_idx, events.item_idx, events.behaviour, events.timestamp_us, strict=True
        )
    ]
    future = [(u, (3 * u) % 25, BUY, 30.0 + u / 10) for u in range(40)]
    longer = build_dataset(past + future, n_users=40, n_items=25, days=40).until(random_log.as_of_us)
    users = np.arange(40, dtype=np.int32)
    assert_same(
        build().fit(longer).recommend(users, k=10),
        build().fit(random_log).recommend(users, k=10),
    )


def test_two_fits_of_one_seed_agree(build: Build, random_log: Dataset) -> None:
    users = np.arange(40, dtype=np.int32)
    assert_same(build().fit(random_log).recommend(users, k=8), build().fit(random_log).recommend(users, k=8))


def test_rooms_are_learnt_through_the_same_code(build: Build, random_log: Dataset) -> None:
    """In this log item i is shown by streamer i, so both targets must give one answer."""
    users = np.arange(40, dtype=np.int32)
    assert_same(
        build(target=Target.ROOM).fit(random_log).recommend(users, k=8),
        build(target=Target.ITEM).fit(random_log).recommend(users, k=8),
    )


def test_no_users_asked_no_rows_answered(build: Build, random_log: Dataset) -> None:
    answer = build().fit(random_log).recommend(np.zeros(0, dtype=np.int32), k=3)
    assert answer.ids.shape == (0, 3)


@pytest.mark.parametrize(
    ("n_users", "n_items", "rows"),
    [
        pytest.param(3, 1, [(0, 0, BUY, 1.0), (1, 0, VIEW, 2.0)], id="one item only"),
        pytest.param(1, 4, [(0, 0, BUY, 1.0), (0, 1, VIEW, 2.0), (0, 3, BUY, 3.0)], id="one user only"),
        pytest.param(
            6, 4, [(u, i, BUY, 1.0 + i) for u in range(6) for i in range(4)], id="all users identical"
        ),
        pytest.param(9, 9, [(0, 0, BUY, 1.0), (8, 8, BUY, 1.0)], id="mostly empty rows"),
    ],
)
def test_degenerate_logs_are_answered(
    build: Build, build_dataset: BuildDataset, n_users: int, n_items: int, rows: list[Any]
) -> None:
    model = build().fit(build_dataset(rows, n_users=n_users, n_items=n_items))
    answer = model.recommend(np.arange(n_users, dtype=np.int32), k=n_items)
    touched = {row[1] for row in rows}
    for row in range(n_users):
        ids, scores = answer.row(row)
        assert set(ids.tolist()) <= touched
        assert np.isfinite(scores).all()


def test_a_log_of_impressions_alone_teaches_nothing(build: Build, build_dataset: BuildDataset) -> None:
    shown = [(u, u % 3, Behaviour.IMPRESSION, 1.0) for u in range(6)]
    answer = build().fit(build_dataset(shown)).recommend(np.arange(6, dtype=np.int32), k=3)
    assert not answer.counts.any()


def test_misuse_is_named(build: Build, random_log: Dataset) -> None:
    users = np.arange(3, dtype=np.int32)
    with pytest.raises(ModelError, match="not fitted"):
        build().recommend(users, k=3)
    model = build().fit(random_log)
    with pytest.raises(ModelError, match="k=0"):
        model.recommend(users, k=0)
    with pytest.raises(ModelError, match=r"outside 0 \.\. 39"):
        model.recommend(np.array([40], dtype=np.int32), k=3)
