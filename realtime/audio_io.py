"""Sound cards, as `devices` prints them. The one owner of sounddevice (PortAudio), loaded on use.

Playing through a sound card comes with the next release; today `live` runs from file to file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from v3audio.errors import DeviceError


@dataclass(frozen=True, slots=True)
class AudioDevice:
    """One sound card as the system names it.

    Attributes:
        name: what `--input` and `--output` will accept.
        host: the system's sound service behind it (ALSA, Core Audio, WASAPI...).
        n_inputs: input channels.
        n_outputs: output channels.
        sample_rate: its usual rate in Hz.
        is_default_input: what `mic` means.
        is_default_output: what `speakers` means.
    """

    name: str
    host: str
    n_inputs: int
    n_outputs: int
    sample_rate: int
    is_default_input: bool
    is_default_output: bool


def list_audio_devices() -> list[AudioDevice]:
    """Every sound card PortAudio sees, in its order; empty on a machine without one.

    Raises:
        DeviceError: PortAudio is missing or fails.
    """
    sounddevice = _sounddevice()
    try:
        hosts = [str(api["name"]) for api in sounddevice.query_hostapis()]
        devices = list(sounddevice.query_devices())
        default_input, default_output = sounddevice.default.device
    except sounddevice.PortAudioError as e:
        raise DeviceError(f"the sound system does not answer ({e}); try again, or reboot it") from e
    return [
        AudioDevice(
            name=str(device["name"]),
            host=hosts[device["hostapi"]],
            n_inputs=int(device["max_input_channels"]),
            n_outputs=int(device["max_output_channels"]),
            sample_rate=int(device["default_samplerate"]),
            is_default_input=index == default_input,
            is_default_output=index == default_output,
        )
        for index, device in enumerate(devices)
    ]


def _sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as e:  # the Python package is there, the library behind it is not
        raise DeviceError(
            "PortAudio is not installed, so no sound card can be listed; install it "
            "(Debian/Ubuntu: sudo apt install libportaudio2, macOS: brew install portaudio)"
        ) from e
    except ImportError as e:
        raise DeviceError("sounddevice is not installed; type: pip install sounddevice") from e
    return sounddevice
