"""The paper's network: one residual convolutional trunk for both factors, at any size.

Written anew from the authors' description and sizes (55 million parameters for sound at width 512).
The trunk halves the fragment again and again while its channels double, a linear layer makes both
latents, and the decoder is the trunk turned round. Where they have transposed convolutions of
stride one we have plain ones, which can do the same.

Letters: n fragments, D values of a latent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from v3audio.errors import ConfigError


class Group(NamedTuple):
    """Resolutions that share a kernel: the first keeps the size, each further one strides."""

    first: int  # channels
    halvings: int
    kernel: tuple[int, int]
    stride: tuple[int, int]


def groups(shape: tuple[int, ...], width: int) -> list[Group]:
    """The authors' trunk for log spectra (F, T) or pictures (channels, height, width).

    Raises:
        ConfigError: the fragment cannot be halved that often, or a width too small.
    """
    if len(shape) == 2:
        found = [Group(width // 128, 3, (9, 3), (2, 2)), Group(width // 16, 4, (5, 3), (2, 1))]
    else:
        found = [Group(width // 16, 2, (5, 5), (2, 2)), Group(width // 4, 2, (5, 5), (2, 2))]
    if width % (128 if len(shape) == 2 else 16):
        raise ConfigError(f"network.width = {width}: the paper's network for fragments {shape} "
                          f"needs a multiple of {128 if len(shape) == 2 else 16}")
    for axis in (0, 1):
        by = math.prod(g.stride[axis] ** g.halvings for g in found)
        if shape[axis - 2] % by:
            raise ConfigError(f"fragments {shape}: the paper's network needs multiples of {by} "
                              f"on axis {axis - 2}; set data.features to the paper's")
    return found


class Encoder(nn.Module):
    """Fragments to content and style.

    Args:
        shape: of one fragment.
        width: channels of the last resolution.
        latent: D.
        blocks: residual blocks a resolution.

    Raises:
        ConfigError: as `groups`.
    """

    def __init__(self, shape: tuple[int, ...], width: int, latent: int, blocks: int) -> None:
        super().__init__()
        channels = 1 if len(shape) == 2 else shape[0]
        layers: list[nn.Module] = []
        for g in groups(shape, width):
            layers += _smooth(channels, g.first, g.kernel)
            layers += [Residual(g.first, g.first, g.kernel) for _ in range(blocks)]
            channels = g.first
            for _ in range(g.halvings):
                layers.append(Residual(channels, 2 * channels, g.kernel, g.stride))
                channels *= 2
                layers += [Residual(channels, channels, g.kernel) for _ in range(blocks - 1)]
        self.trunk = nn.Sequential(*layers)
        self.both = nn.Linear(math.prod(_smallest(shape, width)), 2 * latent)
        self.content = nn.Linear(latent, latent)
        self.style = nn.Linear(latent, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, *shape) to z_c and z_s, (n, D) each."""
        x = x.unsqueeze(1) if x.dim() == 3 else x
        both = nn.functional.gelu(self.both(self.trunk(x).flatten(1)))
        content, style = both.chunk(2, -1)
        return self.content(content), self.style(style)


class Decoder(nn.Module):
    """Content and style to fragments. Arguments as `Encoder`."""

    def __init__(self, shape: tuple[int, ...], width: int, latent: int, blocks: int) -> None:
        super().__init__()
        self.smallest = _smallest(shape, width)
        self.content = nn.Linear(latent, latent)
        self.style = nn.Linear(latent, latent)
        self.both = nn.Linear(2 * latent, math.prod(self.smallest))
        layers: list[nn.Module] = []
        channels = width
        found = groups(shape, width)
        for g, out in zip(reversed(found),
                          [found[0].first * 2 ** found[0].halvings,
                           1 if len(shape) == 2 else shape[0]], strict=True):
            for _ in range(g.halvings):
                layers += [Residual(channels, channels, g.kernel) for _ in range(blocks - 1)]
                layers += [Residual(channels, channels // 2, g.kernel, narrow_last=True),
                           nn.Upsample(scale_factor=g.stride)]
                channels //= 2
            layers += [Residual(channels, channels, g.kernel) for _ in range(blocks)]
            layers.append(nn.Conv2d(channels, out, g.kernel, padding=_same(g.kernel)))
            channels = out
        self.trunk = nn.Sequential(*layers)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(n, D) each to (n, channels, *the last two axes of the shape)."""
        both = torch.cat([self.content(content), self.style(style)], -1)
        both = nn.functional.gelu(self.both(nn.functional.gelu(both)))
        x: Tensor = self.trunk(both.unflatten(1, self.smallest))
        return x


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is projected where the size changes."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int],
                 stride: tuple[int, int] = (1, 1), narrow_last: bool = False) -> None:
        super().__init__()
        middle = n_in if narrow_last else n_out
        self.layers = nn.Sequential(
            *_smooth(n_in, middle, kernel, stride),
            nn.Conv2d(middle, n_out, kernel, padding=_same(kernel)), nn.BatchNorm2d(n_out))
        self.shortcut: nn.Module = nn.Identity()
        if n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in, F, T) to (n, n_out, F / stride, T / stride)."""
        return nn.functional.gelu(self.layers(x) + self.shortcut(x))


def _smooth(n_in: int, n_out: int, kernel: tuple[int, int],
            stride: tuple[int, int] = (1, 1)) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, kernel, stride, _same(kernel)), nn.BatchNorm2d(n_out), nn.GELU()]


def _same(kernel: tuple[int, int]) -> tuple[int, int]:
    return kernel[0] // 2, kernel[1] // 2


def _smallest(shape: tuple[int, ...], width: int) -> tuple[int, int, int]:
    """(channels, F, T) at the bottom of the trunk."""
    size = [shape[-2], shape[-1]]
    for g in groups(shape, width):
        size = [n // s**g.halvings for n, s in zip(size, g.stride, strict=True)]
    return width, size[0], size[1]
