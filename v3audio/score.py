"""What to play of a recording that is heard as a whole beforehand, instead of while it sounds.

A player who follows by ear is late by what a pitch takes to be sure, and mute or breathing
meanwhile. A file can be heard first: its notes are those of `transcribe`, and each sounds from its
attack, to the sample, until its tail is lost, at the pitch and the level that the recording has at
that very time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from v3audio.hear_file import (
    HOP_S,
    TAIL_S,
    FileSound,
    Frames,
    HearingPart,
    KeptFrames,
    Progress,
    decode,
    hear,
)
from v3audio.notes import Note, TrackerConfig, file_gate_db
from v3audio.units import midi_to_hz
from v3audio.voice import Played

Floats = NDArray[np.floating]

STEP_S = 0.005  # between what is played: a live frame
N_SLOTS = 1000  # levels kept of a second
SLOT_S = 1.0 / N_SLOTS
STRETCH = 400  # steps worked out at once
LEVEL_S = 0.02  # the level is that of so long, in whole periods of the note
SURE = 0.5  # voicing (mean of periodicity and confidence) from which a frame's pitch is played
FOLLOW_SEMITONES = 2.5  # from the note: vibrato and bends; farther off is a slip
SETTLE_PERIODS = 5.0  # out of a rest no pitch is sure before so many
GLIDE_S = 0.1  # around a slurred change within which the pitch may be anywhere between the notes
SLUR_S = 0.02  # notes nearer than this are slurred
LAG_S, LAG_PERIODS = 0.0025, 1.0
"""A frame's pitch is that of so long before its end, and so many periods; measured with vibrato."""
ATTACK_S, ATTACK_DB = 0.005, 6.0  # a rise by this much from one such time to the next is an attack
SEARCH_S = 0.025  # how far from the decoder's onset it may stand
SWELL_S = 0.15  # before it, sound may lead up to the note
TAIL_MAX_S = 3.0
DIP_DB = 3.0  # a swell rises but for such dips; else it is something else
BELOW_GATE_DB = 6.0  # how far below the decoder's gate a tail is played
GAP_S = 1.0  # unsure pitches are bridged with what stands so far around them


class Span(NamedTuple):
    """When a note sounds, seconds, and around which pitch."""

    begin_s: float
    end_s: float
    pitch_midi: float
    midi: int


