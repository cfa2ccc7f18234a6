"""Taobao UserBehavior: nine days of a million shoppers (2017)."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source, from_epoch_s
from recsys.data.sources.raw import Layout

LOG = Layout(
    "log",
    ("user_id|user", "item_id|item", "behavior_type|behavior|behaviour|behaviour_type", "timestamp|time"),
    optional=("category_id|category|item_category",),
    fields=(
        ("user_id", r"\d+"),
        ("item_id", r"\d+"),
        ("category_id", r"\d+"),
        ("behavior_type", r"pv|buy|cart|fav"),
        ("timestamp", r"-?\d+"),
    ),
    required=True,
)


def convert(job: ImportJob) -> None:
    """Writes the events, and the items if the log names their categories (the latest counts).

    `pv`, the opening of a product's page, is a click: the log does not say how long the page was looked at.
    A few of the published times lie years off; they are kept, for `prepare` to judge.
    """
    log = job.screen(
        LOG,
        f"""
        SELECT user_id, item_id, CAST(category_id AS VARCHAR) AS category,
            CASE behavior_type WHEN 'pv' THEN 'click' WHEN 'cart' THEN 'cart' WHEN 'fav' THEN 'favourite'
                WHEN 'buy' THEN 'purchase' END AS event,
            {from_epoch_s("timestamp")} AS timestamp
        FROM {job.raw(LOG)}
        """,
        {
            "user is missing": "user_id IS NULL",
            "item is missing": "item_id IS NULL",
            "behaviour is none of pv, buy, cart, fav": "event IS NULL",
            "timestamp is not a number of seconds": "timestamp IS NULL",
        },
    )
    user_type, item_type = job.id_type("user_id", log), job.id_type("item_id", log)
    job.write(
        "events",
        f"""
        SELECT CAST(user_id AS {user_type}) AS user_id, event, timestamp,
            CAST(item_id AS {item_type}) AS item_id
        FROM {log}
        """,
    )
    job.write(
        "items",
        f"""
        SELECT CAST(item_id AS {item_type}) AS item_id, arg_max(category, timestamp) AS category
        FROM {log} WHERE category IS NOT NULL GROUP BY 1 ORDER BY 1
        """,
    )


TAOBAO = Source(
    name="taobao",
    description="Taobao UserBehavior: clicks, carts, favourites and purchases of a million shoppers",
    licence="free for research, not for commerce (Alibaba Tianchi)",
    homepage="https://tianchi.aliyun.com/dataset/649",
    layouts=(LOG,),
    convert=convert,
)
