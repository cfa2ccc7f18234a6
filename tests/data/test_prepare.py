"""Good rows are used, bad ones are set aside with a reason, and ids come back as they went in."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset
from recsys.data.prepare import Unmatched, prepare
from recsys.data.schema import TABLES
from recsys.data.tombstones import forget
from recsys.errors import DataError
from recsys.types import Behaviour, Target
from tests.conftest import write_logs

DAY = datetime(2024, 3, 1, tzinfo=UTC)


def event(**over):
    return {"user_id": 1, "event": "view", "timestamp": DAY.isoformat(), "item_id": 10} | over


def csv_logs(folder: Path, text: str, name: str = "events.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path):
    def run(events, **tables):
        prepare(write_logs(tmp_path / "logs", events=events, **tables), tmp_path / "out")
        return Dataset.load(tmp_path / "out")

    return run


def reasons(path: Path, table: str = "events") -> list[str]:
    return pq.read_table(path / "quarantine" / f"{table}.parquet")["reason"].to_pylist()


class TestRefusals:
    def test_csv_without_a_required_column_names_the_file_the_column_and_what_was_found(self, tmp_path):
        logs = csv_logs(tmp_path / "logs", "user_id,event,item_id\n1,view,2\n")
        with pytest.raises(
            DataError, match=r"events\.csv: required column 'timestamp' is missing; found user_id"
        ):
            prepare(logs, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_no_events_table(self, tmp_path):
        with pytest.raises(DataError, match="no events table"):
            prepare(write_logs(tmp_path / "logs", items=[{"item_id": 1}]), tmp_path / "out")

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match="no such folder"):
            prepare(tmp_path / "nowhere", tmp_path / "out")

    def test_empty_log(self, tmp_path):
        logs = csv_logs(tmp_path / "logs", "user_id,event,timestamp,item_id\n")
        with pytest.raises(DataError, match=r"events\.csv: the table is empty"):
            prepare(logs, tmp_path / "out")

    def test_a_file_that_is_not_utf8_is_said(self, tmp_path):
        (tmp_path / "logs").mkdir()
        text = b"user_id,event,timestamp,item_id\n\xe9,view,2024-01-01,a\n"
        (tmp_path / "logs" / "events.csv").write_bytes(text)
        with pytest.raises(DataError, match=r"events\.csv: every row breaks the contract.*not UTF-8"):
            prepare(tmp_path / "logs", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_table_that_is_all_quarantine_is_named_with_an_example(self, tmp_path):
        logs = write_logs(tmp_path / "logs", events=[event(event="buy"), event(event="buy")])
        with pytest.raises(
            DataError, match=r"every row breaks the contract; 2 times: event is not one of.*'buy'"
        ):
            prepare(logs, tmp_path / "out")

    def test_what_is_not_ours_is_left_alone(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("precious")
        with pytest.raises(DataError, match="is no Dataset"):
            prepare(write_logs(tmp_path / "logs", events=[event()]), tmp_path / "out")
        assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"

    def test_a_failed_run_keeps_the_dataset_that_was_there(self, tmp_path):
        prepare(write_logs(tmp_path / "good", events=[event()]), tmp_path / "out")
        with pytest.raises(DataError):
            prepare(write_logs(tmp_path / "bad", events=[event(event="buy")]), tmp_path / "out")
        assert len(Dataset.load(tmp_path / "out").events) == 1

    def test_until_before_the_first_event(self, tmp_path):
        with pytest.raises(DataError, match="no event before 2020-01-01"):
            prepare(
                write_logs(tmp_path / "logs", events=[event()]), tmp_path / "out", until=datetime(2020, 1, 1)
            )

    def test_a_dataset_of_another_version(self, tmp_path, run):
        run([event()])
        manifest = tmp_path / "out" / "dataset.json"
        manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
        with pytest.raises(DataError, match="format_version 99"):
            Dataset.load(tmp_path / "out")


class TestQuarantine:
    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            ({"event": "buy"}, "event is not one of"),
            ({"user_id": None}, "user_id is missing"),
            (
                {"timestamp": (datetime.now(UTC) + timedelta(days=2)).isoformat()},
                "timestamp is in the future",
            ),
            ({"timestamp": "1970-01-01T00:00:00Z"}, "timestamp is before 1980"),
            ({"duration_s": -3.0}, "duration_s is below 0"),
            ({"duration_s": 1e9}, "duration_s is above 7 days"),
            ({"amount": float("inf")}, "amount is infinite"),
            ({"amount": 1e300}, "amount is beyond 1e+12"),
            ({"quantity": 1e13}, "quantity is beyond 1e+12"),
            ({"item_id": None}, "neither item_id, room_id nor streamer_id"),
            ({"event": "purchase", "item_id": None, "room_id": 5}, "without item_id"),
        ],
    )
    def test_a_bad_row_is_set_aside_and_the_rest_used(self, tmp_path, run, bad, reason):
        dataset = run([event(), event(user_id=2), event(**bad)])
        assert len(dataset.events) == 2
        (found,) = reasons(tmp_path / "out")
        assert reason in found
        (noted,) = dataset.manifest["quarantined"]
        assert (noted["table"], noted["rows"]) == ("events", 1)

    def test_an_unparsable_time_in_a_csv_keeps_its_text(self, tmp_path):
        logs = csv_logs(
            tmp_path / "logs", "user_id,event,timestamp,item_id\n1,view,2024-01-01,2\n1,view,yesterday,2\n"
        )
        summary = prepare(logs, tmp_path / "out")
        assert summary.rows["events"] == 1
        kept = pq.read_table(tmp_path / "out" / "quarantine" / "events.parquet").to_pylist()
        assert kept == [
            {
                "user_id": "1",
                "event": "view",
                "timestamp": "yesterday",
                "item_id": "2",
                "unreadable_line": None,
                "reason": "timestamp cannot be read as a time",
            }
        ]
        assert "yesterday" in summary.quarantined[0].example

    @pytest.mark.parametrize(
        "line",
        [
            b"u9,view,2024-01-01",
            b"u9,view,2024-01-01,x,one,too many",
            b'u9,view,2024-01-01,"bad"quote"',
            b"u9,view,2024-01-01,\xff\xfe",
        ],
        ids=["too few cells", "too many cells", "a stray quote", "not UTF-8"],
    )
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_line_that_is_no_row_is_set_aside_and_the_rest_used(self, tmp_path, line, place):
        lines = [b'u1,view,2024-01-01,"a, b"', b'u2,view,2024-01-02,"two\nlines"']
        lines.insert(place, line)
        logs = csv_logs(tmp_path / "logs", "")
        (logs / "events.csv").write_bytes(b"\n".join([b"user_id,event,timestamp,item_id", *lines, b""]))
        summary = prepare(logs, tmp_path / "out")
        dataset = Dataset.load(tmp_path / "out")
        assert dataset.users.ids.keys.to_pylist() == ["u1", "u2"]
        assert dataset.items.ids.keys.to_pylist() == ["a, b", "two\nlines"]
        assert (summary.quarantined[0].rows, len(summary.quarantined)) == (1, 1)
        (kept,) = pq.read_table(tmp_path / "out" / "quarantine" / "events.parquet").to_pylist()
        assert kept["unreadable_line"].startswith("u9,view,2024-01-01")
        assert "does not have the header's columns" in kept["reason"]

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("user_id,event,timestamp,item_id,event", "column 5 of the header is also column 2, 'event'"),
            ("user_id,event,,item_id", "column 3 of the header has no name"),
            ("", "the first line is empty"),
        ],
    )
    def test_a_header_that_names_no_columns(self, tmp_path, header, message):
        logs = csv_logs(tmp_path / "logs", f"{header}\n1,view,2024-01-01,2\n")
        with pytest.raises(DataError, match=message):
            prepare(logs, tmp_path / "out")

    def test_windows_line_ends_a_byte_order_mark_and_blank_lines_do_no_harm(self, tmp_path):
        text = "\ufeffuser_id,event,timestamp,item_id\r\n1,view,2024-01-01,2\r\n\r\n3,view,2024-01-01,4\r\n"
        logs = csv_logs(tmp_path / "logs", "")
        (logs / "events.csv").write_bytes(text.encode())
        summary = prepare(logs, tmp_path / "out")
        assert (summary.rows["events"], summary.quarantined) == (2, ())

    def test_of_events_with_one_id_the_earliest_stays(self, tmp_path, run):
        later = (DAY + timedelta(hours=1)).isoformat()
        dataset = run(
            [event(event_id="a", timestamp=later), event(event_id="a"), event(event_id="b"), event(), event()]
        )
        assert len(dataset.events) == 4  # events without an id are not compared
        assert reasons(tmp_path / "out") == ["event_id occurs again"]
        assert (dataset.events.timestamp_us == dataset.events.timestamp_us[0]).all()

    def test_a_product_listed_twice(self, tmp_path, run):
        dataset = run([event()], items=[{"item_id": 10, "price": 1.0}, {"item_id": 10, "price": 2.0}])
        assert len(dataset.items) == 1
        assert reasons(tmp_path / "out", "items") == ["item_id occurs again"]

    def test_a_clean_log_has_no_quarantine_file(self, tmp_path, run):
        run([event()])
        assert list((tmp_path / "out" / "quarantine").iterdir()) == []

    def test_nan_in_features_is_no_value(self, run):
        dataset = run(
            [event()], items=[{"item_id": 10, "price": float("nan")}, {"item_id": 11, "price": 2.0}]
        )
        assert sorted(dataset.items.column("price").to_pylist(), key=str) == [2.0, None]


class TestIds:
    ODD = ("007", "7", " 7 ", "a,b", "雞蛋🥚", 'quo"te', "x" * 300, "-0")

    def test_odd_spellings_come_back_as_they_went_in(self, run):
        dataset = run([event(user_id=user, item_id=f"i{user}") for user in self.ODD])
        assert sorted(dataset.users.ids.keys.to_pylist()) == sorted(self.ODD)
        assert dataset.users.ids.index(self.ODD).tolist() != [-1] * len(self.ODD)
        index = dataset.users.ids.index(self.ODD)
        assert dataset.users.ids.external(index).to_pylist() == list(self.ODD)

    def test_they_survive_a_csv(self, tmp_path):
        rows = pd.DataFrame([event(user_id=user) for user in self.ODD])
        (tmp_path / "logs").mkdir()
        rows.to_csv(tmp_path / "logs" / "events.csv", index=False)
        prepare(tmp_path / "logs", tmp_path / "out")
        users = Dataset.load(tmp_path / "out").users.ids
        assert sorted(users.keys.to_pylist()) == sorted(self.ODD)
        assert users.id_type == pa.string()

    def test_a_csv_of_plain_integers_gives_integers(self, tmp_path):
        logs = csv_logs(tmp_path / "logs", "user_id,event,timestamp,item_id\n12,view,2024-01-01,-3\n")
        prepare(logs, tmp_path / "out")
        dataset = Dataset.load(tmp_path / "out")
        assert dataset.users.ids.one(0) == 12
        assert dataset.items.ids.one(0) == -3

    def test_one_leading_zero_makes_them_all_text(self, tmp_path):
        logs = csv_logs(
            tmp_path / "logs",
            "user_id,event,timestamp,item_id\n12,view,2024-01-01,1\n012,view,2024-01-01,1\n",
        )
        prepare(logs, tmp_path / "out")
        assert Dataset.load(tmp_path / "out").users.ids.keys.to_pylist() == ["012", "12"]

    def test_integers_that_pandas_made_floats_are_found_as_integers(self, run):
        dataset = run([event(item_id=3), event(item_id=None, room_id=1)], items=[{"item_id": 3}])
        assert dataset.items.ids.get(3) == 0
        assert dataset.items.ids.one(0) == 3

    def test_large_integers_keep_every_digit(self, run):
        big = 2**62 + 1
        assert run([event(user_id=big)]).users.ids.one(0) == big


class TestWritersOfOtherKinds:
    """What Polars, DuckDB, ClickHouse or pandas make of a gap, a hash, an empty text."""

    def test_not_a_number_is_no_value(self, tmp_path):
        logs = tmp_path / "logs"
        logs.mkdir()
        nan = float("nan")
        times = pa.array([1.7e9, 1.7e9, 1.7e9])
        events = {"user_id": [1.0, 2.0, 3.0], "event": ["view"] * 3, "timestamp": times}
        events |= {"item_id": [1.0, nan, 3.0], "room_id": [nan, 7.0, nan]}
        pq.write_table(pa.table(events), logs / "events.parquet")
        rooms = {"room_id": [7.0], "started_at": [1.6e9], "ended_at": [nan]}
        pq.write_table(pa.table(rooms), logs / "rooms.parquet")
        summary = prepare(logs, tmp_path / "out")
        assert (summary.rows["events"], summary.quarantined) == (3, ())
        dataset = Dataset.load(tmp_path / "out")
        assert dataset.items.ids.external(np.arange(2, dtype=np.int32)).to_pylist() == [1.0, 3.0]
        assert dataset.rooms.ids.keys.to_pylist() == ["7"]

    def test_hashes_of_64_bits_come_back_as_such(self, tmp_path):
        logs = tmp_path / "logs"
        logs.mkdir()
        hashes = pa.array([2**63, 2**64 - 1], pa.uint64())
        times = pa.array([1_700_000_000] * 2)
        table = pa.table({"user_id": [1, 2], "event": ["view"] * 2, "timestamp": times, "item_id": hashes})
        pq.write_table(table, logs / "events.parquet")
        prepare(logs, tmp_path / "out")
        ids = Dataset.load(tmp_path / "out").items.ids
        assert ids.external(np.arange(2, dtype=np.int32)).type == pa.uint64()
        assert {ids.one(0), ids.one(1)} == {2**63, 2**64 - 1}

    def test_whole_numbers_that_pandas_wrote_with_a_gap_are_the_same_ids(self, tmp_path):
        logs = csv_logs(
            tmp_path / "logs",
            "user_id,event,timestamp,item_id\n1,view,2024-01-01,12.0\n2,view,2024-01-01,7.0\n",
        )
        csv_logs(logs, "item_id,category,stock\n12,tea,0\n7,shoes,3\n", name="items.csv")
        prepare(logs, tmp_path / "out")
        dataset = Dataset.load(tmp_path / "out")
        assert sorted(dataset.items.ids.external(np.arange(2, dtype=np.int32)).to_pylist()) == [7, 12]

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_an_empty_text_is_no_value(self, tmp_path, kind):
        events = [event(user_id="u1"), event(user_id="u2", item_id=None, room_id="r")]
        frame = pd.DataFrame(events).astype({"item_id": object})
        frame["item_id"] = ["i1", ""]
        frame["room_id"] = ["", "r"]
        logs = tmp_path / "logs"
        logs.mkdir()
        rooms = pd.DataFrame({"room_id": ["r"], "started_at": [DAY.isoformat()], "ended_at": [""]})
        users = pd.DataFrame({"user_id": ["u1"], "personalised": [""]})
        for name, table in (("events", frame), ("rooms", rooms), ("users", users)):
            if kind == "csv":
                table.to_csv(logs / f"{name}.csv", index=False)
            else:
                table.to_parquet(logs / f"{name}.parquet", index=False)
        assert prepare(logs, tmp_path / "out").quarantined == ()
        dataset = Dataset.load(tmp_path / "out")
        assert dataset.items.ids.keys.to_pylist() == ["i1"]
        assert dataset.rooms.ids.keys.to_pylist() == ["r"]

    def test_features_may_have_any_name(self, tmp_path):
        header = "item_id,price,raw_price,id,listed,first_at,own_at,known_at,item_idx"
        logs = csv_logs(
            tmp_path / "logs", "user_id,event,timestamp,item_id\n1,view,2024-01-01,a\n1,view,2024-01-01,b\n"
        )
        csv_logs(logs, f"{header}\na,5,$5.00,101,0,7,1,9,9\nb,6,$6.00,102,1,8,2,9,9\n", name="items.csv")
        summary = prepare(logs, tmp_path / "out")
        assert summary.quarantined == ()
        assert sorted(summary.dropped_columns) == ["items.item_idx", "items.known_at"]
        rows = {row["item_id"]: row for row in pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()}
        assert (rows["a"]["price"], rows["a"]["raw_price"]) == (5.0, "$5.00")
        assert [rows["a"][name] for name in ("id", "listed", "first_at", "own_at")] == [101, 0, 7, 1]

    def test_names_that_differ_by_case_alone_are_refused_with_the_file(self, tmp_path):
        logs = csv_logs(tmp_path / "logs", "user_id,event,timestamp,item_id\n1,view,2024-01-01,a\n")
        csv_logs(logs, "item_id,price,Price\na,5,6\n", name="items.csv")
        with pytest.raises(DataError, match=r"items\.csv: column 3 of the header is also column 2"):
            prepare(logs, tmp_path / "out")

    @pytest.mark.parametrize("said", ["N", "n", "no", "FALSE", "0", "opted out"])
    def test_what_is_no_clear_consent_is_an_opt_out(self, tmp_path, said):
        logs = csv_logs(tmp_path / "logs", "user_id,event,timestamp,item_id\nu,view,2024-01-01,a\n")
        csv_logs(logs, f"user_id,personalised\nu,{said}\n", name="users.csv")
        assert prepare(logs, tmp_path / "out").quarantined == ()
        assert pq.read_table(tmp_path / "out" / "users.parquet")["personalised"].to_pylist() == [False]

    @pytest.mark.parametrize("rows", ["u,25-34,false\nu,18-24,true\n", "u,18-24,true\nu,25-34,false\n"])
    def test_of_two_rows_of_a_person_the_opt_out_stays(self, tmp_path, rows):
        logs = csv_logs(tmp_path / "logs", "user_id,event,timestamp,item_id\nu,view,2024-01-01,a\n")
        csv_logs(logs, f"user_id,age_band,personalised\n{rows}", name="users.csv")
        prepare(logs, tmp_path / "out")
        assert pq.read_table(tmp_path / "out" / "users.parquet")["personalised"].to_pylist() == [False]

    def test_an_out_whose_folder_cannot_be_made(self, tmp_path):
        logs = csv_logs(tmp_path / "logs", "user_id,event,timestamp,item_id\n1,view,2024-01-01,a\n")
        with pytest.raises(DataError, match="its folder cannot be made"):
            prepare(logs, logs / "events.csv" / "x")


class TestShapes:
    def test_part_files_in_any_order_of_columns(self, tmp_path):
        folder = tmp_path / "logs" / "events"
        folder.mkdir(parents=True)
        first = pd.DataFrame([event()])
        second = pd.DataFrame([event(user_id=2, duration_s=5.0)])
        first.to_parquet(folder / "part-0.parquet")
        second[sorted(second.columns)].to_parquet(folder / "part-1.parquet")
        prepare(tmp_path / "logs", tmp_path / "out")
        events = Dataset.load(tmp_path / "out").events
        assert np.isnan(events.duration_s).tolist() == [True, False]

    @pytest.mark.parametrize(
        "spelling",
        ["2024-03-01T00:00:00Z", "2024-03-01 08:00:00+08:00", "2024-03-01", "1709251200", "1709251200000"],
    )
    def test_spellings_of_one_moment(self, tmp_path, spelling):
        logs = csv_logs(tmp_path / "logs", f"user_id,event,timestamp,item_id\n1,view,{spelling},1\n")
        prepare(logs, tmp_path / "out")
        assert Dataset.load(tmp_path / "out").events.timestamp_us[0] == DAY.timestamp() * 1e6

    def test_a_log_of_one_user(self, run):
        dataset = run([event(), event(item_id=11)])
        assert (len(dataset.users), len(dataset.items)) == (1, 2)

    def test_an_empty_users_table_is_no_table(self, run):
        users = pd.DataFrame(
            {"user_id": pd.Series([], dtype="int64"), "age_band": pd.Series([], dtype="str")}
        )
        assert len(run([event()], users=users).users) == 1

    def test_a_user_with_100_000_events(self, run):
        times = pd.date_range(DAY, periods=100_000, freq="s")
        many = pd.DataFrame(
            {"user_id": 1, "event": "view", "timestamp": times, "item_id": np.arange(100_000) % 50}
        )
        dataset = run(many)
        matrix = dataset.interactions(Target.ITEM, BehaviourWeights())
        assert matrix.nnz == 50
        assert np.isfinite(matrix.data).all()
        assert dataset.histories(Target.ITEM).last(np.array([0], dtype=np.int32), 20).mask.all()

    def test_columns_no_model_can_read_are_named(self, tmp_path):
        logs = write_logs(tmp_path / "logs", events=[event()])
        pq.write_table(
            pa.table({"item_id": [10], "tags": [["a", "b"]], "brand": ["x"]}), logs / "items.parquet"
        )
        summary = prepare(logs, tmp_path / "out")
        assert summary.dropped_columns == ("items.tags",)
        assert Dataset.load(tmp_path / "out").items.column("brand").to_pylist() == ["x"]

    def test_a_room_event_finds_its_streamer(self, run):
        dataset = run(
            [
                event(room_id="r1"),
                event(room_id="r2", streamer_id="own"),
                event(room_id="r3", event="enter", item_id=None),
            ],
            rooms=[{"room_id": "r1", "streamer_id": "s1", "started_at": DAY - timedelta(hours=1)}],
        )
        named = dataset.streamers.ids.external(dataset.events.streamer_idx).to_pylist()
        assert sorted(named) == ["own", "r3", "s1"]

    def test_the_same_log_has_the_same_fingerprint(self, tmp_path, run):
        first = run([event(), event(user_id=2)]).fingerprint
        shutil.rmtree(tmp_path / "out")
        assert run([event(user_id=2), event()]).fingerprint == first
        shutil.rmtree(tmp_path / "out")
        assert run([event(user_id=3), event()]).fingerprint != first


def test_forgotten_people_leave_no_trace(tmp_path):
    logs = write_logs(
        tmp_path / "logs",
        events=[event(user_id="stays"), event(user_id="goes"), event(user_id="goes", event="no event")],
        users=[{"user_id": "goes", "age_band": "x"}],
    )
    forget(tmp_path, "goes")
    prepare(logs, tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.users.ids.keys.to_pylist() == ["stays"]
    assert not any(b"goes" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_line_that_may_be_of_a_forgotten_person_is_not_kept(tmp_path):
    text = "user_id,event,timestamp,item_id\nstays,view,2024-01-01,2\ngoes,view,2024-01-01,2\ngoes,view\n"
    logs = csv_logs(tmp_path / "logs", text)
    forget(tmp_path, "goes")
    assert prepare(logs, tmp_path / "out").quarantined[0].rows == 1
    assert not any(b"goes" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_line_of_a_person_who_is_in_no_other_is_not_kept(tmp_path):
    text = "user_id,event,timestamp,item_id\nstays,view,2024-01-01,2\ngoes,view\n"
    logs = csv_logs(tmp_path / "logs", text)
    (logs / "users.csv").write_text("user_id,personalised\nstays,yes\ngoes,yes,oops\nopts out,no,oops\n")
    forget(tmp_path, "goes")
    prepare(logs, tmp_path / "out")
    assert not any(b"goes" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    users = pq.read_table(tmp_path / "out" / "users.parquet").to_pandas().set_index("user_id")
    assert users.personalised.to_dict() == {"stays": True, "opts out": False}


def test_every_behaviour_of_the_contract_is_read(run):
    dataset = run([event(event=behaviour.value) for behaviour in Behaviour])
    assert set(dataset.counts()) == set(Behaviour)


def test_the_contract_names_each_column_once():
    for table in TABLES.values():
        names = [column.name for column in table.columns]
        assert len(names) == len(set(names))


def test_of_an_item_only_the_cell_that_cannot_be_read_is_left_out(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "events.csv").write_text(
        "user_id,event,timestamp,item_id\n" + "".join(f"u,click,2024-01-01,{i}\n" for i in "abcde")
    )
    (logs / "items.csv").write_text(
        "item_id,category,price,stock,listed_at\n"
        'a,tea,"1,299",0,2023-01-01\n'
        "b,tea,5,sold out,2023-01-01\n"
        "c,tea,5,4,yesterday\n"
        "d,tea,inf,4,2023-01-01\n"
        "e,cup,7,,2023-01-01\n"
    )
    summary = prepare(logs, tmp_path / "out")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pandas().set_index("item_id")
    assert items.category.to_dict() == {"a": "tea", "b": "tea", "c": "tea", "d": "tea", "e": "cup"}
    assert items.price.fillna(-1).to_dict() == {"a": -1, "b": 5, "c": 5, "d": -1, "e": 7}
    # What may be sold out is not shown; of what nothing is said there is enough.
    assert items.stock.fillna(-1).to_dict() == {"a": 0, "b": 0, "c": 4, "d": 4, "e": -1}
    assert pd.isna(items.listed_at["c"])
    assert summary.rows["items"] == 5
    noted = {fault.example.split("'")[1]: fault.reason for fault in summary.quarantined}
    assert noted == {
        "a": "price cannot be read as a number: taken as unknown, the rest of the row is used",
        "b": "stock cannot be read as a number: taken as 0, the rest of the row is used",
        "c": "listed_at cannot be read as a time: taken as unknown, the rest of the row is used",
        "d": "price is infinite: taken as unknown, the rest of the row is used",
    }


def test_a_sound_row_of_an_item_goes_before_one_with_a_bad_cell(tmp_path):
    events = [{"user_id": "u", "event": "click", "timestamp": "2024-01-01", "item_id": "a"}]
    items = [
        {"item_id": "a", "category": "cup", "price": "1,299"},
        {"item_id": "a", "category": "tea", "price": "7"},
    ]
    prepare(write_logs(tmp_path / "logs", events=events, items=items), tmp_path / "out")
    (item,) = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert (item["category"], item["price"]) == ("tea", 7.0)


def test_no_consent_is_read_in_a_line_that_cannot_be_split(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "events.csv").write_text(
        "user_id,event,timestamp,item_id\n" + "".join(f"{u},click,2024-01-01,a\n" for u in ("u1", "u2", "u3"))
    )
    (logs / "users.csv").write_text(
        'user_id,personalised,age_band\nu1,true,18-24\n"u2",false,18-24,oops\nu3,true,18-24\nu3,true\n'
    )
    summary = prepare(logs, tmp_path / "out")
    users = pq.read_table(tmp_path / "out" / "users.parquet").to_pandas().set_index("user_id")
    assert users.personalised.to_dict() == {"u1": True, "u2": False, "u3": False}
    reasons = [fault.reason for fault in summary.quarantined]
    assert any(reason.endswith("the user is taken to have opted out") for reason in reasons)


def test_a_table_whose_ids_are_spelt_otherwise_is_told_of(tmp_path):
    events = [{"user_id": "u", "event": "click", "timestamp": "2024-01-01", "item_id": i} for i in range(3)]
    items = [{"item_id": f"0000{i}", "stock": 0} for i in range(3)]
    users = [{"user_id": "u", "gender": "f"}, {"user_id": "v", "gender": "f"}]
    summary = prepare(
        write_logs(tmp_path / "logs", events=events, items=items, users=users), tmp_path / "out"
    )
    assert summary.unmatched == (Unmatched("items", 3, "00000", "0"),)
