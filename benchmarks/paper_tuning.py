"""How far from its labels each instrument of rendered InsNotes sounds, in cents.

    python -m benchmarks.paper_tuning data/insnotes

An instrument that is out of tune by half a semitone has no right answer; figures of unheard
instruments are read with this beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile

from training.paper import insnotes
from training.soundfonts import GM_NAMES, measure_pitch


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> None:
    """One line for each program: median and farthest deviation, notes of another octave."""
    _say("| program | median cents | farthest | notes that sound like another octave |")
    _say("|---|---|---|---|")
    for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.name.isdigit()):
        sound, rate = soundfile.read(folder / "00.flac", dtype="float32")
        cents, n_other = [], 0
        for k in range(insnotes.N_NOTES):
            note = sound[k * insnotes.STEP_SAMPLES :][int(0.3 * rate) : int(0.8 * rate)]
            deviation, _, other = measure_pitch(note, insnotes.FIRST_NOTE + k, rate)
            cents.append(deviation)
            n_other += other
        farthest = cents[int(np.argmax(np.abs(cents)))]
        _say(f"| {folder.name} {GM_NAMES[int(folder.name)]} | {np.median(cents):+.0f} "
              f"| {farthest:+.0f} | {n_other} of {insnotes.N_NOTES} |")


if __name__ == "__main__":
    main()
