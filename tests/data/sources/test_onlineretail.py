from collections.abc import Callable

from tests.data.sources.conftest import Imported, utc

FIRST = """Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country
489434,85048,15CM CHRISTMAS GLASS BALL,12,2009-12-01 07:45:00,6.95,13085.0,United Kingdom
536365,85123A, WHITE HANGING HEART ,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
C489449,85048,15CM CHRISTMAS GLASS BALL,-12,2009-12-01 10:33:00,6.95,16321.0,Australia
489500,85048,damages,3,2009-12-01 11:00:00,0,,United Kingdom
489501,85048,gone,-3,2009-12-01 11:00:00,1,,United Kingdom
"""
SECOND = '''InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom
536544,85123A,"HEART, ""NEW""",2,12/1/2010 14:32,2.5,,United Kingdom
'''


def test_halves_are_joined_repeats_dropped_and_cancellations_refunded(
    imported: Callable[..., Imported],
) -> None:
    found, summary = imported("onlineretail", {"Year 2009-2010.csv": FIRST, "Year 2010-2011.csv": SECOND})
    assert found == {
        "events": [
            {"user_id": "13085", "event": "purchase", "timestamp": utc("2009-12-01T07:45")}
            | {"item_id": "85048", "quantity": 12.0, "amount": 12 * 6.95},
            {"user_id": "16321", "event": "refund", "timestamp": utc("2009-12-01T10:33")}
            | {"item_id": "85048", "quantity": 12.0, "amount": 12 * 6.95},
            {"user_id": "17850", "event": "purchase", "timestamp": utc("2010-12-01T08:26")}
            | {"item_id": "85123A", "quantity": 6.0, "amount": 6 * 2.55},
            {"user_id": "guest-536544", "event": "purchase", "timestamp": utc("2010-12-01T14:32")}
            | {"item_id": "85123A", "quantity": 2.0, "amount": 5.0},
        ],
        "items": [
            {"item_id": "85048", "price": 6.95, "title": "15CM CHRISTMAS GLASS BALL"},
            {"item_id": "85123A", "price": 2.5, "title": 'HEART, "NEW"'},
        ],
        "users": [
            {"user_id": "13085", "region": "United Kingdom"},
            {"user_id": "16321", "region": "Australia"},
            {"user_id": "17850", "region": "United Kingdom"},
            {"user_id": "guest-536544", "region": "United Kingdom"},
        ],
    }
    assert summary.skipped == {
        "lines": {"Price is zero or less": 1, "Quantity is zero or less": 1, "line repeats another": 1}
    }
