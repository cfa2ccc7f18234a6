"""Where experiments keep what they found: one CSV each, to which every run adds its lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def add(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Add lines to a table, which begins with their columns where it is not there yet."""
    fresh = not path.exists()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
