"""The renderer's network in torch, for training; `v3audio.renderer` plays a numpy copy of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from v3audio.renderer import (
    AGE_TAUS_S,
    HIGHEST_LEVEL_DB,
    LOUDNESS_DB,
    LOWEST_LEVEL_DB,
    N_CONTROLS,
    PITCH_CYCLES,
    TAPER_HZ,
    TOP_HZ,
    FrozenNet,
    RendererConfig,
)


class RendererNet(nn.Module):
    """Style, pitch, level and age to log amplitudes of harmonics and noise bands.

    The style vector is standardised with the statistics of the training timbres (buffers, so they
    travel with the weights): style vectors of real timbres sit close together, and the first layer
    should not have to undo that.

    Args: config: sizes; kept as `.config`.
    """

    style_mean: Tensor
    style_std: Tensor

    def __init__(self, config: RendererConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RendererConfig()
        self.register_buffer("style_mean", torch.zeros(config.n_style))
        self.register_buffer("style_std", torch.ones(config.n_style))
        n = config.hidden
        self.entry = nn.Linear(config.n_style + N_CONTROLS, n)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"inner": nn.Linear(n, n), "outer": nn.Linear(n, n)})
            for _ in range(config.n_blocks)
        )
        self.exit = nn.Linear(n, config.n_harmonics + config.n_noise)
        for block in self.blocks:
            nn.init.zeros_(block["outer"].weight)  # type: ignore[index]
        with torch.no_grad():  # start from a falling spectrum rather than a flat one
            k = torch.arange(1, config.n_harmonics + 1)
            self.exit.bias[: config.n_harmonics] = -1.5 * torch.log(k)
            self.exit.bias[config.n_harmonics :] = -7.0

    def forward(self, style: Tensor, pitch_midi: Tensor, level_db: Tensor, age_s: Tensor) -> Tensor:
        """Natural log RMS of each harmonic and noise band in a frame of total RMS 1.

        Args:
            style: (B, n_style).
            pitch_midi: (B,) MIDI pitch, fractions allowed.
            level_db: (B,) dBFS RMS.
            age_s: (B,) seconds since the onset.

        Returns: (B, n_harmonics + n_noise). Harmonics above `TOP_HZ` are not counted in the total
            (nor played).
        """
        style = (style - self.style_mean) / self.style_std
        controls = control_features(pitch_midi, level_db, age_s, self.config.reference_db)
        h = nn.functional.silu(self.entry(torch.cat([style, controls], -1)))
        for block in self.blocks:
            h = h + block["outer"](nn.functional.silu(block["inner"](h)))  # type: ignore[index]
        raw: Tensor = self.exit(nn.functional.silu(h))
        k = torch.arange(1, self.config.n_harmonics + 1, device=raw.device)
        hz = 440.0 * torch.exp2((pitch_midi - 69.0) / 12.0)
        gain = ((TOP_HZ - hz[:, None] * k) / TAPER_HZ).clamp(0.0, 1.0)
        total = (torch.exp(2 * raw[:, : len(k)]) * gain**2).sum(-1, keepdim=True)
        total = total + torch.exp(2 * raw[:, len(k) :]).sum(-1, keepdim=True)
        return raw - 0.5 * torch.log(total)


def control_features(
    pitch_midi: Tensor, level_db: Tensor, age_s: Tensor, reference_db: float
) -> Tensor:
    """What the network sees of pitch, level and age: (B, N_CONTROLS), all of order 1.

    Args: pitch_midi, level_db, age_s: (B,); reference_db: see `RendererConfig`.
    """
    columns = [(pitch_midi - 64.0) / 18.0]
    for semitones in PITCH_CYCLES:  # a finer eye for where one sample of an instrument ends
        angle = 2 * torch.pi / semitones * pitch_midi
        columns += [torch.sin(angle), torch.cos(angle)]
    columns.append((level_db.clamp(LOWEST_LEVEL_DB, HIGHEST_LEVEL_DB) - reference_db) / LOUDNESS_DB)
    age_s = age_s.clamp(0.0, 2.0)
    columns.append(age_s - 1.0)
    columns += [2 * torch.exp(-age_s / tau) - 0.5 for tau in AGE_TAUS_S]
    return torch.stack(columns, -1)


def frozen(net: RendererNet) -> FrozenNet:
    """A numpy copy for playing; later changes to the network are not seen."""
    weights = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
    return FrozenNet(weights, net.config)
