"""What is judged, and what is answered where no validation window has anybody to learn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.models.fusion_training import FusionParams, unlearned_combiner
from recsys.types import Behaviour, Target
from serving import Recommender
from tests.training.conftest import START, prepared, shop_events
from training.config import TrainingConfig
from training.judging import run_trial
from training.pipeline import train

TASTES, ITEMS_OF_A_TASTE, N_USERS, ACTIONS = 4, 15, 200, 8


def sessions(apart_s: int) -> pd.DataFrame:
    """Everybody acts eight times within minutes, on items of one of four tastes, and is never seen again."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS), ACTIONS)
    item = user % TASTES * ITEMS_OF_A_TASTE + rng.integers(ITEMS_OF_A_TASTE, size=len(user))
    begin_s = np.repeat(np.arange(N_USERS) * apart_s, ACTIONS)
    return pd.DataFrame(
        {
            "user_id": user.astype(str),
            "item_id": item.astype(str),
            "event": rng.choice(["view", "cart", "purchase"], len(user)),
            "timestamp": START + pd.to_timedelta(begin_s + np.arange(len(user)) % ACTIONS, unit="s"),
        }
    )


def test_what_counts_as_success_is_told_without_the_test_window(tmp_path: Path) -> None:
    events = shop_events()
    before = events["timestamp"] < START + pd.Timedelta(days=51, hours=12)
    first_bought_late = events.assign(event=events["event"].mask(before, "view"))
    dataset = Dataset.load(prepared(tmp_path, first_bought_late))
    config = TrainingConfig.load(
        None, ["models.two_tower.enabled=false", "split.test_days=9", "evaluation.samples=100"]
    )
    assert run_trial(config, dataset, Target.ITEM).goals == (Behaviour.VIEW,)


@pytest.mark.parametrize(
    "events",
    [sessions(apart_s=7_200), sessions(apart_s=0).assign(timestamp=START)],
    ids=["nobody comes back", "no time passes"],
)
def test_answers_by_taste_without_anybody_to_learn_from(tmp_path: Path, events: pd.DataFrame) -> None:
    config = TrainingConfig.load(None, ["models.two_tower.params.max_steps=5", "hot.enabled=false"])
    trained = train(prepared(tmp_path, events), config, tmp_path / "bundle")
    assert any("merged by reciprocal ranks" in note for note in trained.notes)
    recommender = Recommender.load(trained.bundle)
    users = [str(user) for user in range(40)]
    own = [
        int(product.id) // ITEMS_OF_A_TASTE == int(user) % TASTES
        for user in users
        for product in recommender.products(user, k=3)
    ]
    assert np.mean(own) > 0.9  # a quarter by chance


@pytest.mark.parametrize(
    ("again_days", "asked", "returns"),
    [(0, "auto", False), (3, "auto", True), (0, "yes", True), (3, "no", False)],
)
def test_targets_return_where_people_come_back_to_them(
    make_dataset: Callable[..., Dataset], again_days: int, asked: str, returns: bool
) -> None:
    days = [0, *([again_days] * bool(again_days))]
    dataset = make_dataset(
        [
            {
                "user_id": user,
                "item_id": f"i{user}",
                "event": "purchase",
                "timestamp": START + pd.Timedelta(days=day),
            }
            for user in range(5)
            for day in days
        ]
    )
    params = FusionParams(returns=asked)  # type: ignore[arg-type]
    assert unlearned_combiner(["als", "popular"], dataset, Target.ITEM, params).returns is returns
