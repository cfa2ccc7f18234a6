"""What serving and training share of a model that reads histories: numpy only, for the request path."""

from __future__ import annotations

from typing import Protocol

from recsys.data.histories import HistoryBatch
from recsys.models.ragged import Ragged
from recsys.types import LongArray


class HistoryScorer(Protocol):
    """The numpy half of a model that reads histories: `Neighbours`, `ReturnRates`."""

    def score(self, history: HistoryBatch, at_us: LongArray) -> Ragged:
        """Scored targets of B users from (B, L) histories as of the moments `at_us` (B,)."""
        ...
