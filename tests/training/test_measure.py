"""The measures on made-up frames whose answers are known."""

import numpy as np
import pytest

from training.evaluate import measure
from training.measure import LabelledFrames, pitch_r2, retrieval, segment_means, times_to_right_code

N_CLIPS, N_NOTES, PER_NOTE = 8, 20, 30
HOP_S = 0.01


def frames(leak: float = 0.0, wrong_code_every: int = 0) -> LabelledFrames:
    """Eight clips of four programs; style is a program vector, noise and leaked pitch."""
    rng = np.random.default_rng(0)
    n = N_CLIPS * N_NOTES * PER_NOTE
    clip = np.repeat(np.arange(N_CLIPS), N_NOTES * PER_NOTE)
    note = np.repeat(rng.integers(40, 80, N_CLIPS * N_NOTES), PER_NOTE)
    colours = rng.normal(size=(4, 6)) * 3
    style = colours[clip % 4] + rng.normal(size=(n, 6))
    style[:, 0] += leak * (note - 60)
    code = note.copy()
    if wrong_code_every:
        code[::wrong_code_every] += 12
    age = np.tile((np.arange(PER_NOTE) + 1) * HOP_S, N_CLIPS * N_NOTES)
    return LabelledFrames(
        clip=clip, program=[str(c % 4) for c in range(N_CLIPS)], note=note,
        true_midi=note.astype(float), age_s=age,
        note_index=np.repeat(np.tile(np.arange(N_NOTES), N_CLIPS), PER_NOTE),
        level_db=np.zeros(n), loud=np.ones(n, bool), position=note, centroid=note.astype(float),
        code=code, style=style.astype(np.float32))


def test_retrieval_finds_the_program_and_chance_without_one():
    made = frames()
    means, owners = segment_means(made)
    assert retrieval(means, owners, made.program, across_clips=True) > 0.95
    shuffled = np.random.default_rng(1).permutation(means)
    assert retrieval(shuffled, owners, made.program, across_clips=True) < 0.5


def test_pitch_in_style_is_found_where_it_is():
    assert pitch_r2(frames(), inside_clips=True) < 0.02
    assert pitch_r2(frames(leak=0.3), inside_clips=True) > 0.8


def test_shares_and_octaves():
    made = measure(frames(wrong_code_every=10), list(range(128)))
    assert made.stable_right == pytest.approx(17 / 18, abs=1e-3)  # one of the 18 stable frames
    assert made.octave_share == 1.0
    assert measure(frames(), list(range(128))).stable_right == 1.0


def test_time_to_the_right_code_counts_two_in_a_row():
    made = frames()
    said = made.note.copy()
    late = (made.age_s < 0.055) & (made.clip == 0)
    said[late] = 0
    times = [t for _, t in times_to_right_code(made, said, HOP_S)]
    assert times[0] == pytest.approx(0.06 + 0.012)
    assert times[-1] == pytest.approx(0.01 + 0.012)
    said[made.clip == 1] = 0
    assert np.isinf([t for _, t in times_to_right_code(made, said, HOP_S)]).sum() == N_NOTES
