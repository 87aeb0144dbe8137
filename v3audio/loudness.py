"""How loud a sound is to a listener: ITU-R BS.1770-4, of one channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_S, STEP_S = 0.4, 0.1
_SILENT_LUFS, _GATE_LU = -70.0, -10.0


def k_weight(hz: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Power response of the K-weighting at frequencies up to 24 kHz.

    Source: the two filters of annex 1, as responses at 48 kHz.
    """
    z = np.exp(-2j * np.pi * hz / 48_000)
    shelf = ((1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2)
             / (1 - 1.69065929318241 * z + 0.73248077421585 * z**2))  # fmt: skip
    high_pass = (1 - z) ** 2 / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    out: NDArray[np.floating[Any]] = np.abs(shelf * high_pass) ** 2
    return out


def loudness_lufs(x: NDArray[np.floating[Any]], sample_rate: int) -> float:
    """Integrated loudness, with both gates, so that rests do not count.

    Args:
        x: (n,) samples, full scale +-1.
        sample_rate: Hz.

    Returns:
        LUFS; -inf where nothing is louder than -70.
    """
    hz = np.fft.rfftfreq(len(x), 1 / sample_rate)
    weighted = np.fft.irfft(np.fft.rfft(x) * np.sqrt(k_weight(np.minimum(hz, 24_000.0))), len(x))
    size, step = min(len(x), round(BLOCK_S * sample_rate)), round(STEP_S * sample_rate)
    energy = np.concatenate(([0.0], np.cumsum(np.square(weighted))))
    starts = np.arange(0, len(x) - size + 1, step)
    power = (energy[starts + size] - energy[starts]) / size
    power = power[_lufs(power) > _SILENT_LUFS]
    if not len(power):
        return -np.inf
    power = power[_lufs(power) > _lufs(power.mean()) + _GATE_LU]
    return float(_lufs(power.mean()))


def _lufs(power: NDArray[np.floating[Any]] | np.floating[Any]) -> Any:
    return 10 * np.log10(power + 1e-12) - 0.691
