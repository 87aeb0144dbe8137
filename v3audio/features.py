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
from v3audio.kernels import SILENCE_POWER, lag_groups, spectral_bands, wide_bands


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
        self._bands: list[tuple[int, int, int]] = []  # FFT size, first value used, past the last
        long, short = map(wide_bands, spectral_bands(geometry))
        self._n_long = len(long)
        for index, (n_fft, low, k) in enumerate(long + short):
            # (a + ib)(c + id) as one real product: rows re, im interleaved; columns re | im
            real = np.empty((2 * len(k), 2 * k.shape[1]), np.float32)
            real[0::2] = np.concatenate([k.real, k.imag], 1)
            real[1::2] = np.concatenate([-k.imag, k.real], 1)
            self.register_buffer(f"kernel_{index}", torch.from_numpy(real), persistent=False)
            self._bands.append((n_fft, low, low + len(k)))
        self._groups: list[tuple[int, int, int]] = []  # correlation window, longest lag, FFT size
        for index, group in enumerate(lag_groups(geometry)):
            self.register_buffer(f"sinc_{index}", torch.from_numpy(group.sinc), persistent=False)
            self.register_buffer(f"linear_{index}", torch.from_numpy(group.linear),
                                 persistent=False)
            self._groups.append((group.window, group.reach, group.n_fft))

    def forward(self, windows: Tensor) -> Views:
        """Views of (B, T) windows, float32 in [-1, 1]; B frames, T = `window_length`."""
        spectra = {
            n: torch.view_as_real(torch.fft.rfft(windows[:, -n:]))  # (B, n/2 + 1, 2)
            for n in {band[0] for band in self._bands}
        }
        found = []
        for index, (n_fft, low, high) in enumerate(self._bands):
            product = spectra[n_fft][:, low:high].flatten(1) @ self.get_buffer(f"kernel_{index}")
            real, imaginary = product.chunk(2, 1)  # (B, bins) each
            found.append((real.square() + imaginary.square()).sqrt())
        long, short = torch.cat(found[: self._n_long], 1), torch.cat(found[self._n_long :], 1)
        return Views(_compress(long), _compress(short), self._periodicity(windows))

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
