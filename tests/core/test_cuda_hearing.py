"""Hearing as a player on a GPU gets it: the same numbers as on the CPU, for one or many at once."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import soxr
import torch

from v3audio import Engine
from v3audio.bundle import load_bundle
from v3audio.cuda_hearing import CudaHearing
from v3audio.paths import demo_recording
from v3audio.streaming import ANALYSIS_RATE, WINDOW

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """Notes and the silence between them, (100, WINDOW)."""
    sound, rate = soundfile.read(demo_recording(), dtype="float32")
    x = soxr.resample(sound, rate, ANALYSIS_RATE)
    firsts = np.linspace(0, len(x) - WINDOW, 100).astype(int)
    return np.stack([x[first : first + WINDOW] for first in firsts])


@pytest.mark.parametrize("device", DEVICES)
def test_each_frame_is_what_the_processor_hears(windows: np.ndarray, device: str) -> None:
    bundle = load_bundle()
    live = bundle.load_live_hearing("cpu")
    hearing = CudaHearing(bundle.load_torch_hearing(device))
    n_sure = 0
    for window in windows:
        expected, heard = live.frame(window), hearing.frame(window)
        assert heard.level_db == pytest.approx(expected.level_db, abs=1e-3)
        assert heard.onset == pytest.approx(expected.onset, abs=1e-3)
        assert heard.brief_db == pytest.approx(expected.brief_db, abs=1e-3)
        if expected.level_db > -90:  # in digital silence, all that is heard is rounding
            n_sure += 1
            np.testing.assert_allclose(heard.position, expected.position, atol=1e-3)
            np.testing.assert_allclose(heard.views, expected.views, atol=1e-3)
            assert hearing.code() == pytest.approx(live.code(), abs=1e-3)
            assert heard.pitch_midi == pytest.approx(expected.pitch_midi, abs=1e-3)
            assert heard.confidence == pytest.approx(expected.confidence, abs=1e-3)
            assert heard.periodicity == pytest.approx(expected.periodicity, abs=1e-3)
    assert n_sure > 50


@pytest.mark.parametrize("device", DEVICES)
def test_many_streams_at_once_are_heard_as_one_by_one(windows: np.ndarray, device: str) -> None:
    hearing = load_bundle().load_torch_hearing(device)
    together = CudaHearing(hearing, n_streams=len(windows)).step(windows).copy()
    one = CudaHearing(hearing)
    sounding = together[:, 0] > -90
    apart = np.stack([one.step(w[None])[0].copy() for w in windows])
    np.testing.assert_allclose(together[sounding], apart[sounding], atol=1e-3)
    assert len(np.unique(together[sounding, 6])) > 5  # several codes were heard


@pytest.mark.gpu
def test_the_engine_plays_the_same_on_either() -> None:
    sound, rate = soundfile.read(demo_recording(), dtype="float32", frames=3 * 44_100)
    played = {}
    for device in ("cpu", "cuda"):
        out, events = Engine("oboe", rate, device=device).process(sound)
        played[device] = out, [(e.kind, e.note, e.sample) for e in events if e.kind != "pitch"]
    np.testing.assert_allclose(played["cuda"][0], played["cpu"][0], atol=1e-3)
    assert played["cuda"][1] == played["cpu"][1]


def test_without_memory_the_player_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from v3audio.errors import DeviceError

    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError

    hearing = load_bundle().load_torch_hearing()
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(DeviceError, match="--device cpu"):
        CudaHearing(hearing)
