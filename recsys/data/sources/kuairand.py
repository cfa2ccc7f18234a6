"""KuaiRand: a month of short videos shown by Kuaishou, some of them at random (2022)."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source, from_epoch_ms
from recsys.data.sources.raw import Layout

LOG = Layout(
    "log",
    ("user_id", "video_id", "time_ms", "is_click", "play_time_ms"),
    optional=("is_like", "is_follow", "is_comment", "is_forward", "is_hate", "is_rand"),
    required=True,
)
VIDEOS = Layout(
    "video_features",
    ("video_id", "author_id", "video_type", "upload_dt"),
    optional=("upload_type", "video_duration", "music_type", "tag"),
)
USERS = Layout("user_features", ("user_id", "user_active_degree"), extras=True)

_FEEDBACK = {
    "is_click": "click",
    "is_like": "like",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_forward": "share",
    "is_hate": "hide",
}


def convert(job: ImportJob) -> None:
    """Writes events, items and users.

    Every row of the log is a showing: an `impression`, a `view` of `play_time_ms` if it played at all, and
    one event for each kind of feedback. The log has one time for all of them. `source` is `random` where the
    publisher showed the video at random. A video is an item, its author the streamer; its first tag is the
    category. `listed_at` is the start of the upload's day in Beijing.
    """
    flags = ", ".join(
        f"coalesce(TRY_CAST({flag} AS INTEGER), 0) = 1 AS {flag}" for flag in (*_FEEDBACK, "is_rand")
    )
    log = job.screen(
        LOG,
        f"""
        SELECT user_id, video_id AS item_id, {from_epoch_ms("time_ms")} AS timestamp,
            TRY_CAST(play_time_ms AS DOUBLE) / 1000 AS duration_s, {flags}
        FROM {job.raw(LOG)}
        """,
        {
            "user_id is missing": "user_id IS NULL",
            "video_id is missing": "item_id IS NULL",
            "time_ms is not a number of milliseconds": "timestamp IS NULL",
            "play_time_ms is not a time played": "coalesce(duration_s < 0, true)",
        },
    )
    videos = job.screen(
        VIDEOS,
        f"""
        SELECT video_id AS item_id, author_id AS streamer_id,
            nullif(trim(split_part(CAST(tag AS VARCHAR), ',', 1)), '') AS category,
            TRY_CAST(upload_dt AS TIMESTAMP) AT TIME ZONE 'Asia/Shanghai' AS listed_at,
            video_type, upload_type, music_type, TRY_CAST(video_duration AS DOUBLE) / 1000 AS video_duration_s
        FROM {job.raw(VIDEOS)}
        """,
        {"video_id is missing": "item_id IS NULL"},
    )
    users = job.screen(USERS, f"FROM {job.raw(USERS)}", {"user_id is missing": "user_id IS NULL"})
    user_type = job.id_type("user_id", log, users)
    item_type = job.id_type("item_id", log, videos)
    streamer_type = job.id_type("streamer_id", videos)
    authors = job.view(
        "authors",
        f"""
        SELECT CAST(item_id AS {item_type}) AS item_id,
            any_value(CAST(streamer_id AS {streamer_type})) AS streamer_id
        FROM {videos} GROUP BY 1
        """,
    )
    kinds = ", ".join(f"CASE WHEN {flag} THEN '{event}' END" for flag, event in _FEEDBACK.items())
    job.write(
        "events",
        f"""
        SELECT CAST(user_id AS {user_type}) AS user_id, event, timestamp, item_id, streamer_id,
            CASE event WHEN 'view' THEN duration_s END AS duration_s,
            CASE WHEN is_rand THEN 'random' ELSE 'standard' END AS source
        FROM (
            SELECT * REPLACE (CAST(item_id AS {item_type}) AS item_id),
                unnest(['impression', CASE WHEN duration_s > 0 THEN 'view' END, {kinds}]) AS event
            FROM {log}
        )
        LEFT JOIN {authors} USING (item_id)
        WHERE event IS NOT NULL
        """,
    )
    job.write(
        "items",
        f"""
        SELECT DISTINCT ON (item_id) * REPLACE (CAST(item_id AS {item_type}) AS item_id,
            CAST(streamer_id AS {streamer_type}) AS streamer_id)
        FROM {videos} ORDER BY item_id
        """,
    )
    job.write(
        "users",
        f"""
        SELECT DISTINCT ON (user_id) * REPLACE (CAST(user_id AS {user_type}) AS user_id)
        FROM {users} ORDER BY user_id
        """,
    )


KUAIRAND = Source(
    name="kuairand",
    description="KuaiRand: a month of short videos with twelve kinds of feedback, some shown at random",
    licence="CC BY-SA 4.0",
    homepage="https://kuairand.com",
    layouts=(LOG, VIDEOS, USERS),
    convert=convert,
)
