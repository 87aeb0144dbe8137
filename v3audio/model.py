"""V3 on log-frequency frames: content is where, style is what colour.

The encoder is built so that a transposition can only move the content and never the style: one
correlation kernel is slid over all candidate pitches (content), and the spectrum is read relative
to the pitch it found (style). The decoder is its mirror, a template moved by the content plus a
formant that stays. Which of the two a sound's variation belongs to is learned through the V3
constraints alone (`training.losses`).

Letters: B clips, N frames, F bins, P positions, D style values, K codes.
Source: Wu et al., ICLR 2025 (arXiv 2407.03824); the equivariant encoder and the decoder are ours.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from v3audio.features import Views
from v3audio.geometry import (
    CONTENT_BLUR_BINS,
    GAIN_RANGE,
    KERNEL_ABOVE,
    KERNEL_BELOW,
    PARTIAL_BINS,
    STYLE_ABOVE,
    STYLE_BELOW,
    Geometry,
    ModelConfig,
    partial_padding,
)
from v3audio.vq import Codebook, Quantized

ADDED_FROM_BINS = 4  # a style's template starts this far below the pitch: the foot of its peak
CODE_REACH_BINS = 5  # an atom is one bump this wide on each side


class Encoded(NamedTuple):
    """One frame, taken apart."""

    position: Tensor  # (..., P) probability of each candidate pitch
    content: Tensor  # (..., P) z_c: `position` blurred, unit norm
    style: Tensor  # (..., D) z_s, about N(0, 1) over the training frames


class Decoded(NamedTuple):
    """A rebuilt spectrum, and what its style added to the common template."""

    spectrum: Tensor  # (B, N, F) in 0..1
    added: Tensor  # (B, offsets) logits


class V3Model(nn.Module):
    """Encoder, codebook and decoder; the front end (`features.FrontEnd`) stands before it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        g = config.geometry
        self.config = config
        self.content_head = ContentHead(g, config.channels, config.partial_hidden)
        self.style_head = StyleHead(g, config.hidden)
        # An atom with two peaks would let content say how strong an overtone is, which is style.
        self.codebook = Codebook(config.codebook_size, g.n_positions, config.codebook_decay,
                                 config.dead_below, CODE_REACH_BINS)
        self.decoder = ShiftDecoder(g, config.hidden)

    def encode(self, views: Views) -> Encoded:
        """Views of (B, F) frames to content and style."""
        position, content = self.content_head(views)
        return Encoded(position, content, self.style_head(views.long, position.argmax(-1)))

    def quantize(self, content: Tensor) -> Quantized:
        """z_c to its nearest codes."""
        quantized: Quantized = self.codebook(content)
        return quantized

    def decode(self, z_q: Tensor, style: Tensor) -> Decoded:
        """Spectra of contents (B, N, P) in one style (B, D) per clip."""
        decoded: Decoded = self.decoder(z_q, style)
        return decoded


class ContentHead(nn.Module):
    """One learned kernel correlated with every candidate pitch: translation-equivariant.

    The correlation is done as one product with the kernel's Toeplitz matrix, which on a CPU beats
    a convolution of 260 taps tenfold; evaluation keeps the matrix, training rebuilds it.
    """

    def __init__(self, g: Geometry, channels: int, partial_hidden: int) -> None:
        super().__init__()
        n_views, taps = len(Views._fields), KERNEL_BELOW + 1 + KERNEL_ABOVE
        # each view has its own detector of peaks and its own kernel
        peaks = [nn.Conv1d(1, channels, 15, padding=7) for _ in range(n_views)]
        # It starts as "a pitch is near its own bin"; a kernel that settled elsewhere would hear as
        # well, but push one end of the range off the axis.
        bumps = _harmonic_bumps(torch.arange(taps) - KERNEL_BELOW, 12 * g.bins_per_semitone)
        self.kernel = nn.Parameter(0.02 * torch.randn(n_views * channels, taps) + 0.1 * bumps)
        for conv in peaks:
            nn.init.normal_(conv.weight, std=0.1)
            with torch.no_grad():
                conv.weight[:, :, 7] += 0.3
        self.peaks = nn.ModuleList(peaks)
        self.log_gain = nn.Parameter(torch.tensor(math.log(3.0) / 5))
        tap = torch.arange(g.n_bins)[:, None] - torch.arange(g.n_positions) + KERNEL_BELOW
        self.register_buffer("tap", tap.clamp(0, taps - 1), persistent=False)  # (F, P)
        self.register_buffer("inside", (tap >= 0) & (tap < taps), persistent=False)
        apart = torch.arange(g.n_positions)[:, None] - torch.arange(g.n_positions)
        bump = torch.exp(-0.5 * (apart / CONTENT_BLUR_BINS).square())
        self.register_buffer("blur", bump, persistent=False)  # (P, P)
        self._pad = partial_padding(g)
        places = torch.arange(g.n_positions)[:, None] + torch.tensor(PARTIAL_BINS) + self._pad[0]
        self.register_buffer("places", places.flatten(), persistent=False)  # (P * partials)
        self.partials = None if not partial_hidden else nn.Sequential(
            nn.Linear(n_views * len(PARTIAL_BINS), partial_hidden), nn.GELU(),
            nn.Linear(partial_hidden, 1))
        self._kept: Tensor | None = None

    def forward(self, views: Views) -> tuple[Tensor, Tensor]:
        """Position probabilities and z_c, both (B, P)."""
        seen = torch.cat([functional.relu(peaks(view[:, None]))
                          for peaks, view in zip(self.peaks, views, strict=True)], 1)
        seen = seen - seen.mean(-1, keepdim=True)  # (B, views * channels, F)
        score = seen.flatten(1) @ self._correlation()
        if self.partials is not None:
            score = score + self._weigh_partials(views)
        score = (score - score.mean(-1, keepdim=True)) / (score.std(-1, keepdim=True) + 1e-5)
        position = torch.softmax(score * self.gain(), -1)
        return position, functional.normalize(position @ self.get_buffer("blur"), dim=-1)

    def _weigh_partials(self, views: Views) -> Tensor:
        """What the correlation cannot say, being linear: this is the octave above that one."""
        assert self.partials is not None
        near = functional.max_pool1d(torch.stack(views, 1), 3, 1, 1)  # a detuned partial counts
        padded = functional.pad(near, self._pad)
        at = padded[..., self.get_buffer("places")]  # (B, views, P * partials)
        at = at.reshape(*at.shape[:2], -1, len(PARTIAL_BINS)).transpose(1, 2).flatten(2)
        weighed: Tensor = self.partials(at)[..., 0]  # (B, P)
        return weighed

    def gain(self) -> Tensor:
        """Sharpness of the softmax; learned, and bounded so that it can neither die nor explode."""
        return torch.exp(5 * self.log_gain).clamp(*GAIN_RANGE)

    def _correlation(self) -> Tensor:
        """(views * channels * F, P): column p is the kernel laid over the axis at position p."""
        if self._kept is not None and not self.training:
            return self._kept
        matrix = (self.kernel[:, self.get_buffer("tap")] * self.get_buffer("inside")).flatten(0, 1)
        self._kept = None if self.training else matrix.detach()
        return matrix

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> ContentHead:
        """Also forget the kept matrix: the kernel is about to change, or has."""
        self._kept = None
        super().train(mode)
        return self


