"""The numbers that both front ends are built from, the network's and the live one; no torch.

Letters in shapes: F bins (`Geometry.n_bins`), T samples of a window.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from v3audio.geometry import Geometry

FloatArray = NDArray[np.float32]

LONG_FLOOR_HZ = 12.0  # bandwidth added to constant Q: long view, up to the whole window
SHORT_FLOOR_HZ = 90.0  # short view: less frequency, more time
LONG_MIN_SAMPLES, SHORT_MIN_SAMPLES = 256, 128
MIN_CORRELATION_SAMPLES = 96  # 6 ms: the least sound a period is judged by
BAND_BINS = 8  # neighbours that share a spectrum and which of its values they use
N_FFTS = (512,)  # short kernels need no spectrum of the whole window
KERNEL_EDGE = 2e-4  # of a kernel's largest value: what lies below is left out
RINGING = 2e-3  # of it: so much at 0 Hz or half the rate, and it needs the whole window
SILENCE_POWER = 1e-8  # per sample (-80 dBFS): below, periodicity means nothing
SINC_TAPS = 8  # each side, of the fractional-lag interpolation

LEVEL_SAMPLES = 320  # newest 20 ms: a period of the lowest notes, and no more
LEVEL_FLOOR_DB = -120.0
BRIEF_SAMPLES = 80  # newest 5 ms, for the sharp edge of an attack
ONSET_SAMPLES = 256  # the two stretches whose spectra are compared for attacks (16 ms)
ONSET_LAG_SAMPLES = 320  # how far apart they stand (20 ms)
ONSET_BANDS = 24
PEAK_BINS = 3  # +- one semitone around the heard position


class Band(NamedTuple):
    """Kernels of neighbouring bins, as far as they are not 0."""

    n_fft: int  # newest samples whose spectrum they weigh
    low: int  # first of its values
    kernel: NDArray[np.complex64]  # (values, bins)


class LagGroup(NamedTuple):
    """Neighbouring lags, correlated over one stretch of sound."""

    window: int  # samples correlated
    reach: int  # longest lag
    n_fft: int
    sinc: FloatArray  # (reach + 1, lags): reads fractional lags off a correlation
    linear: FloatArray  # (reach + 1, lags): the same for energies


def spectral_bands(g: Geometry) -> tuple[list[Band], list[Band]]:
    """Both spectral views, long and short, as banded products with spectra.

    Returns: bands of `BAND_BINS` bins each (the last one fewer), low bins first.
    """
    views = (LONG_FLOOR_HZ, LONG_MIN_SAMPLES), (SHORT_FLOOR_HZ, SHORT_MIN_SAMPLES)
    long, short = (list(_bands(g, *view)) for view in views)
    return long, short


def wide_bands(bands: list[Band]) -> list[Band]:
    """The same as fewer and larger products, for who calls a library for each of them."""
    wide: list[Band] = []
    for n_fft, same in itertools.groupby(bands, lambda band: band.n_fft):
        left = list(same)
        for some in (left[k : k + 8] for k in range(0, len(left), 8)):
            low = min(band.low for band in some)
            high = max(band.low + len(band.kernel) for band in some)
            columns = [
                np.pad(k, ((first - low, high - first - len(k)), (0, 0))) for _, first, k in some
            ]
            wide.append(Band(n_fft, low, np.concatenate(columns, 1)))
    return wide


def lag_groups(g: Geometry) -> list[LagGroup]:
    """The lag view's groups, short lags (high bins) first."""
    lags = g.sample_rate / g.bin_hz()  # (F,) in samples, longest first
    edges = [0.0]
    size = float(MIN_CORRELATION_SAMPLES)
    while edges[-1] < lags.max():
        edges.append(size)
        size = min(size * 2, math.ceil(lags.max()) + 1.0) if size < lags.max() else size
    groups = []
    for short, long in itertools.pairwise(edges):
        own = lags[(lags > short) & (lags <= long)]
        window = max(MIN_CORRELATION_SAMPLES, math.ceil(own.max()))
        reach = math.ceil(own.max()) + SINC_TAPS
        n_fft = 2 ** math.ceil(math.log2(window + reach + 1))
        groups.append(LagGroup(window, reach, n_fft, *_interpolators(own, reach)))
    return groups


