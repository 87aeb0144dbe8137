"""Does a note begin here, does one sound, and which? A small learned rule for the file decoder.

In a room the tail of a note holds its level and its pitch under the next one; noise hides all but
the strongest partials; a bow changes without an attack; a singer slides. One threshold a cue
settles none of these. `hear` weighs what the frames around tell (level of the bands over the
recording's noise, onset strength, how periodic the heard pitch is and what stands an octave away,
how the content moves from note to note) by a small network of convolutions over time. Its weights
lie beside this file, learned by `training.file_notes` on rendered melodies, synthetic voices and
phrases of single notes, all with known notes, recorded near and far. The V3 model itself never
sees any.

Letters: T frames, F bins, P positions, N traits, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.geometry import Geometry

FloatArray = NDArray[np.float32]
Numbers = NDArray[np.floating]
Layers = list[tuple[FloatArray, FloatArray]]

HOP_S = 0.01
"""Seconds between frames that the weights were learned for."""
WEIGHTS = Path(__file__).with_name("onsets.npz")
DILATIONS = (1, 1, 2, 4, 8, 16)
"""Frames between the three taps of each convolution."""

# -- what is kept of a frame: `traits` ------------------------------------------------------------

N_BANDS = 18
_SHORT_AT = (-12, 0, 12, 19, 24, 28, 31, 36)  # semitones from the heard pitch: short view...
_LONG_AT = (-24, -19, -12, -5, 0, 12, 19)  # ...long view...
_LAG_AT = (-24, -19, -12, -7, 12)  # ...periodicity...
_MASS_AT = (-24, -19, -12, 12, 19, 24)  # ...content within a semitone
N_TRAITS = N_BANDS + len(_SHORT_AT) + len(_LONG_AT) + len(_LAG_AT) + len(_MASS_AT)

# -- what is asked: `Ask` -------------------------------------------------------------------------

INTERVALS = (-24, -19, -12, 0, 12)  # semitones: the heard pitch may be an overtone, or below
MOMENTS = (-8, 8, 16)  # frames: or the note is what is heard before or after
N_PLAIN = 4  # answers but the classes
HEARD_SHARE = 0.4  # of the chances is the heard pitch's where a hearing tells no traits
N_CLASSES = len(INTERVALS) + len(MOMENTS) + 1  # the last: none of these
_MOVES = (1, 2, 4, 8, 16, 32)  # frames back and ahead that the pitch is compared with
_NOTES = (4, 8, 16)  # and the content


class Cues(NamedTuple):
    """What was heard of T frames, as in `v3audio.live_hearing.Heard`."""

    level: Numbers  # (T,) dBFS
    onset: Numbers  # (T,) dB
    periodicity: Numbers  # (T,) 0..1
    pitch: Numbers  # (T,) MIDI
    confidence: Numbers  # (T,) 0..1
    note_probs: FloatArray  # (T, 128)
    kept: NDArray[np.uint8] | None  # (T, `N_TRAITS`), or None where nothing was kept

    @property
    def bare(self) -> bool:
        """Whether the hearing tells no traits: nothing was kept, or zeros."""
        return self.kept is None or not self.kept.any()


class Told(NamedTuple):
    """What the network says of T frames."""

    here: FloatArray  # (T,) chance that a note begins in this frame
    near: FloatArray  # (T,) ... within 35 ms
    ends: FloatArray  # (T,) chance that one ends within 35 ms
    sounds: FloatArray  # (T,) log odds that one sounds
    which: FloatArray  # (T, C) if so, how likely it is each of the classes


def traits(
    views: FloatArray, below: int, position: FloatArray, midi: FloatArray, g: Geometry
) -> NDArray[np.uint8]:
    """What the network needs of frames, in a byte each.

    Args:
        views: (T, 3, W) as `features.Views`, with zeros around.
        below: how many of them stand before bin 0: as many as the lowest interval looked at, or
            more; as many as the highest stand after the highest position.
        position: (T, P) content.
        midi: (T,) heard pitch.
        g: of the model.

    Returns: (T, `N_TRAITS`).
    """
    n, _, width = views.shape
    if tell := _compiled_traits(g, below, width):
        told = np.empty((n, N_TRAITS), np.uint8)
        arrays: list[NDArray[Any]] = [
            *(np.ascontiguousarray(x, np.float32) for x in (views, position, midi)), told
        ]  # fmt: skip
        tell(n, *map(compiled.address, arrays))
        return told
    per = g.bins_per_semitone
    bins = np.rint((midi - g.midi_low) * per).astype(np.intp).clip(0, g.n_positions - 1)
    frames = np.arange(n)
    at = (bins + below + 3 * width * frames)[:, None]
    beside = np.arange(-1, 2)[:, None, None]  # first: numpy is quick along the last
    flat = views.reshape(-1)
    reach = per * (max(map(abs, _MASS_AT)) + 1)
    laid = np.zeros((n, g.n_positions + 2 * reach), np.float32)
    laid[:, reach:-reach] = position
    held = (bins + reach + laid.shape[1] * frames)[:, None] + per * np.array(_MASS_AT)
    mass = laid.reshape(-1).take(held + np.arange(-per, per + 1)[:, None, None]).sum(0)
    parts = (
        views[:, 1, below : below + g.n_bins] @ _pool(g),
        flat.take(at + (width + per * np.array(_SHORT_AT))),
        flat.take(at + per * np.array(_LONG_AT) + beside).max(0),
        flat.take(at + (2 * width + per * np.array(_LAG_AT)) + beside).max(0),
        np.sqrt(mass),
    )
    out = np.concatenate(parts, 1)
    out *= 255.0
    np.rint(np.clip(out, 0.0, 255.0, out=out), out=out)
    return np.asarray(out, np.uint8)


@lru_cache(maxsize=4)
def _compiled_traits(g: Geometry, below: int, width: int) -> Callable[..., Any] | None:
    """`traits` of frames' number and the addresses of its arrays and the result."""
    per = g.bins_per_semitone
    ends = np.searchsorted(_band(g), np.arange(N_BANDS + 1))
    kinds = ((1, _SHORT_AT, 0), (0, _LONG_AT, 1), (2, _LAG_AT, 1))
    places = [
        (view * width + below + per * at, beside) for view, many, beside in kinds for at in many
    ]
    return compiled.bind(
        "tell_traits",
        compiled.record(
            3 * width, width + below, g.n_positions, per, N_BANDS, len(places),
            len(_MASS_AT), float(g.midi_low), ends.astype(np.int32), np.array(places, np.int32),
            per * np.array(_MASS_AT, np.int32),
        ),
        free=(c_int, *(c_void_p,) * 4),
    )  # fmt: skip


