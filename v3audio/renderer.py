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

import itertools
import math
from collections.abc import Mapping
from ctypes import c_double, c_int, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.errors import ConfigError
from v3audio.fft import turn
from v3audio.units import db_to_gain, midi_to_hz

FloatArray = NDArray[np.float32]
Layer = tuple[FloatArray, FloatArray]  # weight (n_out, n_in), bias (n_out,)

TOP_HZ = 19_800.0
"""Harmonics end here at every rate, so that 44.1 kHz (0.45 * rate) and 96 kHz sound the same."""
TAPER_HZ = 1_000.0
BREATH_DB = (-20.0, -9.0)
"""Level of breath against the sound that it announces: softest and loudest.

The networks' own noise at a note's first moment lies 1 dB (viola) to 25 dB (oboe, clarinet) below
it. In renders of saxophone, cor anglais, bass, guitar and voice, noise above -9 dB reads as a hiss
with a note behind it, below -20 dB as a gap before a late note; between them it joins the rise of
the tone (5 ms envelopes climb without a step back), as a tongue, a bow or a plectrum does.
"""
_TABLE_SIZE = 2048
_FADE_S = 0.010
_LEAP_SEMITONES = 1.0
_DIES_DB = 6.0  # a struck note falls no further below the player, who is still heard to play...
_PUSH = 2.0  # ...and regains so many dB for each by which the player is louder than ever in it
_NOISE_LOOP_S = 2.7


@dataclass(frozen=True, slots=True)
class RendererConfig:
    """Everything needed to rebuild the network, kept in `model.json`.

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


AGE_TAUS_S = (0.006, 0.02, 0.06, 0.2, 0.6)
"""Time constants of the onset features: what a tongue, a hammer, a bow take."""
OLDEST_S = 2.0
"""Seconds after which a note changes no more."""
LOWEST_LEVEL_DB, HIGHEST_LEVEL_DB = -56.0, -4.0
PITCH_CYCLES = (24.0, 12.0, 6.0)
"""Periods, in semitones, of the pitch features."""
COLOUR_LOW, COLOUR_STEP, COLOUR_PITCHES = 24.0, 2.0, 43
"""The pitches, in MIDI numbers, at which a timbre's colour stands: 24, 26, ... 108."""
COLOUR_ROWS = COLOUR_PITCHES + 1
"""A row for each pitch, and one that says how it changes with loudness."""
COLOUR_LOUDNESS = (-1.5, 1.0)
"""So far from the reference level, in units of `LOUDNESS_DB`, that row is followed."""
LOUDNESS_DB = 12.0
N_CONTROLS = 1 + 2 * len(PITCH_CYCLES) + 1 + 1 + len(AGE_TAUS_S)
"""Network inputs beside the style vector."""


class SpectrumSource(Protocol):
    """What `Renderer` plays from: `FrozenNet`, or measured frames when a renderer is judged."""

    config: RendererConfig

    def __call__(
        self, style: FloatArray, pitch_midi: float, level_db: float, age_s: float
    ) -> FloatArray:
        """RMS of each harmonic and noise band, (n_harmonics + n_noise,), in a frame of RMS 1."""


