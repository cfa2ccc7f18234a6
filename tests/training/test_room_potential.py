"""The potential that rooms read was said before it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from tests.hot.conftest import SMALL, START, prepared, shop_events
from training.room_potential import DAYS_BEFORE, potential_before, start_us


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop, one of whose products is on air."""
    folder: Path = tmp_path_factory.mktemp("live_shop")
    return prepared(
        folder,
        shop_events(),
        rooms=pd.DataFrame({"room_id": ["r"], "streamer_id": ["s"], "started_at": [START]}),
        showcases=pd.DataFrame({"room_id": ["r"], "item_id": [3], "started_at": [START], "ended_at": [None]}),
    )


def test_it_is_said_of_the_days_before_and_what_comes_later_changes_nothing(shop: Dataset) -> None:
    day = (START + pd.Timedelta(days=90)).date()
    end_us = start_us(day) + 3_600_000_000
    found = potential_before(shop, end_us, SMALL)
    assert found is not None
    wanted = sorted(start_us(day - pd.Timedelta(days=days)) for days in DAYS_BEFORE)
    np.testing.assert_array_equal(found.from_us, wanted)
    assert found.from_us[-1] <= end_us
    assert np.nanmax(found.values) <= 1
    assert (np.nanstd(found.values, axis=1) > 0.01).all()
    alone = potential_before(shop.until(start_us(day)), end_us, SMALL)
    assert alone is not None
    of_items = alone.values.shape[1]
    np.testing.assert_allclose(found.values[:, :of_items], alone.values, rtol=1e-6)


def test_a_log_too_short_for_hot_items_has_none(shop: Dataset) -> None:
    end_us = start_us((START + pd.Timedelta(days=30)).date())
    assert potential_before(shop, end_us, SMALL) is None


def test_a_log_in_which_nothing_is_on_air_has_none(tmp_path: Path) -> None:
    shop = prepared(tmp_path, shop_events())
    assert potential_before(shop, shop.as_of_us, SMALL) is None
