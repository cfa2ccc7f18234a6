"""The command line as a contract: from a simulated log to answers, and one clear line for bad input."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.cli import BAD_INPUT, main
from serving.edge import create_app
from serving.recommender import Recommender
from tests.serving.test_edge import Client

QUICK = (
    "models.two_tower.params.epochs=1",
    "models.two_tower.params.dim=16",
    "models.als.params.factors=16",
    "hot.params.learner.rounds=20",
    "evaluation.samples=100",
    'hold.minors={column: age_band, values: ["18-24"], categories: [snacks, shoes, womenswear]}',
)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs, a dataset and a bundle, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("cli")
    uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
    size = ("--users", 250, "--items", 120, "--streamers", 15, "--days", 56, "--seed", 3)
    assert run("simulate", "--out", folder / "logs", *size) == 0
    assert run("prepare", folder / "logs", "--out", folder / "dataset") == 0
    settings = [part for value in (uri, *QUICK) for part in ("--set", value)]
    assert (
        run(
            "train",
            folder / "dataset",
            "--config",
            "configs/default.yaml",
            *settings,
            "--out",
            folder / "bundle",
        )
        == 0
    )
    return folder


def users_of(work: Path) -> list[str]:
    return pq.read_table(work / "dataset" / "users.parquet")["user_id"].to_pylist()


def test_recommend_writes_the_contract(work, tmp_path):
    asked = [*users_of(work)[:30], "nobody, never 🥚", "007"]
    pd.DataFrame({"user_id": asked}).to_csv(tmp_path / "users.csv", index=False)
    out = tmp_path / "products.parquet"
    assert run("recommend", work / "bundle", "--users", tmp_path / "users.csv", "-k", 7, "--out", out) == 0
    table = pq.read_table(out)
    assert table.column_names == ["user_id", "item_id", "rank", "score", "source"]
    rows = table.to_pandas()
    assert list(dict.fromkeys(rows.user_id)) == asked
    catalogue = set(pq.read_table(work / "dataset" / "items.parquet")["item_id"].to_pylist())
    for _, mine in rows.groupby("user_id"):
        assert mine["rank"].tolist() == list(range(1, 8))
        assert mine.item_id.is_unique
        assert set(mine.item_id) <= catalogue


def test_a_segment_is_held_to_its_categories(work, tmp_path):
    users = pq.read_table(work / "logs" / "users.parquet").to_pandas().set_index("user_id")
    items = pq.read_table(work / "logs" / "items.parquet").to_pandas().set_index("item_id")
    asked = [user for user in users_of(work) if user in users.index]
    pd.DataFrame({"user_id": asked}).to_csv(tmp_path / "users.csv", index=False)
    out = tmp_path / "products.parquet"
    assert run("recommend", work / "bundle", "--users", tmp_path / "users.csv", "-k", 20, "--out", out) == 0
    shown = pq.read_table(out).to_pandas()
    held = shown.user_id.map(users.age_band) == "18-24"
    of = shown.item_id.map(items.category)
    assert set(of[held]) == {"snacks", "shoes", "womenswear"}
    assert len(set(of[~held])) > 3


def test_a_segment_is_held_from_the_configuration_to_the_edge(work):
    allowed = {"snacks", "shoes", "womenswear"}
    users = pq.read_table(work / "logs" / "users.parquet").to_pandas().set_index("user_id")
    items = pq.read_table(work / "logs" / "items.parquet").to_pandas().set_index("item_id").category
    recommender = Recommender.load(work / "bundle")
    shown_category = {"a": "shoes", "b": "no such thing", "c": None}
    for room, category in shown_category.items():
        recommender.room_started(room, f"streamer of {room}", category=category)
    recommender.on_air("c", items.index[items == "snacks"][0])
    client = Client(create_app(recommender))

    def asked(call: str, **params: object) -> list[str]:
        answer = client.get(f"/v1/{call}", params={"k": 100, **params})
        assert answer.status_code == 200
        return [entry["id"] for entry in answer.json()["entries"]]

    minor = next(user for user in users_of(work) if users.age_band.get(user) == "18-24")
    grown = next(user for user in users_of(work) if users.age_band.get(user, "18-24") != "18-24")
    for who in ({"user_id": minor}, {"user_id": grown, "segments": "minors"}):
        assert set(items[asked("products", **who)]) <= allowed
        rooms = set(asked("rooms", **who))
        assert {"a", "c"} <= rooms
        assert "b" not in rooms
    assert set(items[asked("products", user_id=grown)]) > allowed
    assert {"a", "b", "c"} <= set(asked("rooms", user_id=grown))


def test_ids_come_back_in_the_type_of_the_users_file(work, tmp_path):
    for users in (
        pa.array(users_of(work)[:3]),
        pa.array(["1", "2"]),
        pa.array([1, 2]),
        pa.array([], "string"),
    ):
        file, out = tmp_path / "users.parquet", tmp_path / "products.parquet"
        pq.write_table(pa.table({"user_id": users}), file)
        assert run("recommend", work / "bundle", "--users", file, "-k", 2, "--out", out) == 0
        table = pq.read_table(out)
        assert table.schema.field("user_id").type == users.type
        assert table.schema.field("item_id").type == pa.string()
        assert table.num_rows == 2 * len(users)


def test_repeat_no_shows_nothing_that_was_bought(work, tmp_path):
    users, out = tmp_path / "users.parquet", tmp_path / "products.csv"
    pq.write_table(pa.table({"user_id": users_of(work)}), users)
    assert run("recommend", work / "bundle", "--users", users, "--repeat", "no", "--out", out) == 0
    shown = pd.read_csv(out, dtype=str)
    events = pq.read_table(work / "logs" / "events.parquet").to_pandas()
    bought = events[events.event == "purchase"][["user_id", "item_id"]].drop_duplicates()
    assert len(bought)
    assert shown.merge(bought, on=["user_id", "item_id"]).empty


def test_k_larger_than_the_catalogue_gives_the_catalogue(work, tmp_path):
    users, out = tmp_path / "users.parquet", tmp_path / "products.parquet"
    pq.write_table(pa.table({"user_id": users_of(work)[:2]}), users)
    assert (
        run("recommend", work / "bundle", "--users", users, "-k", 5000, "--repeat", "yes", "--out", out) == 0
    )
    shown = pq.read_table(out).to_pandas()
    assert shown.groupby("user_id").item_id.nunique().max() <= 120
    assert shown["rank"].max() > 50


def test_rooms_answers_with_rooms_that_are_live(work, tmp_path):
    events = pq.read_table(work / "logs" / "events.parquet").to_pandas()
    entered = events[events.event == "enter"].tail(40)
    requests = pd.DataFrame({"user_id": entered.user_id, "at": entered.timestamp})
    requests.to_parquet(tmp_path / "requests.parquet", index=False)
    out = tmp_path / "rooms.parquet"
    status = run(
        "rooms",
        work / "bundle",
        work / "logs",
        "--requests",
        tmp_path / "requests.parquet",
        "-k",
        5,
        "--out",
        out,
    )
    assert status == 0
    table = pq.read_table(out)
    assert table.column_names == ["user_id", "at", "room_id", "rank", "score"]
    rooms = pq.read_table(work / "logs" / "rooms.parquet").to_pandas().set_index("room_id")
    for row in table.to_pylist():
        room = rooms.loc[row["room_id"]]
        assert room.started_at <= row["at"]
        assert pd.isna(room.ended_at) or room.ended_at >= row["at"]
    hits = table.to_pandas().merge(
        entered, left_on=["user_id", "at", "room_id"], right_on=["user_id", "timestamp", "room_id"]
    )
    assert len(hits) >= 10  # of 40; five of the handful of live rooms are shown


def test_rooms_use_nothing_of_a_user_who_has_opted_out(work, tmp_path):
    logs = tmp_path / "logs"
    shutil.copytree(work / "logs", logs)
    users = pq.read_table(logs / "users.parquet").to_pandas()
    events = pq.read_table(logs / "events.parquet").to_pandas()
    entered = events[events.event == "enter"]
    often = entered.user_id.value_counts().index[0]
    moments = entered[entered.user_id == often].timestamp.tail(5)
    asked = [{"user_id": user, "at": at} for at in moments for user in (often, "a stranger")]
    pd.DataFrame(asked).astype({"user_id": str}).to_csv(tmp_path / "asked.csv", index=False)

    def answers(name):
        out = tmp_path / f"{name}.csv"
        assert run("rooms", work / "bundle", logs, "--requests", tmp_path / "asked.csv", "--out", out) == 0
        found = pd.read_csv(out).astype({"user_id": str})
        return [
            found[found.user_id == user][["at", "room_id", "rank", "score"]].to_numpy().tolist()
            for user in (str(often), "a stranger")
        ]

    known, stranger = answers("known")
    assert known != stranger
    users.assign(personalised=users.user_id != often).to_parquet(logs / "users.parquet", index=False)
    out, again = answers("opted_out")
    assert out == again == stranger


def test_rooms_of_a_part_of_the_log_are_answered_from_all_that_is_known(work, tmp_path, capsys):
    """After the bundle's moment by what the bundle remembers; before it, that would be the future."""
    events = pq.read_table(work / "logs" / "events.parquet").to_pandas()
    part = tmp_path / "part"
    shutil.copytree(work / "logs", part)
    begin = events.timestamp.max() - pd.Timedelta(days=3)
    events[events.timestamp >= begin].to_parquet(part / "events.parquet", index=False)
    rooms = pq.read_table(work / "logs" / "rooms.parquet").to_pandas()
    late = max(rooms.started_at.max(), events.timestamp.max()) + pd.Timedelta(seconds=1)
    users = events[events.event == "enter"].user_id.value_counts().index[:20]

    def answers(logs, *moments):
        asked = pd.DataFrame([(user, at) for at in moments for user in users], columns=["user_id", "at"])
        asked.to_csv(tmp_path / "asked.csv", index=False)
        out = tmp_path / "out.csv"
        assert run("rooms", work / "bundle", logs, "--requests", tmp_path / "asked.csv", "--out", out) == 0
        told = " ".join(capsys.readouterr().out.split())
        return pd.read_csv(out), "is known to the requests" in told

    whole, told = answers(work / "logs", late)
    assert len(whole) >= 20
    assert not told
    of_part, told = answers(part, late)
    pd.testing.assert_frame_equal(of_part, whole, rtol=1e-4)
    assert not told
    early, told = answers(part, begin + pd.Timedelta(days=1), late)
    assert told
    assert not early.tail(len(whole)).reset_index(drop=True).equals(whole)


