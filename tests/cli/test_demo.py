"""The first thing a musician types, with the shipped model, timbre and recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile


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
