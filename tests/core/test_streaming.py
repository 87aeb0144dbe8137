"""Streaming resampler and framer: blocks equal the whole, causality, quality, stated delay."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from v3audio import compiled
from v3audio.errors import ConfigError
from v3audio.streaming import ANALYSIS_RATE, Framer, Newest, StreamingResampler

RATES = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000]


def resample(x: np.ndarray, rate: int, block: int | None = None) -> np.ndarray:
    resampler = StreamingResampler(rate)
    state = resampler.init_state()
    block = block or len(x)
    parts = []
    for start in range(0, len(x), block):
        y, state = resampler.step(x[start : start + block], state)
        parts.append(y)
    return np.concatenate(parts)


def tone(rate: int, hz: float, seconds: float) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 44100, 44101, 48000, 192000])
@pytest.mark.parametrize("block", [1, 7, 64, 128, 1000])
def test_blocks_equal_whole(rate: int, block: int) -> None:
    n = 1500 if block == 1 else 6000
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    np.testing.assert_array_equal(resample(x, rate, block), resample(x, rate))


@pytest.mark.parametrize("rate", [11025, 16000, 44100, 48000, 192000])
def test_compiled_or_not_is_the_same(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).standard_normal(6000).astype(np.float32)
    ours = resample(x, rate, 100)
    monkeypatch.setattr(compiled, "library", lambda: None)
    np.testing.assert_array_equal(resample(x, rate, 100), resample(x, rate))  # in numpy too
    np.testing.assert_allclose(ours, resample(x, rate), atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hop", [80, 13])
def test_the_newest_window_is_the_framers(
    rate: int, hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resampler, framer = StreamingResampler(rate), Framer(hop, 256)
    compiled_or_not = [Newest(resampler, framer)]
    monkeypatch.setattr(compiled, "library", lambda: None)
    compiled_or_not.append(Newest(resampler, framer))
    x = np.random.default_rng(1).standard_normal(rate // 2).astype(np.float32)
    windows, _ = framer.step(resample(x, rate), framer.init_state())
    for newest in compiled_or_not:
        for again in range(2):
            done = 0
            for k in range(20 + again):
                end = newest.n_needed(k)
                np.testing.assert_allclose(newest.step(x[done:end]), windows[k], atol=1e-6)
                done = end
            newest.reset()


@pytest.mark.parametrize("rate", RATES)
def test_outputs_exist_exactly_when_stated(rate: int) -> None:
    resampler = StreamingResampler(rate)
    state = resampler.init_state()
    x = np.zeros(1, np.float32)
    for _ in range(900):
        _, state = resampler.step(x, state)
        assert state.n_out == resampler.n_available(state.n_in)
        if state.n_out:
            assert resampler.n_needed(state.n_out - 1) <= state.n_in
        assert resampler.n_needed(state.n_out) > state.n_in


@pytest.mark.parametrize("rate", RATES)
def test_an_input_beyond_the_stated_one_changes_no_earlier_output(
    rate: int,
) -> None:
    resampler = StreamingResampler(rate)
    n = rate // 20
    x = np.random.default_rng(1).standard_normal(n).astype(np.float32)
    before = resample(x, rate)
    m = len(before) // 2
    changed = x.copy()
    changed[resampler.n_needed(m) :] += 1.0
    np.testing.assert_array_equal(resample(changed, rate)[: m + 1], before[: m + 1])


@pytest.mark.parametrize("rate", RATES)
def test_delay_is_as_stated(rate: int) -> None:
    """An output reports its own instant, and has waited `delay_samples` for it."""
    resampler = StreamingResampler(rate)
    low = min(rate, ANALYSIS_RATE)
    y = resample(tone(rate, 0.11 * low, 0.2), rate)
    m = np.arange(400, len(y) - 400)
    expected = 0.5 * np.sin(2 * np.pi * 0.11 * low * m / ANALYSIS_RATE)
    assert np.abs(y[m] - expected).max() < 2e-3  # a shift of 0.05 output samples would give 2e-2
    for k in (0, 1, 1000, 12345):
        waited = resampler.n_needed(k) - k * rate / ANALYSIS_RATE
        assert resampler.delay_samples < waited <= resampler.delay_samples + 1
    assert resampler.delay_s == resampler.delay_samples / rate
    if rate > ANALYSIS_RATE:
        assert resampler.delay_s < 0.0012


@pytest.mark.parametrize("rate", RATES)
def test_pass_band_is_flat(rate: int) -> None:
    low = min(rate, ANALYSIS_RATE)
    for share in (0.01, 0.1, 0.25, 0.35, 0.44):
        y = resample(tone(rate, share * low, 0.2), rate)[400:-400]
        gain_db = 20 * np.log10(np.sqrt(2) * np.sqrt(np.mean(np.square(y, dtype=float))) / 0.5)
        assert abs(gain_db) < 0.05, (rate, share, gain_db)


@pytest.mark.parametrize("rate", [22050, 24000, 44100, 48000, 96000, 192000])
def test_what_would_fold_onto_the_pass_band_is_60_db_down(rate: int) -> None:
    for hz in np.linspace(8920.0, min(rate / 2 - 100, 24000.0), 12):
        y = resample(tone(rate, float(hz), 0.1), rate)[200:-200]
        db = 20 * np.log10(np.sqrt(2) * np.sqrt(np.mean(np.square(y, dtype=float))) / 0.5)
        assert db < -60.0, (rate, hz, db)


def test_images_of_an_8_khz_recording_are_60_db_down() -> None:
    y = resample(tone(8000, 3000.0, 0.5), 8000)[400:-400]
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
    hz = np.fft.rfftfreq(len(y), 1 / ANALYSIS_RATE)
    assert spectrum[(hz > 4440)].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
def test_agrees_with_soxr_inside_the_pass_band(rate: int) -> None:
    rng = np.random.default_rng(2)
    low = min(rate, ANALYSIS_RATE)
    t = np.arange(rate // 2) / rate
    x = np.zeros(len(t))
    for hz in rng.uniform(60, 0.42 * low, 20):
        x += 0.05 * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6))
    x = (x * np.hanning(len(x))).astype(np.float32)
    ours, theirs = resample(x, rate), soxr.resample(x, rate, ANALYSIS_RATE, quality="VHQ")
    n = min(len(ours), len(theirs))
    assert np.abs(ours[:n] - theirs[:n]).max() < 2e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("rate", [7999, 192001, 44100.5, 0, -48000])
def test_refuses_rates_out_of_range(rate: float) -> None:
    with pytest.raises(ConfigError, match="8000 to 192000"):
        StreamingResampler(rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [1, 7, 64, 1000, 4000])
@pytest.mark.parametrize("hop", [80, 160, 2048])
def test_framer_blocks_equal_the_definition(hop: int, block: int) -> None:
    x = np.random.default_rng(3).standard_normal(4000).astype(np.float32)
    framer = Framer(hop)
    state = framer.init_state()
    frames = []
    for start in range(0, len(x), block):
        new, state = framer.step(x[start : start + block], state)
        frames.append(new)
        taken = min(start + block, len(x))
        assert framer.n_needed(state.n_frames) > taken >= framer.n_needed(state.n_frames - 1)
    padded = np.concatenate((np.zeros(2048, np.float32), x))
    expected = np.stack([padded[(k + 1) * hop :][:2048] for k in range(len(x) // hop)])
    np.testing.assert_array_equal(np.concatenate(frames), expected)


@pytest.mark.parametrize("hop", [0, 2049])
def test_framer_refuses_a_bad_hop(hop: int) -> None:
    with pytest.raises(ConfigError, match="expected 1"):
        Framer(hop)
