"""The fusion: merging, features by hand, learning, fallback, and the way through parts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.histories import HistoryBatch
from recsys.errors import BundleError, ModelError
from recsys.models.base import Model, Progress
from recsys.models.fused import FusedModel
from recsys.models.fusion import HISTORY_LENGTH, Combiner, ItemTable, Pool, feature_names, features
from recsys.models.fusion_training import Fold, FusionParams, item_table, may_return, train_fusion
from recsys.models.history_models import CoVisitation, Repeat
from recsys.models.popular import Popular
from recsys.types import Behaviour, Candidates, FloatArray, IntArray, Target
from tests.models.conftest import START_US, BuildDataset

BUY, VIEW, CART = Behaviour.PURCHASE, Behaviour.VIEW, Behaviour.CART
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


def candidates(*rows: list[tuple[int, float]]) -> Candidates:
    k = max(1, *(len(row) for row in rows))
    ids, scores = np.zeros((len(rows), k), np.int32), np.full((len(rows), k), -np.inf, np.float32)
    for b, row in enumerate(rows):
        for place, (target, score) in enumerate(row):
            ids[b, place], scores[b, place] = target, score
    return Candidates(ids, scores, np.array([len(row) for row in rows], dtype=np.int32))


def history(*rows: list[tuple[int, Behaviour, float]], at_us: int) -> HistoryBatch:
    """Each row: (target, behaviour, hours before `at_us`), oldest first."""
    length = max(1, *(len(row) for row in rows))
    shape = (len(rows), length)
    batch = HistoryBatch(
        np.zeros(shape, np.int32), np.zeros(shape, np.int8), np.zeros(shape, np.int64), np.zeros(shape, bool)
    )
    for b, row in enumerate(rows):
        for place, (target, behaviour, hours) in enumerate(row, start=length - len(row)):
            batch.target_idx[b, place] = target
            batch.behaviour[b, place] = behaviour.code
            batch.timestamp_us[b, place] = at_us - round(hours * HOUR_US)
            batch.mask[b, place] = True
    return batch


def table(n: int, **columns: object) -> ItemTable:
    values: dict[str, object] = {
        "popularity": np.zeros((n, 3), np.float32),
        "attention": np.zeros(n, np.float32),
        "first_seen_us": np.zeros(n, np.int64),
        "log_price": np.full(n, np.nan, np.float32),
        "category": np.full(n, -1, np.int32),
    }
    return ItemTable(**{**values, **columns})  # type: ignore[arg-type]


def test_the_pool_is_the_union_with_each_sources_view() -> None:
    a = candidates([(3, 9.0), (1, 5.0), (2, 1.0)], [])
    b = candidates([(1, 0.5)], [(0, 0.7), (3, 0.7)])
    pool = Pool.of([a, b], n_targets=4)
    np.testing.assert_array_equal(pool.row, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(pool.ids, [1, 2, 3, 0, 3])
    inf = np.inf
    np.testing.assert_array_equal(pool.place, [[1, 0], [2, inf], [0, inf], [inf, 0], [inf, 1]])
    np.testing.assert_array_equal(
        pool.score, np.array([[5, 0.5], [1, 0], [9, 0], [0, 0.7], [0, 0.7]], np.float32)
    )
    np.testing.assert_array_equal(pool.relative, [[0.5, 1], [0, 0], [1, 0], [0, 1], [0, 1]])


def test_dropped_and_excluded_targets_leave_the_pool() -> None:
    a = candidates([(3, 9.0), (1, 5.0)], [(1, 2.0), (0, 1.0)])
    pool = Pool.of([a], n_targets=4, drop=np.arange(4) == 3, exclude=np.array([1 * 4 + 1]))
    assert list(zip(pool.row.tolist(), pool.ids.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_features_by_hand() -> None:
    at_us = START_US + 10 * DAY_US
    items = table(
        4,
        popularity=np.array([[0, 0, 0], [2, 1, 0.5], [0, 0, 0], [0, 0, 0]], np.float32),
        first_seen_us=np.array([0, at_us - 3 * DAY_US, 0, 0]),
        log_price=np.log(np.array([4.0, 16.0, np.nan, 1.0], np.float32)),
        category=np.array([0, 1, 1, -1], np.int32),
    )
    past = history([(0, VIEW, 30.0), (1, VIEW, 20.0), (1, CART, 10.0), (2, BUY, 1.0)], at_us=at_us)
    pool = Pool.of([candidates([(1, 2.0), (3, 1.0)])], n_targets=4)
    names = feature_names(("knn",))
    x = features(pool, items, past, np.array([at_us]))
    assert x.shape == (2, len(names))
    one, three = (dict(zip(names, row.tolist(), strict=True)) for row in x)
    assert one["knn: present"] == three["knn: present"] == 1
    assert one["knn: place"] == 1.0
    assert three["knn: place"] == pytest.approx(1 - np.log(2) / np.log(100))
    assert (one["knn: relative score"], three["knn: relative score"]) == (1, 0)
    assert one["knn: score"] == pytest.approx(np.arcsinh(2.0))
    assert (one["viewed: times"], one["carted: times"]) == (
        pytest.approx(np.log(2)),
        pytest.approx(np.log(2)),
    )
    assert one["purchased: times"] == three["viewed: times"] == three["viewed: recency"] == 0
    assert one["carted: recency"] == pytest.approx(1 / (1 + np.log(11) / 4))
    assert (one["popularity 1 d"], one["popularity 30 d"], one["trend"]) == (2, 0.5, 1.5)
    assert one["age"] == pytest.approx(np.log(4))
    mean_log_price = (np.log(4) + np.log(16)) / 2  # items 0 and 1; that of item 2 is not known
    assert one["price over user's"] == pytest.approx(np.log(16) - mean_log_price, abs=1e-6)
    assert one["category affinity"] == pytest.approx(3 / 4)
    assert one["category recency"] == pytest.approx(1 / (1 + np.log(2) / 4))
    assert three["category affinity"] == three["category recency"] == 0
    assert one["user actions"] == pytest.approx(np.log(5))
    assert one["user targets"] == pytest.approx(np.log(4))
    assert one["user purchases"] == pytest.approx(np.log(2))


def test_reciprocal_rank_fusion_by_hand() -> None:
    combiner = Combiner(("a", "b"), table(5), np.array([1.0, 0.5], np.float32), None, returns=True)
    a, b = candidates([(0, 9.0), (1, 8.0)]), candidates([(1, 3.0), (2, 2.0)])
    none = history([], at_us=START_US)
    fused = combiner.recommend([a, b], none, np.array([START_US]), k=5)
    ids, scores = fused.candidates.row(0)
    np.testing.assert_array_equal(ids, [1, 0, 2])
    np.testing.assert_allclose(scores, [1 / 62 + 0.5 / 61, 1 / 61, 0.5 / 62], rtol=1e-5)
    np.testing.assert_array_equal(fused.source[0, :3], [0, 0, 1])
    with pytest.raises(ModelError, match="1 sets of candidates for the sources a, b"):
        combiner.recommend([a], none, np.array([START_US]), k=5)


class Fixed(Model):
    """Scores that a test writes down."""

    name = "fixed"

    def __init__(self, scores: FloatArray, *, name: str) -> None:
        super().__init__()
        self.table = scores
        self.name = name  # type: ignore[misc]

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        pass

    def _scores(self, users: IntArray) -> FloatArray:
        return self.table[users].copy()


@pytest.fixture(scope="module")
def world(build_dataset: BuildDataset) -> tuple[Dataset, sparse.csr_matrix]:
    """300 users, 40 items. What follows is a user's cart; what it bought never follows."""
    rng = np.random.default_rng(0)
    rows, future = [], []
    for user in range(300):
        carted, bought = rng.choice(40, 2, replace=False)
        rows += [(user, int(carted), CART, 29.0), (user, int(bought), BUY, 28.0)]
        future.append((user, int(carted)))
    dataset = build_dataset(rows, n_users=300, n_items=40)
    pairs = np.array(future).T
    return dataset, sparse.csr_matrix((np.ones(300, np.float32), (pairs[0], pairs[1])), shape=(300, 40))


