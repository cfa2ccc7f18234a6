"""The fitted room model: the same features everywhere, the same scores after export, better than counting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.simulate import SimulationParams, simulate
from recsys.errors import BundleError, ModelError
from recsys.models.trees import Trees
from recsys.rooms.catalogue import content_of, state_params_of
from recsys.rooms.examples import ExampleParams, RoomExamples, collect_examples
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.model import RoomModel, RoomParams, ndcg, state_at_end, with_taste
from recsys.rooms.network_training import NetworkParams
from recsys.rooms.potential import Potential
from recsys.rooms.replay import KnownIds, Replay, moments_us, replay
from recsys.rooms.scorer import RoomScorer, decayed_visit_scores
from recsys.rooms.trees_training import TreeParams, fit_trees

PARAMS = RoomParams(
    examples=ExampleParams(visits=4_000, share=0.9),
    network=NetworkParams(dimensions=12, hidden=16, epochs=6),
    trees=TreeParams(rounds=20, min_leaf=20),
)


@dataclass(frozen=True)
class World:
    dataset: Dataset
    requests: pa.Table
    model: RoomModel
    scorer: RoomScorer
    examples: RoomExamples

    @property
    def ids(self) -> KnownIds:
        return KnownIds(self.dataset.users.ids, self.dataset.items.ids, self.dataset.streamers.ids)


def potential_of(dataset: Dataset) -> Potential:
    """Something was said of the products in the middle of the log, and something else near its end."""
    rng = np.random.default_rng(0)
    first, n = int(dataset.events.timestamp_us[0]), len(dataset.items)
    length = dataset.as_of_us - first
    return Potential.of({first + length * part // 4: rng.random(n, dtype=np.float32) for part in (2, 3)})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder: Path = tmp_path_factory.mktemp("platform")
    simulate(
        folder / "logs",
        SimulationParams(users=2000, items=300, streamers=50, days=16, truth_requests=400, seed=3),
    )
    prepare(folder / "logs", folder / "dataset")
    table = pq.read_table(folder / "logs/truth/room_requests.parquet")
    requests = table.filter(table["chosen"])
    dataset = Dataset.load(folder / "dataset").until(int(moments_us(requests["at"]).min()))
    model = RoomModel(PARAMS)
    scorer = model.fit(dataset, potential=potential_of(dataset))
    examples = collect_examples(dataset, scorer.content, scorer.state_params, PARAMS.examples)
    return World(dataset, requests, model, scorer, examples)


def test_features_in_training_and_in_replay_are_equal_value_by_value(world: World) -> None:
    """Replayed at other moments, in other batches, by the code that answers requests."""
    assert world.scorer.content.taste is not None
    trained = with_taste(world.scorer.content.taste, world.examples)
    chosen = np.arange(5, len(world.examples), 37)
    played = Replay(world.scorer, Dataset.whole(world.dataset.path), world.ids)
    at_us, users = world.examples.at_us[chosen], world.examples.user_idx[chosen]
    compared = 0
    for moment in played.moments(users, at_us):
        example = chosen[moment.request]
        live = moment.state.rooms
        rows = np.arange(len(live), dtype=np.int32)
        features = room_features(moment.state, world.scorer.content, moment.user, rows, moment.at_us)
        order = np.argsort(live.streamer_idx[: len(live)], kind="stable")
        mask = world.examples.mask[example]
        then = np.argsort(world.examples.streamer_idx[example][mask], kind="stable")
        np.testing.assert_allclose(features[order], trained[example][mask][then], rtol=1e-4, atol=2e-5)
        compared += 1
    assert compared == len(chosen) > 50


def test_every_feature_is_finite_and_most_say_something(world: World) -> None:
    rows = world.examples.features[world.examples.mask]
    assert np.isfinite(rows).all()
    flat = {name for name, spread in zip(FEATURES, rows.std(axis=0), strict=True) if spread == 0}
    assert flat <= {"taste", "taste_streamer", "taste_item", "pair_bounces", "air_any"}


def test_the_model_is_better_than_counting_visits(world: World) -> None:
    assert world.model.report.ndcg_both > world.model.report.ndcg_baseline + 0.03


def test_replay_of_requests_is_better_than_counting_visits(world: World) -> None:
    whole = Dataset.whole(world.dataset.path)
    counting = RoomScorer(world.scorer.state_params, world.scorer.content)

    def quality(scorer: RoomScorer) -> float:
        asked = world.requests.select(["user_id", "at"])
        answer = replay(scorer, whole, asked, k=10, ids=world.ids)
        rows = zip(*(answer[name].to_pylist() for name in ("user_id", "at", "room_id", "rank")), strict=True)
        ranks = {(user, at, room): rank for user, at, room, rank in rows}
        right = zip(*(world.requests[name].to_pylist() for name in ("user_id", "at", "room_id")), strict=True)
        gains = [1 / np.log2(1 + ranks[key]) if key in ranks else 0.0 for key in right]
        return float(np.mean(gains))

    assert quality(world.scorer) > quality(counting) + 0.03


def test_trees_in_onnx_and_in_lightgbm_agree(world: World) -> None:
    booster = fit_trees(world.examples, PARAMS.trees)
    rows = world.examples.features[world.examples.mask][:500]
    expected = np.asarray(booster.predict(rows, raw_score=True))
    scores = Trees.of(booster).scores(rows)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert np.unique(scores).size > 10


def test_parts_give_the_same_scorer_back(world: World) -> None:
    arrays, blobs, meta = world.scorer.to_parts()
    again = RoomScorer.from_parts(arrays, blobs, meta)
    state = state_at_end(world.dataset, world.scorer)
    now = world.dataset.as_of_us
    for user in (0, 7, -1, 10**6):
        first = world.scorer.rank(state, user, now, k=5)
        second = again.rank(state, user, now, k=5)
        np.testing.assert_array_equal(first.room_idx, second.room_idx)
        np.testing.assert_array_equal(first.scores, second.scores)
    with pytest.raises(BundleError, match="has other features"):
        RoomScorer.from_parts(arrays, blobs, {**meta, "features": ["pair_known"]})


def test_a_warm_start_answers_as_the_whole_log_does(world: World) -> None:
    whole = Dataset.whole(world.dataset.path)
    asked = world.requests.select(["user_id", "at"]).slice(0, 60)
    cold = replay(world.scorer, whole, asked, k=10, ids=world.ids)
    start = state_at_end(world.dataset, world.scorer)
    warm = replay(
        world.scorer, whole, asked, k=10, ids=world.ids, start=start, start_rooms=world.dataset.rooms.ids
    )
    assert cold.num_rows == warm.num_rows
    # Views under way at the bundle's moment have no length in it, so a close call may come out otherwise.
    same = np.array(cold["room_id"].to_pylist()) == np.array(warm["room_id"].to_pylist())
    assert same.mean() > 0.95


def test_only_the_best_rooms_are_reranked_and_stay_before_the_rest(world: World) -> None:
    assert world.scorer.network is not None
    busiest = int(world.examples.mask.sum(axis=1).argmax())
    evening = world.examples.at_us[busiest : busiest + 1]
    played = Replay(world.scorer, Dataset.whole(world.dataset.path), world.ids)
    (moment,) = played.moments(np.zeros(1, dtype=np.int32), evening)
    state, now = moment.state, moment.at_us
    rows = np.arange(len(state.rooms), dtype=np.int32)
    assert len(rows) > 4
    booster = fit_trees(world.examples, PARAMS.trees)
    trees = Trees.of(booster)
    narrow = RoomScorer(
        world.scorer.state_params, world.scorer.content, network=world.scorer.network, trees=trees, rerank=3
    )
    features = room_features(state, world.scorer.content, 0, rows, now)
    first = world.scorer.network.scores(features)
    best = np.argsort(-first)[:3]
    scores = narrow.scores(state, 0, rows, now)
    np.testing.assert_allclose(scores[best], (first + trees.scores(features))[best], rtol=1e-5)
    assert scores[best].min() > np.delete(scores, best).max()


def test_a_short_log_falls_back_to_counting_visits(world: World) -> None:
    model = RoomModel(RoomParams(examples=ExampleParams(visits=100)))
    scorer = model.fit(world.dataset)
    assert scorer.network is None
    state = state_at_end(world.dataset, scorer)
    rows = np.arange(len(state.rooms), dtype=np.int32)
    features = room_features(state, scorer.content, 3, rows, world.dataset.as_of_us)
    np.testing.assert_array_equal(
        scorer.scores(state, 3, rows, world.dataset.as_of_us), decayed_visit_scores(features)
    )


def test_no_live_room_is_an_empty_answer_with_its_reason(world: World) -> None:
    empty = Replay(world.scorer, world.dataset, world.ids).state
    answer = world.scorer.rank(empty, 0, world.dataset.as_of_us, k=5)
    assert len(answer.room_idx) == 0
    assert answer.reason == "no room is live"
    state = state_at_end(world.dataset, world.scorer)
    assert "rooms are live" in world.scorer.rank(state, 0, world.dataset.as_of_us, k=10_000).reason


def test_a_log_without_rooms_is_refused(world: World) -> None:
    events = replace(world.dataset.events, room_idx=np.full_like(world.dataset.events.room_idx, -1))
    with pytest.raises(ModelError, match="no visit of a live room"):
        RoomModel(PARAMS).fit(replace(world.dataset, events=events))


def test_ndcg_of_examples_by_hand(world: World) -> None:
    two = world.examples.where(slice(0, 2))
    scores = np.zeros(two.mask.shape)
    scores[0, 0] = 1.0  # first: 1
    scores[1, 0], scores[1, 1] = 1.0, 1.0  # a tie counts against it: second
    assert ndcg(scores, two) == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert state_params_of(world.dataset) == world.scorer.state_params
    assert content_of(world.dataset).categories == world.scorer.content.categories
