"""What FAISS is told of one search: its filter, and how many lists it reads."""

from __future__ import annotations

import threading
from typing import Any

import faiss

from serving.bitmap import Bitmap


class SearchOptions(threading.local):
    """One pair of FAISS's objects a thread: to make both anew takes as long as reading a list.

    Args:
        n: how many items there are.
        lists: whether the index has inverted lists.
    """

    def __init__(self, n: int, *, lists: bool) -> None:
        untyped: Any = faiss  # its stubs lack fields that can be set
        self._selector = untyped.IDSelectorBitmap(n, None)
        self._options = untyped.SearchParametersIVF() if lists else untyped.SearchParameters()
        self._options.sel = self._selector

    def of(self, allowed: Bitmap, *, nprobe: int = 0) -> Any:
        """FAISS's parameters for one search, at once: the thread's next ones are the same object."""
        self._selector.bitmap = faiss.swig_ptr(allowed.data)
        if nprobe:
            self._options.nprobe = nprobe
        return self._options
