"""A score places notes on their attacks and gives the pitch and the level of that very time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from v3audio.hear_file import HOP_S, N_KEPT, Frames, open_sound
from v3audio.notes import Note
from v3audio.onsets import N_TRAITS
from v3audio.score import LAG_PERIODS, LAG_S, STEP_S, Score, _Levels
from v3audio.units import midi_to_hz
from v3audio.voice import Played

RATE = 44_100
Function = Callable[[np.ndarray], np.ndarray]


def level_of(x: np.ndarray, rate: int = RATE) -> np.ndarray:
    levels = _Levels(rate)
    for _ in levels.watch(open_sound((x.astype(np.float32), rate)).blocks):
        pass
    return levels.levels_db()


def heard(duration_s: float, pitch: Function, level_db: Function, midi: float) -> Frames:
    """Frames that are sure of a pitch, each telling of the time at which the model would."""
    n = round(duration_s / HOP_S)
    at_s = (np.arange(n) + 1) * HOP_S - LAG_S - LAG_PERIODS / float(midi_to_hz(midi))
    ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    top = np.zeros((n, N_KEPT))
    return Frames(level_db(at_s), zeros, ones, pitch(at_s).astype(np.float32), ones,
                  top.astype(np.uint8), top.astype(np.float16),
                  np.zeros((n, N_TRAITS), np.uint8))  # fmt: skip


def note(onset_s: float, offset_s: float, midi: int) -> Note:
    return Note(onset_s, offset_s, midi, 0.0, 80, 1.0)


def tone(duration_s: float, begin_s: float, end_s: float, midi: float) -> np.ndarray:
    t = np.arange(round(duration_s * RATE)) / RATE
    x = 0.3 * np.sqrt(2) * np.sin(2 * np.pi * float(midi_to_hz(midi)) * t)
    return x * (t >= begin_s) * (t < end_s)


def steady(value: float) -> Function:
    return lambda t: np.full(len(t), value)


def loud_from(begin_s: float) -> Function:
    return lambda t: np.where(t < begin_s, -100.0, -10.5)


def steps(score: Score, duration_s: float) -> list[tuple[float, float, Played]]:
    """Beginning and end, seconds, of all steps that sound, and what is played in them."""
    found = []
    for k in range(round(duration_s / STEP_S)):
        if played := score.played(k):
            found.append((score.start(k) / RATE, score.start(k + 1) / RATE, played))
    return found


@pytest.mark.parametrize("late_s", [0.0, 0.004, 0.012])
def test_a_note_begins_on_the_sample_of_its_attack(late_s: float) -> None:
    begin_s = 10_007 / RATE
    x = tone(0.6, begin_s, 0.5, 69)
    frames = heard(0.7, steady(69.0), loud_from(begin_s), 69)
    score = Score([note(begin_s + late_s, 0.5, 69)], frames, level_of(x), RATE)
    first, _, played = steps(score, 0.6)[0]
    assert first == pytest.approx(begin_s, abs=0.0011)  # levels are kept by the millisecond
    assert (played.pitch_midi, played.note_midi) == (69.0, 69)
    assert played.level_db == pytest.approx(-10.5, abs=0.6)
    assert played.age_s == pytest.approx(STEP_S, abs=STEP_S / 2)


def test_vibrato_is_played_when_it_sounds() -> None:
    def pitch(t: np.ndarray) -> np.ndarray:
        return 60 + 0.5 * np.sin(2 * np.pi * 6 * t)

    score = Score([note(0.1, 1.0, 60)], heard(1.2, pitch, steady(-10.5), 60),
                  level_of(tone(1.2, 0.1, 1.0, 60)), RATE)  # fmt: skip
    found = steps(score, 1.2)
    ends = np.array([end for _, end, _ in found])
    np.testing.assert_allclose(
        [p.pitch_midi for *_, p in found][8:-8], pitch(ends)[8:-8], atol=0.03
    )


def test_octave_slips_and_unsure_frames_are_bridged() -> None:
    frames = heard(1.2, steady(60.2), steady(-10.5), 60)
    frames.pitch_midi[40:45] += 12.0
    frames.pitch_midi[60:65] = 91.0
    frames.confidence[70:75] = frames.periodicity[70:75] = 0.2
    frames.pitch_midi[70:75] = 60.9
    score = Score([note(0.1, 1.0, 60)], frames, level_of(tone(1.2, 0.1, 1.0, 60)), RATE)
    assert {round(p.pitch_midi, 3) for *_, p in steps(score, 1.2)} == {60.2}


def test_a_slur_glides_through_and_a_leap_after_a_rest_does_not() -> None:
    def pitch(t: np.ndarray) -> np.ndarray:
        return np.interp(t, [0.47, 0.53], [60, 69])

    x = tone(1.1, 0.1, 1.0, 60)
    frames = heard(1.2, pitch, steady(-10.5), 64)
    for first_end_s, passes_through in ((0.5, True), (0.4, False)):
        x[round(first_end_s * RATE) : round(0.5 * RATE)] = 0.0
        score = Score([note(0.1, first_end_s, 60), note(0.5, 1.0, 69)], frames, level_of(x), RATE)
        assert any(63 < p.pitch_midi < 66 for *_, p in steps(score, 1.1)) == passes_through


def test_the_level_is_that_of_the_moment_without_the_ripple_of_a_low_note() -> None:
    t = np.arange(round(1.2 * RATE)) / RATE
    swell_db = np.interp(t, [0.1, 0.6, 1.0], [-30, 0, -20])
    x = tone(1.2, 0.1, 1.0, 28) * 10 ** (swell_db / 20)
    score = Score([note(0.1, 1.0, 28)], heard(1.3, steady(28.0), steady(-20.0), 28),
                  level_of(x), RATE)  # fmt: skip
    found = steps(score, 1.2)[8:-8]
    wanted = np.interp([end for _, end, _ in found], t, swell_db) - 10.5
    np.testing.assert_allclose([p.level_db for *_, p in found], wanted, atol=0.8)


def test_a_tail_that_the_decoder_cut_is_played_until_it_is_lost() -> None:
    t = np.arange(3 * RATE) / RATE
    x = tone(3.0, 0.1, 3.0, 50) * 10 ** (-1.5 * np.maximum(t - 0.1, 0))  # 30 dB a second
    x += 1e-3 * np.random.default_rng(0).standard_normal(len(t))
    fades = heard(3.1, steady(50.0), lambda at: np.maximum(-10.5 - 30 * (at - 0.1), -60.0), 50)
    score = Score([note(0.1, 1.0, 50)], fades, level_of(x), RATE)
    (span,) = score.spans
    assert 1.4 < span.end_s < 2.0
    first, second = Score([note(0.1, 1.0, 50), note(1.2, 1.6, 50)], fades, level_of(x), RATE).spans
    assert first.end_s == second.begin_s


def test_steps_follow_one_another_and_end() -> None:
    x = tone(1.0, 0.3333, 0.7, 69)
    frames = heard(1.1, steady(69.0), loud_from(0.3333), 69)
    score = Score([note(0.34, 0.7, 69)], frames, level_of(x), RATE)
    lengths = np.diff([score.start(k) for k in range(400)])
    assert score.start(0) == 1
    assert lengths.min() > 0.4 * STEP_S * RATE
    assert lengths.max() < 1.6 * STEP_S * RATE
    assert score.played(10_000) is None
    assert Score([], frames, level_of(x), RATE).played(70) is None


def test_the_levels_of_two_hours_take_16_megabytes_however_the_sound_is_cut() -> None:
    x = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    whole, cut = _Levels(RATE), _Levels(RATE)
    list(whole.watch(iter([x])))
    list(cut.watch(iter(np.split(x, [0, 1, 300, 301, 20_000]))))
    np.testing.assert_array_equal(whole.levels_db(), cut.levels_db())
    assert whole.levels_db().nbytes == 2000
