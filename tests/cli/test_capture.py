"""`v3audio capture` saves first and adapts after, and says what the take was good for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from v3audio import capture, timbres
from v3audio.bundle import Bundle
from v3audio.capture import Report, Take
from v3audio.timbres import Timbre

Run = Callable[..., Any]
PLAIN = Timbre(
    name="mine", note_range=(60, 72), model="none", model_sha256="0", style=np.zeros(16, np.float32)
)
REPORT = Report(
    usable_s=9.0, total_s=10.0, note_range=(60, 72), pitches=9, level_db=(-20.0, -14.0),
    noise_db=-70.0, clipped_share=0.0, style_spread=0.3, nearest=("oboe", 0.2), gain_db=1.0,
)  # fmt: skip


@pytest.fixture
def take(home: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """What hearing gives, and an adaptation that makes the style ones."""
    made = Take(PLAIN, REPORT, Bundle(Path("none"), {}, None, "0"), None)
    adapted = replace(
        made,
        timbre=replace(PLAIN, style=np.ones(16, np.float32)),
        report=replace(REPORT, held_out=(0.8, 0.6)),
    )
    monkeypatch.setattr(capture, "capture", lambda name, *_, **__: made)
    monkeypatch.setattr(Take, "adapted", lambda self, _told: adapted)
    return made


def test_the_report_is_printed_and_the_timbre_saved(run: Run, take: Take) -> None:
    said = run("capture", "mine", "x.wav").stdout
    for text in ("verdict  good", "C4 to C5, 9 different", "oboe (0.20 away)", "--timbre mine"):
        assert text in said
    np.testing.assert_array_equal(timbres.find("mine").style, 0)


def test_the_report_as_json(run: Run, take: Take) -> None:
    said = json.loads(run("capture", "mine", "x.wav", "--adapt", "--json").stdout)
    assert said["name"] == "mine" and said["verdict"] == "good" and said["held_out"] == [0.8, 0.6]
    np.testing.assert_array_equal(timbres.load(said["file"]).style, 1)


def test_an_adaptation_that_is_stopped_leaves_the_timbre_as_it_was(
    run: Run, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_take: Take, _told: object) -> Take:
        raise KeyboardInterrupt

    monkeypatch.setattr(Take, "adapted", stop)
    result = run("capture", "mine", "x.wav", "--adapt")
    assert result.exit_code == 0
    assert "saved as it was before it adapted" in result.stderr
    np.testing.assert_array_equal(timbres.find("mine").style, 0)
