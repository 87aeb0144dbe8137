"""`v3audio devices`: what --input, --output and --midi accept, and whether it works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v3audio.cli.common import complain
from v3audio.errors import DeviceError

if TYPE_CHECKING:
    from realtime.audio_io import AudioDevice

LISTEN_S, BEEP_S = 1.0, 0.4
FIRST_CALL_S = 2.0
BEEP_HZ, BEEP_DB = 440.0, -30.0
MIDDLE_C = 60


def devices(
    test: Annotated[
        bool,
        typer.Option("--test", help="Listen to each input for a second, play a soft beep on each "
                     "output and a middle C on each MIDI port."),
    ] = False,
) -> None:  # fmt: skip
    """List audio and MIDI devices by the names that the options of `live` take."""
    from realtime.audio_io import list_audio_devices
    from realtime.midi_out import list_midi_outputs

    n_failed = 0
    print("audio")
    try:
        cards = list_audio_devices()
    except DeviceError as e:
        complain(str(e))
    else:
        for card in cards:
            print(_in_words(card))
            if test and card.n_inputs:
                n_failed += _tried("input", partial(_listen, card.name))
            if test and card.n_outputs:
                n_failed += _tried("output", partial(_beep, card.name))
        if not cards:
            print("  none")
    print("MIDI outputs")
    try:
        ports = list_midi_outputs()
    except DeviceError as e:
        complain(str(e))
    else:
        for port in ports:
            print(f"  {port}")
            if test:
                n_failed += _tried("output", partial(_play_middle_c, port))
        if not ports:
            print("  none")
    if n_failed:
        raise DeviceError(f"{n_failed} of these did not work; the reasons stand beside them")


def _in_words(card: AudioDevice) -> str:
    marks = ["mic"] * card.is_default_input + ["speakers"] * card.is_default_output
    return (
        f"  {card.name}  ({card.n_inputs} in, {card.n_outputs} out, {card.sample_rate} Hz, "
        f"{card.host}){'  = ' + ', '.join(marks) if marks else ''}"
    )


def _tried(what: str, test: Callable[[], str]) -> bool:
    """Print how a test went; whether it failed."""
    try:
        found = test()
    except DeviceError as e:
        print(f"    {what:<7} FAILED  {e}", flush=True)
        return True
    print(f"    {what:<7} ok  {found}", flush=True)
    return False


def _listen(name: str) -> str:
    """Take sound in for a second; its level."""
    import numpy as np

    from v3audio.cli.status import meter
    from v3audio.units import gain_to_db

    peak = np.zeros(1)

    def callback(heard: Any, _out: Any, _lost_some: bool) -> None:
        peak[0] = max(peak[0], float(np.abs(heard).max()))

    _run(name, None, callback, LISTEN_S)
    level_db = gain_to_db(float(peak[0]))
    if not peak[0]:
        return "silence; is it muted, or nothing connected?"
    return f"|{meter(level_db, 20)}| {level_db:.0f} dBFS{'; too loud' if level_db > -1 else ''}"


def _beep(name: str) -> str:
    """Play a soft beep that fades in and out."""
    import numpy as np

    at = 0
    rate = 48_000  # where the card runs at another, the beep is a little higher or lower

    def callback(_heard: Any, out: Any, _lost_some: bool) -> None:
        nonlocal at
        t = np.arange(at, at + len(out)) / rate
        at += len(out)
        shape = np.sin(np.pi * np.minimum(t / BEEP_S, 1.0)) ** 2
        tone = 10 ** (BEEP_DB / 20) * shape * np.sin(2 * np.pi * BEEP_HZ * t)
        out[:] = tone.astype(np.float32)[:, None]

    _run(None, name, callback, BEEP_S + 0.3, rate)
    return "a soft beep was played"


def _run(
    source: str | None, output: str | None, callback: Any, seconds: float, rate: int | None = None
) -> None:
    """Keep a stream open for so long.

    Raises:
        DeviceError: it does not open, or does not call.
    """
    from realtime.audio_io import Stream

    called = threading.Event()

    def counted(heard: Any, out: Any, lost_some: bool) -> None:
        called.set()
        callback(heard, out, lost_some)

    with Stream(source, output, rate, 512, counted) as stream:
        if not called.wait(FIRST_CALL_S):
            raise DeviceError("it opens, but never asks for sound; is another program using it?")
        sleep(seconds)
        if not stream.is_alive():
            raise DeviceError("it stopped by itself")


def _play_middle_c(port: str) -> str:
    from realtime.controls import MidiSettings
    from realtime.midi_out import MidiOut
    from v3audio.notes import NoteEvent

    settings = MidiSettings()
    with MidiOut([port], lambda: settings, 48_000) as midi:  # leaving it ends the note
        midi.put([NoteEvent("on", 0, MIDDLE_C, 64, 0.0, 1.0)], 0)
        sleep(BEEP_S)
        return "a middle C was played"
