"""Twitch LiveRec: 43 days of who watched which stream, in steps of ten minutes."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source
from recsys.data.sources.raw import Layout

#: Where step 0 is put, in seconds since 1970: 2019-07-01 00:00 UTC, a Monday. The publisher names no date.
EPOCH_S = 1_561_939_200
STEP_S = 600

WATCHES = Layout(
    "watches",
    (
        "user|user_id",
        "stream|stream_id|live_id",
        "streamer|streamer_name",
        "start|time_start",
        "stop|time_stop",
    ),
    fields=(
        ("user", r"\d+"),
        ("stream", r"\d+"),
        ("streamer", r".+"),
        ("start", r"\d+"),
        ("stop", r"\d+"),
    ),
    required=True,
)


def convert(job: ImportJob) -> None:
    """Writes an `enter` and a `view` for each watch, and the rooms and streamers that the watches show.

    A room is a stream. The publisher samples viewers every ten minutes, so it starts with its first watch and
    ends with its last.
    """
    watches = job.screen(
        WATCHES,
        f"""
        SELECT "user" AS user_id, stream AS room_id, streamer AS streamer_id,
            TRY_CAST("start" AS INTEGER)::BIGINT AS first_step,
            TRY_CAST("stop" AS INTEGER)::BIGINT AS last_step
        FROM {job.raw(WATCHES)}
        """,
        {
            "user is missing": "user_id IS NULL",
            "stream is missing": "room_id IS NULL",
            "streamer is missing": "streamer_id IS NULL",
            "start is not a step": "first_step IS NULL",
            "stop is not a step at or after start": "coalesce(last_step < first_step, true)",
        },
    )
    types = {name: job.id_type(name, watches) for name in ("user_id", "room_id", "streamer_id")}
    ids = {name: f"CAST({name} AS {kind}) AS {name}" for name, kind in types.items()}
    job.write(
        "events",
        f"""
        SELECT {ids["user_id"]}, event, {_time("first_step")} AS timestamp, {ids["room_id"]},
            {ids["streamer_id"]},
            CASE event WHEN 'view' THEN (last_step - first_step) * {STEP_S} END AS duration_s
        FROM (SELECT *, unnest(['enter', 'view']) AS event FROM {watches})
        """,
    )
    job.write(
        "rooms",
        f"""
        SELECT {ids["room_id"]}, any_value(CAST(streamer_id AS {types["streamer_id"]})) AS streamer_id,
            {_time("min(first_step)")} AS started_at, {_time("max(last_step)")} AS ended_at
        FROM {watches} GROUP BY 1 ORDER BY 1
        """,
    )
    job.write("streamers", f"SELECT DISTINCT {ids['streamer_id']} FROM {watches} ORDER BY 1")


def _time(step: str) -> str:
    return f"make_timestamptz(({EPOCH_S} + {step} * {STEP_S}) * 1000000)"


TWITCH = Source(
    name="twitch",
    description="Twitch LiveRec: live streams watched by 100,000 users in 43 days, in steps of ten minutes",
    licence="published for research",
    homepage="https://github.com/JRappaz/liverec",
    layouts=(WATCHES,),
    convert=convert,
)
