"""The engine: blocks equal the whole, causality, stated latency, and input that is no music.

Hearing is replaced by a plain pitch finder, so that these tests judge the engine and not a model;
the tracker and the renderer are the real ones (the renderer's network is random but seeded).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from v3audio.audio_file import load_mono
from v3audio.engine import Engine, Voice, VoiceConfig
from v3audio.errors import ConfigError, DeviceError, TimbreError
from v3audio.notes import FrameNotes, NoteEvent
from v3audio.paths import presets_dir
from v3audio.renderer import Renderer, RendererConfig, RendererNet
from v3audio.timbres import Timbre

RATE = 48000
TIMBRE = Timbre(
    name="test", note_range=(40, 80), model="none", model_sha256="0", style=np.zeros(16, np.float32)
)


class PitchFinder:
    """Autocorrelation peak of the newest 64 ms: enough for steady tones, and deterministic.

    Args:
        always: say this MIDI pitch, whatever sounds.
    """

    def __init__(self, always: float | None = None) -> None:
        self.always = always

    def frame(self, window: np.ndarray) -> FrameNotes:
        x = window[-1024:].astype(np.float64)
        level = 10 * np.log10(np.square(x[-320:]).mean() + 1e-12)
        lags = np.fft.irfft(np.abs(np.fft.rfft(x, 2048)) ** 2)[:512]
        share = lags / max(lags[0], 1e-9)
        best = 20 + int(share[20:-1].argmax())
        periodicity = float(np.clip(share[best] * 1024 / (1024 - best), 0, 1))
        left, mid, right = share[best - 1 : best + 2]
        curve = min(left - 2 * mid + right, -1e-9)
        peak = best + np.clip(0.5 * (left - right) / curve, -0.5, 0.5)
        midi = 69 + 12 * np.log2(16000 / peak / 440) if self.always is None else self.always
        return FrameNotes(float(level), 0.0, periodicity, float(midi), periodicity)


@cache
def network() -> RendererNet:
    torch.manual_seed(0)
    return RendererNet(RendererConfig(hidden=16)).eval()


def engine(
    rate: int = RATE, timbre: Timbre = TIMBRE, always: float | None = None, **options: object
) -> Engine:
    return Engine(
        timbre,
        rate,
        hearing=PitchFinder(always),
        renderer=Renderer(network(), rate),
        **options,  # type: ignore[arg-type]
    )


def tone(midi: float, seconds: float, rate: int = RATE, amplitude: float = 0.3) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    hz = 440 * 2 ** ((midi - 69) / 12)
    x = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 6))
    return (amplitude * x).astype(np.float32)


def melody(rate: int = RATE) -> np.ndarray:
    rest = np.zeros(round(0.05 * rate), np.float32)
    parts = [rest, tone(57, 0.15, rate), tone(63, 0.12, rate), rest, tone(69, 0.1, rate), rest]
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    x = np.concatenate(parts)
    return x + 1e-3 * noise[: len(x)]


def run(e: Engine, x: np.ndarray, block: int | None = None) -> tuple[np.ndarray, list[NoteEvent]]:
    parts, events = [], []
    block = block or max(1, len(x))
    for start in range(0, len(x), block):
        out, new = e.process(x[start : start + block])
        parts.append(out)
        events += new
    return np.concatenate(parts), events + e.flush()


@cache
def whole(rate: int) -> tuple[np.ndarray, list[NoteEvent]]:
    return run(engine(rate, mix=0.8), melody(rate))


# -- blocks and causality ------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("block", [1, 7, 64, 128, 1000])
def test_blocks_equal_the_whole(rate: int, block: int) -> None:
    out, events = run(engine(rate, mix=0.8), melody(rate), block)
    np.testing.assert_array_equal(out, whole(rate)[0])
    assert events == whole(rate)[1]
    assert len(events) >= 4


def test_blocks_of_changing_sizes_and_none_at_all_equal_the_whole() -> None:
    x, e = melody(), engine(mix=0.8)
    rng = np.random.default_rng(1)
    parts, events, at = [], [], 0
    while at < len(x):
        n = int(rng.integers(0, 700))
        out, new = e.process(x[at : at + n])
        assert len(out) == len(x[at : at + n])
        parts.append(out)
        events += new
        at += n
    np.testing.assert_array_equal(np.concatenate(parts), whole(RATE)[0])
    assert events + e.flush() == whole(RATE)[1]


@pytest.mark.parametrize("at", [1, 5000, 9601, 12345, 20000])
def test_what_comes_later_changes_nothing_before(at: int) -> None:
    x = melody()
    changed = x.copy()
    changed[at:] = np.random.default_rng(2).standard_normal(len(x) - at)
    out, events = run(engine(mix=0.8), changed)
    # sample `at` itself may differ through the dry part, and does
    np.testing.assert_array_equal(out[:at], whole(RATE)[0][:at])
    assert out[at] != whole(RATE)[0][at]

    def before(all_events: list[NoteEvent]) -> list[NoteEvent]:
        return [e for e in all_events if e.sample <= at]

    assert before(events) == before(whole(RATE)[1])


def test_reset_starts_over() -> None:
    e = engine(mix=0.8)
    run(e, melody()[:12000])
    e.reset()
    assert e.n_samples == 0
    out, events = run(e, melody())
    np.testing.assert_array_equal(out, whole(RATE)[0])
    assert events == whole(RATE)[1]


def test_warming_up_leaves_no_trace() -> None:
    e = engine(mix=0.8)
    e.warm_up()
    np.testing.assert_array_equal(run(e, melody())[0], whole(RATE)[0])


# -- latency ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 96000])
def test_latency_is_as_stated(rate: int) -> None:
    """A steady tone jumps up by 12 dB at every place of a hop: when does the output follow?"""
    stated = engine(rate).latency_samples
    assert stated / rate < 0.0065
    n, hop = round(0.35 * rate), -(-80 * rate // 16000)
    steady = tone(69, n / rate, rate, 0.05)
    base = run(engine(rate), steady)[0]
    assert np.abs(base[n // 2 :]).max() > 0.01
    waits = []
    for step in range(0, hop, max(1, hop // 10)):
        at = round(0.3 * rate) + step
        louder = steady.copy()
        louder[at:] *= 4
        out = run(engine(rate), louder)[0]
        # the level is an RMS over 20 ms and glides over one hop: here it begins to
        heard = np.abs(out - base) > 1e-3 * np.abs(base).max()
        waits.append(int(np.argmax(heard)) - at)
    assert min(waits) > 0
    assert max(waits) <= stated
    assert max(waits) >= 0.7 * stated


# -- sound and notes -----------------------------------------------------------------------------


def test_plays_the_notes_it_heard_and_says_so() -> None:
    x = np.concatenate([np.zeros(4800, np.float32), tone(57, 0.4), np.zeros(9600, np.float32)])
    out, events = run(engine(), x)
    kinds = [e.kind for e in events if e.kind != "pitch"]
    assert kinds == ["on", "off"]
    on, off = (e for e in events if e.kind != "pitch")
    assert on.note == off.note == 57
    assert 4800 < on.sample < 4800 + 0.06 * RATE
    assert 24000 < off.sample < 24000 + 0.06 * RATE
    played = np.abs(np.fft.rfft(out[10000:20000] * np.hanning(10000), 65536)) ** 2
    lags = np.fft.irfft(played)[200:1200]
    assert abs((200 + lags.argmax()) - RATE / 220) <= 2  # one period of A3


def test_level_passes_through_with_the_timbres_gain() -> None:
    quiet = run(engine(), tone(69, 0.5, amplitude=0.05))[0]
    loud = run(engine(), tone(69, 0.5, amplitude=0.2))[0]
    gained = run(engine(timbre=replace(TIMBRE, gain_db=6.0)), tone(69, 0.5, amplitude=0.05))[0]

    def db(x: np.ndarray) -> float:
        return float(10 * np.log10(np.mean(np.square(x[12000:], dtype=float))))

    assert db(loud) - db(quiet) == pytest.approx(12.0, abs=1.5)
    assert db(gained) - db(quiet) == pytest.approx(6.0, abs=1.5)
    source = tone(69, 0.5, amplitude=0.05)
    assert db(quiet) == pytest.approx(db(source), abs=3.0)


def test_a_struck_timbre_dies_away_while_the_player_holds() -> None:
    out = run(engine(timbre=replace(TIMBRE, decay_db_per_s=40.0)), tone(69, 0.9))[0]
    early = np.mean(np.square(out[9600:12000], dtype=float))
    late = np.mean(np.square(out[36000:38400], dtype=float))
    assert 10 * np.log10(early / late) == pytest.approx(40.0 * 26400 / RATE, abs=3.0)


def test_decay_may_differ_along_the_range_and_the_release_rings() -> None:
    extras = {"decay_low_db_per_s": 10.0, "decay_high_db_per_s": 50.0, "release_s": 9.0}
    timbre = replace(TIMBRE, decay_db_per_s=30.0, extras=extras)
    x = np.concatenate([tone(70, 0.9), np.zeros(RATE // 2, np.float32)])
    out = run(engine(timbre=timbre), x)[0]
    early = np.mean(np.square(out[9600:12000], dtype=float))
    late = np.mean(np.square(out[36000:38400], dtype=float))
    assert 10 * np.log10(early / late) == pytest.approx(40.0 * 26400 / RATE, abs=3.0)
    ringing = out[round(1.0 * RATE) : round(1.1 * RATE)]  # 60 dB in 0.3 s, not in 9
    assert np.abs(ringing).max() > 1e-5
    assert not out[round(1.3 * RATE) :].any()
    odd = replace(TIMBRE, extras={"release_s": "long", "decay_low_db_per_s": None})
    np.testing.assert_array_equal(run(engine(timbre=odd), x)[0], run(engine(), x)[0])


@pytest.mark.parametrize(("transpose", "note", "cents"), [(7, 76, 0), (-12, 57, 0), (0.5, 69, 50)])
def test_transpose_moves_sound_and_events(transpose: float, note: int, cents: float) -> None:
    out, events = run(engine(transpose=transpose), tone(69, 0.5))
    on = next(e for e in events if e.kind == "on")
    assert on.note == note
    assert on.cents == pytest.approx(cents, abs=15)
    played = np.abs(np.fft.rfft(out[9600:21600] * np.hanning(12000), 131072)) ** 2
    lags = np.fft.irfft(played)
    period = RATE / (440 * 2 ** (transpose / 12))
    assert abs(60 + lags[60:400].argmax() - period) <= 0.02 * period + 1


def test_offs_match_ons_even_when_the_transposition_changes_in_between() -> None:
    e = engine()
    events = e.process(tone(69, 0.3))[1]
    e.transpose = 5
    events += e.process(np.concatenate([tone(69, 0.1), np.zeros(9600, np.float32)]))[1] + e.flush()
    ons = [x.note for x in events if x.kind == "on"]
    offs = [x.note for x in events if x.kind == "off"]
    assert ons == offs
    assert ons[0] == 69


def test_notes_pushed_out_of_midis_range_come_back_by_octaves() -> None:
    _, high = run(engine(transpose=36, always=93.0), tone(69, 0.3))
    _, low = run(engine(transpose=-36, always=34.0), tone(69, 0.3))
    assert {e.note for e in high} == {93 + 36 - 12}
    assert {e.note for e in low} == {34 - 36 + 12}


def test_flush_closes_what_sounds() -> None:
    e = engine()
    _, events = e.process(tone(69, 0.3))
    assert [x.kind for x in events if x.kind != "pitch"] == ["on"]
    (off,) = e.flush()
    assert (off.kind, off.note, off.sample) == ("off", 69, round(0.3 * RATE))
    assert e.flush() == []


def test_dry_is_the_undelayed_input_and_mix_blends() -> None:
    x = melody()
    np.testing.assert_array_equal(run(engine(mix=0.0), x)[0], x)
    wet = run(engine(mix=1.0), x)[0]
    np.testing.assert_allclose(run(engine(mix=0.25), x)[0], 0.75 * x + 0.25 * wet, atol=1e-6)


# -- input that is no music ----------------------------------------------------------------------


def test_silence_gives_silence() -> None:
    out, events = run(engine(), np.zeros(RATE, np.float32))
    assert not out.any()
    assert events == []


def test_sound_below_the_gate_gives_silence() -> None:
    out, events = run(engine(gate_db=-30.0), tone(69, 0.4, amplitude=0.01))
    assert not out.any()
    assert events == []


def test_output_returns_to_silence_after_the_sound() -> None:
    x = np.concatenate([tone(69, 0.3), np.zeros(RATE // 2, np.float32)])
    out, _ = run(engine(), x)
    assert np.abs(out[9600:14400]).max() > 0.05
    assert not out[RATE // 2 :].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_silence_and_counted(bad: float) -> None:
    x = melody()
    holes = x.copy()
    holes[5000:5100] = 0.0
    broken = x.copy()
    broken[5000:5100] = bad
    e = engine(mix=0.8)
    out, events = run(e, broken, 128)
    expected, expected_events = run(engine(mix=0.8), holes)
    np.testing.assert_array_equal(out, expected)
    assert events == expected_events
    assert e.n_non_finite == 100


@pytest.mark.parametrize("amplitude", [1.0, 100.0, 1e30, 1e200])
def test_however_loud_the_input_the_output_stays_below_full_scale(amplitude: float) -> None:
    out, _ = run(engine(mix=0.5), tone(69, 0.3).astype(np.float64) * amplitude)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1.0
    wet, _ = run(engine(timbre=replace(TIMBRE, gain_db=30.0)), tone(69, 0.3))
    assert 0.9 < np.abs(wet).max() <= 1.0


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 32000, 96000, 192000])
def test_runs_at_every_rate(rate: int) -> None:
    out, events = run(engine(rate), melody(rate), 333)
    assert len(out) == len(melody(rate))
    assert [e.note for e in events if e.kind == "on"] == [57, 63, 69]
    assert np.abs(out).max() > 0.05


@pytest.mark.parametrize(
    "block", [np.zeros((4, 2), np.float32), np.zeros(4, np.int16), np.zeros((), np.float32)]
)
def test_refuses_what_is_no_block_of_samples(block: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="expected"):
        engine().process(block)


@pytest.mark.parametrize(
    "options",
    [
        {"transpose": 37},
        {"mix": -0.1},
        {"mix": float("nan")},
        {"gate_db": 3},
        {"block": 0},
        {"rate": 7000},
        {"device": "tpu"},
    ],
)
def test_refuses_controls_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Engine(TIMBRE, options.pop("rate", RATE), hearing=PitchFinder(), **options)  # type: ignore[arg-type]


def test_refuses_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        engine(device="cuda")


def test_refuses_a_timbre_of_another_model() -> None:
    e = engine()
    with pytest.raises(TimbreError, match="capture it again"):
        e.timbre = replace(TIMBRE, model_sha256="1")
    e.timbre = replace(TIMBRE, gain_db=3.0)
    assert e.timbre.gain_db == 3.0


# -- the voice ----------------------------------------------------------------------------------

HEARD = FrameNotes(level_db=-20.0, onset=0.0, periodicity=0.9, pitch_midi=60.2, confidence=0.9)


def note_on(note: int, cents: float = 0.0) -> NoteEvent:
    return NoteEvent("on", 0, note, 100, cents, 0.9)


def voice() -> Voice:
    return Voice(VoiceConfig(), 0.005)


def test_an_attack_waits_for_two_frames_that_agree() -> None:
    v = voice()
    assert v.step(HEARD._replace(pitch_midi=72.0), []) is None  # a first, wrong guess
    assert v.step(HEARD, []) is None
    played = v.step(HEARD, [])
    assert played is not None
    assert played.pitch_midi == 60.2
    assert played.age_s == 0.0
    confirmed = v.step(HEARD, [note_on(60)])
    assert confirmed is not None
    assert confirmed.age_s == pytest.approx(0.005)  # the note goes on, it does not start again


def test_unsure_sound_is_not_played() -> None:
    v = voice()
    unsure = HEARD._replace(periodicity=0.2)
    assert [v.step(unsure, []) for _ in range(50)] == [None] * 50


def test_pitch_follows_vibrato_and_holds_over_an_octave_slip() -> None:
    v = voice()
    v.step(HEARD, [note_on(60, 20.0)])
    played = [v.step(HEARD._replace(pitch_midi=p), []) for p in (60.6, 59.6, 72.0, 48.0, 60.1)]
    assert [p and p.pitch_midi for p in played] == pytest.approx([60.6, 59.6, 59.6, 59.6, 60.1])


def test_slight_ripples_are_smoothed_and_large_changes_act_at_once() -> None:
    v = voice()
    v.step(HEARD, [note_on(60, 20.0)])
    sign = np.resize([1.0, -1.0], 100)
    ripple = [
        v.step(HEARD._replace(level_db=-20 + s / 2, pitch_midi=60.2 + s / 20), []) for s in sign
    ]
    assert np.ptp([p.level_db for p in ripple[50:] if p]) < 0.3
    assert np.ptp([p.pitch_midi for p in ripple[50:] if p]) < 0.03
    jump = v.step(HEARD._replace(level_db=-10.0, pitch_midi=60.7), [])
    assert jump is not None
    assert jump.level_db == pytest.approx(-10.0)
    assert jump.pitch_midi == pytest.approx(60.7)


def test_a_new_note_starts_its_age_anew() -> None:
    v = voice()
    v.step(HEARD, [note_on(60)])
    v.step(HEARD, [])
    off = NoteEvent("off", 0, 60, 0, 0.0, 0.0)
    played = v.step(HEARD._replace(pitch_midi=64.0), [off, note_on(64)])
    assert played is not None
    assert (played.age_s, played.pitch_midi) == (0.0, 64.0)


def test_the_tail_after_a_note_off_does_not_start_again_but_a_new_attack_does() -> None:
    v = voice()
    v.step(HEARD, [note_on(60)])
    assert v.step(HEARD._replace(level_db=-35.0), [NoteEvent("off", 0, 60, 0, 0.0, 0.0)]) is None
    tail = HEARD._replace(level_db=-38.0)
    assert [v.step(tail, []) for _ in range(20)] == [None] * 20
    assert v.step(HEARD, []) is not None


# -- the shipped instrument ----------------------------------------------------------------------


def test_the_shipped_instrument_gives_the_same_at_any_block_and_looks_at_nothing_later() -> None:
    x, rate = load_mono(presets_dir() / "demo" / "alto-sax.flac")
    x = x[:rate]
    e = Engine("flute:0.7,trumpet:0.3", rate)
    expected, expected_events = run(e, x)
    assert np.abs(expected).max() > 0.01
    assert any(event.kind == "on" for event in expected_events)
    for block in (7, 128, 1000):
        e.reset()
        out, events = run(e, x, block)
        np.testing.assert_array_equal(out, expected)
        assert events == expected_events
    later = x.copy()
    later[rate // 2 :] = 0.5 * np.sign(np.sin(np.arange(rate - rate // 2)))
    e.reset()
    np.testing.assert_array_equal(run(e, later)[0][: rate // 2], expected[: rate // 2])
