"""Keep small matrix products to one thread, and other threads' turns short.

A frame's products are so small that sharing one takes longer than doing it, and on a busy machine
up to a hundred times longer, because the libraries' threads wait for one another by spinning.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


@cache
def _blas() -> list[Any]:
    """The matrix libraries that are loaded, each with `get_num_threads` and `set_num_threads`."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


_n_holding = 0


def blas_is_held() -> bool:
    """Whether somebody is within `one_blas_thread`."""
    return _n_holding > 0


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for numpy's and scipy's products; costs 2 us where that is the rule already."""
    global _n_holding
    before = [(library, n) for library in _blas() if (n := library.get_num_threads()) > 1]
    for library, _ in before:
        library.set_num_threads(1)
    _n_holding += 1
    try:
        yield
    finally:
        _n_holding -= 1
        for library, n in before:
            library.set_num_threads(n)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch too, where it is loaded; loading it for this would take seconds."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with one_blas_thread():
        try:
            if torch:
                torch.set_num_threads(1)
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


@contextmanager
def short_turns() -> Iterator[None]:
    """Let Python's threads take turns of 0.1 ms at most while others wait, instead of 5 ms.

    Whatever numpy computes, the engine's thread lays the interpreter down and has to get it back; a
    thread that draws a status line would keep it for a whole turn, which is a whole step.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
