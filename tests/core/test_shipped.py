"""The shipped model on the shipped recording: real notes, joined in a known order, all found."""

import json

import numpy as np
import pytest
import soundfile

import v3audio
from training.demo_phrase import BEAT_S, PHRASE, SILENCE_S
from v3audio.bundle import load_bundle
from v3audio.paths import demo_recording, presets_dir
from v3audio.timbres import list_timbres

PLAYED = [midi for midi, *_ in PHRASE]


def onsets_s() -> list[float]:
    at, onsets = SILENCE_S, []
    for _, beats, _, rest in PHRASE:
        onsets.append(at)
        at += BEAT_S * (beats + rest)
    return onsets


def test_every_note_of_the_phrase_is_transcribed_in_its_place():
    notes = v3audio.transcribe(demo_recording())
    assert [n.midi for n in notes] == PLAYED
    assert max(abs(n.onset_s - t) for n, t in zip(notes, onsets_s(), strict=True)) < 0.04
    assert all(abs(n.cents) < 15 for n in notes)


def test_the_live_engine_plays_the_same_notes_and_keeps_silent_between():
    sound, rate = soundfile.read(demo_recording(), dtype="float32")
    engine = v3audio.Engine(timbre="oboe", sample_rate=rate, block=128)
    out, events = [], []
    for first in range(0, len(sound), 128):
        y, new = engine.process(sound[first : first + 128])
        out.append(y)
        events += new
    events += engine.flush()
    heard = [e.note for e in events if e.kind == "on"]
    assert len([e for e in events if e.kind == "off"]) == len(heard)
    right = sum(n in heard for n in set(PLAYED))
    assert right == len(set(PLAYED))
    assert len(heard) <= len(PLAYED) + 3  # hardly a stray
    played = np.concatenate(out)
    assert len(played) == len(sound)
    before = played[: round(SILENCE_S * rate) - 1000]
    assert np.abs(before).max() == 0.0
    assert np.sqrt(np.mean(played**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=0.6)


def test_what_is_shipped_belongs_together_and_says_where_it_came_from():
    bundle = load_bundle()
    assert bundle.code_map is not None
    bundle.load_renderer()
    entries = list_timbres()
    assert len(entries) >= 24
    for entry in entries:
        assert entry.info is not None, entry.problem
        assert entry.info.model_sha256 == bundle.checksum
        assert entry.info.source and entry.info.licence
        assert entry.info.note_range[0] < entry.info.note_range[1]
    assert {"data", "seed", "recipe", "train_cpu_s"} <= bundle.made_by.keys()
    assert bundle.metrics["real_recordings"]["false_notes_in_silence"] == 0
    shipped = sum(p.stat().st_size for p in (presets_dir() / "models").rglob("*") if p.is_file())
    assert shipped < 20e6
    assert "/" not in json.dumps(bundle.made_by["calibration"])
