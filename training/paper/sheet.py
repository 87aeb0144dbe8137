"""The recombination sheet: every content in every style, to look at and to hear, in one file.

The page needs no network: pictures and sounds are in it.
"""

from __future__ import annotations

import html
import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.paper.datasets import Splits
from training.paper.insnotes import FRAMES, SAMPLE_RATE, Normaliser
from training.paper.measure import Recombined
from training.paper.sounds import to_sound
from v3audio.paths import atomic_write
from v3audio.pictures import data_url

_STYLE = """
body { font: 14px sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th { font-weight: normal; padding: 2px 6px; text-align: left; }
thead th { vertical-align: bottom; writing-mode: vertical-rl; transform: rotate(180deg); }
td { padding: 1px; }
img { display: block; image-rendering: pixelated; height: 48px; min-width: 32px; }
td.sound img { cursor: pointer; width: 40px; }
td.sound img:hover { outline: 2px solid #80c; }
"""
_PLAY = """
for (const cell of document.querySelectorAll('td.sound img'))
  cell.onclick = () => new Audio(cell.dataset.sound).play();
"""


def write_sheet(made: Recombined, splits: Splits, title: str, path: Path) -> None:
    """Write the page: a row for each code in use, a column for each style.

    Args:
        made: every content in every style.
        splits: gives the names, and how spectra were standardised.
        title: heads the page.
        path: of the HTML file.
    """
    is_sound = made.x.dim() == 4  # (k, S, F, T)
    rows = []
    for code, name, cells in zip(made.codes, made.names, made.x.numpy(), strict=True):
        head = f"<th>{html.escape(splits.train.content_names[name])} <small>({code})</small></th>"
        rows.append("<tr>" + head + "".join(_cell(x, splits.normaliser) for x in cells) + "</tr>")
    styles = "".join(f"<th>{html.escape(s)}</th>" for s in splits.train.style_names)
    hint = ("Click a spectrum to hear it (low below, time to the right)." if is_sound
            else "Each digit in each colour.")
    text = (f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>"
            f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
            f"<p>Codes of the codebook (rows, with the content each stands for) decoded with the "
            f"mean style of each training style (columns). {hint}</p>"
            f"<table><thead><tr><th></th>{styles}</tr></thead>\n" + "\n".join(rows)
            + f"</table><script>{_PLAY}</script>\n")
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _cell(x: NDArray[np.float32], normaliser: Normaliser) -> str:
    if x.ndim == 3:  # ink of a picture
        return f"<td><img alt='' src='{_png(np.moveaxis(1 - x, 0, -1))}'></td>"
    shade = (x - x.min()) / max(float(np.ptp(x)), 1e-6)
    wide = 1 if x.shape[1] == FRAMES else 4
    image = _png(np.repeat(1 - shade[::-1], wide, 1)[..., None].repeat(3, -1))
    return f"<td class=sound><img alt='' src='{image}' data-sound='{_flac(x, normaliser)}'></td>"


def _png(pixels: NDArray[np.float32]) -> str:
    """(height, width, 3) 0..1 as a data URL."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.uint8(255 * np.clip(pixels, 0, 1))).save(out, "PNG")
    return data_url("image/png", out.getvalue())


def _flac(x: NDArray[np.float32], normaliser: Normaliser) -> str:
    out = io.BytesIO()
    soundfile.write(out, to_sound(x, normaliser), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return data_url("audio/flac", out.getvalue())
