"""Whole recordings: notes, transfer, encode and capture stream, and agree with their definitions.

Hearing is replaced by a plain pitch finder, so that these tests judge the plumbing and not a model.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from v3audio import api, hear_file
from v3audio.bundle import Bundle
from v3audio.engine import Engine
from v3audio.errors import AudioFileError, ConfigError, DeviceError, TimbreError
from v3audio.live_hearing import Heard
from v3audio.notes import FrameNotes, Note, TrackerConfig, decode_notes
from v3audio.renderer import Renderer, RendererConfig
from v3audio.renderer_net import RendererNet, frozen
from v3audio.score import hear_score
from v3audio.timbres import Timbre

RATE = 16000
TIMBRE = Timbre(
    name="test", note_range=(40, 80), model="none", model_sha256="0", style=np.zeros(16, np.float32)
)
WriteSound = Callable[..., Path]


class SineEar:
    """Knows sine tones: pitch from the strongest FFT bin of the newest 64 ms."""

    def frames(self, windows: np.ndarray, *, style: bool = True) -> Heard:
        x = windows[:, -1024:].astype(np.float64)
        n = len(x)
        level = 10 * np.log10(np.square(x[:, -320:]).mean(1) + 1e-12).astype(np.float32)
        spectrum = np.abs(np.fft.rfft(x * np.hanning(1024), 16384, axis=1))
        hz = np.maximum(spectrum.argmax(1), 30) * RATE / 16384
        midi = (69 + 12 * np.log2(hz / 440)).astype(np.float32)
        loud = (level > -60).astype(np.float32)
        probs = np.full((n, 128), 1e-4, np.float32)
        probs[np.arange(n), np.clip(np.round(midi).astype(int), 0, 127)] = 1 - 127e-4
        content = np.zeros((n, 252), np.float32)
        content[np.arange(n), np.clip(np.round((midi - 20) * 3).astype(int), 0, 251)] = 1
        style = np.broadcast_to(midi[:, None], (n, 16)).astype(np.float32)
        power = np.square(x[:, -640:]).reshape(n, 2, 320).mean(2) + 1e-7
        onset = np.maximum(5 * np.log10(power[:, 1] / power[:, 0]), 0).astype(np.float32)
        code = np.round(midi).astype(np.int64)
        return Heard(level, onset, loud, midi, loud, probs, code, content, style)

    def frame(self, window: np.ndarray) -> FrameNotes:
        heard = self.frames(window[None])
        return FrameNotes(*(float(column[0]) for column in heard[:5]))


def tone(midi: float, seconds: float, rate: int = RATE, db_per_s: float = 0.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    hz = 440 * 2 ** ((midi - 69) / 12)
    return (0.3 * 10 ** (db_per_s * t / 20) * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def melody(pitches: list[float], seconds: float = 0.3, rest_s: float = 0.2) -> np.ndarray:
    rest = np.zeros(round(rest_s * RATE), np.float32)
    return np.concatenate([rest] + [np.concatenate([tone(p, seconds), rest]) for p in pitches])


# -- transcribe ----------------------------------------------------------------------------------


def test_transcribes_what_was_played() -> None:
    notes = api.transcribe((melody([60, 64.2, 67]), RATE), hearing=SineEar())
    assert [n.midi for n in notes] == [60, 64, 67]
    assert [n.onset_s for n in notes] == pytest.approx([0.2, 0.7, 1.2], abs=0.03)
    assert [n.offset_s for n in notes] == pytest.approx([0.5, 1.0, 1.5], abs=0.05)
    assert notes[1].cents == pytest.approx(20, abs=5)


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_a_file_and_its_samples_give_the_same_notes_at_any_rate(
    rate: int, write_sound: WriteSound
) -> None:
    x = np.concatenate([np.zeros(rate // 5), tone(62, 0.4, rate), np.zeros(rate // 5)])
    path = write_sound("take.wav", x.astype(np.float32), sample_rate=rate, subtype="FLOAT")
    from_file = api.transcribe(path, hearing=SineEar())
    assert from_file == api.transcribe((x.astype(np.float32), rate), hearing=SineEar())
    (note,) = from_file
    assert note.midi == 62
    assert note.onset_s == pytest.approx(0.2, abs=0.03)


def test_streaming_equals_hearing_all_frames_at_once() -> None:
    x = melody([60, 64, 67, 62], seconds=0.45)
    padded = np.concatenate([np.zeros(2048, np.float32), x, np.zeros(1600, np.float32)])
    n_frames = int((len(x) / RATE + hear_file.TAIL_S) * 100)
    windows = np.stack([padded[160 * (k + 1) :][:2048] for k in range(n_frames)])
    expected = decode_notes(SineEar().frames(windows), 0.01)
    notes = decode_notes(kept(x), 0.01)
    assert [replace(n, confidence=0) for n in notes] == [
        replace(n, confidence=0) for n in expected
    ]
    assert len(notes) == 4


def test_a_note_held_to_the_end_ends_with_the_recording() -> None:
    x = np.concatenate([np.zeros(3200, np.float32), tone(60, 0.5)])
    (note,) = api.transcribe((x, RATE), hearing=SineEar())
    assert note.offset_s == pytest.approx(0.7, abs=0.03)
    assert note.offset_s <= 0.7


def kept(x: np.ndarray) -> hear_file.Frames:
    kept_frames = hear_file.KeptFrames()
    for heard in hear_file.hear(hear_file.open_sound((x, RATE)), SineEar(), 0.1, None):
        kept_frames.add(heard)
    return kept_frames.frames()


def test_decoding_in_stretches_equals_decoding_at_once() -> None:
    pitches = [60 + int(k) for k in np.random.default_rng(0).integers(0, 12, 60)]
    x = np.concatenate([melody(pitches, 0.3, 0.1), tone(50, 14.0), melody([60, 61, 70], 0.5, 0.1)])
    frames = kept(x)
    whole = hear_file.decode(frames, TrackerConfig(), stretch_s=1e6)
    parts = hear_file.decode(frames, TrackerConfig(), stretch_s=8.0)
    assert len(whole) == 64
    assert [n.midi for n in parts] == [n.midi for n in whole]
    for a, b in zip(parts, whole, strict=True):
        assert a.onset_s == pytest.approx(b.onset_s, abs=0.011)
        assert a.offset_s == pytest.approx(b.offset_s, abs=0.011)


def test_noise_after_music_is_no_note_though_its_stretch_holds_nothing_else() -> None:
    """The gate is the recording's: a stretch of faint hiss alone would pass for a quiet take."""
    hiss = 10 ** (-62 / 20) * np.sin(2 * np.pi * 300 * np.arange(30 * RATE) / RATE)
    x = np.concatenate([melody([60, 64, 67] * 4), hiss.astype(np.float32)])
    notes = hear_file.decode(kept(x), TrackerConfig(), stretch_s=8.0)
    assert [n.midi for n in notes] == [60, 64, 67] * 4


