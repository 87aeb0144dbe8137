"""What a model hears, frame by frame, without torch: live one frame at a time, in files many.

A frame is a pure function of its window, so both ways give the same numbers. `_frame.c` computes
them in one call where it could be compiled: its tables are small enough to stay in the caches, so
that one frame costs hardly more than one of many. Where it could not, numpy does the same from
the same tables, `_FrontEnd`, `_Attack` and `_ContentHead`, some times slower.

The network itself, in torch, is `v3audio.model`; `v3audio.hearing` runs that on a GPU.

Letters: T frames, F bins, P positions, C views times channels, U hidden units of the partials,
K codes, D style values.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from v3audio import compiled, onsets
from v3audio.code_map import CodeMap
from v3audio.fft import turn
from v3audio.geometry import (
    CONTENT_BLUR_BINS,
    GAIN_RANGE,
    KERNEL_ABOVE,
    KERNEL_BELOW,
    N_VIEWS,
    PARTIAL_BINS,
    STYLE_ABOVE,
    STYLE_BELOW,
    Geometry,
    ModelConfig,
)
from v3audio.kernels import (
    BAND_BINS,
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
    wide_bands,
)
from v3audio.notes import FrameNotes

FloatArray = NDArray[np.float32]
Weights = Mapping[str, FloatArray]

N_NOTES = 128
CLEAR_PEAK = 0.5  # periodicity from which on its peak tells the pitch better than the content
_MANY = 512  # frames that `each` hears at once
N_NUMBERS = 7  # of a frame: the first five of `Heard`, level of the newest 5 ms, fine_midi
_GELU_ERROR = 3e-6
_BELOW, _ABOVE = -min(PARTIAL_BINS), max(PARTIAL_BINS)
"""Zeros that stand around the views: the content head looks beyond both ends."""


class Heard(NamedTuple):
    """One row per frame; float32 unless said otherwise."""

    level_db: NDArray[np.float32]  # (T,) dBFS RMS of the newest 20 ms
    onset: NDArray[np.float32]  # (T,) mean rise over 20 ms of a coarse log spectrum, dB
    periodicity: NDArray[np.float32]  # (T,) 0..1, lag view at the heard pitch
    pitch_midi: NDArray[np.float32]  # (T,) fine pitch, MIDI number (69.0 = 440 Hz)
    confidence: NDArray[np.float32]  # (T,) 0..1, content within a semitone of the heard pitch
    note_probs: NDArray[np.float32]  # (T, 128) rows sum to 1
    code: NDArray[np.int64]  # (T,) nearest atom of the codebook
    content: NDArray[np.float32]  # (T, P) content distribution over positions
    style: NDArray[np.float32]  # (T, D) z_s; (T, 0) where it was not asked for
    fine_midi: NDArray[np.float32] | None = None  # (T,) `fine_pitch`
    traits: NDArray[np.uint8] | None = None  # (T, N) `onsets.traits`


class LiveHearing:
    """One network and its code map as a function of windows. Not for two threads at once.

    Args:
        weights: of a `V3Model`, by their names in it.
        config: its sizes.
        code_map: where its positions lie, and what its codes are called.

    Raises:
        KeyError, ValueError: the weights are not those of such a network.
    """

    def __init__(self, weights: Weights, config: ModelConfig, code_map: CodeMap) -> None:
        g = self._geometry = config.geometry
        self._front_end, self._attack = _FrontEnd(g), _Attack(g)
        self._content, self._style = _ContentHead(weights, config), _StyleHead(weights, config)
        self._codes = _Codes(weights["codebook.atoms"], code_map)
        self._offset_bins = code_map.offset_semitones * g.bins_per_semitone
        # The newest frame of a player.
        self._window = np.zeros(g.window_length, np.float32)
        self._numbers = np.zeros(N_NUMBERS, np.float32)
        self._position = np.full((1, g.n_positions), 1 / g.n_positions, np.float32)
        self._views = np.zeros((1, N_VIEWS, _BELOW + g.n_bins + _ABOVE), np.float32)
        self._show()
        self._hear = self._step = None
        if _fits(config):
            ear = compiled.record(
                self._front_end.record(), self._attack.record(), self._content.record(),
                PEAK_BINS, CLEAR_PEAK, float(self._offset_bins), float(g.midi_low),
                float(g.bins_per_semitone), LEVEL_FLOOR_DB,
            )  # fmt: skip
            self._hear = compiled.bind("hear", ear)
            self._step = compiled.bind(
                "hear", ear, 1, self._window[-1:], 0, self._numbers, self._position, self._views
            )

    def frame(self, window: FloatArray) -> FrameNotes:
        """Hear one (window_length,) window at the analysis rate: a row of `frames`."""
        np.copyto(self._window, window)
        if self._step:
            self._step()
        else:
            numbers, self._position, self._views = self._in_numpy(self._window[None])
            self._numbers = numbers[0]
            self._show()
        level_db, onset, periodicity, pitch_midi, confidence, brief_db, *_ = self._numbers.tolist()
        return FrameNotes(
            level_db, onset, periodicity, pitch_midi, confidence, None, *self._shown, brief_db
        )

    def _show(self) -> None:
        """Lay open the newest frame's position and views."""
        n_bins = self._geometry.n_bins
        self._shown = self._position[0], self._views[0, :, _BELOW : _BELOW + n_bins]

    def each(self, windows: FloatArray) -> Iterator[FrameNotes]:
        """`frame` of each of (T, window_length) windows, heard many at a time."""
        n_bins = self._geometry.n_bins
        for start in range(0, len(windows), _MANY):
            for numbers, position, views in zip(
                *self._arrays(windows[start : start + _MANY]), strict=True
            ):
                level_db, onset, periodicity, pitch, confidence, brief_db = numbers[:6].tolist()
                yield FrameNotes(
                    level_db, onset, periodicity, pitch, confidence, None, position,
                    views[:, _BELOW : _BELOW + n_bins], brief_db,
                )  # fmt: skip

    def code(self) -> tuple[int, float]:
        """The codebook's atom nearest to the newest frame's content, and how far it is (0..2).

        Computed when asked for, from what `frame` found last; uniform content before that.
        """
        _, code, squares = self._codes(self._position)
        return int(code[0]), math.sqrt(float(squares[0]))

    def frames(self, windows: FloatArray, *, style: bool = True) -> Heard:
        """Hear (T, window_length) windows at the analysis rate, float32 in [-1, 1].

        Args:
            windows: they may overlap in memory, as a framed recording does.
            style: whether to work out the style too.
        """
        numbers, position, views = self._arrays(windows)
        note_probs, code, _ = self._codes(position)
        styles = np.empty((len(position), 0), np.float32)
        if style:
            styles = self._style(views[:, 0, _BELOW:], position.argmax(1))
        level_db, onset, periodicity, pitch_midi, confidence, _, fine_midi = numbers.T
        return Heard(
            level_db, onset, periodicity, pitch_midi, confidence, note_probs, code,
            position, styles, fine_midi,
            onsets.traits(views, _BELOW, position, fine_midi, self._geometry),
        )  # fmt: skip

    def _arrays(self, windows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Numbers (T, N_NUMBERS), positions (T, P) and views between zeros (T, 3, F with zeros)."""
        if self._hear:
            windows = _strided(windows)
            n = len(windows)
            numbers = np.empty((n, N_NUMBERS), np.float32)
            position = np.empty((n, self._geometry.n_positions), np.float32)
            views = np.zeros((n, *self._views.shape[1:]), np.float32)
            self._hear(
                n, compiled.address(windows[:, -1:]), windows.strides[0] // 4,
                *map(compiled.address, (numbers, position, views)),
            )  # fmt: skip
            return numbers, position, views
        numbers, position, views = self._in_numpy(windows)
        lag = views[:, 2, _BELOW : _BELOW + self._geometry.n_bins]
        numbers = np.column_stack((numbers, fine_pitch(lag, numbers[:, 3], self._geometry)))
        return numbers, position, views

    def _in_numpy(self, windows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`hear` of `_frame.c`, without the fine pitch."""
        g = self._geometry
        views, energy = self._front_end(windows)
        position = self._content(views)
        rows = np.arange(len(windows))[:, None]
        near = position.argmax(1)[:, None] + np.arange(-PEAK_BINS, PEAK_BINS + 1)
        near = _within(near, g.n_positions)  # a position beyond either end counts as the end
        mass = position[rows, near]
        confidence = np.add.reduce(mass, 1)
        where = np.add.reduce(mass * near, 1) / np.maximum(confidence, 1e-9) + self._offset_bins
        bins = np.rint(where).astype(np.intp)[:, None] + np.arange(-1, 2)
        lag = views[rows, 2, _BELOW + _within(bins, g.n_bins)]
        pitch_midi = g.midi_low + where / g.bins_per_semitone
        columns = (
            _level_db(energy, LEVEL_SAMPLES), self._attack(windows), lag.max(1), pitch_midi,
            confidence, _level_db(energy, BRIEF_SAMPLES),
        )  # fmt: skip
        return np.array(columns, np.float32).T, position, views


class _FrontEnd:
    """`features.FrontEnd`."""

    def __init__(self, g: Geometry) -> None:
        self._geometry, self._groups = g, lag_groups(g)[::-1]  # long lags, low bins, first
        self._bands = spectral_bands(g)
        self._wide = [wide_bands(bands) for bands in self._bands]
        self._first_lags = [int(group.sinc.any(1).argmax()) for group in self._groups]
        # A bin's energy: the newest n samples, and the n that begin a lag with a fraction earlier.
        lags = [np.arange(x.reach + 1) @ x.linear.astype(np.float64) for x in self._groups]
        n = [np.full(len(x), group.window) for x, group in zip(lags, self._groups, strict=True)]
        share, lag = np.modf(np.concatenate(lags))
        self._energies = np.concatenate(n), lag.astype(np.intp), share
        n_energies = max(2 * group.reach for group in self._groups) + 2
        self._n_energies = min(max(n_energies, LEVEL_SAMPLES), g.window_length)

    def __call__(self, windows: FloatArray) -> tuple[FloatArray, NDArray[np.float64]]:
        """Views (T, 3, F) between zeros, and the energy of the newest 0, 1, .. samples, (T, n)."""
        g = self._geometry
        views = np.zeros((len(windows), N_VIEWS, _BELOW + g.n_bins + _ABOVE), np.float32)
        inner = views[:, :, _BELOW : _BELOW + g.n_bins]
        sizes = {band.n_fft for bands in self._bands for band in bands}
        spectra = {n: np.fft.rfft(windows[:, -n:]) for n in sizes}
        for view, bands in enumerate(self._wide):
            found = [
                np.abs(spectra[n_fft][:, low : low + len(kernel)] @ kernel)
                for n_fft, low, kernel in bands
            ]
            magnitude = np.concatenate(found, 1)
            peak = np.maximum(np.maximum.reduce(magnitude, 1, keepdims=True), 1e-7)
            inner[:, view] = np.log1p(100 * magnitude / peak) / math.log(101)
        energy = np.zeros((len(windows), self._n_energies + 1))
        newest = windows[:, : -self._n_energies - 1 : -1]
        np.cumsum(np.square(newest, dtype=np.float64), 1, out=energy[:, 1:])
        found = []
        for (n, reach, _, sinc, _), first in zip(self._groups, self._first_lags, strict=True):
            # direct sums: a few hundred lags of a few hundred samples; quicker than FFTs
            end = windows.shape[1] - first
            products = [np.correlate(x[end + first - n - reach : end], x[-n:]) for x in windows]
            found.append(2 * np.array(products) @ sinc[: first - 1 if first else None : -1])
        span, lag, share = self._energies
        older = energy.take(lag + span, 1) - energy.take(lag, 1)
        before = energy.take(lag + span + 1, 1) - energy.take(lag + 1, 1)
        both = energy.take(span, 1) + older + share * (before - older) + 2 * span * SILENCE_POWER
        np.minimum(np.maximum(np.concatenate(found, 1) / both, 0), 1, out=inner[:, 2])
        return views, energy

    def record(self) -> ctypes.Structure:
        """`front_end` of `_frame.c`."""
        g = self._geometry
        both = [band for bands in self._bands for band in bands]
        sizes = sorted({band.n_fft for band in both})
        used = [max(b.low + len(b.kernel) for b in both if b.n_fft == n) + 1 for n in sizes]
        starts = dict(zip(sizes, np.cumsum([0, *used]), strict=False))
        kernels, heads = [], []
        for n_fft, low, kernel in both:
            laid = np.zeros((len(kernel) + len(kernel) % 2, 2, BAND_BINS), np.float32)
            laid[: len(kernel), 0, : kernel.shape[1]] = kernel.real
            laid[: len(kernel), 1, : kernel.shape[1]] = kernel.imag
            kernels.append(laid.ravel())
            heads.append((starts[n_fft] + low, len(laid)))
        groups, firsts, weights = [], [], []
        for group, first in zip(self._groups, self._first_lags, strict=True):
            taps = group.sinc != 0
            groups.append((group.window, first, group.reach + 1, taps.shape[1]))
            for column in group.sinc.T:
                firsts.append(int(np.flatnonzero(column)[0]))
                weights.append(np.resize(column[firsts[-1] :], compiled.PAD))
                weights[-1][len(column) - firsts[-1] :] = 0
        _, lag, share = self._energies
        return compiled.record(
            g.window_length, g.n_bins, len(sizes), len(both), len(groups),
            self._n_energies, LEVEL_SAMPLES, BRIEF_SAMPLES,
            SILENCE_POWER, np.array(list(zip(sizes, used, strict=True)), np.int32),
            np.concatenate([turn(n) for n in sizes]), np.array(heads, np.int32),
            np.concatenate(kernels), np.array(groups, np.int32),
            np.stack((firsts, lag), 1).astype(np.int32), share.astype(np.float32),
            np.array(weights, np.float32),
        )  # fmt: skip


class _Attack:
    """Spectral flux: how much the bands of the newest sound rose, `Hearing._onset`."""

    def __init__(self, g: Geometry) -> None:
        self._bands, self._hann = onset_bands(g.sample_rate)

    def __call__(self, windows: FloatArray) -> FloatArray:
        """Mean rise of the bands of (T, n) windows, dB."""
        stretches = windows[:, -2 * ONSET_LAG_SAMPLES :].reshape(-1, 2, ONSET_LAG_SAMPLES)
        spectra = np.fft.rfft(stretches[:, :, -ONSET_SAMPLES:] * self._hann)
        power = (np.square(spectra.real) + np.square(spectra.imag)) @ self._bands
        level_db = 10 * np.log10(power + 1e-7)
        rises = np.maximum(level_db[:, 1] - level_db[:, 0], 0)
        return np.asarray(np.add.reduce(rises, 1) / self._bands.shape[1])

    def record(self) -> ctypes.Structure:
        """`attack` of `_frame.c`."""
        of_bin = np.where(self._bands.any(1), self._bands.argmax(1), -1).astype(np.int32)
        return compiled.record(
            ONSET_SAMPLES, ONSET_LAG_SAMPLES, self._bands.shape[1], self._hann,
            turn(2 * ONSET_SAMPLES), of_bin,
        )  # fmt: skip


class _ContentHead:
    """`model.ContentHead`: one learned kernel correlated with every candidate, and its partials.

    GELU(x) = x / 2 + x erf(x / sqrt 2) / 2. The second half is even, and as the views lie in 0..1
    the weights bound its argument: within that bound it is a short polynomial in x^2, for a third
    of what erf costs. A constant is left out, as it makes no difference to the softmax.
    """

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        g = self._geometry = config.geometry
        self._channels = config.channels
        # The detectors of peaks: taps and, last, a bias.
        parts = [f"content_head.peaks.{view}" for view in range(N_VIEWS)]
        self._taps = np.stack([
            np.concatenate((weights[f"{p}.weight"][:, 0], weights[f"{p}.bias"][:, None]), 1)
            for p in parts
        ])  # fmt: skip
        if self._taps.shape[1] != config.channels:
            raise ValueError(f"{self._taps.shape[1]} channels, expected {config.channels}")
        n_taps = self._taps.shape[2] - 1
        self._first_tap = _BELOW - n_taps // 2
        # Correlation with the content kernels by FFT: 12 short ones are quicker than the product.
        n = max(g.n_bins + KERNEL_BELOW, g.n_positions + KERNEL_ABOVE)
        self._n_fft = n_fft = 1 << (n - 1).bit_length()
        laid = np.zeros((N_VIEWS * config.channels, n_fft))
        laid[:, np.arange(-KERNEL_BELOW, KERNEL_ABOVE + 1)] = weights["content_head.kernel"]
        self._kernel = np.fft.rfft(laid).conj()
        self._kernel_32 = self._kernel.astype(np.complex64)
        places = np.array(PARTIAL_BINS)[:, None] + np.arange(g.n_positions) + _BELOW
        self._places = places  # (partials, P)
        self._entry, self._weigh = np.zeros((2, 0, 1), np.float32)
        if config.partial_hidden:
            self._entry, self._weigh = _partials(weights)
        gain = math.exp(5 * float(weights["content_head.log_gain"]))
        self._gain = min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1])

    def __call__(self, views: FloatArray) -> FloatArray:
        """Position probabilities (T, P) of views that stand between zeros."""
        g = self._geometry
        n_taps = self._taps.shape[2] - 1
        taps = self._first_tap + np.arange(n_taps)
        seen = self._taps[:, :, :-1] @ _stretches(views, g.n_bins)[:, :, taps]
        seen += self._taps[:, :, -1:]
        np.maximum(seen, 0, out=seen)
        seen -= np.add.reduce(seen, 3, keepdims=True) / g.n_bins
        spectra = np.fft.rfft(seen.reshape(len(views), -1, g.n_bins), self._n_fft)
        total = (spectra * self._kernel_32).sum(1)
        score = np.fft.irfft(total, self._n_fft)[:, : g.n_positions]
        if len(self._entry):
            near = np.zeros_like(views)
            here = slice(_BELOW, _BELOW + g.n_bins)
            beside = np.maximum(views[:, :, :-2], views[:, :, 2:])[:, :, _BELOW - 1 :]
            np.maximum(views[:, :, here], beside[:, :, : g.n_bins], out=near[:, :, here])
            partials = _stretches(near, g.n_positions)[:, :, self._places[:, 0]]
            partials = partials.reshape(len(views), -1, g.n_positions)
            y = self._entry[:, :-1] @ partials
            y += self._entry[:, -1:]
            power = square = np.square(y) - 1
            score = score + self._weigh[0] @ y
            for weigh in self._weigh[1:]:
                score += weigh @ power
                power = power * square
        n = g.n_positions
        score = score - np.add.reduce(score, 1, keepdims=True) / n
        spread = np.sqrt(np.add.reduce(np.square(score), 1, keepdims=True) / (n - 1))
        score *= self._gain / (spread + 1e-5)
        position = np.exp(score - np.maximum.reduce(score, 1, keepdims=True))
        position /= np.add.reduce(position, 1, keepdims=True)
        return np.asarray(position, np.float32)

    def record(self) -> ctypes.Structure:
        """`content` of `_frame.c`."""
        g, lanes, half = self._geometry, compiled.LANES, self._n_fft // 2
        # Of a real signal's spectrum k, that of its even and odd samples as one complex signal
        # gives its own value k and, mirrored and conjugate, half - k: what each of them weighs.
        i_turn = 1j * np.exp(-1j * np.pi * np.arange(half + 1) / half)
        kernel = self._kernel / (2 * self._n_fft)
        both = np.stack((kernel * (1 - i_turn), kernel * (1 + i_turn)))  # (2, C, half + 1)
        both = np.pad(both, ((0, 0), (0, -both.shape[1] % lanes), (0, 0)))
        laid = np.stack((both.real, both.imag), 1).reshape(4, -1, lanes, half + 1)
        n_units = len(self._entry)
        entry = np.zeros((n_units + -n_units % 6, N_VIEWS * len(PARTIAL_BINS) + 1), np.float32)
        weigh = np.zeros((max(2, len(self._weigh)), len(entry)), np.float32)
        entry[:n_units], weigh[: len(self._weigh), :n_units] = self._entry, self._weigh
        return compiled.record(
            N_VIEWS, _BELOW + g.n_bins + _ABOVE, _BELOW, g.n_bins, self._channels,
            self._taps.shape[2] - 1, self._first_tap, self._n_fft, len(entry), len(PARTIAL_BINS),
            len(weigh) - 1, g.n_positions, self._gain, self._taps, turn(self._n_fft),
            laid.transpose(3, 1, 0, 2).astype(np.float32, order="C"),
            self._places[:, 0].astype(np.int32), entry, weigh,
        )  # fmt: skip


