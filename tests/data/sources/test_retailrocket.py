from collections.abc import Callable

from tests.data.sources.conftest import Imported, utc

EVENTS = """timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,addtocart,248676,
1433221999827,111016,transaction,318965,4000
1433221999827,111016,wink,318965,
soon,111016,view,318965,
1433221999827,,view,318965,
"""


def test_events_alone(imported: Callable[..., Imported]) -> None:
    found, summary = imported("retailrocket", {"events.csv": EVENTS})
    assert found == {
        "events": [
            {
                "user_id": 257597,
                "event": "view",
                "timestamp": utc("2015-06-02T05:02:12.117"),
                "item_id": 355908,
            },
            {
                "user_id": 992329,
                "event": "cart",
                "timestamp": utc("2015-06-02T05:50:14.164"),
                "item_id": 248676,
            },
            {
                "user_id": 111016,
                "event": "purchase",
                "timestamp": utc("2015-06-02T05:13:19.827"),
                "item_id": 318965,
            },
        ]
    }
    assert summary.skipped == {
        "events": {
            "event is none of view, addtocart, transaction": 1,
            "timestamp is not a number of milliseconds": 1,
            "visitorid is missing": 1,
        }
    }


def test_latest_category_and_price_become_the_items(imported: Callable[..., Imported]) -> None:
    found, _ = imported(
        "retailrocket",
        {
            "events.csv": EVENTS,
            "item_properties_part1.csv": "timestamp,itemid,property,value\n"
            "1435460400000,355908,categoryid,1338\n"
            "1435460400000,355908,888,1116713 960601 n277.200\n"
            "1435460400000,355908,790,n1234.000\n",
            "item_properties_part2.csv": "timestamp,itemid,property,value\n"
            "1441508400000,355908,790,n15360.000\n"
            "1433041200000,355908,790,n1.000\n"
            "1433041200000,7,790,no price\n",
            "category_tree.csv": "categoryid,parentid\n1338,1278\n231,\n",
        },
    )
    assert found["items"] == [
        {"item_id": 7, "category": None, "price": None, "parent_category": None},
        {"item_id": 355908, "category": "1338", "price": 15360.0, "parent_category": "1278"},
    ]
