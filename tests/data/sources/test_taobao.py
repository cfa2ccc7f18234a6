from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.sources import import_source
from tests.data.sources.conftest import Imported, tables, utc


def test_publishers_file_without_header(imported: Callable[..., Imported]) -> None:
    found, summary = imported(
        "taobao",
        {
            "UserBehavior.csv": "1,2268318,2520377,pv,1511544070\n"
            "1,2333346,2520771,cart,1511561733\n"
            "2,2333346,2520771,fav,1511561734\n"
            "2,2268318,9,buy,1511561735\n"
            "3,2268318\n"
            "3,2268318,9,pv,\n"
        },
    )
    assert found == {
        "events": [
            {"user_id": 1, "event": "click", "timestamp": utc("2017-11-24T17:21:10"), "item_id": 2268318},
            {"user_id": 1, "event": "cart", "timestamp": utc("2017-11-24T22:15:33"), "item_id": 2333346},
            {"user_id": 2, "event": "favourite", "timestamp": utc("2017-11-24T22:15:34"), "item_id": 2333346},
            {"user_id": 2, "event": "purchase", "timestamp": utc("2017-11-24T22:15:35"), "item_id": 2268318},
        ],
        "items": [{"item_id": 2268318, "category": "9"}, {"item_id": 2333346, "category": "2520771"}],
    }
    assert summary.skipped == {
        "log": {"malformed line: missing columns": 1, "timestamp is not a number of seconds": 1}
    }


def test_parquet_keeps_its_integer_type_and_needs_no_category(tmp_path: Path) -> None:
    raw = pa.table(
        {
            "user_id": pa.array([29924], pa.int32()),
            "item_id": pa.array([4772], pa.int32()),
            "behavior_type": ["fav"],
            "timestamp": [1511539200],
        }
    )
    pq.write_table(raw, tmp_path / "anything.parquet")
    import_source("taobao", tmp_path / "anything.parquet", tmp_path / "logs")
    schema = pq.read_schema(tmp_path / "logs" / "events.parquet")
    assert schema.field("user_id").type == pa.int32()
    assert schema.field("timestamp").type == pa.timestamp("us", "UTC")
    assert tables(tmp_path / "logs") == {
        "events": [
            {"user_id": 29924, "event": "favourite", "timestamp": utc("2017-11-24T16:00:00"), "item_id": 4772}
        ]
    }
