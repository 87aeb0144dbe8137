"""The README's picture: the demo as it went in, what was heard, and as it came out.

Type `v3audio demo -o demo-out && python benchmarks/demo_picture.py demo-out docs/demo.png`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import librosa
import mido
import numpy as np
import soundfile
from matplotlib import pyplot

from v3audio.paths import demo_recording

MELS, HOP = 160, 256


def mel_db(path: Path) -> tuple[np.ndarray, float]:
    """Log mel spectrogram (MELS, frames) in dB below its peak, and its length in seconds."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    power = librosa.feature.melspectrogram(y=sound.mean(1), sr=rate, n_fft=2048, hop_length=HOP,
                                           n_mels=MELS, fmin=50, fmax=12_000)
    return librosa.power_to_db(power, ref=np.max, top_db=70), len(sound) / rate


def notes_of(path: Path) -> list[tuple[float, float, int, int]]:
    """(onset_s, offset_s, note, velocity) of a MIDI file."""
    at, open_notes, notes = 0.0, {}, []
    for message in mido.MidiFile(path):
        at += message.time
        if message.type == "note_on" and message.velocity:
            open_notes[message.note] = (at, message.velocity)
        elif message.type in ("note_off", "note_on") and message.note in open_notes:
            start, velocity = open_notes.pop(message.note)
            notes.append((start, at, message.note, velocity))
    return notes


def main(folder: Path, out: Path) -> None:
    """Draw three rows over one time axis."""
    source = demo_recording()
    restyled = next(folder.glob(f"{source.stem}-*.wav"))
    notes = notes_of(folder / f"{source.stem}.mid")
    figure, rows = pyplot.subplots(3, 1, figsize=(10, 7), sharex=True, layout="constrained",
                                   height_ratios=(1, 0.9, 1))
    for row, path, title in ((rows[0], source, "in: a real alto saxophone"),
                             (rows[2], restyled, f"out: {restyled.stem.split('-')[-1]}")):
        image, length_s = mel_db(path)
        row.imshow(image, origin="lower", aspect="auto", cmap="magma",
                   extent=(0, length_s, 0, MELS))
        at = np.interp([100, 300, 1000, 3000, 10_000],
                       librosa.mel_frequencies(MELS, fmin=50, fmax=12_000), np.arange(MELS))
        row.set_yticks(at, ["100", "300", "1k", "3k", "10k"])
        row.set(title=title, ylabel="Hz")
    roll = rows[1]
    for start, end, note, velocity in notes:
        colour = pyplot.cm.viridis(velocity / 127)
        roll.barh(note, end - start, left=start, height=0.9, color=colour)
    roll.set(title="heard: the notes in the MIDI file (colour: velocity)", ylabel="MIDI note")
    roll.grid(alpha=0.3)
    rows[2].set_xlabel("seconds")
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
