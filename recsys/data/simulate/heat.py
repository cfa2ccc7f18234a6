"""Product life cycles: launch, growth and decay, the few that turn hot, and the promotion calendar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.simulate.params import SimulationParams, stream
from recsys.data.simulate.world import Items
from recsys.types import BoolArray, FloatArray, IntArray

#: Hot demand is the product of these four, each the peak to its power.
_AIRTIME, _CLICK, _CART, _BUY = 0.35, 0.2, 0.25, 0.2
#: During the lead people put aside more than they buy: sales stay where they were.
_WAITING = 1.0


@dataclass(frozen=True)
class HotEpisodes:
    """One row (H,) an episode: days since the start of the log, fractions included.

    A decoy is talked about (shares, comments) as in a lead, and then nothing happens.
    """

    item: IntArray
    lead_day: FloatArray
    turn_day: FloatArray
    end_day: FloatArray
    peak: FloatArray
    decoy: BoolArray


@dataclass(frozen=True)
class Signals:
    """How far each product (I,) is from its usual rates on one day, as multiples; `demand` is the truth."""

    airtime: FloatArray
    click: FloatArray
    cart: FloatArray
    buy: FloatArray
    share: FloatArray
    comment: FloatArray
    follow: FloatArray
    demand: FloatArray


@dataclass(frozen=True)
class Promotions:
    """One row (P,) a promotion of a product; days since the start of the log, whole, the end excluded."""

    item: IntArray
    start_day: IntArray
    end_day: IntArray
    announced_day: IntArray
    discount: FloatArray
    festival: BoolArray

    def discounts(self, day: int, items: int) -> FloatArray:
        """(I,) the discount of each product on `day`, 0 without one."""
        running = (self.start_day <= day) & (day < self.end_day)
        discount = np.zeros(items, np.float32)
        np.maximum.at(discount, self.item[running], self.discount[running])
        return discount


def hot_episodes(params: SimulationParams, items: Items) -> HotEpisodes:
    """The products that turn hot between shortly before the log and shortly after it, one episode each."""
    rng, hot = stream(params.seed, "hot"), params.hot
    before, after = hot.hot_days[1], hot.lead_days[1]
    expected = hot.a_day * params.items * (params.days + before + after)
    n = min(rng.poisson(expected * (1 + hot.decoys)), params.items)
    turn = rng.uniform(-before, params.days + after, n)
    lead = turn - rng.uniform(*hot.lead_days, n)
    # Only a product that has been on sale for some days can be talked about.
    # What turns hot is never quite unknown: it comes from the more popular half.
    known_well = items.popularity >= np.median(items.popularity)
    order = np.argsort(-(known_well + rng.random(params.items)))[:n].astype(np.int32)
    known = items.listed_day[order] + 5 <= lead
    order, turn, lead = order[known], turn[known], lead[known]
    return HotEpisodes(
        item=order,
        lead_day=lead.astype(np.float32),
        turn_day=turn.astype(np.float32),
        end_day=(turn + rng.uniform(*hot.hot_days, len(turn))).astype(np.float32),
        peak=rng.uniform(*hot.peak, len(turn)).astype(np.float32),
        decoy=rng.random(len(turn)) < hot.decoys / (1 + hot.decoys),
    )


def talked_about(episodes: HotEpisodes, day: int) -> IntArray:
    """Item_idx of the products in their lead or hot on `day`, decoys left out."""
    now = day + 0.5
    return episodes.item[~episodes.decoy & (episodes.lead_day <= now) & (now < episodes.end_day)]


def life_cycle(items: Items, day: int) -> FloatArray:
    """(I,) popularity on `day` without any heat: zero before the launch, then growth and slow decay."""
    age = day - items.listed_day.astype(np.float32)
    grown = (1 - np.exp(-np.maximum(age, 0) / 6)) * np.exp(-np.maximum(age, 0) / items.life_days)
    return np.where(age >= 0, items.popularity * (0.1 + grown), 0).astype(np.float32)


def signals(params: SimulationParams, episodes: HotEpisodes, day: int) -> Signals:
    """The multiples of every product at noon of `day`."""
    hot, now = params.hot, day + 0.5
    real = ~episodes.decoy
    in_lead = (episodes.lead_day <= now) & (now < episodes.turn_day)
    progress = np.where(in_lead, (now - episodes.lead_day) / (episodes.turn_day - episodes.lead_day), 0) ** (
        1 / 3
    )
    # Up within two days of the turn, level, and down over the last third.
    phase = (now - episodes.turn_day) / (episodes.end_day - episodes.turn_day)
    up = np.clip((now - episodes.turn_day) / 2, 0, 1)
    level = np.where((phase >= 0) & (phase < 1) & real, up * np.clip((1 - phase) * 3, 0, 1), 0)
    demand = 1 + (episodes.peak - 1) * level
    lead = progress * real

    def spread(multiple: np.ndarray) -> FloatArray:
        whole = np.ones(params.items, np.float32)
        whole[episodes.item] = multiple
        return whole

    def talk(at_turn: float, heard: np.ndarray) -> FloatArray:
        return spread(1 + (at_turn - 1) * np.maximum(heard, 0.5 * level))

    lead_airtime = 1 + (hot.lead_airtime - 1) * lead
    lead_cart = 1 + (hot.lead_cart - 1) * lead
    return Signals(
        airtime=spread(lead_airtime * demand**_AIRTIME),
        click=spread(demand**_CLICK),
        cart=spread(lead_cart * demand**_CART),
        buy=spread(demand**_BUY / (lead_airtime * lead_cart) ** _WAITING),
        share=talk(hot.lead_share, progress),
        comment=talk(hot.lead_comment, progress),
        follow=talk(hot.lead_follow, lead),
        demand=spread(demand),
    )


def promotion_calendar(params: SimulationParams) -> Promotions:
    """Promotions of single products, and a festival of three days about every 30 days, announced ahead."""
    rng, days = stream(params.seed, "promotions"), params.days
    own = np.flatnonzero(rng.random(params.items) < params.promoted)
    starts = rng.integers(0, days, len(own))
    rows = [np.c_[own, starts, starts + rng.integers(3, 6, len(own)), starts - rng.integers(3, 11, len(own))]]
    festivals = [day for day in range(18, days, 30) if day + 3 <= days]
    for day in festivals:
        joined = np.flatnonzero(rng.random(params.items) < 0.1)
        rows.append(np.c_[joined, np.full((len(joined), 3), (day, day + 3, day - 14))])
    table = np.concatenate(rows)
    discount = np.round(rng.uniform(0.05, 0.35, len(table)), 2)
    return Promotions(
        item=table[:, 0].astype(np.int32),
        start_day=table[:, 1].astype(np.int32),
        end_day=table[:, 2].astype(np.int32),
        announced_day=table[:, 3].astype(np.int32),
        discount=discount.astype(np.float32),
        festival=np.arange(len(table)) >= len(own),
    )