class StyleHead(nn.Module):
    """The spectrum as seen from the heard pitch, read by a small perceptron.

    BatchNorm without scale keeps all D values alive and of one size, which the hinges need.
    """

    def __init__(self, g: Geometry, hidden: int) -> None:
        super().__init__()
        width = STYLE_BELOW + 1 + STYLE_ABOVE
        self.register_buffer("offsets", torch.arange(width), persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(),
            nn.Linear(hidden, g.style_dim),
            nn.BatchNorm1d(g.style_dim, affine=False, momentum=0.02))

    def forward(self, spectrum: Tensor, position: Tensor) -> Tensor:
        """(B, F) spectra and (B,) argmax positions to z_s (B, D)."""
        padded = functional.pad(spectrum, (STYLE_BELOW, STYLE_ABOVE + 1))
        index = position[:, None] + self.get_buffer("offsets")
        style: Tensor = self.mlp(padded.gather(1, index.clamp_max(padded.shape[1] - 1)))
        return style


class ShiftDecoder(nn.Module):
    """Source and filter: a template moved to the pitch, and a formant that stays put.

    The template is one for all styles plus what a style adds to it, and a style can add only at
    and above the pitch: no instrument has partials below it. Without that, an instrument can be
    heard at an overtone and still be rebuilt, by a template that reaches down; nothing in V3's
    constraints forbids it. What is added is charged a little (`training.losses`, `template`).
    """

    def __init__(self, g: Geometry, hidden: int) -> None:
        super().__init__()
        n_offsets = g.n_positions - 1 + g.n_bins
        octave = 12 * g.bins_per_semitone
        offset = torch.arange(n_offsets) - (g.n_positions - 1)
        self.template = nn.Parameter(2 * _harmonic_bumps(offset, octave) - 1)
        self.bias = nn.Parameter(torch.tensor(-1.0))
        self.below = g.n_positions - 1 - ADDED_FROM_BINS  # offsets out of a style's reach
        self.template_of_style = _perceptron(g.style_dim, hidden, n_offsets - self.below, False)
        self.formant_of_style = _perceptron(g.style_dim, hidden, g.n_bins)
        bins, positions = torch.arange(g.n_bins), torch.arange(g.n_positions)
        # bin - position >= 1 - P: where the template is read for a position's share of a bin
        self.register_buffer("index", bins - positions[:, None] + g.n_positions - 1,
                             persistent=False)  # (P, F)

    def forward(self, z_q: Tensor, style: Tensor) -> Decoded:
        """(B, N, P) contents in (B, D) styles to spectra (B, N, F)."""
        added = self.template_of_style(style)  # (B, offsets)
        template = self.template + functional.pad(added, (self.below, 0))
        moved = template[:, self.get_buffer("index")]  # (B, P, F)
        formant = self.formant_of_style(style)[:, None]
        return Decoded(torch.sigmoid(torch.bmm(z_q, moved) + formant + self.bias), added)


def _harmonic_bumps(offset: Tensor, octave_bins: int) -> Tensor:
    """Where a start looks for harmonics: bumps at 1, 2, ... times a pitch, falling as 1/sqrt(k)."""
    k = torch.arange(1, 17)
    apart = offset - octave_bins * torch.log2(k)[:, None]
    return (torch.exp(-0.5 * (apart / 1.5).square()) / k.sqrt()[:, None]).sum(0)


def _perceptron(n_in: int, hidden: int, n_out: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.LayerNorm(hidden), nn.GELU(),
                         nn.Linear(hidden, n_out, bias))