class FrozenNet:
    """`v3audio.renderer_net.RendererNet` for one frame at a time, without torch.

    Not for two threads at once.

    Args:
        weights: of the network, by their names in it.
        config: its sizes.

    Raises:
        KeyError, ValueError: the weights are of another network.
    """

    def __init__(self, weights: Mapping[str, FloatArray], config: RendererConfig) -> None:
        def array(name: str) -> FloatArray:
            return np.array(weights[name], np.float32, order="C")

        def linear(name: str) -> Layer:
            # between entry and exit all is carried with its sign changed: see `_minus_silu`
            return array(f"{name}.weight"), -array(f"{name}.bias")

        self.config = config
        # the style is standardised by the first layer
        entry, bias = linear("entry")
        entry[:, : config.n_style] /= array("style_std")
        bias += entry[:, : config.n_style] @ array("style_mean")
        self._entry: Layer = -entry, bias
        self._exit: Layer = -array("exit.weight"), array("exit.bias")
        self._blocks = [
            (linear(f"blocks.{i}.inner"), linear(f"blocks.{i}.outer"))
            for i in range(config.n_blocks)
        ]
        self._k = np.arange(1, config.n_harmonics + 1, dtype=np.float32)
        n_out = config.n_harmonics + config.n_noise
        if self._exit[1].shape != (n_out,):
            raise ValueError(f"{len(self._exit[1])} harmonics and noise bands")
        self._x = np.zeros(config.n_style + N_CONTROLS, np.float32)
        self._out = np.empty(n_out + compiled.BLOCK, np.float32)
        self._compiled, self._lent = None, compiled.Lent()
        if max(config.hidden, len(self._x), n_out) <= compiled.MOST - compiled.BLOCK:
            layers = [self._entry, *itertools.chain(*self._blocks), self._exit]
            self._compiled = compiled.bind("spectrum", compiled.record(
                config.n_style, len(self._x) + len(self._x) % 2, config.hidden, config.n_blocks,
                config.n_harmonics, config.n_noise, len(PITCH_CYCLES), len(AGE_TAUS_S),
                COLOUR_PITCHES, config.reference_db, LOWEST_LEVEL_DB, HIGHEST_LEVEL_DB, OLDEST_S,
                COLOUR_LOW, COLOUR_STEP, LOUDNESS_DB, *COLOUR_LOUDNESS, TOP_HZ, TAPER_HZ,
                np.array(PITCH_CYCLES), np.array(AGE_TAUS_S),
                np.concatenate([_laid(*layer) for layer in layers]), self._out,
            ), free=(c_void_p, c_int, c_double, c_double, c_double))  # fmt: skip
        self._out = self._out[:n_out]

    def __call__(
        self, style: FloatArray, pitch_midi: float, level_db: float, age_s: float
    ) -> FloatArray:
        """RMS of each harmonic and noise band in a frame of total RMS 1.

        Args: style: (n_style,), or longer, a timbre's colour following (see `colour_at`); the
            others as in `RendererNet.forward`, scalars.

        Returns: (n_harmonics + n_noise,) linear; harmonics above `TOP_HZ` are 0.
        """
        if self._compiled:
            self._compiled(self._lent(style), len(style), pitch_midi, level_db, age_s)
            return self._out.copy()
        n_style, n_harmonics = self.config.n_style, self.config.n_harmonics
        controls = [(pitch_midi - 64.0) / 18.0]
        for semitones in PITCH_CYCLES:
            angle = 2 * math.pi / semitones * pitch_midi
            controls += math.sin(angle), math.cos(angle)
        level_db = min(max(level_db, LOWEST_LEVEL_DB), HIGHEST_LEVEL_DB)
        age_s = min(max(age_s, 0.0), OLDEST_S)
        loudness = (level_db - self.config.reference_db) / LOUDNESS_DB
        controls += loudness, age_s - 1.0
        controls += [2 * math.exp(-age_s / tau) - 0.5 for tau in AGE_TAUS_S]
        x = self._x
        x[:n_style] = style[:n_style]
        x[n_style:] = controls
        rms = self._layers(x)
        if len(style) > n_style:
            rms += colour_at(style[n_style:], pitch_midi, loudness)
        np.exp(rms, out=rms)
        hz = float(midi_to_hz(pitch_midi))
        if hz * n_harmonics > TOP_HZ - TAPER_HZ:
            rms[:n_harmonics] *= _taper(TOP_HZ, hz, self._k)
        rms *= np.float32(1.0 / math.sqrt(rms.dot(rms)))
        return rms

    def _layers(self, x: FloatArray) -> FloatArray:
        """Log amplitudes of the network's inputs."""
        h = _minus_silu(_affine(self._entry, x))
        for inner, outer in self._blocks:
            h += _affine(outer, _minus_silu(_affine(inner, h)))
        return _affine(self._exit, _minus_silu(h))


