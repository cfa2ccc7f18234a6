"""The query tower as an ONNX graph, which serving runs without torch."""

from __future__ import annotations

import logging
import warnings

import torch

from recsys.models.towers import QueryTower, TwoTowerNetwork

#: The graph's inputs, in order; see `QueryTower.forward` for what they are.
INPUTS = ("history", "behaviour", "age_s", "mask", "profile")
OUTPUT = "user"


def query_tower_onnx(network: TwoTowerNetwork, *, length: int) -> bytes:
    """The query tower as ONNX bytes: history vectors in, the user's vector out; no table of targets inside.

    Inputs `history` (B, L, d) float32, `behaviour` (B, L) int64, `age_s` (B, L) float32, `mask` (B, L) bool,
    `profile` (B, d) float32; output `user` (B, d) float32. B is free, L is `length`: a shorter history is
    put at the right end and masked at the left.

    Args:
        network: the fitted towers; they are left in evaluation mode, and on their device.
        length: L.
    """
    network.eval()
    device = next(network.parameters()).device
    tower = QueryTower(network).to("cpu").eval()
    dim = network.targets.dim
    # Two rows, of which one is half masked: a size of one would be taken for a constant.
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, : length // 2] = False
    example = (
        torch.zeros(2, length, dim),
        torch.zeros(2, length, dtype=torch.int64),
        torch.zeros(2, length),
        mask,
        torch.zeros(2, dim),
    )
    batch = torch.export.Dim("batch")
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The exporter warns of its own internals, which nobody here can change.
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|copyreg)(\.|$)")
            program = torch.onnx.export(
                tower,
                example,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes=tuple({0: batch} for _ in example),
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
        network.to(device)  # the tower is a part of it, and was moved in place
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    # Where in the source each node came from: paths of the training machine, half of the file.
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        part.ClearField("metadata_props")
    graph: bytes = model.SerializeToString()
    return graph
