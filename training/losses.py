"""The V3 constraints, each a pure function of embeddings.

Letters: B clips, N fragments (here: frames), D channels.
Source: Wu, Wang, Raj, Xia, "Unsupervised Disentanglement of Content and Style via
Variance-Invariance Constraints", ICLR 2025 (arXiv 2407.03824), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from v3audio.errors import ConfigError

EPS = 1e-5


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weight of every term, and how many times more variable is variable enough (r)."""

    reconstruction: float = 10.0
    commitment: float = 1.0
    content: float = 1.0
    style: float = 1.0
    fragment: float = 0.0
    clip: float = 0.0
    decorrelation: float = 0.1
    pitch_in_style: float = 2.0  # z_s against the model's own content, inside each clip
    template: float = 0.03  # what styles add to the decoder's common template
    content_relativity: float = 4.0
    style_relativity: float = 2.0
    cross_relativity: float = 4.0


def pairwise_distance_mean(z: Tensor) -> Tensor:
    """Mean Euclidean distance between distinct rows: the paper's measure of variability (MPD).

    Args:
        z: (..., N, D) embeddings, N >= 2.

    Returns:
        (...), in the unit of z. The square root is smoothed by 1e-12 so that equal rows, which
        quantised contents often are, have a gradient.
    """
    n = z.shape[-2]
    square = (z.square().sum(-1, keepdim=True) + z.square().sum(-1).unsqueeze(-2)
              - 2 * z @ z.transpose(-1, -2)).clamp_min(0)
    distance = torch.sqrt(square + 1e-12)
    off_diagonal = 1 - torch.eye(n, dtype=z.dtype, device=z.device)
    return (distance * off_diagonal).sum((-1, -2)) / (n * (n - 1))


def fragment_variability(z: Tensor) -> Tensor:
    """How much (B, N, D) embeddings vary inside a clip, averaged over the clips: ()."""
    return pairwise_distance_mean(z).mean()


def clip_variability(z: Tensor) -> Tensor:
    """How much the mean embeddings of the clips of (B, N, D) differ: ()."""
    return pairwise_distance_mean(z.mean(-2))


def hinge(variable: Tensor, invariant: Tensor, relativity: float) -> Tensor:
    """Zero once `variable` is `relativity` times `invariant`, one where it does not vary at all."""
    return torch.relu(relativity - variable / (invariant + EPS)) / relativity


def v3_terms(content: Tensor, content_q: Tensor, style: Tensor,
             config: LossConfig) -> dict[str, Tensor]:
    """The four constraints of the paper.

    Args:
        content: (B, N, P) z_c.
        content_q: (B, N, P) VQ(z_c); each content measure is the mean of both.
        style: (B, N, D) z_s.
        config: relativities.

    Returns:
        `content` and `style` (each factor against itself), `fragment` and `clip` (the factors
        against each other, inside a clip and between clips); each (), 0..1.
    """
    content_frag = (fragment_variability(content) + fragment_variability(content_q)) / 2
    content_clip = (clip_variability(content) + clip_variability(content_q)) / 2
    style_frag, style_clip = fragment_variability(style), clip_variability(style)
    return {
        "content": hinge(content_frag, content_clip, config.content_relativity),
        "style": hinge(style_clip, style_frag, config.style_relativity),
        "fragment": hinge(content_frag, style_frag, config.cross_relativity),
        "clip": hinge(style_clip, content_clip, config.cross_relativity),
    }


def decorrelation(z: Tensor) -> Tensor:
    """Squared off-diagonal covariance of (..., D) embeddings per channel: ().

    Source: Bardes et al., VICReg, ICLR 2022, equation 4. Keeps all style values in use.
    """
    flat = z.flatten(0, -2)
    flat = flat - flat.mean(0)
    covariance = flat.T @ flat / (len(flat) - 1)
    off = covariance - torch.diag(torch.diagonal(covariance))
    return off.square().sum() / z.shape[-1]


def pitch_in_style(style: Tensor, position: Tensor) -> Tensor:
    """How much z_s follows the heard pitch inside a clip: mean squared covariance, ().

    Args:
        style: (B, N, D) z_s.
        position: (B, N) where the content head heard the pitch, scaled to -1..1; the model's own
            word, not a label.

    The covariance is with the first three Legendre polynomials of the position, each scaled to
    unit variance in its clip, summed over the three and averaged over clips and channels.
    """
    p = position
    shapes = torch.stack([p, 1.5 * p.square() - 0.5, 2.5 * p**3 - 1.5 * p], -1)  # (B, N, 3)
    shapes = shapes - shapes.mean(1, keepdim=True)
    shapes = shapes / (shapes.square().mean(1, keepdim=True).sqrt() + 1e-3)
    inside = style - style.mean(1, keepdim=True)
    covariance = inside.transpose(1, 2) @ shapes / style.shape[1]  # (B, D, 3)
    return covariance.square().sum(-1).mean()


def total_loss(terms: dict[str, Tensor], config: LossConfig) -> Tensor:
    """Weighted sum of all terms.

    Raises:
        ConfigError: a term without a weight, or a weight without its term.
    """
    weights = {name: getattr(config, name) for name in config.__slots__
               if not name.endswith("_relativity")}
    if terms.keys() != weights.keys():
        raise ConfigError(f"loss terms {sorted(terms)} do not match weights {sorted(weights)}")
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