class Score:
    """A recording's notes, laid out in steps of 5 ms, each note beginning a step of its own.

    Args:
        notes: of the recording.
        frames: what they were decoded from.
        levels_db: (n,) dBFS RMS of every millisecond.
        sample_rate: Hz, of the samples in which steps are counted.
    """

    def __init__(
        self, notes: Sequence[Note], frames: Frames, levels_db: Floats, sample_rate: int
    ) -> None:
        self._rate = sample_rate
        self._pitch, self._levels_db = frames.pitch_midi.copy(), levels_db  # the rest may go
        self._voicing = 0.5 * (frames.periodicity + frames.confidence)
        gate_db = file_gate_db(frames.level_db, TrackerConfig()) if notes else 0.0
        self.spans = self._spans(notes, gate_db - BELOW_GATE_DB)
        self._begins = [span.begin_s for span in self.spans]
        self._moved = {  # steps that begin a note, and their samples
            round(span.begin_s / STEP_S): round(span.begin_s * sample_rate) for span in self.spans
        }
        self._first, self._stretch = -1, list[Played | None]()

    def start(self, k: int) -> int:
        """The sample, 1 or more, at which step k begins."""
        return max(self._moved.get(k, round(k * STEP_S * self._rate)), 1)

    def played(self, k: int) -> Played | None:
        """What shall have been arrived at when step k ends."""
        first = k - k % STRETCH
        if first != self._first:
            self._first, self._stretch = first, self._steps(first)
        return self._stretch[k - first]

    # -- when each note sounds ---------------------------------------------------------------------

    def _spans(self, notes: Sequence[Note], floor_db: float) -> list[Span]:
        spans: list[Span] = []
        for before, note in zip([None, *notes], notes, strict=False):
            free_s = before.offset_s if before else 0.0
            slurred = before is not None and note.onset_s - free_s < SLUR_S
            earliest_s = before.onset_s + 2 * SEARCH_S if before and slurred else free_s
            span = Span(note.onset_s, note.offset_s, note.midi + note.cents / 100.0, note.midi)
            begin_s = self._attack(note.onset_s, earliest_s)
            if not slurred:
                begin_s = self._rise(span._replace(begin_s=begin_s), free_s, floor_db)
            begin_s = round(begin_s * self._rate) / self._rate
            if spans:
                end_s = begin_s if slurred else self._tail(spans[-1], begin_s, floor_db)
                spans[-1] = spans[-1]._replace(end_s=end_s)
            spans.append(span._replace(begin_s=begin_s))
        if spans:
            end_s = self._tail(spans[-1], len(self._levels_db) * SLOT_S, floor_db)
            spans[-1] = spans[-1]._replace(end_s=end_s)
        return spans

    def _attack(self, onset_s: float, earliest_s: float) -> float:
        """Where the level rises most, near a decoded onset; the onset where it hardly does."""
        n = round(ATTACK_S / SLOT_S)
        first = round(max(earliest_s, onset_s - SEARCH_S) / SLOT_S)
        power = self._power(first - n, round((onset_s + SEARCH_S) / SLOT_S) + n)
        sums = np.convolve(power, np.ones(n), "valid")
        sums += 1e-3 * sums.max() + 1e-12  # what is so far below does not count as a rise
        rise_db = 10.0 * np.log10(sums[n:] / sums[:-n])
        best = int(rise_db.argmax())
        return (first + best) * SLOT_S if rise_db[best] >= ATTACK_DB else onset_s

    def _rise(self, span: Span, earliest_s: float, floor_db: float) -> float:
        """Where the sound sets in that leads up to an attack."""
        last = round(span.begin_s / SLOT_S)
        first = max(round(earliest_s / SLOT_S), last - round(SWELL_S / SLOT_S))
        levels_db = self._smooth(first, last, span)[::-1]
        rises = levels_db <= np.minimum.accumulate(levels_db) + DIP_DB
        unsure = np.arange(len(levels_db)) * SLOT_S < SETTLE_PERIODS * _period_s(span)
        at_pitch = self._is_at_pitch(first, last, span)[::-1]
        goes_on = (levels_db > floor_db) & rises & (unsure | at_pitch)
        return (last - _n_leading(goes_on)) * SLOT_S

    def _tail(self, span: Span, limit_s: float, floor_db: float) -> float:
        """Until when its pitch is heard of a note that the decoder has ended: a tail, a repeat."""
        first = round(span.end_s / SLOT_S)
        last = round(min(limit_s, span.end_s + TAIL_MAX_S) / SLOT_S)
        levels_db = self._smooth(first, last, span)
        goes_on = (levels_db > floor_db) & self._is_at_pitch(first, last, span)
        return min(span.end_s + _n_leading(goes_on) * SLOT_S, limit_s)

    def _power(self, first: int, last: int) -> NDArray[np.float64]:
        """Of slots `first` to `last`; there is silence around the recording."""
        n = len(self._levels_db)
        inside = self._levels_db[min(max(first, 0), n) : min(max(last, 0), n)]
        power = np.power(10.0, 0.1 * inside.astype(np.float64))
        before = min(max(-first, 0), max(last - first, 0))
        return np.pad(power, (before, max(last - first - before - len(power), 0)))

    def _smooth(self, first: int, last: int, span: Span) -> NDArray[np.float64]:
        """Level of slots `first` to `last`, each with a period of the note before it, dBFS."""
        n = max(round(ATTACK_S / SLOT_S), ceil(_period_s(span) / SLOT_S))
        if last <= first:
            return np.zeros(0)
        power = self._power(first - n + 1, last)
        return 10.0 * np.log10(np.convolve(power, np.full(n, 1.0 / n), "valid") + 1e-12)

    def _is_at_pitch(self, first: int, last: int, span: Span) -> NDArray[np.bool_]:
        """Whether the pitch heard in slots `first` to `last` is surely the note's."""
        time_s = np.arange(first, last) * SLOT_S + _lag_s(span)
        frames = np.clip(np.rint(time_s / HOP_S).astype(int) - 1, 0, len(self._pitch) - 1)
        off = self._pitch[frames] - span.pitch_midi
        off -= 12.0 * np.round(off / 12.0)
        at_pitch: NDArray[np.bool_] = np.abs(off) <= FOLLOW_SEMITONES
        at_pitch &= self._voicing[frames] >= SURE
        return at_pitch

    # -- pitch and level ---------------------------------------------------------------------------

    def _steps(self, first: int) -> list[Played | None]:
        """Steps from `first` on, `STRETCH` of them."""
        steps: list[Played | None] = [None] * STRETCH
        edges_s = np.array([self.start(first + k) for k in range(STRETCH + 1)]) / self._rate
        starts_s, ends_s = edges_s[:-1], edges_s[1:]
        heard = np.searchsorted(self._begins, starts_s + 0.5 / self._rate, "right") - 1
        for i in range(max(int(heard[0]), 0), int(heard[-1]) + 1):
            span = self.spans[i]
            at = np.flatnonzero((heard == i) & (starts_s < span.end_s))
            if not len(at):
                continue
            columns = (
                self._contour(i, ends_s[at]),
                self._level(i, ends_s[at]),
                ends_s[at] - span.begin_s,
            )
            for k, pitch, level_db, age_s in zip(
                at.tolist(), *(c.tolist() for c in columns), strict=True
            ):
                steps[k] = Played(pitch, span.midi, level_db, age_s)
        return steps

    def _contour(self, i: int, time_s: Floats) -> Floats:
        """Pitch of note i at rising times."""
        span, lag_s = self.spans[i], _lag_s(self.spans[i])
        first = ceil((max(span.begin_s, time_s[0] - GAP_S) + lag_s) / HOP_S) - 1
        last = int((min(span.end_s, time_s[-1] + GAP_S) + lag_s) / HOP_S)
        pitch = self._pitch[max(first, 0) : last].astype(np.float64)
        at_s = (np.arange(max(first, 0), max(first, 0) + len(pitch)) + 1) * HOP_S - lag_s
        low = np.full(len(pitch), span.pitch_midi - FOLLOW_SEMITONES)
        high = np.full(len(pitch), span.pitch_midi + FOLLOW_SEMITONES)
        for other, edge_s in self._slurred_to(i):
            near = np.abs(at_s - edge_s) <= GLIDE_S
            low[near] = np.minimum(low[near], other.pitch_midi)
            high[near] = np.maximum(high[near], other.pitch_midi)
        slipped = np.round((pitch - span.pitch_midi) / 12.0)
        pitch = np.where((pitch < low) | (pitch > high), pitch - 12.0 * slipped, pitch)
        sure = (pitch >= low) & (pitch <= high) & (self._voicing[max(first, 0) : last] >= SURE)
        if not self._is_slurred(i):
            sure &= at_s >= span.begin_s + SETTLE_PERIODS * _period_s(span)
        if not sure.any():
            return np.full(len(time_s), span.pitch_midi)
        return np.interp(time_s, at_s[sure], pitch[sure])

    def _slurred_to(self, i: int) -> Iterator[tuple[Span, float]]:
        """The notes that join note i without a rest, and when."""
        if self._is_slurred(i):
            yield self.spans[i - 1], self.spans[i].begin_s
        if self._is_slurred(i + 1):
            yield self.spans[i + 1], self.spans[i + 1].begin_s

    def _is_slurred(self, i: int) -> bool:
        """Whether note i follows another without a rest."""
        return 0 < i < len(self.spans) and self.spans[i].begin_s - self.spans[i - 1].end_s < SLUR_S

    def _level(self, i: int, time_s: Floats) -> Floats:
        """Level around times, dBFS RMS, of what belongs to note i, over whole periods of it."""
        span = self.spans[i]
        period_s = _period_s(span)
        half_s = 0.5 * period_s * ceil(LEVEL_S / period_s)
        limit_s = len(self._levels_db) * SLOT_S
        if i + 1 < len(self.spans):
            limit_s = min(limit_s, self.spans[i + 1].begin_s)
        first, last = (
            int((time_s[0] - half_s) / SLOT_S) - 1,
            ceil((time_s[-1] + half_s) / SLOT_S) + 1,
        )
        energy = np.concatenate(([0.0], np.cumsum(self._power(first, last))))
        edges_s = np.arange(first, last + 1) * SLOT_S
        begin_s = np.clip(time_s - half_s, span.begin_s, limit_s - SLOT_S)
        end_s = np.clip(time_s + half_s, begin_s + SLOT_S, limit_s)
        taken = np.interp(end_s, edges_s, energy) - np.interp(begin_s, edges_s, energy)
        power = SLOT_S * taken / (end_s - begin_s)
        level_db: Floats = 10.0 * np.log10(np.clip(power, 1e-12, 1.0))
        return level_db


