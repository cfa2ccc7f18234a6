"""The panel's queries, in Ibis on DuckDB: one row for each item and day with something in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import ibis
import pyarrow as pa

from recsys.data.dataset import Dataset
from recsys.durations import DAY_S, HOUR_S
from recsys.hot.quantities import most_usual
from recsys.types import Behaviour

if TYPE_CHECKING:
    import ibis.expr.types as ir


#: A buyer's purchases of the same item on so many days back count as repeats.
REPEAT_DAYS = 28
#: An account is new for so many days after its first event.
NEWCOMER_DAYS = 7
#: Of `units`, by which it is judged what was hot: lines above this quantile of the item's are capped to it.
CAP_QUANTILE = 0.999

_KEYS = ("item_idx", "day", "hour")
_LOOKED = (Behaviour.CLICK, Behaviour.VIEW, Behaviour.CART, Behaviour.FAVOURITE, Behaviour.IMPRESSION)
_CAME = (Behaviour.ENTER, Behaviour.VIEW)
#: Talk in a room that names no item is about the item on air.
_TALK = (Behaviour.COMMENT, Behaviour.SHARE, Behaviour.FOLLOW, Behaviour.LIKE, Behaviour.GIFT)

#: What people do, counted by person: see `_by_people`.
_DOINGS = {
    "views": (Behaviour.VIEW, Behaviour.CLICK),
    "carts": (Behaviour.CART, Behaviour.FAVOURITE),
    "shares": (Behaviour.SHARE,),
    "comments": (Behaviour.COMMENT,),
    "follows": (Behaviour.FOLLOW,),
    "likes": (Behaviour.LIKE, Behaviour.GIFT),
}


def daily_purchases(dataset: Dataset) -> pa.Table:
    """item_idx, day (since the epoch) and the purchase channels.

    `usual_units` and `usual_amount` are of what a buyer takes in a day no more than is usual: see
    `recsys.hot.quantities`. `demand` damps the buyer who repeats, too, so that a few buyers cannot make an
    item: with n lines of one buyer on one day, their mean usual units count 1 + ln(n) times, divided by one
    plus the number of days on which the same buyer bought the item in the `REPEAT_DAYS` before. A buyer is a
    device where the log has one, else an address, else a user.

    `units` alone reads later lines, for its caps.
    """
    events = _with_day_and_buyer(dataset.relation("events")).filter(lambda t: t.item_idx.notnull())
    bought = events.filter(events.behaviour == Behaviour.PURCHASE.value)
    bought = bought.mutate(units=ibis.coalesce(bought.quantity, 1.0).cast("float64"))
    caps = bought.group_by("item_idx").agg(cap=bought.units.quantile(CAP_QUANTILE))
    firsts = dataset.relation("events").group_by("user_idx").agg(first_at=lambda t: t.timestamp.min())
    # Of what was bought alone: most of what is looked at is not, and would fill the memory.
    looked = (
        events.filter(events.behaviour.isin([b.value for b in _LOOKED]))
        .semi_join(bought, ["user_idx", "item_idx"])
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
        priced_units=lambda t: t.units.sum(where=t.amount.notnull()),
        newcomer_orders=lambda t: t.newcomer.sum(),
        unseen_orders=lambda t: t.unseen.sum(),
    )
    earlier = ibis.range_window(
        preceding=REPEAT_DAYS, following=0, group_by=["item_idx", "buyer"], order_by="day"
    )
    ever = ibis.cumulative_window(group_by=["item_idx", "buyer"], order_by="day")
    usual = most_usual(buyer_days.select("item_idx", "day", units=buyer_days.raw_units))
    buyer_days = buyer_days.join(usual, ["item_idx", "day"]).mutate(
        days_bought=lambda t: t.count().over(earlier),
        nth_day=lambda t: t.count().over(ever),
        usual=lambda t: ibis.least(t.raw_units, t.most.coalesce(t.raw_units)),
    )
    daily = buyer_days.group_by(["item_idx", "day"]).agg(
        units=lambda t: t.units.sum(),
        amount=lambda t: t.amount.sum(),
        unit_price=lambda t: t.amount.sum() / t.priced_units.sum().nullif(0),
        usual_units=lambda t: t.usual.sum(),
        usual_amount=lambda t: (t.amount * (t.usual / t.raw_units.nullif(0)).coalesce(1.0)).sum(),
        orders=lambda t: t.orders.sum(),
        buyers=lambda t: t.count(),
        new_buyers=lambda t: (t.nth_day == 1).sum(),
        demand=lambda t: (t.usual / t.orders * (1 + t.orders.ln()) / t.days_bought).sum(),
        newcomer_orders=lambda t: t.newcomer_orders.sum(),
        unseen_orders=lambda t: t.unseen_orders.sum(),
        newcomer_buyers=lambda t: (t.newcomer_orders / t.orders).sum(),
        unseen_buyers=lambda t: (t.unseen_orders / t.orders).sum(),
    )
    return _read(daily)


def daily_activity(dataset: Dataset) -> list[pa.Table]:
    """Tables of item_idx, day (since the epoch) and, together, the channels of everything but purchases.

    What one person does n times to an item on a day counts 1 + ln(n) times. A view's seconds are counted on
    the day on which it was over; a view that is not over has none.
    """
    about = _about_items(dataset, _with_day_and_buyer(dataset.relation("events")))
    counts = about.group_by(["item_idx", "day"]).agg(
        impressions=(about.behaviour == Behaviour.IMPRESSION.value).sum(),
        returns=ibis.coalesce(about.quantity, 1.0).sum(where=about.behaviour == Behaviour.REFUND.value),
    )
    looks = about.filter(about.behaviour.isin([b.value for b in _DOINGS["views"]]))
    watched = about.filter((about.behaviour == Behaviour.VIEW.value) & about.duration_s.notnull())
    over_s = watched.timestamp.epoch_seconds() + watched.duration_s.cast("int64")
    watched = watched.mutate(day=(over_s // DAY_S).cast("int32"))
    found = [
        counts,
        _by_people(about, "day", _DOINGS),
        _different(looks, "user_idx", "viewers"),
        _different(about, "room_idx", "rooms"),
        _different(about, "streamer_idx", "streamers"),
        watched.group_by(["item_idx", "day"]).agg(watch_s=watched.duration_s.sum()),
    ]
    return [_read(table) for table in found]


def _by_people(events: ir.Table, when: str, doings: Mapping[str, tuple[Behaviour, ...]]) -> ir.Table:
    """item_idx, day or hour, and each doing; one person's n count 1 + ln(n), who must not make a burst.

    A person is a device where the log has one, else an address, else a user. Each order counts: those are
    damped by trust.
    """
    doing = ibis.cases(
        *((events.behaviour.isin([b.value for b in behaviours]), name) for name, behaviours in doings.items())
    )
    people = (
        events.mutate(doing=doing, person=events.buyer.hash())
        .filter(lambda t: t.doing.notnull())
        .group_by(["item_idx", when, "person", "doing"])
        .agg(times=lambda t: t.count())
    )
    return people.group_by(["item_idx", when]).agg(
        **{
            name: (people.times if name == "orders" else 1 + people.times.ln())
            .sum(where=people.doing == name)
            .coalesce(0)
            for name in doings
        }
    )


def _different(events: ir.Table, column: str, name: str) -> ir.Table:
    """How many different values each item had on each day.

    Rows are made distinct before they are counted: a set for every item and day would take several times the
    memory.
    """
    rows = events.filter(events[column].notnull()).select("item_idx", "day", column).distinct()
    return rows.group_by(["item_idx", "day"]).agg(**{name: rows.count()})


def hourly_activity(dataset: Dataset) -> pa.Table:
    """item_idx, hour (since the epoch), orders and what else people did, float32.

    What the log says nothing of is left out; rows are in the order of items and hours. What one person does n
    times to an item in an hour counts 1 + ln(n) times, but orders.
    """
    logged = {behaviour for behaviour, rows in dataset.counts().items() if rows}
    counted = {"orders": (Behaviour.PURCHASE,)} | {
        name: behaviours for name, behaviours in _DOINGS.items() if logged.intersection(behaviours)
    }
    events = _with_day_and_buyer(dataset.relation("events"))
    events = events.mutate(hour=(events.timestamp.epoch_seconds() // HOUR_S).cast("int32"))
    hourly = _by_people(_about_items(dataset, events), "hour", counted)
    return _read(hourly.order_by(["item_idx", "hour"]))


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
    return _read(daily.agg(airtime_min=lambda t: t.minutes.sum(), pitches=lambda t: t.pitches.sum()))


def _read(table: ir.Table) -> pa.Table:
    """The rows, values as float32: twice as wide they would be the most that a panel holds at once."""
    narrow = {name: table[name].cast("float32") for name in table.columns if name not in _KEYS}
    return table.mutate(**narrow).to_pyarrow()


def _with_day_and_buyer(events: ir.Table) -> ir.Table:
    return events.mutate(
        day=(events.timestamp.epoch_seconds() // DAY_S).cast("int32"),
        buyer=ibis.coalesce(
            "d" + events.device_id, "a" + events.address_id, "u" + events.user_idx.cast("string")
        ),
    )


def _about_items(dataset: Dataset, events: ir.Table) -> ir.Table:
    """Events that name an item, and talk about the one that was on air."""
    named = events.filter(events.item_idx.notnull())
    return named.union(_talk_on_air(dataset, events)) if len(dataset.showcases) else named


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
