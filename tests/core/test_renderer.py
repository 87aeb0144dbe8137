"""The renderer: pitch, level, smoothness, silence, decay, and the same sound at every rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from v3audio import compiled
from v3audio.errors import ConfigError
from v3audio.renderer import (
    N_CONTROLS,
    TOP_HZ,
    RenderControl,
    Renderer,
    RendererConfig,
)
from v3audio.renderer_net import RendererNet, frozen
from v3audio.units import midi_to_hz

STYLE = np.zeros(16, np.float32)
RATES = [44_100, 48_000, 88_200, 96_000]


class Fixed:
    """A spectrum that does not depend on anything: harmonics 1 / k**slope, and flat noise."""

    def __init__(self, slope: float = 1.0, noise: float = 0.0, n_harmonics: int = 100) -> None:
        self.config = RendererConfig()
        k = np.arange(1, 101)
        self.rms = np.concatenate([k**-slope * (k <= n_harmonics), np.full(40, noise)])

    def __call__(self, style, pitch_midi, level_db, age_s):
        rms = self.rms.copy()
        hz = 440 * 2 ** ((pitch_midi - 69) / 12)
        rms[:100] *= np.clip((TOP_HZ - hz * np.arange(1, 101)) / 1000, 0, 1)
        return (rms / np.sqrt((rms**2).sum())).astype(np.float32)


def play(renderer: Renderer, seconds: float, *, start_s: float = 0.0, pitch=69.0, level=-20.0,
         **rest) -> np.ndarray:
    """Segments of 5 ms; pitch and level may be functions of the age."""
    n_hop = renderer.sample_rate // 200
    out = []
    for i in range(round(seconds * 200)):
        t = start_s + (i + 1) / 200
        out.append(renderer.render(n_hop, RenderControl(
            pitch(t) if callable(pitch) else pitch, level(t) if callable(level) else level, t,
            STYLE, **rest)))
    return np.concatenate(out)


def rms_db(x: np.ndarray) -> float:
    return 20 * np.log10(np.sqrt(np.mean(x.astype(np.float64) ** 2)) + 1e-12)


def peak_hz(x: np.ndarray, rate: int, near_hz: float) -> float:
    """Frequency of the partial near `near_hz`: parabola through a Gaussian window's log peak."""
    window = np.exp(-0.5 * np.linspace(-4, 4, len(x)) ** 2)  # its transform's log is a parabola
    spectrum = np.abs(np.fft.rfft(x * window, 4 * len(x)))
    hz = np.fft.rfftfreq(4 * len(x), 1 / rate)
    inside = np.flatnonzero((hz > near_hz * 0.9) & (hz < near_hz * 1.1))
    i = inside[np.argmax(spectrum[inside])]
    a, b, c = np.log(spectrum[i - 1 : i + 2])
    return float((i + 0.5 * (a - c) / (a - 2 * b + c)) * hz[1])


def random_net(seed: int = 0) -> RendererNet:
    torch.manual_seed(seed)
    net = RendererNet(RendererConfig(hidden=64, n_blocks=2))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
        net.style_mean.normal_()
        net.style_std.uniform_(0.2, 2.0)
    return net.eval()


