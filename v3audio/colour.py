"""The colour of a captured timbre: what an instrument has beyond what its style tells a renderer.

V3's style vector says what kind of sound it is. The notes of a take say more: how strong each
harmonic and noise band was at each pitch, and how that changed with loudness. A colour holds the
difference on a grid of pitches and its slope over the level, found by the renderer's own loss
through its network; pitches never heard get what those around them make likely. To adapt moves the
style vector too.

Letters in shapes: R frames, L notes, K harmonics, N noise bands, M mel bands, D style values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3audio.notes import Note
from v3audio.render_loss import SILENT, loss_terms, relative
from v3audio.renderer import (
    COLOUR_LOUDNESS,
    COLOUR_LOW,
    COLOUR_PITCHES,
    COLOUR_STEP,
    LOUDNESS_DB,
    TOP_HZ,
    RendererConfig,
    colour_at,
)
from v3audio.renderer_net import RendererNet
from v3audio.spectra import MEL_FLOOR, SYNTH_RATE, take_apart

Samples = NDArray[np.float32]
Frames = dict[str, Tensor]
"""Measured frames, sorted by pitch: see `measure`."""

MIN_NOTE_S = 0.12
ALIKE_SEMITONES = 5.0
"""Two pitches so far apart have e times less in common, beside what all have..."""
OF_NOTE = 0.5
"""...and a note differs by so much (of a pitch's variance) from others of its pitch."""
WEIGHTS = {"mel": 1.0, "harmonics": 0.3, "noise": 0.1}  # as the renderer was trained
RATE, STYLE_RATE = 0.03, 0.015
SLOPE_WAY = 0.6  # how far the slope can go in all steps: little tells of it, and it would overfit
STYLE_LEASH = 1e-4  # of the squared distance from V3's style, in its standard deviations
STEPS, ADAPT_STEPS = 60, 200
HELD_EVERY = 4  # pitches that judge an adaptation


def measure(sound: Samples, notes: Sequence[Note], config: RendererConfig) -> Frames:
    """Take the notes of a take apart.

    Args:
        sound: (n_samples,) mono at `SYNTH_RATE`.
        notes: in it; those that are short, silent, or not at their pitch are left out.
        config: sizes of the renderer.

    Returns:
        Columns of R frames, none where no note could be used: ``note`` and ``midi`` (R,) int64,
        ``pitch``, ``level``, ``age`` (R,), and what `render_loss.loss_terms` wants.
    """
    parts: list[dict[str, NDArray[np.generic]]] = []
    for index, note in enumerate(notes):
        length_s = min(note.offset_s, len(sound) / SYNTH_RATE) - note.onset_s
        if length_s < MIN_NOTE_S:
            continue
        # dense in the attack, sparse where little moves
        age_s = np.concatenate([np.arange(0.0, 0.1, 0.015), np.arange(0.1, 0.3, 0.03),
                                np.arange(0.3, max(length_s, 0.3), 0.09)])  # fmt: skip
        age_s = age_s[age_s < length_s - 0.03]
        centres = ((note.onset_s + age_s) * SYNTH_RATE).astype(np.int64)
        pitch = note.midi + note.cents / 100.0
        found = take_apart(sound[:, None], centres, age_s, pitch, config)
        if found is None:
            continue
        n = len(age_s)
        columns: dict[str, NDArray[np.generic]] = {
            "note": np.full(n, index),
            "midi": np.full(n, note.midi),
            "pitch": pitch + found.frame_cents / 100,
            "level": found.level_db,
            "age": age_s.astype(np.float32),
            "harmonics": found.harmonics,
            "noise": found.noise,
            "mel": found.mel,
            "floor": np.full(n, found.mel.max() + np.log(MEL_FLOOR), np.float32),
            "weight": np.sqrt(np.gradient(age_s) / 0.015).astype(np.float32),
        }
        loud = found.level_db > found.level_db.max() - 45
        parts.append({name: column[loud] for name, column in columns.items()})
    if not parts:
        return {}
    parts.sort(key=lambda columns: int(columns["midi"][0]))
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in joined.items()}


def level_shift_db(frames: Frames, reference_db: float) -> float:
    """What lifts the notes' usual loudness to the level that stands for mezzo-forte."""
    loud = [
        frames["level"][frames["note"] == i].quantile(0.9) for i in torch.unique(frames["note"])
    ]
    return reference_db - float(torch.stack(loud).median())


class Fit(NamedTuple):
    """How an instrument is to be played."""

    style: NDArray[np.float32]  # (D,)
    colour: NDArray[np.float32]  # (COLOUR_ROWS, K + N) natural log gains, the last row the slope


