"""Boosted trees over the features of a room, run by ONNX Runtime: the second stage."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from recsys.types import FloatArray

if TYPE_CHECKING:
    import onnxruntime

INPUT = "features"


class RoomTrees:
    """What the trees add to the network's score.

    Args:
        graph: ONNX bytes, input `features` (R, F) float32, first output (R, 1).
        weight: how much they count beside the network.
    """

    def __init__(self, graph: bytes, weight: float = 1.0) -> None:
        self.graph = graph
        self.weight = weight

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def scores(self, features: FloatArray) -> FloatArray:
        """(R,) float32 what the trees add for R rows of features (R, F)."""
        result = self._session.run(None, {INPUT: features})[0]
        return self.weight * np.asarray(result, dtype=np.float32).reshape(-1)
