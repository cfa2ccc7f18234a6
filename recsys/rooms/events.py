"""Events as the live state takes them: one array a column, dense indices."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from recsys.types import BoolArray, FloatArray, IntArray, LongArray


@dataclass(frozen=True)
class EventBatch:
    """N events in the order in which they came. An index of -1 means that the event has none.

    Attributes:
        timestamp_us: (N,) int64 microseconds since the epoch; the start of a view.
        behaviour: (N,) int8 `Behaviour.code`.
        user_idx, streamer_idx, room_idx, item_idx: (N,) int32.
        on_air_idx: (N,) int32 the product that was on air in the room at that moment.
        duration_s: (N,) float32 length of a view, NaN where unknown; used from its end on, not before.
    """

    timestamp_us: LongArray
    behaviour: npt.NDArray[np.int8]
    user_idx: IntArray
    streamer_idx: IntArray
    room_idx: IntArray
    item_idx: IntArray
    on_air_idx: IntArray
    duration_s: FloatArray

    def __len__(self) -> int:
        return len(self.timestamp_us)

    def where(self, rows: BoolArray | LongArray | slice) -> EventBatch:
        """The events that a mask, an index array or a slice picks."""
        return EventBatch(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})
