"""Checkpoints of a training: one safetensors file, the rest of the state as JSON in its header.

One file, renamed into place, so that weights and state cannot come from different moments. Nothing in it runs
code when read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recsys.errors import ModelError

_HEADER = "state"


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on.

    Attributes:
        tensors: weights and optimiser state by name.
        state: anything that JSON holds.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the one before it; whoever reads sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()
    }
    save_file(tensors, beside, metadata={_HEADER: json.dumps(checkpoint.state)})
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(path)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at that path, on the CPU; None where there is none.

    Raises:
        ModelError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{path} is no whole checkpoint ({error}); delete it to train from the start"
        ) from error
    return Checkpoint(tensors, state)


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimiser's state as named tensors; every value of Adam's state is one."""
    return {
        f"{prefix}.{index}.{name}": torch.as_tensor(value)
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimiser_tensors` gave; the optimiser has the same parameters in the same order."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            _, index, key = name.rsplit(".", 2)
            # A count of steps that was an int stays one: as a tensor it would be rounded to float32.
            state.setdefault(int(index), {})[key] = tensor if tensor.is_floating_point() else tensor.item()
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
