"""Online Retail and Online Retail II: two years of a British gift wholesaler's invoices (2009 to 2011)."""

from __future__ import annotations

from recsys.data.sources.job import ImportJob, Source, from_text
from recsys.data.sources.raw import Layout

LINES = Layout(
    "lines",
    (
        "Invoice|InvoiceNo",
        "StockCode",
        "Description",
        "Quantity",
        "InvoiceDate",
        "Price|UnitPrice",
        "CustomerID",
    ),
    optional=("Country",),
    required=True,
)


def convert(job: ImportJob) -> None:
    """Writes purchases and refunds, items and users.

    Lines that repeat another in every column are dropped: the two yearly files overlap in December 2010. An
    invoice that begins with C is a cancellation, here a `refund` of positive quantity and amount. Lines
    without a customer still tell what sold: their user is `guest-<invoice>`. Times are the shop's clock,
    read as UTC.
    """
    read = f"""
        SELECT CAST(Invoice AS VARCHAR) AS invoice, CAST(StockCode AS VARCHAR) AS item_id,
            trim(Description) AS title, TRY_CAST(Quantity AS DOUBLE) AS quantity,
            {from_text("InvoiceDate", "%m/%d/%Y %H:%M")} AS timestamp, TRY_CAST(Price AS DOUBLE) AS price,
            regexp_replace(CAST(CustomerID AS VARCHAR), '\\.0$', '') AS customer,
            CAST(Country AS VARCHAR) AS region
        FROM {job.raw(LINES)}
    """
    lines = job.screen(
        LINES,
        f"""
        SELECT *, starts_with(invoice, 'C') AS cancelled, coalesce(customer, 'guest-' || invoice) AS user_id,
            row_number() OVER (
                PARTITION BY invoice, item_id, title, quantity, timestamp, price, customer, region
            ) AS repeat
        FROM ({read})
        """,
        {
            "line repeats another": "repeat > 1",
            "Invoice is missing": "invoice IS NULL",
            "StockCode is missing": "item_id IS NULL",
            "InvoiceDate cannot be read": "timestamp IS NULL",
            "Quantity is zero or less": "coalesce(quantity = 0 OR quantity < 0 AND NOT cancelled, true)",
            "Price is zero or less": "coalesce(price <= 0, true)",
        },
    )
    job.write(
        "events",
        f"""
        SELECT user_id, CASE WHEN cancelled THEN 'refund' ELSE 'purchase' END AS event, timestamp, item_id,
            abs(quantity) AS quantity, abs(quantity) * price AS amount
        FROM {lines} ORDER BY timestamp, invoice, item_id, quantity, price
        """,
    )
    job.write(
        "items",
        f"""
        SELECT item_id, arg_max(price, timestamp) FILTER (WHERE NOT cancelled) AS price,
            arg_max(title, timestamp) FILTER (WHERE title <> '') AS title
        FROM {lines} GROUP BY 1 ORDER BY 1
        """,
    )
    job.write(
        "users", f"SELECT user_id, arg_max(region, timestamp) AS region FROM {lines} GROUP BY 1 ORDER BY 1"
    )


ONLINERETAIL = Source(
    name="onlineretail",
    description="Online Retail II: two years of a British gift wholesaler's invoices and cancellations",
    licence="CC BY 4.0",
    homepage="https://archive.ics.uci.edu/dataset/502/online+retail+ii",
    layouts=(LINES,),
    convert=convert,
)
