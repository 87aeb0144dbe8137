"""The live copy of the hearing says what the network says, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from v3audio.bundle import CodeMap
from v3audio.hearing import Hearing
from v3audio.live_hearing import LiveHearing, OneByOne
from v3audio.model import ModelConfig, V3Model


@pytest.fixture(scope="module")
def hearing() -> Hearing:
    torch.manual_seed(0)
    model = V3Model(ModelConfig())
    with torch.no_grad():  # an untrained softmax is flat: sharpen it, so that its peak is a place
        model.content_head.log_gain.fill_(1.0)
    return Hearing(model, CodeMap([k % 128 for k in range(256)], offset_semitones=0.4))


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


def test_every_number_agrees_with_the_network(hearing: Hearing) -> None:
    live = LiveHearing(hearing)
    for x in windows():
        whole, frame = hearing.frames(x[None]), live.frame(x)
        assert frame.level_db == pytest.approx(float(whole.level_db[0]), abs=1e-3)
        assert frame.onset == pytest.approx(float(whole.onset[0]), abs=1e-3)
        content = np.sort(whole.content[0])
        if content[-1] - content[-2] < 1e-4:
            continue  # two places alike: either may be the peak
        assert frame.pitch_midi == pytest.approx(float(whole.pitch_midi[0]), abs=1e-2)
        assert frame.confidence == pytest.approx(float(whole.confidence[0]), abs=1e-3)
        assert frame.periodicity == pytest.approx(float(whole.periodicity[0]), abs=1e-3)


def test_views_and_content_agree_with_the_network(hearing: Hearing) -> None:
    live = LiveHearing(hearing)
    n_places = []
    for x in windows():
        if not x.any():
            continue  # in silence the score is rounding noise, blown up
        views, _ = live._front_end(x)
        expected = hearing._front_end(torch.from_numpy(x[None]))
        for ours, theirs in zip(views, expected, strict=True):
            np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-3)
        with torch.inference_mode():
            position, _ = hearing._model.content_head(expected)
        ours = live._content(views)
        np.testing.assert_allclose(ours, position[0].numpy(), atol=1e-3)
        n_places.append(int(ours.argmax()))
    assert len(set(n_places)) > 10  # the comparison is not of one and the same place


def test_one_by_one_is_the_network_itself(hearing: Hearing) -> None:
    x = windows()[5]
    whole, frame = hearing.frames(x[None]), OneByOne(hearing).frame(x)
    assert frame.pitch_midi == whole.pitch_midi[0]
    assert frame.confidence == whole.confidence[0]
    np.testing.assert_array_equal(frame.note_probs, whole.note_probs[0])
