from collections.abc import Callable

from tests.data.sources.conftest import Imported, utc


def test_watches_become_entries_views_and_rooms(imported: Callable[..., Imported]) -> None:
    found, summary = imported(
        "twitch",
        {"100k.csv": "1,33842865744,mithrain,154,156\n2,33842865744,mithrain,150,155\n2,5,a b,9,7\n"},
    )
    room = {"room_id": 33842865744, "streamer_id": "mithrain"}
    first, second = utc("2019-07-02T01:40"), utc("2019-07-02T01:00")
    assert found == {
        "events": [
            {"user_id": 1, "event": "enter", "timestamp": first, "duration_s": None} | room,
            {"user_id": 1, "event": "view", "timestamp": first, "duration_s": 1200.0} | room,
            {"user_id": 2, "event": "enter", "timestamp": second, "duration_s": None} | room,
            {"user_id": 2, "event": "view", "timestamp": second, "duration_s": 3000.0} | room,
        ],
        "rooms": [room | {"started_at": second, "ended_at": utc("2019-07-02T02:00")}],
        "streamers": [{"streamer_id": "mithrain"}],
    }
    assert summary.skipped == {"watches": {"stop is not a step at or after start": 1}}