class _Codes:
    """The codebook, and what its codes are called."""

    def __init__(self, atoms: FloatArray, code_map: CodeMap) -> None:
        self._atoms, self._squares = atoms, 1 + np.square(atoms).sum(1)  # (K, P), (K,)
        self._names, self._temperature = np.array(code_map.code_to_note), code_map.temperature
        self._notes = np.eye(N_NOTES, dtype=np.float32)[self._names]  # (K, 128)
        n_codes, n_positions = atoms.shape
        apart = np.arange(n_positions)[:, None] - np.arange(n_positions)
        self._blur = np.exp(-0.5 * np.square(apart / CONTENT_BLUR_BINS)).astype(np.float32)
        self._compiled = None
        used = atoms != 0
        firsts = used.argmax(1)
        narrow = np.max(n_positions - used[:, ::-1].argmax(1) - firsts) <= compiled.PAD
        if narrow and n_codes % compiled.LANES == 0 and max(atoms.shape) <= compiled.MOST - 64:
            reach = 8  # a bell this wide, beyond it float32 sees none
            bell = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / CONTENT_BLUR_BINS))
            places = firsts[:, None] + np.arange(compiled.PAD)
            laid = np.take_along_axis(np.pad(atoms, ((0, 0), (0, compiled.PAD))), places, 1)
            self._compiled = compiled.bind("name", compiled.record(
                n_positions, reach, n_codes, self._temperature, bell.astype(np.float32),
                firsts.astype(np.int32), laid, self._squares, self._names.astype(np.int32),
            ))  # fmt: skip

    def __call__(self, position: FloatArray) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
        """How probable each note is (T, 128), nearest code (T,) and how far it is, squared (T,)."""
        if self._compiled:
            n = len(position)
            note_probs, squares = np.empty((n, N_NOTES), np.float32), np.empty(n, np.float32)
            code = np.empty(n, np.int64)
            arrays: tuple[NDArray[Any], ...] = position, note_probs, code, squares
            self._compiled(n, *map(compiled.address, arrays))
            return note_probs, code, squares
        distances = self._distances(position)
        squares = distances.min(1)
        near = np.exp((squares[:, None] - distances) / np.float32(self._temperature))
        note_probs = near @ self._notes / near.sum(1, keepdims=True)
        return note_probs, distances.argmin(1), squares

    def _distances(self, position: FloatArray) -> FloatArray:
        """Squared distances (T, K) of the contents at positions (T, P) to all atoms."""
        content = position @ self._blur
        content /= np.sqrt(np.square(content).sum(1, keepdims=True))
        squares: FloatArray = self._squares - 2 * (content @ self._atoms.T)
        return np.maximum(squares, 0, out=squares)


