"""A sounding note taken apart in its spectrum: harmonics, noise bands, level and mel spectrum.

What a renderer is trained on, judged by, and what a captured timbre is measured with. Letters in
shapes: T frames, C channels, K harmonics, N noise bands, M mel bands.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from v3audio.loudness import k_weight
from v3audio.renderer import RendererConfig, SpectrumSource
from v3audio.units import midi_to_hz

FloatArray = NDArray[np.float32]

SYNTH_RATE = 48_000
"""Rate of the sound that is analysed, Hz."""
N_MELS = 80
MEL_LOW_HZ, MEL_HIGH_HZ = 40.0, 16_000.0
MEL_N_FFT = 2048
"""Mel window (Hann) at 48 kHz, in samples: 43 ms."""
MEL_FLOOR = 1e-6
"""Power below which mel bands count as silent, relative to the note's loudest band: -60 dB."""

_LEAD_HARMONICS = 20


class Parts(NamedTuple):
    """One note taken apart."""

    cents: float  # deviation of the whole note from the pitch asked for
    stretch: float  # inharmonicity B: harmonic k sounds at k f0 sqrt(1 + B k^2)
    level_db: FloatArray  # (T,) RMS, dBFS
    frame_cents: FloatArray  # (T,) deviation of each frame
    harmonics: FloatArray  # (T, K) natural log RMS
    noise: FloatArray  # (T, N) natural log RMS of each band
    mel: FloatArray  # (T, M) natural log mel power


