"""RetailRocket: four and a half months of one web shop's views, carts and sales (2015)."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source, from_epoch_ms
from recsys.data.sources.raw import Layout

EVENTS = Layout("events", ("timestamp", "visitorid", "event", "itemid"), required=True)
PROPERTIES = Layout(
    "item_properties",
    ("timestamp", "itemid", "property", "value"),
    where="property IN ('categoryid', '790')",
)
CATEGORIES = Layout("category_tree", ("categoryid", "parentid"))


def convert(job: ImportJob) -> None:
    """Writes the events, and the items if their properties are there.

    Of the hashed properties two can be read: `categoryid`, and 790, the price, as `n1234.000`. The latest
    value counts. `parent_category` is the step above in the category tree. The log gives no quantities or
    amounts.
    """
    events = job.screen(
        EVENTS,
        f"""
        SELECT visitorid AS user_id, itemid AS item_id,
            CASE event WHEN 'view' THEN 'view' WHEN 'addtocart' THEN 'cart' WHEN 'transaction' THEN 'purchase'
            END AS event,
            {from_epoch_ms("timestamp")} AS timestamp
        FROM {job.raw(EVENTS)}
        """,
        {
            "visitorid is missing": "user_id IS NULL",
            "itemid is missing": "item_id IS NULL",
            "event is none of view, addtocart, transaction": "event IS NULL",
            "timestamp is not a number of milliseconds": "timestamp IS NULL",
        },
    )
    properties = job.screen(
        PROPERTIES,
        f"""
        SELECT itemid AS item_id, property, CAST(value AS VARCHAR) AS value,
            {from_epoch_ms("timestamp")} AS timestamp
        FROM {job.raw(PROPERTIES)}
        """,
        {
            "itemid is missing": "item_id IS NULL",
            "timestamp is not a number of milliseconds": "timestamp IS NULL",
        },
    )
    user_type = job.id_type("user_id", events)
    item_type = job.id_type("item_id", events, properties)
    job.write(
        "events",
        f"""
        SELECT CAST(user_id AS {user_type}) AS user_id, event, timestamp,
            CAST(item_id AS {item_type}) AS item_id
        FROM {events}
        """,
    )
    job.write(
        "items",
        f"""
        WITH latest AS (
            SELECT item_id,
                arg_max(value, timestamp) FILTER (WHERE property = 'categoryid') AS category,
                arg_max(value, timestamp) FILTER (WHERE property = '790') AS price
            FROM {properties} GROUP BY item_id
        ),
        parents AS (
            SELECT CAST(categoryid AS VARCHAR) AS category,
                any_value(CAST(parentid AS VARCHAR)) AS parent_category
            FROM {job.raw(CATEGORIES)} GROUP BY 1
        )
        SELECT CAST(item_id AS {item_type}) AS item_id, category,
            TRY_CAST(regexp_extract(price, '^n([0-9.]+)$', 1) AS DOUBLE) AS price, parent_category
        FROM latest LEFT JOIN parents USING (category)
        ORDER BY item_id
        """,
    )


RETAILROCKET = Source(
    name="retailrocket",
    description="one web shop: views, carts and sales of 4.5 months, with item categories and prices",
    licence="CC BY-NC-SA 4.0",
    homepage="https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
    layouts=(EVENTS, PROPERTIES, CATEGORIES),
    convert=convert,
)
