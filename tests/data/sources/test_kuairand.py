from collections.abc import Callable

from tests.data.sources.conftest import Imported, utc

HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
LOGS = {
    "KuaiRand-1K/data/log_standard_4_08_to_4_21_1k.csv": HEADER
    + "0,3784,20220421,700,1650497137000,1,1,0,1,0,0,1,26501,26400,0,0,0,0,1\n"
    + "0,90,20220421,700,1650497138000,0,0,0,0,0,0,0,0,26400,0,0,0,0,1\n"
    + "0,90,20220421,700,,0,0,0,0,0,0,0,0,26400,0,0,0,0,1\n",
    "KuaiRand-1K/data/log_random_4_22_to_5_08_1k.csv": HEADER
    + "1,3784,20220422,700,1650497139000,0,0,1,0,1,1,0,500,26400,0,0,0,1,1\n",
}
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
    "server_height,music_id,music_type,tag\n"
    '3784,77,NORMAL,2022-04-08,LongImport,0.0,26400.0,720,1280,9,9.0,"12,65"\n'
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,fans_user_num_range,onehot_feat0\n0,full_active,0,[1,0\n"
)


def test_a_showing_is_an_impression_a_view_and_its_feedback(imported: Callable[..., Imported]) -> None:
    found, summary = imported(
        "kuairand",
        LOGS
        | {
            "KuaiRand-1K/data/video_features_basic_1k.csv": VIDEOS,
            "KuaiRand-1K/data/video_features_statistic_1k.csv": "video_id,show_cnt\n3784,5\n",
            "KuaiRand-1K/data/user_features_1k.csv": USERS,
        },
    )
    events = {
        (row["user_id"], row["item_id"], row["event"], row["streamer_id"], row["duration_s"], row["source"])
        for row in found["events"]
    }
    assert events == {
        (0, 3784, "impression", 77, None, "standard"),
        (0, 3784, "view", 77, 26.501, "standard"),
        (0, 3784, "click", 77, None, "standard"),
        (0, 3784, "like", 77, None, "standard"),
        (0, 3784, "comment", 77, None, "standard"),
        (0, 90, "impression", None, None, "standard"),
        (1, 3784, "impression", 77, None, "random"),
        (1, 3784, "view", 77, 0.5, "random"),
        (1, 3784, "follow", 77, None, "random"),
        (1, 3784, "share", 77, None, "random"),
        (1, 3784, "hide", 77, None, "random"),
    }
    assert len(events) == summary.rows["events"]
    assert {row["timestamp"] for row in found["events"] if row["user_id"] == 1} == {
        utc("2022-04-20T23:25:39")
    }
    assert found["items"] == [
        {
            "item_id": 3784,
            "streamer_id": 77,
            "category": "12",
            "listed_at": utc("2022-04-07T16:00:00"),
            "video_type": "NORMAL",
            "upload_type": "LongImport",
            "music_type": "9.0",
            "video_duration_s": 26.4,
        }
    ]
    assert found["users"] == [
        {
            "user_id": 0,
            "user_active_degree": "full_active",
            "is_lowactive_period": 0,
            "fans_user_num_range": "[1",
            "onehot_feat0": 0,
        }
    ]
    assert summary.skipped == {"log": {"time_ms is not a number of milliseconds": 1}}
    assert [path.name for path in summary.ignored] == ["video_features_statistic_1k.csv"]


def test_the_log_alone_is_enough(imported: Callable[..., Imported]) -> None:
    found, _ = imported("kuairand", LOGS)
    assert set(found) == {"events"}
    assert {row["streamer_id"] for row in found["events"]} == {None}
