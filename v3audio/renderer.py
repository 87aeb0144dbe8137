"""The player: pitch, level, time since the onset and a style vector become sound at any rate.

A frame-wise network says how strong each harmonic and each noise band is, relative to the loudness
of the frame. `Renderer` turns one such frame after the other into sound: harmonics as two
crossfaded wavetables read at one continuous phase, noise as a fixed bank of band-passed noise whose
bands are mixed by the network's gains. Both ramp linearly from one frame to the next, so nothing
clicks and nothing looks ahead: there is no latency in here.

Levels are RMS, in dB re full scale. Amplitudes inside are RMS too: a sinusoid of RMS r peaks at
r * sqrt(2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from v3audio.errors import ConfigError
from v3audio.units import db_to_gain, midi_to_hz

FloatArray = NDArray[np.float32]

TOP_HZ = 19_800.0
"""Harmonics end here at every rate, so that 44.1 kHz (0.45 * rate) and 96 kHz sound the same."""
_TAPER_HZ = 1_000.0
_TABLE_SIZE = 2048
_FADE_S = 0.010
_LEAP_SEMITONES = 1.0
_PEAK_WINDOW_S = 0.10
_NOISE_LOOP_S = 2.7


@dataclass(frozen=True, slots=True)
class RendererConfig:
    """Everything needed to rebuild a `RendererNet`, kept in `model.json`.

    Attributes:
        n_style: Size of the style vector.
        n_harmonics: Harmonics of the fundamental, the first included.
        n_noise: Noise bands, evenly spaced in log frequency.
        noise_low_hz: Lower edge of the lowest band.
        noise_high_hz: Upper edge of the highest band.
        hidden: Width of the network.
        n_blocks: Residual blocks of it.
        reference_db: Level that stands for a mezzo-forte note: the training sound was shifted so
            that velocity 80 of every instrument lies there.
    """

    n_style: int = 16
    n_harmonics: int = 100
    n_noise: int = 40
    noise_low_hz: float = 60.0
    noise_high_hz: float = 20_000.0
    hidden: int = 256
    n_blocks: int = 2
    reference_db: float = -20.0

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have.

        Raises: ConfigError.
        """
        for name in ("n_style", "n_harmonics", "n_noise", "hidden", "n_blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"renderer {name} = {getattr(self, name)}: expected 1 or more")
        if not 0 < self.noise_low_hz < self.noise_high_hz:
            raise ConfigError(
                f"renderer noise bands {self.noise_low_hz}..{self.noise_high_hz} Hz: "
                "expected a rising range above 0"
            )

    def noise_edges_hz(self) -> NDArray[np.float64]:
        """Band edges, (n_noise + 1,) in Hz."""
        return np.geomspace(self.noise_low_hz, self.noise_high_hz, self.n_noise + 1)


# Time constants of the onset features in seconds: what a tongue, a hammer, a bow take.
_AGE_TAUS_S = (0.006, 0.02, 0.06, 0.2, 0.6)
_LOWEST_LEVEL_DB, _HIGHEST_LEVEL_DB = -56.0, -4.0
_PITCH_CYCLES = (24.0, 12.0, 6.0)
N_CONTROLS = 1 + 2 * len(_PITCH_CYCLES) + 1 + 1 + len(_AGE_TAUS_S)
"""Network inputs beside the style vector."""


class RendererNet(nn.Module):
    """Style, pitch, level and age to log amplitudes of harmonics and noise bands.

    The style vector is standardised with the statistics of the training timbres (buffers, so they
    travel with the weights): style vectors of real timbres sit close together, and the first layer
    should not have to undo that.

    Args: config: sizes; kept as `.config`.
    """

    style_mean: Tensor
    style_std: Tensor

    def __init__(self, config: RendererConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RendererConfig()
        self.register_buffer("style_mean", torch.zeros(config.n_style))
        self.register_buffer("style_std", torch.ones(config.n_style))
        n = config.hidden
        self.entry = nn.Linear(config.n_style + N_CONTROLS, n)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"inner": nn.Linear(n, n), "outer": nn.Linear(n, n)})
            for _ in range(config.n_blocks)
        )
        self.exit = nn.Linear(n, config.n_harmonics + config.n_noise)
        for block in self.blocks:
            nn.init.zeros_(block["outer"].weight)  # type: ignore[index]
        with torch.no_grad():  # start from a falling spectrum rather than a flat one
            k = torch.arange(1, config.n_harmonics + 1)
            self.exit.bias[: config.n_harmonics] = -1.5 * torch.log(k)
            self.exit.bias[config.n_harmonics :] = -7.0

    def forward(self, style: Tensor, pitch_midi: Tensor, level_db: Tensor, age_s: Tensor) -> Tensor:
        """Natural log RMS of each harmonic and noise band in a frame of total RMS 1.

        Args:
            style: (B, n_style).
            pitch_midi: (B,) MIDI pitch, fractions allowed.
            level_db: (B,) dBFS RMS.
            age_s: (B,) seconds since the onset.

        Returns: (B, n_harmonics + n_noise). Harmonics above `TOP_HZ` are not counted in the total
            (nor played).
        """
        style = (style - self.style_mean) / self.style_std
        controls = control_features(pitch_midi, level_db, age_s, self.config.reference_db)
        h = nn.functional.silu(self.entry(torch.cat([style, controls], -1)))
        for block in self.blocks:
            h = h + block["outer"](nn.functional.silu(block["inner"](h)))  # type: ignore[index]
        raw: Tensor = self.exit(nn.functional.silu(h))
        k = torch.arange(1, self.config.n_harmonics + 1, device=raw.device)
        hz = 440.0 * torch.exp2((pitch_midi - 69.0) / 12.0)
        gain = ((TOP_HZ - hz[:, None] * k) / _TAPER_HZ).clamp(0.0, 1.0)
        total = (torch.exp(2 * raw[:, : len(k)]) * gain**2).sum(-1, keepdim=True)
        total = total + torch.exp(2 * raw[:, len(k) :]).sum(-1, keepdim=True)
        return raw - 0.5 * torch.log(total)


