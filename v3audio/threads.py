"""Keep small matrix products to one thread.

A frame's products are so small that sharing one takes longer than doing it, and on a busy machine
up to a hundred times longer, because the libraries' threads wait for one another by spinning.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


@cache
def _blas() -> list[Any]:
    """The matrix libraries that are loaded, each with `get_num_threads` and `set_num_threads`."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for numpy's and scipy's products; costs 2 us where that is the rule already."""
    before = [(library, n) for library in _blas() if (n := library.get_num_threads()) > 1]
    for library, _ in before:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, n in before:
            library.set_num_threads(n)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_blas_thread():
            yield
    finally:
        torch.set_num_threads(before)
