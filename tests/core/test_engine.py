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
from v3audio.engine import Engine
from v3audio.errors import ConfigError, DeviceError, TimbreError
from v3audio.notes import FrameNotes, NoteEvent, NoteTracker
from v3audio.paths import presets_dir
from v3audio.renderer import RenderControl, Renderer, RendererConfig
from v3audio.renderer_net import RendererNet, frozen
from v3audio.settings import RANGES, SCALES, Settings
from v3audio.timbres import Timbre
from v3audio.voice import Voice, VoiceConfig

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
        renderer=Renderer(frozen(network()), rate),
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
    struck, held = (
        run(engine(timbre=replace(TIMBRE, decay_db_per_s=d)), tone(69, 0.9))[0] for d in (20.0, 0.0)
    )
    for at_s, fallen_db in ((0.15, 2.0), (0.8, 6.0)):
        part = slice(round(at_s * RATE), round((at_s + 0.05) * RATE))
        assert rms_db(held[part]) - rms_db(struck[part]) == pytest.approx(fallen_db, abs=1.0)


def test_decay_may_differ_along_the_range_and_the_release_rings() -> None:
    extras = {"decay_low_db_per_s": 2.0, "decay_high_db_per_s": 10.0, "release_s": 9.0}
    timbre = replace(TIMBRE, decay_db_per_s=6.0, extras=extras)
    x = np.concatenate([tone(70, 0.9), np.zeros(RATE // 2, np.float32)])
    out = run(engine(timbre=timbre), x)[0]
    early = np.mean(np.square(out[9600:12000], dtype=float))
    late = np.mean(np.square(out[36000:38400], dtype=float))
    assert 10 * np.log10(early / late) == pytest.approx(8.0 * 26400 / RATE, abs=1.0)
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


# -- settings ------------------------------------------------------------------------------------


def settings(e: Engine, **changes: object) -> None:
    e.settings = replace(e.settings, **changes)  # type: ignore[arg-type]


def kinds(events: list[NoteEvent]) -> list[tuple[str, int]]:
    return [(e.kind, e.note) for e in events if e.kind != "pitch"]


def rms_db(x: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(x, dtype=float)) + 1e-20))


def pitch_hz(x: np.ndarray, near_hz: float) -> float:
    """Fundamental near a frequency: peak of a windowed spectrum, a parabola between its bins."""
    power = np.log(np.abs(np.fft.rfft(x * np.hanning(len(x)), 1 << 18)) + 1e-12)
    hz = np.fft.rfftfreq(1 << 18, 1 / RATE)
    inside = np.flatnonzero((hz > 0.8 * near_hz) & (hz < 1.25 * near_hz))
    return float(hz[inside[power[inside].argmax()]])


def test_old_arguments_and_properties_are_views_of_the_settings() -> None:
    e = engine(transpose=3, mix=0.5, settings=Settings(fade_ms=10.0, mix=0.1))
    assert e.settings == Settings(transpose=3.0, mix=0.5, fade_ms=10.0)
    e.gate_db, e.mix = -40.0, 0.25
    assert (e.settings.gate_db, e.settings.mix, e.transpose) == (-40.0, 0.25, 3.0)
    with pytest.raises(ConfigError, match="mix = 2"):
        e.mix = 2.0
    e.reset()
    assert e.settings.mix == 0.25


def test_settings_reach_the_tracker() -> None:
    tracker = NoteTracker(hop_s=0.005)
    e = engine(tracker=tracker)
    settings(e, gate_db=-30.0, min_note_ms=40.0, sensitivity=0.9, velocity="fixed")
    e.process(np.zeros(1, np.float32))
    c = tracker.config
    assert (c.gate_db, c.live_min_note_ms, c.sensitivity, c.velocity) == (-30, 40, 0.9, "fixed")


@pytest.mark.parametrize(
    ("change", "gain"),
    [
        ({"mix": 0.5}, 0.5),
        ({"gain_out_db": -20.0}, 0.1),
        ({"gain_in_db": -20.0}, 0.1),
        ({"enabled": False}, 0.0),
    ],
)
def test_a_gain_acts_from_the_next_sample_in_a_straight_line(change: dict, gain: float) -> None:
    e = engine(mix=0.0, gate_db=0.0)
    x = np.ones(1000, np.float32) * 0.5
    e.process(x)
    settings(e, **change)
    out, _ = e.process(x)
    ramp = round((0.002 if "enabled" in change else 0.02) * RATE)
    np.testing.assert_allclose(out[ramp - 1 :], 0.5 * gain, atol=1e-6)
    np.testing.assert_allclose(np.diff(out[:ramp]), 0.5 * (gain - 1) / ramp, atol=1e-6)
    assert out[0] == pytest.approx(0.5 + 0.5 * (gain - 1) / ramp)


def test_a_change_in_the_middle_of_a_change_goes_on_from_there() -> None:
    e = engine(mix=0.0, gate_db=0.0)
    x = np.ones(50, np.float32)
    settings(e, gain_out_db=-40.0)
    parts = [e.process(x)[0]]
    settings(e, gain_out_db=0.0)
    parts += [e.process(x)[0] for _ in range(20)]
    out = np.concatenate(parts)
    assert np.abs(np.diff(out)).max() < 0.002
    assert out[-1] == 1.0


@pytest.mark.parametrize("switch", [{"bypass": True}, {"enabled": False}])
def test_bypass_and_off_end_the_notes_at_once_and_playing_comes_back(switch: dict) -> None:
    e = engine()
    x = tone(69, 2.0)
    _, events = e.process(x[: RATE // 2])
    assert kinds(events) == [("on", 69)]
    settings(e, **switch)
    out, events = e.process(x[RATE // 2 : RATE])
    assert kinds(events) == [("off", 69)]
    assert events[-1].sample == RATE // 2
    expected = x[RATE // 2 : RATE] if "bypass" in switch else np.zeros(RATE // 2, np.float32)
    np.testing.assert_array_equal(out[200:], expected[200:])
    assert e.readout.note is None
    e.settings = Settings()
    out, events = e.process(x[RATE:])
    assert kinds(events) == [("on", 69)]
    assert rms_db(out[RATE // 2 :]) > -30
    assert kinds(e.flush()) == [("off", 69)]


def test_bypass_gives_the_input_as_it_came_whatever_the_gains() -> None:
    x = np.clip(tone(69, 0.2, amplitude=0.9), -1, 1)
    e = engine(settings=Settings(bypass=True, gain_in_db=12.0, gain_out_db=12.0, mix=0.3))
    np.testing.assert_array_equal(run(e, x)[0], x)


def test_freeze_holds_what_sounds_and_the_note_ends_after_it() -> None:
    e = engine()
    e.process(tone(69, 0.5))
    settings(e, freeze=True)
    out, events = e.process(np.concatenate([tone(57, 0.5), np.zeros(RATE, np.float32)]))
    assert events == []
    held = out[4800:]
    assert pitch_hz(held, 440.0) == pytest.approx(440.0, abs=1.0)
    assert rms_db(held[:9600]) == pytest.approx(rms_db(held[-9600:]), abs=0.5)
    assert e.readout.note == 69
    assert e.readout.level_db < -90  # meters go on
    settings(e, freeze=False)
    out, events = e.process(np.zeros(RATE // 2, np.float32))
    assert kinds(events) == [("off", 69)]
    assert not out[RATE // 4 :].any()


def test_freeze_of_silence_is_silence_and_of_a_struck_note_does_not_die() -> None:
    e = engine(settings=Settings(freeze=True))
    out, events = e.process(tone(69, 0.5))
    assert not out.any() and events == []
    e = engine(timbre=replace(TIMBRE, decay_db_per_s=60.0))
    e.process(tone(69, 0.5))
    settings(e, freeze=True)
    out, _ = e.process(np.zeros(RATE, np.float32))
    assert rms_db(out[4800:9600]) == pytest.approx(rms_db(out[-4800:]), abs=0.5)


def test_panic_closes_what_sounds_and_the_next_attack_plays() -> None:
    e = engine()
    x = tone(69, 1.0)
    e.process(x[: RATE // 4])
    assert kinds(e.panic()) == [("off", 69)]
    assert e.panic() == []
    out, events = e.process(x[: RATE // 4])
    assert events == []
    assert not out[1200:].any()
    _, events = e.process(np.concatenate([np.zeros(RATE // 4, np.float32), x[: RATE // 4]]))
    assert kinds(events) == [("on", 69)]


def test_panic_while_frozen_is_silence() -> None:
    e = engine()
    e.process(tone(69, 0.3))
    settings(e, freeze=True)
    assert kinds(e.panic()) == [("off", 69)]
    assert not e.process(tone(69, 0.3))[0][1200:].any()


def test_the_players_own_a_names_the_notes_and_leaves_the_sound() -> None:
    x = tone(69 + 12 * np.log2(442 / 440), 0.6)
    out, events = run(engine(), x)
    assert next(e for e in events if e.kind == "on").cents == pytest.approx(7.9, abs=3)
    out_442, events_442 = run(engine(settings=Settings(ref_hz=442.0)), x)
    assert next(e for e in events_442 if e.kind == "on").cents == pytest.approx(0.0, abs=3)
    assert pitch_hz(out_442[9600:], 440.0) == pytest.approx(pitch_hz(out[9600:], 440.0), abs=0.3)
    snap = Settings(ref_hz=442.0, snap=1.0)
    assert pitch_hz(run(engine(settings=snap), x)[0][9600:], 440.0) == pytest.approx(442, abs=0.2)
    up = run(engine(settings=Settings(ref_hz=415.3)), tone(68.0, 0.4))[1]
    assert {e.note for e in up} == {69}  # a player tuned a semitone low: his A is called A


@pytest.mark.parametrize(
    ("snap", "played", "hz", "note", "cents"),
    [
        (0.0, 60.3, None, 60, 30),
        (1.0, 60.3, 60.0, 60, 0),
        (0.5, 60.3, 60.15, 60, 15),
        (1.0, 61.2, 60.0, 60, 0),  # C sharp lies between two notes of C major: the lower,
        (1.0, 60.8, 60.0, 60, 0),  # however it is intoned
    ],
)
def test_snap_pulls_sound_and_notes_to_the_scale(
    snap: float, played: float, hz: float | None, note: int, cents: float
) -> None:
    out, events = run(engine(settings=Settings(snap=snap, scale="major")), tone(played, 0.6))
    on = next(e for e in events if e.kind == "on")
    assert on.note == note
    assert on.cents == pytest.approx(cents, abs=5)
    wanted = 440 * 2 ** (((hz or played) - 69) / 12)
    assert 1200 * abs(np.log2(pitch_hz(out[14400:], wanted) / wanted)) < 4


def test_snap_after_transposing_plays_the_scales_own_thirds() -> None:
    third = Settings(transpose=4.0, snap=1.0, scale="major")
    for played, harmony in ((60, 64), (62, 65), (64, 67)):  # D-F and E-G are minor thirds
        assert {e.note for e in run(engine(settings=third), tone(played, 0.3))[1]} == {harmony}


def test_fine_detunes_sound_and_cents_but_not_the_note() -> None:
    out, events = run(engine(settings=Settings(fine_cents=60.0)), tone(69, 0.5))
    on = next(e for e in events if e.kind == "on")
    assert (on.note, round(on.cents / 10)) == (69, 6)
    assert pitch_hz(out[9600:], 440.0) == pytest.approx(440 * 2 ** (60 / 1200), abs=0.7)


def test_a_timbre_glides_over_the_fade() -> None:
    loud = replace(TIMBRE, gain_db=-20.0)
    for fade_ms, middle in ((0.0, -20.0), (200.0, -10.0)):
        e = engine(settings=Settings(fade_ms=fade_ms))
        x = tone(69, 1.0)
        before = rms_db(e.process(x[: RATE // 2])[0][-2400:])
        e.timbre = loud
        out = e.process(x[RATE // 2 :])[0]
        assert rms_db(out[4560:5040]) - before == pytest.approx(middle, abs=1.2)
        assert rms_db(out[-4800:]) - before == pytest.approx(-20.0, abs=0.5)


def test_the_style_glides_too_and_arrives_exactly() -> None:
    styles = []

    class Ear:
        def render(self, n: int, control: RenderControl) -> np.ndarray:
            styles.append(control.style)
            return np.zeros(n, np.float32)

        def reset(self) -> None:
            pass

    e = Engine(TIMBRE, RATE, hearing=PitchFinder(), renderer=Ear(), settings=Settings(fade_ms=50))
    e.process(tone(69, 0.3))
    e.timbre = other = replace(TIMBRE, style=np.ones(16, np.float32))
    del styles[:]
    e.process(tone(69, 0.1))
    np.testing.assert_allclose([s[0] for s in styles[:10]], np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_array_equal(styles[10], other.style)


def test_readout_says_what_is_heard_and_given() -> None:
    e = engine(transpose=2)
    assert e.readout.note is None
    out, _ = e.process(tone(69.1, 0.5))
    r = e.readout
    assert (r.note, round(r.cents)) == (71, pytest.approx(10, abs=2))
    assert r.pitch_hz == pytest.approx(440 * 2 ** (0.1 / 12), abs=0.5)
    assert r.level_db == pytest.approx(rms_db(tone(69.1, 0.5)), abs=0.5)
    assert r.output_db == pytest.approx(rms_db(out[-2400:]), abs=1.5)
    assert r.confidence > 0.8
    assert (r.code, r.code_distance) == (-1, 0.0)  # this hearing has no codebook
    e.process(np.zeros(RATE, np.float32))
    r = e.readout
    assert (r.note, r.pitch_hz, r.confidence) == (None, 0.0, 0.0)
    assert r.output_db < -100


def random_settings(rng: np.random.Generator) -> Settings:
    numbers = {
        name: int(rng.integers(low, high + 1)) if name == "scale_root" else rng.uniform(low, high)
        for name, (low, high) in RANGES.items()
    }
    audible = {"gate_db": (-90, -40), "transpose": (-36, 0)}  # and never louder than unchanged:
    audible |= {"gain_in_db": (-12, 0), "gain_out_db": (-12, 0)}
    numbers |= {name: rng.uniform(*limits) for name, limits in audible.items()}
    return Settings(
        enabled=rng.random() < 0.95,
        bypass=rng.random() < 0.05,
        freeze=rng.random() < 0.1,
        scale=str(rng.choice(list(SCALES))),
        velocity=str(rng.choice(["level", "attack", "fixed"])),
        **numbers,
    )


@pytest.mark.parametrize("seed", range(4))
def test_settings_at_random_in_every_block_never_click_and_offs_match_ons(seed: int) -> None:
    """A click is a jump that the steady sounds, dry or played, do not have."""
    x, rng, e = melody(), np.random.default_rng(seed), engine()
    steady = max(np.abs(np.diff(y)).max() for y in (x, run(e, x)[0]))
    e.reset()
    others = [replace(TIMBRE, gain_db=g, style=rng.normal(size=16)) for g in (-6.0, -3.0, 0.0)]
    sounding: list[int] = []
    parts = [np.zeros(1, np.float32)]
    for start in range(0, len(x), 128):
        e.settings, e.timbre = random_settings(rng), others[rng.integers(3)]
        out, events = e.process(x[start : start + 128])
        parts.append(out)
        for event in events + (e.flush() if start + 128 >= len(x) else []):
            if event.kind == "on":
                sounding.append(event.note)
            elif event.kind == "off":
                sounding.remove(event.note)
    out = np.concatenate(parts)
    assert sounding == []
    assert np.abs(out).max() > 0.1
    assert np.abs(np.diff(out)).max() < steady


@pytest.mark.parametrize("block", [32, 96, 480])
def test_settings_changed_at_the_same_samples_give_the_same_at_any_block(block: int) -> None:
    x = melody()
    changes = {0: Settings(mix=0.7, snap=0.5, scale="minor"), 9600: Settings(freeze=True),
               14400: Settings(bypass=True), 16320: Settings(gain_out_db=6.0, transpose=-5.0),
               16800: Settings(gain_out_db=-6.0, ref_hz=430.0)}  # fmt: skip

    def take(block: int) -> tuple[np.ndarray, list[NoteEvent]]:
        e, parts, events = engine(), [], []
        for start in range(0, len(x), block):
            if start in changes:
                e.settings = changes[start]
            out, new = e.process(x[start : start + block])
            parts.append(out)
            events += new
        return np.concatenate(parts), events

    out, events = take(block)
    expected, expected_events = take(160)
    np.testing.assert_array_equal(out, expected)
    assert events == expected_events


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

HEARD = FrameNotes(level_db=-20.0, onset=0.0, periodicity=0.95, pitch_midi=60.2, confidence=0.95)
SILENCE = FrameNotes(level_db=-120.0, onset=0.0, periodicity=0.0, pitch_midi=40.0, confidence=0.0)
NOISE = HEARD._replace(periodicity=0.2)


def note_on(note: int, cents: float = 0.0) -> NoteEvent:
    return NoteEvent("on", 0, note, 100, cents, 0.9)


def note_off(note: int) -> NoteEvent:
    return NoteEvent("off", 0, note, 0, 0.0, 0.0)


def voice() -> Voice:
    v = Voice(VoiceConfig(), 0.005)
    v.step(SILENCE, [])
    return v


def test_an_attack_is_breath_until_two_frames_agree() -> None:
    v = voice()
    guess = v.step(HEARD._replace(pitch_midi=72.0), [])  # a first, wrong guess
    assert guess is not None and guess.breath
    breath = v.step(HEARD, [])
    assert breath is not None and breath.breath
    played = v.step(HEARD, [])
    assert played == (60.2, 60.0, -20.0, 0.0, False)
    confirmed = v.step(HEARD, [note_on(60)])
    assert confirmed is not None
    assert confirmed.age_s == pytest.approx(0.005)  # the note goes on, it does not start again


def test_a_low_pitch_waits_for_one_period() -> None:
    v = voice()
    low = HEARD._replace(pitch_midi=33.0)  # 55 Hz: 18 ms
    played = [v.step(low, []) for _ in range(6)]
    assert [p is not None and p.breath for p in played] == [True] * 4 + [False] * 2


def test_breath_fades_and_the_next_waits_where_no_pitch_followed() -> None:
    v = voice()
    played = [v.step(NOISE, []) for _ in range(50)]
    breath = [p for p in played if p]
    assert played[: len(breath)] == breath
    assert len(breath) == 12  # 60 ms
    assert all(p.breath for p in breath)
    levels = [p.level_db for p in breath]
    assert levels[0] == -20.0
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] < -40.0
    knocks = [v.step(NOISE._replace(level_db=-20.0 - 30 * (k % 20 > 2)), []) for k in range(200)]
    began = [k for k in range(1, 200) if knocks[k] and not knocks[k - 1]]
    assert len(began) <= 4  # of 10 knocks in a second


def test_noise_that_wavers_around_the_gate_is_no_attack() -> None:
    v = Voice(VoiceConfig(), 0.005)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(20 * 16000))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 40))
    power = np.convolve((pink / pink.std()) ** 2, np.ones(320) / 320, "valid")[::80]
    levels = 10 * np.log10(power) - 49.0
    played = [v.step(NOISE._replace(level_db=float(x)), []) for x in levels]
    began = [k for k in range(1, len(levels)) if played[k] and not played[k - 1]]
    assert np.sum(np.diff(np.sign(levels + 50)) > 0) > 200  # the gate alone would open often
    assert len(began) <= 2  # in 20 s


def test_an_attack_has_the_loudness_of_its_newest_five_milliseconds() -> None:
    v = voice()
    levels = [(-23.0, -17.0), (-19.0, -16.5), (-17.5, -16.5)]
    played = [v.step(HEARD._replace(level_db=a, brief_db=b), [note_on(60)]) for a, b in levels]
    assert [p.level_db for p in played if p] == pytest.approx([-17.0, -16.85, -16.745], abs=0.01)
    for _ in range(10):
        v.step(HEARD._replace(level_db=-17.0, brief_db=-17.0), [])
    ripple = v.step(HEARD._replace(level_db=-17.0, brief_db=-14.0), [])
    assert ripple is not None and ripple.level_db < -16.9  # no attack: the steadier level


def test_unsure_sound_is_not_played() -> None:
    v = voice()
    played = [v.step(NOISE, []) for _ in range(50)]
    assert all(p is None or p.breath for p in played)


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
    played = v.step(HEARD._replace(pitch_midi=64.0), [note_off(60), note_on(64)])
    assert played is not None
    assert (played.age_s, played.pitch_midi) == (0.0, 64.0)


def test_the_tail_after_a_note_off_does_not_start_again_but_a_new_attack_does() -> None:
    v = voice()
    for _ in range(20):
        v.step(HEARD, [note_on(60)])
    assert v.step(HEARD._replace(level_db=-35.0), [note_off(60)]) is None
    tail = HEARD._replace(level_db=-38.0)
    assert [v.step(tail, []) for _ in range(20)] == [None] * 20
    again = [v.step(HEARD, []) for _ in range(3)]
    assert [p is not None and p.breath for p in again] == [True, False, False]


def test_an_end_stays_silent_until_the_next_attack() -> None:
    v = voice()
    v.step(HEARD, [note_on(60)])
    v.end()
    assert [v.step(HEARD, []) for _ in range(20)] == [None] * 20


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


def test_the_shipped_instrument_sounds_at_once_when_a_real_note_begins() -> None:
    """First sound within the stated latency of the moment at which the level opens the gate."""
    x, rate = load_mono(presets_dir() / "demo" / "alto-sax.flac")
    x = x[: rate // 2]
    n = rate // 50  # 20 ms
    power = np.convolve(x.astype(np.float64) ** 2, np.ones(n) / n)[: len(x)]
    begin = int(np.argmax(power > 1e-5))  # -50 dBFS
    assert begin > rate // 4
    e = Engine("oboe", rate)
    for shift in (0, 55, 110, 165):  # against the frames
        e.reset()
        out, events = run(e, np.concatenate([np.zeros(shift, np.float32), x]))
        assert not out[: begin + shift].any()
        wait = int(np.argmax(out[begin + shift :] != 0))
        assert wait <= e.latency_samples
        on = next(event.sample for event in events if event.kind == "on")
        assert on - begin - shift > wait + rate // 100  # long before the note is known
