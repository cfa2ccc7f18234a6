"""New products in a bundle: found by those whose taste they are of, and nothing else moves."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.additions import Added, add_items
from recsys.bundle import BundleRefused
from recsys.cli import BAD_INPUT, main
from recsys.data.prepare import prepare
from recsys.data.tombstones import forget
from recsys.errors import BundleError, DataError
from recsys.types import Behaviour, Event
from serving import Recommender
from tests.conftest import write_logs
from tests.training.conftest import N_ITEMS, N_USERS, prepared, shop_events
from training.config import TrainingConfig
from training.pipeline import train

EVEN, ODD, BARE = 1_000, 1_001, 1_002
QUICK = [
    "fusion.params.min_users=5",
    "models.als.params.factors=8",
    "models.two_tower.params.dim=16",
    "models.two_tower.params.steps=150",
    "models.two_tower.params.learning_rate=0.01",
    "hot.enabled=false",
    "rooms.enabled=false",
]


def kinds() -> pd.DataFrame:
    """The items table of `shop_events`, whose users buy among the items of their own parity."""
    item = np.arange(N_ITEMS)
    return pd.DataFrame(
        {
            "item_id": item,
            "category": np.where(item % 2, "odd", "even"),
            "title": [f"{'odd' if n % 2 else 'even'} thing" for n in item],
            "price": 10.0 + item,
            "stock": 100,
        }
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("additions")
    prepare(write_logs(work / "logs", events=shop_events(), items=kinds()), work / "dataset")
    return train(work / "dataset", TrainingConfig.load(None, QUICK), work / "bundle").bundle


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("listed") / "items.csv"
    file.write_text(
        "item_id,category,title,price,colour,stock\n"
        f"{EVEN},even,an even thing,21.5,red,3\n{ODD},odd,an odd thing,,,\n{BARE},never seen,,,,\n"
        "4,odd,,1,,\n"
    )
    return file


@pytest.fixture(scope="module")
def added(bundle: Path, listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Added:
    return add_items(bundle, listed, tmp_path_factory.mktemp("added") / "bundle")


def test_a_new_product_is_found_by_those_whose_taste_it_is_of(added: Added) -> None:
    assert (added.added, added.known, added.placed) == (3, 1, 2)
    recommender = Recommender.load(added.path)
    first = [recommender.products(user, allow=[EVEN, ODD], k=2).entries[0].id for user in range(N_USERS)]
    right = np.mean([item == (ODD if user % 2 else EVEN) for user, item in enumerate(first)])
    assert right > 0.9
    assert {entry.id % 2 for entry in recommender.similar(EVEN, k=5)} == {0}
    priced = recommender.products(0, price=(21.2, 21.8), category="even", k=50)
    assert [entry.id for entry in priced] == [EVEN]


def test_what_was_there_stays_as_it_was(bundle: Path, added: Added) -> None:
    before, after = Recommender.load(bundle), Recommender.load(added.path)
    assert after.version.startswith(f"{before.version}+3-")
    for user in (*range(12), "nobody"):
        old = before.products(user, k=20)
        new = after.products(user, k=20, deny=[EVEN, ODD, BARE])
        assert [entry.id for entry in new] == [entry.id for entry in old]
        np.testing.assert_allclose(
            [entry.score for entry in new], [entry.score for entry in old], rtol=1e-5, atol=1e-5
        )


def test_a_new_product_is_reported_on_as_any_other(added: Added) -> None:
    recommender = Recommender.load(added.path)
    odd = {}
    for item in (EVEN, ODD):
        newcomer = f"looked at {item}"
        recommender.observe(Event(newcomer, Behaviour.VIEW, datetime(2024, 3, 2, tzinfo=UTC), item_id=item))
        shown = recommender.products(newcomer, k=10)
        assert shown.fallback is None
        odd[item] = sum(entry.id % 2 for entry in shown)
    assert odd[EVEN] <= 3 < 7 <= odd[ODD]
    recommender.stock_changed(EVEN, 0)
    assert EVEN not in [entry.id for entry in recommender.products(0, k=50)]


def test_more_can_be_added_to_what_was_added(added: Added, tmp_path: Path) -> None:
    pd.DataFrame({"item_id": [2_000, EVEN], "category": "even"}).to_parquet(tmp_path / "more.parquet")
    again = add_items(added.path, tmp_path / "more.parquet", tmp_path / "bundle")
    assert (again.added, again.known, again.placed) == (1, 1, 1)
    assert Recommender.load(again.path).n_items == N_ITEMS + 4


def test_a_list_is_no_category(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    pd.DataFrame({"item_id": [7_000], "category": [["odd"]]}).to_parquet(file)
    with pytest.raises(DataError, match=r"category holds list.*; give one value a row"):
        add_items(bundle, file, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,price\n7000,free\n", "price: .*free"),
        ("item_id,price\n7000,inf\n", "price: row 1 is infinite"),
        ("item_id\n7000\n7000\n", "item_id 7000 occurs 2 times"),
        ("item_id\nseven\n", "item_id is int64 in the bundle"),
        ("item_id\n007\n7000\n", "item_id is int64 in the bundle, and '007' is not how one is spelt"),
        ("item_id\n", "there is no product in it"),
        ("item_id\n4\n5\n", "the bundle has all 2 products already"),
        ("category\neven\n", "required column 'item_id' is missing"),
    ],
)
def test_a_bad_file_is_said_and_nothing_is_written(
    bundle: Path, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "items.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        add_items(bundle, file, tmp_path / "out")
    assert str(file) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_who_was_forgotten_stays_so(bundle: Path, listed: Path, tmp_path: Path) -> None:
    old = shutil.copytree(bundle, tmp_path / "old" / "bundle")
    forget(old.parent, 4)
    new = add_items(old, listed, tmp_path / "elsewhere" / "bundle")
    recommender = Recommender.load(new.path)
    assert recommender.products(4).fallback == "popular: unknown user"
    assert recommender.products(6).fallback is None


def test_a_bundle_is_not_written_over(bundle: Path, listed: Path) -> None:
    with pytest.raises(BundleRefused, match="never written over"):
        add_items(bundle, listed, bundle)


def test_the_command_has_current_name_it(
    bundle: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["add-items", str(bundle), str(listed), "--out", str(tmp_path / "v2"), "--current"]
    with pytest.raises(SystemExit) as done:
        main(command)
    assert not done.value.code
    assert "3 products added" in capsys.readouterr().out
    assert (tmp_path / "CURRENT").read_text().strip() == "v2"
    with pytest.raises(SystemExit) as done:
        main(command)
    assert done.value.code == BAD_INPUT


def test_without_a_model_that_reads_content_it_is_said(listed: Path, tmp_path: Path) -> None:
    dataset = prepared(tmp_path, shop_events())
    plain = train(
        dataset, TrainingConfig.load(None, [*QUICK, "models.two_tower.enabled=false"]), tmp_path / "b"
    )
    with pytest.raises(BundleError, match="no model in it reads what is known of a product"):
        add_items(plain.bundle, listed, tmp_path / "out")