def noisy_sources(dataset: Dataset) -> list[Model]:
    rng = np.random.default_rng(1)
    tables = [rng.random((300, 40)).astype(np.float32) for _ in range(2)]
    return [Fixed(t, name=f"noise {i}").fit(dataset) for i, t in enumerate(tables)]


FAST = FusionParams(rounds=40)


def test_it_learns_what_the_sources_do_not_say(world: tuple[Dataset, sparse.csr_matrix]) -> None:
    dataset, truth = world
    combiner, report = train_fusion([Fold(dataset, noisy_sources(dataset), truth)], params=FAST)
    assert report.learned
    assert report.users == 300
    assert report.reachable == 1.0
    assert max(report.ndcg_sources.values()) < 0.4
    assert report.ndcg_no_returns > 0.95, "the cart is in the features; the purchase is out"
    assert not combiner.returns, "nobody came back to what they bought"
    model = FusedModel(noisy_sources(dataset), combiner, dataset)
    best = model.recommend(np.arange(300, dtype=np.int32), k=1).ids[:, 0]
    assert (truth[np.arange(300), best] > 0).mean() > 0.95


def test_nothing_is_learned_where_nothing_can_be_reached(world: tuple[Dataset, sparse.csr_matrix]) -> None:
    dataset, truth = world
    worst = Fixed(-truth.toarray(), name="worst").fit(dataset)  # what follows is last, beyond the depth
    combiner, report = train_fusion(
        [Fold(dataset, [worst], truth)], params=FAST.model_copy(update={"depth": 10})
    )
    assert report.reachable == 0
    assert not report.learned
    assert combiner.trees is None


