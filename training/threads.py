"""Keeps the libraries underneath to the threads that a configuration allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import threadpoolctl
import torch


@contextmanager
def capped_threads(threads: int | Literal["auto"]) -> Iterator[None]:
    """While the block lasts BLAS and OpenMP take at most so many threads; torch from then on."""
    with threadpoolctl.threadpool_limits(limits=None if threads == "auto" else threads):
        if threads != "auto":
            torch.set_num_threads(threads)
        yield
