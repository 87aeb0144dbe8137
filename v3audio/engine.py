"""The instrument as a value: blocks of sound in, blocks of sound and note events out.

No thread, device or clock lives here, so `live`, `transfer` and the tests run the very same code.

How blocks of any size give the same samples: frame k looks at the analysis samples (16 kHz) up to
(k+1) * hop and takes effect at input sample e_k, the first input count at which all of them exist,
an integer that depends on k alone. At e_k the engine hears one frame, moves the note tracker on and
renders the whole segment [e_k, e_(k+1)). `process` only hands these segments out. Nothing in them
can depend on an input sample from e_k on: causal by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from v3audio import timbres
from v3audio.bundle import load_bundle
from v3audio.errors import ConfigError, DeviceError, TimbreError
from v3audio.live_hearing import LiveHearing, OneByOne
from v3audio.notes import FrameNotes, NoteEvent, NoteTracker, TrackerConfig
from v3audio.renderer import RenderControl, Renderer
from v3audio.streaming import ANALYSIS_RATE, HOP, WINDOW, Framer, StreamingResampler
from v3audio.threads import one_blas_thread
from v3audio.timbres import Timbre

Samples = NDArray[np.float32]

MAX_TRANSPOSE = 36.0
SILENT_DB = -120.0
MAX_RELEASE_S = 0.3
"""A player who stops wants silence: longer releases of a timbre are cut to this."""
_KNEE = 0.891  # -1 dBFS: below it the limiter does nothing
_LOUDEST = 100.0  # +40 dBFS: what is louder is clipped before it is heard, lest its square overflow


class HearingPart(Protocol):
    """What the engine asks of `v3audio.live_hearing.LiveHearing`."""

    def frame(self, window: Samples, /) -> FrameNotes:
        """What is heard in one (window,) stretch of samples at the analysis rate."""
        ...


class TrackerPart(Protocol):
    """What the engine asks of `v3audio.notes.NoteTracker`."""

    config: TrackerConfig

    def step(self, frame: FrameNotes, sample: int) -> list[NoteEvent]:
        """Events that a frame taking effect at input sample `sample` decides."""
        ...

    def release(self, sample: int) -> list[NoteEvent]:
        """Events that end what sounds."""
        ...

    def reset(self) -> None:
        """Back to the start."""
        ...


class RendererPart(Protocol):
    """What the engine asks of `v3audio.renderer.Renderer`."""

    def render(self, n_samples: int, control: RenderControl) -> Samples:
        """The next samples, from where the last call ended to `control`."""
        ...

    def reset(self) -> None:
        """Back to silence."""
        ...


class Played(NamedTuple):
    """What a frame asks the renderer for; None in its place lets the sound go."""

    pitch_midi: float
    level_db: float
    age_s: float  # since the voice began this note


@dataclass(frozen=True, slots=True)
class VoiceConfig:
    """How notes and loudness steer the renderer.

    Attributes:
        gate_db: input level (dBFS, RMS of 20 ms) from which sound counts.
        hysteresis_db: a gate once open closes this much lower.
        sure: voicing (mean of periodicity and confidence, as in the tracker) from which a pitch
            that two frames agree on begins to sound before the tracker has decided on a note.
        agree_semitones: how near two frames' pitches must lie to agree.
        attack_db: rise of the level after a note-off that counts as a new attack; only an attack
            (or the opening of the gate) lets a pitch sound early, a room's tail does not.
        follow_semitones: heard pitch within this of the tracker's note is played as heard (vibrato
            and bends pass); outside it (an octave slip, a glide before the tracker has moved on)
            the last deviation is held.
        full_step_db: a change of level this large acts at once; a smaller one, such as the ripple
            of a low note's periods within 20 ms, in part.
        full_step_semitones: the same for the pitch of a sounding note, which a bow roughens.
        least_step: the part of the smallest changes that each frame follows.
    """

    gate_db: float = -50.0
    hysteresis_db: float = 6.0
    sure: float = 0.6
    agree_semitones: float = 0.3
    attack_db: float = 6.0
    follow_semitones: float = 0.8
    full_step_db: float = 3.0
    full_step_semitones: float = 0.4
    least_step: float = 0.3


class Voice:
    """From what was heard, and which note sounds, to what the renderer plays; no audio in here.

    Loudness acts at once, pitch when it is known. An attack stays silent until its first pitch: the
    tracker's note-on, or already two frames in a row that are sure of one pitch, whichever is first
    (a wrong guess would be heard as a wrong note, and waiting longer than needed as sluggishness).
    From then on the pitch is the heard fine pitch around the tracker's note. Sound without a note
    (noise, breath, talk) is not imitated.
    """

    def __init__(self, config: VoiceConfig, hop_s: float) -> None:
        self.config = config
        self._hop_s = hop_s
        self.reset()

    def reset(self) -> None:
        """Back to silence."""
        self._open = False
        self._note: int | None = None  # the tracker's
        self._deviation = 0.0  # semitones from it
        self._pitch: float | None = None  # what sounds; None: nothing
        self._level_db: float | None = None  # of what sounds
        self._guess: float | None = None  # sure pitch of the frame before
        self._floor_db = SILENT_DB  # lowest level since the last note-off
        self._age_s = 0.0

    def step(self, frame: FrameNotes, events: Sequence[NoteEvent]) -> Played | None:
        """One frame: what was heard, and what the tracker made of it."""
        c = self.config
        early = self._pitch is not None and self._note is None
        self._age_s += self._hop_s
        ended = False
        for event in events:
            if event.kind == "on":
                # a note that began on its first sure pitch goes on; any other begins now
                if not (early and abs(event.note - (self._pitch or 0.0)) < 1.0):
                    self._age_s = 0.0
                self._note, self._deviation, ended = event.note, event.cents / 100.0, False
            elif event.kind == "off":
                self._note, ended, self._floor_db = None, True, frame.level_db
        self._open = frame.level_db >= c.gate_db - (c.hysteresis_db if self._open else 0.0)
        self._floor_db = min(self._floor_db, frame.level_db) if self._open else SILENT_DB
        voicing = 0.5 * (frame.periodicity + frame.confidence)
        heard = frame.pitch_midi if voicing >= c.sure else None
        before, self._guess = self._guess, heard
        attack = frame.level_db >= self._floor_db + c.attack_db
        if self._note is not None:
            deviation = frame.pitch_midi - self._note
            if abs(deviation) <= c.follow_semitones:
                self._deviation = self._towards(self._deviation, deviation, c.full_step_semitones)
            self._pitch = self._note + self._deviation
        elif ended or not self._open or heard is None:
            self._pitch = None
        elif self._pitch is not None:
            self._pitch = heard if abs(heard - self._pitch) <= c.follow_semitones else None
        elif before is not None and abs(heard - before) <= c.agree_semitones and attack:
            self._pitch, self._age_s = heard, 0.0
        if self._pitch is None or not self._open:
            self._level_db = None
            return None
        level_db = min(frame.level_db, 0.0)
        if self._level_db is not None:
            level_db = self._towards(self._level_db, level_db, c.full_step_db)
        self._level_db = level_db
        return Played(self._pitch, level_db, self._age_s)

    def _towards(self, old: float, new: float, full_step: float) -> float:
        """Follow a change: at once where it is large, by degrees where it is slight."""
        change = new - old
        return old + change * min(max(abs(change) / full_step, self.config.least_step), 1.0)


class Engine:
    """Hears one voice, says its notes and plays them in another timbre.

    Output sample t depends on no input sample after t; it is not shifted to hide latency. A note
    outside the timbre's range is played as it is, not folded by octaves, so that a melody keeps its
    shape; only what `transpose` would push beyond MIDI 0..127 comes back by octaves, in sound and
    in events alike.

    Args:
        timbre: a name, a file, a blend such as ``"flute:0.7,trumpet:0.3"``, or a `Timbre`.
        sample_rate: Hz, 8000..192000, of input and output.
        block: samples per `process` call that the caller intends; any other size works too and
            gives the same samples. It only counts in `buffer_samples`.
        model: folder of a model, or None for the shipped one.
        transpose: semitones, -36..36, fractions allowed; events carry the transposed note.
        mix: 0 (the input as it came) .. 1 (the new timbre alone). The dry part is not delayed.
        gate_db: dBFS, -90..0; below it the input is silence.
        device: where the model runs: ``cpu``, ``cuda``, or ``auto``, which means the CPU here: one
            frame at a time it is faster than the way to a GPU and back.
        seed: of the renderer's noise; the same seed gives the same samples.
        hearing: replaces the model's hearing (tests, other models).
        tracker: replaces the note tracker.
        renderer: replaces the model's renderer.

    Raises:
        ConfigError: a value out of range.
        TimbreError: unknown, damaged or foreign timbre.
        BundleError: missing, damaged or foreign model.
        DeviceError: ``cuda`` without a CUDA device.
    """

    def __init__(
        self,
        timbre: str | Timbre = "flute",
        sample_rate: int = 48000,
        block: int = 128,
        model: Path | str | None = None,
        *,
        transpose: float = 0.0,
        mix: float = 1.0,
        gate_db: float = -50.0,
        device: str = "auto",
        seed: int = 0,
        hearing: HearingPart | None = None,
        tracker: TrackerPart | None = None,
        renderer: RendererPart | None = None,
    ) -> None:
        self._resampler = StreamingResampler(sample_rate)
        self._framer = Framer(HOP, WINDOW)
        self.sample_rate = self._resampler.sample_rate
        if block < 1 or int(block) != block:
            raise ConfigError(
                f"block = {block}: expected a whole number of samples from 1 (try 128)"
            )
        self.block = int(block)
        self.transpose = transpose
        self.mix = mix
        self._voice = Voice(VoiceConfig(), HOP / ANALYSIS_RATE)
        self._tracker = tracker or NoteTracker(hop_s=HOP / ANALYSIS_RATE)
        self.gate_db = gate_db
        device = pick_device(device)
        if hearing and renderer and isinstance(timbre, Timbre):
            self.model_name = timbre.model
        else:
            bundle = load_bundle(model)
            self.model_name = bundle.name
            if isinstance(timbre, str):
                timbre = timbres.find(timbre, bundle.checksum)
            elif timbre.model_sha256 != bundle.checksum:
                raise _foreign(timbre, bundle.name)
            if hearing is None:
                whole = bundle.load_hearing(device)
                hearing = LiveHearing(whole) if device == "cpu" else OneByOne(whole)
            renderer = renderer or Renderer(bundle.load_renderer(), self.sample_rate, seed)
        self._timbre, self._hearing, self._renderer = timbre, hearing, renderer
        self.reset()

    # -- controls: read once per frame, so a change acts within one hop ----------------------------

    @property
    def transpose(self) -> float:
        """Semitones added to what is played."""
        return self._transpose

    @transpose.setter
    def transpose(self, semitones: float) -> None:
        self._transpose = _in_range(
            "transpose", semitones, -MAX_TRANSPOSE, MAX_TRANSPOSE, "semitones"
        )

    @property
    def mix(self) -> float:
        """0 (input alone) .. 1 (new timbre alone)."""
        return self._mix

    @mix.setter
    def mix(self, share: float) -> None:
        self._mix = _in_range("mix", share, 0.0, 1.0, "(0 dry, 1 wet)")

    @property
    def gate_db(self) -> float:
        """Input level in dBFS below which nothing sounds."""
        return self._voice.config.gate_db

    @gate_db.setter
    def gate_db(self, level_db: float) -> None:
        level_db = _in_range("gate", level_db, -90.0, 0.0, "dBFS")
        self._voice.config = replace(self._voice.config, gate_db=level_db)
        self._tracker.config = replace(self._tracker.config, gate_db=level_db)

    @property
    def timbre(self) -> Timbre:
        """What plays. May be set at any time; the sound glides over in one hop.

        Raises:
            TimbreError: on setting a timbre of another model.
        """
        return self._timbre

    @timbre.setter
    def timbre(self, timbre: Timbre) -> None:
        if timbre.model_sha256 != self._timbre.model_sha256:
            raise _foreign(timbre, self.model_name)
        self._timbre = timbre

    # -- what it states about itself ---------------------------------------------------------------

    @property
    def latency_samples(self) -> int:
        """Longest wait of an input sample for its effect on the output, without the block.

        The resampling filter's right half plus one hop: 294 samples (6.1 ms) at 48 kHz. It is how
        fast loudness acts; a pitch becomes certain only with more sound.
        """
        return self._resampler.delay_samples + ceil(HOP * self.sample_rate / ANALYSIS_RATE)

    @property
    def buffer_samples(self) -> int:
        """Wait for a block to fill before `process` can be called."""
        return self.block

    @property
    def n_samples(self) -> int:
        """Input samples taken so far."""
        return self._n_in

    @property
    def n_non_finite(self) -> int:
        """Input samples that were NaN or infinite and were taken as silence."""
        return self._n_non_finite

    @property
    def n_frames(self) -> int:
        """Frames heard so far."""
        return self._frame

    # -- running -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """Back to the state before the first sample; controls stay."""
        self._tracker.reset()
        self._renderer.reset()
        self._voice.reset()
        self._resampler_state = self._resampler.init_state()
        self._framer_state = self._framer.init_state()
        self._n_in = 0
        self._n_non_finite = 0
        self._frame = 0
        self._start, self._stop = 0, self._effective(0)
        self._segment: Samples = np.zeros(self._stop, np.float32)
        self._pending: Samples = np.empty(self._stop, np.float32)
        self._released = RenderControl(69.0, SILENT_DB, 0.0, self._timbre.style, voiced=False)
        self._shift_of: dict[int, tuple[int, float]] = {}

    def warm_up(self) -> None:
        """Do now what a first call does lazily (allocations, kernel choice), then reset."""
        n = self._effective(8)
        rng = np.random.default_rng(0)
        self.process((0.1 * rng.standard_normal(n)).astype(np.float32))
        sounding = replace(self._released, level_db=-20.0, voiced=True)
        for _ in range(2):
            self._renderer.render(self._stop - self._start, sounding)
        self.reset()

    def process(self, block: NDArray[np.floating]) -> tuple[Samples, list[NoteEvent]]:
        """Take one block of sound and give one back.

        Args:
            block: (n,) float samples, full scale +-1, any n including 0. NaN and infinity count as
                0; nothing else is refused, however loud.

        Returns:
            (n,) float32 within -1..1, and the note events decided during this block, in order;
            `sample` in them counts input samples since the start.

        Raises:
            ConfigError: not one-dimensional, or integers (scale those to +-1 first).
        """
        x = np.asarray(block)
        if x.ndim != 1 or x.dtype.kind != "f":
            raise ConfigError(
                f"block has shape {x.shape} and type {x.dtype}: expected (n,) float samples in "
                "-1..1 (average the channels, divide 16-bit integers by 32768)"
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is counted
            x = x.astype(np.float32, copy=False)
        finite = np.isfinite(x)
        if not finite.all():
            self._n_non_finite += len(x) - int(np.count_nonzero(finite))
            x = np.where(finite, x, np.float32(0.0))
        out = np.empty(len(x), np.float32)
        events: list[NoteEvent] = []
        done = 0
        while done < len(x):
            n = min(len(x) - done, self._stop - self._n_in)
            at = self._n_in - self._start
            part = x[done : done + n]
            np.clip(part, -_LOUDEST, _LOUDEST, out=self._pending[at : at + n])
            wet = self._segment[at : at + n]
            if self._mix == 1.0:
                out[done : done + n] = wet
            else:
                dry = np.clip(part, -1.0, 1.0)
                out[done : done + n] = (
                    np.float32(1.0 - self._mix) * dry + np.float32(self._mix) * wet
                )
            self._n_in += n
            done += n
            if self._n_in == self._stop:
                events += self._advance()
        return out, events

    def flush(self) -> list[NoteEvent]:
        """End of the stream: events that close what still sounds. `reset` before going on."""
        return self._out_events(self._tracker.release(self._n_in))

    def _effective(self, k: int) -> int:
        """e_k: input samples after which frame k can be heard."""
        return self._resampler.n_needed(self._framer.n_needed(k) - 1)

    def _advance(self) -> list[NoteEvent]:
        """Hear frame k at input sample e_k and render [e_k, e_(k+1))."""
        with one_blas_thread():
            return self._hear_and_render()

    def _hear_and_render(self) -> list[NoteEvent]:
        y, self._resampler_state = self._resampler.step(
            self._pending[: self._stop - self._start], self._resampler_state
        )
        windows, self._framer_state = self._framer.step(y, self._framer_state)
        frame = self._hearing.frame(windows[0])
        events = self._tracker.step(frame, self._n_in)
        self._frame += 1
        self._start, self._stop = self._stop, self._effective(self._frame)
        n = self._stop - self._start
        if n > len(self._pending):
            self._pending = np.empty(n, np.float32)
        self._segment = self._render(n, self._voice.step(frame, events))
        return self._out_events(events)

    def _render(self, n: int, played: Played | None) -> Samples:
        timbre = self.timbre
        if played is None:
            return _limit(self._renderer.render(n, self._released))
        pitch = played.pitch_midi + self._transpose
        control = RenderControl(
            pitch + 12 * _octaves_into_range(pitch),
            played.level_db + timbre.gain_db,
            played.age_s,
            timbre.style,
            decay_db_per_s=_decay(timbre, played.pitch_midi + self._transpose),
            release_s=min(max(_extra(timbre, "release_s", 0.0), 0.0), MAX_RELEASE_S),
        )
        self._released = replace(control, voiced=False)
        return _limit(self._renderer.render(n, control))

    def _out_events(self, events: list[NoteEvent]) -> list[NoteEvent]:
        """Transpose events; an "off" uses the shift its "on" had, so that it always matches."""
        out = []
        for event in events:
            if event.kind == "on":
                shift = round(self._transpose)
                cents = 100.0 * (self._transpose - shift)
                shift += 12 * _octaves_into_range(event.note + shift)
                self._shift_of[event.note] = shift, cents
            shift, cents = self._shift_of[event.note]
            out.append(replace(event, note=event.note + shift, cents=event.cents + cents))
            if event.kind == "off":
                del self._shift_of[event.note]
        return out


def pick_device(name: str, auto: str = "cpu") -> str:
    """Check a computing device's name.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
        auto: what ``auto`` means.

    Raises:
        ConfigError: another name.
        DeviceError: ``cuda`` on a machine where PyTorch finds none.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: PyTorch finds no CUDA device here; type --device cpu")
    return auto if name == "auto" else name


