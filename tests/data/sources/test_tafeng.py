from collections.abc import Callable

from tests.data.sources.conftest import Imported, utc

LINES = """TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,ASSET,SALES_PRICE
11/1/2000,01104905,45-49 ,115,110411,4710199010372,2,24,30
11/2/2000,00418683,45-49 ,115,120107,4710857472535,1,48,46
11/3/2000,01104905,50-54 ,115,110411,4710199010372,4,40,80
11/3/2000,01104905,50-54 ,115,110411,4710199010372,0,40,80
32/13/2000,01104905,50-54 ,115,110411,4710199010372,1,40,80
"""


def test_purchases_items_and_users(imported: Callable[..., Imported]) -> None:
    found, summary = imported("tafeng", {"ta_feng_all_months_merged.csv": LINES})
    bought = {"event": "purchase", "item_id": 4710199010372}
    assert found == {
        "events": [
            {"user_id": "01104905", "timestamp": utc("2000-11-01"), "quantity": 2.0, "amount": 30.0} | bought,
            {"user_id": "00418683", "timestamp": utc("2000-11-02"), "quantity": 1.0, "amount": 46.0}
            | bought
            | {"item_id": 4710857472535},
            {"user_id": "01104905", "timestamp": utc("2000-11-03"), "quantity": 4.0, "amount": 80.0} | bought,
        ],
        "items": [
            {"item_id": 4710199010372, "category": "110411", "price": 20.0, "cost": 10.0},
            {"item_id": 4710857472535, "category": "120107", "price": 46.0, "cost": 48.0},
        ],
        "users": [
            {"user_id": "00418683", "age_band": "45-49", "region": "115"},
            {"user_id": "01104905", "age_band": "50-54", "region": "115"},
        ],
    }
    assert summary.skipped == {
        "lines": {"AMOUNT is not a number of units": 1, "TRANSACTION_DT is not a date": 1}
    }
