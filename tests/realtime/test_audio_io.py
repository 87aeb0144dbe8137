"""Listing sound cards, with a stand-in for PortAudio."""

from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace

import pytest

from realtime.audio_io import AudioDevice, list_audio_devices
from v3audio.errors import DeviceError


class PortAudioError(Exception):
    pass


def fake(devices: list[dict[str, object]]) -> SimpleNamespace:
    return SimpleNamespace(
        PortAudioError=PortAudioError,
        query_hostapis=lambda: ({"name": "ALSA"}, {"name": "JACK"}),
        query_devices=lambda: devices,
        default=SimpleNamespace(device=(0, 1)),
    )


def card(name: str, hostapi: int, n_inputs: int, n_outputs: int) -> dict[str, object]:
    return {
        "name": name,
        "hostapi": hostapi,
        "max_input_channels": n_inputs,
        "max_output_channels": n_outputs,
        "default_samplerate": 48000.0,
    }


def test_lists_cards_with_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fake([card("Mic", 0, 1, 0), card("Card", 1, 2, 2)])
    monkeypatch.setitem(sys.modules, "sounddevice", found)
    assert list_audio_devices() == [
        AudioDevice("Mic", "ALSA", 1, 0, 48000, True, False),
        AudioDevice("Card", "JACK", 2, 2, 48000, False, True),
    ]


def test_a_machine_without_cards_has_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", fake([]))
    assert list_audio_devices() == []


def test_a_failing_sound_system_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = fake([])

    def fail() -> None:
        raise PortAudioError("host error")

    broken.query_devices = fail
    monkeypatch.setitem(sys.modules, "sounddevice", broken)
    with pytest.raises(DeviceError, match="host error"):
        list_audio_devices()


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError("PortAudio library not found"), "libportaudio2"), (ImportError(), "pip install")],
)
def test_a_missing_library_says_what_to_install(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def import_without(name: str, *args: object, **extra: object) -> object:
        if name == "sounddevice":
            raise error
        return real_import(name, *args, **extra)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(DeviceError, match=words):
        list_audio_devices()
