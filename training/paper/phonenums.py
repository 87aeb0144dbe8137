"""PhoneNums: rows of ten digits, each row in one colour. V3's validation domain.

As the authors make it: every row holds the ten digits in random order ("standard"; each drawn at
random is their "challenging" mode), in one of eight colours, with a little jitter of place, colour,
blur and noise; a fragment is one digit, 32 wide and 48 high, RGB. Eight more colours are the
paper's out-of-distribution set. Harder than the paper: a font that looks drawn by hand, and the
real scanned digits that come with scikit-learn, coloured in.

Letters: R rows, L digits of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from training.folders import claim
from training.paper.fragments import Fragments
from v3audio.errors import ConfigError
from v3audio.paths import atomic_write

FloatArray = NDArray[np.float32]

WIDTH, HEIGHT = 32, 48
DIGITS_PER_ROW = 10
MOST_SHOTS = 10
COLOURS = ("black", "blue", "green", "red", "teal", "purple", "orange", "brown")
OOD_COLOURS = ("pink", "salmon", "gold", "lime", "cyan", "magenta", "gray", "peru")
Hand = Literal["print", "script", "scanned"]
"""How the digits are drawn: a plain font, a handwriting-like one, or scans of real handwriting."""
Order = Literal["each-once", "random"]
"""Which digits a row holds. Of random ones content varies little more inside rows than between."""
Split = Literal["train", "test", "ood"]
HANDS: tuple[Hand, ...] = get_args(Hand)
ORDERS: tuple[Order, ...] = get_args(Order)
SPLITS: tuple[Split, ...] = get_args(Split)

_FONT_FILES = {"print": "DejaVuSans.ttf", "script": "cmmi10.ttf"}  # both come with matplotlib
_FONT_SIZE = 38
# twice what the authors' generator does: their places differ by a pixel, their colours by 2 %
_SHIFT, _COLOUR_SPREAD, _NOISE = 1.0, 0.02, 0.02  # pixels each way; of full scale
_BLUR = (0.3, 1.0)  # pixels
_OVER = 2  # drawn this much larger, so that a shift may be half a pixel


@dataclass(frozen=True, slots=True)
class Pictures:
    """A split as stored: R rows of L pictures, 8 bits a channel."""

    pixels: NDArray[np.uint8]  # (R, L, HEIGHT, WIDTH, 3)
    digits: NDArray[np.int64]  # (R, L)
    styles: NDArray[np.int64]  # (R,) index of the colour


def render(folder: Path, *, seed: int = 0, rows_per_colour: int = 60, hand: Hand = "print",
           order: Order = "each-once", progress: Callable[[int, int], None] | None = None) -> int:
    """Draw the data set, or finish one that was interrupted; the same seed gives the same bytes.

    Args:
        folder: to make or to go on with: `manifest.json`, `train.npz`, `test.npz`, `ood.npz`.
        seed: of everything random.
        rows_per_colour: to train on; a quarter as many, at least 5, to test on, and ten more of
            each unheard colour for few-shot learning.
        hand: how the digits look.
        order: which digits a row holds.
        progress: called with (splits done, splits in all).

    Returns:
        Splits drawn now.

    Raises:
        ConfigError: a setting makes no sense, or the folder holds other data.
    """
    if rows_per_colour < 1:
        raise ConfigError(f"rows_per_colour = {rows_per_colour}: give at least 1")
    claim(folder, {"kind": "phonenums", "seed": seed, "rows_per_colour": rows_per_colour,
                   "hand": hand, "order": order})
    n_drawn = 0
    for index, split in enumerate(SPLITS):
        path = folder / f"{split}.npz"
        if not path.exists():
            n_rows = rows_per_colour if split == "train" else max(5, rows_per_colour // 4)
            n_rows += MOST_SHOTS if split == "ood" else 0
            made = draw_rows(n_rows, OOD_COLOURS if split == "ood" else COLOURS,
                             rng=np.random.default_rng([seed, index]), hand=hand, order=order,
                             held_out=split != "train")
            with atomic_write(path) as part, open(part, "wb") as file:
                np.savez_compressed(file, pixels=made.pixels, digits=made.digits,
                                    styles=made.styles)
            n_drawn += 1
        if progress:
            progress(index + 1, len(SPLITS))
    return n_drawn


def load(folder: Path, split: Split, halved: bool) -> Fragments:
    """Read a split as fragments.

    Args:
        folder: as `render` made it.
        split: which.
        halved: pictures of half the width and height (compact), or as they are (paper).

    Returns:
        x (R, 10, 3, 48, 32) or (R, 10, 3, 24, 16); ink 1, paper 0.

    Raises:
        ConfigError: the folder lacks it.
    """
    path = folder / f"{split}.npz"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; type 'v3audio data phonenums -o {folder}'")
    with np.load(path) as stored:
        pixels, digits, styles = stored["pixels"], stored["digits"], stored["styles"]
    x = 1 - torch.from_numpy(pixels).permute(0, 1, 4, 2, 3).float() / 255
    if halved:
        x = torch.nn.functional.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
    return Fragments(x.contiguous(), digits, styles, tuple("0123456789"),
                     OOD_COLOURS if split == "ood" else COLOURS)


def draw_rows(n_rows: int, colours: tuple[str, ...], *, rng: np.random.Generator, hand: Hand,
              order: Order, held_out: bool) -> Pictures:
    """Rows of digits, `n_rows` of each colour; of the scanned hand, `held_out` scans or the others.

    Raises:
        ConfigError: unknown colour or hand.
    """
    from matplotlib import colors
    from scipy.ndimage import gaussian_filter, shift

    if unknown := [c for c in colours if not colors.is_color_like(c)]:
        raise ConfigError(f"colours {unknown}: give CSS names such as 'teal'")
    masks = _masks(hand, held_out)  # of each digit, a stack of ways to write it
    styles = np.repeat(np.arange(len(colours)), n_rows)
    shape = (len(styles), DIGITS_PER_ROW)
    digits = (np.argsort(rng.random(shape), 1) if order == "each-once"
              else rng.integers(0, DIGITS_PER_ROW, shape))
    pixels = np.empty((*shape, HEIGHT, WIDTH, 3), np.uint8)
    for row, style in enumerate(styles):
        rgb = np.array(colors.to_rgb(colours[style])) + rng.normal(0, _COLOUR_SPREAD, 3)
        for at, digit in enumerate(digits[row]):
            mask = masks[digit][rng.integers(len(masks[digit]))]
            moved = shift(mask, _OVER * rng.uniform(-_SHIFT, _SHIFT, 2), order=1)
            soft = gaussian_filter(moved, _OVER * rng.uniform(*_BLUR))
            ink = soft.reshape(HEIGHT, _OVER, WIDTH, _OVER).mean((1, 3))[..., None]
            shade = np.clip(rgb + rng.normal(0, _COLOUR_SPREAD, 3), 0, 1)
            picture = 1 - ink * (1 - shade) + rng.normal(0, _NOISE, (HEIGHT, WIDTH, 3))
            pixels[row, at] = np.clip(np.rint(255 * picture), 0, 255)
    return Pictures(pixels, digits.astype(np.int64), styles)


@lru_cache(maxsize=4)
def _masks(hand: str, held_out: bool) -> tuple[tuple[FloatArray, ...], ...]:
    """For each digit the ways to write it, (HEIGHT, WIDTH) * _OVER, ink 1."""
    if hand == "scanned":
        return _scanned(held_out)
    if hand not in _FONT_FILES:
        raise ConfigError(f"hand = {hand!r}: expected print, script or scanned")
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    path = f"{get_data_path()}/fonts/ttf/{_FONT_FILES[hand]}"
    font = ImageFont.truetype(path, _FONT_SIZE * _OVER)
    found: list[tuple[FloatArray, ...]] = []
    for digit in "0123456789":
        image = Image.new("L", (WIDTH * _OVER, HEIGHT * _OVER))
        middle = (WIDTH * _OVER / 2, HEIGHT * _OVER / 2)
        ImageDraw.Draw(image).text(middle, digit, fill=255, font=font, anchor="mm")
        found.append((np.asarray(image, np.float32) / np.float32(255),))
    return tuple(found)


def _scanned(held_out: bool) -> tuple[tuple[FloatArray, ...], ...]:
    """1797 scans of digits by 43 people (Alpaydin and Kaynak, 1998), enlarged from 8x8."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    scans = load_digits()
    found = []
    for digit in range(10):
        images = scans.images[scans.target == digit] / 16
        test = np.arange(len(images)) % 5 == 4
        masks = []
        for image in images[test == held_out]:
            big = np.clip(zoom(image, (5 * _OVER, 3.5 * _OVER), order=3), 0, 1)  # 40 x 28
            mask = np.zeros((HEIGHT * _OVER, WIDTH * _OVER), np.float32)
            top, left = (mask.shape[0] - big.shape[0]) // 2, (mask.shape[1] - big.shape[1]) // 2
            mask[top : top + big.shape[0], left : left + big.shape[1]] = big
            masks.append(mask)
        found.append(tuple(masks))
    return tuple(found)