def _foreign(timbre: Timbre, model: str) -> TimbreError:
    return TimbreError(
        f"timbre '{timbre.name}' was made for model '{timbre.model}', not for '{model}'; "
        "capture it again with this model (v3audio capture NAME FILE)"
    )


def _extra(timbre: Timbre, name: str, default: float) -> float:
    """A number among a timbre's extras; the default where it is missing or no number."""
    value = timbre.extras.get(name)
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else default


def _decay(timbre: Timbre, pitch_midi: float) -> float:
    """How fast a struck or plucked note dies, dB/s: low strings ring longer than high ones."""
    ends = [
        _extra(timbre, f"decay_{end}_db_per_s", timbre.decay_db_per_s) for end in ("low", "high")
    ]
    return max(0.0, float(np.interp(pitch_midi, timbre.note_range, ends)))


def _octaves_into_range(pitch_midi: float) -> int:
    """Octaves to add so that a pitch lies within MIDI 0..127."""
    if pitch_midi < 0:
        return ceil(-pitch_midi / 12)
    return -ceil((pitch_midi - 127) / 12) if pitch_midi > 127 else 0


def _limit(x: Samples) -> Samples:
    """Bend what passes -1 dBFS towards, never beyond, full scale; memoryless, so no latency."""
    size = np.abs(x)
    over = size > _KNEE
    if not over.any():
        return x
    bent = _KNEE + (1.0 - _KNEE) * np.tanh((size - _KNEE) / (1.0 - _KNEE))
    return np.where(over, np.copysign(bent, x), x).astype(np.float32)


def _in_range(name: str, value: float, low: float, high: float, unit: str) -> float:
    if not low <= value <= high:  # also refuses NaN
        raise ConfigError(f"{name} = {value}: expected {low:g} to {high:g} {unit}")
    return float(value)
