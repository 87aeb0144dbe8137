"""Labelled frames: what the encoder says where a note is known. Shared by naming and measuring.

Letters: T frames, P positions, D style values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.clips import find_clips, read_audio
from training.dataset import windows_of
from v3audio.features import FrontEnd
from v3audio.geometry import Geometry
from v3audio.model import V3Model

LABEL_BACK_S = 0.012  # the label of a frame is the note that sounded this long before its end
STABLE_S = 0.128  # a frame is stable when its note has filled the whole window
BATCH = 512


@dataclass(frozen=True, slots=True)
class LabelledFrames:
    """Frames of many clips, with the note that sounds in each (-1: none)."""

    clip: NDArray[np.int64]  # (T,) index of the clip
    program: list[str]  # per clip
    note: NDArray[np.int64]  # (T,) MIDI note, -1 between notes
    true_midi: NDArray[np.float64]  # (T,) sounding pitch with its cents, NaN between notes
    age_s: NDArray[np.float64]  # (T,) since the note's onset
    note_index: NDArray[np.int64]  # (T,) which note of its clip, -1
    level_db: NDArray[np.float64]  # (T,)
    loud: NDArray[np.bool_]  # (T,) above the gate of training
    position: NDArray[np.int64]  # (T,) argmax
    centroid: NDArray[np.float64]  # (T,) fine position around the argmax, in bins
    code: NDArray[np.int64]  # (T,)
    style: NDArray[np.float32]  # (T, D)

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Loud frames whose whole window lies in one note."""
        return (self.note >= 0) & (self.age_s >= STABLE_S) & self.loud


@torch.inference_mode()
def encode_labelled(model: V3Model, folder: Path, hop: int, *, clean: bool = False,
                    limit: int | None = None) -> LabelledFrames:
    """Run the encoder over every clip of a folder that comes with notes.

    Args:
        model: a trained encoder.
        folder: clips with notes beside them, as `data melodies` makes them.
        hop: samples between frames.
        clean: listen to the clean renders instead of the noisy ones.
        limit: at most this many clips.
    """
    g = model.config.geometry
    model.eval()
    front_end = FrontEnd(g)
    columns: dict[str, list[Any]] = {name: [] for name in (
        "clip", "note", "true_midi", "age_s", "note_index", "level_db", "loud", "position",
        "centroid", "code", "style")}
    programs: list[str] = []
    labelled = (clip for clip in find_clips(folder) if clip.labels is not None)
    for clip in islice(labelled, limit):
        meta = clip.info()
        path = clip.clean if clean and clip.clean else clip.noisy
        windows = windows_of(read_audio(path, g.sample_rate), g, hop)
        times = (np.arange(len(windows)) + 1) * hop / g.sample_rate - LABEL_BACK_S
        labels = _labels(meta, times)
        level = 10 * np.log10(np.square(windows[:, -320:]).mean(1) + 1e-12)
        parts = [_encode(model, front_end, windows[i : i + BATCH], g)
                 for i in range(0, len(windows), BATCH)]
        programs.append(str(meta["program"]))
        columns["clip"].append(np.full(len(windows), len(programs) - 1))
        for name, values in labels.items():
            columns[name].append(values)
        columns["level_db"].append(level)
        columns["loud"].append(level > np.percentile(level, 95) - 35)
        for name, position in (("position", 0), ("centroid", 1), ("code", 2), ("style", 3)):
            columns[name].append(np.concatenate([p[position] for p in parts]))
    return LabelledFrames(program=programs,
                          **{k: np.concatenate(v) for k, v in columns.items()})


def _encode(model: V3Model, front_end: FrontEnd, windows: NDArray[np.float32],
            g: Geometry) -> tuple[NDArray[Any], ...]:
    encoded = model.encode(front_end(torch.from_numpy(np.ascontiguousarray(windows))))
    codes = model.codebook.distances(encoded.content).argmin(-1)
    peak = encoded.position.argmax(-1, keepdim=True)
    near = (peak + torch.arange(-3, 4)).clamp(0, g.n_positions - 1)
    mass = encoded.position.gather(1, near)
    centroid = (mass * near).sum(-1) / mass.sum(-1)
    return peak[:, 0].numpy(), centroid.double().numpy(), codes.numpy(), encoded.style.numpy()