class _StyleHead:
    """`model.StyleHead`."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        sizes = STYLE_BELOW + 1 + STYLE_ABOVE, config.hidden, config.hidden
        for layer, n_in in zip((0, 3, 6), sizes, strict=True):
            if weights[f"style_head.mlp.{layer}.weight"].shape[1] != n_in:
                raise ValueError(f"style_head.mlp.{layer}.weight: expected {n_in} columns")
        self._w = {
            name.removeprefix("style_head.mlp."): value
            for name, value in weights.items()
            if name.startswith("style_head.mlp.")
        }

    def __call__(self, spectrum: FloatArray, position: NDArray[np.intp]) -> FloatArray:
        """(T, F and zeros) spectra and (T,) argmax positions to z_s (T, D)."""
        from scipy.special import erf  # only who asks for styles loads it

        padded = np.pad(spectrum, ((0, 0), (STYLE_BELOW, STYLE_ABOVE + 1)))
        x = np.take_along_axis(
            padded, position[:, None] + np.arange(STYLE_BELOW + 1 + STYLE_ABOVE), 1
        )
        for layer in (0, 3):
            x = self._affine(x, layer)
            x -= x.mean(1, keepdims=True)
            x /= np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-5)
            x = x * self._w[f"{layer + 1}.weight"] + self._w[f"{layer + 1}.bias"]
            x *= 0.5 + 0.5 * erf(x * np.float32(math.sqrt(0.5)))  # GELU
        x = self._affine(x, 6) - self._w["7.running_mean"]
        return np.asarray(x / np.sqrt(self._w["7.running_var"] + 1e-5), np.float32)

    def _affine(self, x: FloatArray, layer: int) -> FloatArray:
        out: FloatArray = x @ self._w[f"{layer}.weight"].T + self._w[f"{layer}.bias"]
        return out


def fine_pitch(
    lag: NDArray[np.floating], pitch_midi: NDArray[np.floating], g: Geometry
) -> NDArray[np.float32]:
    """The heard pitch moved to the nearest peak of the periodicity.

    The content's own place leans towards the middle of its range by up to six cents; the peak of
    the autocorrelation does not.

    Args:
        lag: (T, F) periodicity at the lag of each bin.
        pitch_midi: (T,) as heard.
        g: of the model.

    Returns: (T,) the top of a parabola through the highest bin within two of the heard pitch and
        its neighbours; `pitch_midi` where that is no clear peak.
    """
    reach = 2
    heard = np.rint((pitch_midi - g.midi_low) * g.bins_per_semitone).astype(np.intp)
    bins = np.clip(heard, reach + 1, g.n_bins - reach - 2)[:, None] + np.arange(-reach, reach + 1)
    top = np.take_along_axis(bins, np.take_along_axis(lag, bins, 1).argmax(1)[:, None], 1)
    below, peak, above = np.take_along_axis(lag, top + np.array([-1, 0, 1]), 1).T
    bend = 2 * peak - below - above
    is_peak = (peak >= below) & (peak >= above) & (peak > CLEAR_PEAK) & (bend > 1e-4)
    beside = (above - below) / (2 * np.maximum(bend, 1e-4))
    place = g.midi_low + (top[:, 0] + beside) / g.bins_per_semitone
    is_peak &= np.abs(place - pitch_midi) <= (reach + 0.5) / g.bins_per_semitone
    return np.where(is_peak, place, pitch_midi).astype(np.float32)


def traits_of(
    views: FloatArray, position: FloatArray, fine_midi: FloatArray, g: Geometry
) -> NDArray[np.uint8]:
    """`onsets.traits` of (T, 3, F) views without zeros around."""
    padded = np.pad(views, ((0, 0), (0, 0), (_BELOW, _ABOVE)))
    return onsets.traits(padded, _BELOW, position, fine_midi, g)


def _partials(weights: Weights) -> tuple[FloatArray, FloatArray]:
    """The perceptron that weighs partials as a polynomial.

    Returns:
        entry (U, views * partials + 1), the last for a bias: partials to y; weigh (powers + 1, U):
        what y, v, v^2, ... add to the score, where v = y^2 - 1.
    """
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
    weigh = np.concatenate((0.5 / scale * last[None], np.outer(_even_half_of_gelu(limit), last)))
    laid = scale * np.concatenate((entry, bias[:, None]), 1)
    return laid.astype(np.float32), weigh.astype(np.float32)


def _fits(config: ModelConfig) -> bool:
    """Whether the compiled arithmetic has room for such a network."""
    g = config.geometry
    reach = max(g.n_bins + KERNEL_BELOW, g.n_positions + KERNEL_ABOVE)
    width = N_VIEWS * (_BELOW + g.n_bins + _ABOVE)
    n = g.window_length
    return reach <= 512 and max(width, 2 * n) <= compiled.MOST and n.bit_count() == 1


def _stretches(x: FloatArray, n: int) -> FloatArray:
    """`sliding_window_view(x, n, 2)` of a contiguous array, without its 20 us of checks."""
    shape = *x.shape[:2], x.shape[2] - n + 1, n
    return np.ndarray(shape, x.dtype, x, strides=(*x.strides, x.itemsize))


def _within(index: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """The nearest of 0..n - 1; `clip` takes five times as long for so few numbers."""
    return np.minimum(np.maximum(index, 0), n - 1)


def _strided(windows: FloatArray) -> FloatArray:
    """Windows whose samples lie side by side, a whole number of samples apart."""
    apart, beside = windows.strides
    fit = windows.dtype == np.float32 and beside == 4 and apart % 4 == 0
    return windows if fit else np.ascontiguousarray(windows, np.float32)


def _level_db(energy: NDArray[Any], n_samples: int) -> NDArray[Any]:
    """RMS of the newest samples of each frame in dBFS."""
    power = energy[:, n_samples] / n_samples
    return np.maximum(10.0 * np.log10(power + 1e-12), LEVEL_FLOOR_DB)


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
