"""MIDI ports, as `devices` prints them. Owner of python-rtmidi, loaded on use."""

from __future__ import annotations

from v3audio.errors import DeviceError


def list_midi_outputs() -> list[str]:
    """Names of the MIDI output ports of this machine; empty where there are none.

    Raises:
        DeviceError: python-rtmidi or the system's MIDI service is missing.
    """
    try:
        import rtmidi
    except ImportError as e:
        raise DeviceError(
            "python-rtmidi is not installed, so no MIDI port can be listed; "
            "type: pip install python-rtmidi"
        ) from e
    try:
        return [str(name) for name in rtmidi.MidiOut().get_ports()]
    except rtmidi.RtMidiError as e:  # such as a container without /dev/snd/seq
        reason = str(e).split(":")[-1].strip().rstrip(".")
        raise DeviceError(
            f"the system's MIDI service does not answer ({reason}); "
            "on Linux, load its sequencer: sudo modprobe snd-seq"
        ) from e
