"""Steady noise taken out of a recording before its notes are heard.

A phone's hiss, a fan or an amplifier fills the spectrum between and below a note's partials; 15 dB
under the music it hides the low ones. In each frequency the noise is what is there nearly always:
the power that is undercut in a seventh of the time, where the neighbours agree (a held note's
partials stand out of theirs). Six times of it is subtracted, as noise varies and a spectrum with
holes is heard better than one with remains; a recording in which it is faint is left as it is.

Source: spectral subtraction with over-subtraction and a floor (Berouti, Schwartz, Makhoul:
Enhancement of speech corrupted by acoustic noise, ICASSP 1979), the noise from quantiles over time
(Stahl, Fischer, Bippus: Quantile based noise estimation, ICASSP 2000). The quantile across
frequencies is ours.

Letters: F frames, B frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Samples = NDArray[np.float32]

N_FFT = 4096
"""Samples of a frame at 16 kHz: 256 ms, in which the partials of E1 stand apart."""
HOP = N_FFT // 2
STRETCH = 160 * HOP
"""Samples (20 s) whose noise is measured at once; the last stretch is up to twice as long."""
IN_TIME = 0.15  # quantile of a bin's power over time that is noise...
IN_BAND = 0.3  # ...and that over the bins half an octave around
PER_OCTAVE = 12  # places at which the second is taken
LOUD = 0.9  # quantile of the frames' power that the noise is compared with
FAINT_DB, PLAIN_DB = -32.0, -27.0  # below it: from nothing to everything is subtracted
OVER = 6.0  # times the noise
FLOOR = 1e-3  # of a bin's power is left
LEAST_FRAMES = 8  # (1 s) that sound
# One frame of so many, unsmoothed, tells whether there is anything to do: noise lies lower in them.
GLANCE, GLANCE_DB = 3, FAINT_DB - 4.0


def denoise(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """The same sound, of the same length and in the same place, without its steady noise.

    Args:
        blocks: of any length, at the analysis rate (16 kHz).
    """
    before = np.zeros(N_FFT, np.float32)
    ahead = np.zeros(0, np.float32)
    parts: list[Samples] = []
    n_ahead = 0
    for block in blocks:
        parts.append(block)
        n_ahead += len(block)
        if n_ahead >= 2 * STRETCH:
            ahead = np.concatenate(parts)
            yield _quietened(before, ahead[:STRETCH], ahead[STRETCH : STRETCH + N_FFT])
            before = ahead[STRETCH - N_FFT : STRETCH]
            parts = [ahead[STRETCH:]]
            n_ahead -= STRETCH
    if n_ahead:
        yield _quietened(before, np.concatenate(parts), np.zeros(0, np.float32))


def _quietened(before: Samples, x: Samples, after: Samples) -> Samples:
    """`x` without noise, which stands between N_FFT samples and up to as many."""
    n_frames = -(-len(x) // HOP) + 3
    around = np.zeros((n_frames + 1) * HOP, np.float32)
    given = np.concatenate((before, x, after))[: len(around)]
    around[: len(given)] = given
    frames = sliding_window_view(around, N_FFT)[::HOP]  # (F, N_FFT)
    some = _power(_spectra(frames[::GLANCE]))
    if len(some) > 2 * LEAST_FRAMES and _steady(some)[0] < GLANCE_DB:
        return x
    spectra = _spectra(frames)
    power = _power(spectra)
    power[1:-1] = (power[:-2] + power[1:-1] + power[2:]) / 3
    below_db, noise = _steady(power)
    share = np.clip((below_db - FAINT_DB) / (PLAIN_DB - FAINT_DB), 0.0, 1.0)
    if not share:
        return x
    gain = np.sqrt(np.maximum(1 - share * OVER * noise / (power + 1e-20), FLOOR))
    parts = np.fft.irfft(spectra * gain.astype(np.float32)) * _window()
    halves = parts.reshape(n_frames, 2, HOP)  # each sample lies in two frames
    summed = (halves[1:, 0] + halves[:-1, 1]).ravel()
    return np.asarray(summed[N_FFT - HOP :][: len(x)], np.float32)


def _spectra(frames: Samples) -> NDArray[np.complexfloating]:
    return np.fft.rfft(frames * _window())  # (F, B)


def _power(spectra: NDArray[np.complexfloating]) -> Samples:
    return np.asarray(np.square(spectra.real) + np.square(spectra.imag), np.float32)


def _steady(power: Samples) -> tuple[float, Samples]:
    """The noise (B,) of frames' power (F, B), and how far it lies below the loud frames, dB."""
    total = power.sum(1)
    sounding = power[total > 1e-7 * total.max()]  # not what is added around, nor digital silence
    if len(sounding) < LEAST_FRAMES:
        return -np.inf, power[0]
    nth = int(IN_TIME * len(sounding))
    always = np.log(np.partition(sounding, nth, axis=0)[nth] + 1e-20)
    places = _places()
    agreed = [_quantile(always[low:high], IN_BAND) for low, _, high in places]
    noise = np.exp(np.interp(np.arange(power.shape[1]), places[:, 1], agreed))
    return 10 * np.log10(noise.sum() / np.quantile(total, LOUD)), noise.astype(np.float32)


def _quantile(x: Samples, share: float) -> float:
    """`np.quantile`, which takes ten times as long for so few numbers."""
    rest, at = math.modf(share * (len(x) - 1))
    below, above = np.sort(x)[[int(at), min(int(at) + 1, len(x) - 1)]].tolist()
    return float(below + rest * (above - below))


@lru_cache(maxsize=1)
def _window() -> Samples:
    """(N_FFT,) whose square and its neighbours' add up to 1."""
    return np.sin(np.pi * (np.arange(N_FFT) + 0.5) / N_FFT).astype(np.float32)


@lru_cache(maxsize=1)
def _places() -> NDArray[np.intp]:
    """(places, 3) bins: first, middle, and after the last of half an octave."""
    n_octaves = np.log2(HOP)
    middle = np.unique(np.rint(2 ** np.linspace(0, n_octaves, round(PER_OCTAVE * n_octaves))))
    low, high = np.floor(middle * 2**-0.25) - 3, np.ceil(middle * 2**0.25) + 4
    return np.stack((np.maximum(low, 0), middle, high), 1).astype(np.intp)
