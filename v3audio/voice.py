"""From what was heard, and which note sounds, to what shall be played; no audio in here."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import NamedTuple

from v3audio.notes import FrameNotes, NoteEvent
from v3audio.units import midi_to_hz

SILENT_DB = -120.0


class Played(NamedTuple):
    """What a frame asks the renderer for; None in its place lets the sound go."""

    pitch_midi: float
    note_midi: float  # the note it belongs to, without vibrato and bends
    level_db: float
    age_s: float  # since the voice began this note
    breath: bool = False  # noise alone, as long as the pitch is not known


@dataclass(frozen=True, slots=True)
class VoiceConfig:
    """How notes and loudness steer the renderer.

    Attributes:
        gate_db: input level (dBFS, RMS of 20 ms) from which sound counts.
        hysteresis_db: a gate once open closes this much lower.
        attack_db: a rise of the level this far above its lowest of the last `attack_window_s`, to
            above the gate and the noise between notes, is an attack. Only an attack lets breath or
            pitch sound before the tracker has decided on a note: a room's tail, talk's vowels or a
            noise that wavers around the gate do not.
        attack_window_s: see there.
        noise_margin_db: how far above the noise; as in the tracker.
        early_s: how long after an attack its pitch may sound before the tracker's note.
        sure: voicing (mean of periodicity and confidence, as in the tracker) from which two frames
            must agree on a pitch for it to sound early. On real phrases 0.93 (and one period of the
            pitch since the attack) starts 20 ms (low notes: 30 ms) before the tracker and is wrong
            in 2 to 5 of 100 attacks more; at 0.6 every fourth attack, below E2 every second, blips.
        agree_semitones: how near two frames' pitches must lie to agree.
        voiced: voicing that keeps such a pitch sounding until the tracker's note.
        breath_s: an attack is breath alone until its pitch is known, fading over this time.
        breath_pause_s: after a breath that no pitch followed (a knock, a consonant) none for so
            long, so that noises do not make it rain.
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
    attack_db: float = 6.0
    attack_window_s: float = 0.05
    noise_margin_db: float = 8.0
    early_s: float = 0.2
    sure: float = 0.93
    agree_semitones: float = 0.3
    voiced: float = 0.6
    breath_s: float = 0.06
    breath_pause_s: float = 0.3
    follow_semitones: float = 0.8
    full_step_db: float = 3.0
    full_step_semitones: float = 0.4
    least_step: float = 0.3


LEVEL_S = 0.02  # what `FrameNotes.level_db` is an RMS of
NOISE_RISE_S, NOISE_FALL_S = 0.5, 0.05


