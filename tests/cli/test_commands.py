"""What the commands do when all goes well, and when they are stopped."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from v3audio import timbres
from v3audio.bundle import Bundle
from v3audio.cli import common
from v3audio.cli.transcribe import write_notes
from v3audio.notes import Note

Run = Callable[..., object]
WriteSound = Callable[..., Path]
NOTES = [Note(0.5, 1.0, 60, -12.5, 90, 0.9), Note(1.0, 1.75, 64, 3.0, 70, 0.5)]


@pytest.fixture
def done(run: Run) -> Callable[..., str]:
    """Run a command line that succeeds; its stdout."""

    def invoke(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr  # type: ignore[attr-defined]
        return result.stdout  # type: ignore[attr-defined, no-any-return]

    return invoke


Done = Callable[..., str]


# --- transcribe ----------------------------------------------------------------------------------


def test_notes_as_json_keep_the_promised_fields(tmp_path: Path) -> None:
    write_notes(tmp_path / "a.json", NOTES, "json")
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"onset_s": 0.5, "offset_s": 1.0, "midi": 60, "cents": -12.5, "velocity": 90,
         "confidence": 0.9},
        {"onset_s": 1.0, "offset_s": 1.75, "midi": 64, "cents": 3.0, "velocity": 70,
         "confidence": 0.5},
    ]  # fmt: skip


def test_notes_as_csv(tmp_path: Path) -> None:
    write_notes(tmp_path / "a.csv", NOTES, "csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"onset_s": "1.0", "offset_s": "1.75", "midi": "64", "cents": "3.0",
                       "velocity": "70", "confidence": "0.5"}  # fmt: skip


@pytest.mark.parametrize(("tempo", "us_per_beat"), [("90", 666_667), ("auto", 500_000)])
def test_midi_takes_the_tempo(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, tempo: str,
    us_per_beat: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("v3audio.api.transcribe", lambda *_, **__: NOTES)
    out = tmp_path / "out.mid"
    said = done("transcribe", write_sound("take.wav"), "-o", out, "--tempo", tempo)
    assert said == f"{out}: 2 notes\n"
    file = mido.MidiFile(out)
    assert file.tracks[0][1].tempo == us_per_beat
    assert file.tracks[1].name == "take"
    ons = [m for m in file.tracks[1] if m.type == "note_on"]
    assert [m.note for m in ons] == [60, 64]
    assert {m.channel for m in ons} == {0}


def test_mpe_gives_each_note_a_channel(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("v3audio.api.transcribe", lambda *_, **__: NOTES)
    done("transcribe", write_sound("take.wav"), "-o", tmp_path / "out.mid", "--mpe")
    ons = [m for m in mido.MidiFile(tmp_path / "out.mid").tracks[1] if m.type == "note_on"]
    assert [m.channel for m in ons] == [1, 2]


@pytest.mark.parametrize(
    ("name", "options"),
    [("out.json", []), ("out.csv", []), ("out.mid", []), ("bare", ["--format", "json"])],
)
def test_the_format_is_what_the_name_says(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, name: str,
    options: list[str],
) -> None:  # fmt: skip
    done("transcribe", write_sound("take.wav"), "-o", tmp_path / name, *options)
    head = (tmp_path / name).read_bytes()[:7]
    assert head.startswith({"out.csv": b"onset_s", "out.mid": b"MThd"}.get(name, b"["))


def test_a_folder_gives_a_folder(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path
) -> None:
    for name in ("a.wav", "b.flac"):
        write_sound(f"in/{name}")
    (tmp_path / "in" / "notes.txt").write_text("not a recording")
    done("transcribe", tmp_path / "in", "-o", tmp_path / "out", "--format", "csv")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.csv", "b.csv"]


# --- any sound is played -------------------------------------------------------------------------


def sounds() -> dict[str, tuple[np.ndarray, int, str]]:
    rng = np.random.default_rng(0)
    time_s = np.arange(24_000) / 48_000
    tone = 0.3 * np.sin(2 * np.pi * 220 * time_s)
    broken = tone.copy()
    broken[100:200], broken[300], broken[400] = np.nan, np.inf, -np.inf
    chord = sum(0.2 * np.sin(2 * np.pi * f * time_s) for f in (220, 277, 330))
    return {
        "8 kHz": (tone[::6], 8_000, "PCM_16"),
        "192 kHz": (np.repeat(tone, 4), 192_000, "PCM_24"),
        "44.1 kHz": (tone, 44_100, "PCM_16"),
        "stereo": (np.stack([tone, -0.5 * tone], 1), 48_000, "PCM_24"),
        "NaN and infinity": (broken, 48_000, "FLOAT"),
        "+40 dB": (300 * tone, 48_000, "FLOAT"),
        "silence": (np.zeros(24_000), 48_000, "PCM_16"),
        "noise": (rng.uniform(-0.5, 0.5, 24_000), 48_000, "PCM_16"),
        "chord": (chord, 48_000, "PCM_16"),
        "30 ms": (tone[:1440], 48_000, "PCM_16"),
    }


@pytest.mark.parametrize("kind", sounds())
def test_every_sound_comes_out_as_long_as_it_went_in(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, kind: str
) -> None:
    samples, rate, subtype = sounds()[kind]
    source = write_sound("in.wav", samples, sample_rate=rate, subtype=subtype)
    out, live, notes = tmp_path / "out.wav", tmp_path / "live.flac", tmp_path / "out.json"
    done("transfer", source, "-o", out, "--timbre", "reed")
    done("live", "--input", source, "--output", live, "--timbre", "reed")
    done("transcribe", source, "-o", notes)
    for path in (out, live):
        y, out_rate = soundfile.read(path)
        assert (len(y), out_rate) == (len(samples), rate)
        assert np.isfinite(y).all()
    assert isinstance(json.loads(notes.read_text()), list)


def test_silence_stays_silent(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path
) -> None:
    source = write_sound("in.wav", np.zeros(48_000), sample_rate=48_000)
    done("transfer", source, "-o", tmp_path / "out.wav", "--timbre", "reed")
    done("transcribe", source, "-o", tmp_path / "out.json")
    assert not soundfile.read(tmp_path / "out.wav")[0].any()
    assert json.loads((tmp_path / "out.json").read_text()) == []


# --- live ----------------------------------------------------------------------------------------


def test_live_reports_in_json_last_on_stdout(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path
) -> None:
    source = write_sound("in.wav", sample_rate=48_000)
    said = done("live", "--input", source, "--output", "none", "--timbre", "reed", "--json",
                "--midi", tmp_path / "a.mid", "--midi", tmp_path / "b.mid")  # fmt: skip
    report = json.loads(said.splitlines()[-1])
    assert list(report) == [
        "version", "model", "timbre", "sample_rate", "block", "device", "latency_ms", "step_ms",
        "rtf", "xruns", "late_hops", "dropped_events", "notes",
    ]  # fmt: skip
    assert list(report["latency_ms"]) == ["algorithm", "buffer", "device", "total"]
    assert list(report["step_ms"]) == ["p50", "p95", "max"]
    assert (report["timbre"], report["sample_rate"], report["block"]) == ("reed", 48_000, 128)
    assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()
    assert mido.MidiFile(tmp_path / "a.mid").type == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_live_stopped_in_the_middle_leaves_valid_files(
    instrument: Bundle, write_sound: WriteSound, tmp_path: Path, number: signal.Signals
) -> None:
    source = write_sound("in.wav", duration_s=60.0)
    wav, mid = tmp_path / "out.wav", tmp_path / "out.mid"
    process = subprocess.Popen(
        [sys.executable, "-c", "from v3audio.cli import main; main()", "live", "--input", source,
         "--output", wav, "--midi", mid, "--timbre", "reed", "--pace", "realtime",
         "--osc", "off"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    assert "latency" in process.stderr.readline()  # it plays
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "stopped after" in said
    assert 0 <= soundfile.info(wav).duration < 60.0
    assert mido.MidiFile(mid).type == 1
    assert {p.name for p in tmp_path.iterdir()} == {"in.wav", "out.wav", "out.mid"}


def test_what_nohup_shields_from_is_not_stopped() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with common.signals_like_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


# --- stopped in the middle -----------------------------------------------------------------------

STOPPED = {
    "transfer": ("out.wav", ["transfer", "IN", "-o", "OUT", "--timbre", "reed"]),
    "transcribe": ("out.mid", ["transcribe", "IN", "-o", "OUT"]),
    "encode": ("out.npz", ["encode", "IN", "-o", "OUT"]),
    "capture": ("unused", ["capture", "mine", "IN"]),
}


@pytest.mark.parametrize("command", STOPPED)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_leaves_what_was_there(
    run: Run, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, command: str,
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told: list[int] = []

    @contextlib.contextmanager
    def stop_at_first_progress(_label: str) -> Iterator[common.Progress]:
        def tell(done: int, _total: int) -> None:
            told.append(done)
            signal.raise_signal(number)

        yield tell

    monkeypatch.setattr(common, "_plain_lines", stop_at_first_progress)
    name, words = STOPPED[command]
    source, target = write_sound("in.wav", duration_s=3.0), tmp_path / name
    target.write_bytes(b"old")
    before = set(timbres.user_timbres_dir().iterdir())
    arguments = [{"IN": str(source), "OUT": str(target)}.get(word, word) for word in words]
    result = run(*arguments)
    assert len(told) == 1
    assert (result.exit_code, result.stderr) == (0, "v3audio: stopped\n")  # type: ignore[attr-defined]
    assert target.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"in.wav", name}
    assert set(timbres.user_timbres_dir().iterdir()) == before


# --- timbres, encode, the rest -------------------------------------------------------------------


def test_timbres_list_show_export_import_where(
    done: Done, instrument: Bundle, tmp_path: Path, home: Path
) -> None:
    line = next(x for x in done("timbres", "list").splitlines() if x.startswith("reed "))
    assert line.split() == ["reed", "D3-G#5", "sustained", "yours"]
    shown = done("timbres", "show", "reed")
    assert "D3 to G#5 (MIDI 50 to 80)" in shown
    assert str(home / "timbres" / "reed.safetensors") in shown
    file = tmp_path / "half-reed.safetensors"
    assert done("timbres", "export", "reed:0.5,reed:0.5", file).strip() == str(file)
    assert done("timbres", "import", file).strip() == str(home / "timbres" / file.name)
    assert "half-reed" in done("timbres", "list")
    assert str(home / "timbres") in done("timbres", "where")


def test_list_goes_on_past_a_damaged_timbre(run: Run, instrument: Bundle) -> None:
    (timbres.user_timbres_dir() / "bad.safetensors").write_bytes(b"junk")
    result = run("timbres", "list")
    assert result.exit_code == 0  # type: ignore[attr-defined]
    assert "bad.safetensors: damaged" in result.stderr  # type: ignore[attr-defined]
    assert "reed" in result.stdout  # type: ignore[attr-defined]


def test_encode_writes_a_row_per_frame(
    done: Done, instrument: Bundle, write_sound: WriteSound, tmp_path: Path
) -> None:
    done("encode", write_sound("in.wav", duration_s=1.0), "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert sorted(found) == ["code", "content", "level_db", "note", "style", "time_s"]
        assert {len(found[name]) for name in found} == {100}
        np.testing.assert_allclose(found["time_s"], 0.01 * np.arange(1, 101))


def test_devices_and_doctor_answer_on_any_machine(run: Run, instrument: Bundle) -> None:
    listed = run("devices")
    assert listed.exit_code == 0  # type: ignore[attr-defined]
    assert listed.stdout.startswith("audio\n")  # type: ignore[attr-defined]
    said = run("doctor").stdout  # type: ignore[attr-defined]
    for what in ("torch", "libsndfile", "model", "timbres", "PortAudio", "MIDI", "FluidSynth"):
        assert f" {what} " in said
    assert f"default ({instrument.checksum[:12]})" in said


def test_doctor_says_what_to_type(run: Run, instrument: Bundle, home: Path) -> None:
    (home / "models" / "default").unlink()
    (home / "models" / "default").mkdir()
    (home / "models" / "default" / "model.json").write_text("{")
    said = run("doctor").stdout  # type: ignore[attr-defined]
    line = said.splitlines().index(next(x for x in said.splitlines() if " model " in x))
    assert said.splitlines()[line].startswith("MISSING")
    assert "copy the model again" in said.splitlines()[line + 1]


def test_train_hands_the_recipe_on(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr("training.train.main", lambda *given: called.append(given) or Path("m"))
    assert done("train", "v3.toml", "--set", "run.steps=3", "--set", "a=b", "--resume") == "m\n"
    ((path, overrides, resume),) = called
    assert Path(str(path)).parent.name == "recipes"  # the shipped one, by its name
    assert (overrides, resume) == (["run.steps=3", "a=b"], True)
