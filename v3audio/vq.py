"""Vector quantisation with a moving-average codebook (van den Oord et al. 2017, appendix A.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What a codebook made of its input."""

    z_q: Tensor  # (..., D) the atoms; gradients pass straight through to the input
    codes: Tensor  # (...) int64, index of the nearest atom
    commitment: Tensor  # () mean squared distance of the input to its (detached) atom


class Codebook(nn.Module):
    """K atoms of D values, learned by exponential moving averages instead of by gradient.

    Atoms that fall out of use are replaced by inputs of the batch; without that, two pitches that
    once share an atom share it for ever.
    """

    atoms: Tensor
    count: Tensor
    total: Tensor
    started: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.98, dead_below: float = 1.0,
                 peak_reach: int | None = None) -> None:
        """Make an empty codebook; `start` places its atoms.

        Args:
            size: K.
            dim: D.
            decay: of the moving averages, per update.
            dead_below: moving count under which an atom is replaced.
            peak_reach: where D is an ordered axis, atoms keep only this many values on each side
                of their largest: one code, one place. None: any atom.
        """
        super().__init__()
        self.size, self.decay, self.dead_below = size, decay, dead_below
        self.peak_reach = peak_reach
        self.register_buffer("atoms", torch.zeros(size, dim))
        self.register_buffer("count", torch.ones(size))
        self.register_buffer("total", torch.zeros(size, dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def distances(self, z: Tensor) -> Tensor:
        """Squared Euclidean distances (..., K) of (..., D) to every atom."""
        return (z.square().sum(-1, keepdim=True) - 2 * z @ self.atoms.T
                + self.atoms.square().sum(-1)).clamp_min(0)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise (..., D)."""
        codes = self.distances(z.detach()).argmin(-1)
        atoms = self.atoms[codes]
        commitment = (z - atoms).square().sum(-1).mean()
        return Quantized(z + (atoms - z).detach(), codes, commitment)

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move the atoms towards the (N, D) inputs they were chosen for; replace dead ones."""
        used = torch.bincount(codes, minlength=self.size).to(z.dtype)
        self.count.mul_(self.decay).add_(used, alpha=1 - self.decay)
        sums = torch.zeros_like(self.total).index_add_(0, codes, z)
        self.total.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        self.atoms.copy_(self._peaks(self.total / self.count.clamp_min(1e-5)[:, None]))
        dead = (self.count < self.dead_below).nonzero().flatten()
        if len(dead):
            fresh = z[torch.randint(len(z), (len(dead),), generator=generator)]
            self._place(dead, fresh, z.shape[0] / self.size)

    @torch.no_grad()
    def start(self, z: Tensor, generator: torch.Generator, iterations: int = 10) -> None:
        """Place the atoms by k-means++ and a few Lloyd steps over (N, D) inputs."""
        first = int(torch.randint(len(z), (1,), generator=generator))
        chosen = [first]
        nearest = (z - z[first]).square().sum(-1)
        for _ in range(self.size - 1):
            pick = int(torch.multinomial(nearest.clamp_min(1e-12), 1, generator=generator))
            chosen.append(pick)
            nearest = torch.minimum(nearest, (z - z[pick]).square().sum(-1))
        self.atoms.copy_(z[chosen])
        for _ in range(iterations):
            codes = self.distances(z).argmin(-1)
            used = torch.bincount(codes, minlength=self.size).to(z.dtype)
            sums = torch.zeros_like(self.total).index_add_(0, codes, z)
            self.atoms.copy_(torch.where(used[:, None] > 0, sums / used.clamp_min(1)[:, None],
                                         self.atoms))
        self._place(torch.arange(self.size), self.atoms.clone(), z.shape[0] / self.size)
        self.started.fill_(True)

    def _place(self, index: Tensor, atoms: Tensor, weight: float) -> None:
        """Put atoms down with the count that an even use of the batch would give them."""
        self.atoms[index] = self._peaks(atoms)
        self.count[index] = weight
        self.total[index] = atoms * weight

    def _peaks(self, atoms: Tensor) -> Tensor:
        """(n, D) atoms without what lies away from their largest value."""
        if self.peak_reach is None:
            return atoms
        place = torch.arange(atoms.shape[-1], device=atoms.device)
        away = (place - atoms.argmax(-1, keepdim=True)).abs() > self.peak_reach
        return torch.nn.functional.normalize(atoms.masked_fill(away, 0.0), dim=-1)