@lru_cache(maxsize=4)
def mel_bank(sample_rate: int = SYNTH_RATE, n_fft: int = MEL_N_FFT) -> FloatArray:
    """Triangular HTK-mel filters of peak 1, (n_fft // 2 + 1, N_MELS)."""

    def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2595 * np.log10(1 + hz / 700)

    low, high = mel(np.array([MEL_LOW_HZ, MEL_HIGH_HZ])).tolist()
    corners = 700 * (10 ** (np.linspace(low, high, N_MELS + 2) / 2595) - 1)
    hz = np.arange(n_fft // 2 + 1)[:, None] * sample_rate / n_fft
    rise = (hz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - hz) / (corners[2:] - corners[1:-1])
    out: FloatArray = np.clip(np.minimum(rise, fall), 0, None).astype(np.float32)
    return out


def mel_power(sound: FloatArray, centres: NDArray[np.int64]) -> FloatArray:
    """Mel power around each centre, (T, N_MELS), in mean-square units; powers of channels averaged.

    Args: sound: (n_samples,) or (n_samples, C) at SYNTH_RATE; centres: (T,) sample positions.
    """
    return power_spectra(sound, centres, MEL_N_FFT) @ mel_bank()


def power_spectra(sound: FloatArray, centres: NDArray[np.int64], n_window: int) -> FloatArray:
    """Hann power spectra around `centres`, (T, n_window // 2 + 1), averaged over channels.

    Scaled so that a frame's bins sum to its mean square.
    """
    if sound.ndim == 1:
        sound = sound[:, None]
    window = np.hanning(n_window + 1)[:-1].astype(np.float32)
    half = n_window // 2
    padded = np.pad(sound, ((half, half), (0, 0)))
    starts = np.clip(centres, 0, len(sound))
    total = np.zeros((len(centres), half + 1), np.float32)
    for channel in padded.T:
        frames = np.lib.stride_tricks.sliding_window_view(channel, n_window)[starts]
        spectrum = scipy.fft.rfft(frames * window, axis=-1)
        total += spectrum.real**2 + spectrum.imag**2
    total[:, 1:-1] *= 2
    out: FloatArray = total / (n_window * float(np.sum(window**2)) * sound.shape[1])
    return out


def take_apart(
    sound: FloatArray,
    centres: NDArray[np.int64],
    age_s: NDArray[np.float64],
    midi: float,
    config: RendererConfig,
) -> Parts | None:
    """Take a note apart; None where it is silent or no pitch fits within 50 cents.

    The window holds seven periods (Hann lobes of neighbours then stay apart, with a gap to see the
    noise in), within 21..128 ms: high notes keep their attack.

    Args:
        sound: (n_samples, C) at `SYNTH_RATE`.
        centres: (T,) sample positions of the frames.
        age_s: (T,) their times since the onset.
        midi: pitch that is expected, fractions allowed.
        config: sizes.
    """
    f0 = float(midi_to_hz(midi))
    n_window = int(np.clip(np.ceil(7 * SYNTH_RATE / f0 / 128) * 128, 1024, 6144))
    power = power_spectra(sound, centres, n_window)
    level = _levels(sound, centres, max(960, int(2.5 * SYNTH_RATE / f0) // 2 * 2))
    if level.max() < 1e-5:
        return None
    steady = (age_s > 0.08) & (level > 0.03 * level.max())
    if not steady.any():
        return None
    fit = _fit_pitch(power[steady].mean(0), f0, n_window)
    if fit is None:
        return None
    cents, stretch = fit
    frame_cents = _frame_cents(power, f0, cents, stretch, n_window)
    harmonics, noise = _split_spectrum(
        power, f0 * 2 ** (frame_cents / 1200), stretch, n_window, config
    )
    return Parts(
        cents,
        stretch,
        (20 * np.log10(level + 1e-9)).astype(np.float32),
        frame_cents.astype(np.float32),
        0.5 * np.log(harmonics + 1e-16),
        0.5 * np.log(noise + 1e-16),
        np.log(mel_power(sound, centres) + 1e-16),
    )


def _levels(sound: FloatArray, centres: NDArray[np.int64], n_window: int) -> FloatArray:
    """Hann-weighted RMS around each centre, (T,), channels' powers averaged."""
    window = np.hanning(n_window + 1)[:-1].astype(np.float32)
    half = n_window // 2
    square = np.pad((sound**2).mean(1), (half, half))
    frames = np.lib.stride_tricks.sliding_window_view(square, n_window)[centres]
    out: FloatArray = np.sqrt(np.maximum(frames @ window / window.sum(), 0))
    return out


def _harmonic_bins(
    hz: NDArray[np.float64], stretch: float, n_harmonics: int, n_window: int
) -> NDArray[np.float64]:
    """Fractional bin of each harmonic, hz.shape + (K,)."""
    k = np.arange(1, n_harmonics + 1)
    out: NDArray[np.float64] = (
        hz[..., None] * (k * np.sqrt(1 + stretch * k**2)) * (n_window / SYNTH_RATE)
    )
    return out


def _fit_pitch(power: FloatArray, f0: float, n_window: int) -> tuple[float, float] | None:
    """Cents and inharmonicity whose comb takes up most of a spectrum; None if it takes little."""
    n_bins = len(power)
    n_harmonics = min(_LEAD_HARMONICS, int(0.45 * SYNTH_RATE / f0))
    # compressed, so that the comb must fit the upper harmonics too
    weight = np.sqrt(power)
    best, answer = 0.0, (0.0, 0.0)
    cents_grid = np.arange(-50, 51, 2.0)
    for stretch in (0.0, 2e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4):
        bins = _harmonic_bins(f0 * 2 ** (cents_grid / 1200), stretch, n_harmonics, n_window)
        at = np.minimum(bins.astype(np.int64), n_bins - 2)
        part = bins - at
        score = ((1 - part) * weight[at] + part * weight[at + 1]).sum(1)
        i = int(score.argmax())
        if score[i] > best * (1.02 if stretch else 1.0):  # straight unless clearly bent
            best, answer = float(score[i]), (float(cents_grid[i]), stretch)
    if abs(answer[0]) >= 50:
        return None
    bins = _harmonic_bins(np.array(f0 * 2 ** (answer[0] / 1200)), answer[1], n_harmonics, n_window)
    near = (np.rint(bins).astype(np.int64)[:, None] + np.arange(-2, 3)).ravel()
    taken = power[np.unique(near[near < n_bins])].sum()
    return answer if taken > 0.25 * power[1:].sum() else None


def _frame_cents(
    power: FloatArray, f0: float, cents: float, stretch: float, n_window: int
) -> NDArray[np.float64]:
    """Pitch of each frame within 30 cents of the note's, smoothed over five frames, (T,)."""
    grid = cents + np.arange(-30, 31, 3.0)
    n_harmonics = min(12, int(0.45 * SYNTH_RATE / f0))
    bins = _harmonic_bins(f0 * 2 ** (grid / 1200), stretch, n_harmonics, n_window)
    at = np.minimum(bins.astype(np.int64), power.shape[1] - 2)
    part = (bins - at).astype(np.float32)
    weight = np.sqrt(power)
    score = ((1 - part) * weight[:, at] + part * weight[:, at + 1]).sum(-1)
    found = grid[score.argmax(1)]
    padded = np.pad(found, 2, mode="edge")
    out: NDArray[np.float64] = np.median(
        np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1
    )
    return out


def _split_spectrum(
    power: FloatArray,
    hz: NDArray[np.float64],
    stretch: float,
    n_window: int,
    config: RendererConfig,
) -> tuple[FloatArray, FloatArray]:
    """Mean square of each harmonic (T, K) and of the rest in each noise band (T, N).

    A harmonic is its lobe of five bins less the noise under it; what lies outside all lobes is the
    noise, whose density fills the lobes in. Bands without a free bin take the density beside them.
    """
    n_frames, n_bins = power.shape
    bins = _harmonic_bins(hz, stretch, config.n_harmonics, n_window)
    valid = bins < 0.49 * n_window
    centre = np.minimum(np.rint(bins).astype(np.int64), n_bins - 3)
    near = centre[..., None] + np.arange(-2, 3)
    rows = np.arange(n_frames)[:, None, None]
    free = np.ones((n_frames, n_bins), np.bool_)
    free[np.broadcast_to(rows, near.shape)[valid], near[valid]] = False
    free[:, :2] = False

    edges = config.noise_edges_hz() * n_window / SYNTH_RATE
    bin_band = np.searchsorted(edges, np.arange(n_bins)) - 1
    one_hot = (bin_band[:, None] == np.arange(config.n_noise)).astype(np.float32)
    counts = free.astype(np.float32) @ one_hot
    sums = np.where(free, power, 0) @ one_hot
    widths = np.diff(edges).astype(np.float32)
    seen = counts >= 1
    log_density = np.log(np.where(seen, sums / np.maximum(counts, 1), 1) + 1e-18)
    band = np.arange(config.n_noise)
    for t in range(n_frames):
        if not seen[t].all():
            log_density[t] = np.interp(band, band[seen[t]], log_density[t, seen[t]])
    density = np.exp(log_density)
    noise = density * widths

    k_band = np.clip(bin_band[centre], 0, config.n_noise - 1)
    under = 5 * np.take_along_axis(density, k_band, 1)
    harmonics = np.where(valid, power[rows, near].sum(-1) - under, 0)
    return np.maximum(harmonics, 0).astype(np.float32), noise.astype(np.float32)


def k_weighted_db(source: SpectrumSource, voice: FloatArray, low: int, high: int) -> float:
    """K-weighted level of the steady sound relative to its RMS, mean over a range of notes, dB.

    Args:
        source: the renderer's network.
        voice: `Timbre.voice`.
        low: lowest MIDI note.
        high: highest MIDI note.
    """
    config, levels = source.config, []
    edges = config.noise_edges_hz()
    centres, k = np.sqrt(edges[1:] * edges[:-1]), np.arange(1, config.n_harmonics + 1)
    for midi in range(low, high + 1):
        hz = np.concatenate([float(midi_to_hz(float(midi))) * k, centres])
        power = np.square(source(voice, float(midi), config.reference_db, 0.3)) * (hz < 20_000)
        weighted = power @ k_weight(np.minimum(hz, 20_000))
        levels.append(10 * np.log10(weighted / power.sum()))
    return float(np.mean(levels))
