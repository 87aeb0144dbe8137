"""`Hearing` for one frame at a time: the same numbers in numpy, several times faster.

A live frame is so small that calling the network costs more than computing it, and that the weights
have to come through the cache again each time. So what the live tracker does not ask for (codes,
style) is left out, and what is read is made small: complex kernels instead of their real expansion,
and the content kernel as a short Toeplitz matrix slid in strides instead of a full one.

Letters: F bins, P positions, C views times channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import erf

from v3audio.features import SILENCE_POWER
from v3audio.hearing import (
    LEVEL_FLOOR_DB,
    LEVEL_SAMPLES,
    ONSET_LAG_SAMPLES,
    ONSET_SAMPLES,
    PEAK_BINS,
    Hearing,
)
from v3audio.model import KERNEL_ABOVE, KERNEL_BELOW, ContentHead
from v3audio.notes import FrameNotes

FloatArray = NDArray[np.float32]

_LOG_101 = math.log(101)
_ROOT_HALF = np.float32(math.sqrt(0.5))


class LiveHearing:
    """A copy of a `Hearing`, one frame at a time; later changes to the model are not seen.

    Args:
        hearing: the model and its code map, on any device.
    """

    def __init__(self, hearing: Hearing) -> None:
        self._front_end = _FrontEnd(hearing)
        self._content = _ContentHead(hearing)
        g = hearing.geometry
        self._midi_low, self._per_semitone = g.midi_low, g.bins_per_semitone
        self._n_bins, self._n_positions = g.n_bins, g.n_positions
        self._offset_bins = hearing._offset_bins
        self._bands, self._hann = _array(hearing._bands), _array(hearing._hann)
        self._both = np.empty((2, ONSET_SAMPLES), np.float32)

    def frame(self, window: FloatArray) -> FrameNotes:
        """Hear one (window_length,) window at the analysis rate: a row of `Hearing.frames`."""
        views, energy = self._front_end(window)
        position = self._content(views)
        peak = int(position.argmax())
        first, last = max(0, peak - PEAK_BINS), min(self._n_positions, peak + PEAK_BINS + 1)
        mass = position[first:last]
        confidence = float(mass.sum())
        # a position beyond either end counts as the end, as in `Hearing`
        below, above = PEAK_BINS - (peak - first), PEAK_BINS + 1 - (last - peak)
        moment = float(mass @ np.arange(first, last, dtype=np.float32))
        if below or above:
            extra = below * float(position[0]) + above * float(position[-1])
            confidence += extra
            moment += above * float(position[-1]) * (self._n_positions - 1)
        where = moment / max(confidence, 1e-9) + self._offset_bins
        nearest = min(max(round(where), 0), self._n_bins - 1)
        lag = views[2]
        periodicity = float(lag[max(0, nearest - 1) : nearest + 2].max())
        power = energy[LEVEL_SAMPLES] / LEVEL_SAMPLES
        return FrameNotes(
            level_db=max(10.0 * math.log10(power + 1e-12), LEVEL_FLOOR_DB),
            onset=self._onset(window),
            periodicity=periodicity,
            pitch_midi=self._midi_low + where / self._per_semitone,
            confidence=confidence,
        )

    def _onset(self, window: FloatArray) -> float:
        both = self._both
        np.multiply(window[-ONSET_SAMPLES:], self._hann, out=both[0])
        earlier = window[-ONSET_SAMPLES - ONSET_LAG_SAMPLES : -ONSET_LAG_SAMPLES]
        np.multiply(earlier, self._hann, out=both[1])
        power = _power(np.fft.rfft(both).astype(np.complex64, copy=False)) @ self._bands
        power += np.float32(1e-7)
        rise = np.log10(power[0] / power[1])
        return 10.0 * float(np.maximum(rise, 0, out=rise).sum()) / len(rise)


class OneByOne:
    """A `Hearing` asked for one frame at a time: for a GPU, where `LiveHearing` cannot run.

    Args:
        hearing: the model and its code map.
    """

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing

    def frame(self, window: FloatArray) -> FrameNotes:
        """Hear one (window_length,) window at the analysis rate."""
        heard = self._hearing.frames(window[None])
        return FrameNotes(
            float(heard.level_db[0]),
            float(heard.onset[0]),
            float(heard.periodicity[0]),
            float(heard.pitch_midi[0]),
            float(heard.confidence[0]),
            heard.note_probs[0],
        )


class _FrontEnd:
    """`features.FrontEnd` of one window."""

    def __init__(self, hearing: Hearing) -> None:
        front_end = hearing._front_end
        self._kernels: list[tuple[int, int, NDArray[np.complex64]]] = []
        for block, (low, high, n) in enumerate(front_end._ranges):
            real = _array(front_end.get_buffer(f"kernel_{block}"))[0::2]  # rows: real | imaginary
            kernel = real[:, : 2 * n] + 1j * real[:, 2 * n :]
            self._kernels.append((low, high, np.ascontiguousarray(kernel)))
        self._product = np.empty((len(self._kernels), self._kernels[0][2].shape[1]), np.complex64)
        self._energy = np.zeros(hearing.geometry.window_length + 1)
        # Lags: groups of samples correlated, longest lag, and the matrix that reads fractional lags
        # off the correlation, which comes longest lag first. For all bins at once: where each finds
        # the energies of its two stretches.
        self._groups = []
        ends, lags = [], []
        for index, (window, reach, _) in enumerate(front_end._groups):
            sinc = _array(front_end.get_buffer(f"sinc_{index}"))[::-1]
            self._groups.append((window, reach, np.ascontiguousarray(2 * sinc)))
            linear = _array(front_end.get_buffer(f"linear_{index}"))
            lags.append(np.arange(reach + 1) @ linear.astype(np.float64))
            ends.append(np.full(linear.shape[1], window))
        self._groups.reverse()  # long lags first: low bins
        lag, end = np.concatenate(lags[::-1]), np.concatenate(ends[::-1])
        base = np.floor(lag).astype(np.int64)
        self._near = np.stack((end, end + base, base, end + base + 1, base + 1))
        self._part = lag - base
        self._floor = 2 * end * SILENCE_POWER

    def __call__(self, window: FloatArray) -> tuple[FloatArray, NDArray[np.float64]]:
        """Views (3, F) as in `features.Views`, and the energy (T + 1,) of the newest n samples."""
        spectrum = np.fft.rfft(window).astype(np.complex64, copy=False)  # numpy 1: complex128
        for row, (low, high, kernel) in zip(self._product, self._kernels, strict=True):
            np.matmul(spectrum[low:high], kernel, out=row)
        magnitude = np.sqrt(_power(self._product))
        half = magnitude.shape[1] // 2
        views = np.empty((3, len(self._product), half), np.float32)
        for view, part in zip(views, (magnitude[:, :half], magnitude[:, half:]), strict=False):
            peak = max(float(part.max()), 1e-7)
            np.log1p(part * np.float32(100 / peak), out=view)
        views = views.reshape(3, -1)
        views[:2] *= np.float32(1 / _LOG_101)
        newest_first = window[::-1].astype(np.float64)
        np.cumsum(np.square(newest_first, out=newest_first), out=self._energy[1:])
        views[2] = self._periodicity(window, self._energy)
        return views, self._energy

    def _periodicity(self, x: FloatArray, energy: NDArray[np.float64]) -> NDArray[np.float64]:
        # direct sums: for at most 617 x 626 of them quicker than three FFTs
        found = [np.correlate(x[-(n + m) :], x[-n:]) @ sinc for n, m, sinc in self._groups]
        newest, later, late, later_next, late_next = energy[self._near]
        shifted = (later - late) * (1 - self._part) + (later_next - late_next) * self._part
        share = np.concatenate(found) / (newest + shifted + self._floor)
        clipped: NDArray[np.float64] = np.clip(share, 0, 1)
        return clipped


class _ContentHead:
    """`model.ContentHead` of one frame."""

    def __init__(self, hearing: Hearing) -> None:
        head = hearing._model.content_head
        self._n_positions = hearing.geometry.n_positions
        convolutions = list(head.peaks)
        self._taps = np.stack([_array(c.weight)[:, 0].T for c in convolutions])  # (views, taps, C)
        self._bias = np.stack([_array(c.bias) for c in convolutions])[:, None, :]
        n_taps = self._taps.shape[1]
        self._reach = n_taps // 2
        n_bins = hearing.geometry.n_bins
        self._padded = np.zeros((len(convolutions), n_bins + n_taps - 1), np.float32)
        self._windows = sliding_window_view(self._padded, n_taps, axis=1)  # (views, F, taps)
        self._gain = np.float32(head.gain().item())

        # The kernel is laid over `stride` neighbouring positions at once, and that small matrix
        # over every stride-th position: the full Toeplitz matrix, but 3 MB smaller.
        kernel = _array(head.kernel)  # (C, taps)
        self._stride = next(s for s in (28, 21, 14, 1) if self._n_positions % s == 0)
        n_rows = self._n_positions // self._stride
        width = kernel.shape[1] + self._stride - 1
        small = np.zeros((len(kernel), width, self._stride), np.float32)
        for offset in range(self._stride):
            small[:, offset : offset + kernel.shape[1], offset] = kernel
        self._small = small.reshape(-1, self._stride)
        span = (n_rows - 1) * self._stride + width
        assert span >= KERNEL_BELOW + n_bins, "bins beyond the last position's kernel"
        assert kernel.shape[1] == KERNEL_BELOW + 1 + KERNEL_ABOVE
        self._seen = np.zeros((len(kernel), span), np.float32)
        self._inside = self._seen[:, KERNEL_BELOW : KERNEL_BELOW + n_bins]
        strided = sliding_window_view(self._seen, width, axis=1)[:, :: self._stride]
        self._strided = strided.transpose(1, 0, 2)  # (rows, C, width)
        self._gathered = np.empty((n_rows, len(kernel), width), np.float32)
        self._partials = head.partials and _Partials(head, n_bins, len(convolutions))

    def __call__(self, views: FloatArray) -> FloatArray:
        """Position probabilities (P,) of views (3, F)."""
        self._padded[:, self._reach : self._reach + views.shape[1]] = views
        seen = np.ascontiguousarray(self._windows) @ self._taps  # (views, F, channels)
        seen += self._bias
        np.maximum(seen, 0, out=seen)
        seen -= seen.sum(1, keepdims=True) * np.float32(1 / seen.shape[1])
        n_views, n_bins, n_channels = seen.shape
        self._inside[:] = seen.transpose(0, 2, 1).reshape(n_views * n_channels, n_bins)
        np.copyto(self._gathered, self._strided)
        score = (self._gathered.reshape(len(self._gathered), -1) @ self._small).ravel()
        if self._partials is not None:
            score += self._partials(views)
        score -= score.sum() / np.float32(len(score))
        deviation = math.sqrt(float(score @ score) / (len(score) - 1))
        score *= self._gain / np.float32(deviation + 1e-5)
        score -= score.max()
        np.exp(score, out=score)
        score /= score.sum()
        return score


class _Partials:
    """`ContentHead._weigh_partials` of one frame."""

    def __init__(self, head: ContentHead, n_bins: int, n_views: int) -> None:
        assert head.partials is not None
        entry, _, last = head.partials
        self._entry, self._bias = np.ascontiguousarray(_array(entry.weight).T), _array(entry.bias)
        self._last, self._last_bias = _array(last.weight)[0], np.float32(_array(last.bias)[0])
        below, above = head._pad
        padded = np.zeros((n_views, below + n_bins + above), np.float32)
        self._near = padded[:, below : below + n_bins]
        self._padded = padded.ravel()
        places = head.get_buffer("places").cpu().numpy().reshape(len(head.get_buffer("blur")), -1)
        rows = np.arange(n_views)[:, None] * padded.shape[1]
        self._places = (places[:, None, :] + rows).reshape(len(places), -1)  # (P, views * partials)

    def __call__(self, views: FloatArray) -> FloatArray:
        """Score (P,) of views (3, F)."""
        near = self._near
        near[:] = views
        np.maximum(near[:, 1:], views[:, :-1], out=near[:, 1:])
        np.maximum(near[:, :-1], views[:, 1:], out=near[:, :-1])
        hidden = self._padded.take(self._places) @ self._entry
        hidden += self._bias
        hidden *= np.float32(0.5) + np.float32(0.5) * erf(hidden * _ROOT_HALF)  # GELU
        score: FloatArray = hidden @ self._last + self._last_bias
        return score


def _power(x: NDArray[np.complex64]) -> FloatArray:
    """Squared magnitude, without the root that `abs` takes."""
    parts = x.view(np.float32)
    np.square(parts, out=parts)
    power: FloatArray = parts[..., 0::2] + parts[..., 1::2]
    return power


def _array(tensor: Any) -> FloatArray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
