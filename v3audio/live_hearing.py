"""`Hearing` for one frame at a time, in numpy alone: the same numbers, several times faster.

A live frame is so small that calling the network costs more than computing it, and that the weights
have to come through the cache again each time. So what no player asks for (style, note
probabilities) is left out, codes wait until somebody asks, buffers are made once, and what is read
is made small: complex kernels instead of their real expansion, only the lags that some bin asks
for, the content kernel as a spectrum of 23 kB instead of a matrix of 3.6 MB.

Letters: F bins, P positions, C views times channels, U hidden units of the partials, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import mul

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from v3audio.code_map import CodeMap
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
        bands, self._hann = onset_bands(g.sample_rate)
        self._bands = np.repeat(bands, 2, 0)  # the same for a real and an imaginary part
        self._position = np.full(g.n_positions, 1 / g.n_positions, np.float32)

    def frame(self, window: FloatArray) -> FrameNotes:
        """Hear one (window_length,) window at the analysis rate: a row of `Hearing.frames`."""
        views, energy = self._front_end(window)
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
            onset=self._onset(window),
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

    def _onset(self, window: FloatArray) -> float:
        stretches = window[-2 * ONSET_LAG_SAMPLES :].reshape(2, ONSET_LAG_SAMPLES)
        parts = scipy.fft.rfft(stretches[:, -ONSET_SAMPLES:] * self._hann).view(np.float32)
        parts *= parts
        power = parts.dot(self._bands)
        power += np.float32(1e-7)
        rise = np.log(power[1] / power[0])
        np.maximum(rise, _ZERO, out=rise)
        return 10.0 / math.log(10) * float(np.add.reduce(rise)) / len(rise)


class _FrontEnd:
    """`features.FrontEnd` of one window."""

    def __init__(self, g: Geometry) -> None:
        bands = spectral_bands(g)
        n_bins = bands[0].kernel.shape[1] // 2
        assert n_bins * len(bands) == g.n_bins, "bands of one size"
        products = np.empty((len(bands), 2 * n_bins), np.complex64)
        self._bands = [
            (band.low, band.high, np.ascontiguousarray(band.kernel.T), product)
            for band, product in zip(bands, products, strict=True)
        ]
        self._parts = products.view(np.float32)
        by_view = self._parts.reshape(len(bands), 2, n_bins, 2)
        self._real, self._imag = by_view.transpose(3, 1, 0, 2)  # (2 views, bands, bins) each
        self._power = np.empty((2, len(bands), n_bins), np.float32)
        self._magnitude = self._power.reshape(2, -1)
        # Views stand between zeros: the content head looks beyond both ends.
        below, above = -min(PARTIAL_BINS), max(PARTIAL_BINS)
        self.padded = np.zeros((N_VIEWS, below + g.n_bins + above), np.float32)
        self._views = self.padded[:, below : below + g.n_bins]
        self._spectral, self._lag = self._views[:2], self._views[2]
        self._found = np.empty(g.n_bins, np.float32)
        groups = lag_groups(g)[::-1]  # long lags first: low bins
        # Of each group: samples correlated, its lags' ends, the matrix that reads fractional lags
        # off the correlation (which comes longest lag first), and where the result goes.
        self._groups = []
        lags, ends, at = [], [], 0
        for group in groups:
            n_lags = group.sinc.shape[1]
            shortest = int(np.flatnonzero(group.sinc.any(1))[0])
            sinc = np.ascontiguousarray(2 * group.sinc[: shortest - 1 if shortest else None : -1].T)
            place = self._found[at : at + n_lags]
            self._groups.append((group.window, group.window + group.reach, shortest, sinc, place))
            lags.append(np.arange(group.reach + 1) @ group.linear.astype(np.float64))
            ends.append(np.full(n_lags, group.window))
            at += n_lags
        lag, end = np.concatenate(lags), np.concatenate(ends)
        # A bin's energy: the newest `end` samples, and the `end` samples that begin `lag` earlier.
        base = np.floor(lag).astype(np.int64)
        part = lag - base
        self._near = np.stack((end, end + base, end + base + 1, base, base + 1))
        self._shares = np.stack((np.ones_like(part), 1 - part, part, part - 1, -part))
        self._gathered = np.empty_like(self._shares)
        self._floor = 2 * end * SILENCE_POWER
        self._energy = np.zeros(max(int(self._near.max()), LEVEL_SAMPLES) + 1)

    def __call__(self, window: FloatArray) -> tuple[FloatArray, NDArray[np.float64]]:
        """Hear a window.

        Returns:
            Views (3, F) as in `features.Views`, standing in `padded`, and the energy (n + 1,) of
            the newest 0..n samples; the same arrays each time.
        """
        spectrum = scipy.fft.rfft(window)
        for low, high, kernel, product in self._bands:
            kernel.dot(spectrum[low:high], product)
        magnitude, parts = self._magnitude, self._parts
        np.multiply(parts, parts, out=parts)
        np.add(self._real, self._imag, out=self._power)
        np.sqrt(magnitude, out=magnitude)
        peak = np.maximum.reduce(magnitude, axis=1, keepdims=True, initial=_LEAST_PEAK)
        magnitude *= _HUNDRED / peak
        magnitude += _ONE
        np.log(magnitude, out=magnitude)
        np.multiply(magnitude, _UNIT, out=self._spectral)
        self._periodicity(window)
        return self._views, self._energy

    def _periodicity(self, x: FloatArray) -> None:
        for n, past, shortest, sinc, found in self._groups:
            # direct sums: a few hundred lags of a few hundred samples; quicker than FFTs
            products = np.correlate(x[-past : len(x) - shortest], x[-n:])
            sinc.dot(products, found)
        energy = self._energy
        newest_first = x[: -len(energy) : -1].astype(np.float64)
        np.multiply(newest_first, newest_first, out=newest_first)
        np.add.accumulate(newest_first, out=energy[1:])
        gathered = energy.take(self._near, out=self._gathered, mode="clip")
        gathered *= self._shares
        both = np.add.reduce(gathered)
        both += self._floor
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
        first_tap = -min(PARTIAL_BINS) - n_taps // 2
        windows = sliding_window_view(padded, g.n_bins, axis=1)
        self._windows = windows[:, first_tap : first_tap + n_taps]

        # Correlation with the content kernel by FFT: 12 short ones are quicker than the product.
        n_fft = max(g.n_bins + KERNEL_BELOW, g.n_positions + KERNEL_ABOVE)
        self._n_fft = scipy.fft.next_fast_len(n_fft, real=True)
        kernel = weights["content_head.kernel"].astype(np.float64)  # (C, taps)
        laid = np.zeros((n_channels, self._n_fft))
        laid[:, np.arange(-KERNEL_BELOW, KERNEL_ABOVE + 1)] = kernel
        spectra = scipy.fft.rfft(laid).conj()
        self._kernel = spectra.astype(np.complex64)
        self._padded = np.zeros((n_channels, self._n_fft), np.float32)
        by_view = self._padded.reshape(N_VIEWS, channels, self._n_fft)
        self._seen = by_view[:, :, : g.n_bins]
        # each channel's mean is taken off within the axis: what a channel of ones would score
        ones = scipy.fft.rfft(np.ones(g.n_bins), self._n_fft)
        flat = scipy.fft.irfft(spectra * ones, self._n_fft)[:, : g.n_positions]
        self._flat = (flat / g.n_bins).astype(np.float32)

        gain = math.exp(5 * float(weights["content_head.log_gain"]))
        self._gain = min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1])
        self._partials = _Partials(weights, config, padded) if config.partial_hidden else None

    def __call__(self) -> FloatArray:
        """Position probabilities (P,) of the views that now stand in `padded`."""
        np.copyto(self._shifted[:, :-1], self._windows)
        np.matmul(self._taps, self._shifted, out=self._seen)
        np.maximum(self._padded, _ZERO, out=self._padded)
        spectra = scipy.fft.rfft(self._padded)
        total = spectra[:, 0].real.copy()  # of each channel
        spectra *= self._kernel
        score: FloatArray = scipy.fft.irfft(np.add.reduce(spectra), self._n_fft)[
            : self._flat.shape[1]
        ]
        score -= total.dot(self._flat)
        if self._partials is not None:
            score += self._partials()
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
        self._entry = scale * np.concatenate((entry, bias[:, None]), 1)
        coefficients = _even_half_of_gelu(limit)
        weigh = np.concatenate((0.5 / scale * last, np.outer(coefficients, last).ravel()))
        self._weigh = weigh.astype(np.float32)
        self._powers = np.empty((1 + len(coefficients), len(entry), g.n_positions), np.float32)
        self._flat = self._powers.reshape(len(self._weigh), -1)
        below = -min(PARTIAL_BINS)
        at = slice(below, below + g.n_bins)
        self._here = padded[:, at]
        self._lower = padded[:, at.start - 1 : at.stop - 1]
        self._upper = padded[:, at.start + 1 : at.stop + 1]
        near = np.zeros_like(padded)
        self._near = near[:, at]
        self._columns = np.ones((self._entry.shape[1], g.n_positions), np.float32)
        self._at = self._columns[:-1].reshape(N_VIEWS, len(PARTIAL_BINS), g.n_positions)
        self._windows = sliding_window_view(near, g.n_positions, axis=1)
        self._places = np.array(PARTIAL_BINS) + below

    def __call__(self) -> FloatArray:
        """Score (P,) of the views that now stand in `padded`."""
        near, powers = self._near, self._powers
        np.maximum(self._here, self._lower, out=near)
        np.maximum(near, self._upper, out=near)
        self._at[:] = self._windows[:, self._places]
        self._entry.dot(self._columns, powers[0])
        np.multiply(powers[0], powers[0], out=powers[1])
        powers[1] -= _ONE
        n = 1  # powers 1..n are there
        while n < len(powers) - 1:
            more = min(n, len(powers) - 1 - n)
            np.multiply(powers[1 : 1 + more], powers[n], out=powers[n + 1 : n + 1 + more])
            n += more
        score: FloatArray = self._weigh.dot(self._flat)
        return score


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
