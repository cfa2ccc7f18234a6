"""The towers as ONNX graphs, which serving runs without torch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from recsys.models.towers import ContentTower, QueryTower, TwoTowerNetwork

#: The query tower's inputs, in order; see `QueryTower.forward` for what they are.
INPUTS = ("history", "behaviour", "age_s", "mask", "profile")
OUTPUT = "user"
#: The same of the content tower.
CONTENT_INPUTS = ("codes", "numbers", "words")
CONTENT_OUTPUT = "target"


def query_tower_onnx(network: TwoTowerNetwork, *, length: int) -> bytes:
    """The query tower as ONNX bytes: history vectors in, the user's vector out; no table of targets inside.

    Inputs `history` (B, L, d) float32, `behaviour` (B, L) int64, `age_s` (B, L) float32, `mask` (B, L) bool,
    `profile` (B, d) float32; output `user` (B, d) float32. B is free, L is `length`: a shorter history is
    put at the right end and masked at the left.

    Args:
        network: the fitted towers; they are left in evaluation mode, and on their device.
        length: L.
    """
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
    return _graph(network, QueryTower(network), example, INPUTS, OUTPUT, tuple({0: batch} for _ in example))


def content_tower_onnx(network: TwoTowerNetwork) -> bytes:
    """The content half of the target tower as ONNX bytes: what is known of targets in, their vectors out.

    Inputs `codes` (m, c) int64, `numbers` (m, f) float32 and `words` (m, w) int64, as `TableEncoder.encode`
    gives them, padded to at least one column; m and w are free. Output `target` (m, d) float32.

    Args:
        network: the fitted towers; they are left in evaluation mode, and on their device.
    """
    tower = network.targets
    example = tuple(
        torch.zeros(2, max(values.shape[1], least), dtype=values.dtype)
        for values, least in ((tower.codes, 1), (tower.numbers, 1), (tower.title, 2))
    )
    rows, words = torch.export.Dim("rows"), torch.export.Dim("words")
    free = ({0: rows}, {0: rows}, {0: rows, 1: words})
    return _graph(network, ContentTower(network), example, CONTENT_INPUTS, CONTENT_OUTPUT, free)


def _graph(
    network: TwoTowerNetwork,
    part: nn.Module,
    example: tuple[Tensor, ...],
    inputs: tuple[str, ...],
    output: str,
    free: tuple[dict[int, Any], ...],
) -> bytes:
    network.eval()
    device = next(network.parameters()).device
    part = part.to("cpu").eval()
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The exporter warns of its own internals, which nobody here can change.
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|copyreg)(\.|$)")
            program = torch.onnx.export(
                part,
                example,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=free,
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
        network.to(device)  # the part was moved in place
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    # Where in the source each node came from: paths of the training machine, half of the file.
    for piece in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        piece.ClearField("metadata_props")
    graph: bytes = model.SerializeToString()
    return graph