def _labels(meta: dict[str, Any], times: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Note, age and sounding pitch at each time of a clip."""
    note = np.full(len(times), -1)
    index = np.full(len(times), -1)
    age = np.zeros(len(times))
    true = np.full(len(times), np.nan)
    curves = meta.get("f0") or [None] * len(meta["notes"])
    for i, (n, curve) in enumerate(zip(meta["notes"], curves, strict=True)):
        end = min(n["offset_s"], n.get("audible_s", n["offset_s"]))
        inside = (times >= n["onset_s"]) & (times < end)
        note[inside], index[inside] = n["midi"], i
        age[inside] = times[inside] - n["onset_s"]
        if curve:
            points = np.asarray(curve, np.float64)  # (points, 2): seconds, MIDI number
            true[inside] = np.interp(times[inside], points[:, 0], points[:, 1])
        else:
            true[inside] = n["midi"] + n.get("cents", 0.0) / 100
    return {"note": note, "note_index": index, "age_s": age, "true_midi": true}


def segment_means(frames: LabelledFrames, length: int = 24,
                  seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean z_s of groups of `length` random stable frames of one clip: (S, D), and clip of each."""
    rng = np.random.default_rng(seed)
    means, owners = [], []
    for clip in range(len(frames.program)):
        rows = np.flatnonzero((frames.clip == clip) & frames.stable)
        rng.shuffle(rows)
        for first in range(0, len(rows) - length + 1, length):
            means.append(frames.style[rows[first : first + length]].mean(0))
            owners.append(clip)
    return np.asarray(means, np.float64), np.asarray(owners)


def retrieval(means: NDArray[np.float64], owners: NDArray[np.int64], program: list[str], *,
              across_clips: bool) -> float:
    """Share of segments whose nearest other segment is of the same program (P@1).

    Args:
        means: (S, D) from `segment_means`.
        owners: (S,) clip of each.
        program: of each clip.
        across_clips: leave out segments of the same clip, so that room and detuning cannot help.
    """
    names = np.asarray(program)[owners]
    right = []
    for i in range(len(means)):
        distance = np.square(means - means[i]).sum(1)
        distance[(owners == owners[i]) if across_clips else (np.arange(len(means)) == i)] = np.inf
        if across_clips and not ((names == names[i]) & (owners != owners[i])).any():
            continue
        right.append(names[np.argmin(distance)] == names[i])
    return float(np.mean(right)) if right else float("nan")


def pitch_r2(frames: LabelledFrames, *, inside_clips: bool, seed: int = 0) -> float:
    """R^2 of pitch from single-frame z_s by ridge regression: what is left of pitch in style.

    Fitted on half of the clips, measured on the other half.

    Args:
        frames: labelled and encoded.
        inside_clips: subtract each clip's means first. Otherwise an instrument's own range counts:
            knowing that it is a double bass says that the note is low.
        seed: of the halves.
    """
    rows = np.flatnonzero(frames.stable)
    x = np.concatenate([np.ones((len(rows), 1)), frames.style[rows].astype(np.float64)], 1)
    y = frames.note[rows].astype(np.float64)
    if inside_clips:
        for clip in np.unique(frames.clip[rows]):
            own = frames.clip[rows] == clip
            x[own, 1:] -= x[own, 1:].mean(0)
            y[own] -= y[own].mean()
    order = np.random.default_rng(seed).permutation(len(frames.program))
    fit = np.isin(frames.clip[rows], order[::2])
    gram = x[fit].T @ x[fit] + 1e-3 * fit.sum() * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[fit].T @ y[fit])
    rest = y[~fit] - x[~fit] @ weights
    return float(1 - np.square(rest).mean() / y[~fit].var())


def times_to_right_code(frames: LabelledFrames, said: NDArray[np.int64],
                        hop_s: float) -> Iterator[tuple[int, float]]:
    """(note, seconds from its onset to the first of two right frames; inf: never) of each note."""
    for clip in range(len(frames.program)):
        rows = np.flatnonzero(frames.clip == clip)
        for index in np.unique(frames.note_index[rows]):
            if index < 0:
                continue
            own = rows[frames.note_index[rows] == index]
            right = said[own] == frames.note[own]
            both = right[:-1] & right[1:] if len(right) > 1 else right
            first = np.flatnonzero(both)
            when = frames.age_s[own[first[0]]] + LABEL_BACK_S if len(first) else np.inf
            yield int(frames.note[own[0]]), float(when)
