"""Ta Feng: four months of a Taiwanese grocer's tills (November 2000 to February 2001)."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source, from_text
from recsys.data.sources.raw import Layout

LINES = Layout(
    "lines",
    ("TRANSACTION_DT", "CUSTOMER_ID", "PRODUCT_ID", "AMOUNT", "SALES_PRICE"),
    optional=("AGE_GROUP", "PIN_CODE", "PRODUCT_SUBCLASS", "ASSET"),
    required=True,
)


def convert(job: ImportJob) -> None:
    """Writes purchases, items and users.

    The log has dates without times: a line bears 00:00 UTC of the shop's date, so that days stay days.
    SALES_PRICE and ASSET are the line's takings and cost; `price` and `cost` are an item's latest per unit.
    """
    lines = job.screen(
        LINES,
        f"""
        SELECT CUSTOMER_ID AS user_id, PRODUCT_ID AS item_id,
            {from_text("TRANSACTION_DT", "%m/%d/%Y", "%Y/%m/%d", "%m/%d/%Y %H:%M:%S")} AS timestamp,
            TRY_CAST(AMOUNT AS DOUBLE) AS quantity, TRY_CAST(SALES_PRICE AS DOUBLE) AS amount,
            TRY_CAST(ASSET AS DOUBLE) AS asset, CAST(PRODUCT_SUBCLASS AS VARCHAR) AS category,
            trim(CAST(AGE_GROUP AS VARCHAR)) AS age_band, trim(CAST(PIN_CODE AS VARCHAR)) AS region
        FROM {job.raw(LINES)}
        """,
        {
            "CUSTOMER_ID is missing": "user_id IS NULL",
            "PRODUCT_ID is missing": "item_id IS NULL",
            "TRANSACTION_DT is not a date": "timestamp IS NULL",
            "AMOUNT is not a number of units": "coalesce(quantity <= 0, true)",
            "SALES_PRICE is not a price": "coalesce(amount < 0, true)",
        },
    )
    user_type, item_type = job.id_type("user_id", lines), job.id_type("item_id", lines)
    job.write(
        "events",
        f"""
        SELECT CAST(user_id AS {user_type}) AS user_id, 'purchase' AS event, timestamp,
            CAST(item_id AS {item_type}) AS item_id, quantity, amount
        FROM {lines}
        """,
    )
    job.write(
        "items",
        f"""
        SELECT CAST(item_id AS {item_type}) AS item_id, arg_max(category, timestamp) AS category,
            arg_max(amount / quantity, timestamp) AS price, arg_max(asset / quantity, timestamp) AS cost
        FROM {lines} GROUP BY 1 ORDER BY 1
        """,
    )
    job.write(
        "users",
        f"""
        SELECT CAST(user_id AS {user_type}) AS user_id, arg_max(age_band, timestamp) AS age_band,
            arg_max(region, timestamp) AS region
        FROM {lines} GROUP BY 1 ORDER BY 1
        """,
    )


TAFENG = Source(
    name="tafeng",
    description="Ta Feng: four months of a Taiwanese grocer's tills, with age groups and costs",
    licence="published for research",
    homepage="https://www.kaggle.com/datasets/chiranjivdas09/ta-feng-grocery-dataset",
    layouts=(LINES,),
    convert=convert,
)
