from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.sources import import_source
from recsys.errors import DataError
from tests.data.sources.conftest import Imported, utc

ACTION = "user_id,live_id,streamer_id,timestamp"
CLICK = f"{ACTION},watch_live_time\n1,10,100,1746374400000,61500\n1,10,100,later,5\n"


def test_actions_rooms_and_people(imported: Callable[..., Imported]) -> None:
    found, summary = imported(
        "kuailive",
        {
            "click.csv": CLICK,
            "comment.csv": f"{ACTION}\n1,10,100,1746374401000\n",
            "like.csv": f"{ACTION}\n1,10,100,1746374402000\n",
            "gift.csv": f"{ACTION},gift_price\n1,10,100,1746374403000,9.9\n",
            "negative.csv": f"{ACTION}\n2,11,100,1746374404000\n",
            "room.csv": "p_date,live_id,streamer_id,live_type,start_timestamp,end_timestamp,"
            "live_content_category,live_name_id\n"
            "20250504,10,100,1,1746370000000,1746380000000,5,8\n"
            "20250505,10,100,1,1746370000000,1746380000000,5,8\n"
            "20250504,11,100,1,1746370000000,,6,8\n",
            "user.csv": "user_id,age,gender,country,fans_num\n1,24-30,F,China,0-10\n",
            "streamer.csv": "streamer_id,gender,age,fans_num\n100,M,31-40,12\n",
        },
    )
    room = {"room_id": 10, "streamer_id": 100}
    plain = {"duration_s": None, "amount": None}
    start = utc("2025-05-04T16:00:00")
    assert sorted(found.pop("events"), key=lambda row: (row["timestamp"], row["event"])) == [
        {"user_id": 1, "event": "enter", "timestamp": start} | room | plain,
        {"user_id": 1, "event": "view", "timestamp": start} | room | plain | {"duration_s": 61.5},
        {"user_id": 1, "event": "comment", "timestamp": utc("2025-05-04T16:00:01")} | room | plain,
        {"user_id": 1, "event": "like", "timestamp": utc("2025-05-04T16:00:02")} | room | plain,
        {"user_id": 1, "event": "gift", "timestamp": utc("2025-05-04T16:00:03")}
        | room
        | plain
        | {"amount": 9.9},
        {"user_id": 2, "event": "impression", "timestamp": utc("2025-05-04T16:00:04"), "room_id": 11}
        | {"streamer_id": 100}
        | plain,
    ]
    started = {"streamer_id": 100, "started_at": utc("2025-05-04T14:46:40"), "live_type": "1"}
    assert found == {
        "rooms": [
            started | {"room_id": 10, "ended_at": utc("2025-05-04T17:33:20"), "category": "5"},
            started | {"room_id": 11, "ended_at": None, "category": "6"},
        ],
        "users": [
            {"user_id": 1, "age_band": "24-30", "gender": "F", "region": "China", "fans_num": "0-10"},
        ],
        "streamers": [{"streamer_id": 100, "gender": "M", "age": "31-40", "fans_num": 12}],
    }
    assert summary.skipped == {"click": {"timestamp is not a number of milliseconds": 1}}


def test_clicks_alone_are_enough(imported: Callable[..., Imported]) -> None:
    found, _ = imported("kuailive", {"sub/p1.csv": CLICK})
    assert set(found) == {"events"}


def test_tables_with_the_same_columns_must_be_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "click.csv").write_text(CLICK)
    (tmp_path / "part.csv").write_text(f"{ACTION}\n1,10,100,1746374401000\n")
    with pytest.raises(DataError, match=r"part\.csv: its columns .* fit comment, like, negative alike"):
        import_source("kuailive", tmp_path, tmp_path / "logs")
