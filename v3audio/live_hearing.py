"""`Hearing` for one frame at a time, without torch: the same numbers, many times faster.

A live frame is so small that calling the network costs more than computing it, and that the weights
have to come through the cache again each time. So what no player asks for (style, note
probabilities) is left out, codes wait until somebody asks, buffers are made once, and what is read
is made small: complex kernels instead of their real expansion, only the lags that some bin asks
for, the content kernel as a spectrum of 23 kB instead of a matrix of 3.6 MB.

Each part calls `_frame.c` where it could be compiled, and is numpy below that line where not: more
than the arithmetic it is the way to some eighty small calls that takes the time then.

Letters: F bins, P positions, C views times channels, U hidden units of the partials, K codes.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from operator import mul

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.code_map import CodeMap
from v3audio.fft import irfft, rfft, turn
from v3audio.geometry import (
    CONTENT_BLUR_BINS,
    GAIN_RANGE,
    KERNEL_ABOVE,
    KERNEL_BELOW,
    N_VIEWS,
    PARTIAL_BINS,
    Geometry,
    ModelConfig,
)
from v3audio.kernels import (
    BRIEF_SAMPLES,
    LEVEL_FLOOR_DB,
    LEVEL_SAMPLES,
    ONSET_LAG_SAMPLES,
    ONSET_SAMPLES,
    PEAK_BINS,
    SILENCE_POWER,
    Band,
    LagGroup,
    lag_groups,
    onset_bands,
    spectral_bands,
)
from v3audio.notes import FrameNotes

FloatArray = NDArray[np.float32]
Weights = Mapping[str, FloatArray]

_GELU_ERROR = 3e-6
_ZERO, _ONE, _HUNDRED = np.float32(0), np.float32(1), np.float32(100)
_LEAST_PEAK, _UNIT = np.float32(1e-7), np.float32(1 / math.log(101))


class LiveHearing:
    """One network and its code map, one frame at a time. Not for two threads at once.

    Args:
        weights: of a `V3Model`, by their names in it.
        config: its sizes.
        code_map: where its positions lie.

    Raises:
        KeyError, ValueError: the weights are not those of such a network.
    """

    def __init__(self, weights: Weights, config: ModelConfig, code_map: CodeMap) -> None:
        g = config.geometry
        self._front_end = _FrontEnd(g)
        self._content = _ContentHead(weights, config, self._front_end.padded)
        self._atoms = weights["codebook.atoms"]  # (K, P)
        self._atom_squares = np.square(self._atoms).sum(1)
        reach = np.arange(-8, 9)  # a bell this wide, beyond it float32 sees none
        self._blur = np.exp(-0.5 * np.square(reach / CONTENT_BLUR_BINS)).astype(np.float32)
        self._midi_low, self._per_semitone = g.midi_low, g.bins_per_semitone
        self._n_bins, self._n_positions = g.n_bins, g.n_positions
        self._offset_bins = code_map.offset_semitones * g.bins_per_semitone
        self._attack = _Attack(g, self._front_end.window)
        self._position = np.full(g.n_positions, 1 / g.n_positions, np.float32)

    def frame(self, window: FloatArray) -> FrameNotes:
        """Hear one (window_length,) window at the analysis rate: a row of `Hearing.frames`."""
        np.copyto(self._front_end.window, window)
        views, energy = self._front_end()
        position = self._position = self._content()
        peak = int(position.argmax())
        first, last = max(0, peak - PEAK_BINS), min(self._n_positions, peak + PEAK_BINS + 1)
        mass = position[first:last].tolist()
        confidence = sum(mass)
        moment = sum(map(mul, mass, range(first, last)))
        # a position beyond either end counts as the end, as in `Hearing`
        below, above = PEAK_BINS - (peak - first), PEAK_BINS + 1 - (last - peak)
        if below or above:
            confidence += below * float(position[0]) + above * float(position[-1])
            moment += above * float(position[-1]) * (self._n_positions - 1)
        where = moment / max(confidence, 1e-9) + self._offset_bins
        nearest = min(max(round(where), 0), self._n_bins - 1)
        return FrameNotes(
            level_db=_level_db(energy, LEVEL_SAMPLES),
            onset=self._attack(),
            periodicity=max(views[2, max(0, nearest - 1) : nearest + 2].tolist()),
            pitch_midi=self._midi_low + where / self._per_semitone,
            confidence=confidence,
            position=position,
            views=views,
            brief_db=_level_db(energy, BRIEF_SAMPLES),
        )

    def code(self) -> tuple[int, float]:
        """The codebook's atom nearest to the newest frame's content, and how far it is (0..2).

        Computed when asked for, from what `frame` found last; uniform content before that.
        """
        content = np.convolve(self._position, self._blur, "same")
        content /= math.sqrt(float(content @ content))
        squares = self._atom_squares - 2 * (self._atoms @ content)
        nearest = int(squares.argmin())
        return nearest, math.sqrt(max(0.0, 1.0 + float(squares[nearest])))


class _Attack:
    """Spectral flux of one window, `Hearing._onset`."""

    def __init__(self, g: Geometry, window: FloatArray) -> None:
        bands, self._hann = onset_bands(g.sample_rate)
        self._bands = np.repeat(bands, 2, 0)  # the same for a real and an imaginary part
        stretches = window[-2 * ONSET_LAG_SAMPLES :].reshape(2, ONSET_LAG_SAMPLES)
        self._stretches = stretches[:, -ONSET_SAMPLES:]
        self._sound = np.empty((2, ONSET_SAMPLES), np.float32)
        self._spectra = np.empty((2, ONSET_SAMPLES // 2 + 1), np.complex64)
        self._parts = self._spectra.view(np.float32)
        of_bin = np.where(bands.any(1), bands.argmax(1), -1).astype(np.int32)
        self._compiled = compiled.bind(
            "attack", ONSET_SAMPLES, *self._stretches, self._hann, turn(ONSET_SAMPLES),
            bands.shape[1], of_bin, result=ctypes.c_float,
        )  # fmt: skip

    def __call__(self) -> float:
        """Mean rise of the bands of the window that now stands there, dB."""
        if self._compiled:
            return float(self._compiled())
        np.multiply(self._stretches, self._hann, out=self._sound)
        rfft(self._sound, self._spectra)
        np.multiply(self._parts, self._parts, out=self._parts)
        before, now = self._parts.dot(self._bands).tolist()
        rises = [(b + 1e-7) / (a + 1e-7) for a, b in zip(before, now, strict=True) if b > a]
        return 10.0 * sum(map(math.log10, rises)) / len(now)


class _FrontEnd:
    """`features.FrontEnd` of one window, the one that stands in `window`."""

    def __init__(self, g: Geometry) -> None:
        self.window = np.zeros(g.window_length, np.float32)
        self._spectrum = np.empty(g.window_length // 2 + 1, np.complex64)
        bands = spectral_bands(g)
        n_bins = bands[0].kernel.shape[1] // 2
        assert n_bins * len(bands) == g.n_bins, "bands of one size"
        products = np.empty((len(bands), 2 * n_bins), np.complex64)
        self._bands = [
            (np.ascontiguousarray(band.kernel.T), self._spectrum[band.low : band.high], product)
            for band, product in zip(bands, products, strict=True)
        ]
        self._products = products.reshape(len(bands), 2, n_bins).transpose(1, 0, 2)
        self._by_band = np.empty((2, len(bands), n_bins), np.float32)
        self._magnitude = self._by_band.reshape(2, -1)
        # Views stand between zeros: the content head looks beyond both ends.
        below, above = -min(PARTIAL_BINS), max(PARTIAL_BINS)
        self.padded = np.zeros((N_VIEWS, below + g.n_bins + above), np.float32)
        self._views = self.padded[:, below : below + g.n_bins]
        self._spectral, self._lag = self._views[:2], self._views[2]
        self._found = np.empty(g.n_bins, np.float32)
        groups = lag_groups(g)[::-1]  # long lags first: low bins
        # Of each group: what is correlated with what, the matrix that reads fractional lags off
        # the correlation (which comes longest lag first), and where the result goes.
        self._groups = []
        lags, ends, at = [], [], 0
        for group in groups:
            n_lags = group.sinc.shape[1]
            shortest = int(np.flatnonzero(group.sinc.any(1))[0])
            sinc = np.ascontiguousarray(2 * group.sinc[: shortest - 1 if shortest else None : -1].T)
            place = self._found[at : at + n_lags]
            past = self.window[-group.window - group.reach : g.window_length - shortest]
            self._groups.append((past, self.window[-group.window :], sinc, place))
            lags.append(np.arange(group.reach + 1) @ group.linear.astype(np.float64))
            ends.append(np.full(n_lags, group.window))
            at += n_lags
        lag, end = np.concatenate(lags), np.concatenate(ends)
        # A bin's energy: the newest `end` samples, and the `end` samples that begin `lag` earlier.
        base = np.floor(lag).astype(np.int64)
        part = lag - base
        n_energies = max(int((end + base).max()) + 1, LEVEL_SAMPLES) + 1
        near = (end, end + base, end + base + 1, base, base + 1, np.full_like(end, n_energies))
        floor = 2 * end * SILENCE_POWER
        self._near = np.stack(near)
        self._shares = np.stack((np.ones_like(part), 1 - part, part, part - 1, -part, floor))
        self._gathered = np.empty_like(self._shares)
        self._energy = np.zeros(n_energies + 1)
        self._energy[-1] = 1.0  # of which the floor is a share
        self._newest_first = self.window[: -n_energies : -1]
        self._squares = np.empty(n_energies - 1)
        self._compiled = self._bind(bands, groups) if _fits(g) else None

    def _bind(self, bands: list[Band], groups: list[LagGroup]) -> Callable[[], None] | None:
        """All of `__call__` in one piece."""
        rows, kernels = [], []
        for view in range(2):
            for band in bands:
                n_bins = band.kernel.shape[1] // 2
                n = band.high - band.low
                padded = np.zeros((n_bins, n + -n % compiled.PAD), np.complex64)
                padded[:, :n] = band.kernel[:, view * n_bins : (view + 1) * n_bins].T
                rows += [(band.low, padded.shape[1])] * n_bins
                kernels.append(padded.ravel())
        kernel = np.concatenate(kernels)
        heads, lags, weights = [], [], []
        for group in groups:
            used = group.sinc != 0
            shortest = int(np.flatnonzero(used.any(1))[0])
            heads.append((group.window, shortest, group.reach + 1, used.shape[1]))
            for bin_uses, column in zip(used.T, group.sinc.T, strict=True):
                first, last = np.flatnonzero(bin_uses)[[0, -1]]
                lags.append((first, last + 1 - first))
                weights.append(column[first : last + 1])
        return compiled.bind(
            "front_end", len(self.window), self.window, turn(len(self.window)),
            len(self._found), np.array(rows, np.int32),
            np.ascontiguousarray(kernel.real), np.ascontiguousarray(kernel.imag),
            len(heads), np.array(heads, np.int32), np.array(lags, np.int32),
            np.concatenate(weights), len(self._energy), self._energy,
            len(self._near), self._near, self._shares, self.padded.shape[1], self._views[0],
        )  # fmt: skip

    def __call__(self) -> tuple[FloatArray, NDArray[np.float64]]:
        """Hear the window.

        Returns:
            Views (3, F) as in `features.Views`, standing in `padded`, and the energy of the newest
            0..n samples, (n + 1,) and more; the same arrays each time.
        """
        if self._compiled:
            self._compiled()
            return self._views, self._energy
        rfft(self.window, self._spectrum)
        for kernel, spectrum, product in self._bands:
            kernel.dot(spectrum, product)
        np.abs(self._products, out=self._by_band)
        magnitude = self._magnitude
        peak = np.maximum.reduce(magnitude, axis=1, keepdims=True, initial=_LEAST_PEAK)
        magnitude *= _HUNDRED / peak
        magnitude += _ONE
        np.log(magnitude, out=magnitude)
        np.multiply(magnitude, _UNIT, out=self._spectral)
        self._periodicity()
        return self._views, self._energy

    def _periodicity(self) -> None:
        for past, now, sinc, found in self._groups:
            # direct sums: a few hundred lags of a few hundred samples; quicker than FFTs
            sinc.dot(np.correlate(past, now), found)
        newest_first, energy = self._newest_first, self._energy
        np.multiply(newest_first, newest_first, out=self._squares, dtype=np.float64)
        np.add.accumulate(self._squares, out=energy[1:-1])
        gathered = energy.take(self._near, out=self._gathered, mode="clip")
        gathered *= self._shares
        both = np.add.reduce(gathered)
        share = self._lag
        np.divide(self._found, both, out=share, casting="same_kind")
        np.maximum(share, _ZERO, out=share)
        np.minimum(share, _ONE, out=share)


class _ContentHead:
    """`model.ContentHead` of one frame."""

    def __init__(self, weights: Weights, config: ModelConfig, padded: FloatArray) -> None:
        g, channels = config.geometry, config.channels
        n_channels = N_VIEWS * channels
        # The detectors of peaks as products with shifted views; the last tap is the bias.
        parts = [f"content_head.peaks.{view}" for view in range(N_VIEWS)]
        taps = [
            np.concatenate((weights[f"{p}.weight"][:, 0], weights[f"{p}.bias"][:, None]), 1)
            for p in parts
        ]
        self._taps = np.stack(taps)  # (views, channels, taps + 1)
        n_taps = self._taps.shape[2] - 1
        self._shifted = np.ones((N_VIEWS, n_taps + 1, g.n_bins), np.float32)
        self._columns = self._shifted[:, :-1]
        first_tap = -min(PARTIAL_BINS) - n_taps // 2
        windows = sliding_window_view(padded, g.n_bins, axis=1)
        self._windows = windows[:, first_tap : first_tap + n_taps]

        # Correlation with the content kernel by FFT: 12 short ones are quicker than the product.
        n_fft = max(g.n_bins + KERNEL_BELOW, g.n_positions + KERNEL_ABOVE)
        n_fft = scipy.fft.next_fast_len(n_fft, real=True)
        kernel = weights["content_head.kernel"].astype(np.float64)  # (C, taps)
        laid = np.zeros((n_channels, n_fft))
        laid[:, np.arange(-KERNEL_BELOW, KERNEL_ABOVE + 1)] = kernel
        spectra = scipy.fft.rfft(laid).conj()
        self._kernel = spectra.astype(np.complex64)
        self._padded = np.zeros((n_channels, n_fft), np.float32)
        self._seen = self._padded.reshape(N_VIEWS, channels, n_fft)[:, :, : g.n_bins]
        self._spectra, self._products = np.empty((2, *spectra.shape), np.complex64)
        self._total = self._spectra[:, 0].real  # of each channel
        self._sum = np.empty(spectra.shape[1], np.complex64)
        self._correlation = np.empty(n_fft, np.float32)
        self._score = self._correlation[: g.n_positions]

        # What one product adds to the score: the partials, and what each channel's mean takes off,
        # within the axis: as much as a channel of ones would score.
        partials = _Partials(weights, config, padded) if config.partial_hidden else None
        n_rows = len(partials.weigh) if partials else 0
        self._rows = np.empty((n_rows + n_channels, g.n_positions), np.float32)
        self._weigh = np.zeros(n_rows + n_channels, np.float32)
        self._means = self._weigh[n_rows:]
        ones = scipy.fft.rfft(np.ones(g.n_bins), n_fft)
        flat = scipy.fft.irfft(spectra * ones, n_fft)[:, : g.n_positions]
        self._rows[n_rows:] = flat / g.n_bins
        self._partials = partials
        if partials:
            self._weigh[:n_rows] = partials.weigh
            partials.fill(self._rows[:n_rows])
        gain = math.exp(5 * float(weights["content_head.log_gain"]))
        self._gain = min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1])
        self._compiled = None
        if _fits(g):
            entry = partials.entry if partials else np.empty((0, 1), np.float32)
            places = np.array(PARTIAL_BINS, np.int32) - min(PARTIAL_BINS)
            self._compiled = compiled.bind(
                "content", *padded.shape, -min(PARTIAL_BINS), g.n_bins, padded,
                channels, n_taps, first_tap, self._taps,
                KERNEL_BELOW, kernel.shape[1], kernel.astype(np.float32),
                len(entry), len(places), places, entry,
                n_rows // max(len(entry), 1) - 1, self._weigh[:n_rows].copy(),
                self._gain, g.n_positions, self._score,
            )  # fmt: skip

    def __call__(self) -> FloatArray:
        """Position probabilities (P,) of the views that now stand in `padded`."""
        if self._compiled:
            self._compiled()
            return self._score
        np.copyto(self._columns, self._windows)
        np.matmul(self._taps, self._shifted, out=self._seen)
        np.maximum(self._padded, _ZERO, out=self._padded)
        rfft(self._padded, self._spectra)
        np.multiply(self._spectra, self._kernel, out=self._products)
        irfft(np.add.reduce(self._products, out=self._sum), self._correlation)
        np.negative(self._total, out=self._means)
        if self._partials:
            self._partials()
        score = self._score
        score += self._weigh.dot(self._rows)
        n, mass, square = len(score), float(np.add.reduce(score)), float(score.dot(score))
        deviation = math.sqrt(max(0.0, square - mass * mass / n) / (n - 1))
        score *= np.float32(self._gain / (deviation + 1e-5))
        score -= np.maximum.reduce(score)
        np.exp(score, out=score)
        score /= np.add.reduce(score)
        return score


class _Partials:
    """`ContentHead._weigh_partials` of one frame, but for a constant, which makes no difference.

    GELU(x) = x / 2 + x erf(x / sqrt 2) / 2. The second half is even, and as the views lie in 0..1
    the weights bound its argument: within that bound it is a short polynomial in x^2, so that the
    sum over hidden units becomes one product with their powers. erf would take three times as long.
    """

    def __init__(self, weights: Weights, config: ModelConfig, padded: FloatArray) -> None:
        g = config.geometry
        entry = weights["content_head.partials.0.weight"]  # (U, views * partials)
        bias = weights["content_head.partials.0.bias"]
        last = weights["content_head.partials.2.weight"][0].astype(np.float64)
        limit = max(
            float((np.maximum(entry, 0).sum(1) + bias).max()),
            float((np.maximum(-entry, 0).sum(1) - bias).max()),
        )
        # The product gives y = sqrt(2) x / limit, so that y^2 - 1 lies in -1..1, where powers are
        # tame: those of a small x^2 would leave float32's range and be slow.
        scale = math.sqrt(2) / limit
        self.entry = (scale * np.concatenate((entry, bias[:, None]), 1)).astype(np.float32)
        coefficients = _even_half_of_gelu(limit)
        weigh = np.concatenate((0.5 / scale * last, np.outer(coefficients, last).ravel()))
        self.weigh = weigh.astype(np.float32)
        below = -min(PARTIAL_BINS)
        at = slice(below, below + g.n_bins)
        self._here = padded[:, at]
        self._lower = padded[:, at.start - 1 : at.stop - 1]
        self._upper = padded[:, at.start + 1 : at.stop + 1]
        near = np.ones((N_VIEWS + 1, padded.shape[1]), np.float32)  # the last row for the bias
        near[:N_VIEWS] = 0.0
        self._near = near[:N_VIEWS, at]
        self._windows = sliding_window_view(near, g.n_positions, axis=1)
        n_partials = len(PARTIAL_BINS)
        places = np.append(np.tile(np.array(PARTIAL_BINS) + below, N_VIEWS), 0)
        self._which = np.append(np.repeat(np.arange(N_VIEWS), n_partials), N_VIEWS), places

    def fill(self, rows: FloatArray) -> None:
        """Let calls fill `rows`, (len(weigh), P), whose sum weighed by `weigh` is the score."""
        first = rows[: len(self.entry)]
        powers = rows[len(first) :].reshape(-1, *first.shape)
        self._first, self._square = first, powers[0]
        # v, v^2, v^3 ... from those before: which are multiplied by which, and where they go
        self._products, n = [], 1
        while n < len(powers):
            more = min(n, len(powers) - n)
            self._products.append((powers[:more], powers[n - 1], powers[n : n + more]))
            n += more

    def __call__(self) -> None:
        """Take the views that now stand in `padded`."""
        near, first, square = self._near, self._first, self._square
        np.maximum(self._here, self._lower, out=near)
        np.maximum(near, self._upper, out=near)
        self.entry.dot(self._windows[self._which], first)
        np.multiply(first, first, out=square)
        np.subtract(square, _ONE, out=square)
        for low, high, place in self._products:
            np.multiply(low, high, out=place)


def _fits(g: Geometry) -> bool:
    """Whether the compiled arithmetic has room for such a network."""
    reach = max(PARTIAL_BINS) - min(PARTIAL_BINS) + g.n_bins + KERNEL_BELOW + KERNEL_ABOVE
    most = max(g.window_length, N_VIEWS * reach)
    return most <= compiled.MOST and g.window_length.bit_count() == 1


def _level_db(energy: NDArray[np.float64], n_samples: int) -> float:
    """RMS of the newest samples in dBFS."""
    return max(10.0 * math.log10(energy[n_samples] / n_samples + 1e-12), LEVEL_FLOOR_DB)


def _even_half_of_gelu(limit: float) -> NDArray[np.float64]:
    """Fit x erf(x / sqrt 2) / 2 for |x| <= limit, but for a constant.

    Returns:
        Coefficients of v, v^2, ... where v = 2 x^2 / limit^2 - 1.
    """

    def exact(v: NDArray[np.float64]) -> NDArray[np.float64]:
        roots = limit * np.sqrt(np.maximum(0.5 * (v + 1), 0))
        return np.array([0.5 * x * math.erf(x * math.sqrt(0.5)) for x in roots])

    dense = np.linspace(-1, 1, 500)
    for degree in range(2, 40):
        series = Chebyshev.interpolate(exact, degree)
        if np.abs(series(dense) - exact(dense)).max() < _GELU_ERROR:
            break
    return np.asarray(series.convert(kind=Polynomial).coef[1:])
