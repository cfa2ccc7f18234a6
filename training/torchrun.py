"""A job in several processes: torchrun starts them, the first runs the job, the others help it train."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from recsys.errors import ConfigError
from recsys.models.team import Team
from recsys.models.tower_inputs import dismiss, follow

#: How long a follower waits for a word: fits of other models lie between two of the two-tower's.
PATIENCE = timedelta(days=2)


def refuse_company(command: str) -> None:
    """For a command that several processes would run side by side, each all of it.

    Raises:
        ConfigError: this process is one of several.
    """
    n = _processes()
    if n > 1:
        raise ConfigError(f"{command} runs in one process, and torchrun has started {n}: start it by itself")


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def leading() -> Iterator[bool]:
    """Whether this process is to run the job; False after a follower has helped to the end of it.

    Without torchrun this process is alone, and runs it. On leaving, the leader sends its followers home; if
    it fails they end with it.

    Raises:
        ModelError: the leader of this follower is gone, or a training failed.
    """
    if _processes() == 1:
        yield True
        return
    place = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        team = Team.current()
        if not team.leads:
            follow(team, device)
        yield team.leads
        dismiss(team)
        # Threads of gloo hold the tensors of their last work, which are Python's: one that is let go of when
        # the interpreter is gone aborts the process. The last work is one without any.
        dist.barrier()
    finally:
        dist.destroy_process_group()
