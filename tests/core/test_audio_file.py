from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from v3audio.audio_file import (
    AudioWriter,
    audio_info,
    check_output,
    is_audio_name,
    load_mono,
    read_mono,
)
from v3audio.errors import AudioFileError

WriteSound = Callable[..., Path]


def sine(n_samples: int, cycles_per_sample: float = 0.01, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * cycles_per_sample * np.arange(n_samples))


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 192_000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_rates_and_sample_formats(write_sound: WriteSound, sample_rate: int, subtype: str) -> None:
    x = sine(sample_rate // 10)
    path = write_sound("x.wav", x, sample_rate=sample_rate, subtype=subtype)
    info = audio_info(path)
    assert (info.sample_rate, info.n_samples, info.n_channels) == (sample_rate, len(x), 1)
    assert (info.format, info.subtype, info.duration_s) == ("WAV", subtype, 0.1)
    y, rate = load_mono(path)
    assert rate == sample_rate
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, x, atol=0.008 if subtype == "PCM_U8" else 1e-4)


def test_channels_are_averaged(write_sound: WriteSound) -> None:
    stereo = np.stack([np.full(1000, 0.5), np.full(1000, -0.1)], axis=1)
    y, _ = load_mono(write_sound("x.wav", stereo))
    np.testing.assert_allclose(y, 0.2, atol=1e-4)


@pytest.mark.parametrize("block", [1, 7, 999, 100_000])
def test_blocks_add_up_to_the_file(write_sound: WriteSound, block: int) -> None:
    path = write_sound("x.flac", sine(2500))
    blocks = list(read_mono(path, block_samples=block))
    assert all(len(b) == block for b in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks), load_mono(path)[0])


def test_resampling_does_not_shift_or_shorten(write_sound: WriteSound) -> None:
    path = write_sound("x.wav", sine(44_100, 440 / 44_100), sample_rate=44_100)
    y = np.concatenate(list(read_mono(path, sample_rate=16_000, block_samples=333)))
    assert abs(len(y) - 16_000) <= 1
    expected = sine(len(y), 440 / 16_000)
    np.testing.assert_allclose(y[500:-500], expected[500:-500], atol=2e-3)


def test_nan_and_infinity_are_silence_and_counted(
    write_sound: WriteSound, caplog: pytest.LogCaptureFixture
) -> None:
    x = sine(1000)
    x[10], x[20], x[30] = np.nan, np.inf, -np.inf
    with caplog.at_level(logging.WARNING, "v3audio"):
        y, _ = load_mono(write_sound("x.wav", x, subtype="FLOAT"))
    assert "3 samples are NaN or infinite" in caplog.text
    expected = np.where(np.isfinite(x), x, 0)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_peaks_of_40_db_are_turned_down(
    write_sound: WriteSound, caplog: pytest.LogCaptureFixture
) -> None:
    x = sine(16_000)
    with caplog.at_level(logging.WARNING, "v3audio"):
        y, _ = load_mono(write_sound("x.wav", 200 * x, subtype="FLOAT"))
    np.testing.assert_allclose(y, 2 * x, atol=1e-3)
    assert "peaks reach +40.0 dB above full scale; turned down by 40.0 dB" in caplog.text


def test_one_wild_sample_does_not_silence_the_rest(
    write_sound: WriteSound, caplog: pytest.LogCaptureFixture
) -> None:
    x = sine(16_000)
    x[5000] = 1e30
    with caplog.at_level(logging.WARNING, "v3audio"):
        y, _ = load_mono(write_sound("x.wav", x, subtype="DOUBLE"))
    assert np.abs(y).max() <= 1.0
    assert np.abs(y[6000:]).max() > 0.1
    assert "and clipped" in caplog.text


def test_a_sound_file_within_full_scale_is_not_remarked_upon(
    write_sound: WriteSound, caplog: pytest.LogCaptureFixture
) -> None:
    x = sine(1000, amplitude=1.0)
    y, _ = load_mono(write_sound("x.wav", x, subtype="FLOAT"))
    np.testing.assert_allclose(y, x, atol=1e-6)
    assert caplog.text == ""


