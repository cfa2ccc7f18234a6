"""CURRENT: a file among bundles that names the one to serve. Delivery moves it, serving follows it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from recsys.bundle import BundleRefused, Reason

POINTER = "CURRENT"


def point_to(directory: Path, name: str) -> None:
    """Makes CURRENT name the bundle `name` of the directory: a reader sees the old name or the new one."""
    with tempfile.NamedTemporaryFile("w", dir=directory, prefix=f".{POINTER}.", delete=False) as file:
        file.write(name + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, directory / POINTER)


def pointed_to(directory: Path) -> Path:
    """The bundle that the directory's CURRENT names: a file with the name of a neighbour, or a link.

    Raises:
        BundleRefused: no pointer, or one that names no plain neighbour.
    """
    pointer = directory / POINTER
    if pointer.is_symlink():
        return pointer.resolve()
    try:
        name = pointer.read_text().strip()
    except OSError as error:
        raise BundleRefused(Reason.MISSING, f"{pointer} cannot be read: {error.strerror}") from error
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise BundleRefused(Reason.UNSAFE_PATH, f"{pointer} names {name!r}: it must name a bundle beside it")
    return (directory / name).resolve()
