"""Rendered or recorded clips as tables of front-end frames, computed once and kept on disk.

Training sees audio only: a noisy view of now and the clean spectrum of the near future. Notes are
read by `labels_of` alone, for naming codes and for measuring.

Letters: M frames of a whole table, F bins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from training.clips import Clip, find_clips, read_audio
from v3audio.errors import ConfigError
from v3audio.features import FrontEnd
from v3audio.geometry import Geometry

GATE_BELOW_LOUD_DB = 35.0  # frames quieter than this under the clip's 95th percentile teach nothing
TABLE_VERSION = 1  # of what is cached below
BATCH_FRAMES = 512


def describe(folder: Path) -> str:
    """What a folder of clips is, in words that mean something elsewhere."""
    clips = find_clips(folder)
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return f"{len(clips)} recordings"
    meta = json.loads(manifest.read_text())
    fonts = sorted({Path(kept["soundfont"]).name for kept in meta["kept"]})
    return (f"{len(clips)} melodies of {meta['settings']['clip_s']:g} s, seed "
            f"{meta['settings']['seed']}, rendered from {', '.join(fonts)} and synthetic voices")


def windows_of(audio: NDArray[np.float32], g: Geometry, hop: int) -> NDArray[np.float32]:
    """Right-aligned windows (frames, T): row k ends after sample (k + 1) * hop. A view, no copy."""
    padded = np.concatenate([np.zeros(g.window_length - hop, np.float32), audio])
    if len(padded) < g.window_length:
        return np.zeros((0, g.window_length), np.float32)
    return np.lib.stride_tricks.sliding_window_view(padded, g.window_length)[::hop]


@dataclass(frozen=True, slots=True)
class FrameTable:
    """All frames of a folder at a training hop, memory-mapped."""

    views: NDArray[np.float16]  # (M, 4, F): long, short, lag now; clean long spectrum ahead
    live: NDArray[np.bool_]  # (M,) loud enough to learn from
    clip_starts: NDArray[np.int64]  # (clips + 1,) first row of each clip
    clips: list[Clip]
    hop_length: int

    def rows(self, clip: int) -> NDArray[np.int64]:
        """Rows of one clip that are loud enough."""
        first, last = self.clip_starts[clip], self.clip_starts[clip + 1]
        return np.flatnonzero(self.live[first:last]) + first


def build_table(folder: Path, g: Geometry, hop_length: int, ahead_frames: int,
                progress: Callable[[int, int], None] | None = None) -> FrameTable:
    """The frame table of a folder, from its cache if nothing has changed since.

    Args:
        folder: recordings.
        g: analysis grid.
        hop_length: samples between the rows of one clip.
        ahead_frames: how many rows later the clean target stands.
        progress: called with (clips done, clips).
    """
    clips = find_clips(folder)
    stamp = [(str(c.noisy.relative_to(folder)), c.noisy.stat().st_size) for c in clips]
    key = hashlib.sha256(json.dumps([TABLE_VERSION, asdict(g), hop_length, ahead_frames, stamp])
                         .encode()).hexdigest()[:16]
    base = folder / ".frames" / key
    if not (base / "index.npz").exists():
        base.mkdir(parents=True, exist_ok=True)
        _compute(clips, g, hop_length, ahead_frames, base, progress)
    index = np.load(base / "index.npz")
    return FrameTable(np.load(base / "views.npy", mmap_mode="r"), index["live"],
                      index["clip_starts"], clips, hop_length)


def _compute(clips: list[Clip], g: Geometry, hop: int, ahead: int, base: Path,
             progress: Callable[[int, int], None] | None) -> None:
    lengths = [_n_frames(c, g, hop) - ahead for c in clips]
    if min(lengths) < 2:
        short = clips[int(np.argmin(lengths))].noisy
        raise ConfigError(f"{short}: shorter than {(ahead + 2) * hop / g.sample_rate:.2f} s; "
                          "take it out of the training folder")
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    partial = base / "views.partial.npy"
    table = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16,
                                      shape=(int(starts[-1]), 4, g.n_bins))
    live = np.zeros(int(starts[-1]), np.bool_)
    front_end = FrontEnd(g)
    for i, clip in enumerate(clips):
        noisy = windows_of(read_audio(clip.noisy, g.sample_rate), g, hop)
        clean = (windows_of(read_audio(clip.clean, g.sample_rate), g, hop) if clip.clean else noisy)
        n, out = lengths[i], table[starts[i] : starts[i + 1]]
        for first in range(0, n, BATCH_FRAMES):
            rows = slice(first, min(first + BATCH_FRAMES, n))
            with torch.inference_mode():
                views = front_end(torch.from_numpy(np.ascontiguousarray(noisy[rows])))
                later = np.ascontiguousarray(clean[rows.start + ahead : rows.stop + ahead])
                target = front_end(torch.from_numpy(later)).long
            out[rows] = torch.stack([*views, target], 1).half().numpy()
        newest = clean[:n, -hop:]
        level = 10 * np.log10(np.square(newest).mean(1) + 1e-12)
        loud = np.percentile(level, 95) - GATE_BELOW_LOUD_DB
        # a frame teaches when it sounds now and its target sounds too
        later_level = 10 * np.log10(np.square(clean[ahead : n + ahead, -hop:]).mean(1) + 1e-12)
        live[starts[i] : starts[i + 1]] = (level > loud) & (later_level > loud)
        if progress:
            progress(i + 1, len(clips))
    table.flush()
    del table
    os.replace(partial, base / "views.npy")
    with open(base / "index.partial.npz", "wb") as f:
        np.savez(f, live=live, clip_starts=starts)
    os.replace(base / "index.partial.npz", base / "index.npz")


def _n_frames(clip: Clip, g: Geometry, hop: int) -> int:
    info = soundfile.info(clip.noisy)
    return int(info.frames * g.sample_rate / info.samplerate) // hop
