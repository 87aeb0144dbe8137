"""What a run is trained on, measured on, and taken out of its depth with.

Letters: R rows, L fragments of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from training.paper import insnotes, phonenums
from training.paper.fragments import Fragments
from v3audio.errors import ConfigError

MOST_SHOTS = phonenums.MOST_SHOTS
SHOTS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which data, and how they are split.

    Attributes:
        domain: `insnotes` or `phonenums`.
        folder: as `v3audio data` made it.
        features: `compact` (144 x 4 log-frequency spectra, pictures of half the size) or `paper`
            (512 x 32 spectrograms, full pictures).
        train_files: of each instrument; the rest are for measuring.
        programs: instruments trained on.
        ood_programs: instruments never trained on.
        ood_folder: where those are, of another soundfont for example; empty: in `folder`.
    """

    domain: Literal["insnotes", "phonenums"] = "insnotes"
    folder: Path = Path("data/insnotes")
    features: Literal["compact", "paper"] = "compact"
    train_files: int = 6
    programs: tuple[int, ...] = insnotes.PROGRAMS
    ood_programs: tuple[int, ...] = insnotes.OOD_PROGRAMS
    ood_folder: str = ""


class Splits(NamedTuple):
    """A data set as runs use it."""

    train: Fragments
    test: Fragments  # the same styles, other renders
    shots: Fragments  # unheard styles: MOST_SHOTS clips of each, in order of style
    ood: Fragments  # unheard styles, to measure
    normaliser: insnotes.Normaliser  # mean 0 and spread 1 for pictures


def load(config: DataConfig) -> Splits:
    """Read everything one run needs.

    Raises:
        ConfigError: the data are missing, or too few.
    """
    if config.domain == "phonenums":
        halved = config.features == "compact"
        train, test, ood = (phonenums.load(config.folder, split, halved)
                            for split in ("train", "test", "ood"))
        return Splits(train, test, *_shots(ood), insnotes.Normaliser(0.0, 1.0))
    features: insnotes.Features = ("log-frequency" if config.features == "compact"
                                   else "spectrogram")
    ours, others = slice(config.train_files), slice(config.train_files, None)
    train, normaliser = insnotes.load(config.folder, config.programs, ours, features)
    test, _ = insnotes.load(config.folder, config.programs, others, features, normaliser)
    away = Path(config.ood_folder) if config.ood_folder else config.folder
    first, _ = insnotes.load(away, config.ood_programs, slice(1), features, normaliser)
    ood, _ = insnotes.load(away, config.ood_programs, others, features, normaliser)
    return Splits(train, test, clips_of(first, insnotes.N_NOTES), ood, normaliser)


def clips_of(data: Fragments, length: int) -> Fragments:
    """The same fragments in shorter rows, (R * L / length, length)."""
    n = data.content.shape[1] // length
    x = data.x[:, : n * length].unflatten(1, (n, length)).flatten(0, 1)
    content = data.content[:, : n * length].reshape(-1, length)
    return replace(data, x=x, content=content, style=np.repeat(data.style, n))


def _shots(data: Fragments) -> tuple[Fragments, Fragments]:
    """The first MOST_SHOTS rows of each style, and the others."""
    nth = np.concatenate([np.arange(n) for n in np.bincount(data.style)])  # rows are in order
    if (np.bincount(data.style) <= MOST_SHOTS).any():
        raise ConfigError(f"fewer than {MOST_SHOTS + 1} rows of an unheard style; draw the data "
                          "again, larger")
    return data.rows(nth < MOST_SHOTS), data.rows(nth >= MOST_SHOTS)
