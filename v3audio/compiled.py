"""The compiled arithmetic of a frame (`_frame.c`), where installing v3audio could build it.

Without it (no compiler at hand) numpy does the same, several times slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 8
"""Of its functions: what an older `_frame.c` was built to is left alone."""
LANES, BLOCK = 8, 32
"""Numbers computed with at once, and side by side."""
PAD = 16
"""Lags that a bin of the lag view is read from."""
MOST = 4096
"""Samples of a window, and values of anything else, that fit into its working space."""


@cache
def library() -> ctypes.PyDLL | None:
    """What was built, for this processor, or None."""
    plain = _load("_frame")
    better = ("_frame_avx2", "_frame_avx512")[: plain.level()] if plain else ()
    return next(filter(None, map(_load, reversed(better))), plain)


def _load(name: str) -> ctypes.PyDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(name + suffix)
        with suppress(OSError, AttributeError):  # none, or one of another system
            found = ctypes.PyDLL(str(path))  # which keeps Python's lock: see `_frame.c`
            if found.version() == VERSION:
                return found
    return None


def bind(
    name: str, *values: int | float | NDArray[Any] | ctypes.Structure,
    free: tuple[type[Any], ...] = (), result: type[Any] | None = None,
) -> Callable[..., Any] | None:
    """A compiled function on these numbers and arrays, which are read and written at each call.

    Args:
        name: as in `_frame.c`.
        values: its first arguments; arrays are contiguous and of its types.
        free: ctypes types of the arguments that are left.
        result: its ctypes type.

    Returns:
        To be called again and again, with what arguments are left; None where nothing was compiled.
    """
    if (functions := library()) is None:
        return None
    function = functions[name]
    bound = [_argument(value) for value in values]
    function.argtypes, function.restype = [*map(type, bound), *free], result
    return partial(function, *bound)


def record(*values: int | float | NDArray[Any] | ctypes.Structure) -> ctypes.Structure:
    """A C struct of these numbers, arrays and other structs, in this order; it keeps them."""
    fields = [_argument(value) for value in values]
    kind = type("Record", (ctypes.Structure,), {
        "_fields_": [(f"field_{k}", type(field)) for k, field in enumerate(fields)]
    })  # fmt: skip
    made: ctypes.Structure = kind(*fields)
    made.fields = fields  # lest they go
    return made


def address(array: NDArray[Any]) -> ctypes.c_void_p:
    """Where an array's numbers begin, for one call; numpy's own `data_as` takes longer."""
    return ctypes.c_void_p(array.__array_interface__["data"][0])


class Lent:
    """The address of an array of float32, looked up only where it is another than the time before.

    The array stays; what changes in it is seen.

    Attributes:
        apart: numbers from one row to the next.
    """

    def __init__(self) -> None:
        self._array: NDArray[Any] | None = None
        self._address = ctypes.c_void_p()
        self.apart = 0

    def __call__(self, array: NDArray[Any]) -> ctypes.c_void_p:
        """Of (..., n) numbers; of a copy if they are of another type or not side by side."""
        if array is not self._array:
            beside = array.strides[-1] == array.itemsize or array.shape[-1] == 1
            fits = beside and array.dtype == np.float32
            self._array = array if fits else None
            held = array if fits else np.ascontiguousarray(array, np.float32)
            self.apart = held.strides[0] // held.itemsize
            self._address = address(held)
            self._address.target = held  # type: ignore[attr-defined]  # lest it go
        return self._address


def _argument(value: int | float | NDArray[Any] | ctypes.Structure) -> Any:
    if isinstance(value, int | float):
        return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_float(value)
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous, "arrays are handed over as they lie"
        pointer = address(value)
    else:
        pointer = ctypes.c_void_p(ctypes.addressof(value))
    pointer.target = value  # type: ignore[attr-defined]  # lest it go
    return pointer
