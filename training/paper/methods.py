"""V3 and what it is measured against: one encoder, decoder, codebook and budget, six losses.

- `v3`: the paper. Its ablations are weights of zero.
- `vq`: a plain VQ autoencoder: V3's terms off.
- `mine`: an estimate of the mutual information of z_c and z_s is minimised (MINE, Belghazi et al.
  2018, eq. 5; as a disentangler as in the paper's baseline).
- `cycle`: z_c of one clip and z_s of another are decoded, encoded again, and must come back.
- `vae`: both latents are Gaussian, held to a prior, the style of a clip's fragments is pooled
  (beta-VAE, Higgins et al. 2017; grouping as ML-VAE, Bouchacourt et al. 2018).
- `supervised`: classifiers of both factors, with labels.

Letters: B clips, N fragments, n = B * N, D values of a latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.losses import LossConfig, v3_terms
from training.paper.fragments import Batch
from training.paper.networks import Autoencoder


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """Which method, and its weights.

    Attributes:
        name: see above.
        relativity: r of all four constraints.
        commitment: weight of the codebook's commitment, a mean over the latent's values.
        content: weight of content varying more inside clips than between them.
        style: weight of style varying more between clips than inside them.
        fragment: weight of content varying more than style inside clips.
        clip: weight of style varying more than content between clips.
        mean_style: the decoder is given the clip's mean style.
        independence: weight of a baseline's own term (mine, cycle, vae).
        reconstruction: weight of the squared error.
    """

    name: Literal["v3", "vq", "mine", "cycle", "vae", "supervised"] = "v3"
    relativity: float = 15.0
    commitment: float = 0.1
    content: float = 1.0
    style: float = 1.0
    fragment: float = 1.0
    clip: float = 1.0
    mean_style: bool = False
    independence: float = 1.0
    reconstruction: float = 1.0


class Method(nn.Module):
    """A loss over batches, with what networks of its own it trains.

    Args:
        model: the autoencoder.
        config: weights.
        n_contents: for the supervised classifier.
        n_styles: likewise.
    """

    def __init__(self, model: Autoencoder, config: MethodConfig, n_contents: int,
                 n_styles: int) -> None:
        super().__init__()
        self.model, self.config = model, config
        latent = model.config.latent
        self.critic: nn.Module | None = None
        if config.name == "mine":
            self.critic = nn.Sequential(nn.Linear(2 * latent, 256), nn.GELU(),
                                        nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 1))
        if config.name == "vae":
            self.log_variance = nn.Linear(2 * latent, 2 * latent)
            nn.init.zeros_(self.log_variance.weight)
            nn.init.constant_(self.log_variance.bias, -3.0)
        if config.name == "supervised":
            self.content_head = nn.Linear(latent, n_contents)
            self.style_head = nn.Linear(latent, n_styles)

    def learned(self) -> Iterable[nn.Parameter]:
        """What the loss trains: all but the critic, which plays against it."""
        return (p for name, p in self.named_parameters() if not name.startswith("critic."))

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Loss terms by name (weighted), z_c (n, D) and codes (n) of a batch."""
        c = self.config
        n_clips, n_fragments = batch.content.shape
        x = batch.x.flatten(0, 1)
        content, style = self.model.encode(x)
        terms: dict[str, Tensor] = {}
        if c.name == "vae":
            content, style, terms["prior"] = self._sample(content, style, batch)
        quantized = self.model.quantize(content)
        by_clip = style.unflatten(0, (n_clips, n_fragments))
        given = by_clip
        if c.mean_style:
            given = by_clip.mean(1, keepdim=True).expand_as(by_clip)
        rebuilt = self.model.decode(quantized.z_q, given.flatten(0, 1))
        terms["reconstruction"] = c.reconstruction * F.mse_loss(rebuilt, x)
        terms["commitment"] = c.commitment * quantized.commitment / content.shape[-1]
        if c.name == "v3":
            shape = (n_clips, n_fragments)
            found = v3_terms(content.unflatten(0, shape), quantized.z_q.unflatten(0, shape),
                             by_clip, _relativities(c.relativity))
            terms |= {name: getattr(c, name) * term for name, term in found.items()}
        elif c.name == "mine":
            estimate = self.information(content, style)
            terms["independence"] = c.independence * estimate.clamp_min(0)
        elif c.name == "cycle":
            terms["independence"] = c.independence * self._cycle(quantized.z_q, content, style,
                                                                 n_fragments)
        elif c.name == "supervised":
            terms["content"] = F.cross_entropy(self.content_head(content), batch.content.flatten())
            labels = batch.style.repeat_interleave(n_fragments)
            if (labels >= 0).all():  # styles met in few-shot learning have no name
                terms["style"] = F.cross_entropy(self.style_head(style), labels)
        return terms, content, quantized.codes

    def information(self, content: Tensor, style: Tensor) -> Tensor:
        """Donsker-Varadhan bound of I(z_c; z_s) in nats by the critic: ()."""
        assert self.critic is not None
        joint = self.critic(torch.cat([content, style], -1))
        apart = self.critic(torch.cat([content, style.roll(len(style) // 2 + 1, 0)], -1))
        return joint.mean() - (torch.logsumexp(apart, 0) - math.log(len(apart))).squeeze()

    def critic_loss(self, batch: Batch) -> Tensor:
        """What the critic minimises: minus the bound, the encoders kept as they are."""
        with torch.no_grad():
            content, style = self.model.encode(batch.x.flatten(0, 1))
        return -self.information(content, style)

    def _cycle(self, z_q: Tensor, content: Tensor, style: Tensor, n_fragments: int) -> Tensor:
        other = style.roll(n_fragments, 0)  # of the next clip
        again = self.model.encode(self.model.decode(z_q, other))
        return (F.mse_loss(again.content, content.detach())
                + F.mse_loss(again.style, other.detach()))

    def _sample(self, content: Tensor, style: Tensor,
                batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        n_clips, n_fragments = batch.content.shape
        pooled = style.unflatten(0, (n_clips, n_fragments)).mean(1, keepdim=True)
        style = pooled.expand(-1, n_fragments, -1).flatten(0, 1)
        both = torch.cat([content, style], -1)
        log_variance = self.log_variance(both).clamp(-8, 4)
        prior = 0.5 * (both.square() + log_variance.exp() - 1 - log_variance).mean()
        if self.training:
            both = both + torch.randn_like(both) * (0.5 * log_variance).exp()
        content, style = both.chunk(2, -1)
        return content, style, self.config.independence * prior


def _relativities(r: float) -> LossConfig:
    return LossConfig(content_relativity=r, style_relativity=r, cross_relativity=r)
