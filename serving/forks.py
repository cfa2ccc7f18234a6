"""Has objects with threads of their own told of a fork: threads do not live on in the child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """What is told of every fork of its process."""

    def before_fork(self) -> None:
        """The process is about to fork: nothing may be half done when this returns."""
        ...

    def after_fork_in_parent(self) -> None:
        """The fork is done; this is the process that went before."""
        ...

    def after_fork_in_child(self) -> None:
        """The fork is done; this is the new process, with this thread alone."""
        ...


_told: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_forking: list[ForkAware] = []


def tell_of_forks(one: ForkAware) -> None:
    """Tells `one` of every fork from now on, as long as it is used."""
    _told.add(one)


def _before() -> None:
    _forking[:] = list(_told)
    for one in _forking:
        one.before_fork()


def _in_parent() -> None:
    for one in _forking:
        one.after_fork_in_parent()
    _forking.clear()


def _in_child() -> None:
    for one in _forking:
        one.after_fork_in_child()
    _forking.clear()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