@pytest.mark.parametrize(("follows", "returns"), [(BUY, True), (CART, False)])
def test_whether_consumed_targets_return_is_decided_by_validation(
    build_dataset: BuildDataset, follows: Behaviour, returns: bool
) -> None:
    """With ranks alone, what was bought is in the way unless it is what follows."""
    rng = np.random.default_rng(2)
    picks = [rng.choice(30, 2, replace=False) for _ in range(40)]
    rows = [(u, int(pick[0]), BUY, 29.0) for u, pick in enumerate(picks)]
    rows += [(u, int(pick[1]), CART, 29.0) for u, pick in enumerate(picks)]
    dataset = build_dataset(rows, n_users=40, n_items=30)
    truth = dataset.done(Target.ITEM, [follows])
    scores = np.zeros((40, 30), np.float32)
    for user, (bought, carted) in enumerate(picks):
        scores[user, bought], scores[user, carted] = 3.0, 2.0
    source = Fixed(scores, name="past").fit(dataset)
    combiner, report = train_fusion([Fold(dataset, [source], truth)])
    assert not report.learned, "40 users are too few"
    assert combiner.trees is None
    assert combiner.returns is returns
    answer = FusedModel([source], combiner, dataset).recommend(np.arange(40, dtype=np.int32), k=30)
    shown = {(u, int(i)) for u in range(40) for i in answer.row(u)[0]}
    assert all(((u, int(pick[0])) in shown) is returns for u, pick in enumerate(picks))


def test_what_only_other_sources_name_stands_in_their_order(build_dataset: BuildDataset) -> None:
    """Of two models one finds what follows; the other is wrong, and alone names the last ten targets."""
    rows = [(user, user % 20, CART, 29.0) for user in range(40)]
    dataset = build_dataset(rows, n_users=40, n_items=30)
    liked, other = np.full((40, 30), -np.inf, np.float32), np.full((40, 30), -np.inf, np.float32)
    for user in range(40):
        liked[user, :20] = -np.abs(np.arange(20) - user % 20)
        other[user, 20:] = np.random.default_rng(user).permutation(10)
        other[user, (user + 1) % 20] = 10.0
    sources = [Fixed(liked, name="liked").fit(dataset), Fixed(other, name="other").fit(dataset)]
    combiner, report = train_fusion([Fold(dataset, sources, dataset.done(Target.ITEM, [CART]))])
    assert not report.learned
    assert combiner.rrf_weights[0] > 1_000 * combiner.rrf_weights[1] > 0
    answer = FusedModel(sources, combiner, dataset).recommend(np.arange(40, dtype=np.int32), k=30)
    for user in range(40):
        ids = answer.row(user)[0].tolist()
        assert set(ids[:20]) == set(range(20))
        assert ids[20:] == (20 + np.argsort(-other[user, 20:])).tolist()