class Bench:
    """One take's frames on a renderer's network: fits them, and judges fits.

    Args:
        net: the network; its weights stay as they are.
        frames: of `measure`.
        style: (D,) what V3 heard.
        shift_db: of `level_shift_db`.
    """

    def __init__(
        self, net: RendererNet, frames: Frames, style: NDArray[np.float32], shift_db: float
    ) -> None:
        self._net = net.requires_grad_(False)
        self._frames = frames
        self._style = torch.from_numpy(style)
        self._shift_db = shift_db

    def fit(
        self, steps: int | None = None, adapt: bool = False, told: Callable[[], None] = lambda: None
    ) -> Fit:
        """Find the colour, and with `adapt` the style vector too; `told` after each step."""
        steps = steps or (ADAPT_STEPS if adapt else STEPS)
        frames, net = self._frames, self._net
        style = self._style.clone().requires_grad_(adapt)
        notes = torch.unique_consecutive(frames["note"])
        of_note = [frames["note"] == i for i in notes]
        at = torch.stack([frames["pitch"][rows].median() for rows in of_note])
        with torch.no_grad():
            plain = self._plain(style)
            wanted = relative(frames["harmonics"], frames["noise"]).clamp(min=SILENT)
            missing = wanted - plain.clamp(min=SILENT)
            # the steady part of each note is where the search begins
            steady = frames["weight"] * (frames["age"] > 0.02) + 1e-6
            gains = torch.stack([
                (steady[rows, None] * missing[rows]).sum(0) / steady[rows].sum() for rows in of_note
            ])  # fmt: skip
            # what lies beyond hearing at this pitch is not at the next one: as the others have it
            harmonics = torch.arange(1, net.config.n_harmonics + 1)
            heard = 440.0 * torch.exp2((at - 69.0) / 12.0)[:, None] * harmonics < TOP_HZ
            heard = torch.nn.functional.pad(heard, (0, net.config.n_noise), value=True)
            mean = (gains * heard).sum(0) / heard.sum(0).clamp(min=1)
            gains = torch.where(heard, gains, mean)
        mix, loudness = _mix(frames["pitch"], at), self._loudness()
        gains.requires_grad_()
        slope = torch.zeros_like(mean, requires_grad=True)
        groups = [
            {"params": [gains], "lr": RATE},
            {"params": [slope], "lr": SLOPE_WAY / steps},
            {"params": [style], "lr": STYLE_RATE},
        ]
        optimizer = torch.optim.Adam(groups[: 2 + adapt])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            raw = self._plain(style) if adapt else plain
            strayed = ((style - self._style) / net.style_std).square().sum()
            loss = self._loss(raw + mix @ gains + loudness * slope) + STYLE_LEASH * strayed
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            told()
        grid = COLOUR_LOW + COLOUR_STEP * torch.arange(COLOUR_PITCHES)
        colour = torch.cat([_mix(grid, at) @ gains, slope[None]]).detach()
        return Fit(style.detach().numpy(), colour.numpy())

    @torch.no_grad()
    def loss(self, fit: Fit) -> float:
        """How far a fit is from these frames (natural log amplitude, weighted as in training)."""
        at = zip(self._frames["pitch"].tolist(), self._loudness()[:, 0].tolist(), strict=True)
        colour = np.stack([colour_at(fit.colour, *place) for place in at])
        plain = self._plain(torch.from_numpy(fit.style))
        return float(self._loss(plain + torch.from_numpy(colour)))

    def part(self, rows: Tensor) -> Bench:
        """The same with some of the frames: (R,) bool."""
        frames = {name: column[rows] for name, column in self._frames.items()}
        return Bench(self._net, frames, self._style.numpy(), self._shift_db)

    def adapt(self, told: Callable[[], None] = lambda: None) -> tuple[Fit, float, float]:
        """Adapt to the take, if pitches that were held out say that it helps.

        Returns:
            The better fit, and the loss on the held-out pitches without and with adaptation; both
            are 0 where the take has too few pitches to hold any out.
        """
        _, order = torch.unique_consecutive(self._frames["midi"], return_inverse=True)
        held = order % HELD_EVERY == HELD_EVERY // 2
        if not held.any():
            return self.fit(), 0.0, 0.0
        heard, judge = self.part(~held), self.part(held)
        before = judge.loss(heard.fit())
        after = judge.loss(heard.fit(adapt=True, told=told))
        return (self.fit(adapt=True, told=told) if after < before else self.fit()), before, after

    def _plain(self, style: Tensor) -> Tensor:
        """The network's log RMS of every frame, (R, K + N)."""
        f = self._frames
        styles = style.expand(len(f["pitch"]), -1)
        out: Tensor = self._net(styles, f["pitch"], f["level"] + self._shift_db, f["age"])
        return out

    def _loudness(self) -> Tensor:
        """What the colour's slope is multiplied with in every frame, (R, 1)."""
        above_db = self._frames["level"] + self._shift_db - self._net.config.reference_db
        return (above_db / LOUDNESS_DB).clamp(*COLOUR_LOUDNESS)[:, None]

    def _loss(self, log_rms: Tensor) -> Tensor:
        terms = loss_terms(log_rms, self._frames, self._net.config)
        return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()


def _mix(pitch: Tensor, at: Tensor) -> Tensor:
    """What each of L notes at pitches `at` says about each pitch: (pitches, L), rows sum to 1.

    The best linear guess from noisy notes (kriging), where what they have in common falls
    exponentially with their distance; far from all of them it is their mean.
    """
    n = len(at)
    alike = torch.exp(-(at[:, None] - at).abs() / ALIKE_SEMITONES) + OF_NOTE * torch.eye(n)
    near = torch.exp(-(pitch[:, None] - at).abs() / ALIKE_SEMITONES)
    told: Tensor = torch.linalg.solve(alike, near.T).T
    return told + (1.0 - told.sum(1, keepdim=True)) / n