def control_features(
    pitch_midi: Tensor, level_db: Tensor, age_s: Tensor, reference_db: float
) -> Tensor:
    """What the network sees of pitch, level and age: (B, N_CONTROLS), all of order 1.

    Args: pitch_midi, level_db, age_s: (B,); reference_db: see `RendererConfig`.
    """
    columns = [(pitch_midi - 64.0) / 18.0]
    for semitones in _PITCH_CYCLES:  # a finer eye for where one sample of an instrument ends
        angle = 2 * torch.pi / semitones * pitch_midi
        columns += [torch.sin(angle), torch.cos(angle)]
    columns.append((level_db.clamp(_LOWEST_LEVEL_DB, _HIGHEST_LEVEL_DB) - reference_db) / 12.0)
    age_s = age_s.clamp(0.0, 2.0)
    columns.append(age_s - 1.0)
    columns += [2 * torch.exp(-age_s / tau) - 0.5 for tau in _AGE_TAUS_S]
    return torch.stack(columns, -1)


class SpectrumSource(Protocol):
    """What `Renderer` plays from: `FrozenNet`, or measured frames when a renderer is judged."""

    config: RendererConfig

    def __call__(
        self, style: FloatArray, pitch_midi: float, level_db: float, age_s: float
    ) -> FloatArray:
        """RMS of each harmonic and noise band, (n_harmonics + n_noise,), in a frame of RMS 1."""