def colour_at(colour: FloatArray, pitch_midi: float, loudness: float) -> FloatArray:
    """A timbre's colour between the pitches at which it stands, and at the last one beyond.

    Args:
        colour: (`COLOUR_ROWS` * n,), row after row, or (`COLOUR_ROWS`, n).
        pitch_midi: MIDI pitch, fractions allowed.
        loudness: above the reference level, in units of `LOUDNESS_DB`.

    Returns:
        (n,) natural log gains.
    """
    rows = colour.reshape(COLOUR_ROWS, -1)
    place = min(max((pitch_midi - COLOUR_LOW) / COLOUR_STEP, 0.0), COLOUR_PITCHES - 1.001)
    at = int(place)
    softest, loudest = COLOUR_LOUDNESS
    out: FloatArray = rows[at + 1] - rows[at]
    out *= np.float32(place - at)
    out += rows[at]
    out += rows[-1] * np.float32(min(max(loudness, softest), loudest))
    return out


def _laid(weight: FloatArray, bias: FloatArray) -> NDArray[np.int16]:
    """A layer for `affine_16` of `_frame.c`: half as much to fetch from afar for every frame.

    Each row in steps of its own, a 32767th of its greatest weight: the error is 100 dB down.
    """
    n_rows, n_columns = weight.shape
    more = -n_rows % compiled.BLOCK
    weight = np.pad(weight, ((0, more), (0, n_columns % 2)))
    steps = np.maximum(np.abs(weight).max(1), 1e-30) / 32767
    whole = np.rint(weight / steps[:, None]).astype(np.int16)
    parts = []
    for start in range(0, n_rows + more, compiled.BLOCK):
        rows = slice(start, start + compiled.BLOCK)
        numbers = np.concatenate((steps[rows], np.pad(bias, (0, more))[rows]), dtype=np.float32)
        parts += [whole[rows].T.ravel(), numbers.view(np.int16)]
    return np.concatenate(parts)


def _affine(layer: Layer, x: FloatArray) -> FloatArray:
    y: FloatArray = layer[0].dot(x)
    y += layer[1]
    return y


def _taper(top_hz: float, hz: float, k: FloatArray) -> FloatArray:
    """Gains of harmonics `k` that fall to 0 over the last `TAPER_HZ` below `top_hz`."""
    gain = k * np.float32(-hz / TAPER_HZ)
    gain += np.float32(top_hz / TAPER_HZ)
    np.minimum(gain, np.float32(1.0), out=gain)
    np.maximum(gain, np.float32(0.0), out=gain)
    return gain


def _minus_silu(z: FloatArray) -> FloatArray:
    """-silu(-z): one step less than silu(x) = x / (1 + exp(-x))."""
    out: FloatArray = np.exp(z)
    out += 1
    return np.divide(z, out, out=out)


