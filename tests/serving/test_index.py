"""One contract for every index: the same answers as brute force over the allowed items."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle import BundleRefused, Reason
from recsys.errors import ModelError
from recsys.index import IndexParams, build_index
from recsys.types import BoolArray, FloatArray
from serving.bitmap import Bitmap
from serving.index import ItemIndex
from serving.lists import SearchParams

N, D = 6_000, 16


def clustered(n: int = N, d: int = D) -> FloatArray:
    """Unit vectors around a few hundred centres, as trained items lie."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(200, d))
    vectors = centres[rng.integers(0, 200, n)] + 0.5 * rng.normal(size=(n, d))
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


VECTORS = clustered()
QUERIES = clustered(40)
BUILT = {
    "exact": build_index(VECTORS),
    "inverted lists": build_index(VECTORS, queries=QUERIES, params=IndexParams(exact_up_to=0)),
}


@pytest.fixture(params=BUILT)
def index(request: pytest.FixtureRequest) -> ItemIndex:
    built = BUILT[request.param]
    assert (built.nprobe == 0) == (request.param == "exact")
    return ItemIndex(built.data, VECTORS, nprobe=built.nprobe)


def brute_force(query: FloatArray, allowed: BoolArray, k: int) -> tuple[list[int], FloatArray]:
    scores = np.where(allowed, VECTORS @ query, -np.inf)
    ids = np.argsort(-scores, kind="stable")[: min(k, int(allowed.sum()))]
    return ids.tolist(), scores[ids]


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.1, 0.03, 0.01, 0.001])
@pytest.mark.parametrize("k", [1, 20, 100])
def test_search_finds_what_brute_force_finds(index: ItemIndex, share: float, k: int) -> None:
    rng = np.random.default_rng(int(share * 1000) + k)
    hits = wanted = 0
    for query in QUERIES:
        allowed = rng.random(N) < share
        ids, scores = index.search(query, k=k, allowed=Bitmap.of(allowed))
        best, _ = brute_force(query, allowed, k)
        assert len(ids) == len(best)
        assert allowed[ids].all()
        assert len(set(ids.tolist())) == len(ids)
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, VECTORS[ids] @ query, atol=1e-5)
        hits += len(set(ids.tolist()) & set(best))
        wanted += len(best)
    assert hits >= 0.95 * wanted


def test_an_exact_index_agrees_to_the_digit() -> None:
    index = ItemIndex(BUILT["exact"].data, VECTORS, nprobe=0)
    for query in QUERIES:
        ids, scores = index.search(query, k=50, allowed=Bitmap.full(N))
        best, best_scores = brute_force(query, np.ones(N, dtype=bool), 50)
        assert ids.tolist() == best
        np.testing.assert_allclose(scores, best_scores, atol=1e-6)


def test_k_over_the_catalogue_gives_all(index: ItemIndex) -> None:
    ids, _ = index.search(QUERIES[0], k=10 * N, allowed=Bitmap.full(N))
    assert sorted(ids.tolist()) == list(range(N))


def test_nothing_allowed_gives_nothing(index: ItemIndex) -> None:
    ids, scores = index.search(QUERIES[0], k=5, allowed=Bitmap.empty(N))
    assert (len(ids), len(scores)) == (0, 0)


def test_enough_are_found_where_the_allowed_lie_far_from_the_query(index: ItemIndex) -> None:
    query = QUERIES[0]
    allowed = np.zeros(N, dtype=bool)
    allowed[np.argsort(VECTORS @ query)[: N // 2]] = True
    assert len(index.search(query, k=500, allowed=Bitmap.of(allowed))[0]) == 500


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_is_refused(index: ItemIndex, bad: float) -> None:
    query = QUERIES[0].copy()
    query[3] = bad
    with pytest.raises(ValueError, match="finite"):
        index.search(query, k=5, allowed=Bitmap.full(N))
    with pytest.raises(ValueError, match="finite"):
        index.search(QUERIES[0][:5], k=5, allowed=Bitmap.full(N))
    with pytest.raises(ValueError, match="k=0"):
        index.search(QUERIES[0], k=0, allowed=Bitmap.full(N))


@pytest.mark.parametrize("kind", BUILT)
def test_an_index_of_other_vectors_is_refused(kind: str) -> None:
    built = BUILT[kind]
    for others in (VECTORS[:-1], VECTORS[:, :8], np.roll(VECTORS, 7, axis=0)):
        with pytest.raises(BundleRefused) as refused:
            ItemIndex(built.data, np.ascontiguousarray(others), nprobe=built.nprobe)
        assert refused.value.reason is Reason.MIXED


def test_an_index_of_another_kind_is_refused() -> None:
    euclidean = faiss.IndexFlatL2(D)
    euclidean.add(VECTORS)
    for data, nprobe in ((faiss.serialize_index(euclidean).tobytes(), 0), (BUILT["exact"].data, 4)):
        with pytest.raises(BundleRefused) as refused:
            ItemIndex(data, VECTORS, nprobe=nprobe)
        assert refused.value.reason is Reason.CONTENT


@pytest.mark.parametrize("length", [0, 3, 40, 1000])
def test_an_index_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BundleRefused) as refused:
        ItemIndex(BUILT["exact"].data[:length], VECTORS, nprobe=0)
    assert refused.value.reason is Reason.CONTENT


def test_building_refuses_vectors_that_are_not_finite() -> None:
    vectors = VECTORS.copy()
    vectors[17, 2] = np.nan
    with pytest.raises(ModelError, match="item 17"):
        build_index(vectors)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data())