def test_hot_writes_the_contract(work, tmp_path):
    out = tmp_path / "hot.csv"
    day = (
        pq.read_table(work / "dataset" / "events.parquet")["timestamp"]
        .to_numpy()
        .max()
        .astype("datetime64[D]")
    )
    status = run("hot", work / "dataset", "--as-of", day, "--horizon", "3:7", "--target", "hot", "--out", out)
    assert status == 0
    table = pd.read_csv(out)
    assert {"item_id", "potential", "rank", "grade", "lower", "upper", "reasons"} <= set(table.columns)
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    assert table.potential.between(0, 1).all()
    assert (table.lower <= table.potential + 1e-9).all()
    assert (table.upper >= table.potential - 1e-9).all()
    assert set(table.grade) <= set("SABC")
    assert (np.diff(table.potential) <= 1e-12).all()


def test_hot_takes_a_configuration_of_what_hot_means(work, tmp_path):
    config = tmp_path / "hot.yaml"
    config.write_text("hot: {params: {target: {target: hot, measure: amount}, learner: {rounds: 20}}}")
    asked = "hot", work / "dataset", "--config", config, "--out"
    assert run(*asked, tmp_path / "amount.csv") == 0
    assert run(*asked, tmp_path / "units.csv", "--set", "hot.params.target.measure=units") == 0
    by_amount, by_units = (pd.read_csv(tmp_path / name) for name in ("amount.csv", "units.csv"))
    assert by_amount.item_id.tolist() != by_units.item_id.tolist()
    assert run(*asked, tmp_path / "h.csv", "--set", "hot.params.target.measure=weight") == BAD_INPUT