class Voice:
    """One voice's pitch, level and age, frame by frame.

    Loudness acts at once, pitch when it is known, and an attack is breath until then: the timbre's
    own noise, fading if no pitch comes. The pitch is the tracker's note-on, or already that of two
    frames in a row which are sure of it, whichever is first: a wrong guess would be heard as a
    wrong note, and waiting longer than needed as sluggishness. From then on it is the heard fine
    pitch around the tracker's note. Sound without a note (noise, talk) is not imitated.
    """

    def __init__(self, config: VoiceConfig, hop_s: float) -> None:
        self.config = config
        self._hop_s = hop_s
        self.reset()

    def reset(self) -> None:
        """Back to silence."""
        self._open = False
        self._recent = deque([SILENT_DB], max(1, round(self.config.attack_window_s / self._hop_s)))
        self._risen = False
        self._noise_db: float | None = None  # typical level where no pitch sounds
        self._attack_s = inf  # since the last attack
        self._breathing = False
        self._pause_s = 0.0  # until the next breath
        self._note: float | None = None  # the tracker's, as a pitch
        self._deviation = 0.0  # semitones from the note
        self._pitch: float | None = None  # what sounds; None: nothing, or breath
        self._level_db: float | None = None  # of what sounds
        self._guess: float | None = None  # sure pitch of the frame before
        self._age_s = 0.0

    def step(
        self, frame: FrameNotes, events: Sequence[NoteEvent], ref: float = 0.0
    ) -> Played | None:
        """One frame.

        Args:
            frame: what was heard.
            events: what the tracker made of it.
            ref: pitch of the events' note 0, semitones above MIDI's.
        """
        level_db = self._loudness(frame)
        self._age_s += self._hop_s
        ended = self._take(events, ref)
        self._choose_pitch(frame, ended)
        if not self._open or (self._pitch is None and not self._breathes()):
            self._level_db = None
            return None
        if self._level_db is not None:
            level_db = self._towards(self._level_db, level_db, self.config.full_step_db)
        self._level_db = level_db
        if self._pitch is None:
            level_db += 20.0 * log10(self._breath_left())
            return Played(frame.pitch_midi, frame.pitch_midi, level_db, 0.0, breath=True)
        self._breathing = False
        note = round(self._pitch - ref) + ref if self._note is None else self._note
        return Played(self._pitch, note, level_db, self._age_s)

    def end(self) -> None:
        """Let go of what sounds; only a new attack, or the tracker's next note, sounds again."""
        self._note = self._pitch = self._guess = self._level_db = None
        self._attack_s = inf

    def _loudness(self, frame: FrameNotes) -> float:
        """Gate, attacks, and the level to play: in an attack that of the newest 5 ms."""
        c, level_db = self.config, frame.level_db
        self._open = level_db >= c.gate_db - (c.hysteresis_db if self._open else 0.0)
        if self._noise_db is None:
            self._noise_db = min(level_db, c.gate_db - c.noise_margin_db)  # a first note is none
        elif self._pitch is None:
            time_s = NOISE_RISE_S if level_db > self._noise_db else NOISE_FALL_S
            self._noise_db += (level_db - self._noise_db) * min(self._hop_s / time_s, 1.0)
        floor_db = max(min(self._recent) + c.attack_db, self._noise_db + c.noise_margin_db)
        risen = level_db >= max(floor_db, c.gate_db)
        self._attack_s = 0.0 if risen and not self._risen else self._attack_s + self._hop_s
        self._risen = risen
        self._pause_s -= self._hop_s
        self._recent.append(level_db)
        if self._attack_s < LEVEL_S and frame.brief_db is not None:
            level_db = max(level_db, frame.brief_db)
        return min(level_db, 0.0)

    def _take(self, events: Sequence[NoteEvent], ref: float) -> bool:
        """The tracker's note; whether it has ended."""
        early = self._pitch if self._note is None else None
        ended = False
        for event in events:
            if event.kind == "on":
                note = event.note + ref
                # a note that began on its first sure pitch goes on; any other begins now
                if early is None or abs(note - early) >= 1.0:
                    self._age_s = 0.0
                self._note, self._deviation, ended = note, event.cents / 100.0, False
            elif event.kind == "off":
                self._note, ended = None, True
                if self._attack_s > self.config.breath_s:  # else this is the next note's attack
                    self._attack_s = inf
        return ended

    def _choose_pitch(self, frame: FrameNotes, ended: bool) -> None:
        c, pitch = self.config, frame.pitch_midi
        voicing = 0.5 * (frame.periodicity + frame.confidence)
        before, self._guess = self._guess, pitch if voicing >= c.sure else None
        if self._note is not None:
            deviation = pitch - self._note
            if abs(deviation) <= c.follow_semitones:
                self._deviation = self._towards(self._deviation, deviation, c.full_step_semitones)
            self._pitch = self._note + self._deviation
        elif ended or not self._open:
            self._pitch = None
        elif self._pitch is not None:
            goes_on = voicing >= c.voiced and abs(pitch - self._pitch) <= c.follow_semitones
            self._pitch = pitch if goes_on else None
        elif (
            self._guess is not None
            and before is not None
            and abs(pitch - before) <= c.agree_semitones
            and 1.0 / float(midi_to_hz(pitch)) <= self._attack_s <= c.early_s
        ):
            self._pitch = pitch
            self._age_s = 0.0

    def _breathes(self) -> bool:
        """Whether an attack that has no pitch yet still sounds."""
        before, self._breathing = self._breathing, self._breath_left() > 0.0 >= self._pause_s
        if before and not self._breathing:
            self._pause_s = self.config.breath_pause_s
        return self._breathing

    def _breath_left(self) -> float:
        """1 at an attack, falling to 0 while no pitch comes."""
        left = 1.0 - self._attack_s / self.config.breath_s
        return left if left > 1e-6 else 0.0

    def _towards(self, old: float, new: float, full_step: float) -> float:
        """Follow a change: at once where it is large, by degrees where it is slight."""
        change = new - old
        return old + change * min(max(abs(change) / full_step, self.config.least_step), 1.0)
