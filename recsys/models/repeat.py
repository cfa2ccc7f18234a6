"""A user's own past, scored for what it will return to: numpy only, for the request path.

Products are bought again, carts are come back to, streamers are watched every evening. How likely that is
depends on what was done, how often and how long ago, and on the target; all three are counted from the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data.histories import HistoryBatch
from recsys.durations import HOUR_US
from recsys.models.ragged import Ragged
from recsys.types import BEHAVIOURS, Behaviour, FloatArray, IntArray, LongArray

#: The kinds of touch that are told apart, weakest first; the last that occurs names the pair's stage.
STAGES: tuple[tuple[Behaviour, ...], ...] = (
    (Behaviour.CLICK, Behaviour.VIEW, Behaviour.ENTER),
    (
        Behaviour.LIKE,
        Behaviour.COMMENT,
        Behaviour.SHARE,
        Behaviour.FOLLOW,
        Behaviour.FAVOURITE,
        Behaviour.GIFT,
    ),
    (Behaviour.CART,),
    (Behaviour.PURCHASE,),
)
N_STAGES = len(STAGES)

#: Upper edges, hours, of the bins of time since the last touch: ~ x 1.8 from ten minutes to half a year.
AGE_EDGES_HOURS: FloatArray = np.geomspace(1 / 6, 24 * 180, 18).astype(np.float32)
N_AGES = len(AGE_EDGES_HOURS) + 1
#: Touches are told apart up to this many.
MAX_TOUCHES = 4


def _stage_table() -> npt.NDArray[np.int8]:
    table = np.full(len(BEHAVIOURS), -1, dtype=np.int8)
    for stage, behaviours in enumerate(STAGES):
        table[[behaviour.code for behaviour in behaviours]] = stage
    return table


_STAGE_OF = _stage_table()


@dataclass(frozen=True)
class Touches:
    """What B users did with each target of their histories: one entry a pair, sorted by user and target.

    Attributes:
        key: (P,) int64 row x targets + target, ascending.
        counts: (P, stages) float32 how often, by kind of touch.
        hours: (P, stages) float32 hours since the latest touch of the kind; infinite where there is none.
        n_targets: how many targets there are.
        n_rows: B.
    """

    key: LongArray
    counts: FloatArray
    hours: FloatArray
    n_targets: int
    n_rows: int

    @classmethod
    def of(cls, history: HistoryBatch, at_us: LongArray, *, n_targets: int) -> Touches:
        """Counts the actions of (B, L) histories as of the moments `at_us` (B,)."""
        stage_of = _STAGE_OF[history.behaviour]
        row, column = np.nonzero(history.mask & (stage_of >= 0))
        stage = stage_of[row, column].astype(np.int64)
        age_hours = np.maximum(at_us[row] - history.timestamp_us[row, column], 0) / HOUR_US
        named = row * np.int64(n_targets) + history.target_idx[row, column]
        key, pair = np.unique(named, return_inverse=True)
        cell = pair * N_STAGES + stage
        shape = (len(key), N_STAGES)
        counts = np.bincount(cell, minlength=len(key) * N_STAGES).astype(np.float32).reshape(shape)
        hours = np.full(len(key) * N_STAGES, np.inf, dtype=np.float32)
        # Within a row the latest action comes last, so it is the one that stays.
        hours[cell] = age_hours
        return cls(key, counts, hours.reshape(shape), n_targets, len(at_us))

    @property
    def row(self) -> LongArray:
        """(P,) int64 which user of the batch."""
        return self.key // self.n_targets

    @property
    def ids(self) -> IntArray:
        """(P,) int32 which target."""
        return (self.key % self.n_targets).astype(np.int32)

    def state(self) -> LongArray:
        """(P,) int64 cell of the hazard table: furthest stage x touches x time since the last touch."""
        reached = self.counts > 0
        stage = N_STAGES - 1 - np.argmax(reached[:, ::-1], axis=1)
        touches = np.minimum(self.counts.sum(axis=1), MAX_TOUCHES).astype(np.int64) - 1
        age = np.searchsorted(AGE_EDGES_HOURS, self.hours.min(axis=1, initial=np.inf))
        state: LongArray = (stage * MAX_TOUCHES + touches) * N_AGES + age
        return state


@dataclass(frozen=True)
class ReturnRates:
    """Chance that a touched target is come back to: a table over the pair's state, times the target's lift.

    Attributes:
        hazard: (stages x touches x ages,) float32 share of pairs in that state that were come back to.
        lift: (targets,) float32 the target's returns over what its pairs' states led to expect, shrunk to 1.
    """

    hazard: FloatArray
    lift: FloatArray

    @property
    def n_targets(self) -> int:
        """How many targets there are."""
        return len(self.lift)

    def score(self, history: HistoryBatch, at_us: LongArray) -> Ragged:
        """Every target of the histories (B, L), scored hazard x lift as of the moments `at_us` (B,)."""
        touches = Touches.of(history, at_us, n_targets=self.n_targets)
        ids = touches.ids
        return Ragged(touches.row, ids, self.hazard[touches.state()] * self.lift[ids], touches.n_rows)
