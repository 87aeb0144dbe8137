"""Pictures drawn from sound and notes, small enough to stand inside a page.

Both kinds span the whole sound from left to right, so that they line up and one cursor fits all.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from v3audio.notes import Note

FloatArray = NDArray[np.floating[Any]]

ROWS, COLUMNS = 128, 720  # of a spectrogram
LOW_HZ, HIGH_HZ = 50.0, 16_000.0
RANGE_DB = 70.0
N_FFT = 2048
# From silence to the loudest, on white: inverted, they serve a dark page.
_INK = ((255, 255, 255), (206, 219, 238), (126, 152, 205), (66, 76, 150), (26, 18, 66))
N_SHADES = 16  # half a byte each
MAX_LEAP = 1.5  # semitones between frames that a line of pitch still joins
_BLACK_KEYS = {1, 3, 6, 8, 10}


def data_url(media_type: str, data: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def spectrogram_db(x: FloatArray, sample_rate: int) -> NDArray[np.float32]:
    """Power in bands of equal width in octaves, `LOW_HZ` to `HIGH_HZ`, low ones first.

    Args:
        x: (n,) samples.
        sample_rate: Hz.

    Returns:
        (ROWS, COLUMNS) dB; a full-scale sine reaches about 0. Each column sees `N_FFT` samples.
    """
    windows = sliding_window_view(np.pad(x, N_FFT // 2), N_FFT)
    starts = ((np.arange(COLUMNS) + 0.5) / COLUMNS * len(x)).astype(np.int64)
    hann = np.hanning(N_FFT)
    power = np.square(np.abs(np.fft.rfft(windows[starts] * hann)) * 2 / hann.sum())
    below = np.cumsum(np.pad(power, ((0, 0), (1, 0))), 1)  # below[:, i]: of the bins under i
    edges = np.geomspace(LOW_HZ, min(HIGH_HZ, sample_rate / 2), ROWS + 1) * N_FFT / sample_rate
    whole = edges.astype(np.int64)
    upto = below[:, whole] + (edges - whole) * power[:, np.minimum(whole, power.shape[1] - 1)]
    bands = np.diff(upto, axis=1) / np.minimum(np.diff(edges), 1.0)  # narrower than a bin: the bin
    return np.asarray(10 * np.log10(bands.T + 1e-12), np.float32)


def spectrogram_png(db: FloatArray, top_db: float) -> bytes:
    """A spectrogram as a PNG on white: `top_db` is darkest, `RANGE_DB` below it is white."""
    from PIL import Image

    part = np.clip(1 + (db[::-1] - top_db) / RANGE_DB, 0, 1)
    image = Image.fromarray(np.uint8(np.round(part * (N_SHADES - 1))), "P")
    shades = np.linspace(0, len(_INK) - 1, N_SHADES)
    palette = [np.interp(shades, range(len(_INK)), channel) for channel in zip(*_INK, strict=True)]
    image.putpalette(np.uint8(np.round(palette)).T.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", bits=4, optimize=True)
    return out.getvalue()


def roll_span(notes: Sequence[Note]) -> tuple[int, int]:
    """Lowest and highest MIDI note that a piano roll shows: two more than were heard, each way."""
    return min(n.midi for n in notes) - 2, max(n.midi for n in notes) + 2


def roll_svg(
    notes: Sequence[Note], lines: Sequence[tuple[str, FloatArray]], hop_s: float, duration_s: float
) -> str:
    """A piano roll with lines of pitch, to be stretched to any size and coloured by the page.

    Its classes: ``key`` the rows of black keys, ``note`` the notes, the stronger the more opaque.

    Args:
        notes: at least one.
        lines: class of each line, and its (T,) MIDI pitch, NaN where there is none; frame k has
            heard up to `hop_s` (k + 1).
        hop_s: between frames.
        duration_s: width of the picture.
    """
    low, high = roll_span(notes)
    top = high + 0.5
    parts = [
        f'<rect class="key" x="0" y="{top - m - 0.5:g}" width="{duration_s:.3f}" height="1"/>'
        for m in range(low, high + 1) if m % 12 in _BLACK_KEYS
    ]  # fmt: skip
    parts += [
        f'<rect class="note" x="{n.onset_s:.3f}" y="{top - n.midi - 0.5:g}" height="1" '
        f'width="{n.offset_s - n.onset_s:.3f}" fill-opacity="{0.4 + 0.6 * n.velocity / 127:.2f}"/>'
        for n in notes
    ]
    parts += [f'<path class="{name}" d="{" ".join(_line(y, hop_s, top))}"/>' for name, y in lines]
    return (
        f'<svg viewBox="0 0 {duration_s:.3f} {high - low + 1}" preserveAspectRatio="none" '
        f'role="img" aria-label="Piano roll of {len(notes)} notes">{"".join(parts)}</svg>'
    )


def _line(pitch: FloatArray, hop_s: float, top: float) -> Iterator[str]:
    """The commands of an SVG path, which is broken where the pitch is."""
    before = np.nan
    for k, midi in enumerate(pitch):
        if np.isfinite(midi):
            joined = abs(midi - before) <= MAX_LEAP
            yield f"{'L' if joined else 'M'}{hop_s * (k + 1):.2f} {top - midi:.2f}"
        before = midi
