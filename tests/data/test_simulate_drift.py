"""The second world: the publishers' raw layouts, truth beside them, and a log that our adapters read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.simulate import DriftParams, simulate_drift
from recsys.data.sources import import_source
from recsys.errors import DataError

PARAMS = DriftParams(users=150, streamers=30, days=10, seed=5)
KUAILIVE = {
    "click": ["user_id", "live_id", "streamer_id", "timestamp", "watch_live_time"],
    "negative": ["user_id", "live_id", "streamer_id", "timestamp"],
    "like": ["user_id", "live_id", "streamer_id", "timestamp"],
    "comment": ["user_id", "live_id", "streamer_id", "timestamp"],
    "gift": ["user_id", "live_id", "streamer_id", "timestamp", "gift_price"],
    "room": ["p_date", "live_id", "streamer_id", "live_type", "start_timestamp", "end_timestamp",
             "live_content_category", "live_name_id"],
    "user": ["user_id", "age", "gender", "country"],
    "streamer": ["streamer_id", "gender", "age"],
}  # fmt: skip


@pytest.fixture(scope="module")
def kuailive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kuailive")
    simulate_drift(out, PARAMS)
    return out


@pytest.fixture(scope="module")
def twitch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twitch")
    simulate_drift(out, PARAMS, layout="twitch")
    return out


def requests(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "truth" / "room_requests.parquet")


def test_kuailive_files_have_the_published_columns(kuailive: Path) -> None:
    assert {f.stem for f in kuailive.glob("*.csv")} == set(KUAILIVE)
    for name, columns in KUAILIVE.items():
        table = pd.read_csv(kuailive / f"{name}.csv")
        assert table.columns.tolist() == columns
        assert len(table), name
        assert not table.isna().any().any(), name


def test_kuailive_events_happen_in_live_rooms(kuailive: Path) -> None:
    rooms = pd.read_csv(kuailive / "room.csv").set_index("live_id")
    assert (rooms.end_timestamp > rooms.start_timestamp).all()
    for name in ("click", "negative", "like", "comment", "gift"):
        rows = pd.read_csv(kuailive / f"{name}.csv")
        its = rooms.loc[rows.live_id]
        assert (its.streamer_id.to_numpy() == rows.streamer_id).all()
        end = rows.timestamp + rows.get("watch_live_time", 0)
        assert (its.start_timestamp.to_numpy() <= rows.timestamp).all()
        assert (end <= its.end_timestamp.to_numpy()).all()


def test_twitch_rows_are_steps_without_a_header(twitch: Path) -> None:
    rows = pd.read_csv(twitch / "100k.csv", header=None)
    assert rows.shape[1] == 5
    assert rows[2].str.fullmatch(r"streamer_\d+").all()
    assert (rows[4] > rows[3]).all()
    assert rows[3].min() >= 0
    assert rows[3].max() < PARAMS.days * 144
    assert rows.groupby(1)[2].nunique().max() == 1


def test_each_kept_request_is_a_visit_of_the_log(kuailive: Path) -> None:
    clicks = pd.read_csv(kuailive / "click.csv")
    visits = set(zip(clicks.user_id, clicks.live_id, clicks.timestamp, strict=True))
    kept = requests(kuailive)
    chosen = kept[kept.chosen]
    moments = chosen["at"].astype("datetime64[ms, UTC]").astype("int64")
    assert len(chosen) == kept.request.nunique() > 50
    assert set(zip(chosen.user_id, chosen.room_id, moments, strict=True)) <= visits


def test_the_decayed_count_of_a_request_follows_from_the_clicks_before_it(kuailive: Path) -> None:
    clicks = pd.read_csv(kuailive / "click.csv")
    streamer = pd.read_csv(kuailive / "room.csv").set_index("live_id").streamer_id
    kept = requests(kuailive)
    at = kept["at"].astype("datetime64[ms, UTC]").astype("int64").to_numpy()
    for row in range(0, len(kept), 97):
        one = kept.iloc[row]
        past = clicks[
            (clicks.user_id == one.user_id)
            & (clicks.streamer_id == streamer[one.room_id])
            & (clicks.timestamp < at[row])
        ]
        days = (at[row] - past.timestamp) / 86_400_000
        assert one.visits == pytest.approx((0.5 ** (days / PARAMS.half_life_days)).sum(), rel=1e-3)
        assert one.known == (len(past) > 0)


def test_same_seed_same_files_and_popularity_drifts(kuailive: Path, tmp_path: Path) -> None:
    simulate_drift(tmp_path, PARAMS)
    for file in kuailive.rglob("*.*"):
        assert (tmp_path / file.relative_to(kuailive)).read_bytes() == file.read_bytes()
    popularity = np.load(kuailive / "truth" / "popularity.npy", allow_pickle=False)
    assert popularity.shape == (PARAMS.days, PARAMS.streamers)
    assert (popularity[0].argsort() != popularity[-1].argsort()).any()


@pytest.mark.parametrize("layout", ["kuailive", "twitch"])
def test_the_adapter_reads_the_layout_and_truth_speaks_its_ids_and_times(
    layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    raw = request.getfixturevalue(layout)
    import_source(layout, raw, tmp_path / "logs")
    events = pd.read_parquet(tmp_path / "logs" / "events.parquet")
    views = events[events.event == "view"]
    seen = set(zip(views.user_id, views.room_id, views.timestamp.dt.tz_convert("UTC"), strict=True))
    chosen = requests(raw).query("chosen")
    assert set(zip(chosen.user_id, chosen.room_id, chosen["at"], strict=True)) <= seen


def test_truth_beats_the_visit_count(tmp_path: Path) -> None:
    headroom = simulate_drift(tmp_path, DriftParams(users=600, days=21)).room_headroom
    assert headroom is not None
    assert headroom.truth - headroom.baseline > 0.1
    assert 0.5 < headroom.repeats < 0.9


def test_unknown_layouts_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'youtube' is unknown"):
        simulate_drift(tmp_path, PARAMS, layout="youtube")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        simulate_drift(tmp_path / "file", PARAMS)
