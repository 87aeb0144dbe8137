"""The instrument as a value: blocks of sound in, blocks of sound and note events out.

No thread, device or clock lives here, so `live`, `transfer` and the tests run the very same code.

How blocks of any size give the same samples: frame k looks at the analysis samples (16 kHz) up to
(k+1) * hop and takes effect at input sample e_k, the first input count at which all of them exist,
an integer that depends on k alone. At e_k the engine hears one frame, moves the note tracker on and
renders the whole segment [e_k, e_(k+1)). `process` only hands these segments out. Nothing in them
can depend on an input sample from e_k on: causal by construction. Only where a recording was heard
beforehand, its score (`v3audio.score`) says where frames take effect and what sounds in them.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log10
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled, timbres
from v3audio.bundle import load_bundle
from v3audio.errors import ConfigError, DeviceError, TimbreError
from v3audio.glides import TimbreGlide
from v3audio.mixer import Mixer
from v3audio.notes import FrameNotes, NoteEvent, NoteTracker, TrackerConfig
from v3audio.renderer import RenderControl, Renderer
from v3audio.settings import Settings, ref_semitones
from v3audio.streaming import ANALYSIS_RATE, HOP, WINDOW, Framer, Newest, StreamingResampler
from v3audio.threads import blas_is_held, one_blas_thread
from v3audio.timbres import Timbre
from v3audio.tuning import Tuning, octaves_into_range, tuned
from v3audio.units import midi_to_hz
from v3audio.voice import SILENT_DB, Played, Voice, VoiceConfig

Samples = NDArray[np.float32]

_FLOAT32 = np.dtype(np.float32)

class HearingPart(Protocol):
    """What the engine asks of `v3audio.live_hearing.LiveHearing`."""

    def frame(self, window: Samples, /) -> FrameNotes:
        """What is heard in one (window,) stretch of samples at the analysis rate."""
        ...


@runtime_checkable
class Codes(Protocol):
    """A hearing that can also name the codebook's atom."""

    def code(self) -> tuple[int, float]:
        """Index of the atom nearest to the newest frame's content, and the distance to it."""
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


class ScorePart(Protocol):
    """What the engine asks of `v3audio.score.Score`."""

    def start(self, k: int) -> int:
        """The sample, 1 or more, at which frame k takes effect."""
        ...

    def played(self, k: int) -> Played | None:
        """What shall have been arrived at when frame k + 1 takes effect."""
        ...


