"""What a take is said to be good for, and the timbre that the shipped model makes of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from v3audio import timbres
from v3audio.bundle import load_bundle
from v3audio.capture import Report, Take, capture
from v3audio.errors import TimbreError
from v3audio.spectra import k_weighted_db

WriteSound = Callable[..., Path]
GOOD = Report(
    usable_s=10.0, total_s=11.0, note_range=(60, 79), pitches=12, level_db=(-22.0, -14.0),
    noise_db=-70.0, clipped_share=0.0, style_spread=0.3, nearest=("oboe", 0.2), gain_db=-1.5,
)  # fmt: skip
RATE = 48_000


def phrase(pitches: list[int], seconds: float = 0.45) -> np.ndarray:
    """Reedy notes with rests between them."""
    t = np.arange(round(seconds * RATE)) / RATE
    envelope = np.minimum(1, np.minimum(t, t[-1] - t) / 0.02)
    rest = np.zeros(round(0.5 * RATE))
    parts = []
    for midi in pitches:
        hz = 440 * 2 ** ((midi - 69) / 12)
        k = np.arange(1, int(16_000 / hz))[:, None]
        parts += [0.1 * envelope * (np.sin(2 * np.pi * hz * k * t + k**2) / k**0.8).sum(0), rest]
    x = np.concatenate(parts)
    return (x + 1e-4 * np.random.default_rng(0).standard_normal(len(x))).astype(np.float32)


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return phrase([60, 63, 66, 69, 72, 75])


@pytest.fixture(scope="module")
def take(sound: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Take:
    import soundfile

    path = tmp_path_factory.mktemp("takes") / "reed.wav"
    soundfile.write(path, sound, RATE, subtype="FLOAT")
    return capture("reed", [path], licence="CC0-1.0")


def test_a_good_take_needs_no_advice() -> None:
    assert GOOD.verdict == "good" and GOOD.advice == []


@pytest.mark.parametrize(
    ("worse", "verdict", "said"),
    [
        ({"usable_s": 5.0}, "fair", "play longer: 5.0 s"),
        ({"usable_s": 2.0}, "poor", "play longer"),
        ({"note_range": (60, 66)}, "fair", "lower and higher notes too: only C4 to F#4"),
        ({"pitches": 2}, "poor", "more different notes: 2"),
        ({"level_db": (-60.0, -45.0), "noise_db": -90.0}, "fair", "come closer or turn the input"),
        ({"noise_db": -40.0}, "fair", "quieter room: the notes stand 26 dB above it"),
        ({"clipped_share": 0.06}, "poor", "turn the input down: 6.0% of the sound is clipped"),
        ({"style_spread": 0.9}, "fair", "one instrument alone"),
    ],
)
def test_each_weakness_is_named_with_what_to_do(
    worse: dict[str, object], verdict: str, said: str
) -> None:
    report = replace(GOOD, **worse)  # type: ignore[arg-type]
    assert report.verdict == verdict
    assert len(report.advice) == 1 and said in report.advice[0]
    assert any(said in line for line in report.lines())


def test_the_worst_comes_first_and_json_holds_all() -> None:
    report = replace(GOOD, usable_s=5.0, pitches=2, held_out=(0.8, 0.6))
    assert [text.split()[1] for text in report.advice] == ["more", "longer:"]
    again = json.loads(json.dumps(report.as_dict()))
    assert again["verdict"] == "poor" and again["held_out"] == [0.8, 0.6]
    assert "0.80 -> 0.60" in "\n".join(report.lines())
    assert "left as it was" in "\n".join(replace(report, held_out=(0.8, 0.9)).lines())


def test_the_report_says_what_was_played(take: Take) -> None:
    report = take.report
    assert report.note_range == take.timbre.note_range == (60, 75)
    assert report.pitches == 6
    assert 2.2 < report.usable_s < 3.2
    assert report.total_s == pytest.approx(5.7, abs=0.01)
    assert report.noise_db == pytest.approx(-85, abs=1)  # of -80 dBFS, the third below 8 kHz
    assert report.level_db[1] - report.level_db[0] < 6
    assert report.clipped_share == 0.0 and report.style_spread < 0.75
    assert report.nearest and report.nearest[0] in timbres.load_all(take.timbre.model_sha256)


def test_a_captured_timbre_is_as_loud_as_the_shipped(take: Take) -> None:
    source = load_bundle().load_frozen_renderer()

    def loudness(t: timbres.Timbre) -> float:
        return k_weighted_db(source, t.voice, *t.note_range) + t.gain_db

    shipped = [t for e in timbres.list_timbres() if e.is_shipped for t in [timbres.load(e.path)]]
    wanted = np.mean([loudness(t) for t in shipped])
    assert loudness(take.timbre) == pytest.approx(wanted, abs=0.02)
    assert take.timbre.gain_db == take.report.gain_db != 0.0


def test_a_captured_timbre_keeps_colour_and_licence_in_its_file(take: Take, tmp_path: Path) -> None:
    again = timbres.load(timbres.save(take.timbre, tmp_path / "reed.safetensors"))
    assert (again.format, again.licence) == (3, "CC0-1.0")
    np.testing.assert_array_equal(again.voice, take.timbre.voice)


def test_clipping_is_counted_and_left_out(
    sound: np.ndarray, take: Take, write_sound: WriteSound
) -> None:
    half = len(sound) // 2
    loud = np.clip(6 * sound, -1, 1)
    path = write_sound("half.wav", np.append(loud[:half], sound[half:]), sample_rate=RATE)
    report = capture("half", [path]).report
    assert 0.3 < report.clipped_share < 0.6
    assert report.usable_s < 0.7 * take.report.usable_s
    assert any("turn the input down" in text for text in report.advice)
    path = write_sound("loud.wav", loud, sample_rate=RATE)
    with pytest.raises(TimbreError, match=r"s more are clipped: turn the input down"):
        capture("loud", [path])


def test_what_cannot_be_measured_cannot_adapt(take: Take) -> None:
    with pytest.raises(TimbreError, match="leave --adapt out"):
        replace(take, bench=None).adapted()