def test_evaluate_prints_every_model(work, capsys):
    assert run("evaluate", work / "bundle", work / "dataset") == 0
    printed = capsys.readouterr().out
    products, _, rooms = printed.partition("Rooms live at a visit, test window")
    for model in ("als", "item_knn", "co_visitation", "popular", "fused", "two_tower"):
        assert model in products
    for model in ("popular_now", "visit_count", "room_model"):
        assert model in rooms
    assert "streamer new to the user" in rooms


def test_products_are_evaluated_where_rooms_cannot_be(tmp_path, capsys):
    """One room alone is no choice: that is a note, and no error of the whole evaluation."""
    rng = np.random.default_rng(0)
    n = 600
    seconds = np.sort(rng.integers(0, 40 * 86_400, n))
    events = pd.DataFrame(
        {
            "user_id": rng.integers(0, 30, n),
            "event": rng.choice(["view", "purchase", "enter"], n),
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s"),
            "item_id": rng.integers(0, 25, n),
            "room_id": 1,
        }
    )
    rooms = pd.DataFrame({"room_id": [1], "streamer_id": ["s"], "started_at": ["2023-12-31"]})
    (tmp_path / "logs").mkdir()
    events.to_csv(tmp_path / "logs" / "events.csv", index=False)
    rooms.to_csv(tmp_path / "logs" / "rooms.csv", index=False)
    assert run("prepare", tmp_path / "logs", "--out", tmp_path / "dataset") == 0
    quick = ("--set", "models.two_tower.enabled=false", "--set", "evaluation.samples=100")
    bundle = ("--out", tmp_path / "bundle", "--no-track")
    assert run("train", tmp_path / "dataset", *quick, *bundle) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "bundle", tmp_path / "dataset") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Products, test window" in printed
    assert "note: rooms not evaluated" in printed
    assert "two live rooms to choose from" in printed


def test_promote_says_why(work, capsys):
    status = run("promote", "challenger", "--set", f"tracking.uri=sqlite:///{work}/mlflow.db")
    printed = capsys.readouterr().out
    assert status in (0, 1)
    assert "no champion yet: decayed popularity must be beaten" in " ".join(printed.split())


