"""Rendered training sound: right labels, same bytes for a seed, safe to interrupt."""

from __future__ import annotations

import ctypes.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from training import rooms, soundfonts
from training.clips import SAMPLE_RATE, Clip, f0_at, find_clips
from training.melodies import render
from training.phrases import TICKS_PER_S, compose
from training.soundfonts import (
    BLOCK,
    SYNTH_RATE,
    FluidSynthMissing,
    Synth,
    find_soundfonts,
    fluidsynth_available,
    measure_pitch,
)
from v3audio.errors import ConfigError


def _has_soundfont() -> bool:
    try:
        find_soundfonts()
    except FluidSynthMissing:
        return False
    return fluidsynth_available()


needs_fluidsynth = pytest.mark.skipif(
    not _has_soundfont(),
    reason="FluidSynth or a soundfont is missing: apt install fluidsynth fluid-soundfont-gm",
)

# Struck, plucked, bowed, blown: vibraphone, nylon guitar, viola, clarinet.
PROGRAMS = [11, 24, 41, 71]
SETTINGS = {"seed": 5, "clip_s": 10.0, "programs": PROGRAMS, "voice_share": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips: each of PROGRAMS and a voice."""
    out = tmp_path_factory.mktemp("data") / "melodies"
    summary = render(out, n_clips=5, **SETTINGS)
    assert (summary.n_rendered, summary.n_kept) == (5, 0)
    assert summary.programs == PROGRAMS
    return out


def _sound_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*"))}


def _period_pitch(sound: NDArray[np.float32], about: float) -> float:
    """MIDI pitch from the best normalised lag within +-7 semitones of `about`: knows no labels.

    Written apart from the renderer's own pitch check, which it must not share mistakes with.
    """
    x = sound.astype(np.float64) - sound.mean()
    period = SAMPLE_RATE / (440 * 2 ** ((about - 69) / 12))
    lags = np.arange(max(int(period / 1.5), 2), int(period * 1.5) + 2)
    score = np.array(
        [2 * (x[lag:] @ x[:-lag]) / (x[lag:] @ x[lag:] + x[:-lag] @ x[:-lag]) for lag in lags]
    )
    k = int(np.argmax(score))
    lag = float(lags[k])
    if 0 < k < len(lags) - 1:
        before, here, after = score[k - 1 : k + 2]
        lag += 0.5 * (before - after) / (before - 2 * here + after)
    return float(69 + 12 * np.log2(SAMPLE_RATE / lag / 440))


@needs_fluidsynth
def test_a_folder_holds_what_it_promises(folder: Path) -> None:
    clips = find_clips(folder)
    assert [clip.noisy.name for clip in clips] == [f"0000{i}.flac" for i in range(5)]
    programs = set()
    for clip in clips:
        noisy, clean = clip.read()
        assert clean is not None
        assert len(noisy) == len(clean) == 10 * SAMPLE_RATE
        assert 0.85 < np.abs(clean).max() < 0.95
        assert not np.array_equal(noisy, clean)
        info = clip.info()
        programs.add(info["program"])
        assert len(info["f0"]) == len(info["notes"]) > 3
    assert programs == {*PROGRAMS, "voice-41"}  # 8 singers a seed: seed 5 starts at 41
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"] and manifest["settings"]["seed"] == 5
    assert [kept["program"] for kept in manifest["kept"]] == PROGRAMS
    assert all(kept["high"] - kept["low"] >= 36 for kept in manifest["kept"])


@needs_fluidsynth
def test_labels_agree_with_the_sound(folder: Path) -> None:
    for clip in find_clips(folder):
        _, clean = clip.read()
        assert clean is not None
        errors = []
        for note in clip.notes():
            start, stop = note.onset_s + 0.05, min(note.audible_s, note.offset_s) - 0.01
            period_s = 1 / (440 * 2 ** ((note.midi - 69) / 12))
            # At least six periods of a note of medium height: there a lag tells cents.
            if not 36 <= note.midi <= 84 or stop - start < max(0.06, 6 * period_s):
                continue
            middle = (start + stop) / 2
            half = min(max(0.04, 3 * period_s), (stop - start) / 2)
            piece = clean[int((middle - half) * SAMPLE_RATE) : int((middle + half) * SAMPLE_RATE)]
            heard = _period_pitch(piece, note.midi)
            # What a lag over the piece can tell is the mean pitch inside it.
            true = np.nanmean(clip.f0_at(np.linspace(middle - half, middle + half, 20)))
            errors.append(100 * (heard - true))
        name = clip.info()["name"]
        assert len(errors) >= 3, name
        assert np.median(np.abs(errors)) < 15, (name, np.round(errors))
        assert np.mean(np.abs(errors) < 50) >= 0.75, (name, np.round(errors))


@needs_fluidsynth
def test_onsets_stand_where_the_sound_begins(folder: Path) -> None:
    checked = 0
    for clip in find_clips(folder):
        if clip.info()["name"] not in ("vibraphone", "nylon guitar", "clarinet"):
            continue  # bows start softly, voices have consonants before the note
        _, clean = clip.read()
        assert clean is not None
        notes = clip.notes()
        first = round(notes[0].onset_s * SAMPLE_RATE)
        # 2 ms before: the resampler's ringing. 20 ms after: the softest attack.
        before = np.abs(clean[: first - 32]).max()
        after = np.abs(clean[first : first + 320]).max()
        assert before < 2e-4 < after, clip.info()["name"]
        checked += 1
    assert checked == 3


@needs_fluidsynth
def test_same_seed_same_bytes_however_often_interrupted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    steps: list[tuple[int, int]] = []
    render(out, n_clips=2, **SETTINGS)
    # What a killed run leaves: a clip without its JSON, and a temporary file.
    (out / "00000.json").unlink()
    (out / "00001.flac").write_bytes(b"old")
    (out / "00001.json").unlink()
    (out / ".00001.clean.0123456789ab.flac").write_bytes(b"half")
    summary = render(out, n_clips=5, progress=lambda *at: steps.append(at), **SETTINGS)
    assert (summary.n_rendered, summary.n_kept) == (5, 0)
    assert steps == [(i, 5) for i in range(6)]
    assert _sound_bytes(out) == _sound_bytes(folder)
    assert not list(out.glob(".*"))

    before = {path: path.stat().st_mtime_ns for path in out.glob("0*")}
    summary = render(out, n_clips=5, **SETTINGS)
    assert (summary.n_rendered, summary.n_kept) == (0, 5)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("0*")}


@needs_fluidsynth
def test_other_settings_are_refused(folder: Path) -> None:
    before = _sound_bytes(folder)
    with pytest.raises(ConfigError, match=r"seed was 5, now 6.*another folder"):
        render(folder, n_clips=5, **{**SETTINGS, "seed": 6})
    with pytest.raises(ConfigError, match=r"clip_s was 10.0, now 7.0"):
        render(folder, n_clips=5, **{**SETTINGS, "clip_s": 7.0})
    assert _sound_bytes(folder) == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="another folder"):
        render(tmp_path, n_clips=1, voice_share=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_clips": 0}, "at least 1"),
        ({"clip_s": 0.5}, "2 to 600"),
        ({"programs": [200]}, "0 to 127"),
        ({"voice_share": 2.0}, "0 to 1"),
    ],
)
def test_nonsense_is_refused(setting: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        render(tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()


def test_missing_fluidsynth_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(soundfonts, "_LIBRARY_PLACES", ())
    font = tmp_path / "font.sf2"
    font.write_bytes(b"RIFF")
    assert not fluidsynth_available()
    with pytest.raises(FluidSynthMissing, match=r"apt install fluidsynth.*brew install"):
        render(tmp_path / "out", n_clips=1, soundfonts=[font])
    assert not (tmp_path / "out").exists()


def test_missing_soundfont_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FluidSynthMissing, match=r"nowhere\.sf2 does not exist"):
        render(tmp_path / "out", soundfonts=[tmp_path / "nowhere.sf2"])
    monkeypatch.setattr(soundfonts, "_SOUNDFONT_PLACES", ())
    with pytest.raises(FluidSynthMissing, match=r"fluid-soundfont-gm.*--soundfont"):
        render(tmp_path / "out")


@pytest.mark.skipif(not fluidsynth_available(), reason="FluidSynth is missing")
def test_a_file_that_is_no_soundfont_is_refused(tmp_path: Path) -> None:
    font = tmp_path / "font.sf2"
    font.write_bytes(b"RIFF but not a soundfont")
    with pytest.raises(ConfigError, match=r"font\.sf2 is not a soundfont"):
        Synth(font)


@needs_fluidsynth
def test_a_note_starts_on_its_block_and_bends_as_told() -> None:
    out = np.zeros(SYNTH_RATE // BLOCK * BLOCK, np.float32)
    with Synth(find_soundfonts()[0]) as synth:
        assert synth.start(71)
        synth.render(out, 0, 100)
        synth.bend(0, 1.37)
        synth.note_on(0, 60, 100)
        synth.render(out, 100, len(out) // BLOCK - 100)
    first = int(np.flatnonzero(np.abs(out) > 1e-6)[0])
    assert 100 * BLOCK <= first < 100 * BLOCK + 240  # 5 ms
    cents, periodicity, other = measure_pitch(out[-SYNTH_RATE // 2 :], 61, SYNTH_RATE)
    assert cents == pytest.approx(37, abs=10)  # the sample itself may be a few cents off
    assert periodicity > 0.9 and not other


def _tone(f0: float, harmonics: list[float], n: int = 4000) -> NDArray[np.float32]:
    t = np.arange(n) / SAMPLE_RATE
    parts = [a * np.sin(2 * np.pi * f0 * k * t + k) for k, a in enumerate(harmonics, 1)]
    return np.sum(parts, axis=0).astype(np.float32)


@pytest.mark.parametrize("note", [28, 45, 60, 76, 98])
def test_the_pitch_check_measures_cents_and_octaves(note: int) -> None:
    f0 = 440 * 2 ** ((note - 69) / 12)
    rich = [1 / k for k in range(1, 1 + max(1, min(20, int(7000 / f0))))]
    cents, periodicity, other = measure_pitch(_tone(f0 * 2 ** (23 / 1200), rich), note, SAMPLE_RATE)
    assert cents == pytest.approx(23, abs=3)
    assert periodicity > 0.95 and not other
    assert measure_pitch(_tone(f0 * 2, rich[: max(len(rich) // 2, 1)]), note, SAMPLE_RATE)[2]
    _, periodicity, other = measure_pitch(_tone(f0 / 2, rich), note, SAMPLE_RATE)
    assert other or periodicity < 0.6


def test_noise_has_no_pitch() -> None:
    noise = np.random.default_rng(1).normal(size=4000).astype(np.float32)
    assert measure_pitch(noise, 60, SAMPLE_RATE)[1] < 0.4


@pytest.mark.parametrize("sustained", [False, True])
def test_phrases_wander_over_the_whole_range(sustained: bool) -> None:
    notes = list(range(28, 97))
    slurs = repeats = rests = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        phrase = compose(rng, notes, 32.0, sustained=sustained, detune_cents=12.0, glides=0.8)
        played = np.array([note.midi for note in phrase])
        assert {*played.tolist()} <= {*notes}
        assert np.std(played) > 13  # uniform over the range: 20; over two octaves: 7
        assert played.min() < 40 and played.max() > 84
        for before, note in itertools.pairwise(phrase):
            assert before.offset <= note.onset
            rests += note.onset - before.offset > 0.1 * TICKS_PER_S
            repeats += note.midi == before.midi
            slurs += note.slurred
        for note in phrase:
            length_s = (note.offset - note.onset) / TICKS_PER_S
            f0 = 440 * 2 ** ((note.midi - 69) / 12)
            assert max(0.055, 4.9 / f0) <= length_s <= 2.01
            assert 30 <= note.velocity <= 127
            assert abs(note.cents - 12.0) <= 10.0
            assert len(note.curve) == note.offset - note.onset + 1
        assert phrase[-1].offset <= 32.0 * TICKS_PER_S
    assert rests > 20 and repeats > 20
    assert (slurs > 0) == sustained


@needs_fluidsynth
def test_contours_give_pitch_inside_notes_only(folder: Path) -> None:
    clip = find_clips(folder)[0]
    for note in clip.notes():
        inside = clip.f0_at(np.linspace(note.onset_s, note.offset_s - 0.002, 50))
        assert not np.isnan(inside).any()
        assert abs(np.median(inside) - note.midi - note.cents / 100) < 0.7
    assert np.isnan(clip.f0_at(np.array([0.0, clip.notes()[-1].offset_s + 0.01]))).all()


def test_a_contour_is_drawn_by_straight_lines() -> None:
    pitch = f0_at(
        [[[1.0, 60.0], [2.0, 61.0]], [[2.0, 70.0], [3.0, 70.0]]], np.arange(0.5, 3.6, 0.5)
    )
    np.testing.assert_allclose(pitch, [np.nan, 60, 60.5, 70, 70, np.nan, np.nan])


def test_the_room_does_not_delay() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[8000] = 0.9
    kinds = set()
    for seed in range(40):
        y, done = rooms.disturb(np.random.default_rng(seed), click, SAMPLE_RATE)
        assert len(y) == len(click) and np.abs(y).max() <= 1.0
        # Half a millisecond: the rise of the narrowest filter.
        assert 8000 <= int(np.argmax(np.abs(y))) <= 8008, done
        kinds |= {key for key in done if done[key]}
    assert {"rt60_s", "hum_hz", "band", "drive", "compressed", "untouched"} <= kinds


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_its_colour(slope: float) -> None:
    noise = rooms.coloured_noise(np.random.default_rng(3), 1 << 16, slope)
    power = np.abs(np.fft.rfft(noise)) ** 2
    f = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    low, high = (power[(f > lo) & (f < 2 * lo)].mean() for lo in (250, 4000))
    assert 10 * np.log10(low / high) == pytest.approx(slope * 10 * np.log10(16), abs=1.0)
    assert np.std(noise) == pytest.approx(1.0, abs=0.05)


def test_voices_need_no_fluidsynth_and_sing_in_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(soundfonts, "_LIBRARY_PLACES", ())
    render(tmp_path / "out", seed=2, n_clips=2, clip_s=6.0, voice_share=1.0)
    clips = find_clips(tmp_path / "out")
    assert [clip.info()["program"] for clip in clips] == ["voice-17", "voice-18"]
    for clip in clips:
        _, clean = clip.read()
        assert clean is not None
        errors = []
        for note in clip.notes():
            if note.offset_s - note.onset_s < 0.25:
                continue
            middle = (note.onset_s + note.offset_s) / 2
            at = int(middle * SAMPLE_RATE)
            heard = _period_pitch(clean[at - 960 : at + 960], note.midi)
            true = np.nanmean(clip.f0_at(np.linspace(middle - 0.06, middle + 0.06, 20)))
            errors.append(100 * (heard - true))
        assert len(errors) >= 3
        assert np.median(np.abs(errors)) < 15, np.round(errors)


def test_a_plain_folder_of_recordings_is_read_too(tmp_path: Path) -> None:
    stereo = np.stack([_tone(440, [0.5], 44100), np.zeros(44100, np.float32)], axis=1)
    soundfile.write(tmp_path / "take.wav", stereo, 44100)
    (tmp_path / "notes.txt").write_text("not sound")
    clips = find_clips(tmp_path)
    assert clips == [Clip(tmp_path / "take.wav", None, None)]
    sound, clean = clips[0].read()
    assert clean is None and len(sound) == SAMPLE_RATE
    assert clips[0].notes() == [] and clips[0].info() == {}
    with pytest.raises(ConfigError, match="data melodies"):
        find_clips(tmp_path / "empty")
