"""How much each behaviour says about a user's taste: one weighing, used by every model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from recsys.durations import DAY_US
from recsys.search import Within
from recsys.types import BEHAVIOURS, Behaviour, FloatArray, Params

if TYPE_CHECKING:
    from recsys.data.dataset import Events


#: The half-life that `auto` stands for, as a share of the log's length: what was done on its first day counts
#: 1/64 of what was done on its last.
AUTO_HALF_LIFE_SHARE = 1 / 6

#: A half-life in days, or `auto`.
HalfLife = Annotated[float, Field(gt=0)] | Literal["auto"]


def half_life_in(half_life: HalfLife, log_days: float) -> float:
    """The half-life in days, `auto` as it is in a log of so many days, above 0."""
    return log_days * AUTO_HALF_LIFE_SHARE if half_life == "auto" else half_life


class BehaviourWeights(Params):
    """Confidence of one event: weight of its behaviour x dwell x decay.

    Attributes:
        weights: weight of one event of each behaviour; a behaviour left out counts 0.
        half_life_days: age at which an event counts half; auto is a sixth of the log's length, and None means
            that age does not matter.
        dwell_scale_s: a view of this length has its full weight. Longer ones gain with the logarithm, as
            log2(1 + duration / scale), up to `dwell_cap`; a view of unknown length has its full weight.
        dwell_cap: the most that dwell can multiply a view by.
    """

    weights: dict[Behaviour, float] = Field(
        default_factory=lambda: {
            Behaviour.CLICK: 1.0,
            Behaviour.VIEW: 1.0,
            Behaviour.ENTER: 1.0,
            Behaviour.LIKE: 2.0,
            Behaviour.COMMENT: 2.0,
            Behaviour.SHARE: 3.0,
            Behaviour.FOLLOW: 3.0,
            Behaviour.FAVOURITE: 3.0,
            Behaviour.GIFT: 4.0,
            Behaviour.CART: 4.0,
            Behaviour.PURCHASE: 5.0,
        }
    )
    half_life_days: Annotated[HalfLife | None, Within(0.5, 365.0, log=True)] = 60.0
    dwell_scale_s: float = Field(default=60.0, gt=0)
    dwell_cap: float = Field(default=3.0, gt=0)

    def settled(self, log_days: float) -> Self:
        """The same with `auto` replaced by what it stands for in a log of so many days, above 0."""
        if self.half_life_days is None:
            return self
        return self.model_copy(update={"half_life_days": half_life_in(self.half_life_days, log_days)})

    def of(self, events: Events, as_of_us: int) -> FloatArray:
        """Confidence of each event, (N,) float32, 0 for one that says nothing or was taken back.

        Args:
            events: N events in time order.
            as_of_us: the moment from which age is counted, microseconds since the epoch.
        """
        age_days = (as_of_us - events.timestamp_us) / DAY_US
        kept = 1.0 - returned_share(events)
        return self.weigh(events.behaviour, events.duration_s, age_days) * kept

    def weigh(
        self, behaviour: npt.NDArray[np.int8], duration_s: FloatArray, age_days: npt.NDArray[np.float64]
    ) -> FloatArray:
        """Confidence of N events that were not taken back, (N,) float32.

        Args:
            behaviour: (N,) int8 codes.
            duration_s: (N,) float32, NaN where unknown.
            age_days: (N,) 0 or more.

        Raises:
            ValueError: the half-life is not settled.
        """
        if self.half_life_days == "auto":
            raise ValueError("a half-life of auto must be settled by a log: see Dataset.settle")
        table = np.zeros(len(BEHAVIOURS), dtype=np.float32)
        for each, weight in self.weights.items():
            table[each.code] = weight
        confidence = table[behaviour]
        watched = (behaviour == Behaviour.VIEW.code) & np.isfinite(duration_s)
        dwell = np.log2(1.0 + duration_s[watched] / self.dwell_scale_s)
        confidence[watched] *= np.minimum(dwell, self.dwell_cap).astype(np.float32)
        if self.half_life_days is not None:
            confidence *= np.exp2(-age_days / self.half_life_days).astype(np.float32)
        return confidence


def returned_share(events: Events) -> FloatArray:
    """Share of each purchase that was sent back, (N,) float32 in [0, 1]; 0 for any other event.

    A refund takes back the user's latest purchases of that product before it, unit by unit.
    """
    share = np.zeros(len(events), dtype=np.float32)
    is_refund = events.behaviour == Behaviour.REFUND.code
    if not is_refund.any():
        return share
    pair = events.user_idx.astype(np.int64) << 32 | events.item_idx.astype(np.int64)
    bought_or_returned = is_refund | (events.behaviour == Behaviour.PURCHASE.code)
    rows = np.flatnonzero(bought_or_returned & np.isin(pair, np.unique(pair[is_refund])))
    units = np.nan_to_num(events.quantity[rows], nan=1.0)
    open_units: dict[int, list[list[float]]] = {}  # pair -> stack of [row, units not yet returned]
    for row, pair_key, n, refund in zip(
        rows.tolist(), pair[rows].tolist(), units.tolist(), is_refund[rows].tolist(), strict=True
    ):
        stack = open_units.setdefault(pair_key, [])
        if not refund:
            stack.append([row, n])
            continue
        while n > 0 and stack:
            if stack[-1][1] <= 0:  # nothing was counted, as of a gift: it is back all the same
                share[int(stack.pop()[0])] = 1.0
                break
            taken = min(n, stack[-1][1])
            bought = float(np.nan_to_num(events.quantity[int(stack[-1][0])], nan=1.0))
            share[int(stack[-1][0])] += taken / bought
            stack[-1][1] -= taken
            n -= taken
            if stack[-1][1] <= 0:
                stack.pop()
    return np.minimum(share, 1.0)
