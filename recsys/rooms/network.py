"""A small network over the features of a room, as arrays: the first stage, which scores every live room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from recsys.types import FloatArray, Params

#: What the network foretells of a room, in the order of its outputs.
TARGETS = ("enter", "stay", "buy")


class TargetWeights(Params):
    """How much each target counts in a room's score.

        score = enter * z_enter + stay * ln p_stay + buy * ln p_buy

    z_enter is the log-odds of entering this room and not another, p_stay and p_buy what a visit would come to
    once entered; so with weights of 1 rooms are in the order of p_enter p_stay p_buy.

    Attributes:
        enter, stay, buy: weights; not all 0.
    """

    enter: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    stay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    buy: float = Field(default=0.05, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not (self.enter or self.stay or self.buy):
            raise ValueError("enter, stay and buy are all 0: one of them must count")
        return self

    def to_array(self) -> FloatArray:
        """(3,) float32 in the order of `TARGETS`."""
        return np.array([getattr(self, name) for name in TARGETS], dtype=np.float32)


@dataclass(frozen=True)
class RoomNetwork:
    """A logit per target = linear(x) + W2 relu(W1 x + b1) + b2, x the standardised features.

    Attributes:
        centre, scale: (F,) float32; x = (features - centre) * scale, clipped to +-`CLIP`.
        linear: (F, 3) float32, a column a target.
        hidden: (F, H) float32, hidden_bias: (H,).
        out: (H, 3) float32, out_bias: (3,).
        weights: (3,) float32, see `TargetWeights`.
    """

    centre: FloatArray
    scale: FloatArray
    linear: FloatArray
    hidden: FloatArray
    hidden_bias: FloatArray
    out: FloatArray
    out_bias: FloatArray
    weights: FloatArray

    CLIP = 6.0

    def logits(self, features: FloatArray) -> FloatArray:
        """(R, 3) float32 of R rows of features (R, F), a column for each of `TARGETS`."""
        x = np.clip((features - self.centre) * self.scale, -self.CLIP, self.CLIP)
        hidden = np.maximum(x @ self.hidden + self.hidden_bias, 0.0)
        logits: FloatArray = (x @ self.linear + hidden @ self.out + self.out_bias).astype(np.float32)
        return logits

    def scores(self, features: FloatArray) -> FloatArray:
        """(R,) float32 scores of R rows of features (R, F); see `TargetWeights`."""
        logits = self.logits(features)
        log_chances = -np.logaddexp(np.float32(0), -logits[:, 1:])
        scores: FloatArray = logits[:, 0] * self.weights[0] + log_chances @ self.weights[1:]
        return scores

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The network's arrays by name."""
        return {f"network_{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The network that `to_arrays` took apart."""
        return cls(**{name: np.asarray(arrays[f"network_{name}"]) for name in cls.__dataclass_fields__})