class Readout(NamedTuple):
    """What the newest frame was, for meters and tuners."""

    level_db: float  # heard, dBFS RMS of 20 ms
    pitch_hz: float  # heard; 0 below the gate
    confidence: float  # 0..1, of that pitch
    note: int | None  # that sounds, as in the events
    cents: float  # of what sounds, from that note
    code: int  # the codebook's nearest atom; -1 where the hearing names none
    code_distance: float
    output_db: float  # given back, dBFS RMS of one hop


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
        settings: everything that may be moved while playing; the three above take precedence.
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
        transpose: float | None = None,
        mix: float | None = None,
        gate_db: float | None = None,
        settings: Settings | None = None,
        device: str = "auto",
        seed: int = 0,
        hearing: HearingPart | None = None,
        tracker: TrackerPart | None = None,
        renderer: RendererPart | None = None,
    ) -> None:
        self._resampler = StreamingResampler(sample_rate)
        self._newest = Newest(self._resampler, Framer(HOP, WINDOW))
        self.sample_rate = self._resampler.sample_rate
        if block < 1 or int(block) != block:
            raise ConfigError(
                f"block = {block}: expected a whole number of samples from 1 (try 128)"
            )
        self.block = int(block)
        s = settings or Settings()
        self._settings = replace(
            s,
            transpose=s.transpose if transpose is None else transpose,
            mix=s.mix if mix is None else mix,
            gate_db=s.gate_db if gate_db is None else gate_db,
        )
        self._mixer = Mixer(self._settings, self.sample_rate)
        self._voice = Voice(VoiceConfig(), HOP / ANALYSIS_RATE)
        self._tracker = tracker or NoteTracker(hop_s=HOP / ANALYSIS_RATE)
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
            hearing = hearing or bundle.load_live_hearing(device)
            renderer = renderer or Renderer(bundle.load_frozen_renderer(), self.sample_rate, seed)
        self._timbre, self._hearing, self._renderer = timbre, hearing, renderer
        self._codes = hearing if isinstance(hearing, Codes) else None
        self._score: ScorePart | None = None
        self.reset()

    # -- controls: read once per call of `process`, never in the middle of a block -----------------

    @property
    def settings(self) -> Settings:
        """Everything a player may move; set it whole (`dataclasses.replace`) at any time.

        Read when `process` is called next. Gains, mix, bypass and the switch act from that call's
        first sample, in ramps (`v3audio.mixer`); pitch and timbre from the next frame. A change of
        transposition or scale is heard at once and said from the next note on. While frozen the
        dry part still passes, so that one can play over what is held.
        """
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def transpose(self) -> float:
        """`settings.transpose`."""
        return self._settings.transpose

    @transpose.setter
    def transpose(self, semitones: float) -> None:
        self._settings = replace(self._settings, transpose=semitones)

    @property
    def mix(self) -> float:
        """`settings.mix`."""
        return self._settings.mix

    @mix.setter
    def mix(self, share: float) -> None:
        self._settings = replace(self._settings, mix=share)

    @property
    def gate_db(self) -> float:
        """`settings.gate_db`."""
        return self._settings.gate_db

    @gate_db.setter
    def gate_db(self, level_db: float) -> None:
        self._settings = replace(self._settings, gate_db=level_db)

    @property
    def timbre(self) -> Timbre:
        """What plays. May be set at any time; the sound glides over in `settings.fade_ms`.

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
    def hearing(self) -> HearingPart:
        """What it hears with."""
        return self._hearing

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
        return self._mixer.n_non_finite

    @property
    def n_frames(self) -> int:
        """Frames heard so far."""
        return self._frame

    @property
    def readout(self) -> Readout:
        """The newest frame, in figures; call it from the thread that calls `process`."""
        frame = self._heard
        sounds = frame.level_db >= self._applied.gate_db
        note, cents = self._said or (None, 0.0)
        code, distance = -1, 0.0
        if self._frame and self._codes:
            code, distance = self._codes.code()
        return Readout(
            frame.level_db,
            float(midi_to_hz(frame.pitch_midi)) if sounds else 0.0,
            frame.confidence if sounds else 0.0,
            note,
            cents,
            code,
            distance,
            10.0 * log10(self._output_power + 1e-12),
        )

    # -- running -----------------------------------------------------------------------------------

    def reset(self, score: ScorePart | None = None) -> None:
        """Back to the state before the first sample; settings and timbre stay.

        Args:
            score: play this from now on instead of what is heard, and say no notes.
        """
        self._score = score
        self._tracker.reset()
        self._renderer.reset()
        self._voice.reset()
        self._newest.reset()
        self._mixer.reset(self._settings)
        self._n_in = 0
        self._frame = 0
        self._start, self._stop = 0, self._effective(0)
        self._mixer.begin(np.zeros(self._stop, np.float32))
        self._heard = FrameNotes(SILENT_DB, 0.0, 0.0, 0.0, 0.0)
        self._output_power = 0.0
        self._held: Played | None = None  # what sounds now, for `freeze`
        self._tuning_of: dict[int, Tuning] = {}  # by the tracker's note
        self._said: tuple[int, float] | None = None  # note and cents of the last event
        self._glide = TimbreGlide(self._timbre)
        self._control = RenderControl(69.0, SILENT_DB, 0.0, self._timbre.style, voiced=False)
        self._applied = self._settings
        self._asked: tuple[float | str, ...] = ()
        self._follow_settings()

    def warm_up(self) -> None:
        """Do now what a first call does lazily (allocations, kernel choice), then reset."""
        n = self._effective(8)
        rng = np.random.default_rng(0)
        self.process((0.1 * rng.standard_normal(n)).astype(np.float32))
        sounding = self._control._replace(level_db=-20.0, voiced=True)
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
        if x.dtype != _FLOAT32:
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is counted
                x = x.astype(np.float32)
        events = self._take_settings()
        out = np.empty(len(x), np.float32)
        done = 0
        while done < len(x):
            n = min(len(x) - done, self._stop - self._n_in)
            self._mixer.mix(x[done : done + n], out[done : done + n])
            self._n_in += n
            done += n
            if self._n_in == self._stop:
                events += self._advance()
        return out, events

    def flush(self) -> list[NoteEvent]:
        """End of the stream: events that close what still sounds. `reset` before going on."""
        return self._out_events(self._tracker.release(self._n_in))

    def panic(self) -> list[NoteEvent]:
        """Close what sounds, frozen or not; playing goes on with the next attack.

        Returns:
            The events to send now.
        """
        self._voice.end()
        self._held = None
        return self.flush()

    # -- settings ----------------------------------------------------------------------------------

    def _take_settings(self) -> list[NoteEvent]:
        """Let what was set since the last call act; events of notes that it ends."""
        events = []
        if self._settings is not self._applied:
            before, self._applied = self._applied, self._settings
            self._mixer.follow(self._applied)
            self._follow_settings()
            if _plays(before) and not _plays(self._applied):
                events = self.panic()
                self._tracker.reset()
                self._voice.reset()
        if self._timbre is not self._glide.timbre:
            hop_ms = 1000.0 * HOP / ANALYSIS_RATE
            self._glide.go(self._timbre, max(1, round(self._applied.fade_ms / hop_ms)))
        return events

    def _follow_settings(self) -> None:
        s = self._applied
        self._ref = ref_semitones(s.ref_hz)
        asked = s.gate_db, self._ref, s.min_note_ms, s.sensitivity, s.velocity
        if asked == self._asked:  # as mostly: to make a tracker's settings anew takes 20 us
            return
        self._asked = asked
        self._voice.config = replace(self._voice.config, gate_db=s.gate_db)
        self._tracker.config = replace(
            self._tracker.config,
            gate_db=s.gate_db,
            tuning=self._ref,
            live_min_note_ms=s.min_note_ms,
            sensitivity=s.sensitivity,
            velocity=cast(Literal["level", "attack", "fixed"], s.velocity),
        )

    # -- a frame -----------------------------------------------------------------------------------

    def _effective(self, k: int) -> int:
        """e_k: input samples after which frame k can be heard, or is played from the score."""
        if self._score is not None:
            return self._score.start(k)
        return self._newest.n_needed(k)

    def _advance(self) -> list[NoteEvent]:
        """Hear frame k at input sample e_k and render [e_k, e_(k+1))."""
        # held by the thread that plays live, for as long as it does; not used by what was compiled
        if blas_is_held() or compiled.library():
            return self._hear_and_render()
        with one_blas_thread():
            return self._hear_and_render()

    def _hear_and_render(self) -> list[NoteEvent]:
        self._output_power = self._mixer.power
        if self._score is None:
            self._heard = self._hearing.frame(self._newest.step(self._mixer.heard))
        events: list[NoteEvent] = []
        if not _plays(self._applied):
            self._held = None
        elif not self._applied.freeze:
            if self._score is None:
                self._held, events = self._follow()
            else:
                self._held = self._score.played(self._frame)
        elif self._held is not None and self._held.breath:
            self._held = None
        self._frame += 1
        self._start, self._stop = self._stop, self._effective(self._frame)
        self._mixer.begin(self._render(self._stop - self._start, self._held))
        return self._out_events(events)

    def _follow(self) -> tuple[Played | None, list[NoteEvent]]:
        """What the newest frame asks for, and the events that it decides."""
        frame = self._heard
        # the tracker counts notes from the player's own A
        own = frame._replace(pitch_midi=frame.pitch_midi - self._ref) if self._ref else frame
        events = self._tracker.step(own, self._n_in)
        return self._voice.step(frame, events, self._ref), events

    def _render(self, n: int, played: Played | None) -> Samples:
        self._glide.step()
        if played is not None:
            self._control = self._control_of(played)
        elif self._control.voiced:
            self._control = self._control._replace(voiced=False)
        return self._renderer.render(n, self._control)

    def _control_of(self, played: Played) -> RenderControl:
        sound, s = self._glide, self._applied
        if played.breath:  # no note: only the colour of the noise, which its own range knows
            low, high = self._timbre.note_range
            pitch = min(max(played.pitch_midi, low), high)
        else:
            pitch = tuned(played.pitch_midi - self._ref, played.note_midi - self._ref, s)
            pitch += 12 * octaves_into_range(round(pitch)) + s.fine_cents / 100.0 + self._ref
        return RenderControl(
            pitch,
            played.level_db + sound.gain_db,
            played.age_s,
            sound.style,
            breath=played.breath,
            decay_db_per_s=sound.decay_at(pitch),
            release_s=0.0 if played.breath else sound.release_s,
            formant=s.formant,
        )

    def _out_events(self, events: list[NoteEvent]) -> list[NoteEvent]:
        """Events as they sound; a note keeps the tuning its "on" had, so that its "off" matches."""
        out = []
        for event in events:
            if event.kind == "on":
                self._tuning_of[event.note] = Tuning.begin(event, self._applied)
            tuning = self._tuning_of[event.note]
            cents = tuning.cents(event) + self._applied.fine_cents
            said = NoteEvent(
                event.kind, event.sample, tuning.note, event.velocity, cents, event.confidence
            )
            out.append(said)
            self._said = tuning.note, cents
            if event.kind == "off":
                del self._tuning_of[event.note]
                self._said = None
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
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda":
        import torch  # takes longer than all else at a start, and the CPU's way needs none of it

        if not torch.cuda.is_available():
            raise DeviceError("--device cuda: PyTorch finds no CUDA device here; type --device cpu")
    return auto if name == "auto" else name


def _foreign(timbre: Timbre, model: str) -> TimbreError:
    return TimbreError(
        f"timbre '{timbre.name}' was made for model '{timbre.model}', not for '{model}'; "
        "capture it again with this model (v3audio capture NAME FILE)"
    )


def _plays(settings: Settings) -> bool:
    return settings.enabled and not settings.bypass
