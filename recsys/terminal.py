"""The terminal that commands write to: what comes out, what goes wrong, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

console = Console()
errors = Console(stderr=True)
#: Seconds between two lines of progress where there is no terminal to draw a bar on.
LINE_EVERY_S = 10.0


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on the terminal, a line now and then in a log; called as progress(done, total, text)."""
    if not errors.is_terminal:
        begin = last = time.monotonic()

        def tell(done: int, total: int, text: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_EVERY_S:
                last = now
                errors.print(f"{now - begin:6.0f} s  {done}/{total}  {text}", highlight=False, markup=False)

        yield tell
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total or None, description=text)

        yield report


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A spinner on the terminal; called with the name of the stage."""
    with errors.status("starting") as status:
        yield lambda text: status.update(text)
