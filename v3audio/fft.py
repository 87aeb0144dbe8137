"""Turns of the circle, as the compiled transforms of `_frame.c` read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