def test_under_trees_returns_end_only_for_more_than_chance() -> None:
    rng = np.random.default_rng(0)
    free = rng.random(1_000)
    noise = rng.normal(size=1_000)
    noise -= noise.mean()
    assert may_return(free, free)
    assert may_return(free, free - 0.01)
    assert may_return(free, free + 0.01 + noise), "a third of its standard error"
    assert not may_return(free, free + 0.01 + noise / 10)


@pytest.fixture(scope="module")
def trained(world: tuple[Dataset, sparse.csr_matrix]) -> tuple[list[Model], Combiner, Dataset]:
    dataset, truth = world
    sources: list[Model] = [model.fit(dataset) for model in (CoVisitation(), Repeat(), Popular())]
    return sources, train_fusion([Fold(dataset, sources, truth)], params=FAST)[0], dataset


def test_one_request_equals_its_row_of_a_batch(trained: tuple[list[Model], Combiner, Dataset]) -> None:
    model = FusedModel(*trained)
    users = np.array([5, 0, 5, 299], dtype=np.int32)
    batch = model.recommend_fused(users, k=10)
    for row, user in enumerate(users):
        single = model.recommend_fused(np.array([user], dtype=np.int32), k=10)
        np.testing.assert_array_equal(single.candidates.row(0)[0], batch.candidates.row(row)[0])
        np.testing.assert_allclose(single.candidates.row(0)[1], batch.candidates.row(row)[1], rtol=1e-4)
        n = batch.candidates.counts[row]
        np.testing.assert_array_equal(single.source[0, :n], batch.source[row, :n])


@pytest.mark.parametrize("returns", [True, False])
def test_a_user_outside_the_fit_is_named(
    trained: tuple[list[Model], Combiner, Dataset], returns: bool
) -> None:
    sources, combiner, dataset = trained
    model = FusedModel(sources, replace(combiner, returns=returns), dataset)
    for users in ([len(dataset.users)], [-1]):
        with pytest.raises(ModelError, match=r"user index outside 0 \.\. \d+"):
            model.recommend(np.array(users, dtype=np.int32), k=5)


def test_what_trees_cannot_tell_apart_stands_as_its_sources_placed_it(
    trained: tuple[list[Model], Combiner, Dataset],
) -> None:
    # Targets that nobody touched, of whom only their place with one source differs.
    alike = replace(trained[1], table=table(40))
    nothing, none = history([], at_us=START_US), candidates([])
    placed = candidates([(7, 1.0), (5, 1.0), (9, 1.0)])
    found = alike.recommend([none, none, placed], nothing, np.array([START_US]), k=3).candidates
    assert found.row(0)[0].tolist() == [7, 5, 9]
    assert np.ptp(found.row(0)[1]) < 1e-3


def test_only_the_latest_actions_count(trained: tuple[list[Model], Combiner, Dataset]) -> None:
    rng = np.random.default_rng(0)
    found = [
        candidates([(target, 1.0 - target / 40) for target in range(place, 40, 3)]) for place in range(3)
    ]
    now_us = START_US + 300 * HOUR_US
    actions = [(int(target), BUY, 250.0 - n) for n, target in enumerate(rng.integers(0, 40, 250))]
    long, now = history(actions, at_us=now_us), np.array([now_us])
    read: list[FloatArray] = []

    class Reader:
        def scores(self, x: FloatArray) -> FloatArray:
            read.append(x)
            return x[:, 0]

    combiner = replace(trained[1], trees=Reader())  # type: ignore[arg-type]
    for given in (long, long.last(HISTORY_LENGTH), long.last(10)):
        combiner.recommend(found, given, now, k=20)
    np.testing.assert_array_equal(read[0], read[1])
    assert (read[0] != read[2]).any()


