"""What a user can get wrong: one line, exit 2, nothing lost, nothing left half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from v3audio import timbres
from v3audio.bundle import Bundle

Refused = Callable[..., str]
WriteSound = Callable[..., Path]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transcribe", "x.wav"], "Missing option '-o'"),
        (["transcribe", "-o", "x.mid"], "Missing argument"),
        (["transcibe"], "No such command 'transcibe'"),
        (["live", "--mix", "2"], "--mix"),
        (["live", "--device", "gpu"], "'gpu'"),
        (["live", "--blok", "3"], "--blok"),
        (["transfer", "x.wav", "-o", "y.wav", "--transpose", "up"], "'--transpose'"),
        (["transcribe", "x.wav", "-o", "y.mid", "--tempo", "fast"], "--tempo fast: wanted 20 to"),
        (["transcribe", "x.wav", "-o", "y.mid", "--tempo", "5"], "--tempo 5: wanted 20 to"),
        (["transcribe", "x.wav", "-o", "y.mid", "--format", "csv"], "name it y.csv"),
        (["transfer", "x.wav", "-o", "y.mp3"], "'.mp3', wanted .wav or .flac"),
        (["encode", "x.wav", "-o", "y"], "wanted a .npz file; name it y.npz"),
        (["train", "none.toml"], "no such recipe"),
        (["capture", "a/b", "x.wav"], "cannot be the name of a timbre"),
        (["timbres", "show", "nothing-like-it"], "no timbre 'nothing-like-it'"),
        (["timbres", "import", "none.safetensors"], "no such file"),
        (["data", "melodies", "-o", "x", "--programs", "flute"], "--programs flute: wanted num"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_command_lines(
    refused: Refused, arguments: list[str], said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in refused(*arguments)
    assert not list(tmp_path.iterdir())


def _write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


BAD_SOUNDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "not audio": (_write(b"these are words"), "not a sound file"),
    "empty": (_write(b""), "is empty"),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), 48_000), "holds no samples"),
    "10 ms": (lambda path: soundfile.write(path, np.zeros(480), 48_000), "lasts 10 ms"),
    "4 kHz": (lambda path: soundfile.write(path, np.zeros(4_000), 4_000), "is 4000 Hz"),
}
COMMANDS = {
    "transcribe": ("out.mid", ["transcribe", "IN", "-o", "OUT"]),
    "transfer": ("out.wav", ["transfer", "IN", "-o", "OUT", "--timbre", "reed"]),
    "live": ("out.wav", ["live", "--input", "IN", "--output", "OUT", "--timbre", "reed"]),
    "encode": ("out.npz", ["encode", "IN", "-o", "OUT"]),
    "capture": ("home/timbres/mine.safetensors", ["capture", "mine", "IN"]),
}


def _fill(command: list[str], source: Path, target: Path) -> list[str]:
    return [{"IN": str(source), "OUT": str(target)}.get(word, word) for word in command]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", BAD_SOUNDS)
def test_sound_that_cannot_be_used(
    refused: Refused, instrument: Bundle, tmp_path: Path, command: str, kind: str
) -> None:
    name, words = COMMANDS[command]
    make, said = BAD_SOUNDS[kind]
    source, target = tmp_path / "take.wav", tmp_path / name
    make(source)
    assert said in refused(*_fill(words, source, target))
    assert {p.name for p in tmp_path.iterdir()} <= {"take.wav"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "capture"])
def test_outputs_that_cannot_be(
    refused: Refused, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, command: str
) -> None:
    name, words = COMMANDS[command]
    source = write_sound("take.wav")
    target = tmp_path / "none" / name
    assert "make it first" in refused(*_fill(words, source, target))
    folder = tmp_path / f"folder{Path(name).suffix}"
    if command not in ("transcribe", "encode"):  # to these a folder is a fine answer
        folder.mkdir()
        assert "is a folder" in refused(*_fill(words, source, folder))
        folder.rmdir()
    assert [p.name for p in tmp_path.iterdir()] == ["take.wav"]


FULL_DISK = """
import resource, sys
from v3audio.cli import main
sys.argv = ["v3audio", *sys.argv[1:]]
import torch, realtime.session, v3audio.api  # what must write on loading has done so
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
main()
"""


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "capture"])
@pytest.mark.slow
def test_a_full_disk(
    instrument: Bundle, home: Path, write_sound: WriteSound, tmp_path: Path, command: str
) -> None:
    name, words = COMMANDS[command]
    if command == "transcribe":  # no notes are few bytes, but the head of an MPE file is not
        words = [*words, "--mpe"]
    source, target = write_sound("take.wav", duration_s=1.0), tmp_path / name
    target.write_bytes(b"old")
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *_fill(words, source, target)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert "the disk is full" in ended.stderr.splitlines()[-1]
    assert target.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"take.wav", name}


def _read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    if os.geteuid() != 0:
        folder.chmod(0o500)
        return
    really = os.open  # root may write anywhere, so the system's answer is given for it

    def answer(path: str | Path, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_CREAT and Path(path).parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", answer)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "capture"])
def test_a_read_only_folder(
    refused: Refused, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name, words = COMMANDS[command]
    source, folder = write_sound("take.wav"), tmp_path / "locked"
    folder.mkdir()
    _read_only(monkeypatch, folder)
    assert "is read-only" in refused(*_fill(words, source, folder / name))
    assert not list(folder.iterdir())


# --- timbres and models --------------------------------------------------------------------------


def _reed() -> Path:
    return timbres.path_of("reed")


BAD_TIMBRES: dict[str, tuple[Callable[[], object], str]] = {
    "misspelt": (lambda: _reed().rename(_reed().with_name("reeds.safetensors")), "mean 'reeds'?"),
    "damaged": (lambda: _reed().write_bytes(_reed().read_bytes()[:-7]), "damaged"),
    "pickle": (lambda: _reed().write_bytes(pickle.dumps({})), "is a pickle"),
    "foreign": (lambda: save_file({"x": np.zeros(2, np.float32)}, _reed()), "not a timbre"),
}


@pytest.mark.parametrize("kind", BAD_TIMBRES)
def test_timbres_that_cannot_be_played(
    refused: Refused, instrument: Bundle, write_sound: WriteSound, tmp_path: Path, kind: str
) -> None:
    spoil, said = BAD_TIMBRES[kind]
    spoil()
    target = tmp_path / "out.wav"
    command = ["transfer", write_sound("take.wav"), "-o", target, "--timbre", "reed"]
    assert said in refused(*command)
    assert not target.exists()


def _spoil_json(**fields: object) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def _flip(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-9] ^= 1
        (folder / name).write_bytes(data)

    return spoil


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no model 'mine'"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
    "damaged weights": (_flip("model.safetensors"), "does not match its checksum"),
    "damaged renderer": (_flip("renderer.safetensors"), "does not match its checksum"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({})),
        "does not match its checksum",
    ),
    "foreign": (_spoil_json(kind="other"), "not a v3audio model"),
    "future": (_spoil_json(format=99), "format 99"),
    "not json": (lambda f: (f / "model.json").write_text("{"), "cannot be read as JSON"),
    "unnamed codes": (_spoil_json(code_to_note=None), "calibrate"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_models_that_cannot_be_used(
    refused: Refused, instrument: Bundle, home: Path, write_sound: WriteSound, tmp_path: Path,
    kind: str,
) -> None:  # fmt: skip
    folder = home / "models" / "mine"
    shutil.copytree(instrument.folder, folder)
    spoil, said = BAD_MODELS[kind]
    spoil(folder)
    target = tmp_path / "out.wav"
    command = ["transfer", write_sound("take.wav"), "-o", target, "--timbre", "reed"]
    assert said in refused(*command, "--model", "mine")
    assert not target.exists()


def test_a_timbre_of_another_model(
    refused: Refused, instrument: Bundle, write_sound: WriteSound, tmp_path: Path
) -> None:
    other = timbres.Timbre(
        name="other", note_range=(50, 80), model="old", model_sha256="0" * 64, style=np.zeros(16)
    )  # fmt: skip
    timbres.save_as_users(other)
    command = ["transfer", write_sound("take.wav"), "-o", tmp_path / "out.wav"]
    assert "was made for model 'old'" in refused(*command, "--timbre", "other")


# --- several files -------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "suffix"), [("transcribe", "json"), ("encode", "npz")])
def test_a_bad_file_among_many_does_not_lose_the_others(
    run: Callable[..., object], instrument: Bundle, write_sound: WriteSound, tmp_path: Path,
    command: str, suffix: str,
) -> None:  # fmt: skip
    good = [write_sound(f"in/{name}.wav") for name in "ac"]
    bad = tmp_path / "in" / "b.wav"
    bad.write_text("words")
    out = tmp_path / "out"
    kind = ["--format", "json"] if command == "transcribe" else []
    result = run(command, good[0], bad, good[1], "-o", out, *kind)
    assert result.exit_code == 2  # type: ignore[attr-defined]
    lines = result.stderr.splitlines()  # type: ignore[attr-defined]
    assert "b.wav: not a sound file" in lines[0]
    assert "1 of 3 files failed" in lines[1]
    assert sorted(p.name for p in out.iterdir()) == [f"a.{suffix}", f"c.{suffix}"]


def test_inputs_that_would_overwrite_one_another(
    refused: Refused, instrument: Bundle, write_sound: WriteSound, tmp_path: Path
) -> None:
    inputs = [write_sound("a/take.wav"), write_sound("b/take.wav")]
    assert "would both become" in refused("transcribe", *inputs, "-o", tmp_path / "out")


def test_a_folder_without_sound(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    said = refused("transcribe", tmp_path / "in", "-o", tmp_path / "out")
    assert "a folder without sound files" in said