def test_memory_does_not_grow_with_the_length() -> None:
    """Two minutes take what half a minute takes, but for the 100 bytes of each frame."""
    phrase = melody([60, 64, 67, 72])

    def peak(repeats: int) -> int:
        blocks = (phrase for _ in range(repeats))
        sound = hear_file.FileSound(blocks, RATE, repeats * len(phrase))
        tracemalloc.start()
        for heard in hear_file.hear(sound, SineEar(), 0.1, None):
            assert len(heard.level_db) <= hear_file.BATCH
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)
    assert peak(24) < 1.2 * peak(6)
    n_bytes = sum(column.nbytes for column in kept(phrase))
    assert n_bytes / (len(phrase) / 160) < 110  # 2 hours: 79 MB


@pytest.mark.parametrize("x", [np.zeros(16000, np.float32), np.zeros(0, np.float32)])
def test_silence_has_no_notes(x: np.ndarray) -> None:
    assert api.transcribe((x, RATE), hearing=SineEar()) == []


def test_nan_infinity_and_too_loud_samples_are_put_right() -> None:
    x = 100 * melody([60, 64])
    x[50:60] = np.nan
    x[7000] = np.inf
    notes = api.transcribe((x, RATE), hearing=SineEar())
    assert [n.midi for n in notes] == [60, 64]


def test_channels_are_averaged() -> None:
    x = np.stack([melody([60]), np.zeros_like(melody([60]))], axis=1)
    assert [n.midi for n in api.transcribe((x, RATE), hearing=SineEar())] == [60]


