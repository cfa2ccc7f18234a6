"""The panel's queries, in Ibis on DuckDB: one row for each item and day with something in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import pyarrow as pa

from recsys.data.dataset import Dataset
from recsys.types import Behaviour

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY_S = 86_400
DAY_US = DAY_S * 1_000_000

#: A buyer's purchases of the same item on so many days back count as repeats.
REPEAT_DAYS = 28
#: An account is new for so many days after its first event.
NEWCOMER_DAYS = 7
#: Lines above this quantile of the item's own lines are capped to it.
CAP_QUANTILE = 0.999

_LOOKED = (Behaviour.CLICK, Behaviour.VIEW, Behaviour.CART, Behaviour.FAVOURITE, Behaviour.IMPRESSION)
_CAME = (Behaviour.ENTER, Behaviour.VIEW)
#: Talk in a room that names no item is about the item on air.
_TALK = (Behaviour.COMMENT, Behaviour.SHARE, Behaviour.FOLLOW, Behaviour.LIKE, Behaviour.GIFT)

_COUNTS = {
    "impressions": (Behaviour.IMPRESSION,),
    "views": (Behaviour.VIEW, Behaviour.CLICK),
    "carts": (Behaviour.CART, Behaviour.FAVOURITE),
    "shares": (Behaviour.SHARE,),
    "comments": (Behaviour.COMMENT,),
    "follows": (Behaviour.FOLLOW,),
    "likes": (Behaviour.LIKE, Behaviour.GIFT),
}


def daily_purchases(dataset: Dataset) -> pa.Table:
    """item_idx, day (since the epoch) and the purchase channels.

    `demand` damps the buyer who repeats, so that a few buyers cannot make an item: with n lines of one buyer
    on one day, their mean units count 1 + ln(n) times, divided by one plus the number of days on which the
    same buyer bought the item in the `REPEAT_DAYS` before. A buyer is a device where the log has one, else an
    address, else a user.
    """
    events = _with_day(dataset.relation("events")).filter(lambda t: t.item_idx.notnull())
    bought = events.filter(events.behaviour == Behaviour.PURCHASE.value)
    bought = bought.mutate(units=ibis.coalesce(bought.quantity, 1.0).cast("float64"))
    caps = bought.group_by("item_idx").agg(cap=bought.units.quantile(CAP_QUANTILE))
    firsts = dataset.relation("events").group_by("user_idx").agg(first_at=lambda t: t.timestamp.min())
    looked = (
        events.filter(events.behaviour.isin([b.value for b in _LOOKED]))
        .group_by(["user_idx", "item_idx"])
        .agg(looked_at=lambda t: t.timestamp.min())
    )
    # Who is in a room sees what is on air in it.
    came = (
        dataset.relation("events")
        .filter(lambda t: t.room_idx.notnull() & t.behaviour.isin([b.value for b in _CAME]))
        .group_by(["user_idx", "room_idx"])
        .agg(came_at=lambda t: t.timestamp.min())
    )
    lines = (
        bought.join(caps, "item_idx")
        .join(firsts, "user_idx")
        .left_join(looked, ["user_idx", "item_idx"])
        .drop("user_idx_right", "item_idx_right")
        .left_join(came, ["user_idx", "room_idx"])
        .mutate(
            newcomer=lambda t: t.timestamp < t.first_at + ibis.interval(days=NEWCOMER_DAYS),
            unseen=lambda t: (
                ~((t.looked_at < t.timestamp).fill_null(False) | (t.came_at <= t.timestamp).fill_null(False))
            ),
        )
    )
    buyer_days = lines.group_by(["item_idx", "buyer", "day"]).agg(
        orders=lambda t: t.count(),
        raw_units=lambda t: t.units.sum(),
        units=lambda t: ibis.least(t.units, t.cap).sum(),
        amount=lambda t: t.amount.sum(),
        newcomer_orders=lambda t: t.newcomer.sum(),
        unseen_orders=lambda t: t.unseen.sum(),
    )
    earlier = ibis.range_window(
        preceding=REPEAT_DAYS, following=0, group_by=["item_idx", "buyer"], order_by="day"
    )
    ever = ibis.cumulative_window(group_by=["item_idx", "buyer"], order_by="day")
    buyer_days = buyer_days.mutate(
        days_bought=lambda t: t.count().over(earlier), nth_day=lambda t: t.count().over(ever)
    )
    daily = buyer_days.group_by(["item_idx", "day"]).agg(
        units=lambda t: t.units.sum(),
        amount=lambda t: t.amount.sum(),
        orders=lambda t: t.orders.sum(),
        buyers=lambda t: t.count(),
        new_buyers=lambda t: (t.nth_day == 1).sum(),
        demand=lambda t: (t.raw_units / t.orders * (1 + t.orders.ln()) / t.days_bought).sum(),
        newcomer_orders=lambda t: t.newcomer_orders.sum(),
        unseen_orders=lambda t: t.unseen_orders.sum(),
    )
    return daily.to_pyarrow()


def daily_activity(dataset: Dataset) -> pa.Table:
    """item_idx, day (since the epoch) and the channels of everything but purchases.

    A view's seconds are counted on the day on which it was over; a view that is not over has none.
    """
    events = _with_day(dataset.relation("events"))
    named = events.filter(events.item_idx.notnull())
    about = named.union(_talk_on_air(dataset, events)) if len(dataset.showcases) else named

    def count(behaviours: tuple[Behaviour, ...]) -> ir.IntegerScalar:
        return about.behaviour.isin([b.value for b in behaviours]).sum()

    refund = about.behaviour == Behaviour.REFUND.value
    looks = about.behaviour.isin([Behaviour.VIEW.value, Behaviour.CLICK.value])
    daily = about.group_by(["item_idx", "day"]).agg(
        **{name: count(behaviours) for name, behaviours in _COUNTS.items()},
        viewers=about.user_idx.nunique(where=looks),
        returns=ibis.coalesce(about.quantity, 1.0).sum(where=refund),
        rooms=about.room_idx.nunique(),
        streamers=about.streamer_idx.nunique(),
        watch_s=ibis.literal(0.0),
    )
    watched = named.filter((named.behaviour == Behaviour.VIEW.value) & named.duration_s.notnull())
    over_s = watched.timestamp.epoch_seconds() + watched.duration_s.cast("int64")
    watched = watched.mutate(over_day=(over_s // DAY_S).cast("int32"))
    seconds = watched.group_by(["item_idx", "over_day"]).agg(seconds=watched.duration_s.sum())
    both = daily.outer_join(seconds, (daily.item_idx == seconds.item_idx) & (daily.day == seconds.over_day))
    names = [*_COUNTS, "viewers", "returns", "rooms", "streamers"]
    return both.select(
        item_idx=ibis.coalesce(both.item_idx, both.item_idx_right),
        day=ibis.coalesce(both.day, both.over_day),
        watch_s=both.seconds,
        **{name: both[name] for name in names},
    ).to_pyarrow()


def daily_airtime(dataset: Dataset) -> pa.Table:
    """item_idx, day (since the epoch), minutes on air and number of pitches.

    Minutes count on the day on which they pass. A showcase that is still on air counts up to `as_of`; one
    that lasts beyond the day after its start is cut there.
    """
    shown = dataset.relation("showcases")
    as_of = ibis.literal(dataset.as_of.replace(tzinfo=None))
    start_s = shown.started_at.epoch_seconds()
    shown = shown.mutate(
        day=(start_s // DAY_S).cast("int32"),
        start_s=start_s,
        end_s=ibis.coalesce(shown.ended_at, as_of).epoch_seconds(),
    )
    midnight_s = (shown.day.cast("int64") + 1) * DAY_S
    same_day = shown.select(
        "item_idx",
        "day",
        minutes=(ibis.least(shown.end_s, midnight_s) - shown.start_s) / 60.0,
        pitches=ibis.literal(1, "int64"),
    )
    next_day = shown.filter(shown.end_s > midnight_s).select(
        "item_idx",
        day=(shown.day + 1).cast("int32"),
        minutes=(ibis.least(shown.end_s, midnight_s + DAY_S) - midnight_s) / 60.0,
        pitches=ibis.literal(0, "int64"),
    )
    daily = same_day.union(next_day).group_by(["item_idx", "day"])
    return daily.agg(airtime_min=lambda t: t.minutes.sum(), pitches=lambda t: t.pitches.sum()).to_pyarrow()


def _with_day(events: ir.Table) -> ir.Table:
    return events.mutate(
        day=(events.timestamp.epoch_seconds() // DAY_S).cast("int32"),
        buyer=ibis.coalesce(
            "d" + events.device_id, "a" + events.address_id, "u" + events.user_idx.cast("string")
        ),
    )


def _talk_on_air(dataset: Dataset, events: ir.Table) -> ir.Table:
    """Talk in a room that names no item, as events of the item that was on air then."""
    talk = events.filter(
        events.item_idx.isnull() & events.room_idx.notnull() & events.behaviour.isin([b.value for b in _TALK])
    ).drop("item_idx")
    shown = dataset.relation("showcases").rename(on_air_room="room_idx")
    # The end of a showcase that is later than `as_of` is unknown, and then it is still on air.
    matched = talk.asof_join(
        shown, on=talk.timestamp >= shown.started_at, predicates=talk.room_idx == shown.on_air_room
    )
    on_air = matched.filter(
        matched.item_idx.notnull() & (matched.ended_at.isnull() | (matched.timestamp < matched.ended_at))
    )
    return on_air.select(events.columns)
