"""The one front end, used alike for training, files and live: three views of the latest sound.

Letters in shapes: B frames, F bins (`Geometry.n_bins`), T samples of a window.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from v3audio.geometry import Geometry
from v3audio.kernels import SILENCE_POWER, lag_groups, spectral_bands


class Views(NamedTuple):
    """What the encoder sees of one frame; a transposition shifts all three by the same bins."""

    long: Tensor  # (B, F) log spectrum, constant-Q with a floor, 0..1
    short: Tensor  # (B, F) the same with short kernels, 0..1
    lag: Tensor  # (B, F) periodicity at the lag of each bin, 0..1


class FrontEnd(nn.Module):
    """Right-aligned windows to three views on one log-frequency axis.

    Each frame is a pure function of its window, so blocks, files and hops of any size agree.
    The buffers are derived from the geometry and are not part of the weights.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self._ranges: list[tuple[int, int, int]] = []  # first FFT bin, past the last, bins
        for block, (low, high, k) in enumerate(spectral_bands(geometry)):
            # (a + ib)(c + id) as one real product: rows re, im interleaved; columns re | im
            real = np.empty((2 * len(k), 2 * k.shape[1]), np.float32)
            real[0::2] = np.concatenate([k.real, k.imag], 1)
            real[1::2] = np.concatenate([-k.imag, k.real], 1)
            self.register_buffer(f"kernel_{block}", torch.from_numpy(real), persistent=False)
            self._ranges.append((low, high, k.shape[1] // 2))
        self._groups: list[tuple[int, int, int]] = []  # correlation window, longest lag, FFT size
        for index, group in enumerate(lag_groups(geometry)):
            self.register_buffer(f"sinc_{index}", torch.from_numpy(group.sinc), persistent=False)
            self.register_buffer(f"linear_{index}", torch.from_numpy(group.linear),
                                 persistent=False)
            self._groups.append((group.window, group.reach, group.n_fft))

    def forward(self, windows: Tensor) -> Views:
        """Views of (B, T) windows, float32 in [-1, 1]; B frames, T = `window_length`."""
        spectrum = torch.view_as_real(torch.fft.rfft(windows))  # (B, T/2 + 1, 2)
        long, short = [], []
        for block, (low, high, n) in enumerate(self._ranges):
            kernel = self.get_buffer(f"kernel_{block}")
            product = spectrum[:, low:high].flatten(1) @ kernel  # (B, 4 * bins): re | im
            magnitude = (product[:, : 2 * n].square() + product[:, 2 * n :].square()).sqrt()
            long.append(magnitude[:, :n])
            short.append(magnitude[:, n:])
        return Views(_compress(torch.cat(long, 1)), _compress(torch.cat(short, 1)),
                     self._periodicity(windows))

    def _periodicity(self, windows: Tensor) -> Tensor:
        """Normalised correlation at each bin's lag: 2 sum x[n]x[n-l] / sum(x[n]^2 + x[n-l]^2)."""
        squares = windows.square()
        energy = nn.functional.pad(squares.flip(1).cumsum(1), (1, 0))  # (B, T + 1), newest first
        parts = []
        for index, (window, reach, n_fft) in enumerate(self._groups):
            past = torch.fft.rfft(windows[:, -(window + reach) :], n_fft)
            now = torch.fft.rfft(windows[:, -window:], n_fft)
            # circular correlation: index `reach - l` holds sum x[n] x[n - l]
            products = torch.fft.irfft(past * now.conj(), n_fft)[:, : reach + 1].flip(1)
            shifted = energy[:, window : window + reach + 1] - energy[:, : reach + 1]
            both = (shifted[:, :1] + shifted @ self.get_buffer(f"linear_{index}")
                    + 2 * window * SILENCE_POWER)
            parts.append(2 * products @ self.get_buffer(f"sinc_{index}") / both)
        # groups run from short lags (high bins) to long ones (low bins)
        return torch.cat(parts[::-1], 1).clamp(0, 1)


def _compress(magnitude: Tensor) -> Tensor:
    """log(1 + 100 m / max) / log 101 per frame, so that loudness stays apart (0..1)."""
    peak = magnitude.amax(1, keepdim=True).clamp_min(1e-7)
    return torch.log1p(100 * magnitude / peak) / math.log(101)