class FrozenNet:
    """A numpy copy of a `RendererNet` for one frame at a time: the same numbers, less overhead.

    Args: net: the network; later changes to it are not seen.
    """

    def __init__(self, net: RendererNet) -> None:
        def array(t: Tensor) -> FloatArray:
            return t.detach().cpu().numpy().astype(np.float32)

        def linear(layer: Any) -> tuple[FloatArray, FloatArray]:
            return np.ascontiguousarray(array(layer.weight)), array(layer.bias)

        self.config = net.config
        self._mean, self._scale = array(net.style_mean), 1 / array(net.style_std)
        self._entry, self._exit = linear(net.entry), linear(net.exit)
        self._blocks = [
            (linear(b["inner"]), linear(b["outer"]))  # type: ignore[index]
            for b in net.blocks
        ]
        self._k = np.arange(1, net.config.n_harmonics + 1, dtype=np.float32)
        self._taus = np.array(_AGE_TAUS_S)
        self._cycles = 2 * np.pi / np.array(_PITCH_CYCLES)

    def __call__(
        self, style: FloatArray, pitch_midi: float, level_db: float, age_s: float
    ) -> FloatArray:
        """RMS of each harmonic and noise band in a frame of total RMS 1.

        Args: style: (n_style,); the others as in `RendererNet.forward`, scalars.

        Returns: (n_harmonics + n_noise,) linear; harmonics above `TOP_HZ` are 0.
        """
        n_style, n_harmonics = self.config.n_style, self.config.n_harmonics
        x = np.empty(n_style + N_CONTROLS, np.float32)
        x[:n_style] = (style - self._mean) * self._scale
        x[n_style] = (pitch_midi - 64.0) / 18.0
        n_cycles = len(self._cycles)
        angles = self._cycles * pitch_midi
        x[n_style + 1 : n_style + 1 + 2 * n_cycles : 2] = np.sin(angles)
        x[n_style + 2 : n_style + 2 + 2 * n_cycles : 2] = np.cos(angles)
        at = n_style + 1 + 2 * n_cycles
        level_db = min(max(level_db, _LOWEST_LEVEL_DB), _HIGHEST_LEVEL_DB)
        x[at] = (level_db - self.config.reference_db) / 12.0
        age_s = min(max(age_s, 0.0), 2.0)
        x[at + 1] = age_s - 1.0
        x[at + 2 :] = 2 * np.exp(-age_s / self._taus) - 0.5
        h: FloatArray = _silu(self._entry[0] @ x + self._entry[1])
        for inner, outer in self._blocks:
            h += outer[0] @ _silu(inner[0] @ h + inner[1]) + outer[1]
        rms: FloatArray = np.exp(self._exit[0] @ _silu(h) + self._exit[1])
        gain = np.clip((TOP_HZ - midi_to_hz(pitch_midi) * self._k) / _TAPER_HZ, 0.0, 1.0)
        rms[:n_harmonics] *= gain
        rms /= np.sqrt(np.dot(rms, rms))
        return rms


def _silu(x: FloatArray) -> FloatArray:
    out: FloatArray = np.exp(-x)
    out += 1
    return np.divide(x, out, out=out)


@dataclass(frozen=True, slots=True)
class RenderControl:
    """What one segment should have arrived at when it ends.

    Attributes:
        pitch_midi: MIDI pitch, fractions allowed.
        level_db: RMS in dBFS of the sound asked for.
        age_s: Seconds since the note's onset; a value that falls says a new note began.
        style: (n_style,) float32.
        voiced: False fades out (keeping the last pitch and spectrum).
        decay_db_per_s: How fast a struck or plucked timbre dies by itself; 0 sustains.
        release_s: Time the timbre takes to fade by 60 dB once the note is let go; at least 10 ms.
    """

    pitch_midi: float
    level_db: float
    age_s: float
    style: FloatArray = field(repr=False)
    voiced: bool = True
    decay_db_per_s: float = 0.0
    release_s: float = 0.0


