"""The request path computes from what its models learnt from: the same actions, depth and dwell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsys.data.behaviours import BehaviourWeights
from recsys.data.histories import HistoryBatch
from recsys.index import build_index
from recsys.models.fold_in import FoldIn
from recsys.models.fusion import DEPTH
from recsys.product_sections import FoldInQuery, Vectors, fusion_section, read_fusion, vectors_section
from recsys.types import Behaviour
from serving.bitmap import Bitmap
from serving.loaded import LoadedBundle
from serving.query import FoldInVector
from serving.state import Action
from tests.serving.conftest import (
    AS_OF_US,
    CLOCK_S,
    HOUR_US,
    N_ITEMS,
    N_USERS,
    MakeBundle,
    item_id,
    item_vectors,
    load,
    make_sections,
)

ALS = BehaviourWeights(half_life_days=None)


def test_sources_are_read_as_deep_as_the_combiner_was_trained(make_bundle: MakeBundle) -> None:
    sections = make_sections()
    combiner = read_fusion("fusion", sections["fusion"], n_items=N_ITEMS)
    shallow = {**sections, "fusion": fusion_section(replace(combiner, depth=3))}
    loaded = LoadedBundle.open(make_bundle(sections=shallow), max_bytes=1 << 30)
    assert loaded.combiner is not None
    assert loaded.combiner.depth == 3 != DEPTH
    wanted = loaded.wanted(0, (), at_us=AS_OF_US, allowed=Bitmap.full(N_ITEMS))
    # Four sources name three each, however long the list is to be.
    assert len(loaded.fused(wanted, k=50)) <= 12


def test_a_longer_list_begins_with_the_shorter(make_bundle: MakeBundle) -> None:
    sections = make_sections()
    combiner = read_fusion("fusion", sections["fusion"], n_items=N_ITEMS)
    shallow = {**sections, "fusion": fusion_section(replace(combiner, depth=5))}
    recommender = load(make_bundle(sections=shallow))
    short, long = ([entry.id for entry in recommender.products("7000000000", k=k).entries] for k in (6, 40))
    assert long[:6] == short


def test_the_fold_in_weighs_dwell_as_the_fit_does() -> None:
    vectors = item_vectors(0)
    solver = FoldIn.of(vectors, alpha=10.0, regularization=1.0)
    query = FoldInVector(FoldInQuery(solver.gram, 10.0, ALS), vectors)
    watched_s = np.array([[600.0, 3.0, np.nan]], dtype=np.float32)
    history = HistoryBatch(
        np.array([[0, 1, 2]], np.int32),
        np.full((1, 3), Behaviour.VIEW.code, np.int8),
        np.full((1, 3), AS_OF_US - HOUR_US),
        np.ones((1, 3), bool),
        watched_s,
    )
    found = query.vector(history, np.array([AS_OF_US]), -1)
    # Three times for ten minutes (the cap), log2(1 + 3 / 60) for three seconds, once where it is not known.
    confidence = np.array([3.0, np.log2(1.05), 1.0], dtype=np.float32)
    np.testing.assert_allclose(found, solver.vector(np.arange(3, dtype=np.int32), confidence), rtol=1e-5)


def test_a_reported_view_counts_as_long_as_it_lasted(make_bundle: MakeBundle) -> None:
    vectors = item_vectors(0)
    solver = FoldIn.of(vectors, alpha=10.0, regularization=1.0)
    sections = make_sections()
    sections["vectors_als"] = vectors_section(
        Vectors(
            "als",
            vectors,
            np.zeros((N_USERS, vectors.shape[1]), np.float32),
            build_index(vectors),
            FoldInQuery(solver.gram, 10.0, ALS),
        )
    )
    loaded = LoadedBundle.open(make_bundle(sections=sections), max_bytes=1 << 30)
    at_us = int(CLOCK_S * 1_000_000)
    actions = (
        Action(at_us - 2, item_id(0), Behaviour.VIEW, 900.0),
        Action(at_us - 1, item_id(1), Behaviour.VIEW, 1.0),
    )
    wanted = loaded.wanted(1, actions, at_us=at_us, allowed=Bitmap.full(N_ITEMS))
    assert wanted.history.duration_s is not None
    assert wanted.history.duration_s.tolist() == [[900.0, 1.0]]
    best = loaded.sources["als"].candidates(wanted, k=5).row(0)[0]
    assert set(best % 3) == {0}  # of the category of what was watched for a quarter of an hour


def test_the_same_view_reported_again_with_another_length_is_one_action() -> None:
    assert Action(1, "a", Behaviour.VIEW, 3.0) == Action(1, "a", Behaviour.VIEW, None)
