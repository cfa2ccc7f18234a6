"""The panel: what happened to every item on every day, and in live commerce in every hour, as of a moment.

A cell is what was known at the end of its day and never changes after: a view's seconds are counted on the
day on which it ended, a showcase's minutes on the day on which they passed. The panel as of an earlier day is
therefore a prefix of the panel as of a later one, and features of past origins can be cut from one panel; but
for `units`, whose caps read later lines, and for a gap in the log that has only just begun, not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import Dataset, Entities, from_us, to_us
from recsys.durations import DAY_US
from recsys.errors import DataError
from recsys.hot.days import Days
from recsys.hot.hours import HOURS, Hours
from recsys.hot.queries import daily_activity, daily_airtime, daily_purchases, hourly_activity
from recsys.hot.stock import as_in_stock, sold_out
from recsys.hot.trust import COUNTED_BY_BUYER, COUNTED_BY_LINE, Trust
from recsys.hot.windows import RowStarts, RowTotal, WindowSums
from recsys.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Callable


#: Channels of a panel; one that the log has nothing for is left out.
PURCHASE_CHANNELS = (
    "units",  # units bought, lines above the item's 99.9th percentile capped to it
    "amount",  # money paid
    "unit_price",  # money paid a unit, of the lines that say what was paid
    "usual_units",  # units bought, of one buyer in a day no more than is usual (see `quantities`)
    "usual_amount",  # money paid for those
    "orders",  # purchase lines
    "buyers",  # different buyers, by device or address where logged
    "new_buyers",  # buyers who had not bought the item before
    "demand",  # units, repeats of a buyer damped (see `queries.daily_purchases`)
    "newcomer_orders",  # lines by accounts less than a week old
    "unseen_orders",  # lines whose buyer had not looked at the item before
    "newcomer_buyers",  # the same of buyers: the share of a buyer's lines that day
    "unseen_buyers",
)
ACTIVITY_CHANNELS = (
    "impressions",
    "views",
    "viewers",
    "watch_s",
    "carts",
    "shares",
    "comments",
    "follows",
    "likes",
    "returns",
    "rooms",
    "streamers",
)
AIRTIME_CHANNELS = ("airtime_min", "pitches")
#: Begins the channels that are believed in place of those of the rest of the name.
USUAL = "usual_"
#: And "sold_out", 1 on days on which an item was out of stock: see `recsys.hot.stock`.


@dataclass(frozen=True)
class Promotions:
    """P promotions; days count from the panel's first day, and the end is the first day without.

    Attributes:
        item_idx: (P,) int32.
        start_day, end_day: (P,) int32.
        announced_day: (P,) int32; known at origins after this day.
        discount: (P,) float32 share of the price taken off, 0 where the log says none.
        strength: (P,) float32 in [0, 1]: the log's own first numeric extra column (such as stores) over its
            maximum; 1 where the log has none.
        kind: (P,) int32 code, most common first.
        kinds: names of the codes.
    """

    item_idx: IntArray
    start_day: IntArray
    end_day: IntArray
    announced_day: IntArray
    discount: FloatArray
    strength: FloatArray
    kind: IntArray
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.item_idx)

    def known(self, origin: int) -> BoolArray:
        """(P,) which had been announced before the start of day `origin`."""
        return self.announced_day < origin


@dataclass(frozen=True)
class Panel:
    """Daily facts of n items over D days, sparse: one row for each item and day on which anything happened.

    Attributes:
        days: which days those are; the panel is as of the start of day D, which is not in it.
        n_items: items known as of then; `item_idx` is below it.
        item_idx, day: (R,) int32, sorted by item, then day.
        channels: name -> (R,) float32.
        promotions: announced before day D.
        trust: in the items' orders.
        listed_day: (n,) int32 day on which the catalogue says that each was listed; below 0 where it lies
            before the log, or the catalogue does not say.
        hours: the same hour by hour, where the log has live rooms.
    """

    days: Days
    n_items: int
    item_idx: IntArray
    day: IntArray
    channels: Mapping[str, FloatArray]
    promotions: Promotions
    trust: Trust
    listed_day: IntArray
    hours: Hours | None = None

    @property
    def n_days(self) -> int:
        """D."""
        return len(self.days)

    @cached_property
    def believed(self) -> Panel:
        """What features read and what is learnt: what was bought counts as far as the items are trusted, and
        on days out of stock as on those before.

        Not of a panel of some items: trust is in the items of the whole.
        """
        trust = {
            **dict.fromkeys(COUNTED_BY_BUYER, self.trust.in_buyers(self.item_idx, self.day)),
            **dict.fromkeys(COUNTED_BY_LINE, self.trust.in_orders(self.item_idx, self.day)),
        }
        believed = dict(self.channels)
        for name, values in self.channels.items():
            if name.startswith(USUAL):
                believed[name.removeprefix(USUAL)] = values
        believed |= {name: values * trust[name] for name, values in believed.items() if name in trust}
        if self.has("sold_out"):
            rows = self.rows("sold_out") > 0, self.item_idx, self.day, self.first_day_of, self.n_days
            believed |= {name: as_in_stock(believed[name], *rows) for name in trust if name in believed}
        hours = self.hours
        if hours is not None and "orders" in hours.channels:
            in_orders = self.trust.in_orders(hours.item_idx, hours.hour // HOURS)
            by_hour = {**hours.channels, "orders": hours.channels["orders"] * in_orders}
            hours = replace(hours, channels=by_hour)
        return replace(self, channels=believed, hours=hours)

    def has(self, channel: str) -> bool:
        """Whether the log says anything about the channel."""
        return channel in self.channels

    def rows(self, channel: str) -> FloatArray:
        """(R,) float32 values, 0 where the log says nothing of the channel."""
        return self.channels.get(channel, np.zeros(len(self.day), dtype=np.float32))

    def dense(self, channel: str) -> FloatArray:
        """(n, D) float32 values, 0 where nothing happened."""
        table = np.zeros((self.n_items, self.n_days), dtype=np.float32)
        if channel in self.channels:
            table[self.item_idx, self.day] = self.channels[channel]
        return table

    def by_group(self, channel: str, group: IntArray, n_groups: int) -> FloatArray:
        """(groups, D) float32 sums over the items of each group, such as a category or the whole shop.

        Args:
            channel: its name.
            group: (n,) int32 of each item, below n_groups.
            n_groups: how many there are.
        """
        cell = group[self.item_idx].astype(np.int64) * self.n_days + self.day
        sums = np.bincount(cell, weights=self.rows(channel), minlength=n_groups * self.n_days)
        return sums.reshape(n_groups, self.n_days).astype(np.float32)

    def running(self, channel: str) -> WindowSums:
        """Sums of a channel over windows of days, 0 where the log says nothing of it."""
        return self.running_of(self.rows(channel))

    def running_of(self, values: npt.NDArray[Any]) -> WindowSums:
        """Sums over windows of days of any value a row (R,)."""
        return RowTotal(values, self._starts)

    @cached_property
    def _starts(self) -> RowStarts:
        return RowStarts(self.item_idx, self.day, self.n_items, self.n_days)

    @cached_property
    def first_day_of(self) -> IntArray:
        """(n,) int32 day of each item's first event, or of its listing if that came first; D if none."""
        first = np.where(self.listed_day >= 0, self.listed_day, self.n_days).astype(np.int32)
        np.minimum.at(first, self.item_idx, self.day)
        return first

    def of_items(self, items: IntArray) -> Panel:
        """The days of some items (m,), ascending, which become items 0 to m - 1; promotions stay."""
        place = np.full(self.n_items, -1, dtype=np.int32)
        place[items] = np.arange(len(items), dtype=np.int32)
        kept = place[self.item_idx] >= 0
        return replace(
            self,
            n_items=len(items),
            listed_day=self.listed_day[items],
            item_idx=place[self.item_idx[kept]],
            day=self.day[kept],
            channels={name: values[kept] for name, values in self.channels.items()},
            hours=None if self.hours is None else self.hours.of_items(place),
        )


