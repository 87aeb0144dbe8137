from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

import realtime.recorder as recorder
from benchmarks.jack_rig import wait_for
from realtime.recorder import LiveMidiFile, SoundFileSink, TakeRecorder, take_path, takes_dir
from v3audio.errors import AudioFileError, ConfigError
from v3audio.notes import NoteEvent

RATE = 48_000
BLOCK = 128

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes as POSIX does")


def event(kind: str, sample: int, midi: int = 60, cents: float = 0.0) -> NoteEvent:
    velocity = 0 if kind == "off" else 80
    return NoteEvent(kind, sample, midi, velocity, cents, 1.0)  # type: ignore[arg-type]


def played(path: Path) -> list[tuple[int, str, int]]:
    """(tick, type, note or bend) without the head."""
    track = mido.MidiFile(path).tracks[1]
    ticks = itertools.accumulate(m.time for m in track)
    return [
        (t, m.type, m.pitch if m.type == "pitchwheel" else m.note)
        for t, m in zip(ticks, track, strict=True)
        if not m.is_meta and m.type != "control_change"
    ]


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


@contextlib.contextmanager
def small_disk(n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Let no file grow past so many bytes, which fails as a full disk does: in a write.

    Gives what sets another limit. Undone within the test: what pytest itself writes may be a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(n: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))

    limit(n_bytes)
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# --- takes ----------------------------------------------------------------------------------------


def record(takes: TakeRecorder, sound: np.ndarray, start: int, *events: NoteEvent) -> None:
    for at in range(0, len(sound), BLOCK):
        here = range(start + at, start + at + BLOCK)
        takes.put(sound[at : at + BLOCK], [e for e in events if e.sample in here], start + at)


def test_a_take_is_what_was_played_from_start_to_stop() -> None:
    sound, told = noise(24_000), []
    with TakeRecorder(RATE, pytest.fail, told.append) as takes:
        record(takes, noise(1024), 0, event("on", 5, 50))  # before: not in the take
        takes.start()
        takes.start()
        assert takes.is_recording
        record(
            takes, sound, 1024,
            event("off", 1024, 50), event("on", 5824, 60), event("pitch", 10_624, 60, 50.0),
        )  # fmt: skip
        takes.stop()
        takes.stop()
        assert not takes.is_recording
        record(takes, noise(1024), 25_024)
        wait_for(lambda: takes.last)
    assert takes.last is not None and takes.last.parent == takes_dir()
    assert re.fullmatch(r"take-\d{4}-\d\d-\d\d-\d{6}\.wav", takes.last.name)
    info = soundfile.info(takes.last)
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "FLOAT", RATE, 1)
    np.testing.assert_array_equal(soundfile.read(takes.last, dtype="float32")[0], sound)
    assert played(takes.last.with_suffix(".mid")) == [
        (96, "note_on", 60),
        (192, "pitchwheel", 2048),
        (480, "note_off", 60),  # it sounded at the end, 0.5 s
        (480, "pitchwheel", 0),
    ]
    assert told == [f"{takes.last}: 0.5 s, and its .mid"]
    assert sorted(p.suffix for p in takes_dir().iterdir()) == [".mid", ".wav"]


def test_leaving_ends_the_take_and_a_gap_is_silence() -> None:
    with TakeRecorder(RATE) as takes:
        takes.start()
        record(takes, noise(BLOCK), 0)
        record(takes, noise(BLOCK, 1), 10 * RATE)
    assert takes.last
    sound = soundfile.read(takes.last, dtype="float32")[0]
    assert len(sound) == 10 * RATE + BLOCK
    assert not sound[BLOCK:-BLOCK].any()
    np.testing.assert_array_equal(sound[-BLOCK:], noise(BLOCK, 1))


def test_takes_of_one_second_and_exports_of_one_name_are_all_kept() -> None:
    told: list[str] = []
    with TakeRecorder(RATE, pytest.fail, told.append) as takes:
        for seed in range(3):
            takes.start()
            record(takes, noise(BLOCK, seed), 0)
            takes.stop()
            if seed:
                takes.export("My solo_1.wav")
        wait_for(lambda: len(told) == 5)
    names = sorted(p.name for p in takes_dir().glob("My*"))
    assert names == ["My solo_1-2.mid", "My solo_1-2.wav", "My solo_1.mid", "My solo_1.wav"]
    assert takes.last == takes_dir() / "My solo_1-2.wav"
    np.testing.assert_array_equal(soundfile.read(takes.last, dtype="float32")[0], noise(BLOCK, 2))
    assert len(list(takes_dir().glob("take-*.wav"))) == 1


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", ".hidden", "end.", "a\0b", "a\nb",
     "nul", "COM1.wav", "x" * 81, "\u00e9" * 41, "-rf", "a*", "~"],
)  # fmt: skip
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="take name"):
        take_path(name)


def test_an_export_without_a_take() -> None:
    said: list[str] = []
    with TakeRecorder(RATE, said.append) as takes:
        with pytest.raises(ConfigError, match="no take to export"):
            takes.export("solo")
        takes.start()
        takes.export("solo")
        wait_for(lambda: said)
    assert said == ["solo: no take has ended; stop recording first (/v3/rec/enable 0)"]


