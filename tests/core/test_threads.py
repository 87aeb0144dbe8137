"""Products are kept to one thread for a while, and no longer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from v3audio import threads
from v3audio.threads import one_blas_thread, one_thread, short_turns


def blas_threads() -> list[int]:
    assert np.dot(np.ones(4), np.ones(4)) == 4.0  # numpy's library is loaded
    return [library.get_num_threads() for library in threads._blas()]


def test_one_thread_inside_and_as_before_outside() -> None:
    torch_before, blas_before = torch.get_num_threads(), blas_threads()
    with pytest.raises(RuntimeError, match="a bug"), one_thread():
        assert torch.get_num_threads() == 1
        assert set(blas_threads()) <= {1}
        with one_blas_thread():
            assert set(blas_threads()) <= {1}
        raise RuntimeError("a bug")
    assert torch.get_num_threads() == torch_before
    assert blas_threads() == blas_before


def test_more_threads_are_put_back() -> None:
    libraries = threads._blas()
    before = blas_threads()
    try:
        for library in libraries:
            library.set_num_threads(2)
        raised = blas_threads()
        with one_blas_thread():
            assert set(blas_threads()) <= {1}
        assert blas_threads() == raised
    finally:
        for library, n in zip(libraries, before, strict=True):
            library.set_num_threads(n)


def test_one_thread_does_not_load_torch() -> None:
    code = ("import sys; from v3audio.threads import one_thread\nwith one_thread(): pass\n"
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_turns_are_short_inside_and_as_before_outside() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(RuntimeError, match="a bug"), short_turns():
        assert sys.getswitchinterval() == pytest.approx(1e-4)
        raise RuntimeError("a bug")
    assert sys.getswitchinterval() == before