def default_as_of(dataset: Dataset) -> date:
    """The day after the last whole day of the log.

    The last day counts as whole if its last event is no more than two hours earlier in the day than is usual
    in the four weeks before.
    """
    last_us = int(dataset.events.timestamp_us[-1])
    last_day = last_us // DAY_US
    recent = dataset.events.timestamp_us[dataset.events.timestamp_us >= (last_day - 28) * DAY_US]
    day, within = recent // DAY_US, recent % DAY_US
    ends = np.r_[np.flatnonzero(np.diff(day)), len(day) - 1]
    usual = np.median(within[ends])
    whole = within[-1] >= usual - 2 * DAY_US / 24 or len(ends) == 1
    return from_us(int(last_day + whole) * DAY_US).date()


def build_panel(
    dataset: Dataset, *, as_of: date | None = None, progress: Callable[[int, int, str], None] | None = None
) -> Panel:
    """The daily panel of everything before the start of the day `as_of`, UTC.

    Args:
        dataset: the log; `as_of` may be any day from its second to the day after its last event.
        as_of: by default the day after the log's last whole day, see `default_as_of`.
        progress: called as progress(done, total, text).

    Raises:
        DataError: nothing is known before that day, or no event of the log is about an item.
    """
    day = default_as_of(dataset) if as_of is None else as_of
    as_of_us = to_us(datetime(day.year, day.month, day.day))
    known = dataset.until(as_of_us) if as_of_us < dataset.as_of_us else dataset
    events = known.events
    first = int(events.timestamp_us[0] // DAY_US)
    end = int(as_of_us // DAY_US)
    if as_of_us // DAY_US > dataset.as_of_us // DAY_US + 1:
        raise DataError(
            f"as of {day}: the log of {dataset.path} ends on {dataset.as_of:%Y-%m-%d};"
            " choose that day or the next"
        )
    if not (events.item_idx >= 0).any():
        raise DataError(f"{dataset.path}: no event before {day} has an item_id, so no item can turn hot")

    daily_events = np.bincount(events.timestamp_us // DAY_US - first, minlength=end - first)
    days = Days.of_events(daily_events[: end - first], first)

    def say(step: int, text: str) -> None:
        if progress is not None:
            progress(step, 5, text)

    say(0, "panel: purchases")
    tables = [daily_purchases(known)]
    say(1, "panel: views, carts and talk")
    tables.extend(daily_activity(known))
    say(2, "panel: time on air")
    tables.append(daily_airtime(known))
    hours = None
    if len(known.rooms):
        say(3, "panel: hour by hour")
        hours = Hours.of_table(hourly_activity(known), days)
    say(4, "panel: joining")
    n_items = len(known.items)
    item_idx, day_of, channels = _merge(tables, days)
    without = sold_out(item_idx, day_of, channels, len(days))
    if without.any():
        channels["sold_out"] = without.astype(np.float32)
    panel = Panel(
        days=days,
        n_items=n_items,
        item_idx=item_idx,
        day=day_of,
        channels=channels,
        promotions=_promotions(known, days, n_items),
        trust=Trust(item_idx, day_of, channels, len(days)),
        listed_day=_listed_days(known.items, days),
        hours=hours,
    )
    say(5, "panel: done")
    return panel


def _merge(tables: list[pa.Table], days: Days) -> tuple[IntArray, IntArray, dict[str, FloatArray]]:
    """Rows of all tables, which are used up, by item and day; a column of zeros is left out.

    Rows of days that the log does not have are left out: a showcase may begin before the first event.
    """
    n_days, keys = len(days), []
    for place, table in enumerate(tables):
        kept = days.has(table["day"].to_numpy())
        if not kept.all():
            tables[place] = table = table.filter(pa.array(kept))
        day = days.place(table["day"].to_numpy())
        keys.append(table["item_idx"].to_numpy().astype(np.int64) * n_days + day)
    rows = np.unique(np.concatenate(keys))
    channels: dict[str, FloatArray] = {}
    for key in keys:
        table = tables.pop(0)  # each is let go of as it is read
        position = np.searchsorted(rows, key)
        for name in table.column_names:
            if name in ("item_idx", "day"):
                continue
            values = np.zeros(len(rows), dtype=np.float32)
            values[position] = pc.fill_null(table[name].cast(pa.float32()), 0.0).to_numpy()
            if values.any():
                channels[name] = values
    return (rows // n_days).astype(np.int32), (rows % n_days).astype(np.int32), channels


def _listed_days(items: Entities, days: Days) -> IntArray:
    listed = items.column("listed_at")
    if listed is None:
        return np.full(len(items), -1, dtype=np.int32)
    day = days.place(pc.fill_null(listed.cast(pa.int64()), -1).to_numpy() // DAY_US)
    # What was listed while the log had a gap came with the last day before it, at the latest.
    return np.asarray(np.clip(day, -1, len(days) - 1), dtype=np.int32)


def _promotions(known: Dataset, days: Days, n_items: int) -> Promotions:
    table = known.promotions
    table = table.filter(pc.less(table["item_idx"], n_items))

    def number(moment: pa.ChunkedArray, later_us: int = 0) -> npt.NDArray[np.int64]:
        return np.asarray((moment.cast(pa.int64()).to_numpy() + later_us) // DAY_US)

    started = number(table["started_at"])
    start_day = days.place(started)
    # A last day less than half promoted does not count.
    end_day = days.place(number(table["ended_at"], DAY_US // 2))
    in_gap = ~days.has(started) & (start_day == end_day) & (start_day >= 0) & (start_day < len(days))
    if in_gap.any():
        table, start_day, end_day = table.filter(pa.array(~in_gap)), start_day[~in_gap], end_day[~in_gap]
    kind = pc.fill_null(table["kind"].cast(pa.string()), "promotion").combine_chunks()
    names = [
        entry["values"]
        for entry in sorted(kind.value_counts().to_pylist(), key=lambda e: (-e["counts"], e["values"]))
    ]
    codes = pc.index_in(kind, value_set=pa.array(names, pa.string())).to_numpy(zero_copy_only=False)
    announced = number(pc.coalesce(table["announced_at"], table["started_at"]))
    return Promotions(
        item_idx=table["item_idx"].to_numpy().astype(np.int32),
        start_day=start_day.astype(np.int32),
        end_day=np.maximum(end_day, start_day + 1).astype(np.int32),
        # The last day at whose start it was not known.
        announced_day=(days.place(announced + 1) - 1).astype(np.int32),
        discount=np.nan_to_num(pc.fill_null(table["discount"].cast(pa.float32()), 0.0).to_numpy()).astype(
            np.float32
        ),
        strength=_strength(table, codes),
        kind=codes.astype(np.int32),
        kinds=tuple(names),
    )


def _strength(table: pa.Table, kind: IntArray) -> FloatArray:
    contract = {"item_idx", "started_at", "ended_at", "kind", "discount", "announced_at"}
    extra = next(
        (
            name
            for name, type_ in zip(table.schema.names, table.schema.types, strict=True)
            if name not in contract and (pa.types.is_integer(type_) or pa.types.is_floating(type_))
        ),
        None,
    )
    if extra is None:
        return np.ones(len(table), dtype=np.float32)
    size = np.nan_to_num(pc.fill_null(table[extra].cast(pa.float64()), 0.0).to_numpy())
    share = np.minimum(size / max(float(size.max(initial=0.0)), 1e-9), 1.0)
    return np.asarray(share, dtype=np.float32)