def test_masks_hold(trained: tuple[list[Model], Combiner, Dataset]) -> None:
    model = FusedModel(*trained)
    users = np.arange(20, dtype=np.int32)
    allowed = np.arange(40) % 2 == 0
    exclude = sparse.csr_matrix((np.arange(20)[:, None] + np.arange(40)) % 3 == 0, dtype=np.float32)
    answer = model.recommend(users, k=40, exclude=exclude, allowed=allowed)
    for row in range(20):
        ids = answer.row(row)[0]
        assert len(ids) > 0
        assert allowed[ids].all()
        assert ((row + ids) % 3 != 0).all()


def test_parts_go_through_files_and_give_the_same_answer(
    trained: tuple[list[Model], Combiner, Dataset], tmp_path: object
) -> None:
    sources, combiner, dataset = trained
    arrays, blobs, meta = combiner.to_parts()
    path = f"{tmp_path}/combiner.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as stored:
        back = Combiner.from_parts(dict(stored), blobs, json.loads(json.dumps(meta)))
    users = np.arange(30, dtype=np.int32)
    a = FusedModel(sources, combiner, dataset).recommend(users, k=10)
    b = FusedModel(sources, back, dataset).recommend(users, k=10)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_damaged_parts_are_refused(trained: tuple[list[Model], Combiner, Dataset]) -> None:
    combiner = trained[1]
    arrays, blobs, meta = combiner.to_parts()
    with pytest.raises(BundleError, match="format 0"):
        Combiner.from_parts(arrays, blobs, {**meta, "format": 0})
    with pytest.raises(BundleError, match="'attention' is missing"):
        Combiner.from_parts({name: a for name, a in arrays.items() if name != "attention"}, blobs, meta)
    with pytest.raises(BundleError, match=r"'combiner\.onnx' is missing"):
        Combiner.from_parts(arrays, {}, meta)
    with pytest.raises(BundleError, match="cannot read the trees"):
        Combiner.from_parts(arrays, {"combiner.onnx": blobs["combiner.onnx"][:50]}, meta)
    with pytest.raises(BundleError, match="features"):
        Combiner.from_parts(arrays, blobs, {**meta, "features": meta["features"][1:]})
    fewer = replace(combiner, sources=combiner.sources[1:])
    with pytest.raises(BundleError, match=r"trees over \d+ features, and there are"):
        Combiner.from_parts(arrays, blobs, fewer.to_parts()[2])


def test_the_table_counts_by_hand_and_is_blind_to_the_future(build_dataset: BuildDataset) -> None:
    rows = [(0, 0, BUY, 29.0), (1, 0, BUY, 22.999999), (1, 1, VIEW, 5.0)]
    items = {"price": [2.0, None, 3.0], "category": ["a", None, "b"]}
    dataset = build_dataset(rows, n_items=3, items=items)
    longer = build_dataset([*rows, (0, 2, BUY, 30.0)], n_items=3, items=items, days=40).until(
        dataset.as_of_us
    )
    found = item_table(dataset, Target.ITEM)
    week = np.array([2 ** (-1 / 7) + 2 ** (-7.000001 / 7), 0, 0])
    np.testing.assert_allclose(found.popularity[:, 1], np.log((week + 0.1) / (week.mean() + 0.1)), rtol=1e-5)
    np.testing.assert_allclose(found.log_price, np.log([2.0, np.nan, 3.0]), rtol=1e-6)
    np.testing.assert_array_equal(found.category, [0, -1, 1])
    assert found.first_seen_us[2] == np.iinfo(np.int64).max
    future = item_table(longer, Target.ITEM)
    for name in ItemTable.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(future, name))


def test_misuse_is_named(world: tuple[Dataset, sparse.csr_matrix]) -> None:
    dataset, truth = world
    one, two = noisy_sources(dataset)
    with pytest.raises(ModelError, match="no validation window"):
        train_fusion([])
    with pytest.raises(ModelError, match="same sources"):
        train_fusion([Fold(dataset, [one], truth), Fold(dataset, [two], truth)])
    with pytest.raises(ModelError, match="anything to find"):
        train_fusion([Fold(dataset, [one], sparse.csr_matrix((300, 40), dtype=np.float32))])


def test_the_serving_half_imports_numpy_alone() -> None:
    code = (
        "import sys, recsys.models.fusion, recsys.models.fold_in\n"
        "heavy = {'torch', 'implicit', 'pandas', 'lightgbm', 'mlflow', 'scipy'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
