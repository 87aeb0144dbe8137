"""Notes as MIDI: the messages of every output, and files of type 1, 480 ticks a beat.

The rules are those of every MIDI output of v3audio: the bend range is announced first (RPN 0);
offs match ons and come before them; a bend goes back to 0 before a note-on; cents travel as pitch
bends, thinned by a dead band of 3 cents and to 200 a second. In MPE each note has a channel of its
own, after the lower zone's configuration message. Files have tempo, time signature and track name.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import mido
import numpy as np
from numpy.typing import NDArray

from v3audio.errors import AudioFileError, ConfigError
from v3audio.notes import Note, NoteEvent
from v3audio.paths import atomic_write

MidiMode = Literal["notes", "bend", "mpe"]
"""Notes alone, with bends, or with bends in a channel per note."""

TICKS_PER_BEAT = 480
DEFAULT_TEMPO_BPM = 120.0
MIN_TEMPO_BPM, MAX_TEMPO_BPM = 10.0, 1000.0
BEND_RANGE_SEMITONES = 2.0  # what a synthesiser assumes unless told
MPE_BEND_RANGE_SEMITONES = 48.0  # the MPE specification's default for member channels
MPE_MEMBERS = 15
DEAD_BAND_CENTS = 3.0
BEND_INTERVAL_S = 1 / 200
_BEND_SLACK_S = 0.001  # frames of 5 ms do not stand on whole samples at every rate
_ALL_NOTES_OFF, _ALL_SOUND_OFF = 123, 120
_END_OF_TRACK = b"\0\xff\x2f\0"
_SYNC_BYTES = 65_536


class NoteEncoder:
    """Turns note events, in order, into MIDI messages: the state of one output.

    Args:
        mode: ``notes`` (no bends), ``bend``, or ``mpe``: a channel per note, rotating over the
            lower zone's members.
        channel: 1..16, of all but MPE.
        bend_range: Semitones of a full bend. MPE makes 48 of the usual 2.
    """

    def __init__(
        self,
        mode: MidiMode = "bend",
        channel: int = 1,
        bend_range: float = BEND_RANGE_SEMITONES,
    ) -> None:
        self.mode = mode
        if mode == "mpe" and bend_range == BEND_RANGE_SEMITONES:
            bend_range = MPE_BEND_RANGE_SEMITONES
        self.bend_range = bend_range
        self._channels = range(1, 1 + MPE_MEMBERS) if mode == "mpe" else range(channel - 1, channel)
        self._n_ons = 0
        self._sounding: dict[int, int] = {}  # note: channel
        self._bends = dict.fromkeys(self._channels, 0.0)  # cents last sent
        self._bends_due_s = dict.fromkeys(self._channels, 0.0)

    def start(self) -> list[mido.Message]:
        """Messages that announce the bend range (RPN 0) and, in MPE, the zone (RPN 6)."""
        messages = []
        if self.mode == "mpe":
            messages += _rpn(0, 6, MPE_MEMBERS) + _rpn(0, 0, BEND_RANGE_SEMITONES)
        for channel in self._channels:
            messages += _rpn(channel, 0, self.bend_range)
        return messages

    def event(self, event: NoteEvent, time_s: float) -> list[mido.Message]:
        """Messages of one event of a live engine, at `time_s` of any clock that only goes on."""
        if event.kind == "on":
            return self.on(time_s, event.note, event.velocity, event.cents)
        if event.kind == "off":
            return self.off(event.note)
        return self.pitch(time_s, event.note, event.cents)

    def on(self, time_s: float, note: int, velocity: int, cents: float) -> list[mido.Message]:
        """Messages that begin a note, after ending one of the same pitch that still sounds."""
        messages = self.off(note)
        channel = self._channels[self._n_ons % len(self._channels)]
        self._n_ons += 1
        messages += self._bend(channel, time_s, 0.0, force=True)
        velocity = min(max(velocity, 1), 127)
        messages.append(mido.Message("note_on", channel=channel, note=note, velocity=velocity))
        self._sounding[note] = channel
        return messages + self._bend(channel, time_s, cents, force=abs(cents) >= DEAD_BAND_CENTS)

    def off(self, note: int) -> list[mido.Message]:
        """Messages that end a note; none if it does not sound."""
        channel = self._sounding.pop(note, None)
        return [] if channel is None else [_off(channel, note)]

    def pitch(self, time_s: float, note: int, cents: float) -> list[mido.Message]:
        """Messages that bend a sounding note to `cents` from its pitch, thinned."""
        channel = self._sounding.get(note)
        return [] if channel is None else self._bend(channel, time_s, cents)

    def closing(self) -> list[mido.Message]:
        """What `stop` would give, while all sounds on."""
        return [_off(channel, note) for note, channel in self._sounding.items()] + [
            mido.Message("pitchwheel", channel=c, pitch=0)
            for c, bend in self._bends.items()
            if bend
        ]

    def stop(self) -> list[mido.Message]:
        """Messages that end all that sounds and take every bend back to 0."""
        messages = self.closing()
        self._sounding.clear()
        self._bends = dict.fromkeys(self._channels, 0.0)
        return messages

    def panic(self) -> list[mido.Message]:
        """As `stop`, then silence and bends of 0 for whatever a synthesiser may still hold."""
        messages = self.stop()
        for channel in self._channels:
            for control in (_ALL_NOTES_OFF, _ALL_SOUND_OFF):
                messages.append(mido.Message("control_change", channel=channel, control=control))
            messages.append(mido.Message("pitchwheel", channel=channel, pitch=0))
        return messages

    def _bend(
        self, channel: int, time_s: float, cents: float, force: bool = False
    ) -> list[mido.Message]:
        last = self._bends[channel]
        if cents == last or self.mode == "notes":
            return []
        due_s = self._bends_due_s[channel]
        early = time_s < due_s - _BEND_SLACK_S
        if not force and (early or abs(cents - last) < DEAD_BAND_CENTS):
            return []
        self._bends[channel] = cents
        self._bends_due_s[channel] = max(due_s, time_s) + BEND_INTERVAL_S
        value = round(cents / 100 / self.bend_range * 8192)
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
    with atomic_write(path, AudioFileError) as temporary, temporary.open("wb", 0) as file:
        writer = MidiWriter(file, name, NoteEncoder("mpe" if mpe else "bend"), tempo_bpm)
        for time_s, is_on, note in sorted(steps, key=lambda step: (writer.tick(step[0]), step[1])):
            if is_on:
                writer.on(time_s, note.midi, note.velocity, note.cents)
            else:
                writer.off(time_s, note.midi)
        writer.sync()


class MidiWriter:
    """A MIDI file that grows on disk: memory stays flat, and after each `sync` the file is whole.

    What sounds at a `sync` is closed in the file, not in the music: the next one writes over it.

    Args:
        file: Empty, seekable, unbuffered (``open("wb", 0)``), so that an error is raised where it
            happens and nothing is left to write.
        name: Track name.
        encoder: Makes the messages.
        tempo_bpm: Quarter notes a minute, 10 to 1000.

    Raises:
        ConfigError: The tempo is out of range.
        OSError: Here and from every method: the system refuses to write. What the last `sync` left
            is then kept.
    """

    def __init__(
        self,
        file: io.FileIO,
        name: str,
        encoder: NoteEncoder,
        tempo_bpm: float = DEFAULT_TEMPO_BPM,
    ) -> None:
        if not MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM:
            raise ConfigError(
                f"tempo is {tempo_bpm:g} BPM, wanted {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g}; "
                "give another --tempo"
            )
        self._us_per_beat = round(60e6 / tempo_bpm)
        self._encoder = encoder
        self._file = file
        title = _meta(0x03, name.encode())
        four_four = bytes((4, 2, 24, 8))
        conductor = title + _meta(0x51, self._us_per_beat.to_bytes(3, "big"))
        conductor += _meta(0x58, four_four) + _END_OF_TRACK
        head = b"MThd" + struct.pack(">IHHH", 6, 1, 2, TICKS_PER_BEAT)
        head += b"MTrk" + struct.pack(">I", len(conductor)) + conductor + b"MTrk"
        self._start = self._end = len(head) + 4  # of what will not be written over
        self._closing = b""  # on disk behind it
        self._new = bytearray(title)
        self._tick = 0
        self._status = 0
        self._on_ticks: dict[int, int] = {}  # of the sounding notes, so that none has no length
        write_all(file, head + bytes(4))
        self._add(0, encoder.start())

    def tick(self, time_s: float) -> int:
        """Ticks from the start, 0 or more."""
        return max(0, round(time_s * 1e6 / self._us_per_beat * TICKS_PER_BEAT))

    def event(self, event: NoteEvent, time_s: float) -> None:
        """Append an event of a live engine; what is earlier than the last moves up to it."""
        if event.kind == "on":
            self.on(time_s, event.note, event.velocity, event.cents)
        elif event.kind == "off":
            self.off(time_s, event.note)
        else:
            self._add(self.tick(time_s), self._encoder.pitch(time_s, event.note, event.cents))

    def on(self, time_s: float, note: int, velocity: int, cents: float) -> None:
        """Begin a note; it ends one of the same pitch, which lasts a tick at least."""
        tick = max(self.tick(time_s), self._on_ticks.get(note, -1) + 1)
        self._add(tick, self._encoder.on(time_s, note, velocity, cents))
        self._on_ticks[note] = self._tick

    def off(self, time_s: float, note: int) -> None:
        """End a note, a tick or more after its begin; nothing if it does not sound."""
        earliest = self._on_ticks.pop(note, -1) + 1
        self._add(max(self.tick(time_s), earliest), self._encoder.off(note))

    def sync(self, until_s: float = 0.0) -> None:
        """Make the file on disk whole; what sounds lasts up to the last event, or `until_s`."""
        new, self._new = bytes(self._new), bytearray()
        shortest = max(self._on_ticks.values(), default=-1) + 1
        tick = max(self._tick, shortest, self.tick(until_s) if self._on_ticks else 0)
        closing = self._bytes(tick, self._encoder.closing())[0] + _END_OF_TRACK
        try:
            self._write(self._end, new + closing)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
                self._write(self._end, self._closing)
            raise
        self._end += len(new)
        self._closing = closing

    def _write(self, start: int, data: bytes) -> None:
        self._file.seek(start)
        write_all(self._file, data)
        self._file.seek(self._start - 4)
        write_all(self._file, struct.pack(">I", start + len(data) - self._start))
        self._file.truncate(start + len(data))

    def _add(self, tick: int, messages: list[mido.Message]) -> None:
        tick = max(tick, self._tick)
        data, self._status = self._bytes(tick, messages)
        if messages:
            self._tick = tick
        self._new += data
        if len(self._new) > _SYNC_BYTES:
            self.sync()

    def _bytes(self, tick: int, messages: list[mido.Message]) -> tuple[bytes, int]:
        """Messages with their delta times and running status; and the last status."""
        data, last, status = bytearray(), self._tick, self._status
        for message in messages:
            raw = message.bytes()
            data += _variable_length(tick - last) + bytes(raw[raw[0] == status :])
            last, status = tick, raw[0]
        return bytes(data), status


def write_all(file: io.RawIOBase, data: bytes) -> None:
    """Write to an unbuffered file, which takes less than it is given before it refuses."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _meta(kind: int, data: bytes) -> bytes:
    return bytes((0, 0xFF, kind)) + _variable_length(len(data)) + data


def _variable_length(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.insert(0, number & 0x7F | 0x80)
    return bytes(digits)


def _off(channel: int, note: int) -> mido.Message:
    return mido.Message("note_off", channel=channel, note=note, velocity=64)


def _rpn(channel: int, number: int, value: float) -> list[mido.Message]:
    """Set a registered parameter, then deselect it so that stray data entry does no harm."""
    coarse, fine = divmod(round(100 * value), 100)  # semitones and cents, of a bend range
    controls = ((101, 0), (100, number), (6, coarse), (38, fine), (101, 127), (100, 127))
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
