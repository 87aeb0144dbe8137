"""The first thing a musician types, with the shipped model, timbre and recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from v3audio import colour, timbres
from v3audio.paths import demo_recording


@pytest.mark.parametrize("timbre", ["flute", "trumpet:0.6,violin:0.4"])
def test_the_demo_gives_notes_and_another_timbre(
    run: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timbre: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--timbre", timbre)
    assert result.exit_code == 0, result.stderr  # type: ignore[attr-defined]
    heard, notes, sound = result.stdout.splitlines()  # type: ignore[attr-defined]
    source = Path(heard.split()[1])
    midi, wav = Path(notes.split()[1]), Path(sound.split()[1])
    assert {midi.parent, wav.parent} == {Path("demo-out")}
    assert {p.name for p in Path("demo-out").iterdir()} == {midi.name, wav.name}

    played = [m for m in mido.MidiFile(midi).tracks[1] if m.type == "note_on"]
    assert len(played) >= 8
    assert len({m.note for m in played}) >= 3
    assert f"({len(played)} notes)" in notes

    before, after = soundfile.info(source), soundfile.info(wav)
    assert (after.samplerate, after.frames) == (before.samplerate, before.frames)
    x, y = soundfile.read(source)[0], soundfile.read(wav)[0]
    x = x if x.ndim == 1 else x.mean(axis=1)
    loud = np.sqrt(np.mean(y**2)) / np.sqrt(np.mean(x**2))
    assert 0.2 < loud < 5.0  # about as loud as what was played
    assert np.abs(np.corrcoef(x, y)[0, 1]) < 0.9  # and not the recording itself


@pytest.mark.slow
def test_your_own_recording_gets_a_page(
    run: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = timbres.load_all
    monkeypatch.setattr(timbres, "load_all", lambda s: {"oboe": every(s)["oboe"]})
    monkeypatch.setattr(colour, "ADAPT_STEPS", 10)
    x, rate = soundfile.read(demo_recording(), dtype="float32")
    mine = tmp_path / "mine.wav"
    soundfile.write(mine, x[: round(1.5 * rate)], rate)
    out = tmp_path / "out"
    result = run("demo", mine, "--page", "-o", out, "--timbre", "oboe")
    assert result.exit_code == 0, result.stderr  # type: ignore[attr-defined]
    said = result.stdout.splitlines()[-1]  # type: ignore[attr-defined]
    assert {p.name for p in out.iterdir()} == {"mine.mid", "mine-oboe.wav", "mine.html"}
    assert said.split()[:2] == ["page", str(out / "mine.html")]
    assert "(4 sounds," in said  # as recorded, oboe, captured, adapted: nothing to morph to
    assert "Karoryfer" not in (out / "mine.html").read_text(encoding="utf-8")  # not their recording


def test_a_recording_that_cannot_be_used_is_refused_at_once(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "no such file" in refused("demo", tmp_path / "none.wav", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_page_of_silence_is_refused_after_the_rest_was_made(
    run: Callable[..., object], tmp_path: Path
) -> None:
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(8_000), 8_000)
    result = run("demo", silence, "--page", "-o", tmp_path / "out")
    assert result.exit_code == 2  # type: ignore[attr-defined]
    assert "no notes heard" in result.stderr  # type: ignore[attr-defined]
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert made == {"silence.mid", "silence-clarinet.wav"}