@pytest.fixture
def in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nothing was compiled when v3audio was installed."""
    monkeypatch.setattr(compiled, "library", lambda: None)


@pytest.mark.parametrize("only_numpy", [False, True])
def test_frozen_net_equals_torch(only_numpy: bool, request: pytest.FixtureRequest) -> None:
    if only_numpy:
        request.getfixturevalue("in_numpy")
    net = random_net()
    numpy_net = frozen(net)
    rng = np.random.default_rng(0)
    for _ in range(50):
        style = rng.standard_normal(16).astype(np.float32)
        pitch, level, age = rng.uniform(20, 100), rng.uniform(-70, 0), rng.exponential(0.3)
        with torch.no_grad():
            want = net(torch.from_numpy(style)[None],
                       *(torch.tensor([v], dtype=torch.float32) for v in (pitch, level, age)))[0]
        hz = 440 * 2 ** ((pitch - 69) / 12)
        gain = np.clip((TOP_HZ - hz * np.arange(1, 101)) / 1000, 0, 1)
        want = np.exp(want.numpy().astype(np.float64))
        want[:100] *= gain
        np.testing.assert_allclose(numpy_net(style, pitch, level, age), want, rtol=2e-4, atol=1e-5)


def test_net_frames_have_unit_rms() -> None:
    net = random_net(1)
    with torch.no_grad():
        log_rms = net(torch.zeros(3, 16), torch.tensor([30.0, 60.0, 96.0]),
                      torch.full((3,), -20.0), torch.full((3,), 0.1))
    for row, pitch in zip(log_rms.numpy(), (30.0, 60.0, 96.0), strict=True):
        hz = 440 * 2 ** ((pitch - 69) / 12)
        gain = np.clip((TOP_HZ - hz * np.arange(1, 101)) / 1000, 0, 1)
        power = (np.exp(2 * row[:100]) * gain**2).sum() + np.exp(2 * row[100:]).sum()
        assert power == pytest.approx(1.0, rel=1e-4)
    assert net.entry.in_features == 16 + N_CONTROLS


@pytest.mark.parametrize("rate", [8_000, *RATES])
@pytest.mark.parametrize("pitch", [33.0, 52.37, 69.0, 88.81, 96.0])
def test_pitch_within_two_cents(rate: int, pitch: float) -> None:
    hz = 440 * 2 ** ((pitch - 69) / 12)
    x = play(Renderer(Fixed(), rate), 0.5, pitch=pitch)[rate // 20 :]
    cents = 1200 * np.log2(peak_hz(x, rate, hz) / hz)
    assert abs(cents) < 0.5


def test_pitch_follows_a_glide() -> None:
    rate = 48_000
    x = play(Renderer(Fixed(), rate), 1.0, pitch=lambda t: 57 + 12 * t)
    for at in (0.25, 0.5, 0.75):
        centre = int(at * rate)
        got = peak_hz(x[centre - 1200 : centre + 1200], rate, 220 * 2**at)
        assert abs(1200 * np.log2(got / (220 * 2**at))) < 5


@pytest.mark.parametrize("level", [-60.0, -30.0, -6.0])
@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0])
def test_level_is_what_was_asked_for(level: float, noise: float) -> None:
    x = play(Renderer(Fixed(noise=noise), 48_000), 0.6, level=level)[4800:]
    assert rms_db(x) == pytest.approx(level, abs=0.5)


def test_level_ramp_follows_within_a_segment() -> None:
    x = play(Renderer(Fixed(), 48_000), 0.5, level=lambda t: -50 + 80 * t)
    for at in (0.2, 0.4):
        centre = int(at * 48_000)
        assert rms_db(x[centre - 480 : centre + 480]) == pytest.approx(-50 + 80 * at, abs=1.0)


def test_rates_sound_the_same() -> None:
    """Harmonics and noise bands within half a dB of 48 kHz, harmonics up to 15 kHz."""
    def analysed(rate: int) -> tuple[np.ndarray, np.ndarray]:
        harmonic = play(Renderer(Fixed(), rate), 0.3, pitch=57.0)[rate // 20 :]
        window = np.hanning(len(harmonic))
        lobes = np.abs(np.fft.rfft(harmonic * window)) ** 2 / (len(window) * (window**2).sum())
        bins = np.rint(220.0 * np.arange(1, 69) * len(harmonic) / rate).astype(int)
        partials = np.array([lobes[b - 4 : b + 5].sum() for b in bins])
        noisy = play(Renderer(Fixed(noise=1.0, n_harmonics=0), rate), 1.0)[rate // 20 :]
        power = np.abs(np.fft.rfft(noisy)) ** 2 / len(noisy) ** 2
        hz = np.fft.rfftfreq(len(noisy), 1 / rate)
        edges = RendererConfig().noise_edges_hz()[:39]
        bands = np.array([power[(hz >= a) & (hz < b)].sum() for a, b in zip(
            edges[10:-1:4], edges[14::4], strict=False)])
        return 10 * np.log10(partials), 10 * np.log10(bands)

    reference = analysed(48_000)
    for rate in (44_100, 88_200, 96_000):
        for got, want in zip(analysed(rate), reference, strict=True):
            np.testing.assert_allclose(got, want, atol=0.5)


def test_nothing_aliases() -> None:
    """Every partial of a high note lies on a multiple of its fundamental, at 44.1 kHz too."""
    rate, pitch = 44_100, 91.0
    hz = 440 * 2 ** ((pitch - 69) / 12)
    x = play(Renderer(Fixed(slope=0.3), rate), 0.5, pitch=pitch)[rate // 20 :]
    power = np.abs(np.fft.rfft(x * np.blackman(len(x)))) ** 2
    at = np.fft.rfftfreq(len(x), 1 / rate)
    off = np.abs(at / hz - np.rint(at / hz)) * hz > 30
    assert 10 * np.log10(power[off].max() / power.max()) < -60


def test_note_changes_do_not_click() -> None:
    """A sine leaping between notes puts nothing near 10 kHz; a restarted phase would (-45 dB)."""
    rate, n_hop = 48_000, 240
    renderer = Renderer(Fixed(n_harmonics=1), rate)
    out = []
    for i, pitch in enumerate(np.repeat([57.0, 69.0, 45.0, 61.0, 60.0], 20)):
        age = (i % 20 + 1) / 200
        out.append(renderer.render(n_hop, RenderControl(pitch, -20.0 - 6 * (i % 3), age, STYLE)))
    x = np.concatenate(out)

    def splatter_db(y: np.ndarray) -> float:
        frames = np.lib.stride_tricks.sliding_window_view(y, 512)[::64] * np.hanning(512)
        spectrum = np.abs(np.fft.rfft(frames, axis=1)) ** 2
        hz = np.fft.rfftfreq(512, 1 / rate)
        return float(10 * np.log10(spectrum[:, hz > 8000].sum(1).max() / spectrum.sum(1).max()))

    assert splatter_db(x[480:]) < -70
    broken = x.copy()
    broken[4800:] = np.roll(broken, 37)[4800:]  # what a phase that restarts would do
    assert splatter_db(broken[480:]) > -60


def test_leap_keeps_the_fundamental_continuous() -> None:
    """No sample jumps further than the louder note's steepest slope allows."""
    renderer = Renderer(Fixed(n_harmonics=1), 48_000)
    x = np.concatenate([play(renderer, 0.2, pitch=p) for p in (50.0, 74.0, 38.0)])
    steepest = 2 * np.pi * 440 * 2 ** (5 / 12) / 48_000 * np.sqrt(2) * 0.1
    assert np.abs(np.diff(x)).max() < 1.1 * steepest


