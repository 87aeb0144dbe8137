"""What a renderer is asked for: the mel spectrum, each harmonic and each noise band of a frame.

No audio is made: the mel spectrum that harmonics and noise bands will have is a matrix product,
exact in expectation. Letters: R rows (frames), K harmonics, N noise bands, M mel bands.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from v3audio.renderer import RendererConfig
from v3audio.spectra import MEL_N_FFT, SYNTH_RATE, mel_bank
from v3audio.units import midi_to_hz

SILENT = -14.0
"""Natural log amplitude, relative to the frame, below which nothing is heard."""


@lru_cache(maxsize=256)
def harmonic_mel(midi: int, n_harmonics: int) -> Tensor:
    """Mel power of each harmonic of mean square 1 at a MIDI note, (K, M)."""
    hz = midi_to_hz(float(midi)) * np.arange(1, n_harmonics + 1)
    n_fft, rate = MEL_N_FFT, SYNTH_RATE
    centre = hz * n_fft / rate
    bins = np.arange(-3, 4) + np.rint(centre).astype(int)[:, None]
    x = bins - centre[:, None]
    # the Hann window's own spectrum, squared: sinc(x) / (1 - x^2)
    with np.errstate(divide="ignore", invalid="ignore"):
        lobe = np.where(np.abs(np.abs(x) - 1) < 1e-6, 0.5, np.sinc(x) / (1 - x**2)) ** 2
    lobe /= lobe.sum(1, keepdims=True)
    inside = (bins >= 0) & (bins <= n_fft // 2)
    bank = mel_bank()
    taken = bank[np.clip(bins, 0, n_fft // 2)] * (lobe * inside)[..., None]
    return torch.from_numpy(taken.sum(1).astype(np.float32))


@lru_cache(maxsize=4)
def noise_mel(config: RendererConfig) -> Tensor:
    """Mel power of each noise band of mean square 1, (N, M)."""
    bank = mel_bank()
    edges = config.noise_edges_hz() * MEL_N_FFT / SYNTH_RATE
    left = np.arange(len(bank)) - 0.5
    upper, lower = np.minimum(left + 1, edges[1:, None]), np.maximum(left, edges[:-1, None])
    covered = np.clip(upper - lower, 0, None)
    return torch.from_numpy(((covered / covered.sum(1, keepdims=True)) @ bank).astype(np.float32))


def predicted_mel(log_rms: Tensor, midi: Tensor, config: RendererConfig) -> Tensor:
    """Mel power of predicted frames, (R, M); quickest where rows of one note stand together.

    Args:
        log_rms: (R, K + N) natural log RMS.
        midi: (R,) nearest notes.
        config: sizes.
    """
    power, k = torch.exp(2 * log_rms), config.n_harmonics
    notes, counts = torch.unique_consecutive(midi, return_counts=True)
    groups = torch.split(power[:, :k], counts.tolist())
    harmonic = [g @ harmonic_mel(int(m), k) for g, m in zip(groups, notes, strict=True)]
    return torch.cat(harmonic) + power[:, k:] @ noise_mel(config)


def loss_terms(
    log_rms: Tensor, batch: dict[str, Tensor], config: RendererConfig
) -> dict[str, Tensor]:
    """The parts of the loss, each a mean L1 in natural log amplitude.

    Args:
        log_rms: (R, K + N) as `RendererNet` gives it: total RMS 1.
        batch: of each row its ``midi`` note, ``weight``, measured ``harmonics`` (R, K) and
            ``noise`` (R, N) as log RMS, ``mel`` (R, M) as log power, and the log mel power
            ``floor`` below which nothing is heard.
        config: sizes.

    Returns:
        ``mel``, ``harmonics`` and ``noise``.
    """
    weight = batch["weight"] / batch["weight"].mean()
    mel = predicted_mel(log_rms, batch["midi"], config)
    target, floor = torch.exp(batch["mel"]), torch.exp(batch["floor"])[:, None]
    # both at the same loudness; the floor is added rather than clamped to, so gradients pass it
    mel = mel * (target.sum(1, keepdim=True) / mel.sum(1, keepdim=True))
    error = 0.5 * (torch.log(mel + floor) - torch.log(target + floor)).abs().mean(1)
    measured = relative(batch["harmonics"], batch["noise"])
    off = (log_rms.clamp(min=SILENT) - measured.clamp(min=SILENT)).abs()
    k = config.n_harmonics
    audible = torch.exp(0.15 * measured[:, :k].clamp(min=SILENT)) * (measured[:, :k] > SILENT)
    of_harmonics = (off[:, :k] * audible).sum(1) / audible.sum(1).clamp(min=1e-3)
    return {
        "mel": (weight * error).mean(),
        "harmonics": (weight * of_harmonics).mean(),
        "noise": (weight * off[:, k:].mean(1)).mean(),
    }


def relative(harmonics: Tensor, noise: Tensor) -> Tensor:
    """Measured log RMS of a frame's parts, (R, K + N), as if its total were 1."""
    both = torch.cat([harmonics, noise], 1)
    return both - 0.5 * torch.logsumexp(2 * both, 1, keepdim=True)