class RenderControl(NamedTuple):
    """What one segment should have arrived at when it ends.

    Attributes:
        pitch_midi: MIDI pitch, fractions allowed.
        level_db: RMS in dBFS of the sound asked for.
        age_s: Seconds since the note's onset; a value that falls says a new note began.
        style: (n_style,) float32, or longer: `Timbre.voice`.
        voiced: False fades out (keeping the last pitch and spectrum).
        breath: the noise bands alone, as loud against `level_db` as the timbre's own noise is, but
            within `BREATH_DB`: an attack whose pitch is not known yet.
        decay_db_per_s: How fast a struck or plucked timbre dies by itself, as far as `_DIES_DB`
            below the player; 0 sustains.
        release_s: Time the timbre takes to fade by 60 dB once the note is let go; at least 10 ms.
        formant: Semitones by which the harmonics' envelope moves along frequency: the harmonics of
            the note so much lower, at this note's pitch. Noise bands stay where they are.
    """

    pitch_midi: float
    level_db: float
    age_s: float
    style: FloatArray
    voiced: bool = True
    breath: bool = False
    decay_db_per_s: float = 0.0
    release_s: float = 0.0
    formant: float = 0.0


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

    def __init__(self, net: SpectrumSource, sample_rate: int, seed: int = 0) -> None:
        if sample_rate < 8_000:
            raise ConfigError(
                f"the renderer cannot play at {sample_rate} Hz; use 8000 Hz or more (--rate 48000)"
            )
        self.sample_rate = sample_rate
        self._net = net
        config = net.config
        self._n_harmonics = config.n_harmonics
        self._k = np.arange(1, config.n_harmonics + 1, dtype=np.float32)
        self._top_hz = min(TOP_HZ, 0.45 * sample_rate)
        self._per_hz = _TABLE_SIZE / sample_rate
        self._noise = _noise_bank(config, sample_rate, seed)
        rng = np.random.default_rng([seed, 1])
        phases = rng.uniform(0, 2 * np.pi, config.n_harmonics)
        # irfft halves each bin and divides by the table size; sqrt(2) makes peak of RMS
        self._phasors = (np.exp(1j * phases) * (_TABLE_SIZE / np.sqrt(2))).astype(np.complex64)
        self._ramp_samples = max(1, round(0.0025 * sample_rate))
        self._rms = np.zeros(config.n_harmonics + config.n_noise, np.float32)
        self._spectrum = np.zeros(_TABLE_SIZE // 2 + 1, np.complex64)
        self._harmonics = self._spectrum[1 : config.n_harmonics + 1]
        # Two sounds, what plays and what it turns into, by turns: wavetables, the first sample once
        # more at the end, and gains of the noise bands.
        self._tables = np.zeros((2, _TABLE_SIZE + 1), np.float32)
        self._gains = np.zeros((2, config.n_noise), np.float32)
        self._make_room(sample_rate // 100)
        self.reset()

    def reset(self) -> None:
        """Forget everything played: silence, phase 0, the noise from its start."""
        self._phase = 0.0  # place in the table, float64, in [0, size)
        self._hz = 0.0  # of the tone; 0 where there is none
        self._now = 0  # which of the two plays
        self._tables[:] = 0.0
        self._gains[:] = 0.0
        self._noise_at = 0
        self._silent = True
        self._fade_from = 0.0  # seconds into the release; 0 while the note is held
        self._last_age_s = np.inf
        self._peak_db = self._ceiling_db = -math.inf

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
        if not control.voiced or not math.isfinite(control.pitch_midi):
            return self._release(n_samples, control.release_s)
        rms, level_db = self._rms, control.level_db
        if control.breath:
            hz = self._hz
            rms[: self._n_harmonics] = 0.0
            rms[self._n_harmonics :] = self._breath(control)
            self._last_age_s = np.inf  # what follows is a new note
        else:
            since_s = control.age_s - self._last_age_s
            if since_s < 0.0:  # a new note; a mere dropout goes on decaying
                self._peak_db, since_s = -math.inf, 0.0
            self._last_age_s = control.age_s
            level_db = self._decayed(control, since_s)
            body = control.pitch_midi - control.formant
            rms[:] = self._net(control.style, body, level_db, control.age_s)
            hz = float(midi_to_hz(control.pitch_midi))
            if control.formant > 0.0:  # harmonics that the lower note still had
                rms[: self._n_harmonics] *= _taper(self._top_hz, hz, self._k)
            if self._top_hz < TOP_HZ:
                rms[: self._n_harmonics] *= _taper(self._top_hz, hz, self._k)
        self._fade_from = 0.0

        old_hz = self._hz or hz
        slope_now, slope = old_hz * self._per_hz, hz * self._per_hz
        bend = 0.0
        if hz == old_hz or abs(math.log2(hz / old_hz)) * 12 <= _LEAP_SEMITONES:
            # f ramps linearly from old_hz to hz, so phase is its running sum, a parabola
            bend = 0.5 * (slope - slope_now) / n_samples
            slope = slope_now = slope_now + bend
        n_ramp = max(n_samples, self._ramp_samples)
        out = self._turned(n_samples, n_ramp, db_to_gain(level_db), slope_now, slope, bend)
        now, new = self._now, 1 - self._now
        if n_ramp > n_samples:  # stop on the way, the next segment goes on from there
            end = np.float32(n_samples / n_ramp)
            for both in self._tables, self._gains:
                both[new] = both[now] + end * (both[new] - both[now])
        self._phase = (self._phase + n_samples * (slope + n_samples * bend)) % _TABLE_SIZE
        self._now, self._silent = new, False
        self._hz = 0.0 if control.breath and n_ramp == n_samples else hz
        return out

    def _turned(
        self,
        n_samples: int,
        n_ramp: int,
        gain: float,
        slope_now: float,
        slope: float,
        bend: float,
    ) -> FloatArray:
        """What plays, turning into the sound of `_rms` within `n_ramp` samples.

        Args:
            n_samples: to play.
            n_ramp: that many or more.
            gain: of `_rms`.
            slope_now: sample s is read at phase + s (slope + s bend) of its table.
            slope: the same for the other sound.
            bend: the same for both.
        """
        now = self._now
        if n_samples > len(self._out):
            self._make_room(n_samples)
        if self._play:
            self._play(
                n_samples, now, self._noise_at, gain, self._phase, slope_now, slope, bend,
                1.0 / n_ramp,
            )  # fmt: skip
            self._noise_at = (self._noise_at + n_samples) % len(self._noise)
            played: FloatArray = self._out[:n_samples].copy()
            return played
        self._make_sound(1 - now, np.float32(gain))
        steps, ramp = _steps(n_samples, n_ramp)
        curve = steps * bend
        place = (curve + slope_now) * steps + self._phase
        if slope == slope_now:
            sound = _read(self._tables, place)
        else:
            sound = np.empty((2, n_samples), np.float32)
            sound[now] = _read(self._tables[now], place)
            sound[1 - now] = _read(self._tables[1 - now], (curve + slope) * steps + self._phase)
        sound += self._gains.dot(self._next_noise(n_samples))
        out: FloatArray = sound[now]
        turned = sound[1 - now]
        turned -= out
        turned *= ramp
        out += turned
        return out

    def _breath(self, control: RenderControl) -> FloatArray:
        """RMS of the noise bands, against the level, of an attack without pitch."""
        noise = self._net(control.style, control.pitch_midi, control.level_db, 0.0)
        noise = noise[self._n_harmonics :]
        share_db = 10.0 * math.log10(float(noise @ noise) + 1e-12)
        gain_db = min(max(share_db, BREATH_DB[0]), BREATH_DB[1]) - share_db
        return noise * np.float32(db_to_gain(gain_db))

    def _decayed(self, control: RenderControl, since_s: float) -> float:
        """The player's level, held below the curve a struck note dies along.

        The curve falls from the loudest the player got in the note, who by a swell drives it up
        again, and stays within `_DIES_DB` of a player who holds on.

        Args:
            control: as the player wants it.
            since_s: time since the last call in this note.
        """
        level_db = control.level_db
        if control.decay_db_per_s <= 0:
            return level_db
        if self._peak_db == -math.inf:
            self._peak_db = self._ceiling_db = level_db
        louder_db = max(level_db - self._peak_db, 0.0)
        self._peak_db += louder_db
        ceiling_db = self._ceiling_db + _PUSH * louder_db - control.decay_db_per_s * since_s
        self._ceiling_db = min(max(ceiling_db, level_db - _DIES_DB), self._peak_db)
        return min(level_db, self._ceiling_db)

    def _release(self, n_samples: int, release_s: float) -> FloatArray:
        """Fade what still sounds; exact zeros after that."""
        if self._silent:
            self._noise_at = (self._noise_at + n_samples) % len(self._noise)
            return np.zeros(n_samples, np.float32)
        slope, release_s = self._hz * self._per_hz, max(release_s, _FADE_S)
        if n_samples > len(self._out):
            self._make_room(n_samples)
        if self._let_go:
            left = self._let_go(
                n_samples, self._now, self._noise_at, self._phase, slope, self._fade_from,
                self.sample_rate, release_s,
            )  # fmt: skip
            self._noise_at = (self._noise_at + n_samples) % len(self._noise)
            out: FloatArray = self._out[:n_samples].copy()
        else:
            out, left = self._fading(n_samples, slope, release_s)
        self._fade_from += n_samples / self.sample_rate
        self._phase = (self._phase + n_samples * slope) % _TABLE_SIZE
        if left <= 0:
            self._hz, self._silent = 0.0, True
        return out

    def _fading(self, n_samples: int, slope: float, release_s: float) -> tuple[FloatArray, float]:
        """What sounds, read on in steps of `slope`, and how much of it is left at the end."""
        steps, _ = _steps(n_samples, n_samples)
        table, gains = self._tables[self._now], self._gains[self._now]
        out = _read(table, self._phase + steps * slope)
        out += gains.dot(self._next_noise(n_samples))
        start = float(_fade(np.array(self._fade_from), release_s))
        shape = _fade(self._fade_from + steps / self.sample_rate, release_s) / max(start, 1e-9)
        out *= shape.astype(np.float32)
        left = float(shape[-1])
        table *= np.float32(left)
        gains *= np.float32(left)
        return out, left

    def _make_sound(self, which: int, gain: np.float32) -> None:
        """One period of harmonics, and the noise, of RMS `_rms` times gain as one of the two."""
        table = self._tables[which]
        np.multiply(self._rms[: self._n_harmonics] * gain, self._phasors, out=self._harmonics)
        table[:_TABLE_SIZE] = np.fft.irfft(self._spectrum, _TABLE_SIZE)
        table[_TABLE_SIZE] = table[0]
        np.multiply(self._rms[self._n_harmonics :], gain, out=self._gains[which])

    def _make_room(self, n_samples: int) -> None:
        self._out = np.empty(n_samples, np.float32)
        voice = compiled.record(
            _TABLE_SIZE, self._n_harmonics, self._gains.shape[1], len(self._noise), self._rms,
            self._phasors, turn(_TABLE_SIZE), self._tables, self._gains, self._noise, self._out,
        )  # fmt: skip
        self._play = compiled.bind("play", voice, free=(*(c_int,) * 3, *(c_double,) * 6))
        self._let_go = compiled.bind(
            "let_go", voice, free=(*(c_int,) * 3, *(c_double,) * 5), result=c_double
        )

    def _next_noise(self, n_samples: int) -> FloatArray:
        """Every band's next samples, (n_noise, n_samples)."""
        at, size = self._noise_at, len(self._noise)
        self._noise_at = (at + n_samples) % size
        if at + n_samples <= size:
            return self._noise[at : at + n_samples].T
        return self._noise[np.arange(at, at + n_samples) % size].T


@lru_cache(maxsize=64)
def _steps(n_samples: int, n_ramp: int) -> tuple[NDArray[np.float64], FloatArray]:
    """1..n_samples, and how far a ramp of `n_ramp` samples has come at each."""
    steps = np.arange(1, n_samples + 1, dtype=np.float64)
    ramp = (steps / n_ramp).astype(np.float32)
    steps.setflags(write=False)
    ramp.setflags(write=False)
    return steps, ramp


def _read(tables: FloatArray, place: NDArray[np.float64]) -> FloatArray:
    """Read tables (..., size + 1) between their samples, linearly, at `place` (n,), 0 or more.

    At harmonic k the error is (pi k / 2048)^2 / 2 of that harmonic: -54 dB at the 40th, -39 dB at
    the 100th, which itself is far down in any instrument.
    """
    at = place.astype(np.int64)
    part = (place - at).astype(np.float32)
    at &= _TABLE_SIZE - 1
    here = tables.take(at, -1)
    at += 1
    out: FloatArray = tables.take(at, -1)
    out -= here
    out *= part
    out += here
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
    from scipy.fft import next_fast_len  # who only listens loads no scipy

    n_samples = next_fast_len(round(_NOISE_LOOP_S * sample_rate), real=True)
    hz = np.fft.rfftfreq(n_samples, 1 / sample_rate)
    edges = config.noise_edges_hz()
    rng = np.random.default_rng([seed, 0])
    n_drawn = round(_NOISE_LOOP_S * config.noise_high_hz) + 2
    drawn = rng.standard_normal((n_drawn, 2)) @ np.array([1.0, 1.0j])
    n_used = min(n_drawn, len(hz))
    bank = np.zeros((config.n_noise, n_samples), np.float32)
    top_hz = min(config.noise_high_hz, 0.45 * sample_rate)
    for row, (low, high) in zip(bank, itertools.pairwise(edges), strict=True):
        inside = np.flatnonzero((hz[:n_used] >= low) & (hz[:n_used] < min(high, top_hz)))
        if not len(inside):
            continue
        spectrum = np.zeros(len(hz), np.complex64)
        spectrum[inside] = drawn[inside]
        row[:] = np.fft.irfft(spectrum, n_samples)
        # a band cut short by the sample rate keeps its density, not its power
        share = np.sqrt((min(high, top_hz) - low) / (high - low))
        row *= np.float32(share / np.sqrt(np.mean(row**2)))
    mixed = np.ascontiguousarray(bank.T)
    mixed.setflags(write=False)
    return mixed
