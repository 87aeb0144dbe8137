"""Rows of fragments with two factors each: what V3 trains on, whatever the domain.

A *fragment* is one note or one digit; a *row* is a file or a line of them in one style. Labels are
carried along to measure by; no unsupervised method is given them.

Letters: R rows, L fragments of a row, B clips, N fragments of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3audio.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Fragments:
    """A data set.

    Attributes:
        x: (R, L, *shape) float32, standardised.
        content: (R, L) which content each fragment is, 0..n_contents - 1.
        style: (R,) which style each row is in, 0..n_styles - 1.
        content_names: by index.
        style_names: by index.
    """

    x: Tensor
    content: NDArray[np.int64]
    style: NDArray[np.int64]
    content_names: tuple[str, ...]
    style_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one fragment."""
        return tuple(self.x.shape[2:])

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Fragments:
        """The same with some rows only."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Fragments(self.x[torch.from_numpy(index)], self.content[index], self.style[index],
                         self.content_names, self.style_names)

    def flat(self) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
        """(R * L, *shape) fragments with the content and the style of each."""
        styles = np.repeat(self.style, self.content.shape[1])
        return self.x.flatten(0, 1), self.content.ravel(), styles


class Batch(NamedTuple):
    """Clips drawn for one step."""

    x: Tensor  # (B, N, *shape)
    content: Tensor  # (B, N) int64; for the supervised method alone
    style: Tensor  # (B,) int64; likewise


def draw(data: Fragments, n_clips: int, n_fragments: int, generator: torch.Generator) -> Batch:
    """Clips of consecutive fragments from rows drawn with replacement.

    Args:
        data: what is drawn from.
        n_clips: B.
        n_fragments: N, at most L.
        generator: of the draw.

    Raises:
        ConfigError: rows shorter than a clip.
    """
    n_rows, length = data.content.shape
    if n_fragments > length:
        raise ConfigError(f"clips of {n_fragments} fragments, but rows have {length}; "
                          "set data.fragments lower")
    row = torch.randint(n_rows, (n_clips,), generator=generator)
    start = torch.randint(length - n_fragments + 1, (n_clips,), generator=generator)
    at = start[:, None] + torch.arange(n_fragments)  # (B, N)
    content = torch.from_numpy(data.content)[row[:, None], at]
    return Batch(data.x[row[:, None], at], content, torch.from_numpy(data.style)[row])