def test_a_bitmap_is_a_set(n: int, data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.integers(0, n - 1)))
    bitmap = Bitmap.empty(n)
    bitmap.add(sorted(wanted))
    for _ in range(5):
        item, present = data.draw(st.integers(0, n - 1)), data.draw(st.booleans())
        bitmap.put(item, present)
        (wanted.add if present else wanted.discard)(item)
    gone = data.draw(st.sets(st.integers(0, n - 1)))
    bitmap.remove(sorted(gone))
    wanted -= gone

    assert bitmap.items().tolist() == sorted(wanted)
    assert bitmap.count() == len(wanted)
    assert [item in bitmap for item in range(n)] == [item in wanted for item in range(n)]
    assert bitmap.has(np.arange(n, dtype=np.int32)).tolist() == [item in wanted for item in range(n)]
    mask = np.isin(np.arange(n), sorted(wanted))
    np.testing.assert_array_equal(Bitmap.of(mask).data, bitmap.data)
    other = Bitmap.full(n)
    cut = other.copy()
    cut &= bitmap
    assert cut.items().tolist() == sorted(wanted)
    assert cut.parts == (other, bitmap)
    assert cut.copy().parts == (other, bitmap)
    assert bitmap.parts == (bitmap,)
    other &= bitmap
    assert other.items().tolist() == sorted(wanted)
    assert other.parts == (other,)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.data())
def test_the_count_is_right_after_whatever_was_done(n: int, data: st.DataObject) -> None:
    bitmap, wanted = Bitmap.full(n), set(range(n))
    item = st.integers(0, n - 1)
    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from(["put", "add", "remove", "copy", "cut", "count"]))
        some = data.draw(st.lists(item, max_size=6))  # one may come twice
        if step == "put" and some:
            present = data.draw(st.booleans())
            bitmap.put(some[0], present)
            wanted = wanted | {some[0]} if present else wanted - {some[0]}
        elif step == "add":
            bitmap.add(some)
            wanted = wanted | set(some)
        elif step == "remove":
            bitmap.remove(some)
            wanted = wanted - set(some)
        elif step == "copy":
            bitmap = bitmap.copy()
        elif step == "cut":
            other = Bitmap.full(n)
            other.remove(some)
            bitmap &= other
            wanted = wanted - set(some)
        else:
            assert bitmap.count() == len(wanted)
    assert bitmap.count() == bitmap.copy().count() == len(wanted)
    assert bitmap.items().tolist() == sorted(wanted)


def recall(index: ItemIndex, queries: FloatArray, allowed: BoolArray, k: int) -> float:
    """Of the exact best k over the allowed, the share that is found; what is found must be allowed."""
    hits = wanted = 0
    for query in queries:
        ids, _ = index.search(query, k=k, allowed=Bitmap.of(allowed))
        best, _ = brute_force(query, allowed, k)
        assert len(ids) == len(best)
        assert allowed[ids].all()
        hits += len(set(ids.tolist()) & set(best))
        wanted += len(best)
    return hits / wanted


