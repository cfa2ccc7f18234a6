"""How threads of OpenMP wait, for programs that train: torch, LightGBM and `implicit` all use it."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let threads that wait sleep instead of spin, unless the environment says otherwise.

    OpenMP reads this when it is loaded, so it is called before those libraries are imported. Spinning threads
    starve the others on a shared machine: beside four busy processes a training step took 1.5 s instead of
    0.04 s.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
