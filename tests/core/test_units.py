from __future__ import annotations

import numpy as np
import pytest

from v3audio.units import (
    db_to_gain,
    gain_to_db,
    hz_to_midi,
    midi_to_hz,
    samples_to_seconds,
    seconds_to_samples,
)


@pytest.mark.parametrize(("midi", "hz"), [(69.0, 440.0), (57.0, 220.0), (60.0, 261.6255653)])
def test_notes_have_their_frequencies(midi: float, hz: float) -> None:
    assert midi_to_hz(midi) == pytest.approx(hz, rel=1e-9)
    assert hz_to_midi(hz) == pytest.approx(midi, abs=1e-8)


def test_arrays_go_and_come_back() -> None:
    midi = np.linspace(20, 110, 91)
    np.testing.assert_allclose(hz_to_midi(midi_to_hz(midi)), midi, atol=1e-10)
    assert midi_to_hz(midi.astype(np.float32)).dtype == np.float32


def test_no_frequency_is_infinitely_low() -> None:
    assert hz_to_midi(0.0) == -np.inf


@pytest.mark.parametrize(("db", "gain"), [(0.0, 1.0), (20.0, 10.0), (-6.0206, 0.5)])
def test_decibels(db: float, gain: float) -> None:
    assert db_to_gain(db) == pytest.approx(gain, rel=1e-5)
    assert gain_to_db(gain) == pytest.approx(db, abs=1e-4)
    assert gain_to_db(-gain) == pytest.approx(db, abs=1e-4)


def test_silence_has_a_floor() -> None:
    assert gain_to_db(0.0) == -120.0
    np.testing.assert_array_equal(gain_to_db(np.array([0.0, 1.0]), floor_db=-90.0), [-90.0, 0.0])


def test_seconds_and_samples() -> None:
    assert seconds_to_samples(0.005, 44_100) == 221  # 220.5: a tie goes up
    assert seconds_to_samples(-0.5, 10) == -5
    assert samples_to_seconds(24_000, 48_000) == 0.5
    np.testing.assert_array_equal(seconds_to_samples(np.array([0.1, 0.2]), 100), [10, 20])


def test_scalars_stay_plain_floats() -> None:
    for value in (midi_to_hz(60.0), hz_to_midi(440.0), db_to_gain(3.0), gain_to_db(0.5)):
        assert type(value) is float
    assert type(seconds_to_samples(1.0, 8000)) is int
