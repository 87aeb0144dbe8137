"""Real FFTs as small as a live frame's: scipy's own, without the way there.

What scipy does around a transform (choosing a backend, checking axes, lengths and norms) is Python,
and takes several times as long as 2048 samples do, most of all where the caches have gone cold
since the last frame. So its compiled part is called directly, and where a scipy keeps it elsewhere,
its public functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

try:
    from scipy.fft._pocketfft import pypocketfft as _compiled
except ImportError:  # another scipy
    _compiled = None

Array = NDArray[Any]


def rfft(x: Array, out: Array) -> Array:
    """Spectra along the last axis: (..., n) real into `out`, (..., n // 2 + 1) complex."""
    if _compiled is None:
        out[:] = scipy.fft.rfft(x)
    else:
        _compiled.r2c(x, (-1,), True, 0, out, 1)
    return out


def irfft(spectra: Array, out: Array) -> Array:
    """The other way: (..., n // 2 + 1) complex into `out`, (..., n) real."""
    n = out.shape[-1]
    if _compiled is None:
        out[:] = scipy.fft.irfft(spectra, n)
    else:
        _compiled.c2r(spectra, (-1,), n, False, 2, out, 1)
    return out


def turn(n: int) -> NDArray[np.float32]:
    """What the compiled arithmetic makes spectra of n real values with, or of n / 2 complex ones.

    Returns:
        (3 n,): cosine and sine of 2 pi k / n by turns; then, for each eight neighbouring q of the
        n / 16 values that eight interleaved transforms have, and each of these, b: eight cosines
        and eight sines of 2 pi b q / (n / 2).
    """
    angle = 2 * np.pi * np.arange(n) / n
    q, b = np.arange(n // 16).reshape(-1, 1, 8), np.arange(8)[:, None]
    lanes = 4 * np.pi * b * q / n
    parts = [np.stack((np.cos(x), np.sin(x)), axis) for x, axis in ((angle, 1), (lanes, 2))]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)