def test_memory_stays_small_whatever_the_length(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    block = sine(192_000).astype(np.float32)
    with soundfile.SoundFile(path, "w", 192_000, 2, "PCM_16") as file:
        for _ in range(30):
            file.write(np.stack([block, block], axis=1))
    tracemalloc.start()
    n = sum(len(b) for b in read_mono(path, sample_rate=16_000, block_samples=128))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert abs(n - 30 * 16_000) <= 1
    assert peak_bytes < 8e6  # the samples alone take 46 MB as float


def _not_audio(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_text("these are words")
    return tmp_path / "a.wav"


def _pickle(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(pickle.dumps({"a": 1}))
    return tmp_path / "a.wav"


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(b"")
    return tmp_path / "a.wav"


def _raw(tmp_path: Path) -> Path:
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    return tmp_path / "a.raw"


def _sound(n_samples: int, sample_rate: int) -> Callable[[Path], Path]:
    def make(tmp_path: Path) -> Path:
        soundfile.write(tmp_path / "a.wav", np.zeros(n_samples), sample_rate)
        return tmp_path / "a.wav"

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "none.wav", "no such file"),
        (lambda p: p, "is a folder"),
        (lambda p: Path(os.devnull), "is a device"),
        (_empty, "is empty"),
        (_not_audio, "not a sound file"),
        (_pickle, "not a sound file"),
        (_raw, "not a sound file"),
        (_sound(0, 16_000), "holds no samples"),
        (_sound(480, 48_000), "lasts 10 ms, wanted at least 30 ms"),
        (_sound(4_000, 4_000), "sample rate is 4000 Hz, wanted 8000 to 192000"),
        (_sound(384_000, 384_000), "sample rate is 384000 Hz"),
    ],
)
def test_what_it_refuses(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(AudioFileError, match=said) as refusal:
        read_mono(make(tmp_path))  # refuses before the first block is asked for
    assert "\n" not in str(refusal.value)


def test_a_file_damaged_in_the_middle_says_where(write_sound: WriteSound) -> None:
    rng = np.random.default_rng(0)
    path = write_sound("x.flac", rng.uniform(-0.5, 0.5, 400_000))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(AudioFileError, match=r"damaged after \d+\.\d s"):
        load_mono(path)


def test_which_files_of_a_folder_are_recordings(write_sound: WriteSound, tmp_path: Path) -> None:
    write_sound("a.WAV"), write_sound(".hidden.wav")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.wav").mkdir()
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_audio_name(p)] == ["a.WAV"]


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("y.wav", "PCM_16"), ("y.wav", "PCM_24"), ("y.wav", "FLOAT"), ("y.FLAC", "PCM_24")],
)
def test_what_is_written_reads_back(tmp_path: Path, name: str, subtype: str) -> None:
    x = sine(10_000).astype(np.float32)
    with AudioWriter(tmp_path / name, 96_000, subtype=subtype) as writer:
        for start in range(0, len(x), 999):
            writer.write(x[start : start + 999])
        assert not (tmp_path / name).exists()
    y, rate = soundfile.read(tmp_path / name)
    assert rate == 96_000
    assert soundfile.info(tmp_path / name).subtype == subtype
    np.testing.assert_allclose(y, x, atol=4e-5)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_too_loud_is_clipped_not_wrapped(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "y.wav", 8_000) as writer:
        writer.write(np.array([2.0, -2.0, 0.5]))
    np.testing.assert_allclose(soundfile.read(tmp_path / "y.wav")[0], [1, -1, 0.5], atol=1e-6)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, raised: type[BaseException]
) -> None:
    target = tmp_path / "y.wav"
    target.write_bytes(b"old")
    with pytest.raises(raised), AudioWriter(target, 8_000) as writer:
        writer.write(np.zeros(5000))
        raise raised
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_targets_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match=r"'.mp3', wanted .wav or .flac"):
        AudioWriter(tmp_path / "y.mp3", 8_000)
    with pytest.raises(AudioFileError, match=r"no suffix, wanted .wav or .flac"):
        check_output(tmp_path / "y")
    with pytest.raises(AudioFileError, match="no FLOAT samples"):
        AudioWriter(tmp_path / "y.flac", 8_000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match="no such folder"), \
            AudioWriter(tmp_path / "none" / "y.wav", 8_000):  # fmt: skip
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="file size limits are a Unix notion")
@pytest.mark.parametrize("name", ["y.wav", "y.flac"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    script = """
import resource, sys
import numpy as np
from v3audio.audio_file import AudioWriter
from v3audio.errors import AudioFileError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rng = np.random.default_rng(0)
try:
    with AudioWriter(sys.argv[1], 48_000) as writer:
        for _ in range(100):
            writer.write(rng.uniform(-1, 1, 4096))
except AudioFileError as e:
    print(e)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / name)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "the disk is full" in said.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are a Unix notion")
def test_a_read_only_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:  # root may write anywhere, so the system's answer is given for it

        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    else:
        folder.chmod(0o500)
    with pytest.raises(AudioFileError, match="is read-only; choose a folder you may write to"), \
            AudioWriter(folder / "y.wav", 8_000):  # fmt: skip
        pass


def test_a_wav_longer_than_its_header_can_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v3audio.audio_file.WAV_LIMIT_BYTES", 30_000)
    with pytest.raises(AudioFileError, match=r"write a \.flac"), \
            AudioWriter(tmp_path / "y.wav", 8_000) as writer:  # fmt: skip
        for _ in range(11):
            writer.write(np.zeros(1000))
    with AudioWriter(tmp_path / "y.flac", 8_000) as writer:
        for _ in range(11):
            writer.write(np.zeros(1000))
    assert soundfile.info(tmp_path / "y.flac").frames == 11_000
