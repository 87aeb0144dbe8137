"""The shipped demo: real single notes of an alto saxophone (CC0) joined into a phrase.

    python -m training.demo_phrase TAKES presets/demo/alto-sax.flac

TAKES is a folder with `manifest.json` (file, midi, instrument of each take); the phrase uses the
whole-tone notes that those takes have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from v3audio.paths import atomic_write

BEAT_S = 0.55
# (MIDI note, beats, take: forte or piano, rest after it in beats)
PHRASE = (
    (62, 1.0, "f", 0.0), (66, 0.5, "f", 0.0), (70, 0.5, "f", 0.0), (74, 1.5, "f", 0.25),
    (70, 0.5, "p", 0.0), (68, 0.5, "p", 0.0), (64, 1.0, "p", 0.25), (64, 0.5, "p", 0.1),
    (64, 0.5, "p", 0.1), (66, 0.5, "f", 0.0), (68, 0.5, "f", 0.0), (70, 0.5, "f", 0.0),
    (76, 1.5, "f", 0.25), (74, 0.25, "f", 0.0), (70, 0.25, "f", 0.0), (66, 0.5, "f", 0.0),
    (62, 0.5, "p", 0.0), (58, 1.0, "p", 0.25), (56, 0.5, "p", 0.0), (54, 0.5, "p", 0.0),
    (50, 2.0, "f", 0.0),
)
FADE_S = 0.02  # between joined notes
SILENCE_S = 0.4  # before and after


def join(takes: Path) -> tuple[NDArray[np.float32], int]:
    """The phrase as mono samples, and its rate."""
    files = {}
    for take in json.loads((takes / "manifest.json").read_text()):
        dynamic = "f" if "_f_" in take["file"] else "p"
        if "sax" in take["instrument"]:
            files[take["midi"], dynamic] = takes / take["file"]
    rate = soundfile.info(next(iter(files.values()))).samplerate
    length_s = 2 * SILENCE_S + BEAT_S * sum(beats + rest for _, beats, _, rest in PHRASE)
    sound = np.zeros(round((length_s + FADE_S) * rate), np.float32)
    at = round(SILENCE_S * rate)
    for midi, beats, dynamic, rest in PHRASE:
        take, _ = soundfile.read(files[midi, dynamic], dtype="float32", always_2d=True)
        mono = take.mean(1)
        start = int(np.argmax(np.abs(mono) > 0.02 * np.abs(mono).max()))
        n = round((beats * BEAT_S + FADE_S) * rate)
        note = mono[start : start + n]
        fade = np.ones(len(note), np.float32)
        n_fade = round(FADE_S * rate)
        fade[-n_fade:] = np.cos(np.linspace(0, np.pi / 2, n_fade)) ** 2
        sound[at : at + len(note)] += note * fade
        at += round((beats + rest) * BEAT_S * rate)
    return 0.7 * sound / np.abs(sound).max(), rate


def main(takes: Path, out: Path) -> None:
    """Write the phrase as 16-bit FLAC."""
    sound, rate = join(takes)
    with atomic_write(out) as temporary:
        soundfile.write(temporary, sound, rate, format="FLAC", subtype="PCM_16")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
