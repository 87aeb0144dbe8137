"""`v3audio devices`: what --input, --output and --midi accept."""

from __future__ import annotations

from v3audio.cli.common import complain
from v3audio.errors import DeviceError


def devices() -> None:
    """List audio and MIDI devices by the names that the options of `live` take."""
    from realtime.audio_io import list_audio_devices
    from realtime.midi_out import list_midi_outputs

    print("audio")
    try:
        cards = list_audio_devices()
    except DeviceError as e:
        complain(str(e))
    else:
        for card in cards:
            marks = ["mic"] * card.is_default_input + ["speakers"] * card.is_default_output
            print(
                f"  {card.name}  ({card.n_inputs} in, {card.n_outputs} out, {card.sample_rate} Hz, "
                f"{card.host}){'  = ' + ', '.join(marks) if marks else ''}"
            )
        if not cards:
            print("  none")
    print("MIDI outputs")
    try:
        ports = list_midi_outputs()
    except DeviceError as e:
        complain(str(e))
    else:
        print("\n".join(f"  {port}" for port in ports) or "  none")
