"""Naming the codes: the only place where labels meet the model, once, after training.

Source: the hybrid vote is ours. The paper names codes by majority (section 4.2), which needs many
instruments; one global offset between positions and notes, counted as a few votes, needs few.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.measure import LabelledFrames, encode_labelled
from v3audio.bundle import load_bundle, write_meta
from v3audio.code_map import CodeMap
from v3audio.errors import ConfigError
from v3audio.model import V3Model

HOP = 160  # samples between calibration frames
OFFSET_VOTES = 3  # what the global offset counts for, in labelled frames
CENTRED_SEMITONES = 0.35  # a frame votes when its pitch is this near its note
OUTLIER_SEMITONES = 0.7  # from the common offset; farther is an error, not intonation


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What naming the codes gave; stable frames of the calibration tones."""

    accuracy: float  # frames whose code's note is the note played
    accuracy_within_75_cents: float  # fine pitch near the sounding pitch
    notes_covered: int  # of `notes_heard`
    notes_heard: int
    codes_used: int
    codes_per_note: float
    offset_semitones: float
    frames: int


def name_codes(frames: LabelledFrames, model: V3Model) -> tuple[CodeMap, CalibrationReport]:
    """Give every code a MIDI note by the hybrid vote.

    Raises:
        ConfigError: no stable labelled frame.
    """
    g = model.config.geometry
    rows = np.flatnonzero(frames.stable)
    if not len(rows):
        raise ConfigError("no labelled frame lies inside a note; calibrate with longer tones")
    said = g.midi_low + frames.centroid[rows] / g.bins_per_semitone
    offset = common_offset(frames.true_midi[rows] - said)
    atoms = model.codebook.atoms.numpy()
    places = g.midi_low + atoms.argmax(1) / g.bins_per_semitone + offset  # (K,)
    guess = np.clip(np.round(places), 0, 127).astype(int)
    votes = np.zeros((len(atoms), 128))
    # a bent or detuned frame says little about where one note ends and the next begins
    centred = rows[np.abs(frames.true_midi[rows] - frames.note[rows]) <= CENTRED_SEMITONES]
    np.add.at(votes, (frames.code[centred], frames.note[centred]), 1)
    votes[np.arange(len(atoms)), guess] += OFFSET_VOTES
    code_to_note = votes.argmax(1)
    named = code_to_note[frames.code[rows]]
    heard = np.unique(frames.note[rows])
    covered = [n for n in heard if (named[frames.note[rows] == n] == n).mean() > 0.5]
    used = np.unique(frames.code[rows])
    report = CalibrationReport(
        accuracy=round(float((named == frames.note[rows]).mean()), 4),
        accuracy_within_75_cents=round(float(
            (np.abs(frames.true_midi[rows] - said - offset) <= 0.75).mean()), 4),
        notes_covered=len(covered), notes_heard=len(heard), codes_used=len(used),
        codes_per_note=round(len(used) / len(np.unique(code_to_note[used])), 2),
        offset_semitones=round(offset, 4), frames=len(rows))
    return CodeMap([int(n) for n in code_to_note], round(offset, 4)), report


def common_offset(differences: NDArray[np.float64]) -> float:
    """The most common difference, refined by the median around it (semitones)."""
    counts, edges = np.histogram(differences, np.arange(-90.0, 90.01, 0.2))
    smooth = np.convolve(counts, [0.5, 1, 0.5], "same")
    centre = edges[smooth.argmax()] + 0.1
    near = differences[np.abs(differences - centre) <= OUTLIER_SEMITONES]
    return float(np.median(near))


def calibrate_bundle(model_folder: Path, data_folder: Path, *,
                     picture: bool = True) -> CalibrationReport:
    """Name the codes of a model folder and write the map and the report into it.

    Args:
        model_folder: as written by `v3audio train`.
        data_folder: clips with notes, as `v3audio data melodies` makes them.
        picture: also draw `calibration.png` (note played against note heard).
    """
    bundle = load_bundle(model_folder)
    model = bundle.load_model()
    frames = encode_labelled(model, data_folder, HOP)
    code_map, report = name_codes(frames, model)
    metrics: dict[str, Any] = {**bundle.metrics, "calibration": dataclasses.asdict(report)}
    write_meta(dataclasses.replace(bundle, code_map=code_map, metrics=metrics))
    if picture:
        draw_confusion(frames, code_map, model_folder / "calibration.png")
    return report


def draw_confusion(frames: LabelledFrames, code_map: CodeMap, path: Path) -> None:
    """Note played (across) against note heard (up), log share of stable frames."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = frames.stable
    named = np.asarray(code_map.code_to_note)[frames.code[rows]]
    matrix = np.zeros((128, 128))
    np.add.at(matrix, (named, frames.note[rows]), 1)
    matrix /= np.maximum(matrix.sum(0), 1)
    used = np.flatnonzero(matrix.sum(0))
    low, high = max(used.min() - 12, 0), min(used.max() + 13, 128)
    figure, axes = pyplot.subplots(figsize=(7, 6), layout="constrained")
    image = axes.imshow(np.log10(matrix + 1e-3)[low:high, low:high], origin="lower", vmin=-3,
                        vmax=0, extent=(low, high, low, high), cmap="magma")
    axes.set(xlabel="note played (MIDI)", ylabel="note heard (MIDI)",
             title="Names of the codes: stable calibration frames")
    figure.colorbar(image, label="log10 share")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
