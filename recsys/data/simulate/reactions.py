"""What viewers do with a product that they see on air or on the shelf: click, talk, cart and buy."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from recsys.data.simulate.audience import Sessions
from recsys.data.simulate.floor import Visits
from recsys.data.simulate.heat import Promotions, Signals, life_cycle
from recsys.data.simulate.log import SOURCES, events
from recsys.data.simulate.params import DAY_MS, MINUTE_MS, stream
from recsys.data.simulate.schedule import Schedule
from recsys.data.simulate.utility import progress
from recsys.data.simulate.world import World
from recsys.slices import expand
from recsys.types import Behaviour, BoolArray, FloatArray, IntArray, LongArray

#: A product seen for less than this makes no impression.
_GLANCE_MS = 15_000
#: Products that the shelf is filled from on one day.
_SHELF_STOCK = 400


@dataclass(frozen=True)
class Sightings:
    """A user sees a product between two moments (N,); room -1 is the shelf."""

    user: IntArray
    item: IntArray
    room: IntArray
    streamer: IntArray
    from_ms: LongArray
    to_ms: LongArray
    shopping: BoolArray

    @classmethod
    def joined(cls, first: Sightings, second: Sightings) -> Sightings:
        """Two lots of sightings as one."""
        return cls(*(np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(cls)))


@dataclass(frozen=True)
class Purchases:
    """Orders (N,) as users place them; the warehouse may turn some down."""

    user: IntArray
    item: IntArray
    room: IntArray
    streamer: IntArray
    at_ms: LongArray
    quantity: IntArray
    amount: FloatArray

    @classmethod
    def joined(cls, parts: list[Purchases]) -> Purchases:
        """Several lots of orders as one."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def where(self, rows: np.ndarray) -> Purchases:
        """The purchases that `rows`, a mask or indices, names."""
        return Purchases(*(getattr(self, f.name)[rows] for f in fields(self)))


def on_air_sightings(visits: Visits, sessions: Sessions, schedule: Schedule) -> Sightings:
    """One sighting for each showcase that overlaps a visit."""
    first = schedule.slot(visits.room, visits.start_ms)
    last = schedule.slot(visits.room, visits.end_ms)
    slot, visit = expand(first, last - first + 1)
    start = np.maximum(schedule.slot_start[slot] * MINUTE_MS, visits.start_ms[visit])
    end = np.minimum(schedule.slot_end[slot] * MINUTE_MS - 1, visits.end_ms[visit])
    seen = end - start >= _GLANCE_MS
    visit, slot = visit[seen], slot[seen]
    return Sightings(
        user=visits.user[visit],
        item=schedule.slot_item[slot],
        room=visits.room[visit],
        streamer=visits.streamer[visit],
        from_ms=start[seen],
        to_ms=end[seen],
        shopping=sessions.shopping[visits.session[visit]],
    )