def onset_bands(sample_rate: int) -> tuple[FloatArray, FloatArray]:
    """Bands (FFT bins, bands), log-spaced from 60 Hz, and the Hann window (ONSET_SAMPLES,)."""
    hz = np.fft.rfftfreq(ONSET_SAMPLES, 1 / sample_rate)
    edges = np.geomspace(60.0, sample_rate / 2, ONSET_BANDS + 1)
    index = np.clip(np.searchsorted(edges, hz, side="right") - 1, 0, ONSET_BANDS - 1)
    bands = np.zeros((len(hz), ONSET_BANDS), np.float32)
    bands[np.arange(len(hz)), index] = 1.0
    bands[0] = 0.0  # DC says nothing
    bands = bands[:, bands.any(0)]  # the lowest bands are narrower than an FFT bin
    hann = np.hanning(ONSET_SAMPLES + 1)[:-1] / (ONSET_SAMPLES / 4)
    return bands, hann.astype(np.float32)


def _bands(g: Geometry, floor_hz: float, shortest: int) -> Iterator[Band]:
    q = 1 / (2 ** (1 / 24) - 1)
    hz = g.bin_hz()
    lengths = np.rint(g.sample_rate * 1.5 / (hz / q + floor_hz)).astype(int)
    lengths = lengths.clip(shortest, g.window_length)
    for first in range(0, g.n_bins, BAND_BINS):
        rows = slice(first, first + BAND_BINS)
        n_ffts = [n for n in N_FFTS if lengths[rows].max() <= n < g.window_length]
        for n_fft in (*n_ffts, g.window_length):
            kernel = _spectra(hz[rows] / g.sample_rate, lengths[rows], n_fft)
            # cut off at either end, it rings beyond its length
            if np.abs(kernel[:, [0, -1]]).max() < RINGING * np.abs(kernel).max():
                break
        used = np.flatnonzero(kernel.any(0))
        low, high = int(used[0]), int(used[-1]) + 1
        yield Band(n_fft, low, np.ascontiguousarray(kernel[:, low:high].T, np.complex64))


def _spectra(
    turns: NDArray[np.float64], lengths: NDArray[np.int64], n_fft: int
) -> NDArray[np.complex128]:
    """Conjugate spectra (bins, n_fft/2 + 1) of right-aligned Hann-windowed tones.

    Args:
        turns: (bins,) of the tones, in a sample.
        lengths: (bins,) samples.
        n_fft: at least the longest.
    """
    n, length = np.arange(-n_fft, 0), lengths[:, None]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (n + length + 1) / (length + 1))
    hann[n < -length] = 0
    tones = hann / hann.sum(1, keepdims=True) * np.exp(2j * np.pi * turns[:, None] * n)
    # sum x[n] conj(tone[n]) by Parseval; real x: the negative half is the tone's far tail
    spectra = np.fft.fft(tones)[:, : n_fft // 2 + 1].conj() / n_fft * 2
    large = np.abs(spectra)
    return np.asarray(np.where(large > KERNEL_EDGE * large.max(1, keepdims=True), spectra, 0))


def _interpolators(lags: NDArray[np.float64], reach: int) -> tuple[FloatArray, FloatArray]:
    """Matrices (reach + 1, n_lags) from integer lags: windowed sinc, and linear for energies.

    A correlation is band-limited like its signal, so fractional lags are read off it exactly;
    lags below zero are mirrored.
    """
    sinc = np.zeros((reach + 1, len(lags)))
    linear = np.zeros((reach + 1, len(lags)))
    base = np.floor(lags).astype(np.int64)
    column = np.arange(len(lags))
    for step in range(1 - SINC_TAPS, SINC_TAPS + 1):
        tap = np.abs(base + step)
        d = lags - base - step
        weight = np.sinc(d) * np.cos(np.pi * d / (2 * SINC_TAPS)) ** 2
        inside = tap <= reach
        sinc[tap[inside], column[inside]] += weight[inside]
    linear[base, column] = 1 - (lags - base)
    linear[np.minimum(base + 1, reach), column] += lags - base
    return sinc.astype(np.float32), linear.astype(np.float32)
