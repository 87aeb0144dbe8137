"""The one front end, used alike for training, files and live: three views of the latest sound.

Letters in shapes: B frames, F bins (`Geometry.n_bins`), T samples of a window.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from v3audio.geometry import Geometry

LONG_FLOOR_HZ = 12.0  # bandwidth added to constant Q: long view, up to the whole window
SHORT_FLOOR_HZ = 90.0  # short view: less frequency, more time
LONG_MIN_SAMPLES, SHORT_MIN_SAMPLES = 256, 128
MIN_CORRELATION_SAMPLES = 96  # 6 ms: the least sound a period is judged by
BLOCK_BINS = 33  # bins a banded matrix product covers: 11 semitones need few FFT bins
SILENCE_POWER = 1e-8  # per sample (-80 dBFS): below, periodicity means nothing
SINC_TAPS = 8  # each side, of the fractional-lag interpolation


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
        self.n_fft_blocks = math.ceil(geometry.n_bins / BLOCK_BINS)
        self._ranges: list[tuple[int, int, int]] = []  # first FFT bin, past the last, bins
        self._build_kernels()
        self._groups: list[tuple[int, int, int]] = []  # correlation window, longest lag, FFT size
        self._build_lags()

    def _build_kernels(self) -> None:
        g = self.geometry
        long = _kernel_spectra(g, LONG_FLOOR_HZ, LONG_MIN_SAMPLES)
        short = _kernel_spectra(g, SHORT_FLOOR_HZ, SHORT_MIN_SAMPLES)
        for block in range(self.n_fft_blocks):
            rows = slice(block * BLOCK_BINS, min((block + 1) * BLOCK_BINS, g.n_bins))
            both = np.concatenate([long[rows], short[rows]])  # (2 * bins, n_fft/2 + 1) complex
            used = np.nonzero((np.abs(both) > 1e-3 * np.abs(both).max()).any(0))[0]
            low, high = int(used[0]), int(used[-1]) + 1
            k = both[:, low:high].T  # (R, 2 * bins)
            # (a + ib)(c + id) as one real product: rows re, im interleaved; columns re | im
            real = np.empty((2 * (high - low), 2 * k.shape[1]), np.float32)
            real[0::2] = np.concatenate([k.real, k.imag], 1)
            real[1::2] = np.concatenate([-k.imag, k.real], 1)
            self.register_buffer(f"kernel_{block}", torch.from_numpy(real), persistent=False)
            self._ranges.append((low, high, k.shape[1] // 2))

    def _build_lags(self) -> None:
        g = self.geometry
        lags = g.sample_rate / g.bin_hz()  # (F,) in samples, longest first
        edges = [0.0]
        size = float(MIN_CORRELATION_SAMPLES)
        while edges[-1] < lags.max():
            edges.append(size)
            size = min(size * 2, math.ceil(lags.max()) + 1.0) if size < lags.max() else size
        for index, (short, long) in enumerate(itertools.pairwise(edges)):
            own = lags[(lags > short) & (lags <= long)]
            window = max(MIN_CORRELATION_SAMPLES, math.ceil(own.max()))
            reach = math.ceil(own.max()) + SINC_TAPS
            n_fft = 2 ** math.ceil(math.log2(window + reach + 1))
            self._groups.append((window, reach, n_fft))
            sinc, linear = _interpolators(own, reach)
            self.register_buffer(f"sinc_{index}", torch.from_numpy(sinc), persistent=False)
            self.register_buffer(f"linear_{index}", torch.from_numpy(linear), persistent=False)

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


def _kernel_spectra(g: Geometry, floor_hz: float, shortest: int) -> NDArray[np.complex128]:
    """Conjugate spectra (F, T/2 + 1) of right-aligned Hann-windowed tones, one per bin."""
    q = 1 / (2 ** (1 / 24) - 1)
    rows = np.zeros((g.n_bins, g.window_length // 2 + 1), np.complex128)
    n = np.arange(g.window_length)
    for i, hz in enumerate(g.bin_hz()):
        length = int(np.clip(round(g.sample_rate * 1.5 / (hz / q + floor_hz)), shortest,
                             g.window_length))
        hann = np.zeros(g.window_length)
        hann[-length:] = np.hanning(length + 2)[1:-1]
        tone = hann / hann.sum() * np.exp(2j * np.pi * hz * n / g.sample_rate)
        # sum x[n] conj(tone[n]) by Parseval; real x: the negative half is the tone's far tail
        rows[i] = np.conj(np.fft.fft(tone))[: rows.shape[1]] / g.window_length * 2
    return rows


def _interpolators(lags: NDArray[np.float64],
                   reach: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrices (reach + 1, n_lags) from integer lags: windowed sinc, and linear for energies.

    A correlation is band-limited like its signal, so fractional lags are read off it exactly;
    lags below zero are mirrored.
    """
    sinc = np.zeros((reach + 1, len(lags)))
    linear = np.zeros((reach + 1, len(lags)))
    for j, lag in enumerate(lags):
        base = math.floor(lag)
        for tap in range(base - SINC_TAPS + 1, base + SINC_TAPS + 1):
            d = lag - tap
            weight = np.sinc(d) * math.cos(math.pi * d / (2 * SINC_TAPS)) ** 2
            if abs(tap) <= reach:
                sinc[abs(tap), j] += weight
        linear[base, j] += 1 - (lag - base)
        linear[min(base + 1, reach), j] += lag - base
    return sinc.astype(np.float32), linear.astype(np.float32)