class Renderer:
    """One voice, played segment by segment.

    The same calls give the same samples; `seed` decides the noise and the phases of the harmonics
    against one another (random ones, so that waves of many harmonics do not peak at once). The
    samples are made in the call that asks for them: causal, without delay.

    Args:
        net: the trained network.
        sample_rate: Hz, 8000 or more.
        seed: of the noise and the phases.

    Raises: ConfigError for a sample rate too low to play harmonics at.
    """

    def __init__(self, net: RendererNet | SpectrumSource, sample_rate: int, seed: int = 0) -> None:
        if sample_rate < 8_000:
            raise ConfigError(
                f"the renderer cannot play at {sample_rate} Hz; use 8000 Hz or more (--rate 48000)"
            )
        self.sample_rate = sample_rate
        self._net = FrozenNet(net) if isinstance(net, RendererNet) else net
        config = net.config
        self._n_harmonics = config.n_harmonics
        self._k = np.arange(1, config.n_harmonics + 1, dtype=np.float32)
        self._top_hz = min(TOP_HZ, 0.45 * sample_rate)
        self._noise = _noise_bank(config, sample_rate, seed)
        rng = np.random.default_rng([seed, 1])
        phases = rng.uniform(0, 2 * np.pi, config.n_harmonics)
        # irfft halves each bin and divides by the table size; sqrt(2) makes peak of RMS
        self._phasors = (np.exp(1j * phases) * (_TABLE_SIZE / np.sqrt(2))).astype(np.complex64)
        self._ramp_samples = max(1, round(0.0025 * sample_rate))
        self.reset()

    def reset(self) -> None:
        """Forget everything played: silence, phase 0, the noise from its start."""
        self._phase = 0.0  # cycles of the fundamental, float64, in [0, 1)
        self._hz = 0.0
        self._table = np.zeros(_TABLE_SIZE + 1, np.float32)
        self._gains = np.zeros(self._noise.shape[1], np.float32)
        self._noise_at = 0
        self._silent = True
        self._fade_from = 0.0  # seconds into the release; 0 while the note is held
        self._last_age_s = np.inf
        self._peak_db, self._peak_age_s = -np.inf, 0.0

    def render(self, n_samples: int, control: RenderControl) -> FloatArray:
        """Play from where the last call ended to `control`.

        Args:
            n_samples: length of the segment; 5 ms is usual, any length works.
            control: where pitch, level and spectrum arrive at the segment's end. A leap of more
                than a semitone crossfades two pitches instead of sliding.

        Returns: (n_samples,) float32. Exactly 0 once a released note has faded.
        """
        if n_samples <= 0:
            return np.zeros(0, np.float32)
        if not control.voiced or not np.isfinite(control.pitch_midi):
            return self._release(n_samples, control.release_s)
        if control.age_s < self._last_age_s:  # a new note; a mere dropout goes on decaying
            self._peak_db = -np.inf
        self._last_age_s, self._fade_from = control.age_s, 0.0

        level_db = self._decayed(control)
        rms = self._net(control.style, control.pitch_midi, level_db, control.age_s)
        rms *= np.float32(db_to_gain(level_db))
        hz = float(midi_to_hz(control.pitch_midi))
        table = self._make_table(rms[: self._n_harmonics], hz)
        gains = rms[self._n_harmonics :]

        steps = np.arange(1, n_samples + 1, dtype=np.float64)
        ramp = (steps / max(n_samples, self._ramp_samples)).astype(np.float32)
        old_hz = hz if self._silent else self._hz
        if abs(np.log2(hz / old_hz)) * 12 <= _LEAP_SEMITONES:
            # f ramps linearly from old_hz to hz, so phase is its running sum, a parabola
            cycles = steps * (old_hz + 0.5 * (hz - old_hz) * (steps + 1) / n_samples)
            phase = self._phase + cycles / self.sample_rate
            at, part = _split(phase)
            old, new = _read(self._table, at, part), _read(table, at, part)
        else:
            phase = self._phase + steps * (hz / self.sample_rate)
            before = self._phase + steps * (old_hz / self.sample_rate)
            old, new = _read(self._table, *_split(before)), _read(table, *_split(phase))
        noise_old, noise_new = self._noise_pair(n_samples, self._gains, gains)
        old += noise_old
        new += noise_new
        out: FloatArray = old + ramp * (new - old)

        end = ramp[-1]
        if end < 1:  # a very short segment: stop on the way, the next one goes on from there
            table = self._table + end * (table - self._table)
            gains = self._gains + end * (gains - self._gains)
        self._table, self._gains = table, gains
        self._phase, self._hz, self._silent = float(phase[-1] % 1.0), hz, False
        return out

    def _decayed(self, control: RenderControl) -> float:
        """The player's level, held below the curve a struck note dies along.

        The peak is the loudest the player got in the note's first 100 ms: an onset on a wind
        instrument takes about that long, and a note plucked by its first 5 ms would be faint.
        """
        if control.decay_db_per_s <= 0:
            return control.level_db
        age_s = control.age_s
        opening = not np.isfinite(self._peak_db) or age_s <= _PEAK_WINDOW_S
        if opening and control.level_db > self._peak_db:
            self._peak_db, self._peak_age_s = control.level_db, age_s
        ceiling = self._peak_db - control.decay_db_per_s * (age_s - self._peak_age_s)
        return min(control.level_db, ceiling)

    def _release(self, n_samples: int, release_s: float) -> FloatArray:
        """Fade what still sounds; exact zeros after that."""
        if self._silent:
            self._noise_at = (self._noise_at + n_samples) % len(self._noise)
            return np.zeros(n_samples, np.float32)
        steps = np.arange(1, n_samples + 1, dtype=np.float64)
        phase = self._phase + steps * (self._hz / self.sample_rate)
        out = _read(self._table, *_split(phase))
        out += self._noise_pair(n_samples, self._gains, self._gains)[0]
        release_s = max(release_s, _FADE_S)
        start = float(_fade(np.array(self._fade_from), release_s))
        shape = _fade(self._fade_from + steps / self.sample_rate, release_s) / max(start, 1e-9)
        out *= shape.astype(np.float32)
        self._fade_from += n_samples / self.sample_rate
        self._table = self._table * np.float32(shape[-1])
        self._gains = self._gains * np.float32(shape[-1])
        self._phase = float(phase[-1] % 1.0)
        if shape[-1] <= 0:
            self._table[:] = 0
            self._gains = np.zeros_like(self._gains)
            self._silent = True
        return out

    def _make_table(self, rms: FloatArray, hz: float) -> FloatArray:
        """One period of harmonics of RMS `rms`, (size + 1,): its first sample comes again last."""
        spectrum = np.zeros(_TABLE_SIZE // 2 + 1, np.complex64)
        if self._top_hz < TOP_HZ:
            rms = rms * np.clip((self._top_hz - hz * self._k) / _TAPER_HZ, 0.0, 1.0)
        spectrum[1 : self._n_harmonics + 1] = rms * self._phasors
        table = np.empty(_TABLE_SIZE + 1, np.float32)
        table[:-1] = scipy.fft.irfft(spectrum, _TABLE_SIZE)
        table[-1] = table[0]
        return table

    def _noise_pair(
        self, n_samples: int, old: FloatArray, new: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The next `n_samples` of noise under the old and under the new band gains."""
        gains = np.stack([old, new], 1)
        at, size = self._noise_at, len(self._noise)
        self._noise_at = (at + n_samples) % size
        if at + n_samples <= size:
            both = self._noise[at : at + n_samples] @ gains
        else:
            both = self._noise[np.arange(at, at + n_samples) % size] @ gains
        return both[:, 0], both[:, 1]


def _split(phase: NDArray[np.float64]) -> tuple[NDArray[np.int64], FloatArray]:
    """Phase in cycles to table position: whole index and fraction, both (n_samples,)."""
    position = (phase - np.floor(phase)) * _TABLE_SIZE
    at = position.astype(np.int64)
    return at, (position - at).astype(np.float32)


def _read(table: FloatArray, at: NDArray[np.int64], part: FloatArray) -> FloatArray:
    """Read a table between its samples, linearly.

    At harmonic k the error is (pi k / 2048)^2 / 2 of that harmonic: -54 dB at the 40th, -39 dB at
    the 100th, which itself is far down in any instrument.
    """
    here = table.take(at)
    out: FloatArray = here + part * (table.take(at + 1) - here)
    return out


def _fade(age_s: NDArray[np.float64], release_s: float) -> NDArray[np.float64]:
    """Gain `age_s` seconds into a release of `release_s`, 0 at its end.

    A raised cosine up to 20 ms, which is the smoothest; an exponential, as strings do it, beyond.
    """
    t = np.clip(age_s / release_s, 0.0, 1.0)
    if release_s <= 0.020:
        return 0.5 + 0.5 * np.cos(np.pi * t)
    return (10 ** (-3 * t) - 1e-3) / (1 - 1e-3)


@lru_cache(maxsize=4)
def _noise_bank(config: RendererConfig, sample_rate: int, seed: int) -> FloatArray:
    """A loop of noise in each band, every band of RMS 1: (n_samples, n_noise) float32.

    Mixing ready bands costs one small matrix product per segment and lets the gains ramp sample by
    sample, which no overlap-add of frames does. The spectrum is drawn per Hz and not per sample, so
    that all rates loop over the same noise; the loop is 2.7 s, too long to be heard as one.
    """
    n_samples = scipy.fft.next_fast_len(round(_NOISE_LOOP_S * sample_rate), real=True)
    hz = np.fft.rfftfreq(n_samples, 1 / sample_rate)
    edges = config.noise_edges_hz()
    rng = np.random.default_rng([seed, 0])
    n_drawn = round(_NOISE_LOOP_S * config.noise_high_hz) + 2
    drawn = rng.standard_normal((n_drawn, 2)) @ np.array([1.0, 1.0j])
    n_used = min(n_drawn, len(hz))
    bank = np.zeros((config.n_noise, n_samples), np.float32)
    top_hz = min(config.noise_high_hz, 0.45 * sample_rate)
    for row, (low, high) in zip(bank, pairwise(edges), strict=True):
        inside = np.flatnonzero((hz[:n_used] >= low) & (hz[:n_used] < min(high, top_hz)))
        if not len(inside):
            continue
        spectrum = np.zeros(len(hz), np.complex64)
        spectrum[inside] = drawn[inside]
        row[:] = scipy.fft.irfft(spectrum, n_samples)
        # a band cut short by the sample rate keeps its density, not its power
        share = np.sqrt((min(high, top_hz) - low) / (high - low))
        row *= np.float32(share / np.sqrt(np.mean(row**2)))
    mixed = np.ascontiguousarray(bank.T)
    mixed.setflags(write=False)
    return mixed
