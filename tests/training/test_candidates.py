"""Which models a log gets, what is said of those left out, and logs that teach next to nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.bundle import open_bundle
from recsys.errors import ModelError
from serving.recommender import Recommender
from tests.training.conftest import N_ITEMS, START, prepared
from training.config import TrainingConfig
from training.pipeline import Trained, train

QUICK = (
    "models.two_tower.enabled=false",
    "models.als.params.factors=8",
    "fusion.params.min_users=5",
    "evaluation.samples=100",
    "hot.enabled=false",
)


def trained(dataset: Path, out: Path, *settings: str) -> Trained:
    return train(dataset, TrainingConfig.load(None, [*QUICK, *settings]), out)


def test_closed_form_models_are_served_as_neighbours(shop: Path, tmp_path: Path) -> None:
    on = (
        "models.ease_items.enabled=true",
        "models.gf_cf_items={enabled: true, params: {gf_cf: {factors: 8}}}",
    )
    found = trained(shop, tmp_path / "bundle", *on)
    assert {"ease_items", "gf_cf_items", "fused"} <= {row.model for row in found.rows}
    sections = open_bundle(found.bundle).sections
    assert {"neighbours_ease_items", "neighbours_gf_cf_items"} <= set(sections)
    assert {"ease_items", "gf_cf_items"} <= set(sections["fusion"].meta["sources"])
    for name in ("neighbours_ease_items", "neighbours_gf_cf_items"):
        assert len(sections[name].arrays["ids"]) > N_ITEMS
    recommender = Recommender.load(found.bundle)
    parity = [int(entry.id) % 2 for entry in recommender.products(4, k=5, repeat=True).entries]
    assert len(parity) == 5
    assert sum(parity) <= 1


def test_a_refusal_is_said_where_it_is_auto_and_an_error_where_it_was_asked_for(
    shop: Path, tmp_path: Path
) -> None:
    little = "models.ease_items.params.ease.memory_gb=1e-9"
    found = trained(shop, tmp_path / "auto", "models.ease_items.enabled=auto", little)
    (note,) = (note for note in found.notes if "ease_items" in note)
    assert note.startswith(f"ease_items left out: {N_ITEMS} targets need about 0.0 GB, memory_gb is 1e-09")
    assert "neighbours_ease_items" not in open_bundle(found.bundle).sections
    with pytest.raises(ModelError, match="ease_items: 30 targets need about"):
        trained(shop, tmp_path / "true", "models.ease_items.enabled=true", little)


def log_of(pairs: list[tuple[int, int, float]]) -> pd.DataFrame:
    """Purchases by (user, item, day)."""
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id", "day"])
    frame["timestamp"] = START + pd.to_timedelta(frame.pop("day"), unit="D")
    return frame.assign(event="purchase")


DAYS = np.random.default_rng(0).random(200) * 40
DEGENERATE = {
    "one item only": log_of([(n % 40, 0, day) for n, day in enumerate(DAYS)]),
    "one user only": log_of([(0, n % 40, day) for n, day in enumerate(DAYS)]),
    "all users identical": log_of([(u, i, 2.0 * i) for u in range(40) for i in range(20)]),
    "two events": log_of([(0, 0, 0.0), (1, 1, 1.0)]),
    "mostly users who only looked in": pd.concat(
        [
            log_of([(n % 12, n % 11, day) for n, day in enumerate(DAYS)]),
            log_of([(100 + n, 3, 1.0) for n in range(60)]).assign(event="impression"),
        ]
    ),
}


def test_few_items_leave_a_user_their_own_past(tmp_path: Path) -> None:
    """Nine products are too few to factorise, and enough to come back to."""
    rng = np.random.default_rng(0)
    pairs = [(u, u % 9, 7.0 * week + rng.random()) for u in range(250) for week in range(8)]
    found = trained(prepared(tmp_path, log_of(pairs)), tmp_path / "bundle")
    recommender = Recommender.load(found.bundle)
    first = [int(recommender.products(user, k=1).entries[0].id) for user in range(50)]
    assert first == [user % 9 for user in range(50)]


def test_users_of_one_product_each_get_what_is_popular(tmp_path: Path) -> None:
    """Nothing is shared between them: factors would be noise."""
    rng = np.random.default_rng(0)
    item = np.minimum(rng.zipf(1.3, 2_000) - 1, 199)
    pairs = [(user, int(i), 40.0 * user / 2_000) for user, i in enumerate(item)]
    found = trained(prepared(tmp_path, log_of(pairs)), tmp_path / "bundle")
    assert any("users of two items or more" in note for note in found.notes)
    recommender = Recommender.load(found.bundle)
    shown = {int(entry.id) for user in range(0, 50) for entry in recommender.products(user, k=10).entries}
    assert np.isin(item, list(shown)).mean() > 0.5
    assert len(shown) <= 12


@pytest.mark.parametrize("log", list(DEGENERATE))
def test_a_log_that_teaches_next_to_nothing_gives_a_bundle_that_answers(log: str, tmp_path: Path) -> None:
    events = DEGENERATE[log]
    on = ("models.ease_items.enabled=auto", "models.gf_cf_items.enabled=auto")
    found = trained(prepared(tmp_path, events), tmp_path / "bundle", *on)
    own = events[events.event == "purchase"].groupby("user_id").item_id.nunique()
    few = (own > 1).sum() < 10 or events.item_id.nunique() < 10
    assert any("are too few" in note for note in found.notes) == few
    recommender = Recommender.load(found.bundle)
    bought = events[events.event == "purchase"]
    for user in (int(events.user_id.iloc[0]), int(events.user_id.iloc[-1]), 999):
        entries = recommender.products(user, k=3, repeat=True).entries
        assert len(entries) == min(3, bought.item_id.nunique())
        assert {int(entry.id) for entry in entries} <= set(bought.item_id)
