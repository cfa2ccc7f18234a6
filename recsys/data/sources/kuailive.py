"""KuaiLive: three weeks of live rooms on Kuaishou (2025)."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source, from_epoch_ms
from recsys.data.sources.raw import Layout

_ACTION = ("user_id", "live_id", "streamer_id", "timestamp")

CLICKS = Layout("click", (*_ACTION, "watch_live_time"), required=True)
GIFTS = Layout("gift", (*_ACTION, "gift_price"))
COMMENTS = Layout("comment", _ACTION, word="comment")
LIKES = Layout("like", _ACTION, word="like")
NEGATIVES = Layout("negative", _ACTION, word="negative")
ROOMS = Layout(
    "room",
    ("live_id", "streamer_id", "start_timestamp", "end_timestamp"),
    optional=("live_type", "live_content_category"),
)
USERS = Layout("user", ("user_id", "age", "gender"), optional=("country",), extras=True)
STREAMERS = Layout("streamer", ("streamer_id", "gender", "age"), extras=True)


def convert(job: ImportJob) -> None:
    """Writes events, rooms, users and streamers.

    A click is an `enter` and a `view` of `watch_live_time`; the leaving follows from the view. What was shown
    and not clicked is an `impression`. A room's `ended_at` is null where the publisher gives no end after its
    start. Comments, likes and negatives have the same columns: there the file's name decides.
    """
    actions = {
        CLICKS: _screened(job, CLICKS, "watch_live_time", "/ 1000"),
        GIFTS: _screened(job, GIFTS, "gift_price"),
        COMMENTS: _screened(job, COMMENTS),
        LIKES: _screened(job, LIKES),
        NEGATIVES: _screened(job, NEGATIVES),
    }
    rooms = job.screen(
        ROOMS,
        f"""
        SELECT live_id AS room_id, streamer_id, {from_epoch_ms("start_timestamp")} AS started_at,
            {from_epoch_ms("end_timestamp")} AS ended_at, CAST(live_content_category AS VARCHAR) AS category,
            live_type
        FROM {job.raw(ROOMS)}
        """,
        {"live_id is missing": "room_id IS NULL", "start_timestamp is missing": "started_at IS NULL"},
    )
    users = job.screen(USERS, f"FROM {job.raw(USERS)}", {"user_id is missing": "user_id IS NULL"})
    streamers = job.screen(
        STREAMERS, f"FROM {job.raw(STREAMERS)}", {"streamer_id is missing": "streamer_id IS NULL"}
    )
    user_type = job.id_type("user_id", *actions.values(), users)
    room_type = job.id_type("room_id", *actions.values(), rooms)
    streamer_type = job.id_type("streamer_id", *actions.values(), rooms, streamers)

    def events(layout: Layout, kinds: str, value: str = "") -> str:
        return f"""
            SELECT CAST(user_id AS {user_type}) AS user_id, unnest({kinds}) AS event, timestamp,
                CAST(room_id AS {room_type}) AS room_id, CAST(streamer_id AS {streamer_type}) AS streamer_id
                {value}
            FROM {actions[layout]}
        """

    job.write(
        "events",
        f"""
        SELECT user_id, event, timestamp, room_id, streamer_id,
            CASE event WHEN 'view' THEN value END AS duration_s,
            CASE event WHEN 'gift' THEN value END AS amount
        FROM (
            {events(CLICKS, "['enter', 'view']", ", value")}
            UNION ALL BY NAME {events(GIFTS, "['gift']", ", value")}
            UNION ALL BY NAME {events(COMMENTS, "['comment']")}
            UNION ALL BY NAME {events(LIKES, "['like']")}
            UNION ALL BY NAME {events(NEGATIVES, "['impression']")}
        )
        """,
    )
    job.write(
        "rooms",
        f"""
        SELECT CAST(room_id AS {room_type}) AS room_id,
            arg_min(CAST(streamer_id AS {streamer_type}), started_at) AS streamer_id,
            min(started_at) AS started_at, max(ended_at) FILTER (WHERE ended_at > started_at) AS ended_at,
            arg_min(category, started_at) AS category, arg_min(live_type, started_at) AS live_type
        FROM {rooms} GROUP BY 1 ORDER BY 1
        """,
    )
    job.write(
        "users",
        f"""
        SELECT DISTINCT ON (user_id) * EXCLUDE (age, country)
            REPLACE (CAST(user_id AS {user_type}) AS user_id), age AS age_band, country AS region
        FROM {users} ORDER BY user_id
        """,
    )
    job.write(
        "streamers",
        f"""
        SELECT DISTINCT ON (streamer_id) * REPLACE (CAST(streamer_id AS {streamer_type}) AS streamer_id)
        FROM {streamers} ORDER BY streamer_id
        """,
    )


def _screened(job: ImportJob, layout: Layout, value: str | None = None, scale: str = "") -> str:
    """The usable rows of one kind of action; `value` is a number that must be there and not negative."""
    checks = {
        "user_id is missing": "user_id IS NULL",
        "live_id is missing": "room_id IS NULL",
        "timestamp is not a number of milliseconds": "timestamp IS NULL",
    }
    number = f", TRY_CAST({value} AS DOUBLE) {scale} AS value" if value else ""
    if value:
        checks[f"{value} is not a number of zero or more"] = "coalesce(value < 0, true)"
    select = f"""
        SELECT user_id, live_id AS room_id, streamer_id, {from_epoch_ms("timestamp")} AS timestamp {number}
        FROM {job.raw(layout)}
    """
    return job.screen(layout, select, checks)


KUAILIVE = Source(
    name="kuailive",
    description="KuaiLive: three weeks of live rooms: watch times, likes, comments, gifts, rooms not entered",
    licence="CC BY-NC-SA 4.0",
    homepage="https://imgkkk574.github.io/KuaiLive",
    layouts=(CLICKS, GIFTS, COMMENTS, LIKES, NEGATIVES, ROOMS, USERS, STREAMERS),
    convert=convert,
)
