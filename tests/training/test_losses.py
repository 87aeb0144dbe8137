"""The V3 terms against a float64 reference written from the paper's formulas with plain loops."""

import itertools

import numpy as np
import pytest
import torch

from training import losses
from training.losses import LossConfig
from v3audio.errors import ConfigError


def mpd(rows: np.ndarray) -> float:
    pairs = itertools.combinations(range(len(rows)), 2)
    return float(np.mean([np.sqrt(((rows[i] - rows[j]) ** 2).sum()) for i, j in pairs]))


def frag(z: np.ndarray) -> float:
    return float(np.mean([mpd(clip) for clip in z]))


def clip(z: np.ndarray) -> float:
    return mpd(np.stack([c.mean(0) for c in z]))


def hinge(a: float, b: float, r: float) -> float:
    return max(0.0, r - a / (b + 1e-5)) / r


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    content = rng.normal(size=(4, 6, 10)) + 0.6 * rng.normal(size=(4, 1, 10))
    content_q = np.round(content * 2) / 2
    style = 0.7 * rng.normal(size=(4, 6, 5)) + rng.normal(size=(4, 1, 5))
    return tuple(torch.tensor(x, requires_grad=True) for x in (content, content_q, style))


def test_terms_equal_the_papers_formulas(batch):
    c, q, s = (x.detach().numpy() for x in batch)
    content_frag = (frag(c) + frag(q)) / 2
    content_clip = (clip(c) + clip(q)) / 2
    config = LossConfig(content_relativity=15.0, style_relativity=15.0, cross_relativity=15.0)
    expected = {
        "content": hinge(content_frag, content_clip, 15),
        "style": hinge(clip(s), frag(s), 15),
        "fragment": hinge(content_frag, frag(s), 15),
        "clip": hinge(clip(s), content_clip, 15),
    }
    terms = losses.v3_terms(*batch, config)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert 0 < value < 1  # inside the hinge, or the comparison proves nothing
        assert float(terms[name]) == pytest.approx(value, rel=1e-9)


# which embeddings must move, and which way: +1 pushes the variability up, -1 down
PUSHES = {
    "content": ("content", losses.fragment_variability, losses.clip_variability),
    "style": ("style", losses.clip_variability, losses.fragment_variability),
}


@pytest.mark.parametrize("name", PUSHES)
def test_gradient_step_widens_what_should_vary(batch, name):
    content, content_q, style = batch
    config = LossConfig(content_relativity=15.0, style_relativity=15.0)
    before = losses.v3_terms(content, content_q, style, config)[name]
    before.backward()
    which, varies, stays = PUSHES[name]
    z = {"content": content, "style": style}[which]
    assert z.grad is not None and z.grad.abs().sum() > 0
    moved = z.detach() - 0.05 * z.grad / z.grad.norm()
    ratio = float(varies(z) / stays(z))
    assert float(varies(moved) / stays(moved)) > ratio


@pytest.mark.parametrize("name", ["fragment", "clip"])
def test_cross_terms_reach_both_factors(batch, name):
    losses.v3_terms(*batch, LossConfig(cross_relativity=15.0))[name].backward()
    assert all(z.grad is not None and z.grad.abs().sum() > 0 for z in (batch[0], batch[2]))


def test_hinge_is_satisfied_at_its_relativity():
    one = torch.tensor(1.0, dtype=torch.float64)
    assert float(losses.hinge(4.1 * one, one, 4.0)) == 0.0
    assert float(losses.hinge(0 * one, one, 4.0)) == 1.0
    assert float(losses.hinge(2 * one, one, 4.0)) == pytest.approx(0.5, rel=1e-4)


def test_equal_embeddings_have_a_finite_gradient():
    z = torch.ones(2, 5, 3, requires_grad=True)
    losses.fragment_variability(z).backward()
    assert torch.isfinite(z.grad).all()


def test_total_refuses_a_lost_or_unknown_term():
    config = LossConfig()
    names = ["reconstruction", "commitment", "content", "style", "fragment", "clip",
             "decorrelation", "pitch_in_style", "template"]
    terms = {n: torch.tensor(float(i + 1)) for i, n in enumerate(names)}
    weights = [10.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.1, 2.0, 0.03]
    expected = sum(w * (i + 1) for i, w in enumerate(weights))
    assert float(losses.total_loss(terms, config)) == pytest.approx(expected)
    del terms["style"]
    with pytest.raises(ConfigError, match="style"):
        losses.total_loss(terms, config)


def test_decorrelation_is_zero_for_independent_values_and_positive_for_copies():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(losses.decorrelation(z)) == pytest.approx(0.0, abs=1e-12)
    copied = z[:, :1].expand(-1, 2)
    # covariance 4/3 in both off-diagonal places, over two channels
    assert float(losses.decorrelation(copied)) == pytest.approx((4 / 3) ** 2)


def test_pitch_in_style_sees_any_smooth_dependence_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    position = 2 * torch.rand(3, 400, generator=generator) - 1
    free = torch.randn(3, 400, 4, generator=generator)
    assert float(losses.pitch_in_style(free, position)) < 0.02
    # a clip's own constant is style, whatever its range
    offset = torch.tensor([-5.0, 0.0, 5.0])[:, None, None]
    assert float(losses.pitch_in_style(free + offset, position)) < 0.02
    for bent in (position, position.square(), torch.sin(3 * position)):
        scaled = (bent - bent.mean(1, keepdim=True)) / bent.std(1, keepdim=True)
        assert float(losses.pitch_in_style(free + scaled[..., None], position)) > 0.5
