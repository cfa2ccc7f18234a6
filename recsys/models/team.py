"""The processes of one training: a leader, which runs the job, and followers, which do their share of steps.

A follower needs no log and no configuration: the leader sends it what it trains on. What goes over the wire
is JSON and raw arrays, so that nothing that arrives is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

Scalar = TypeVar("Scalar", bound=np.generic)
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Team:
    """This process's place among those that train together.

    Attributes:
        rank: 0 is the leader.
        size: how many processes; 1 where nothing is shared.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """The processes of torch's default group, or this one alone."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process runs the job."""
        return self.rank == 0

    def share(self, rows: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """This process's part of what a batch has by row; the parts of all are the batch."""
        return rows[self.rank :: self.size]

    def sum_gradients(self, weights: Iterable[torch.nn.Parameter], loss: Tensor) -> Tensor:
        """Put the sum over all processes into every gradient; returns the sum of the losses, a scalar.

        Args:
            weights: the same in every process, with gradients of the same ones.
            loss: this process's part.
        """
        loss = loss.detach()
        if self.size == 1:
            return loss
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        dense = [gradient for gradient in gradients if not gradient.is_sparse]
        flat = torch.cat([loss.view(1), *(gradient.flatten() for gradient in dense)])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in dense]
        for gradient, summed in zip(dense, torch.split(flat[1:], sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))
        for weight in weights:
            if weight.grad is not None and weight.grad.is_sparse:
                weight.grad = self._sum_rows(weight.grad.coalesce())
        return flat[0]

    def _sum_rows(self, gradient: Tensor) -> Tensor:
        """The sum of sparse gradients, whose rows differ from process to process."""
        rows, values = gradient.indices()[0], gradient.values()
        count = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(count) for _ in range(self.size)]
        dist.all_gather(counts, count)
        most = max(int(n) for n in counts)
        all_rows = [rows.new_zeros(most) for _ in range(self.size)]
        all_values = [values.new_zeros(most, values.shape[1]) for _ in range(self.size)]
        dist.all_gather(all_rows, torch.cat([rows, rows.new_zeros(most - len(rows))]))
        missing = values.new_zeros(most - len(rows), values.shape[1])
        dist.all_gather(all_values, torch.cat([values, missing]))
        kept = [slice(0, int(n)) for n in counts]
        return torch.sparse_coo_tensor(
            torch.cat([part[keep] for part, keep in zip(all_rows, kept, strict=True)])[None],
            torch.cat([part[keep] for part, keep in zip(all_values, kept, strict=True)]),
            gradient.shape,
        ).coalesce()

    def as_led(self, figures: Sequence[float]) -> list[float]:
        """The leader's figures, in every process; a follower's own are not looked at."""
        if self.size == 1:
            return list(figures)
        told = torch.tensor(figures, dtype=torch.float64)
        dist.broadcast(told, src=0)
        return [float(figure) for figure in told]

    def tell(self, header: Mapping[str, Any], arrays: Arrays) -> None:
        """Send every follower a message, which each takes with `hear`.

        Args:
            header: anything that JSON holds.
            arrays: by name.
        """
        if self.size == 1 or not self.leads:
            return
        forms = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        text = np.frombuffer(json.dumps([dict(header), forms]).encode(), dtype=np.uint8)
        dist.broadcast(torch.tensor([len(text)]), src=0)
        for array in (text, *arrays.values()):
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if len(raw):
                dist.broadcast(torch.from_numpy(raw.copy()), src=0)

    def hear(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Wait for the leader's next message: its header and arrays."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, src=0)
        header, forms = json.loads(_heard(int(length)).tobytes())
        arrays = {}
        for name, kind, shape in forms:
            n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
            arrays[name] = _heard(n_bytes).view(kind).reshape(shape)
        return header, arrays


def _heard(n_bytes: int) -> npt.NDArray[np.uint8]:
    raw = torch.zeros(n_bytes, dtype=torch.uint8)
    if n_bytes:
        dist.broadcast(raw, src=0)
    return raw.numpy()
