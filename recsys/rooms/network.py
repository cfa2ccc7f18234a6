"""A small network over the features of a room, as arrays: the first stage, which scores every live room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recsys.types import FloatArray


@dataclass(frozen=True)
class RoomNetwork:
    """score = linear(x) + W2 relu(W1 x + b1), x the standardised features.

    Attributes:
        centre, scale: (F,) float32; x = (features - centre) * scale, clipped to +-`CLIP`.
        linear: (F,) float32.
        hidden: (F, H) float32, hidden_bias: (H,).
        out: (H,) float32.
    """

    centre: FloatArray
    scale: FloatArray
    linear: FloatArray
    hidden: FloatArray
    hidden_bias: FloatArray
    out: FloatArray

    CLIP = 6.0

    def scores(self, features: FloatArray) -> FloatArray:
        """(R,) float32 scores of R rows of features (R, F)."""
        x = np.clip((features - self.centre) * self.scale, -self.CLIP, self.CLIP)
        hidden = np.maximum(x @ self.hidden + self.hidden_bias, 0.0)
        scores: FloatArray = (x @ self.linear + hidden @ self.out).astype(np.float32)
        return scores

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The network's arrays by name."""
        return {f"network_{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The network that `to_arrays` took apart."""
        return cls(**{name: np.asarray(arrays[f"network_{name}"]) for name in cls.__dataclass_fields__})
