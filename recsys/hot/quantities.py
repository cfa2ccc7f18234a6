"""How much of what one buyer takes of an item in a day is usual: a quantity is not as good as so many buyers.

One order of a thousand, mistyped or faked, must not make an item, nor take one off the list as hot already.
With b the units of one buyer and day, taken as lognormal, and everything from the days before alone:

    m      the mean of ln b over the shop
    u      (sum of ln b of the item + PRIOR m) / (its number + PRIOR): what is usual of the item
    s      the standard deviation of ln b about u over the shop
    most = exp(u + max(DEVIATIONS s, ln LEAST_FACTOR))

What there is beyond `most` does not count. Items differ in what is usual, and shops in how far buyers stray
from it: wholesalers far, households little. The spread is the shop's since an item's own would follow the
one order that is to be doubted. On the first days, before there is a spread, nothing is doubted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import ibis

if TYPE_CHECKING:
    import ibis.expr.types as ir

#: Buyers like the shop's that every item is given.
PRIOR = 5.0
#: One in 32,000 lognormal quantities lies further above the usual; of wholesalers' one in 900 does.
DEVIATIONS = 4.0
#: Nor is less than so many times the usual doubted, where buyers hardly differ.
LEAST_FACTOR = 3.0


def most_usual(buyer_days: ir.Table) -> ir.Table:
    """item_idx, day and `most`, the units of one buyer that are usual; null where nothing is known yet.

    Args:
        buyer_days: one row for each item, buyer and day with the `units` taken, 0 or more.
    """
    logs = buyer_days.select("item_idx", "day", log=buyer_days.units.nullif(0).ln())
    items = logs.group_by(["item_idx", "day"]).agg(
        buyers=lambda t: t.log.count(), logs=lambda t: t.log.sum().coalesce(0.0)
    )
    shop = items.group_by("day").agg(buyers=lambda t: t.buyers.sum(), logs=lambda t: t.logs.sum())
    whole = ibis.cumulative_window(order_by="day")
    shop = shop.select("day", mean=_before(shop.logs, whole) / _before(shop.buyers, whole).nullif(0))
    own = ibis.cumulative_window(group_by="item_idx", order_by="day")
    usual = items.join(shop, "day").select(
        "item_idx",
        "day",
        usual=lambda t: (_before(t.logs, own) + PRIOR * t.mean) / (_before(t.buyers, own) + PRIOR),
    )
    strayed = (
        logs.join(usual, ["item_idx", "day"])
        .group_by("day")
        .agg(
            known=lambda t: (t.log - t.usual).count(),
            squares=lambda t: ((t.log - t.usual) ** 2).sum().coalesce(0.0),
        )
    )
    variance = _before(strayed.squares, whole) / _before(strayed.known, whole).nullif(0)
    # The greatest of nothing and a number is that number: before there is a spread there is to be no limit.
    above = variance.notnull().ifelse(
        ibis.greatest(DEVIATIONS * variance.sqrt(), math.log(LEAST_FACTOR)), None
    )
    spread = strayed.select("day", above=above)
    return usual.join(spread, "day").select("item_idx", "day", most=lambda t: (t.usual + t.above).exp())


def _before(value: ir.NumericColumn, window: ibis.expr.builders.WindowBuilder) -> ir.NumericValue:
    """Its sum over the rows of the window that come before this one."""
    return value.sum().over(window) - value
