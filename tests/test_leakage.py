"""Nothing at or after the cut-off changes a trained number: every model is fitted twice and compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.models.collaborative import ALS, BPR, ALSParams, BPRParams, ItemKNN
from recsys.models.fusion_training import item_table
from recsys.models.history_models import CoVisitation, Repeat, SimilarItems
from recsys.models.popular import Popular
from recsys.models.two_tower import TwoTower, TwoTowerParams
from recsys.rooms.model import RoomModel, RoomParams, state_at_end
from recsys.types import Target
from tests.conftest import write_logs
from training.config import TrainingConfig
from training.judging import run_trial
from training.room_judging import run_room_trial

CUT = datetime(2024, 3, 1, tzinfo=UTC)
DAYS = 20


def random_events(rng, start, days, n, *, users, items):
    seconds = np.sort(rng.integers(0, int(days * 86_400), n))
    behaviour = rng.choice(["view", "cart", "purchase", "like", "refund"], n, p=[0.6, 0.15, 0.15, 0.07, 0.03])
    room = rng.integers(0, 6, n)
    return pd.DataFrame(
        {
            "user_id": rng.integers(0, users, n),
            "event": behaviour,
            "timestamp": [start + timedelta(seconds=int(s)) for s in seconds],
            "item_id": rng.integers(0, items, n),
            "room_id": room,
            "streamer_id": room % 4,
            "duration_s": np.where(behaviour == "view", rng.integers(1, 4000, n), np.nan),
        }
    )


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The same moment in a log that ends there, and in one that goes on with new users, items and rooms."""
    root = tmp_path_factory.mktemp("leakage")
    rng = np.random.default_rng(0)
    past = random_events(rng, CUT - timedelta(days=DAYS), DAYS, 3000, users=60, items=40)
    watched_into_the_cut = past.tail(1).assign(
        event="view", timestamp=CUT - timedelta(seconds=1), duration_s=900.0
    )
    past = pd.concat([past, watched_into_the_cut], ignore_index=True)
    future = random_events(rng, CUT, 5, 1500, users=90, items=70)
    # The same view, told of before it was over.
    told_early = past.copy()
    told_early.loc[told_early.index[-1], "duration_s"] = np.nan
    rooms = pd.DataFrame(
        {
            "room_id": range(6),
            "streamer_id": [room % 4 for room in range(6)],
            "started_at": CUT - timedelta(days=DAYS + 1),
            "ended_at": CUT + timedelta(hours=2),
        }
    )
    items = pd.DataFrame(
        {
            "item_id": range(70),
            "category": [f"c{item % 5}" for item in range(70)],
            "price": [1.0 + item for item in range(70)],
            "listed_at": [CUT - timedelta(days=60 - item) for item in range(70)],
        }
    )
    known = items[items.listed_at < CUT]
    write_logs(root / "ends", events=told_early, rooms=rooms.assign(ended_at=pd.NaT), items=known)
    write_logs(root / "goes_on", events=pd.concat([past, future]), rooms=rooms, items=items)
    loaded = []
    for name in ("ends", "goes_on"):
        prepare(root / name, root / f"{name}_set")
        loaded.append(Dataset.load(root / f"{name}_set", as_of=CUT))
    return tuple(loaded)


def scores(model, dataset):
    model.fit(dataset)
    return model._scores(np.arange(len(dataset.users), dtype=np.int32))


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize(
    "build", [Popular, ItemKNN, CoVisitation, SimilarItems, Repeat], ids=lambda build: build.name
)
def test_counting_models(datasets, build, target):
    ends, goes_on = (scores(build(target=target), dataset) for dataset in datasets)
    np.testing.assert_array_equal(ends, goes_on)
    assert np.isfinite(ends).any()


@pytest.mark.parametrize("target", list(Target))
def test_als(datasets, target):
    params = ALSParams(factors=8, iterations=3)
    ends, goes_on = (scores(ALS(params, target=target), dataset) for dataset in datasets)
    np.testing.assert_array_equal(ends, goes_on)


@pytest.mark.parametrize("target", list(Target))
def test_bpr(datasets, target):
    params = BPRParams(factors=8, iterations=3, threads=1, device="cpu")
    ends, goes_on = (scores(BPR(params, target=target), dataset) for dataset in datasets)
    np.testing.assert_array_equal(ends, goes_on)


@pytest.mark.parametrize("target", list(Target))
def test_two_tower(datasets, target):
    params = TwoTowerParams(dim=8, steps=20, batch_size=128, uniform_negatives=16)
    models = [TwoTower(params, target=target, device="cpu").fit(dataset) for dataset in datasets]
    np.testing.assert_array_equal(models[0].user_vectors, models[1].user_vectors)
    np.testing.assert_array_equal(models[0].target_vectors, models[1].target_vectors)


def test_room_model(datasets):
    arrays, reports = [], []
    for dataset in datasets:
        model = RoomModel(RoomParams(fewest=100))
        scorer = model.fit(dataset)
        reports.append(model.report)
        arrays.append((scorer.to_parts()[0], state_at_end(dataset, scorer).to_parts()))
    # On noise the fit may keep no network, but one was learnt and judged: its figures must agree too.
    assert np.isfinite(reports[0].ndcg_network)
    assert reports[0] == reports[1]
    for ends, goes_on in zip(*arrays, strict=True):
        assert ends.keys() == goes_on.keys()
        for name in ends:
            np.testing.assert_array_equal(ends[name], goes_on[name], err_msg=name)


@pytest.mark.parametrize("target", list(Target))
def test_what_the_combiner_knows_of_targets(datasets, target):
    ends, goes_on = (item_table(dataset, target) for dataset in datasets)
    for name in vars(ends):
        np.testing.assert_array_equal(getattr(ends, name), getattr(goes_on, name), err_msg=name)


def test_a_whole_run_with_its_combiner(datasets):
    """Windows, folds, combiner and comparison; the log's end is the moment at which both are seen."""
    config = TrainingConfig.load(
        None,
        [
            "device=cpu",
            "models.als.params.factors=8",
            "models.two_tower.params.dim=8",
            "models.two_tower.params.epochs=1",
            "fusion.params.min_users=10",
            "fusion.params.rounds=5",
            "evaluation.samples=100",
        ],
    )
    ends, goes_on = (run_trial(config, dataset, Target.ITEM) for dataset in datasets)
    assert ends.split == goes_on.split
    assert ends.fusion == goes_on.fusion
    assert ends.combiner is not None
    assert goes_on.combiner is not None
    assert ends.combiner.trees is not None
    assert goes_on.combiner.trees is not None
    assert ends.combiner.trees.graph == goes_on.combiner.trees.graph
    assert repr(ends.comparison.rows) == repr(goes_on.comparison.rows)


def test_rooms_judged_over_the_window(datasets):
    config = TrainingConfig.load(None, ["rooms.params.fewest=100", "evaluation.samples=100"])
    # On noise the share of visits that the network puts first says little, but it says the same.
    ends, goes_on = (run_room_trial(config, dataset) for dataset in datasets)
    assert ends.chosen == goes_on.chosen
    assert repr(ends.rows) == repr(goes_on.rows)
    assert len(ends.found.judged) > 20


def test_the_comparison_can_fail(datasets):
    """Seen from a day later the same models differ: the equality above is not that of constants."""
    later = Dataset.load(datasets[1].path, as_of=CUT + timedelta(days=1))
    n = (len(datasets[1].users), len(datasets[1].items))
    assert not np.array_equal(scores(Popular(), later)[: n[0], : n[1]], scores(Popular(), datasets[1]))