class TestBadInput:
    def line(self, capsys: pytest.CaptureFixture[str]) -> str:
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return " ".join(captured.err.split())

    def test_no_logs(self, tmp_path, capsys):
        assert run("prepare", tmp_path / "none", "--out", tmp_path / "out") == BAD_INPUT
        assert "no such folder" in self.line(capsys)

    def test_a_log_in_which_nobody_wants_anything(self, tmp_path, capsys):
        rows = [f"u{n},impression,2024-01-{1 + n // 10:02d}T00:00:{n % 10:02d},i{n % 7}" for n in range(200)]
        (tmp_path / "logs").mkdir()
        text = "\n".join(["user_id,event,timestamp,item_id", *rows, ""])
        (tmp_path / "logs" / "events.csv").write_text(text)
        assert run("prepare", tmp_path / "logs", "--out", tmp_path / "dataset") == 0
        train = ("train", tmp_path / "dataset", "--out", tmp_path / "bundle", "--no-track")
        assert run(*train) == BAD_INPUT
        assert "no event shows interest in anything" in self.line(capsys)
        assert not (tmp_path / "bundle").exists()

    def test_no_dataset(self, tmp_path, capsys):
        assert run("train", tmp_path, "--out", tmp_path / "bundle", "--no-track") == BAD_INPUT
        assert "is no Dataset" in self.line(capsys)

    def test_unknown_key(self, work, tmp_path, capsys):
        out = tmp_path / "bundle"
        assert (
            run("train", work / "dataset", "--set", "models.alz.params.factors=3", "--out", out) == BAD_INPUT
        )
        assert "models.alz" in self.line(capsys)

    def test_bundle_that_exists(self, work, capsys):
        assert run("train", work / "dataset", "--out", work / "bundle", "--no-track") == BAD_INPUT
        assert "never written over" in self.line(capsys)

    def test_users_file_without_its_column(self, work, tmp_path, capsys):
        (tmp_path / "users.csv").write_text("uid\n1\n")
        out = tmp_path / "out.csv"
        assert run("recommend", work / "bundle", "--users", tmp_path / "users.csv", "--out", out) == BAD_INPUT
        assert "required column 'user_id' is missing; found uid" in self.line(capsys)

    def test_a_request_at_a_moment_that_is_none(self, work, tmp_path, capsys):
        requests, out = tmp_path / "requests.csv", tmp_path / "rooms.csv"
        requests.write_text("user_id,at\nu1,someday\n")
        assert run("rooms", work / "bundle", work / "logs", "--requests", requests, "--out", out) == 2
        said = self.line(capsys)
        for part in ("requests.csv", "`at`", "someday"):
            assert part in "".join(said.split())
        assert not out.exists()

    def test_output_of_an_unknown_kind(self, work, tmp_path, capsys):
        (tmp_path / "users.csv").write_text("user_id\n1\n")
        out = tmp_path / "out.xlsx"
        assert run("recommend", work / "bundle", "--users", tmp_path / "users.csv", "--out", out) == BAD_INPUT
        assert "use .parquet or .csv" in self.line(capsys)

    def test_truncated_bundle(self, work, tmp_path, capsys):
        shutil.copytree(work / "bundle", tmp_path / "bundle")
        (tmp_path / "users.csv").write_text("user_id\n1\n")
        damaged = tmp_path / "bundle" / "item_vectors.npy"
        damaged.write_bytes(damaged.read_bytes()[:-100])
        status = run(
            "recommend", tmp_path / "bundle", "--users", tmp_path / "users.csv", "--out", tmp_path / "o.csv"
        )
        assert status == BAD_INPUT
        assert "item_vectors.npy" in self.line(capsys)

    @pytest.mark.parametrize("day", ["2024-13-01", "yesterday"])
    def test_a_day_that_is_none(self, work, tmp_path, capsys, day):
        assert run("hot", work / "dataset", "--as-of", day, "--out", tmp_path / "h.csv") == BAD_INPUT
        assert day in self.line(capsys)

    @pytest.mark.parametrize("horizon", ["15:7", "7", "a:b"])
    def test_a_horizon_that_is_none(self, work, tmp_path, capsys, horizon):
        assert run("hot", work / "dataset", "--horizon", horizon, "--out", tmp_path / "h.csv") == BAD_INPUT
        assert "horizon" in self.line(capsys)


def test_every_command_has_help_with_an_example(capsys):
    commands = (
        "simulate",
        "import",
        "prepare",
        "train",
        "evaluate",
        "promote",
        "recommend",
        "hot",
        "rooms",
        "deliver",
        "serve",
        "demo",
    )
    for command in commands:
        assert run(command, "--help") == 0
        assert "Example: recsys" in capsys.readouterr().out, command