def _band(g: Geometry) -> NDArray[np.intp]:
    """(F,) that of each bin."""
    return np.arange(g.n_bins) * N_BANDS // g.n_bins


@lru_cache(maxsize=4)
def _pool(g: Geometry) -> FloatArray:
    """(F, bands): the mean of neighbouring bins."""
    band = _band(g)
    pool = (band[:, None] == np.arange(N_BANDS)).astype(np.float32)
    return np.asarray(pool / pool.sum(0))


N_INPUTS = N_BANDS + N_TRAITS + 8 + 4 * len(_MOVES) + 4 * len(_NOTES)


def describe(cues: Cues, gate_db: float) -> FloatArray:
    """(T, `N_INPUTS`) numbers that the network sees; arguments as `hear`."""
    level, onset, periodicity, pitch, confidence, note_probs, kept = cues
    n = len(level)
    x = np.empty((n, N_INPUTS), np.float32)
    loud_db = np.percentile(level, 95.0)
    first = N_BANDS + N_TRAITS
    if kept is None or cues.bare:
        x[:, :first] = 0.0
    else:
        x[:, N_BANDS:first] = kept
        x[:, N_BANDS:first] *= 1 / 128
        bands = x[:, :N_BANDS]
        np.multiply(kept[:, :N_BANDS], np.float32(4 / 255), out=bands)  # 10 dB
        bands += (level / 10.0 - 4.0)[:, None].astype(np.float32)
        np.maximum(bands, gate_db / 10.0 - 3.0, out=bands)
        bands -= np.percentile(bands[::4], 10.0, axis=0)
        np.clip(bands, -1.0, 5.0, out=bands)
    steps = np.array([-k for k in _MOVES] + list(_MOVES))
    frames = np.arange(n)
    moved = pitch[np.clip(frames[:, None] + steps, 0, n - 1)] - pitch[:, None]
    others = np.array([-k for k in _NOTES] + list(_NOTES))
    at = np.clip(frames[:, None] + others, 0, n - 1)
    note = np.clip(np.rint(pitch), 0, note_probs.shape[1] - 1).astype(np.intp)
    width = note_probs.shape[1]
    flat = np.ascontiguousarray(note_probs, np.float32).reshape(-1)
    crossed = np.concatenate(
        (flat.take(frames[:, None] * width + note[at]), flat.take(at * width + note[:, None])), 1
    )
    x[:, first : first + 8] = np.stack(
        (
            np.maximum((level - loud_db) / 10.0, -4.0),
            np.clip((level - gate_db) / 10.0, -2.0, 4.0),
            np.minimum(np.maximum(onset - np.median(onset), 0.0) / 6.0, 3.0),
            np.log10(1.003 - periodicity) + 1.0,
            confidence,
            (pitch - 60.0) / 24.0,
            np.abs(pitch - np.rint(pitch)),
            np.full(n, (loud_db - gate_db) / 20.0),
        ),
        1,
    )
    first += 8
    x[:, first : first + moved.shape[1]] = np.clip(moved, -2.0, 2.0)
    first += moved.shape[1]
    x[:, first : first + moved.shape[1]] = np.clip(np.abs(moved) / 12.0, 0.0, 2.0)
    first += moved.shape[1]
    x[:, first:] = np.log10(crossed + 0.003)
    return x


