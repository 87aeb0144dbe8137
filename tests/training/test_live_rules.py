"""The search for the live tracker's rules: what counts as late and as stray, and that it gains."""

from dataclasses import replace

import numpy as np
import pytest

from training import live_rules
from training.live_rules import Played
from training.phrases import TrueNote
from v3audio.belief import NEIGHBOUR, OFFSETS, OTHER
from v3audio.notes import FrameNotes, TrackerConfig

HERE = OFFSETS.index(0)
NOTES = [TrueNote(0.1, 0.5, 69.0), TrueNote(0.6, 1.0, 45.0)]


def played(slip_s=0.0, sure=0.9):
    """Each note believed 30 ms after its onset, first a semitone off for so long."""
    nothing = np.zeros(1, np.float32)
    frames, beliefs = [], []
    for k in range(240):
        time_s = (k + 1) * 0.005
        note = next((n for n in NOTES if n.onset_s <= time_s < n.offset_s), None)
        level = -20.0 if note and k % 2 else -26.0 if note else -80.0
        pitch = note.midi + 0.1 if note else 60.0
        frames.append(FrameNotes(level, 1.0, 0.9, pitch, 0.9, None, nothing, nothing, level))
        meant = [0.0] * (OTHER + 1)
        since_s = time_s - note.onset_s if note else 0.0
        kind = NEIGHBOUR if since_s < 0.03 + slip_s else HERE
        meant[kind if since_s >= 0.03 else OTHER] = sure
        beliefs.append((meant, [0.0, 0.0, 0.0, 0.0, 1.0]))
    return Played(frames, beliefs, NOTES)


def test_right_notes_are_late_and_wrong_ones_stray():
    late, n_stray = live_rules.lateness(played(), TrackerConfig())
    assert n_stray == 0
    assert (late > 30.0).all() and (late < 70.0).all()
    late, n_stray = live_rules.lateness(played(slip_s=0.06), TrackerConfig())
    assert n_stray == 2


def test_registers_are_told_apart():
    parts, stray = live_rules.measure([played()], TrackerConfig())
    assert [len(late) for late in parts.values()] == [1, 1, 0]
    assert stray == 0.0
    assert "found 100.0 %, stray 0.0 %" in live_rules.line([played()], TrackerConfig())


@pytest.mark.parametrize("slip_s", [0.0, 0.02])
def test_the_search_gains(slip_s):
    slow = replace(TrackerConfig(), believe_ms=40.0)
    clips = [played(slip_s)]
    found = live_rules.search(clips, slow, 1.0)
    before = live_rules.cost(*live_rules.measure(clips, slow), 1.0)
    assert live_rules.cost(*live_rules.measure(clips, found), 1.0) < before
