"""Pictures of a run: which code stands for what, and how both latents lie.

Letters: K codes, C contents, D values of a latent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.paper.fragments import Fragments
from training.paper.measure import Latents

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def draw_confusion(table: IntArray, names: IntArray, contents: tuple[str, ...],
                   path: Path) -> None:
    """A (K, C) table as shares of each code, codes in the order of the contents they name."""
    from matplotlib.figure import Figure

    order = np.argsort(names, kind="stable")
    shares = table[order] / np.maximum(table[order].sum(1, keepdims=True), 1)
    figure = Figure(figsize=(2 + 0.3 * len(contents), 1.5 + 0.2 * len(table)), layout="tight")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Purples", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(contents)), contents)
    axes.set_yticks(range(len(table)), [str(k) for k in order], fontsize=7)
    axes.set_xlabel("content")
    axes.set_ylabel("code")
    figure.savefig(path, dpi=110)


def draw_latents(found: Latents, data: Fragments, path: Path) -> None:
    """z_c and z_s in the plane where each varies most, each coloured by content and by style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 10), layout="tight")
    for row, (latent, z) in enumerate((("z_c", found.content), ("z_s", found.style))):
        plane = principal_plane(z)
        for column, (factor, labels, names) in enumerate((
                ("content", found.content_label, data.content_names),
                ("style", found.style_label, data.style_names))):
            axes = figure.add_subplot(2, 2, 1 + 2 * row + column)
            for index, name in enumerate(names):
                points = plane[labels == index]
                axes.scatter(*points.T, s=4, color=_colour(index, len(names)), label=name)
            axes.set_title(f"{latent}, coloured by {factor}")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.legend(fontsize=6, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def principal_plane(z: FloatArray) -> FloatArray:
    """(n, D) projected on its two directions of largest variance, (n, 2)."""
    centred = z - z.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ directions[:2].T, np.float32)


def _colour(index: int, n: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["hsv"](index / n)
    return red, green, blue, alpha
