"""Spectra back to sound, and the pitch of a sound: for the recombination sheet.

Log-frequency spectra (144 x 4) have no phase and no single FFT bins. They are played as a sum of
sines: one for each peak of the spectrum's time average, tuned between bins by a parabola through
the peak, its level following the four stretches of time. No pitch is told, and nothing makes the
sines harmonic: what is heard is what the decoder wrote. Spectrograms (512 x 32) go through
Griffin-Lim (Griffin and Lim, 1984).

Letters: F bins, T stretches of time or frames, P peaks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.paper.insnotes import (
    FRAMES,
    HOP,
    LOG_LOW_HZ,
    LOG_N_FFT,
    LOG_PER_OCTAVE,
    N_FFT,
    SAMPLE_RATE,
    Normaliser,
    log_bank,
)

FloatArray = NDArray[np.float32]

N_SAMPLES = FRAMES * HOP
_MOST_PEAKS = 40
_BELOW_LOUDEST_DB = 45.0
_FADE = 160  # samples
_ROUNDS = 32  # of Griffin-Lim


def to_sound(x: FloatArray, normaliser: Normaliser) -> FloatArray:
    """One standardised fragment as sound: (F, T) to (N_SAMPLES,) at SAMPLE_RATE, peak 0.5."""
    magnitude = np.exp(np.asarray(x, np.float64) * normaliser.std + normaliser.mean)
    sound = _sines(magnitude) if x.shape[1] != FRAMES else _griffin_lim(magnitude)
    sound = sound * _edges()
    return np.asarray(0.5 * sound / max(float(np.abs(sound).max()), 1e-9), np.float32)


def _sines(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    level = np.log(magnitude)  # (F, T)
    mean = level.mean(1)
    inner = mean[1:-1]
    peaks = 1 + np.flatnonzero((inner > mean[:-2]) & (inner >= mean[2:])
                               & (inner > mean.max() - _BELOW_LOUDEST_DB / 20 * np.log(10)))
    peaks = peaks[np.argsort(-mean[peaks])][:_MOST_PEAKS]
    left, middle, right = mean[peaks - 1], mean[peaks], mean[peaks + 1]
    offset = 0.5 * (left - right) / np.minimum(left - 2 * middle + right, -1e-9)
    hz = LOG_LOW_HZ * 2.0 ** ((peaks + np.clip(offset, -0.5, 0.5)) / LOG_PER_OCTAVE)
    n_times = magnitude.shape[1]
    centre = (np.arange(n_times) + 0.5) * N_SAMPLES / n_times
    t = np.arange(N_SAMPLES)
    envelope = np.stack([np.interp(t, centre, row) for row in magnitude[peaks]])  # (P, N_SAMPLES)
    envelope /= _response()[peaks, None]
    # phases of Schroeder (1970): the sum of many sines stays low
    order = np.argsort(np.argsort(hz))
    phase = -np.pi * order * (order + 1) / max(len(hz), 1)
    waves = np.sin(2 * np.pi * hz[:, None] * t / SAMPLE_RATE + phase[:, None])
    return np.asarray((envelope * waves).sum(0))


def _griffin_lim(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    import librosa

    whole = np.vstack([magnitude, np.zeros((1, magnitude.shape[1]))])
    sound = librosa.griffinlim(whole, n_iter=_ROUNDS, hop_length=HOP, n_fft=N_FFT, random_state=0)
    return np.asarray(np.pad(sound, (0, N_SAMPLES - len(sound))), np.float64)


@lru_cache(maxsize=1)
def _response() -> NDArray[np.float64]:
    """(F,) what a sine of amplitude one at the centre of a bin reads there."""
    bank = log_bank()
    hz = LOG_LOW_HZ * 2.0 ** (np.arange(len(bank)) / LOG_PER_OCTAVE)
    hann = np.hanning(LOG_N_FFT + 1)[:-1]
    sines = np.sin(2 * np.pi * hz[:, None] * np.arange(LOG_N_FFT) / SAMPLE_RATE)
    spectra = np.abs(np.fft.rfft(sines * hann)) * 2 / hann.sum()
    return np.asarray((bank * spectra).sum(1))


def _edges() -> NDArray[np.float64]:
    """(N_SAMPLES,) short fades at both ends."""
    ramp = np.minimum(np.arange(N_SAMPLES), np.arange(N_SAMPLES)[::-1]) / _FADE
    return np.minimum(ramp, 1.0)


def pitch_of(sound: FloatArray) -> float:
    """The pitch of one note as a MIDI number, by YIN (de Cheveigne and Kawahara, 2002).

    The median over the frames of its loud half.
    """
    import librosa

    frame, hop = 2048, 1024
    f0 = librosa.yin(sound, fmin=80, fmax=1400, sr=SAMPLE_RATE, frame_length=frame, hop_length=hop)
    power = librosa.feature.rms(y=sound, frame_length=frame, hop_length=hop)[0][: len(f0)]
    loud = power >= np.median(power)
    return float(69 + 12 * np.log2(np.median(f0[loud]) / 440))
