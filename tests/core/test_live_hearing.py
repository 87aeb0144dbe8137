"""The live copy of the hearing says what the network says, frame by frame."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from v3audio import compiled
from v3audio.code_map import CodeMap
from v3audio.hearing import Hearing
from v3audio.live_hearing import LiveHearing, _even_half_of_gelu
from v3audio.model import ModelConfig, V3Model

CODES = CodeMap([k % 128 for k in range(256)], offset_semitones=0.4)


def network(config: ModelConfig) -> V3Model:
    torch.manual_seed(0)
    model = V3Model(config)
    with torch.no_grad():  # an untrained softmax is flat: sharpen it, so that its peak is a place
        model.content_head.log_gain.fill_(1.0)
        model.codebook.start(torch.nn.functional.normalize(torch.rand(2000, 252) ** 8, dim=-1),
                             torch.Generator().manual_seed(0), iterations=1)
    return model


def live(model: V3Model) -> LiveHearing:
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    return LiveHearing(weights, model.config, CODES)


@pytest.fixture(scope="module")
def hearing() -> Hearing:
    return Hearing(network(ModelConfig()), CODES)


@pytest.fixture(params=["compiled", "numpy"])
def ear(
    hearing: Hearing, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> LiveHearing:
    if request.param == "numpy":
        monkeypatch.setattr(compiled, "library", lambda: None)
    elif compiled.library() is None:
        pytest.skip("nothing was compiled when v3audio was installed")
    return live(hearing._model)


def windows() -> list[np.ndarray]:
    """Tones and noise of many levels, onsets and ends, silence, and far too loud."""
    rng = np.random.default_rng(0)
    t = np.arange(2048) / 16000
    found = [np.zeros(2048), 100 * rng.choice([-1.0, 1.0], 2048)]
    for hz in np.geomspace(30, 4000, 40):
        x = sum(np.sin(2 * np.pi * hz * k * t + rng.uniform(0, 6)) / k for k in range(1, 8))
        x = rng.uniform(0.001, 0.3) * x + 10 ** rng.uniform(-5, -1) * rng.standard_normal(2048)
        x[: rng.integers(0, 2048)] *= rng.choice([0.0, 1.0])
        x[rng.integers(1500, 2048) :] *= rng.choice([0.0, 1.0])
        found.append(x)
    return [x.astype(np.float32) for x in found]


def test_every_number_agrees_with_the_network(hearing: Hearing, ear: LiveHearing) -> None:
    for x in windows():
        whole, frame = hearing.frames(x[None]), ear.frame(x)
        assert frame.level_db == pytest.approx(float(whole.level_db[0]), abs=1e-4)
        assert frame.onset == pytest.approx(float(whole.onset[0]), abs=1e-3)
        content = np.sort(whole.content[0])
        if content[-1] - content[-2] < 1e-4:
            continue  # two places alike: either may be the peak
        assert frame.pitch_midi == pytest.approx(float(whole.pitch_midi[0]), abs=1e-3)
        assert frame.confidence == pytest.approx(float(whole.confidence[0]), abs=5e-4)
        assert frame.periodicity == pytest.approx(float(whole.periodicity[0]), abs=1e-4)


def test_views_and_content_agree_with_the_network(hearing: Hearing, ear: LiveHearing) -> None:
    n_places = set()
    for x in windows():
        if not x.any():
            continue  # in silence the score is rounding noise, blown up
        frame = ear.frame(x)
        expected = hearing._front_end(torch.from_numpy(x[None]))
        for ours, theirs in zip(frame.views, expected, strict=True):
            np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-3)
        with torch.inference_mode():
            position, _ = hearing._model.content_head(expected)
        np.testing.assert_allclose(frame.position, position[0].numpy(), atol=5e-4)
        n_places.add(int(frame.position.argmax()))
    assert len(n_places) > 10  # the comparison is not of one and the same place


def test_frames_of_a_file_are_what_the_network_hears(hearing: Hearing, ear: LiveHearing) -> None:
    sounding = np.array([x for x in windows() if x.any()])
    whole, ours = hearing.frames(sounding), ear.frames(sounding)
    for name, tolerance in (
        ("level_db", 1e-4), ("onset", 1e-3), ("content", 1e-3), ("note_probs", 1e-3),
        ("style", 1e-2),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(ours, name), getattr(whole, name), atol=tolerance)
    best = np.sort(whole.content, 1)
    sure = best[:, -1] - best[:, -2] > 1e-2
    np.testing.assert_allclose(ours.fine_midi[sure], whole.fine_midi[sure], atol=1e-2)
    assert np.mean(ours.code == whole.code) > 0.9
    assert np.abs(ours.style).max() > 0.1
    assert ear.frames(sounding, style=False).style.shape == (len(sounding), 0)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 13])
def test_frames_do_not_depend_on_how_many_are_heard_at_once(ear: LiveHearing, n: int) -> None:
    sound = np.concatenate(windows()[2:6])
    overlapping = np.lib.stride_tricks.sliding_window_view(sound, 2048)[::160]
    together = ear.frames(overlapping)
    parts = [ear.frames(overlapping[i : i + n]) for i in range(0, len(overlapping), n)]
    for i, name in enumerate(together._fields):
        apart = np.concatenate([part[i] for part in parts])
        if name != "code":
            np.testing.assert_allclose(apart, together[i], atol=2e-4, err_msg=name)


def test_code_is_the_networks_and_how_far_it_is(hearing: Hearing, ear: LiveHearing) -> None:
    codes = set()
    for x in windows():
        if not x.any():
            continue
        ear.frame(x)
        code, distance = ear.code()
        with torch.inference_mode():
            _, content = hearing._model.content_head(hearing._front_end(torch.from_numpy(x[None])))
            squares = hearing._model.codebook.distances(content)[0]
        assert distance == pytest.approx(math.sqrt(float(squares.min())), abs=1e-3)
        assert float(squares[code]) == pytest.approx(float(squares.min()), abs=1e-4)
        codes.add(code)
    assert len(codes) > 5


def test_the_newest_5_ms_have_their_own_level(ear: LiveHearing) -> None:
    x = np.zeros(2048, np.float32)
    x[-80:] = 0.1
    assert ear.frame(x).brief_db == pytest.approx(-20.0)
    assert ear.frame(np.roll(x, -80)).brief_db == -120.0


@pytest.mark.parametrize("in_numpy", [False, True])
def test_a_network_without_partials_is_heard_too(
    in_numpy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_numpy:
        monkeypatch.setattr(compiled, "library", lambda: None)
    model = network(replace(ModelConfig(), partial_hidden=0))
    whole, ours = Hearing(model, CODES), live(model)
    for x in filter(np.any, windows()[10:20]):
        np.testing.assert_allclose(ours.frame(x).position, whole.frames(x[None]).content[0],
                                   atol=5e-4)


@pytest.mark.parametrize("limit", [0.5, 2.6, 4.0])
def test_the_fitted_half_of_gelu_is_gelu(limit: float) -> None:
    x = torch.linspace(-limit, limit, 301, dtype=torch.float64)
    v = 2 * np.square(x.numpy() / limit) - 1
    fitted = 0.5 * x.numpy() + sum(c * v ** (k + 1) for k, c in
                                   enumerate(_even_half_of_gelu(limit)))
    apart = torch.nn.functional.gelu(x).numpy() - fitted  # a constant is left out
    assert np.ptp(apart) < 1e-5


def test_weights_of_another_network_are_refused() -> None:
    model = network(replace(ModelConfig(), channels=3))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError):
        LiveHearing(weights, ModelConfig(), CODES)
    with pytest.raises(KeyError):
        LiveHearing({}, ModelConfig(), CODES)


def test_hearing_live_does_not_load_torch() -> None:
    code = ("import sys; from v3audio.bundle import load_bundle; load_bundle().load_live_hearing();"
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