def _lag_s(span: Span) -> float:
    """How long before its end the time lies of which a frame's pitch tells."""
    return LAG_S + LAG_PERIODS * _period_s(span)


def _period_s(span: Span) -> float:
    return 1.0 / float(midi_to_hz(span.pitch_midi))


def _n_leading(x: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return len(x) if x.all() else int(x.argmin())


def hear_score(sound: FileSound, hearing: HearingPart, progress: Progress | None = None) -> Score:
    """Hear a recording from its beginning to its end, and lay out what to play of it.

    Of two hours 100 MB are kept.

    Args:
        sound: the recording.
        hearing: the model's.
        progress: told input samples done and in all.
    """
    levels, kept = _Levels(sound.sample_rate), KeptFrames()
    watched = replace(sound, blocks=levels.watch(sound.blocks))
    for part in hear(watched, hearing, TAIL_S, progress, style=False, quieten=True):
        kept.add(part)
    frames = kept.frames()
    notes = decode(frames, TrackerConfig())
    return Score(notes, frames, levels.levels_db(), sound.sample_rate)


class _Levels:
    """The level of every millisecond that passes, in two bytes each."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._parts: list[NDArray[np.float16]] = []

    def watch(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The blocks, as they come."""
        rest, first, slot = np.zeros(0, np.float32), 0, 0
        for block in blocks:
            rest = np.concatenate((rest, block))
            n_slots = (first + len(rest)) * N_SLOTS // self._rate
            edges = np.arange(slot, n_slots + 1) * self._rate // N_SLOTS - first
            if n_slots > slot:
                power = np.add.reduceat(np.square(rest[: edges[-1]], dtype=np.float64), edges[:-1])
                level_db = 10.0 * np.log10(power / np.diff(edges) + 1e-12)
                self._parts.append(level_db.astype(np.float16))
            rest, first, slot = rest[edges[-1] :], first + int(edges[-1]), n_slots
            yield block

    def levels_db(self) -> NDArray[np.float16]:
        """(n,) dBFS RMS."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.float16)