@pytest.mark.parametrize("k", [1, 20, 100])
@pytest.mark.parametrize("nearest", [True, False], ids=["near the query", "far from the query"])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_what_is_allowed_may_lie_together(index: ItemIndex, share: float, nearest: bool, k: int) -> None:
    """A category lies near the query or far from it, and no share tells how many lists hold it."""
    found = []
    for query in QUERIES[:10]:
        order = np.argsort(VECTORS @ query)
        allowed = np.zeros(N, dtype=bool)
        allowed[order[::-1][: int(share * N)] if nearest else order[: int(share * N)]] = True
        found.append(recall(index, query[None], allowed, k))
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("params", [SearchParams(), SearchParams(exact_up_to=0)], ids=["as is", "by lists"])
@pytest.mark.parametrize("scattered", [0.0, 0.5], ids=["groups", "groups and others"])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.3, 0.1, 0.03, 0.01])
def test_whole_groups_may_be_allowed(share: float, scattered: float, params: SearchParams) -> None:
    """The allowed are the items nearest to some centres, and maybe as many of all: most queries are far."""
    built = BUILT["inverted lists"]
    index = ItemIndex(built.data, VECTORS, nprobe=built.nprobe, params=params)
    rng = np.random.default_rng(int(1000 * share))
    nearest = np.argmax(VECTORS @ VECTORS[rng.choice(N, 200, replace=False)].T, axis=1)
    chosen = rng.choice(200, max(1, round(200 * share * (1 - scattered))), replace=False)
    allowed = np.isin(nearest, chosen) | (rng.random(N) < share * scattered)
    for k in (5, 20, 100):
        assert recall(index, QUERIES, allowed, k) >= 0.95


def test_a_set_that_changes_is_searched_as_it_is() -> None:
    """What was counted of a set stays of use as the set changes, and it is counted anew in time."""
    built = BUILT["inverted lists"]
    params = SearchParams(exact_up_to=0)
    index = ItemIndex(built.data, VECTORS, nprobe=built.nprobe, params=params)
    query, available = QUERIES[0], Bitmap.full(N)
    index.search(query, k=100, allowed=available.copy())
    sold_out = np.argsort(-(VECTORS @ query))[:3_000]
    for item in sold_out.tolist():
        available.put(item, False)
    allowed = np.ones(N, dtype=bool)
    allowed[sold_out] = False
    ids, _ = index.search(query, k=100, allowed=available.copy())
    assert allowed[ids].all()
    assert len(set(ids.tolist()) & set(brute_force(query, allowed, 100)[0])) >= 95


@pytest.mark.parametrize("left", [0, 1, 7, 150])
def test_enough_are_found_where_nearly_nothing_is_left_of_a_set(left: int) -> None:
    """A set is cut out of two that hardly meet: what their shares promise is not there."""
    built = BUILT["inverted lists"]
    index = ItemIndex(built.data, VECTORS, nprobe=built.nprobe, params=SearchParams(exact_up_to=0))
    one, other = Bitmap.of(np.arange(N) < N // 2 + left), Bitmap.of(np.arange(N) >= N // 2)
    allowed = one.copy()
    allowed &= other
    ids, _ = index.search(QUERIES[0], k=100, allowed=allowed)
    assert len(ids) == min(left, 100)
    assert ((ids >= N // 2) & (ids < N // 2 + left)).all()


@pytest.mark.parametrize("exact_cost", [0.01, 1e9], ids=["one by one", "by lists"])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.1])
def test_both_ways_of_searching_name_allowed_items_only(exact_cost: float, share: float) -> None:
    built = BUILT["inverted lists"]
    params = SearchParams(exact_up_to=0, exact_cost=exact_cost, missed=1e-6)
    index = ItemIndex(built.data, VECTORS, nprobe=built.nprobe, params=params)
    allowed = np.random.default_rng(3).random(N) < share
    for query in QUERIES:
        ids, scores = index.search(query, k=50, allowed=Bitmap.of(allowed))
        assert allowed[ids].all()
        np.testing.assert_allclose(scores, VECTORS[ids] @ query, atol=1e-5)
        if share == 0.1 and exact_cost < 1:  # a set so small is known item by item
            assert ids.tolist() == brute_force(query, allowed, 50)[0]


def test_a_search_leaves_the_threads_of_the_program_alone(index: ItemIndex) -> None:
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        index.search(QUERIES[0], k=5, allowed=Bitmap.full(N))
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(threads)


def test_threads_that_search_at_once_find_each_its_own(index: ItemIndex) -> None:
    parts = [np.arange(N) % 4 == part for part in range(4)]

    def wrong(part: int) -> int:
        allowed = Bitmap.of(parts[part])
        found = [index.search(query, k=50, allowed=allowed)[0] for query in np.tile(QUERIES, (5, 1))]
        return sum(int((~parts[part][ids]).sum()) for ids in found)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [0, 0, 0, 0]
