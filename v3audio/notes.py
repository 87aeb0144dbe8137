"""Notes from what the model hears: a causal tracker for live use, a look-ahead decoder for files.

Both are pure: numbers in, notes out; no port, no clock, no torch. Both read the same observation,
one row per frame: level, onset strength, periodicity, fine pitch, confidence and a probability of
each MIDI note. `NoteTracker` sees one frame at a time and must commit within tens of milliseconds;
`decode_notes` sees the whole recording, so it may put a note where its attack stands rather than
where its pitch became certain.

Live, what to believe is learned (`v3audio.belief`); when to act on it is ruled here. A hearing that
gives the five numbers alone is followed by simpler rules, which wait longer.

Velocity (both): `velocity_from_level`, a fixed monotone map of the attack's level in dBFS.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from v3audio import belief, compiled, onsets
from v3audio.belief import NOTHING, REPEAT, NoteBelief, Sounding, note_named

FloatArray = NDArray[np.floating]

N_NOTES = 128
FIXED_VELOCITY = 100
OVERTONES = (12, 19, 24)  # semitones: what an attack sounds like before its fundamental
# How far a note may stand from what sounds before it is found: scoops, and overtones both ways.
FALSE_STARTS = (1, 2, 7, *OVERTONES, 28, 31)
MAINS_MIDI = (31.35, 34.51, 43.35, 46.51)  # 50, 60, 100, 120 Hz: what hum sounds like


@dataclass(frozen=True, slots=True)
class Note:
    """One note of a recording.

    Attributes:
        onset_s: where the attack stands, seconds from the start of the recording.
        offset_s: where the note ends, seconds; greater than `onset_s`.
        midi: rounded median pitch, 0..127 (69 = 440 Hz).
        cents: median deviation from `midi`, -50..50.
        velocity: 1..127, see `velocity_from_level`.
        confidence: 0..1, how sure the model was of this pitch, averaged over the note.
    """

    onset_s: float
    offset_s: float
    midi: int
    cents: float
    velocity: int
    confidence: float


@dataclass(frozen=True, slots=True)
class NoteEvent:
    """One event of a live performance.

    Attributes:
        kind: "on", "off", or "pitch" (the sounding note's cents have moved).
        sample: absolute input sample at the caller's rate at which the event was decided.
        note: MIDI note 0..127 of the "on" this event belongs to.
        velocity: 1..127 for "on" and "pitch", 0 for "off".
        cents: distance of the heard pitch from `note`; beyond +-50 while a bend or glide lasts.
        confidence: 0..1, of the frames that led to the event.
    """

    kind: Literal["on", "off", "pitch"]
    sample: int
    note: int
    velocity: int
    cents: float
    confidence: float


class FrameNotes(NamedTuple):
    """What was heard in one frame; see `v3audio.hearing.Heard`.

    The arrays need to last only until the next frame. Without the last three the live tracker hears
    less and waits longer.
    """

    level_db: float
    onset: float
    periodicity: float
    pitch_midi: float
    confidence: float
    note_probs: FloatArray | None = None
    position: FloatArray | None = None  # (P,) content distribution over positions
    views: FloatArray | None = None  # (3, F) long spectrum, short spectrum, periodicity
    brief_db: float | None = None  # dBFS RMS of the newest 5 ms


class HeardArrays(Protocol):
    """What `decode_notes` reads: one row per frame, as in `v3audio.hearing.Heard`."""

    @property
    def level_db(self) -> FloatArray:
        """(T,) dBFS."""

    @property
    def onset(self) -> FloatArray:
        """(T,) dB, 0 or more."""

    @property
    def periodicity(self) -> FloatArray:
        """(T,) 0..1."""

    @property
    def pitch_midi(self) -> FloatArray:
        """(T,) MIDI with fraction."""

    @property
    def confidence(self) -> FloatArray:
        """(T,) 0..1."""

    @property
    def note_probs(self) -> FloatArray:
        """(T, 128), rows sum to 1."""

    @property
    def traits(self) -> NDArray[np.uint8] | None:
        """(T, N) `v3audio.onsets.traits`; None, or zeros, where the hearing tells none."""


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """Every threshold of the tracker and the decoder; levels in dB(FS), times in ms unless named.

    The defaults were calibrated on real phrases, a singer and rendered melodies with noise and
    rooms, each moved both ways until it cost something; `gate_db` is the user's (`--gate`).
    """

    # -- The player's, live; moved while it plays.
    sensitivity: float = 0.5  # 0..1: how readily a note starts; 0.5 is the calibrated balance
    live_min_note_ms: float = 0.0  # a note-on is held back until its note has lasted this long
    # level: how loud the attack is; attack: how fast it rises; fixed: always 100.
    velocity: Literal["level", "attack", "fixed"] = "level"
    # Semitones by which the frames' `pitch_midi` lies below their arrays (another A than 440 Hz).
    tuning: float = 0.0

    # -- Both modes.
    # A note is over this far below its own peak: what follows is a tail.
    release_db: float = 28.0
    # Voicing = (periodicity + confidence) / 2. White noise stays under 0.64; pink noise
    # passes 0.6 in half of its frames, but those agree on no pitch.
    voiced_on: float = 0.6
    voiced_off: float = 0.4
    # Rumble (brown noise, wind) is heard at the lower edge of the model's range, with full voicing.
    lowest_midi: float = 21.5
    # The level of low notes ripples with their period: attacks are then read from its crest.
    ripple_below_midi: float = 36.0
    # Attack score (dB) = fall before + rise after + onset strength above its usual value, capped at
    # 8, 20 and 8. In real phrases 97 % of repeated notes reach 11 and 4 % of places inside notes;
    # singers' consonants and swells reach more, hence 14.
    attack_score_db: float = 14.0
    attack_rise_db: float = 2.5  # of which the rise must be
    min_gap_ms: float = 80.0  # between two attacks of one pitch

    # -- Live: the gate. Absolute, as on the control surface, and above what the room itself makes.
    gate_db: float = -50.0
    gate_hysteresis_db: float = 6.0  # how far below the gate a sounding note may fall
    noise_margin_db: float = 8.0  # above the noise floor, which is followed between notes only
    noise_rise_ms: float = 500.0  # how slowly the floor rises: a soft entry must not lift it
    hum_margin_db: float = 12.0  # 50/60 Hz and their octaves need this much more level
    trough_rise_db: float = 4.0  # after an off: how much louder before the same pitch may return
    # A consonant or a breath shorter than this does not end a note.
    unvoiced_hold_ms: float = 50.0

    # -- Live: when a belief becomes a note. The frame that decides must be so sure, and the frames
    # before, each in proportion to the log odds it gives, must add up to some ms and periods.
    believe: float = 0.9
    believe_again: float = 0.69  # for the same note again
    believe_odds: float = 2.5  # log odds of a frame that counts in full
    believe_most: float = 5.5  # and the highest that are believed
    believe_fades: float = 1.5  # a frame that names nothing takes so much of its time away
    believe_ms: float = 8.0
    believe_periods: float = 0.2
    # Periods more for a change so soon after a note-on.
    soon_periods: float = 0.5
    soon_ms: float = 125.0
    # The next semitone is another note once the pitch stands so far from the sounding one: a note
    # out of tune may be called by either name, but not by one after the other.
    next_semitones: float = 0.65
    # A note held so long rather drifts there than gives way: so much of the neighbour's chance
    # counts only if a note began since.
    held_ms: float = 200.0
    held_drifts: float = 0.25
    # A note that another replaced within `false_start_ms` was a false start, as when a reed first
    # speaks an octave up. It may do so again: next time that note waits for as long as it lasted.
    false_start_ms: float = 100.0
    false_start_more_ms: float = 2.5

    # -- Live, from the numbers alone: when to trust a pitch, in ms of trusted frames.
    # Voicing that earns full trust; none below `voiced_off`, linear between. Right first frames
    # stand at 0.95 and above, half of the octave slips under 0.8: doubt costs time, not notes.
    trusted: float = 1.0
    confirm_ms: float = 15.0
    confirm_periods: float = 1.5  # low notes need this many periods more
    change_ms: float = 25.0  # another note while one sounds
    # A pitch that moves more than this in 10 ms, or stands this far from any note, gets some
    # patience: a third of the wrong names were attacks that had not arrived yet.
    start_moved: float = 0.25
    start_between: float = 0.35
    start_patience_ms: float = 15.0
    bend_semitones: float = 0.8  # nearer than this to the sounding note is a bend, not a change
    # A step of about a semitone without an attack: the pitch must stand still for this long. Half a
    # vibrato cycle of 6 Hz (83 ms) moves by more than `settle_semitones`, so vibrato is no step.
    step_ms: float = 80.0
    settle_semitones: float = 0.4
    settle_ms: float = 25.0  # a leap or glide has arrived when it moves less than this in this time
    # After an attack the pitch may still turn out new for this long, plus `confirm_periods`.
    retrigger_wait_ms: float = 30.0

    # -- Files: the gate follows the recording, so that a quiet take is read like a loud one.
    file_gate_db: float = -70.0  # nothing below this is music, whatever the recording's level
    file_range_db: float = 42.0  # below the loud frames (95th percentile)
    hum_max_db: float = -35.0  # a louder steady tone at a mains frequency is meant

    # -- Files: the edge of the range. Below `lowest_midi` a note must hold its pitch: the median
    # distance from the median of 400 ms, semitones.
    file_lowest_midi: float = 20.5
    rumble_wander: float = 0.1

    # -- Files: which note sounds. Evidence in nats per 10 ms.
    prob_mix: float = 0.15  # weight of note_probs against what is learned
    evidence_floor: float = 0.15  # a frame may speak against a note by a factor of 7 at most
    voiced_gain: float = 2.0  # for sound against silence when that is plain...
    plain_odds: float = 4.0  # ...at these log odds (`v3audio.onsets`)
    switch_nats: float = 12.0  # price of a change of note...
    onset_eases: float = 0.9  # ...of which a sure onset or end takes this share off
    # A shorter piece, at once followed by a longer one, was an unsure attack; reeds may speak an
    # octave up for longer, low strings for so many periods more.
    flicker_ms: float = 70.0
    octave_flicker_ms: float = 150.0
    flicker_periods: float = 4.0
    glide_ms: float = 110.0  # a shorter piece whose pitch moves through is part of a glide
    # A piece shorter than this that never rests (range of its middle 70 %) or passes slowly into a
    # longer neighbour this near is that one's scoop or fall.
    scoop_ms: float = 110.0
    scoop_semitones: float = 4.0
    scoop_range: float = 0.35
    # Neighbours whose medians differ by less are one note: halves of a wavering pitch. Halves of a
    # vibrato cycle differ by up to 0.85 but last under `vibrato_half_ms`.
    drift_semitones: float = 0.75
    vibrato_semitones: float = 0.95
    vibrato_half_ms: float = 140.0
    min_note_ms: float = 70.0

    # -- Files: where it begins. Chance of an onset (`v3audio.onsets`) from which on a held pitch is
    # a repeated note, and a new pitch began there. The pitch becomes certain up to `lookback_ms`
    # (plus so many periods) after the onset; without one, typically `legato_delay_ms` after it.
    repeat_chance: float = 0.5
    # An attack at least so much softer than its note's, before which the level fell by less than
    # this, is an echo. Played repeats fall by 7 to 30 dB, few of the softer ones by under 4.
    echo_softer_db: float = 2.0
    echo_fall_db: float = 2.5
    onset_chance: float = 0.2
    lookback_ms: float = 90.0
    lookback_periods: float = 4.0
    legato_delay_ms: float = 20.0
    attack_window_ms: float = 120.0  # in which the velocity is read


def velocity_from_level(level_db: float) -> int:
    """MIDI velocity of an attack: linear from -60 dBFS (1) to -6 dBFS (127), clamped.

    Args:
        level_db: highest level of the attack, dBFS RMS over 20 ms.
    """
    return int(min(max(round(1.0 + 126.0 * (level_db + 60.0) / 54.0), 1), 127))


def velocity_from_rise(rise_db: float) -> int:
    """MIDI velocity of an attack: linear from 0 (1) to 40 dB (127) in 20 ms, clamped.

    Args:
        rise_db: the steepest rise of the attack's level, dB in 20 ms.
    """
    return int(min(max(round(1.0 + 126.0 * rise_db / 40.0), 1), 127))


def _period_ms(midi: float) -> float:
    return 1000.0 / (440.0 * math.exp2((midi - 69.0) / 12.0))


def _is_mains(midi: float) -> bool:
    return midi < MAINS_MIDI[-1] + 0.2 and any(abs(midi - m) < 0.2 for m in MAINS_MIDI)


class NoteTracker:
    """Live notes, one frame at a time: causal, deterministic, no clock.

    Feed frames in order; `step` returns the events that this frame decides, note-off before
    note-on. After the last frame, or on panic, `release` ends what sounds. `config` may be replaced
    between frames (a new gate); `settle_ms` and `step_ms` are read at the start only.
    """

    def __init__(
        self,
        config: TrackerConfig | None = None,
        hop_s: float = 0.005,
        learned: NoteBelief | None = None,
    ) -> None:
        """Start silent.

        Args:
            config: thresholds; the calibrated defaults if None.
            hop_s: seconds between frames, greater than 0.
            learned: replaces the shipped belief.
        """
        if not hop_s > 0:
            raise ValueError(f"hop_s = {hop_s}: wanted seconds between frames, greater than 0")
        self.config = config if config is not None else TrackerConfig()
        self._hop_ms = 1000.0 * hop_s
        self._n_recent = max(2, round(70.0 / self._hop_ms))
        self._n_ripple = max(1, round(40.0 / self._hop_ms))
        self._n_settle = max(2, round(self.config.settle_ms / self._hop_ms))
        self._n_step = max(self._n_settle, 3, round(self.config.step_ms / self._hop_ms))
        self._belief = learned
        if learned is None and abs(hop_s - belief.HOP_S) < 1e-6:
            self._belief = NoteBelief()
        self.reset()

    def reset(self) -> None:
        """Forget everything, as at the start. Emits nothing: `release` ends a note that sounds."""
        self._note = -1
        self._velocity = 0
        self._cents = 0.0
        self._peak_db = -120.0
        self._age_ms = 0.0
        self._unvoiced_ms = 0.0
        self._noise_db = -120.0
        self._trough_db = -120.0
        self._last_pitch = -1000.0
        self._onset_usual = 0.0
        self._rival = 0.0
        self._rival_ms = 0.0
        self._rival_confidence = 0.0
        self._pending_ms = -1.0
        self._levels = [-120.0] * (2 * self._n_recent)
        self._held = list(self._levels)
        self._pitches = [-1000.0] * self._n_step
        self._frames = 1000  # since the last note-on or note-off
        self._rival_note = -1
        self._false_starts: dict[int, float] = {}  # note: how long it may pass for one, ms
        self._held_on: NoteEvent | None = None
        self._held_ms = 0.0
        if self._belief is not None:
            self._belief.reset()

    @property
    def note(self) -> int | None:
        """The sounding MIDI note, or None."""
        return self._note if self._note >= 0 and self._held_on is None else None

    def release(self, sample: int) -> list[NoteEvent]:
        """End the sounding note, if any (end of input, panic, bypass)."""
        return self._keep_short_back([self._off(sample)], sample) if self._note >= 0 else []

    def step(self, frame: FrameNotes, sample: int) -> list[NoteEvent]:
        """Hear one frame.

        Args:
            frame: the observation; non-finite values are read as silence.
            sample: absolute input sample at which this frame takes effect.

        Returns:
            The events of this frame: at most off, on, or one pitch event.
        """
        level, onset, pitch = frame.level_db, frame.onset, frame.pitch_midi
        voicing = 0.5 * (frame.periodicity + min(frame.confidence, 1.0))
        if not (
            math.isfinite(level)
            and math.isfinite(onset)
            and math.isfinite(pitch)
            and voicing == voicing
        ):
            level, onset, pitch, voicing = -120.0, 0.0, -1000.0, 0.0
        if pitch < self.config.lowest_midi:
            voicing = 0.0
        levels = self._levels
        levels.append(level)
        del levels[0]
        held = self._held
        held.append(max(levels[-self._n_ripple :]))
        del held[0]
        pitches = self._pitches
        pitches.append(pitch)
        del pitches[0]
        excess = onset - self._onset_usual
        self._onset_usual += (min(onset, self._onset_usual + 2.0) - self._onset_usual) * (
            self._hop_ms / 500.0
        )

        self._frames += 1
        if self._note < 0:
            self._trough_db = min(self._trough_db, level)
            rate = self._hop_ms / (self.config.noise_rise_ms if level > self._noise_db else 50.0)
            self._noise_db += (level - self._noise_db) * min(rate, 1.0)
        else:
            self._age_ms += self._hop_ms
            self._peak_db = max(self._peak_db, level)
            self._noise_db = min(self._noise_db, level)
        if (
            self._belief is not None
            and frame.position is not None
            and frame.views is not None
            and frame.brief_db is not None
            and pitch > -1000.0
        ):
            attack_db = self._attack_score(excess, pitch)
            self._belief.hear(
                frame.position,
                frame.views,
                pitch,
                self.config.tuning,
                (level, frame.brief_db, onset, frame.periodicity, frame.confidence),
                attack_db,
            )
            events = self._weigh(level, pitch, voicing, frame.confidence, attack_db, sample)
        elif self._note < 0:
            events = self._try_start(level, pitch, voicing, frame.confidence, sample)
        else:
            events = self._follow(level, pitch, voicing, frame.confidence, excess, sample)
        return self._keep_short_back(events, sample)

    def _keep_short_back(self, events: list[NoteEvent], sample: int) -> list[NoteEvent]:
        """Hold each note-on back until its note has lasted `live_min_note_ms`."""
        shortest = self.config.live_min_note_ms
        if shortest <= 0.0 and self._held_on is None:
            return events
        passed: list[NoteEvent] = []
        self._held_ms += self._hop_ms
        for event in events:
            if event.kind == "on":
                self._held_on, self._held_ms = event, 0.0
            elif self._held_on is None:
                passed.append(event)
            elif event.kind == "off":
                self._held_on = None
            else:
                self._held_on = replace(self._held_on, cents=event.cents)
        if self._held_on is not None and self._held_ms >= shortest:
            passed.append(replace(self._held_on, sample=sample))
            self._held_on = None
        return passed

    def _patience(self) -> float:
        """By how much `sensitivity` stretches what a note-on waits for: 2 at 0, 1/2 at 1."""
        return math.exp2(1.0 - 2.0 * self.config.sensitivity)

    def _weigh(
        self,
        level: float,
        pitch: float,
        voicing: float,
        confidence: float,
        attack_db: float,
        sample: int,
    ) -> list[NoteEvent]:
        """Act on what the learned belief says is due."""
        assert self._belief is not None
        c, hop, note = self.config, self._hop_ms, self._note
        if note >= 0 and self._has_ended(level, pitch, voicing):
            return [self._off(sample)]
        if note < 0 and level < self._gate(pitch):
            self._rival_ms = 0.0
            return []
        steady = abs(pitch - note) < 0.5 and attack_db <= 0.0 and voicing >= c.voiced_on
        if note >= 0 and steady:  # the belief would be asked in vain
            self._rival_ms = max(self._rival_ms - hop, 0.0)
            return self._bend(pitch, confidence, sample)
        drifts = c.held_drifts if self._age_ms >= c.held_ms else 0.0
        chances = self._belief.probabilities(Sounding(note, self._frames, drifts))
        named, sure = -1, 0.0
        for kind in range(NOTHING):
            if chances[kind] > sure:
                candidate = note if kind == REPEAT else note_named(kind, pitch)
                new = candidate != note
                new &= abs(candidate - note) > 1 or abs(pitch - note) >= c.next_semitones
                if c.lowest_midi < candidate < N_NOTES and (new or kind == REPEAT):
                    named, sure = candidate, chances[kind]
        if sure > 0.5:
            odds = min(math.log(sure / max(1.0 - sure, 1e-9)), c.believe_most)
            before_ms = self._rival_ms if named == self._rival_note else 0.0
            self._rival_ms, self._rival_note = before_ms + hop * odds / c.believe_odds, named
        else:
            self._rival_ms = max(self._rival_ms - c.believe_fades * hop, 0.0)
        least_sure = c.believe_again if named == note else c.believe
        least_sure += 0.1 * (0.5 - c.sensitivity)
        needed_ms = self._patience() * self._evidence_needed(named)
        is_tail = note < 0 and level < self._trough_db + c.trough_rise_db
        is_tail &= abs(named - self._last_pitch) < c.bend_semitones
        if sure >= least_sure and self._rival_ms >= needed_ms and not is_tail:
            return self._begin(named, pitch, confidence, sample)
        return self._bend(pitch, confidence, sample) if note >= 0 else []

    def _evidence_needed(self, note: int) -> float:
        """How many ms of belief make this note a note-on."""
        c = self.config
        more_ms, periods = c.believe_ms, c.believe_periods
        if note != self._note:
            more_ms += self._false_starts.get(note, 0.0)
            if self._note >= 0 and self._age_ms < c.soon_ms:
                periods += c.soon_periods
        return more_ms + periods * _period_ms(note)

    def _begin(self, note: int, pitch: float, confidence: float, sample: int) -> list[NoteEvent]:
        """The events that make `note` sound."""
        before, c = self._note, self.config
        brief = before >= 0 and self._age_ms < c.false_start_ms
        if brief and abs(note - before) in FALSE_STARTS:
            self._false_starts[before] = self._age_ms + c.false_start_more_ms
        if note != before:
            self._false_starts.pop(note, None)  # it stood the test, or is new
        ended = [self._off(sample)] if before >= 0 else []
        self._rival, self._rival_confidence = pitch, confidence
        return [*ended, self._on(sample, note)]

    def _bend(self, pitch: float, confidence: float, sample: int) -> list[NoteEvent]:
        """Tell how far the sounding note's pitch has moved, if it has."""
        cents = 100.0 * (pitch - self._note)
        if abs(pitch - self._note) > self.config.bend_semitones or abs(cents - self._cents) < 1.0:
            return []
        self._cents = cents
        return [NoteEvent("pitch", sample, self._note, self._velocity, cents, confidence)]

    def _has_ended(self, level: float, pitch: float, voicing: float) -> bool:
        """Whether the sounding note is over: below the gate, faded, or no pitch for a while."""
        c = self.config
        self._unvoiced_ms = self._unvoiced_ms + self._hop_ms if voicing < c.voiced_off else 0.0
        newest = max(self._levels[-max(2, self._n_recent // 3) :])  # over the ripple of low notes
        return (
            newest < self._gate(pitch) - c.gate_hysteresis_db
            or newest < self._peak_db - c.release_db
            or self._unvoiced_ms >= c.unvoiced_hold_ms
        )

    def _gate(self, pitch: float) -> float:
        c = self.config
        gate = max(c.gate_db, self._noise_db + c.noise_margin_db)
        return gate + c.hum_margin_db if _is_mains(pitch) else gate

    def _gather(self, pitch: float, voicing: float, confidence: float) -> None:
        """Add this frame to the evidence for the pitch it names; another pitch starts anew."""
        c = self.config
        trust = (voicing - c.voiced_off) / (c.trusted - c.voiced_off)
        weight = self._hop_ms * min(max(trust, 0.0), 1.0)
        if self._rival_ms > 0.0 and abs(pitch - self._rival) <= 0.5:
            self._rival_ms += weight
            self._rival += 0.15 * (pitch - self._rival)
            self._rival_confidence += 0.4 * (confidence - self._rival_confidence)
        elif weight > 0.0:
            self._rival, self._rival_ms, self._rival_confidence = pitch, weight, confidence
        else:
            self._rival_ms = max(self._rival_ms - self._hop_ms, 0.0)

    def _try_start(
        self, level: float, pitch: float, voicing: float, confidence: float, sample: int
    ) -> list[NoteEvent]:
        c = self.config
        if level < self._gate(pitch):
            self._rival_ms = 0.0
            return []
        self._gather(pitch, voicing, confidence)
        need = c.confirm_ms + c.confirm_periods * _period_ms(max(self._rival, 20.0))
        if abs(self._rival - self._last_pitch) < c.bend_semitones:
            if level < self._trough_db + c.trough_rise_db:
                return []  # the tail of the note that has just ended
        elif level < self._trough_db + c.trough_rise_db:
            need += c.step_ms
        need *= self._patience()
        if self._rival_ms < need or voicing < c.voiced_on:
            return []
        # A pitch that still moves, or that stands between two notes, gets a little more time.
        off_note = abs(pitch - round(pitch))
        moved = abs(pitch - self._pitches[-3])
        if (moved > c.start_moved or off_note > c.start_between) and (
            self._rival_ms < need + c.start_patience_ms
        ):
            return []
        return [self._on(sample)]

    def _follow(
        self,
        level: float,
        pitch: float,
        voicing: float,
        confidence: float,
        excess: float,
        sample: int,
    ) -> list[NoteEvent]:
        c, hop = self.config, self._hop_ms
        if self._has_ended(level, pitch, voicing):
            return [self._off(sample)]

        if self._pending_ms >= 0.0:
            self._pending_ms += hop
        elif self._age_ms >= c.min_gap_ms and (
            self._attack_score(excess, self._note) >= c.attack_score_db
        ):
            self._pending_ms = 0.0

        off_centre = abs(pitch - self._note)
        if off_centre > c.bend_semitones and voicing >= c.voiced_off:
            self._gather(pitch, voicing, confidence)
            leap = abs(self._rival - self._note) > 1.5
            attacked = self._pending_ms >= 0.0
            if (
                not (leap or attacked)
                and max(self._pitches) - min(self._pitches) > c.settle_semitones
            ):
                return []
            need = c.change_ms + c.confirm_periods * _period_ms(max(self._rival, 20.0))
            need *= self._patience()
            moved = abs(pitch - self._pitches[-self._n_settle])
            settled = attacked or moved <= c.settle_semitones
            if self._rival_ms >= need and (settled or self._rival_ms >= 2.5 * need):
                return [self._off(sample), self._on(sample)]
            return []
        self._rival_ms = max(self._rival_ms - 2.0 * hop, 0.0)
        if (
            self._pending_ms >= c.retrigger_wait_ms + c.confirm_periods * _period_ms(self._note)
            and voicing >= c.voiced_on
        ):
            self._rival, self._rival_confidence = pitch, confidence
            return [self._off(sample), self._on(sample)]
        if self._pending_ms > 150.0:
            self._pending_ms = -1.0
        return self._bend(pitch, confidence, sample)

    def _attack_score(self, excess: float, pitch: float) -> float:
        """How much the last 140 ms look like an attack, dB, as `TrackerConfig.attack_score_db`."""
        levels = self._held if pitch < self.config.ripple_below_midi else self._levels
        recent = levels[-self._n_recent :]
        low = min(recent)
        rise = levels[-1] - low
        if rise < self.config.attack_rise_db:
            return 0.0
        at = len(levels) - self._n_recent + recent.index(low)
        fall = max(levels[max(0, at - self._n_recent) : at + 1]) - low
        return min(fall, 8.0) + min(rise, 20.0) + min(max(excess, 0.0), 8.0)

    def _on(self, sample: int, note: int | None = None) -> NoteEvent:
        """Begin a note; without `note`, the one nearest to the pitch that was gathered."""
        pitch = sorted(self._pitches[-3:])[1]
        if abs(pitch - self._rival) > 0.5:
            pitch = self._rival
        if note is None:
            note = min(max(round(pitch), 0), N_NOTES - 1)
        self._note = note
        apart = pitch - note
        self._cents = 100.0 * apart if abs(apart) <= 1.0 else 0.0  # named from an overtone
        self._peak_db = self._levels[-1]
        self._velocity = self._new_velocity()
        self._age_ms = self._unvoiced_ms = self._rival_ms = 0.0
        self._rival_note, self._pending_ms, self._frames = -1, -1.0, 0
        confidence = min(max(self._rival_confidence, 0.0), 1.0)
        return NoteEvent("on", sample, note, self._velocity, self._cents, confidence)

    def _new_velocity(self) -> int:
        kind, levels = self.config.velocity, self._levels
        if kind == "fixed":
            return FIXED_VELOCITY
        if kind == "attack":
            n = max(1, round(20.0 / self._hop_ms))
            return velocity_from_rise(
                max(now - before for before, now in zip(levels[:-n], levels[n:], strict=True))
            )
        return velocity_from_level(max(levels[-max(1, self._n_recent // 2) :]))

    def _off(self, sample: int) -> NoteEvent:
        event = NoteEvent("off", sample, self._note, 0, self._cents, 0.0)
        self._last_pitch = self._note + self._cents / 100.0
        self._note, self._frames = -1, 0
        self._rival_ms, self._rival_note = 0.0, -1
        self._trough_db = self._levels[-1]
        self._pending_ms = -1.0
        return event


# -- files --------------------------------------------------------------------------------------


class _Attack(NamedTuple):
    """A place that looks like an onset: `frame` where it stands, `chance` how likely it is one."""

    frame: int
    chance: float


def decode_notes(
    heard: HeardArrays, hop_s: float, config: TrackerConfig | None = None
) -> list[Note]:
    """Notes of a whole recording, with look-ahead.

    What is learned (`v3audio.onsets`) says in which frames a note begins, and in which one sounds.
    A Viterbi path over the 128 notes and silence says which note sounds when; changing costs
    evidence, which removes octave flicker and vibrato. Onsets then split repeated notes and say
    where the others began; scoops, falls and glides go to the notes they lead to or from.

    Args:
        heard: T frames, frame k ending at (k + 1) * hop_s. Non-finite values are read as silence.
        hop_s: seconds between frames, greater than 0.
        config: thresholds; the calibrated defaults if None.

    Returns:
        Notes in order of onset that do not overlap.
    """
    if not hop_s > 0:
        raise ValueError(f"hop_s = {hop_s}: wanted seconds between frames, greater than 0")
    c = config if config is not None else TrackerConfig()
    level = np.nan_to_num(
        np.asarray(heard.level_db, dtype=np.float64), nan=-120.0, posinf=-120.0, neginf=-120.0
    )
    n_frames = len(level)
    if n_frames < 3:
        return []
    onset = np.nan_to_num(np.asarray(heard.onset, dtype=np.float64))
    pitch = np.nan_to_num(np.asarray(heard.pitch_midi, dtype=np.float64))
    confidence = np.clip(np.nan_to_num(np.asarray(heard.confidence, dtype=np.float64)), 0.0, 1.0)
    periodicity = np.clip(np.nan_to_num(np.asarray(heard.periodicity, dtype=np.float64)), 0.0, 1.0)

    def frames(ms: float) -> int:
        return max(1, round(ms / (1000.0 * hop_s)))

    held = _max_back(level, frames(20.0))  # holds over the ripple of low notes
    gate_db = file_gate_db(level, c)
    note_probs = np.nan_to_num(np.asarray(heard.note_probs, np.float32))
    cues = onsets.Cues(level, onset, periodicity, pitch, confidence, note_probs, heard.traits)
    begins, chance, ends, sounds, which = onsets.hear(cues, gate_db, hop_s)
    sounds[_rumbles(pitch, frames, c)] = -c.plain_odds
    changes = np.maximum(chance, ends)
    path = _note_path(note_probs, pitch, which, sounds, changes, held - gate_db, hop_s, c)
    begins[chance < c.onset_chance] = 0.0
    attacks = [_Attack(k, float(chance[k])) for k in _peaks(begins, frames(50.0), 1e-3)]
    pieces = _split_repeats(_pieces(path), attacks, level, frames, c)
    folded = pitch - 12.0 * np.round((pitch - path) / 12.0)  # an octave slip still tells the cents
    fine = np.where((path < N_NOTES) & (np.abs(folded - path) < 1.5), folded, np.nan)
    pieces = _dissolve_glides(pieces, fine, attacks, frames, c)
    pieces = _absorb_scoops(pieces, fine, attacks, frames, c)
    pieces = _join_vibrato(pieces, fine, attacks, frames, c)
    pieces = _drop_flicker(pieces, frames, c)
    return _to_notes(pieces, level, held, gate_db, fine, confidence, attacks, frames, hop_s, c)


def _rumbles(pitch: FloatArray, frames: _Frames, c: TrackerConfig) -> NDArray[np.bool_]:
    """Frames at the lower edge of the model's range that agree on no pitch: wind, brown noise."""
    low = np.asarray(pitch < c.lowest_midi)
    if not low.any():
        return low
    n = frames(400.0)
    apart, rows = np.zeros_like(pitch), np.flatnonzero(low)
    around = np.convolve(low, np.ones(2 * n + 1))[n:-n]
    near = np.flatnonzero(around)  # what their medians are of, and more
    apart[near] = np.abs(pitch[near] - _median_around(pitch, n, near))
    rumbles = np.asarray(pitch < c.file_lowest_midi)
    rumbles[rows] |= _median_around(apart, n, rows) > c.rumble_wander
    return rumbles


def _max_back(x: FloatArray, n: int) -> FloatArray:
    """y[t] = max(x[t-n+1 .. t])."""
    y = x.copy()
    for k in range(1, min(n, len(x))):
        np.maximum(y[k:], x[:-k], out=y[k:])
    return y


def _max_ahead(x: FloatArray, n: int) -> FloatArray:
    """y[t] = max(x[t .. t+n-1])."""
    return _max_back(x[::-1], n)[::-1]


def _median_around(x: FloatArray, n: int, rows: NDArray[np.intp]) -> FloatArray:
    """The median of the n (made odd) values around x[rows]; beyond the ends they turn back."""
    padded = np.pad(x, n // 2, mode="reflect")
    return np.asarray(np.median(sliding_window_view(padded, n // 2 * 2 + 1)[rows], axis=1))


def file_gate_db(level: FloatArray, c: TrackerConfig) -> float:
    """Level below which this recording is silent, from its own loud and quiet frames, dBFS."""
    quiet, loud = np.percentile(level, [8.0, 95.0])
    # A recording without rests has no quiet frames: then "quiet" would be the music itself.
    noise = min(quiet, loud - 35.0)
    return float(max(c.file_gate_db, noise + c.noise_margin_db, loud - c.file_range_db))


def _note_path(
    note_probs: FloatArray,
    pitch: FloatArray,
    which: FloatArray,
    sounds: FloatArray,
    changes: FloatArray,
    above_gate_db: FloatArray,
    hop_s: float,
    c: TrackerConfig,
) -> NDArray[np.int64]:
    """Most likely note of each frame (128 = silence), by Viterbi.

    A change costs less where a note is likely to begin or end, and in one frame the same whatever
    changes, so that the step is O(states): stay, or come from the best state and pay.
    """
    n_frames = len(pitch)
    sounding = np.minimum(
        np.clip(sounds / c.plain_odds, -1.0, 1.0),
        np.clip(above_gate_db / 3.0, -1.0, 1.0),
    )
    path = np.full(n_frames, N_NOTES, dtype=np.int64)
    if not (sounding > 0.0).any():
        return path
    # Only the range in which something sounds: a voice spans a few octaves of the eleven.
    could_be = onsets.candidates(pitch, hop_s)
    sure = (which[:, :-1] > 0.1) & (sounding > 0.0)[:, None]
    spans = could_be[sure] if sure.any() else pitch[sounding > 0.0]
    low = int(np.clip(np.floor(spans.min()) - 1, 0, N_NOTES - 1))
    high = int(np.clip(np.ceil(spans.max()) + 2, low + 1, N_NOTES))
    evidence = np.zeros((n_frames, high - low + 1), np.float32)  # in place: memory is what it costs
    mixed = evidence[:, :-1]
    # A pitch between two notes speaks for both.
    below = np.floor(could_be)
    share = could_be - below
    at = below.astype(np.intp) - low
    of_frame = np.arange(n_frames)[:, None] * evidence.shape[1]
    for k, part in ((at, 1.0 - share), (at + 1, share)):
        inside = (k >= 0) & (k < high - low)
        mixed += np.bincount(
            (of_frame + k)[inside], (part * which[:, :-1])[inside], evidence.size
        ).reshape(evidence.shape)[:, :-1]
    mixed += (which[:, -1:] + c.prob_mix) * note_probs[:, low:high]
    mixed /= mixed.max(1, keepdims=True) + 1e-9
    np.maximum(mixed, c.evidence_floor, out=mixed)
    np.log(mixed, out=mixed)
    mixed += c.voiced_gain * sounding[:, None].astype(np.float32)
    evidence *= hop_s / 0.01  # so that the hop does not change the balance with the price
    # The pitch turns up to some time after the onset.
    eased = _max_ahead(_max_back(changes, round(0.06 / hop_s)), round(0.02 / hop_s))
    price = c.switch_nats * (1.0 - c.onset_eases * eased)
    path = _dearest_path(evidence, price.astype(np.float32))
    silent = path == high - low
    path += low
    path[silent] = N_NOTES
    return path


def _dearest_path(evidence: NDArray[np.float32], price: NDArray[np.float32]) -> NDArray[np.int64]:
    """The states (T,) whose evidence (T, S), less the price (T,) of a change, adds up to most."""
    n_frames, n_states = evidence.shape
    score = evidence[0].astype(np.float64)
    stay = np.zeros(evidence.shape, dtype=bool)
    path = np.zeros(n_frames, dtype=np.int64)  # while going forth: where a change comes from
    if run := compiled.bind("dearest_path", n_frames, n_states, evidence, price, score, stay, path):
        run()
        return path
    for t in range(1, n_frames):
        path[t] = top = score.argmax()
        arrive = score[top] - price[t]
        np.greater_equal(score, arrive, out=stay[t])
        np.maximum(score, arrive, out=score)
        score += evidence[t]
    state = score.argmax()
    for t in range(n_frames - 1, 0, -1):
        path[t], state = state, state if stay[t, state] else path[t]
    path[0] = state
    return path


_Piece = tuple[int, int, int]  # first frame, frame after the last, note (128 = silence)
_Frames = Callable[[float], int]  # ms -> frames, at least 1


def _pieces(path: NDArray[np.int64]) -> list[_Piece]:
    edges = [0, *(int(k) + 1 for k in np.flatnonzero(np.diff(path))), len(path)]
    return [(a, b, int(path[a])) for a, b in pairwise(edges)]


def _peaks(x: FloatArray, near: int, least: float) -> list[int]:
    """Where x is at least `least` and nothing so near is greater; the first of a plateau."""
    top = (x >= least) & (x >= _max_back(x, near)) & (x >= _max_ahead(x, near))
    found: list[int] = []
    for peak in np.flatnonzero(top):
        if not found or peak - found[-1] > near:
            found.append(int(peak))
    return found


def _lookback_ms(note: int, c: TrackerConfig) -> float:
    """The longest time by which the pitch of a note becomes certain after its attack, ms."""
    return c.lookback_ms + c.lookback_periods * _period_ms(note)


def _split_repeats(
    pieces: list[_Piece],
    attacks: list[_Attack],
    level: FloatArray,
    frames: _Frames,
    c: TrackerConfig,
) -> list[_Piece]:
    """Cut a piece at clear attacks, except near its end: there the next note's attack stands."""
    gap = frames(c.min_gap_ms)
    split: list[_Piece] = []
    for i, (start, end, note) in enumerate(pieces):
        if note < N_NOTES:
            following = pieces[i + 1][2] if i + 1 < len(pieces) else N_NOTES
            tail = gap if following == N_NOTES else max(gap, frames(_lookback_ms(following, c)))
            for at, chance in _between(attacks, start + gap, end - tail - 1):
                clear = chance >= c.repeat_chance and at >= start + gap
                if clear and not _is_echo(level, start, at, frames, c):
                    split.append((start, at, note))
                    start = at
        split.append((start, end, note))
    return split


def _is_echo(level: FloatArray, start: int, at: int, frames: _Frames, c: TrackerConfig) -> bool:
    """Whether an attack is softer than the note's own and came over its unbroken sound: a delay's.

    A finger, a bow or a tongue that begins a note anew lets the level fall for a moment first.
    """
    softer = level[start : start + frames(120.0)].max() - level[at : at + frames(100.0)].max()
    middle = max(start, at - frames(60.0))
    before = level[max(start, at - frames(120.0)) : middle + 1].max()
    fall = before - level[middle : at + frames(30.0)].min()
    return bool(softer >= c.echo_softer_db and fall < c.echo_fall_db)


def _median_pitch(fine: FloatArray, piece: _Piece) -> float:
    values = fine[piece[0] : piece[1]]
    values = np.sort(values[np.isfinite(values)])  # numpy's median takes five times as long
    n = len(values)
    return float(values[(n - 1) // 2] + values[n // 2]) / 2 if n else float(piece[2])


def _between(attacks: list[_Attack], first: int, last: int) -> list[_Attack]:
    """Those in frames first..last."""
    start = bisect_left(attacks, _Attack(first, 0.0))
    return attacks[start : bisect_left(attacks, _Attack(last + 1, 0.0))]


def _attacked(
    attacks: list[_Attack], before: _Piece, edge: int, frames: _Frames, c: TrackerConfig
) -> bool:
    """Whether the change of pitch at `edge` came with an attack after that of the piece before."""
    first, last = max(edge - frames(100.0), before[0] + frames(20.0)), edge + frames(20.0)
    return any(k.chance >= c.repeat_chance for k in _between(attacks, first, last))


def _dissolve_glides(
    pieces: list[_Piece],
    fine: FloatArray,
    attacks: list[_Attack],
    frames: _Frames,
    c: TrackerConfig,
) -> list[_Piece]:
    """Give the pieces that a glide passes through to the notes at its ends, half to each."""
    kept: list[_Piece] = []
    i = 0
    while i < len(pieces):
        j = i
        while (
            0 < j < len(pieces) - 1
            and kept
            and N_NOTES not in (kept[-1][2], pieces[j][2], pieces[j + 1][2])
            and pieces[j][1] - pieces[j][0] < frames(c.glide_ms)
            and (pieces[j][2] - pieces[j - 1][2]) * (pieces[j + 1][2] - pieces[j][2]) > 0
            and not _attacked(attacks, pieces[j - 1], pieces[j][0], frames, c)
            and _travel(fine, pieces[j]) > 0.5
        ):
            j += 1
        if j > i:
            start, _, note = kept.pop()
            middle = (pieces[i][0] + pieces[j][0]) // 2
            kept.append((start, middle, note))
            kept.append((middle, pieces[j][1], pieces[j][2]))
        else:
            kept.append(pieces[i])
        i = j + 1
    return kept


def _travel(fine: FloatArray, piece: _Piece) -> float:
    """How far the pitch moves from the start of a piece to its end, semitones."""
    values = fine[piece[0] : piece[1]]
    values = values[np.isfinite(values)]
    return abs(float(values[-1] - values[0])) if len(values) else 0.0


def _absorb_scoops(
    pieces: list[_Piece],
    fine: FloatArray,
    attacks: list[_Attack],
    frames: _Frames,
    c: TrackerConfig,
) -> list[_Piece]:
    """Give a short piece to the longer neighbour that it leads to or falls from without an attack.

    A scoop or a fall never rests. In a tail the fundamental may be lost, and an octave remains.
    """
    kept: list[_Piece] = []
    left = list(pieces)
    for i, piece in enumerate(left):
        start, end, note = piece
        before = kept[-1] if kept else None
        after = left[i + 1] if i + 1 < len(left) else None
        into: dict[str, float] = {}
        if note < N_NOTES and end - start < frames(c.scoop_ms):
            if (
                after
                and _leads_to(piece, after, end, fine, frames, c)
                and not _attacked(attacks, piece, end, frames, c)
            ):
                into["after"] = _apart(fine, piece, after)
            if before and not _attacked(attacks, before, start, frames, c):
                apart = _apart(fine, piece, before)
                is_tail = (
                    _is_longer(before, piece)
                    and (after is None or after[2] == N_NOTES)
                    and any(abs(apart - o) < 0.5 for o in OVERTONES)
                )
                if is_tail or _leads_to(piece, before, start, fine, frames, c):
                    into["before"] = 0.0 if is_tail else apart
        if not into:
            kept.append(piece)
        elif before and min(into, key=lambda side: into[side]) == "before":
            kept[-1] = (before[0], end, before[2])
        elif after:
            left[i + 1] = (start, after[1], after[2])
    return kept


def _leads_to(
    piece: _Piece, other: _Piece, edge: int, fine: FloatArray, frames: _Frames, c: TrackerConfig
) -> bool:
    """Whether a piece never rests, or passes slowly into a longer one near it."""
    apart = _apart(fine, piece, other)
    if not _is_longer(other, piece) or not 0.0 < apart <= c.scoop_semitones:
        return False
    values = fine[piece[0] : piece[1]]
    values = values[np.isfinite(values)]
    if len(values) >= 3 and np.subtract(*np.percentile(values, [85.0, 15.0])) >= c.scoop_range:
        return True
    first, last = max(0, edge - frames(30.0)), min(len(fine) - 1, edge + frames(30.0))
    passed = abs(float(fine[last] - fine[first]))  # NaN where the pitch is unsure
    return apart >= c.drift_semitones and passed < 0.6 * apart


def _apart(fine: FloatArray, a: _Piece, b: _Piece) -> float:
    return abs(_median_pitch(fine, a) - _median_pitch(fine, b))


def _is_longer(a: _Piece, b: _Piece) -> bool:
    """Whether `a` is a note longer than `b`."""
    return a[2] < N_NOTES and a[1] - a[0] > b[1] - b[0]


def _join_vibrato(
    pieces: list[_Piece],
    fine: FloatArray,
    attacks: list[_Attack],
    frames: _Frames,
    c: TrackerConfig,
) -> list[_Piece]:
    """Join neighbouring notes a semitone apart that are halves of one wavering pitch."""
    joined: list[_Piece] = []
    for piece in pieces:
        while joined:
            a = joined[-1]
            if N_NOTES in (a[2], piece[2]) or abs(a[2] - piece[2]) > 1:
                break
            half = min(a[1] - a[0], piece[1] - piece[0]) <= frames(c.vibrato_half_ms)
            apart = abs(_median_pitch(fine, a) - _median_pitch(fine, piece))
            if apart >= (c.vibrato_semitones if half else c.drift_semitones):
                break
            if _attacked(attacks, a, piece[0], frames, c):
                break
            longer = a if a[1] - a[0] >= piece[1] - piece[0] else piece
            piece = (a[0], piece[1], longer[2])
            joined.pop()
        joined.append(piece)
    return joined


def _drop_flicker(pieces: list[_Piece], frames: _Frames, c: TrackerConfig) -> list[_Piece]:
    """Give a piece too short to be a note to the longer one that follows it at once."""
    kept: list[_Piece] = []
    for piece in pieces:
        if kept and piece[2] < N_NOTES:
            start, end, note = kept[-1]
            limit = frames(_flicker_ms(note, piece[2], c))
            if (
                note < N_NOTES
                and note != piece[2]
                and end - start < min(limit, piece[1] - piece[0])
            ):
                kept.pop()
                piece = (start, piece[1], piece[2])
        kept.append(piece)
    return kept


def _flicker_ms(first: int, note: int, c: TrackerConfig) -> float:
    """How long `first` may sound before `note` and still be its unsure attack.

    Low strings speak at their overtones first, which are not heard to the semitone, for periods.
    """
    if note < c.ripple_below_midi:
        if min(abs(first - note - o) for o in FALSE_STARTS if o >= OVERTONES[0]) <= 1:
            return c.octave_flicker_ms + c.flicker_periods * _period_ms(note)
    elif abs(first - note) in OVERTONES:
        return c.octave_flicker_ms
    return c.flicker_ms


def _is_hum(level: FloatArray, c: TrackerConfig) -> bool:
    """Whether a note at a mains frequency is the mains itself: soft, and steady as no player is."""
    low, high = np.percentile(level, [10.0, 90.0])
    return bool(high < c.hum_max_db and high - low < 3.0)


def _to_notes(
    pieces: list[_Piece],
    level: FloatArray,
    held: FloatArray,
    gate_db: float,
    fine: FloatArray,
    confidence: FloatArray,
    attacks: list[_Attack],
    frames: _Frames,
    hop_s: float,
    c: TrackerConfig,
) -> list[Note]:
    """Place each piece's onset and end, and measure it."""
    notes: list[Note] = []
    earliest = 0  # no note begins before the one before it has had its minimum length
    for i, piece in enumerate(pieces):
        start, end, note = piece
        if note == N_NOTES:
            continue
        back = frames(_lookback_ms(note, c))
        last = min(start + frames(30.0), end - 1)
        near = _between(attacks, max(earliest, start - back), last)
        begin = start
        if near:
            begin = max(near, key=lambda k: k.chance).frame
        elif i and pieces[i - 1][2] < N_NOTES:
            begin = max(earliest, start - frames(c.legato_delay_ms))
        begin = min(begin, end - 1)
        earliest = begin + frames(c.min_gap_ms)
        top = begin + int(level[begin:end].argmax())
        faded = np.flatnonzero(held[top:end] < max(level[top] - c.release_db, gate_db - 3.0))
        stop = top + int(faded[0]) if len(faded) else end
        if (stop - begin) * hop_s * 1000.0 < c.min_note_ms:
            continue
        median = _median_pitch(fine, piece)
        if _is_mains(median) and _is_hum(level[begin:stop], c):
            continue
        midi = min(max(round(median), 0), N_NOTES - 1)
        if notes and notes[-1].offset_s > begin * hop_s:
            notes[-1] = replace(notes[-1], offset_s=begin * hop_s)
        attack_level = float(level[begin : min(end, begin + frames(c.attack_window_ms))].max())
        notes.append(
            Note(
                onset_s=begin * hop_s,
                offset_s=stop * hop_s,
                midi=midi,
                cents=float(min(max(100.0 * (median - midi), -50.0), 50.0)),
                velocity=velocity_from_level(attack_level),
                confidence=float(confidence[start:end].mean()),
            )
        )
    return [n for n in notes if 1000.0 * (n.offset_s - n.onset_s) >= 0.8 * c.min_note_ms]
