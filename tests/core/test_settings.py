"""Settings refuse what is out of range; scales pull where a musician expects."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from v3audio.errors import ConfigError
from v3audio.settings import (
    RANGES,
    SCALES,
    VELOCITIES,
    Settings,
    nearest_in_scale,
    ref_semitones,
    snapped,
)


@pytest.mark.parametrize("name", RANGES)
def test_every_number_takes_its_range_and_nothing_beyond(name: str) -> None:
    low, high = RANGES[name]
    for value in (low, high):
        assert getattr(replace(Settings(), **{name: value}), name) == value
    for value in (low - 1, high + 1, float("nan"), float("inf"), "1", True, None):
        with pytest.raises(ConfigError, match=f"{name} = .*expected .*{high:g}"):
            replace(Settings(), **{name: value})


def test_every_number_has_a_range_and_the_defaults_lie_in_it() -> None:
    numbers = {f.name for f in fields(Settings) if type(f.default) in (int, float)}
    assert numbers == set(RANGES)


@pytest.mark.parametrize("name", ["enabled", "bypass", "freeze"])
def test_switches_are_true_or_false(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = 1: expected True or False"):
        replace(Settings(), **{name: 1})


def test_whole_numbers_become_floats_and_the_root_stays_whole() -> None:
    settings = Settings(transpose=7, scale_root=3)
    assert isinstance(settings.transpose, float)
    with pytest.raises(ConfigError, match="expected a whole number from 0 to 11"):
        Settings(scale_root=1.5)  # type: ignore[arg-type]


def test_names_are_known_ones_and_a_misspelt_one_gets_the_nearest() -> None:
    assert all(Settings(scale=s).scale == s for s in SCALES)
    assert all(Settings(velocity=v).velocity == v for v in VELOCITIES)
    with pytest.raises(ConfigError, match="did you mean 'dorian'"):
        Settings(scale="dorain")
    with pytest.raises(ConfigError, match="expected one of level, attack, fixed"):
        Settings(velocity="loud")


def test_scales_rise_from_their_root() -> None:
    for notes in SCALES.values():
        assert notes[0] == 0
        assert list(notes) == sorted(set(notes))
        assert notes[-1] < 12


@pytest.mark.parametrize(
    ("pitch", "root", "scale", "nearest"),
    [
        (60.4, 0, "major", 60),
        (61.0, 0, "major", 60),  # between two: the lower
        (61.1, 0, "major", 62),
        (66.0, 7, "major", 66),  # G major has F sharp
        (66.0, 0, "major", 65),
        (58.4, 0, "blues", 58),
        (61.6, 0, "minor pentatonic", 63),
        (127.9, 11, "whole tone", 127),
        (0.2, 1, "major", 0),
        (-0.4, 1, "major", 0),
    ],
)
def test_the_nearest_note_of_a_scale(pitch: float, root: int, scale: str, nearest: int) -> None:
    assert nearest_in_scale(pitch, root, scale) == nearest


def test_snapping_by_degrees() -> None:
    assert snapped(60.4, 0, "chromatic", 0.0) == 60.4
    assert snapped(60.4, 0, "chromatic", 0.5) == pytest.approx(60.2)
    assert snapped(60.4, 0, "chromatic", 1.0) == 60.0
    assert snapped(60.6, 0, "chromatic", 1.0, centre=60.4) == 60.0
    for pitch in range(128):  # no scale is further than 2 semitones from anywhere
        assert all(abs(nearest_in_scale(pitch, 5, s) - pitch) <= 2 for s in SCALES)


def test_a_players_own_a() -> None:
    assert ref_semitones(440.0) == 0.0
    assert ref_semitones(442.0) == pytest.approx(0.0785, abs=1e-4)
    assert ref_semitones(415.3) == pytest.approx(-1.0, abs=1e-3)