@pytest.mark.parametrize("limit", [20_000, recorder._WAV_HEADER_BYTES + 4 * 1000 + 2])
def test_a_full_disk_ends_the_take_and_keeps_what_is_valid(limit: int) -> None:
    sound, said = noise(96_000), []
    with small_disk(limit) as resize, TakeRecorder(RATE, said.append) as takes:
        takes.start()
        record(takes, sound, 0, event("on", 128))
        wait_for(lambda: not takes.is_recording)
        wait_for(lambda: takes.last)
        resize(10**7)  # room again: the next take is a new one
        first = takes.last
        takes.start()
        record(takes, sound[:1280], 0)
    kept = soundfile.read(first, dtype="float32")[0]
    n = (limit - recorder._WAV_HEADER_BYTES) // 4 // BLOCK * BLOCK
    np.testing.assert_array_equal(kept, sound[:n])
    assert [kind for _, kind, _ in played(first.with_suffix(".mid"))] == ["note_on", "note_off"]
    assert len(said) == 1 and said[0].endswith("File too large; the take ends here")
    assert takes.last != first and soundfile.info(takes.last).frames == 1280


def test_a_folder_that_cannot_be_made_is_one_line(home: Path) -> None:
    (home / "takes").write_text("not a folder")
    said: list[str] = []
    with TakeRecorder(RATE, said.append) as takes:
        takes.start()
        wait_for(lambda: not takes.is_recording)
        record(takes, noise(BLOCK), 0)
    assert len(said) == 1


PLAYING = """
import sys
import numpy as np
from realtime.recorder import LiveMidiFile, TakeRecorder
from v3audio.notes import NoteEvent
live = LiveMidiFile("live.mid", 48000).__enter__()
takes = TakeRecorder(48000).__enter__()
takes.start()
for k in range(375):
    events = [NoteEvent("on", 128 * k, 60, 80, 0.0, 1.0)] if k == 10 else []
    takes.put(np.full(128, 0.5, np.float32), events, 128 * k)
    live.put(events, 128 * k)
sys.stdin.read()
"""


def test_what_a_killed_program_recorded_is_valid_and_found(tmp_path: Path) -> None:
    def is_there() -> bool:
        wav, live = list(takes_dir().glob("*.wav.part")), list(tmp_path.glob(".live.*.mid"))
        with contextlib.suppress(soundfile.LibsndfileError):
            note_on = bytes((0x90, 60, 80))
            return bool(wav and live) and (
                soundfile.info(wav[0]).frames == 48_000 and note_on in live[0].read_bytes()
            )
        return False

    child = subprocess.Popen([sys.executable, "-c", PLAYING], cwd=tmp_path, stdin=subprocess.PIPE,
                             env=os.environ | {"PYTHONPATH": os.getcwd()})  # fmt: skip
    try:
        wait_for(is_there)
    finally:
        child.kill()
        child.communicate()
    (live,) = tmp_path.glob(".live.*.mid")
    assert [kind for _, kind, _ in played(live)] == ["note_on", "note_off"]
    parts = list(takes_dir().iterdir())
    assert [part.suffix for part in parts] == [".part", ".part"]
    with TakeRecorder(RATE, pytest.fail, pytest.fail):
        pass  # it may still be written to
    for part in parts:
        os.utime(part, (time.time() - 60,) * 2)
    told: list[str] = []
    with TakeRecorder(RATE, pytest.fail, told.append):
        pass
    assert sorted(told) == sorted(f"{p.with_suffix('')}: a take that was cut short" for p in parts)
    (wav,), (mid,) = takes_dir().glob("*.wav"), takes_dir().glob("*.mid")
    np.testing.assert_array_equal(soundfile.read(wav)[0], np.full(48_000, 0.5))
    assert played(mid) == [(26, "note_on", 60), (960, "note_off", 60)]


def test_a_disk_that_does_not_answer_costs_blocks_but_no_place_and_no_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, stuck = threading.Event(), threading.Event()
    write_all = recorder.write_all

    def slow(file: object, data: bytes) -> None:
        stuck.set()
        answers.wait(60.0)
        write_all(file, data)  # type: ignore[arg-type]

    said: list[str] = []
    with TakeRecorder(1000, said.append) as takes:  # 10 s of room: 10 000 samples
        takes.start()
        takes.put(noise(100), [event("on", 5)], 0)
        wait_for(lambda: takes._take)
        monkeypatch.setattr(recorder, "write_all", slow)
        wait_for(stuck.is_set)
        for at in range(100, 20_000, 100):
            takes.put(np.ones(100, np.float32), [event("off", at)] if at == 15_000 else [], at)
        assert 90 <= takes.n_dropped <= 110
        assert takes._n_waiting <= 10_000
        answers.set()
        wait_for(lambda: takes._n_waiting == 0)
        takes.put(np.ones(100, np.float32), [], 20_000)
    assert takes.last
    assert said == [
        f"{takes.last}: the disk was too slow, {takes.n_dropped} blocks in it are silent"
    ]
    sound = soundfile.read(takes.last)[0]
    assert len(sound) == 20_100  # what was lost is silence in its place
    assert not sound[12_000:20_000].any() and sound[20_000:].all()
    assert played(takes.last.with_suffix(".mid"))[1] == (14_400, "note_off", 60)