class Shoppers:
    """Turns sightings into events and orders, by the funnel of `PurchaseParams`."""

    def __init__(self, world: World, schedule: Schedule, promotions: Promotions) -> None:
        self._world = world
        self._schedule = schedule
        self._promotions = promotions

    def react(
        self, visits: Visits, sessions: Sessions, heat: Signals, day: int
    ) -> tuple[list[np.ndarray], Purchases]:
        """Events of one day's visits and shelf pages, and the orders placed."""
        shelf, log = self._shelf(sessions, heat, day)
        seen = Sightings.joined(on_air_sightings(visits, sessions, self._schedule), shelf)
        discount = self._promotions.discounts(day, self._world.params.items)
        reactions, orders = self._funnel(seen, heat, discount, stream(self._world.params.seed, "funnel", day))
        talk = self._talk(seen, heat, stream(self._world.params.seed, "talk", day))
        return [*log, *reactions, *talk], orders

    def appeal(self, user: IntArray, item: IntArray, at_ms: LongArray) -> FloatArray:
        """(N,) ln of how much more than usual each user wants the product beside it."""
        world, weight = self._world, self._world.params.purchase
        taste = world.users.taste(user, progress(world.params, at_ms))
        liking = np.einsum("nd,nd->n", taste, world.items.vector[item])
        misfit = (world.items.price_level[item] - world.users.wallet[user]) ** 2
        wanted: FloatArray = weight.taste * (liking - 0.25) - weight.price * (misfit - 1)
        return wanted

    def _shelf(self, sessions: Sessions, heat: Signals, day: int) -> tuple[Sightings, list[np.ndarray]]:
        """The shelf page of some sessions: popular products, those that suit the user first."""
        world, traffic = self._world, self._world.params.traffic
        rng = stream(world.params.seed, "shelf", day)
        looks = np.flatnonzero(rng.random(len(sessions.user)) < traffic.shelf)
        user = sessions.user[looks]
        at = sessions.start_ms[looks]
        wanted = life_cycle(world.items, day) * heat.demand**0.5
        stock = np.argsort(-(np.log(np.maximum(wanted, 1e-9)) + rng.gumbel(size=len(wanted))))[:_SHELF_STOCK]
        stock = np.sort(stock[wanted[stock] > 0]).astype(np.int32)
        size = min(traffic.shelf_size, len(stock))
        if not size or not len(looks):
            none, moments = np.zeros(0, np.int32), np.zeros(0, np.int64)
            return Sightings(none, none, none, none, moments, moments, np.zeros(0, bool)), []
        vectors = world.items.vector[stock]
        score = world.params.purchase.taste * world.users.taste(user, progress(world.params, at)) @ vectors.T
        score = score + rng.gumbel(size=score.shape)
        page: IntArray = stock[np.argsort(-score, axis=1)[:, :size]].astype(np.int32)
        position = np.broadcast_to(np.arange(1, size + 1), page.shape)
        rows = np.repeat(np.arange(len(looks)), size)
        start = at[rows] + position.ravel() * 3_000
        impressions = events(
            Behaviour.IMPRESSION,
            start,
            user=user[rows],
            item=page.ravel(),
            position=position.ravel(),
            source=SOURCES.index("shelf"),
        )
        # Lower places are looked at less: of those not looked at, only the impression remains.
        looked = rng.random(len(rows)) < 1 / position.ravel() ** 0.5
        nowhere = np.full(int(looked.sum()), -1, np.int32)
        sightings = Sightings(
            user=user[rows][looked],
            item=page.ravel()[looked],
            room=nowhere,
            streamer=nowhere,
            from_ms=start[looked],
            to_ms=start[looked] + 150_000,
            shopping=sessions.shopping[looks][rows][looked],
        )
        return sightings, [impressions]

    def _funnel(
        self, seen: Sightings, heat: Signals, discount: FloatArray, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], Purchases]:
        world, rates = self._world, self._world.params.purchase
        n, item = len(seen.user), seen.item
        want = np.exp(self.appeal(seen.user, item, seen.from_ms))
        mood = np.where(seen.shopping, rates.shopping_interest, 1.0)
        offer = 1 + discount[item]
        moments = seen.from_ms + np.cumsum(rng.dirichlet((1, 1, 1, 1), n)[:, :3], axis=1).T * (
            seen.to_ms - seen.from_ms
        )
        click_ms, cart_ms, buy_ms = moments.astype(np.int64)
        clicks = rng.random(n) < np.minimum(rates.click * want * mood * offer * heat.click[item], 0.9)
        cart = rates.cart * (want * mood) ** 0.5 * offer * heat.cart[item]
        carts = clicks & (rng.random(n) < np.minimum(cart, 0.9))
        eager = np.where(seen.shopping, 1.0, rates.idle_buy)
        buys = carts & (rng.random(n) < np.minimum(rates.buy * eager * offer * heat.buy[item], 0.95))
        likes = clicks & (rng.random(n) < rates.favourite * 5 * np.minimum(want, 4))
        source = np.where(seen.room < 0, SOURCES.index("shelf"), SOURCES.index("room"))
        about = {
            "user": seen.user,
            "item": item,
            "room": seen.room,
            "streamer": seen.streamer,
            "source": source,
        }

        def of(rows: np.ndarray) -> dict[str, np.ndarray]:
            return {name: column[rows] for name, column in about.items()}

        later = rng.random(n) < rates.later
        pause = rng.integers(5 * MINUTE_MS, 90 * MINUTE_MS, n)
        quantity = 1 + rng.poisson(0.8, n)
        price = np.round(world.items.price[item] * (1 - discount[item]), 2)
        orders = Purchases(
            user=seen.user,
            item=item,
            room=np.where(later, -1, seen.room),
            streamer=seen.streamer,
            at_ms=np.where(later, buy_ms + pause, buy_ms),
            quantity=quantity.astype(np.int32),
            amount=np.round(price * quantity, 2).astype(np.float32),
        ).where(buys)
        return [
            events(Behaviour.CLICK, click_ms[clicks], **of(clicks)),
            events(Behaviour.CART, cart_ms[carts], quantity=1, **of(carts)),
            events(Behaviour.FAVOURITE, cart_ms[likes], **of(likes)),
        ], orders

    def _talk(self, seen: Sightings, heat: Signals, rng: np.random.Generator) -> list[np.ndarray]:
        """Comments and shares in a room, owed to the product on air."""
        rates = self._world.params.purchase
        in_room = seen.room >= 0
        log = []
        for behaviour, rate, multiple in (
            (Behaviour.COMMENT, rates.comment, heat.comment),
            (Behaviour.SHARE, rates.share, heat.share),
        ):
            does = in_room & (rng.random(len(in_room)) < rate * multiple[seen.item])
            at = seen.from_ms + (rng.random(len(in_room)) * (seen.to_ms - seen.from_ms)).astype(np.int64)
            log.append(
                events(
                    behaviour,
                    at[does],
                    user=seen.user[does],
                    item=seen.item[does],
                    room=seen.room[does],
                    streamer=seen.streamer[does],
                )
            )
        return log


def purchase_events(orders: Purchases) -> np.ndarray:
    """The log's rows of orders that were filled."""
    source = np.where(orders.room >= 0, SOURCES.index("room"), SOURCES.index("cart"))
    source = np.where((orders.room < 0) & (orders.streamer < 0), SOURCES.index("shelf"), source)
    return events(
        Behaviour.PURCHASE,
        orders.at_ms,
        user=orders.user,
        item=orders.item,
        room=orders.room,
        streamer=orders.streamer,
        quantity=orders.quantity,
        amount=orders.amount,
        source=source,
    )


def refunds(
    orders: Purchases, return_rate: FloatArray, rng: np.random.Generator
) -> tuple[BoolArray, np.ndarray]:
    """Returns of filled orders, days later and in full, at each product's own rate.

    Returns:
        (N,) which orders come back, and the log's rows of those returns.
    """
    returned: BoolArray = rng.random(len(orders.user)) < return_rate[orders.item]
    back = orders.where(returned)
    delay_days = 1.5 + rng.gamma(3.0, 1.4, len(back.user)).clip(0, 12)
    return returned, events(
        Behaviour.REFUND,
        back.at_ms + (delay_days * DAY_MS).astype(np.int64),
        user=back.user,
        item=back.item,
        streamer=back.streamer,
        quantity=back.quantity,
        amount=back.amount,
    )