@pytest.mark.parametrize(
    ("x", "rate"),
    [(np.zeros(10, np.int16), RATE), (np.zeros((2, 3, 4)), RATE), (np.zeros(10), 7999)],
)
def test_refuses_samples_it_cannot_read(x: np.ndarray, rate: int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        api.transcribe((x, rate), hearing=SineEar())


def test_progress_reaches_the_end(write_sound: WriteSound) -> None:
    told: list[tuple[int, int]] = []
    path = write_sound(duration_s=3.5)
    api.transcribe(path, hearing=SineEar(), progress=lambda *done: told.append(done))
    assert told[-1] == (56000, 56000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_asking_for_a_missing_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        api.transcribe((melody([60]), RATE), device="cuda")


# -- transfer ------------------------------------------------------------------------------------


def engine(rate: int = RATE) -> Engine:
    torch.manual_seed(0)
    net = RendererNet(RendererConfig(hidden=16)).eval()
    return Engine(TIMBRE, rate, hearing=SineEar(), renderer=Renderer(frozen(net), rate))


def test_transfer_is_the_engine_run_over_the_samples_with_what_was_heard_before() -> None:
    x, ear = melody([60, 64]), SineEar()
    out = api.transfer(x, RATE, TIMBRE, engine=engine(), hearing=ear)
    assert out.shape == x.shape
    assert out.dtype == np.float32
    e = engine()
    e.reset(hear_score(hear_file.open_sound((x, RATE)), ear))
    parts = [e.process(x[i : i + 333])[0] for i in range(0, len(x), 333)]
    np.testing.assert_array_equal(out, np.concatenate(parts))
    again = api.transfer(x, RATE, engine=e, hearing=ear)  # a used engine starts anew
    np.testing.assert_array_equal(again, out)
    stereo = np.stack([x, x], axis=1)
    np.testing.assert_array_equal(api.transfer(stereo, RATE, engine=e, hearing=ear), out)


def test_transfer_warns_of_notes_that_the_timbre_does_not_have(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = melody([60, 64, 67], seconds=0.3)
    for low, high, transpose, warned in ((55, 90, 0, ""), (72, 96, 0, "+12"), (72, 96, 12, "")):
        caplog.clear()
        e = engine()
        e.timbre, e.transpose = replace(TIMBRE, note_range=(low, high)), transpose
        api.transfer(x, RATE, engine=e, hearing=SineEar())
        assert ("outside the range of" in caplog.text) == bool(warned) and warned in caplog.text


def test_transfer_sounds_when_the_source_sounds() -> None:
    x = melody([60, 64])
    out = api.transfer(x, RATE, TIMBRE, engine=engine(), hearing=SineEar())
    for first, last in ((0.2, 0.5), (0.7, 1.0)):
        assert not out[round((first - 0.1) * RATE) : round((first - 0.002) * RATE)].any()
        assert np.abs(out[round(first * RATE) :][: round(0.01 * RATE)]).max() > 0.05
        assert np.abs(out[: round(last * RATE)][-round(0.05 * RATE) :]).max() > 0.05


def test_transfer_file_keeps_rate_and_length(write_sound: WriteSound, tmp_path: Path) -> None:
    x = melody([60, 64])
    source = write_sound("in.wav", x, subtype="FLOAT")
    target = tmp_path / "out.wav"
    api.transfer_file(source, target, TIMBRE, engine=engine(), hearing=SineEar())
    y, rate = soundfile.read(target, dtype="float32")
    assert rate == RATE
    wanted = api.transfer(x, RATE, engine=engine(), hearing=SineEar())
    np.testing.assert_allclose(y, wanted, atol=2**-22)


def test_transfer_file_refuses_an_engine_of_another_rate(
    write_sound: WriteSound, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="16000 Hz"):
        api.transfer_file(write_sound(), tmp_path / "out.wav", TIMBRE, engine=engine(48000))
    assert not (tmp_path / "out.wav").exists()


def test_transfer_file_that_breaks_leaves_the_old_file(
    write_sound: WriteSound, tmp_path: Path
) -> None:
    target = tmp_path / "out.wav"
    target.write_bytes(b"old")

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.transfer_file(
            write_sound(), target, TIMBRE, engine=engine(), hearing=SineEar(), progress=stop
        )
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.wav", "tone.wav"]


# -- encode --------------------------------------------------------------------------------------


def test_encode_writes_every_frame(write_sound: WriteSound, tmp_path: Path) -> None:
    x = melody([60, 64])
    path = write_sound("in.wav", x, subtype="FLOAT")
    target = api.encode(path, tmp_path / "out.npz", hearing=SineEar())
    data = np.load(target)
    n = len(x) // 160
    assert {name: (data[name].shape, data[name].dtype.name) for name in data.files} == {
        "time_s": ((n,), "float64"),
        "level_db": ((n,), "float32"),
        "code": ((n,), "int32"),
        "content": ((n, 252), "float16"),
        "style": ((n, 16), "float32"),
        "note": ((n,), "int16"),
    }
    np.testing.assert_allclose(data["time_s"], np.arange(1, n + 1) * 0.01)
    padded = np.concatenate([np.zeros(2048, np.float32), x])
    windows = np.stack([padded[160 * (k + 1) :][:2048] for k in range(n)])
    heard = SineEar().frames(windows)
    np.testing.assert_array_equal(data["code"], heard.code)
    np.testing.assert_array_equal(data["content"], heard.content)
    np.testing.assert_allclose(data["style"], heard.style, rtol=1e-6)
    time_s = data["time_s"]
    assert set(data["note"][(time_s > 0.3) & (time_s < 0.5)]) == {60}
    assert set(data["note"][(time_s > 0.8) & (time_s < 1.0)]) == {64}
    assert set(data["note"][time_s < 0.19]) == {-1}


def test_encode_that_breaks_leaves_nothing(write_sound: WriteSound, tmp_path: Path) -> None:
    class Broken(SineEar):
        def frames(self, windows: np.ndarray, *, style: bool = True) -> Heard:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.encode(write_sound(), tmp_path / "out.npz", hearing=Broken())
    assert [p.name for p in tmp_path.iterdir()] == ["tone.wav"]
    with pytest.raises(AudioFileError, match="no such folder"):
        api.encode(write_sound(), tmp_path / "missing" / "out.npz", hearing=SineEar())


# -- capture -------------------------------------------------------------------------------------


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    made = Bundle(Path("models/tiny"), {}, None, "c" * 64)
    monkeypatch.setattr("v3audio.capture.load_bundle", lambda _name: made)
    return made


def test_capture_takes_mean_style_range_and_model(bundle: Bundle, write_sound: WriteSound) -> None:
    paths = [
        write_sound("a.wav", melody([60, 72], seconds=0.8), subtype="FLOAT"),
        write_sound("b.wav", melody([66], seconds=0.8), subtype="FLOAT"),
    ]
    told: list[tuple[int, int]] = []
    timbre = api.capture("mine", paths, hearing=SineEar(), progress=lambda *done: told.append(done))
    assert timbre.name == "mine"
    assert timbre.note_range == (60, 72)
    assert (timbre.model, timbre.model_sha256) == (bundle.name, bundle.checksum)
    np.testing.assert_allclose(timbre.style, 66.0, atol=0.5)  # this ear's "style" is the pitch
    assert timbre.decay_db_per_s == 0.0
    assert "a.wav, b.wav" in timbre.source
    assert told[-1][0] == told[-1][1]


def test_capture_notices_that_notes_die_away(bundle: Bundle, write_sound: WriteSound) -> None:
    rest = np.zeros(3200, np.float32)
    x = np.concatenate([rest, tone(60, 1.2, db_per_s=-20), rest, tone(64, 1.2, db_per_s=-20), rest])
    path = write_sound("plucked.wav", x, subtype="FLOAT")
    timbre = api.capture("plucked", [path], hearing=SineEar())
    assert timbre.decay_db_per_s == pytest.approx(20, abs=2)


def test_capture_takes_what_swells_and_falls_for_bowed(
    bundle: Bundle, write_sound: WriteSound
) -> None:
    swell, fall = tone(60, 0.5, db_per_s=24), tone(60, 0.8, db_per_s=-20)
    swell *= np.abs(fall).max() / np.abs(swell).max()
    x = np.concatenate([np.zeros(3200, np.float32), swell, fall, np.zeros(3200, np.float32)])
    path = write_sound("bowed.wav", x, subtype="FLOAT")
    assert api.capture("bowed", [path], hearing=SineEar()).decay_db_per_s == 0.0


def test_capture_hears_how_notes_let_go_ring_on(bundle: Bundle, write_sound: WriteSound) -> None:
    rest = np.zeros(3200, np.float32)
    for fade_s in (0.0, 0.3):
        fade = np.power(10.0, -3.0 * np.arange(4800) / 16_000 / max(fade_s, 1e-3))
        ring = (tone(60, 0.3) * fade).astype(np.float32)
        x = np.concatenate([rest, *[tone(60, 0.6), ring, rest] * 2])
        timbre = api.capture("ringing", [write_sound("r.wav", x, subtype="FLOAT")],
                             hearing=SineEar())  # fmt: skip
        assert timbre.extras["release_s"] == pytest.approx(fade_s + 0.03, abs=0.1)


def test_capture_refuses_what_holds_no_notes(bundle: Bundle, write_sound: WriteSound) -> None:
    path = write_sound("short.wav", melody([60], seconds=0.3), subtype="FLOAT")
    with pytest.raises(TimbreError, match="wanted at least 1 s"):
        api.capture("short", [path], hearing=SineEar())
    with pytest.raises(TimbreError, match="cannot be the name"):
        api.capture("../evil", [path], hearing=SineEar())


def test_the_package_offers_these_names() -> None:
    import v3audio

    assert v3audio.transcribe is api.transcribe
    assert v3audio.transfer is api.transfer
    assert v3audio.Engine is Engine
    assert v3audio.Note is Note