def test_segments_of_any_length_are_smooth() -> None:
    renderer = Renderer(Fixed(n_harmonics=1), 48_000)
    out, age, i = [], 0.0, 0
    while age < 0.2:
        n = (1, 3, 240, 17, 1000)[i % 5]
        age, i = age + n / 48_000, i + 1
        level = (-12.0, -30.0)[i % 2]
        out.append(renderer.render(n, RenderControl(57.0, level, age, STYLE)))
    x = np.concatenate(out)
    amplitude = np.sqrt(2) * 10 ** (-12 / 20)
    # slope of the sine, plus the fastest ramp of its amplitude (2.5 ms)
    assert np.abs(np.diff(x)).max() < amplitude * (2 * np.pi * 220 / 48_000 + 1 / 120)


def test_starts_silent_and_becomes_exactly_silent() -> None:
    rate = 48_000
    renderer = Renderer(Fixed(noise=0.1), rate)
    off = RenderControl(69.0, -20.0, 0.0, STYLE, voiced=False)
    assert not renderer.render(500, off).any()
    x = play(renderer, 0.1)
    tail = renderer.render(rate // 50, off)
    assert np.abs(tail[: rate // 200]).max() > 0.01
    assert not tail[rate // 100 :].any()
    assert not renderer.render(1000, off).any()
    jump = np.abs(np.diff(np.concatenate([x, tail]))).max()
    assert jump <= 1.05 * np.abs(np.diff(x)).max()
    assert not renderer.render(100, RenderControl(float("nan"), -20.0, 0.0, STYLE)).any()
    assert renderer.render(0, off).shape == (0,)


@pytest.mark.parametrize(("noise", "wanted_db"), [(0.0001, -20.0), (0.08, None), (2.0, -9.0)])
def test_breath_is_the_timbres_noise_alone_within_limits(
    noise: float, wanted_db: float | None
) -> None:
    source = Fixed(noise=noise)
    share_db = 10 * np.log10(40 * noise**2 / (source.rms**2).sum())
    x = play(Renderer(source, 48_000), 0.5, pitch=60.0, breath=True)[4800:]
    assert rms_db(x) == pytest.approx(-20 + (share_db if wanted_db is None else wanted_db), abs=1.0)
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2
    hz = np.fft.rfftfreq(len(x), 1 / 48_000)
    near = power[np.abs(hz - 261.6) < 5].mean() / power[np.abs(hz - 261.6) < 60].mean()
    assert near < 4  # no tone


def test_a_tone_grows_out_of_breath_and_into_it_without_a_click() -> None:
    renderer = Renderer(Fixed(noise=0.02), 48_000)
    rate, tone = 48_000, Renderer(Fixed(noise=0.02), 48_000)
    steady = np.abs(np.diff(play(tone, 0.3)[2400:])).max()
    parts = [play(renderer, 0.03, breath=True), play(renderer, 0.2), play(renderer, 0.03,
             breath=True), play(renderer, 0.1), play(renderer, 0.1, voiced=False)]  # fmt: skip
    x = np.concatenate(parts)
    assert np.abs(np.diff(x)).max() < 1.05 * steady
    assert rms_db(parts[0]) < rms_db(parts[1]) - 9
    assert rms_db(parts[1][480:1440]) == pytest.approx(-20.0, abs=1.0)  # full within 10 ms
    assert abs(peak_hz(parts[1][1200:], rate, 440.0) - 440.0) < 0.5
    assert not parts[-1][rate // 50 :].any()


def test_breath_before_a_struck_note_makes_it_a_new_one() -> None:
    renderer = Renderer(Fixed(), 48_000)
    play(renderer, 1.0, decay_db_per_s=30.0)
    renderer.render(240, RenderControl(69.0, -20.0, 0.0, STYLE, breath=True))
    again = play(renderer, 0.1, start_s=-0.005, decay_db_per_s=30.0)
    assert rms_db(again[2400:]) == pytest.approx(-22.0, abs=1.0)


def test_release_tail_and_new_note_into_it() -> None:
    rate = 48_000
    renderer = Renderer(Fixed(), rate)
    play(renderer, 0.2)
    tail = play(renderer, 0.3, voiced=False, release_s=0.6)
    before, after = tail[4800:7200], tail[9600:12000]
    assert rms_db(before) - rms_db(after) == pytest.approx(10.0, abs=1.0)  # 60 dB in 0.6 s
    x = np.concatenate([tail, play(renderer, 0.1)])
    assert np.abs(np.diff(x)).max() < 0.2
    play(renderer, 0.01, voiced=False, release_s=0.6)
    rest = play(renderer, 0.7, voiced=False, release_s=0.6)
    assert not rest[-2400:].any()


def test_struck_timbres_decay_to_below_the_player_and_strike_again() -> None:
    renderer = Renderer(Fixed(), 48_000)
    for _ in range(2):
        x = play(renderer, 1.0, decay_db_per_s=8.0)
        early, late = rms_db(x[4_800:9_600]), rms_db(x[24_000:28_800])
        assert early - late == pytest.approx(8.0 * 0.4, abs=0.3)
        assert rms_db(x[43_200:]) == pytest.approx(-20.0 - 6.0, abs=0.3)
    sustained = play(renderer, 1.0)
    assert rms_db(sustained[36_000:40_800]) == pytest.approx(-20.0, abs=0.3)


def test_a_struck_note_fades_with_the_player_and_never_exceeds_them() -> None:
    renderer = Renderer(Fixed(), 48_000)
    x = play(renderer, 0.6, level=lambda t: -40 + min(t, 0.08) * 250, decay_db_per_s=20.0)
    assert rms_db(x[4_000:4_800]) == pytest.approx(-20.2, abs=1.0)
    assert rms_db(x[9_600:10_560]) == pytest.approx(-20 - 20 * (0.21 - 0.08), abs=1.0)
    renderer.reset()
    x = play(renderer, 0.6, level=lambda t: -20 - 60 * t, decay_db_per_s=20.0)
    assert rms_db(x[24_000:24_960]) == pytest.approx(-20 - 60 * 0.51, abs=1.0)


def test_a_swell_drives_a_struck_note_without_a_jump() -> None:
    """A bow that sets in slowly sounds as loud as it becomes; one that swells late catches up."""
    renderer = Renderer(Fixed(), 48_000)
    x = play(renderer, 1.0, level=lambda t: -50 + 30 * t, decay_db_per_s=15.0)
    assert rms_db(x[45_600:]) == pytest.approx(-20.7, abs=0.7)
    renderer.reset()
    x = play(renderer, 1.5, level=lambda t: -30 + 20 * max(t - 1.0, 0.0), decay_db_per_s=12.0)
    assert rms_db(x[45_600:48_000]) == pytest.approx(-36.0, abs=0.5)
    assert rms_db(x[70_800:]) == pytest.approx(-36.0 + 0.5 * (2 * 20 - 12), abs=1.0)
    levels = np.array([rms_db(part) for part in np.split(x[48_000:], 50)])
    assert np.diff(levels).max() < 1.0


def test_a_dropout_does_not_strike_again() -> None:
    renderer = Renderer(Fixed(), 48_000)
    play(renderer, 0.5, decay_db_per_s=40.0)
    play(renderer, 0.05, start_s=0.5, voiced=False)
    x = play(renderer, 0.1, start_s=0.55, decay_db_per_s=40.0)
    assert rms_db(x[-2400:]) == pytest.approx(-20.0 - 6.0, abs=0.3)


def test_same_calls_same_samples() -> None:
    net = frozen(random_net())

    def take(renderer: Renderer) -> np.ndarray:
        return np.concatenate([play(renderer, 0.05, pitch=p) for p in (60.0, 72.0)])

    first = take(Renderer(net, 48_000, seed=3))
    again = Renderer(net, 48_000, seed=3)
    np.testing.assert_array_equal(first, take(again))
    again.reset()
    np.testing.assert_array_equal(first, take(again))
    assert np.abs(first - take(Renderer(net, 48_000, seed=4))).max() > 1e-3


def test_noise_loop_has_no_seam() -> None:
    """Across the loop's end a low band moves no faster than anywhere else."""
    source = Fixed(n_harmonics=0)
    source.rms[100:] = 0
    source.rms[105] = 1.0
    renderer = Renderer(source, 16_000)
    x = play(renderer, 6.0, pitch=60.0)[800:]
    steps = np.abs(np.diff(x))
    assert steps.max() < 6 * np.median(steps)
    assert rms_db(x) == pytest.approx(-20.0, abs=0.5)


def test_refuses_what_it_cannot_play() -> None:
    with pytest.raises(ConfigError, match="8000 Hz"):
        Renderer(Fixed(), 4_000)
    with pytest.raises(ConfigError, match="hidden"):
        RendererConfig(hidden=0)
    with pytest.raises(ConfigError, match="noise bands"):
        RendererConfig(noise_low_hz=30_000.0)


def phrase(renderer: Renderer) -> np.ndarray:
    """Breath, a glide, a leap, a swell, segments short and long, the loop of noise, a release."""
    out = []
    steps = [(66.0, -30.0, 0.0), *((60 + i / 40, -20.0, i / 200) for i in range(1, 40)),
             (72.0, -14.0, 0.0), (72.3, -10.0, 0.01), (71.9, -25.0, 0.02)]
    for i, (pitch, level, age) in enumerate(steps):
        control = RenderControl(pitch, level, age, STYLE, breath=i == 0)
        out.append(renderer.render((240, 37, 1000, 1)[i % 4], control))
    renderer._noise_at = len(renderer._noise) - 100
    out.append(renderer.render(240, control))
    for release_s in 0.1, 0.0:  # a string's, and the shortest, until nothing is left
        for n in 240, 37, 240, 1000:
            out.append(renderer.render(n, control._replace(voiced=False, release_s=release_s)))
        out.append(renderer.render(240, control))
    return np.concatenate(out)


@pytest.mark.skipif(compiled.library() is None, reason="nothing was compiled")
@pytest.mark.parametrize("rate", [22_050, 48_000])
def test_compiled_sounds_as_numpy_does(rate: int, request: pytest.FixtureRequest) -> None:
    ours = phrase(Renderer(frozen(random_net()), rate))
    request.getfixturevalue("in_numpy")
    assert rms_db(phrase(Renderer(frozen(random_net()), rate)) - ours) < rms_db(ours) - 90


@pytest.mark.parametrize("formant", [-7.0, 0.0, 5.0, 12.0])
def test_a_formant_moves_the_envelope_and_leaves_the_pitch(formant: float) -> None:
    """A resonance at 1200 Hz is found where the shift puts it; harmonics stay at the pitch's."""

    class Body:
        config = RendererConfig(n_noise=1)

        def __call__(self, style: np.ndarray, pitch: float, level: float, age: float) -> np.ndarray:
            hz = midi_to_hz(pitch) * np.arange(1, 101)
            rms = np.append(np.exp(-0.5 * (np.log2(hz / 1200) / 0.15) ** 2), 0.0)
            return (rms / np.sqrt(rms @ rms)).astype(np.float32)

    renderer = Renderer(Body(), 48_000)
    control = RenderControl(45.0, -20.0, 1.0, np.zeros(16, np.float32), formant=formant)
    y = np.concatenate([renderer.render(480, control) for _ in range(100)])[-24_000:]
    power = np.abs(np.fft.rfft(y * np.hanning(len(y)))) ** 2
    hz = np.fft.rfftfreq(len(y), 1 / 48_000)
    centre = np.exp((np.log(hz[1:]) * power[1:]).sum() / power[1:].sum())
    assert 12 * np.log2(centre / 1200) == pytest.approx(formant, abs=0.5)
    beside = np.abs(hz / 110.0 - np.rint(hz / 110.0)) > 0.1
    assert power[beside].sum() < 1e-5 * power.sum()
