"""Boosted trees as an ONNX graph: what the request path runs of them, without LightGBM."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from recsys.errors import BundleError
from recsys.types import FloatArray

if TYPE_CHECKING:
    import lightgbm as lgb
    import onnxruntime

_INPUT = "features"
#: The newest operator set for which the converter's graph and ONNX Runtime agree.
_OPSET = 15


class Trees:
    """Trees that score rows of features.

    Args:
        graph: ONNX bytes, input `features` (R, F) float32, first output (R, 1).
        weight: what their sum is multiplied by.
    """

    def __init__(self, graph: bytes | memoryview, weight: float = 1.0) -> None:
        self.graph = bytes(graph)
        self.weight = weight

    @classmethod
    def of(cls, booster: lgb.Booster, weight: float = 1.0) -> Trees:
        """Those of a LightGBM model up to its best iteration: their raw score."""
        from onnxmltools.convert import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        model = convert_lightgbm(
            booster,
            name="trees",  # or a random one: the same trees are the same bytes
            initial_types=[(_INPUT, FloatTensorType([None, booster.num_feature()]))],
            target_opset=_OPSET,
            zipmap=False,
        )
        return cls(model.SerializeToString(), weight)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base of their own
            raise BundleError(f"ONNX Runtime cannot read the trees: {error}") from error

    @property
    def n_features(self) -> int:
        """F.

        Raises:
            BundleError: the graph cannot be read.
        """
        return int(self._session.get_inputs()[0].shape[1])

    def scores(self, features: FloatArray) -> FloatArray:
        """(R,) float32 for R rows of features (R, F)."""
        result = self._session.run(None, {_INPUT: features})[0]
        return self.weight * np.asarray(result, dtype=np.float32).reshape(-1)