# --- .mid of a live session -----------------------------------------------------------------------


def test_a_live_midi_file_has_events_where_they_were_emitted(tmp_path: Path) -> None:
    path = tmp_path / "out.mid"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), LiveMidiFile(path, RATE) as file:
        file.put([event("on", 24_000, 60, 20.0)], 23_960)
        file.put([event("pitch", 24_100, 60, 60.0), event("pitch", 26_400, 60, 120.0)])
        file.put([event("off", 48_000), event("on", 48_000, 64)], 48_000)
        file.put([], 72_000)
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert file.n_notes == 2
    assert played(path) == [
        (480, "note_on", 60),
        (480, "pitchwheel", round(0.2 / 2 * 8192)),
        (528, "pitchwheel", round(1.2 / 2 * 8192)),
        (960, "note_off", 60),
        (960, "pitchwheel", 0),
        (960, "note_on", 64),
        (1440, "note_off", 64),
    ]
    file_ = mido.MidiFile(path)
    assert (file_.type, file_.ticks_per_beat, len(file_.tracks)) == (1, 480, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_from_file_to_file_no_event_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_EVENTS", 64)
    with LiveMidiFile(tmp_path / "a.mid", RATE, lossless=True) as file:
        for k in range(3000):
            file.put([event("on", 480 * k, 60 + k % 3), event("off", 480 * k + 240, 60 + k % 3)])
    assert file.n_dropped == 0
    kinds = [kind for _, kind, _ in played(tmp_path / "a.mid")]
    assert kinds == ["note_on", "note_off"] * 3000


def test_a_full_disk_keeps_the_notes_that_fitted(tmp_path: Path) -> None:
    said: list[str] = []
    with small_disk(500), LiveMidiFile(tmp_path / "a.mid", RATE, say=said.append) as file:
        for k in range(500):
            file.put([event("on", 960 * k), event("off", 960 * k + 480)])
            if k % 20 == 0:
                file._wake.set()
                wait_for(lambda: file._n_waiting == 0)
    kinds = [kind for _, kind, _ in played(tmp_path / "a.mid")]
    assert kinds == ["note_on", "note_off"] * (len(kinds) // 2)
    assert 10 <= len(kinds) < 1000
    assert said == [f"{tmp_path / 'a.mid'}: File too large. What was played until here is kept"]


def test_from_file_to_file_an_error_leaves_the_old_files(tmp_path: Path) -> None:
    for name, make in (("a.mid", LiveMidiFile), ("a.wav", SoundFileSink)):
        (tmp_path / name).write_text("old")
        with pytest.raises(RuntimeError), make(tmp_path / name, RATE, lossless=True):
            raise RuntimeError
        assert (tmp_path / name).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_bad_folder_is_refused_before_the_music(tmp_path: Path) -> None:
    for make in (LiveMidiFile, SoundFileSink):
        with pytest.raises(AudioFileError, match="no such folder"):
            make(
                tmp_path / "none" / ("a.mid" if make is LiveMidiFile else "a.wav"), RATE
            ).__enter__()


# --- sound file of a live session -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_sound_file_is_kept_whatever_ends_the_session(tmp_path: Path, name: str) -> None:
    sound = np.clip(noise(RATE), -1, 1)
    with pytest.raises(KeyboardInterrupt), SoundFileSink(tmp_path / name, RATE) as sink:
        for at in range(0, RATE, BLOCK):
            sink.put(sound[at : at + BLOCK])
        raise KeyboardInterrupt
    kept, rate = soundfile.read(tmp_path / name)
    assert rate == RATE
    np.testing.assert_allclose(kept, sound, atol=2**-23)
    assert sink.error is None and sink.n_dropped == 0
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_full_disk_ends_the_sound_file(tmp_path: Path, name: str) -> None:
    sound = np.clip(noise(4 * RATE), -1, 1)
    with small_disk(200_000), SoundFileSink(tmp_path / name, RATE) as sink:
        for at in range(0, len(sound), BLOCK):
            sink.put(sound[at : at + BLOCK])
        wait_for(lambda: sink.error)
        sink.put(sound[:BLOCK])
    assert "What was played until then is kept" in str(sink.error)
    assert "\n" not in str(sink.error)
    frames = 40_000 if name == "a.flac" else -1  # a FLAC then does not say how long it is
    kept = soundfile.read(tmp_path / name, frames)[0]
    assert 40_000 <= len(kept) < 100_000
    np.testing.assert_allclose(kept, sound[: len(kept)], atol=2**-23)


def test_lossless_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_S", 0.01)
    sound = np.clip(noise(RATE), -1, 1)
    with SoundFileSink(tmp_path / "a.wav", RATE, lossless=True) as sink:
        for at in range(0, RATE, BLOCK):
            sink.put(sound[at : at + BLOCK])
    assert len(soundfile.read(tmp_path / "a.wav")[0]) == RATE
    assert sink.n_dropped == 0
