"""Notes as MIDI files: type 1, 480 ticks a beat, with tempo, time signature and track name.

The rules are those of every MIDI output of v3audio: the bend range is announced first (RPN 0);
offs match ons and come before them; a bend goes back to 0 before a note-on; cents travel as pitch
bends, thinned by a dead band of 3 cents and to 200 a second. In MPE each note has a channel of its
own, after the lower zone's configuration message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np
from numpy.typing import NDArray

from v3audio.errors import AudioFileError, ConfigError
from v3audio.notes import Note, NoteEvent
from v3audio.paths import atomic_write

TICKS_PER_BEAT = 480
DEFAULT_TEMPO_BPM = 120.0
MIN_TEMPO_BPM, MAX_TEMPO_BPM = 10.0, 1000.0
BEND_RANGE_SEMITONES = 2  # what a synthesiser assumes unless told
MPE_BEND_RANGE_SEMITONES = 48  # the MPE specification's default for member channels
MPE_MEMBERS = 15
DEAD_BAND_CENTS = 3.0
BEND_INTERVAL_S = 1 / 200


@dataclass(slots=True)
class _Sounding:
    channel: int
    note: int


class NoteEncoder:
    """Turns note events, in order, into MIDI messages: the state of one output.

    Args:
        mpe: A channel per note, rotating over the lower zone's members; else channel 1 only.
        bend_range_semitones: Reach of a full bend; None takes 2, or 48 in MPE.
    """

    def __init__(self, mpe: bool = False, bend_range_semitones: int | None = None) -> None:
        self.mpe = mpe
        self.bend_range_semitones = bend_range_semitones or (
            MPE_BEND_RANGE_SEMITONES if mpe else BEND_RANGE_SEMITONES
        )
        self._channels = range(1, 1 + MPE_MEMBERS) if mpe else range(1)
        self._n_ons = 0
        self._sounding: list[_Sounding] = []
        self._bends = dict.fromkeys(self._channels, 0.0)  # cents last sent
        self._bend_times_s = dict.fromkeys(self._channels, -1.0)

    def start(self) -> list[mido.Message]:
        """Messages that announce the bend range (RPN 0) and, in MPE, the zone (RPN 6)."""
        messages = []
        if self.mpe:
            messages += _rpn(0, 6, MPE_MEMBERS) + _rpn(0, 0, BEND_RANGE_SEMITONES)
        for channel in self._channels:
            messages += _rpn(channel, 0, self.bend_range_semitones)
        return messages

    def on(self, time_s: float, note: int, velocity: int, cents: float) -> list[mido.Message]:
        """Messages that begin a note, after ending one of the same pitch that still sounds."""
        messages = self.off(note) if any(s.note == note for s in self._sounding) else []
        channel = self._channels[self._n_ons % len(self._channels)]
        self._n_ons += 1
        messages += self._bend(channel, time_s, 0.0, force=True)
        velocity = min(max(velocity, 1), 127)
        messages.append(mido.Message("note_on", channel=channel, note=note, velocity=velocity))
        self._sounding.append(_Sounding(channel, note))
        return messages + self._bend(channel, time_s, cents, force=abs(cents) >= DEAD_BAND_CENTS)

    def off(self, note: int) -> list[mido.Message]:
        """Messages that end a note; none if it does not sound."""
        ended = [s for s in self._sounding if s.note == note]
        self._sounding = [s for s in self._sounding if s.note != note]
        return [mido.Message("note_off", channel=s.channel, note=note, velocity=64) for s in ended]

    def pitch(self, time_s: float, note: int, cents: float) -> list[mido.Message]:
        """Messages that bend a sounding note to `cents` from its pitch, thinned."""
        return [
            message
            for sounding in self._sounding
            if sounding.note == note
            for message in self._bend(sounding.channel, time_s, cents)
        ]

    def stop(self) -> list[mido.Message]:
        """Messages that end all that sounds and take every bend back to 0."""
        messages = [m for s in list(self._sounding) for m in self.off(s.note)]
        return messages + [m for c in self._channels for m in self._bend(c, 0.0, 0.0, force=True)]

    def _bend(
        self, channel: int, time_s: float, cents: float, force: bool = False
    ) -> list[mido.Message]:
        last = self._bends[channel]
        if cents == last:
            return []
        early = time_s - self._bend_times_s[channel] < BEND_INTERVAL_S
        if not force and (early or abs(cents - last) < DEAD_BAND_CENTS):
            return []
        self._bends[channel], self._bend_times_s[channel] = cents, time_s
        value = round(cents / 100 / self.bend_range_semitones * 8192)
        return [mido.Message("pitchwheel", channel=channel, pitch=min(max(value, -8192), 8191))]


def write_midi(
    path: Path | str,
    notes: Sequence[Note],
    tempo_bpm: float = DEFAULT_TEMPO_BPM,
    mpe: bool = False,
    name: str = "v3audio",
) -> None:
    """Write the notes of a recording as a MIDI file; it replaces `path` only when complete.

    Args:
        path: Target ``.mid`` file.
        notes: In any order; of two overlapping notes of one pitch the first is cut short.
        tempo_bpm: Quarter notes a minute, 10 to 1000. Times in seconds hold at any tempo.
        mpe: Give each note its own channel (lower zone).
        name: Track name.

    Raises:
        AudioFileError: The system refuses to write there.
        ConfigError: The tempo is out of range.
    """
    steps: list[tuple[float, int, Note]] = []  # off (0) before on (1) where they coincide
    next_onset_s: dict[int, float] = {}
    for note in sorted(notes, key=lambda n: n.onset_s, reverse=True):
        offset_s = min(note.offset_s, next_onset_s.get(note.midi, note.offset_s))
        next_onset_s[note.midi] = note.onset_s
        steps += [(note.onset_s, 1, note), (max(offset_s, note.onset_s), 0, note)]
    track = _Track(tempo_bpm, NoteEncoder(mpe), name)
    for time_s, is_on, note in sorted(steps, key=lambda step: (track.tick(step[0]), step[1])):
        if is_on:
            track.on(time_s, note.midi, note.velocity, note.cents)
        else:
            track.off(time_s, note.midi)
    track.save(path)


def write_event_midi(
    path: Path | str,
    events: Iterable[NoteEvent],
    sample_rate: int,
    tempo_bpm: float = DEFAULT_TEMPO_BPM,
    mpe: bool = False,
    name: str = "v3audio live",
) -> None:
    """Write what a live engine emitted, at the moments it emitted it.

    Args:
        path: Target ``.mid`` file, replaced only when complete.
        events: In order of emission; a note left sounding ends with the last event.
        sample_rate: In Hz, of the events' `sample`.
        tempo_bpm: Quarter notes a minute, 10 to 1000.
        mpe: Give each note its own channel (lower zone).
        name: Track name.

    Raises:
        AudioFileError: The system refuses to write there.
        ConfigError: The tempo is out of range.
    """
    track = _Track(tempo_bpm, NoteEncoder(mpe), name)
    for event in events:
        time_s = event.sample / sample_rate
        if event.kind == "on":
            track.on(time_s, event.note, event.velocity, event.cents)
        elif event.kind == "off":
            track.off(time_s, event.note)
        else:
            track.pitch(time_s, event.note, event.cents)
    track.save(path)


class _Track:
    """The one track of notes under construction: absolute ticks, never backwards."""

    def __init__(self, tempo_bpm: float, encoder: NoteEncoder, name: str) -> None:
        if not MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM:
            raise ConfigError(
                f"tempo is {tempo_bpm:g} BPM, wanted {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g}; "
                "give another --tempo"
            )
        self.us_per_beat = round(60e6 / tempo_bpm)
        self.encoder = encoder
        self.name = name
        self.messages: list[tuple[int, mido.Message]] = [(0, m) for m in encoder.start()]
        self.on_ticks: dict[int, int] = {}  # of the sounding notes, so that none has no length

    def tick(self, time_s: float) -> int:
        return max(0, round(time_s * 1e6 / self.us_per_beat * TICKS_PER_BEAT))

    def on(self, time_s: float, note: int, velocity: int, cents: float) -> None:
        earliest = self.on_ticks.get(note, -1) + 1  # a repeat ends its predecessor, one tick long
        self.on_ticks[note] = self._add(
            max(self.tick(time_s), earliest), self.encoder.on(time_s, note, velocity, cents)
        )

    def off(self, time_s: float, note: int) -> None:
        earliest = self.on_ticks.pop(note, -1) + 1
        self._add(max(self.tick(time_s), earliest), self.encoder.off(note))

    def pitch(self, time_s: float, note: int, cents: float) -> None:
        self._add(self.tick(time_s), self.encoder.pitch(time_s, note, cents))

    def _add(self, tick: int, messages: list[mido.Message]) -> int:
        tick = max(tick, self.messages[-1][0])
        self.messages += [(tick, m) for m in messages]
        return tick

    def save(self, path: Path | str) -> None:
        still_on = max(self.on_ticks.values(), default=-1)
        self._add(still_on + 1, self.encoder.stop())
        file = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT, charset="utf-8")
        conductor, track = file.add_track(self.name), file.add_track(self.name)
        conductor.append(mido.MetaMessage("set_tempo", tempo=self.us_per_beat))
        conductor.append(mido.MetaMessage("time_signature", numerator=4, denominator=4))
        now = 0
        for tick, message in self.messages:
            track.append(message.copy(time=tick - now))
            now = tick
        with atomic_write(path, AudioFileError) as temporary:
            file.save(temporary)


def _rpn(channel: int, number: int, value: int) -> list[mido.Message]:
    """Set a registered parameter, then deselect it so that stray data entry does no harm."""
    controls = ((101, 0), (100, number), (6, value), (38, 0), (101, 127), (100, 127))
    return [
        mido.Message("control_change", channel=channel, control=c, value=v) for c, v in controls
    ]


# --- tempo ---------------------------------------------------------------------------------------

_LAG_STEP_S = 0.005
_MAX_LAG_S = 5.0
_MAX_NEIGHBOURS = 16
# of a beat, and weight
_MULTIPLES = ((0.25, 0.3), (0.5, 1.0), (1.0, 1.0), (2.0, 0.7), (3.0, 0.2), (4.0, 0.5))


def estimate_tempo(notes: Sequence[Note]) -> float:
    """Tempo of a melody from the intervals between its onsets.

    The autocorrelation of the onsets is read at the multiples of each beat length and weighed by
    how usual that tempo is (log-normal around 120); the winner is refined by least squares over all
    intervals near a multiple of it.

    Args:
        notes: In any order.

    Returns:
        Quarter notes a minute, 50 to 220; 120.0 where the onsets decide nothing.
    """
    onsets_s = np.sort(np.array([n.onset_s for n in notes], dtype=np.float64))
    intervals_s = np.concatenate(
        [onsets_s[j:] - onsets_s[:-j] for j in range(1, min(_MAX_NEIGHBOURS, len(onsets_s)))]
        or [onsets_s[:0]]
    )
    intervals_s = intervals_s[(intervals_s > 0.05) & (intervals_s < _MAX_LAG_S)]
    steps_s = np.diff(onsets_s)
    steps_s = steps_s[steps_s > 0.05]
    if len(steps_s) < 3:
        return DEFAULT_TEMPO_BPM

    tempos_bpm = np.geomspace(50.0, 220.0, 400)
    n_bins = round(_MAX_LAG_S / _LAG_STEP_S)
    counts = np.histogram(intervals_s, bins=n_bins, range=(0.0, _MAX_LAG_S))[0]
    centres_s = (np.arange(n_bins) + 0.5) * _LAG_STEP_S
    strength = np.zeros_like(tempos_bpm)
    for multiple, weight in _MULTIPLES:
        lags_s = multiple * 60.0 / tempos_bpm
        width_s = 0.02 + 0.01 * lags_s  # players are loose, more so over long spans
        near = np.exp(-0.5 * ((centres_s - lags_s[:, None]) / width_s[:, None]) ** 2)
        strength += weight * (near @ counts)
    prior = np.exp(-0.5 * (np.log2(tempos_bpm / 120.0) / 0.7) ** 2)
    beat_s = 60.0 / float(tempos_bpm[np.argmax(prior * strength)])

    for _ in range(4):
        multiples = np.round(intervals_s / beat_s * 2) / 2  # half beats count too
        fits = (multiples > 0) & (np.abs(intervals_s / beat_s - multiples) < 0.1)
        if not fits.any():
            return DEFAULT_TEMPO_BPM
        beat_s = float(
            (multiples[fits] * intervals_s[fits]).sum() / np.square(multiples[fits]).sum()
        )
    if not _is_regular(steps_s, beat_s):
        return DEFAULT_TEMPO_BPM
    return round(60.0 / beat_s, 2)


def _is_regular(steps_s: NDArray[np.float64], beat_s: float) -> bool:
    """Rayleigh test: do the steps fall on some grid of the beat more than chance would have it?"""
    n = len(steps_s)
    for division in (1, 2, 3, 4):
        phases = 2j * np.pi * steps_s * division / beat_s
        if n * abs(np.exp(phases).mean()) ** 2 > 3.5 + 0.7 * np.log(n / 4):
            return True
    return False
