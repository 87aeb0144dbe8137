"""The learned rule of where notes begin: plain notes are plain, however they are asked for."""

import numpy as np
import pytest

from v3audio import onsets


def columns(n, seed=0):
    rng = np.random.default_rng(seed)
    sounds = (np.arange(n) // 40) % 2 == 1  # 400 ms on, 400 ms off
    level = np.where(sounds, -20.0, -75.0) + rng.normal(0, 0.3, n)
    begins = np.diff(sounds.astype(int), prepend=0) == 1
    onset = 0.4 + 9.0 * (begins | np.roll(begins, 1)) + rng.uniform(0, 0.2, n)
    periodicity = np.where(sounds, 0.97, rng.uniform(0.1, 0.5, n))
    pitch = np.where(sounds, 60.0, rng.uniform(30, 90, n))
    confidence = np.where(sounds, 0.95, rng.uniform(0.1, 0.5, n))
    note_probs = np.full((n, 128), 1e-3, np.float32)
    note_probs[np.arange(n), np.rint(pitch).astype(int)] = confidence
    return (level, onset, periodicity, pitch, confidence, note_probs), begins, sounds


def hear(frames, hop_s=onsets.HOP_S):
    return onsets.hear(onsets.Cues(*frames, None), gate_db=-62.0, hop_s=hop_s)


def test_plain_notes_are_plain():
    frames, begins, sounds = columns(800)
    here, near, _, odds, which = hear(frames)
    for k in np.flatnonzero(begins):
        assert abs(int(here[k - 5 : k + 6].argmax()) - 5) <= 1 and near[k] > 0.9
    away = ~np.convolve(begins, np.ones(13), "same").astype(bool)
    assert near[away].max() < 0.1
    # the pitch heard now, or at other moments of the same note: not its octaves, nor none of these
    named = which[sounds].mean(0)
    elsewhere = [k for k, semitones in enumerate(onsets.INTERVALS) if semitones] + [-1]
    assert named[elsewhere].sum() < 0.05
    assert (odds[sounds] > 0).mean() > 0.95 and odds[~sounds].mean() < odds[sounds].mean() - 3


def test_finer_hops_say_the_same():
    frames, *_ = columns(500)
    whole = hear(frames)
    twice = hear([np.repeat(x, 2, axis=0) for x in frames], onsets.HOP_S / 2)
    assert np.abs(twice.near[::2] - whole.near).max() < 1e-5


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_frames(n):
    frames, *_ = columns(n)
    for column in hear(frames):
        assert len(column) == n and np.isfinite(column).all()
