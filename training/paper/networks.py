"""An encoder of both factors, a codebook and a decoder: compact ones, or the published ones.

The compact networks are ours: two separate small encoders (a shared one leaks), BatchNorm in the
encoders (LayerNorm instead loses style), LayerNorm in the decoder, contents of one length.

Letters: n fragments, D values of a latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from v3audio.vq import Codebook, Quantized


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes.

    Attributes:
        architecture: `compact` or `paper`.
        codes: K, atoms of the codebook.
        latent: D of content and of style (paper: 512).
        width: of the hidden layers (compact); channels of the last convolution (paper: 512 for
            sound, 256 for pictures).
        blocks: residual blocks a resolution (paper: 2).
        decay: of the codebook's moving averages.
    """

    architecture: Literal["compact", "paper"] = "compact"
    codes: int = 12
    latent: int = 64
    width: int = 256
    blocks: int = 2
    decay: float = 0.98


class Encoded(NamedTuple):
    """Both latents of n fragments."""

    content: Tensor  # (n, D) z_c
    style: Tensor  # (n, D) z_s


class Autoencoder(nn.Module):
    """Fragments to content and style and back.

    Args:
        shape: of one fragment.
        config: sizes.
    """

    def __init__(self, shape: tuple[int, ...], config: NetworkConfig) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.architecture == "paper":
            from training.paper import published

            self.encoder = published.Encoder(shape, config.width, config.latent, config.blocks)
            self.decoder = published.Decoder(shape, config.width, config.latent, config.blocks)
        else:
            self.encoder = TwoEncoders(math.prod(shape), config)
            self.decoder = CompactDecoder(math.prod(shape), config)
        self.codebook = RevivedCodebook(config.codes, config.latent, config.decay)

    def encode(self, x: Tensor) -> Encoded:
        """(n, *shape) fragments to latents."""
        return Encoded(*self.encoder(x))

    def quantize(self, content: Tensor) -> Quantized:
        """(n, D) z_c to atoms and codes; as it is while the codebook has not started."""
        if not self.codebook.started:
            none = torch.zeros(len(content), dtype=torch.long, device=content.device)
            return Quantized(content, none, content.new_zeros(()))
        quantized: Quantized = self.codebook(content)
        return quantized

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """(n, D) each to (n, *shape)."""
        x: Tensor = self.decoder(content, style)
        return x.reshape(-1, *self.shape)


class RevivedCodebook(Codebook):
    """A codebook whose dead atoms come back where an atom is likely to serve two contents.

    Put down anywhere, an atom mostly splits a content that has one already, while two others go on
    sharing theirs. So the fragments it may come back at are weighed by their distance from their
    atom and by how much that atom is used; and it has little time to prove itself.

    Args:
        size: K.
        dim: D.
        decay: of the moving averages.
    """

    LEAST_SHARE = 0.6  # of an even share of the batch: half a content is no home for an atom
    FIRST_SHARE = 0.8  # what a revived one is credited with

    def __init__(self, size: int, dim: int, decay: float) -> None:
        super().__init__(size, dim, decay, dead_below=0.0)  # none is replaced by the base

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move the atoms towards the (n, D) inputs they were chosen for; revive dead ones."""
        super().update(z, codes, generator)
        even = len(z) / self.size
        dead = (self.count < self.LEAST_SHARE * even).nonzero().flatten()
        if len(dead):
            square, nearest = self.distances(z).min(-1)
            weight = (square + 1e-9) * self.count[nearest].square()
            chosen = torch.multinomial(weight.cpu(), len(dead), len(dead) > len(z),
                                       generator=generator)
            self._place(dead, z[chosen.to(z.device)], self.FIRST_SHARE * even)


class TwoEncoders(nn.Module):
    """One perceptron for each factor; contents lie on a sphere.

    Left free, some contents move ten times farther away than others, and a codebook then rather
    gives two atoms to the loosest content than one to each of two near ones.
    """

    def __init__(self, n_in: int, config: NetworkConfig) -> None:
        super().__init__()
        self.content = _layers(n_in, config.latent, config.width, nn.BatchNorm1d)
        self.style = _layers(n_in, config.latent, config.width, nn.BatchNorm1d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, *shape) to z_c and z_s, (n, D) each."""
        flat = x.flatten(1)
        content = self.content(flat)
        size = content.square().mean(-1, keepdim=True).add(1e-6).sqrt()
        return content / size, self.style(flat)


class CompactDecoder(nn.Module):
    """A perceptron on both latents."""

    def __init__(self, n_out: int, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = _layers(2 * config.latent, n_out, config.width, nn.LayerNorm)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(n, D) each to (n, n_out)."""
        x: Tensor = self.layers(torch.cat([content, style], -1))
        return x


def _layers(n_in: int, n_out: int, width: int,
            norm: type[nn.BatchNorm1d] | type[nn.LayerNorm]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), norm(width), nn.GELU(),
                         nn.Linear(width, width), norm(width), nn.GELU(), nn.Linear(width, n_out))