def hear(cues: Cues, gate_db: float, hop_s: float, layers: Layers | None = None) -> Told:
    """Where notes begin, where one sounds, and which.

    Args:
        cues: the recording.
        gate_db: level below which the recording is silent.
        hop_s: seconds between frames.
        layers: replaces the shipped weights.
    """
    n = len(cues.level)
    per = HOP_S / hop_s
    if abs(per - 1.0) > 0.01:  # the weights know frames of 10 ms only
        some = np.minimum(np.rint(np.arange(0.0, n, per)).astype(np.intp), n - 1)
        cues = Cues._make(None if column is None else column[some] for column in cues)
        told = hear(cues, gate_db, HOP_S, layers)
        back = np.minimum(np.rint(np.arange(n) / per).astype(np.intp), len(some) - 1)
        return Told(*(column[back] for column in told))
    scores = perceive(describe(cues, gate_db), layers or shipped())
    here, near, ends = 1.0 / (1.0 + np.exp(-scores[:, :3].T))
    which = scores[:, N_PLAIN:]
    which = np.exp(which - which.max(1, keepdims=True))
    which /= which.sum(1, keepdims=True)
    if cues.bare:  # nothing tells the heard pitch from an overtone
        which *= 1.0 - HEARD_SHARE
        which[:, INTERVALS.index(0)] += HEARD_SHARE
    return Told(here, near, ends, scores[:, 3], which)


def candidates(pitch: Numbers, hop_s: float = HOP_S) -> Numbers:
    """(T, C - 1) pitches that the classes stand for, of (T,) heard ones."""
    n = len(pitch)
    moments = np.rint(np.array(MOMENTS) * (HOP_S / hop_s)).astype(np.intp)
    at = np.clip(np.arange(n)[:, None] + moments, 0, n - 1)
    return np.concatenate((pitch[:, None] + np.array(INTERVALS), pitch[at]), 1)


def perceive(x: FloatArray, layers: Layers) -> FloatArray:
    """(T, out) scores of (T, inputs): convolutions over time, all but the first added to."""
    (mean, scale), *convolutions, (last, last_bias) = layers
    x = (x - mean) * scale
    for k, ((weight, bias), apart) in enumerate(zip(convolutions, DILATIONS, strict=True)):
        y = x @ weight[1]
        y[apart:] += x[:-apart] @ weight[0]
        y[:-apart] += x[apart:] @ weight[2]
        y += bias
        np.maximum(y, 0.0, out=y)
        x = x + y if k else y
    return np.asarray(x @ last + last_bias)


def load_layers(path: Path) -> Layers:
    """The network of a weights file."""
    with np.load(path) as data:
        return [(data[f"weight_{k}"], data[f"bias_{k}"]) for k in range(len(data.files) // 2)]


@lru_cache(maxsize=1)
def shipped() -> Layers:
    """The weights beside this file."""
    return load_layers(WEIGHTS)
