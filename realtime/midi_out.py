"""Notes out: MIDI ports, virtual ports and `/vkb_midi` over OSC, on a thread of their own.

Owner of python-rtmidi, loaded on use. What the engine's thread hands over costs it one append. A
port may vanish at any time: it is reported once, tried again by name once a second, and meanwhile
nothing else notices.

Linux has two MIDI services, ALSA's sequencer and JACK; the ports of both are listed and opened, a
virtual port is made in ALSA where it is there. The other systems have one. `/vkb_midi` counts its
channels from 0, as Reaper's default pattern does, and bends from 0 to 16383. Bitwig (DrivenByMoss)
counts from 1 and takes 0 for 1, so channel 1, the default, is right in both; it knows no `/pitch`:
bends reach it through a port.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast

from realtime.stats import Durations
from v3audio.errors import ConfigError, DeviceError, did_you_mean
from v3audio.midi_file import MidiMode, NoteEncoder
from v3audio.notes import NoteEvent

if TYPE_CHECKING:
    import mido

    from realtime.controls import MidiSettings

CAPACITY = 1024  # events waiting for a port
LOOK_S = 0.05  # how late a changed setting may be noticed
RETRY_S = 1.0
JACK_PERIOD_S = 0.1  # at most: what a port gets in its first and last one is lost
JACK_BURST = 256  # messages: rtmidi holds 2340 for a server, then waits with all Python stopped
CLIENT_NAME = "v3audio"
_ALSA_SEQUENCER = Path("/dev/snd/seq")
_UNIX_SOCKETS = Path("/proc/net/unix")

log = logging.getLogger(__name__)


class NoteGate:
    """Decides which events may join a queue, so that a full one never parts an on from its off.

    The off of each admitted on has its place kept. What cannot be taken is a bend, or a note as a
    whole. For one thread.

    Attributes:
        n_dropped: events refused.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.n_dropped = 0
        self._capacity = capacity
        self._open: set[int] = set()  # notes whose on was admitted and whose off has not come

    def admit(self, events: Sequence[NoteEvent], n_waiting: int) -> list[NoteEvent]:
        """Those of `events` that may join the `n_waiting` that are there."""
        admitted: list[NoteEvent] = []
        for event in events:
            free = self._capacity - n_waiting - len(admitted) - len(self._open)
            is_open = event.note in self._open
            if event.kind == "on":
                fits = free >= 1 if is_open else free >= 2
            elif event.kind == "off":
                fits = is_open
            else:  # bends are the first to go
                fits = is_open and free > self._capacity // 2
            if not fits:
                self.n_dropped += 1
                continue
            admitted.append(event)
            if event.kind == "on":
                self._open.add(event.note)
            elif event.kind == "off":
                self._open.remove(event.note)
        return admitted


class MidiOut:
    """The ports of a session and the thread that feeds them; a context manager.

    Leaving it ends every note, whatever else happens.

    Args:
        targets: Port names (whole or a part that only one has), ``virtual``, ``virtual:NAME``,
            ``osc:HOST:PORT``.
        settings: Gives the current settings, asked on the MIDI thread. A new mode, channel or bend
            range releases what sounds and is announced; `enable` off is a panic, then silence.
        sample_rate: In Hz, of the events' `sample`.
        say: Told, on the MIDI thread and once each, in a line, that a port is lost or back.

    Attributes:
        latency: From `put` until the last port has the messages.
    """

    def __init__(
        self,
        targets: Sequence[str],
        settings: Callable[[], MidiSettings],
        sample_rate: int,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.latency = Durations()
        self._settings = settings
        self._sample_rate = sample_rate
        self._say = say
        self._outputs = [_Output(_port(target)) for target in dict.fromkeys(targets)]
        self._queue: queue.SimpleQueue[tuple[float, Sequence[NoteEvent]] | None] = (
            queue.SimpleQueue()
        )
        self._gate = NoteGate()
        self._n_put = self._n_taken = 0  # each written by one thread
        self._panic = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="v3audio-midi", daemon=True)

    def __enter__(self) -> Self:
        """Open all ports.

        Raises:
            DeviceError: No such port (those there are listed), or no MIDI service.
        """
        now = self._settings()
        try:
            for output in self._outputs:
                output.open(now)
        except BaseException:
            for output in self._outputs:
                output.port.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Panic, and close the ports."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join(10.0)  # a driver may hang for ever; the program may not

    def put(self, events: Sequence[NoteEvent], sample: int = 0) -> None:
        """Hand over the events of one block: engine thread only, never waits.

        Args:
            events: In order.
            sample: Of the block; the events have their own.
        """
        if events and (admitted := self._gate.admit(events, self._n_put - self._n_taken)):
            self._n_put += len(admitted)
            self._queue.put((time.perf_counter(), admitted))

    def panic(self) -> None:
        """End all notes and bring bends to 0 on every port; from any thread, returns at once."""
        if not self._panic:
            self._panic = True
            self._queue.put(None)

    @property
    def n_dropped(self) -> int:
        """Events that found the queue full."""
        return self._gate.n_dropped

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports as opened, a lost one marked."""
        return tuple(o.port.name + (" (lost)" if o.is_lost else "") for o in self._outputs)

    def _run(self) -> None:
        try:
            self._feed()
        finally:  # also from our own faults, which are then shown: no note may hang
            for output in self._outputs:
                output.panic()
                output.port.close()

    def _feed(self) -> None:
        now, look_s = self._settings(), time.monotonic() + RETRY_S
        while True:
            try:
                item = self._queue.get(timeout=LOOK_S)
            except queue.Empty:
                item = None
            before, now = now, self._settings()
            if now != before:
                for output in self._outputs:
                    output.follow(now)
            if item is not None:
                put_s, events = item
                for output in self._outputs if now.enable else ():
                    output.play(events, self._sample_rate)
                self._n_taken += len(events)
                self.latency.add(1000.0 * (time.perf_counter() - put_s))
            elif self._stopping:
                return
            elif self._panic:
                self._panic = False
                for output in self._outputs:
                    output.panic()
            if time.monotonic() >= look_s:
                look_s = time.monotonic() + RETRY_S
                self._look_after(now)
            for output in self._outputs:
                if output.trouble:
                    self._say(output.trouble)
                    output.trouble = ""

    def _look_after(self, now: MidiSettings) -> None:
        """Notice ports that went silently, and open again those that are back."""
        for output in self._outputs:
            output.look()
        for output in self._outputs:  # only now: see _RtPort.close
            if output.is_lost:
                output.reopen(now)


class _Port(Protocol):
    """Where messages go. Every method may raise a DeviceError; `close` never raises."""

    name: str

    def open(self) -> None: ...
    def send(self, message: mido.Message) -> None: ...
    def is_there(self) -> bool: ...
    def close(self) -> None: ...


class _Output:
    """A port with the state of its notes. The MIDI thread's own, once that runs."""

    def __init__(self, port: _Port) -> None:
        self.port = port
        self.is_lost = False
        self.trouble = ""  # a line for the player, to be told once
        self._encoder = NoteEncoder()
        self._announced: tuple[str, int, float] | None = None

    def open(self, now: MidiSettings) -> None:
        """Open and announce. Raises DeviceError."""
        self.port.open()
        self.is_lost, self._announced = False, None
        self.follow(now)

    def follow(self, now: MidiSettings) -> None:
        """Obey settings that changed: silence, or another way to send."""
        if self._announced and not now.enable:
            self.panic()
        wanted = (now.mode, now.channel, now.bend_range)
        if wanted != self._announced:
            self._send(self._encoder.stop() if self._announced else [])
            self._encoder = NoteEncoder(cast(MidiMode, now.mode), now.channel, now.bend_range)
            self._announced = wanted
            self._send(self._encoder.start())

    def play(self, events: Sequence[NoteEvent], sample_rate: int) -> None:
        """Send events; to a lost port, nothing."""
        for event in events:
            self._send(self._encoder.event(event, event.sample / sample_rate))

    def panic(self) -> None:
        """End everything."""
        self._send(self._encoder.panic())

    def look(self) -> None:
        """Notice a port that went without an error."""
        if not self.is_lost and not self.port.is_there():
            self._lose("has gone")

    def reopen(self, now: MidiSettings) -> None:
        """Try a lost port again; its notes are forgotten."""
        with contextlib.suppress(DeviceError):
            self.open(now)
            if not self.is_lost:
                self.trouble = f"MIDI port {self.port.name} is back"

    def _send(self, messages: list[mido.Message]) -> None:
        try:
            for message in messages if not self.is_lost else ():
                self.port.send(message)
        except DeviceError as e:
            self._lose(str(e))

    def _lose(self, reason: str) -> None:
        self.is_lost = True
        self.port.close()
        self.trouble = (
            f"MIDI port {self.port.name} is lost ({reason}); playing goes on, and it is used again "
            "as soon as it is back"
        )


class _OscPort:
    """`/vkb_midi` messages to a DAW: notes and bends, which need no MIDI driver."""

    def __init__(self, target: str) -> None:
        from realtime.osc_wire import UdpSender, parse_endpoint

        self.name = target
        self._sender: UdpSender | None = None
        try:
            self._host, self._port = parse_endpoint(target.removeprefix("osc:"), 8000, "--midi")
        except ConfigError:
            raise DeviceError(
                f"--midi {target}: expected osc:HOST:PORT (--midi osc:127.0.0.1:8000)"
            ) from None

    def open(self) -> None:
        from realtime.osc_wire import UdpSender

        self._sender = UdpSender(self._host, self._port)

    def send(self, message: mido.Message) -> None:
        assert self._sender is not None
        channel = f"/vkb_midi/{message.channel}"
        if message.type == "pitchwheel":
            self._sender.send(f"{channel}/pitch", message.pitch + 8192)
        elif message.type in ("note_on", "note_off"):
            velocity = message.velocity if message.type == "note_on" else 0
            self._sender.send(f"{channel}/note/{message.note}", velocity)

    def is_there(self) -> bool:
        return True  # nobody knows, with UDP

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()


class _RtPort:
    """A port of the system, found by name, or one that others find by its name."""

    def __init__(self, target: str) -> None:
        self.name = self._target = target
        kind, _, name = target.partition(":")
        self._virtual = (name or CLIENT_NAME) if kind == "virtual" else ""
        self._out: Any = None
        self._full_name = ""
        self._jack = b""  # the server, where the port is JACK's
        self._n_sent = 0

    def open(self) -> None:
        rtmidi = _rtmidi()
        if self._virtual:
            self.name, service = self._virtual, _service_for_virtual(self._target)
        else:
            found = _choose(self._target, _system_ports())
            self.name, self._full_name, service = found.name, found.full_name, found.service
        self._jack = _jack_server() if service == rtmidi.API_UNIX_JACK else b""
        try:
            out = rtmidi.MidiOut(service, name=CLIENT_NAME)
            if self._virtual:
                out.open_virtual_port(self._virtual)
            else:
                out.open_port(out.get_ports().index(self._full_name), name=CLIENT_NAME)
                time.sleep(JACK_PERIOD_S if self._jack else 0.0)
        except (rtmidi.RtMidiError, ValueError) as e:  # ValueError: it has just gone
            raise DeviceError(
                f"--midi {self._target}: cannot be opened ({_reason(e)}); "
                "close what else may hold it, or type: v3audio devices"
            ) from e
        self._out = out

    def send(self, message: mido.Message) -> None:
        self._n_sent += 1
        if self._n_sent % JACK_BURST == 0 and self._jack and not self.is_there():
            raise DeviceError("JACK has gone")
        try:
            self._out.send_message(message.bytes())
        except _rtmidi().RtMidiError as e:
            raise DeviceError(_reason(e)) from e

    def is_there(self) -> bool:
        # JACK's server first: its library goes on listing the ports of one that died
        if self._jack and self._jack != _jack_server():
            return False
        return bool(self._virtual) or self._full_name in self._out.get_ports()

    def close(self) -> None:
        """Give the port back.

        After its server died a JACK client can be closed only until the program opens another one,
        which frees it: so everything lost is closed before anything is opened again.
        """
        out, self._out = self._out, None
        if out is not None:
            if self._jack and self._jack == _jack_server():
                time.sleep(JACK_PERIOD_S)
            out.delete()


def _port(target: str) -> _Port:
    return _OscPort(target) if target.startswith("osc:") else _RtPort(target)


# --- what the system has --------------------------------------------------------------------------


class SystemPort(NamedTuple):
    """A MIDI output port of this machine."""

    name: str  # as `--midi` takes it: without ALSA's numbers, which change, where it is unique
    full_name: str
    service: int


def list_midi_outputs() -> list[str]:
    """Names of the MIDI output ports of this machine, as `--midi` takes them; may be empty.

    Raises:
        DeviceError: python-rtmidi or the system's MIDI service is missing.
    """
    return [port.name for port in _system_ports()]


def _system_ports() -> list[SystemPort]:
    rtmidi = _rtmidi()
    services = _services()
    if not services:
        raise DeviceError(f"the system's MIDI service does not answer; {_NO_SERVICE}")
    found = []
    for service in services:
        try:
            client = rtmidi.MidiOut(service, name=CLIENT_NAME)
            found += [(str(name), service) for name in client.get_ports()]
            client.delete()
        except rtmidi.RtMidiError as e:
            raise DeviceError(
                f"the system's MIDI service does not answer ({_reason(e)}); {_NO_SERVICE}"
            ) from e
    plain = [_without_numbers(name) for name, _ in found]
    return [
        SystemPort(p if plain.count(p) == 1 else name, name, service)
        for p, (name, service) in zip(plain, found, strict=True)
    ]


def _choose(target: str, ports: Sequence[SystemPort]) -> SystemPort:
    """The port that is called so, or whose name alone has it as a part.

    Raises:
        DeviceError: None or several.
    """
    lowered = target.lower()
    matches: list[SystemPort] = []
    for fits in (
        [p for p in ports if target in (p.name, p.full_name)],
        [p for p in ports if _without_numbers(target) == _without_numbers(p.full_name)],
        [p for p in ports if lowered in p.full_name.lower()],
    ):
        matches = matches or fits
    if len(matches) == 1:
        return matches[0]
    names = [p.name for p in matches or ports]
    listed = ", ".join(f"'{name}'" for name in names)
    if matches:
        raise DeviceError(f"--midi {target}: fits several ports ({listed}); give more of the name")
    if not ports:
        raise DeviceError(
            f"--midi {target}: this machine has no MIDI output port; plug one in, or make one with "
            "--midi virtual"
        )
    raise DeviceError(
        f"--midi {target}: no such MIDI port{did_you_mean(target, names)}; there are {listed}, "
        "and --midi virtual makes one"
    )


def _service_for_virtual(target: str) -> int:
    """Raises a DeviceError where no port can be made."""
    rtmidi = _rtmidi()
    if rtmidi.API_WINDOWS_MM in rtmidi.get_compiled_api():
        raise DeviceError(
            f"--midi {target}: Windows lets no program make a MIDI port; install loopMIDI and name "
            "its port (--midi 'loopMIDI Port'), or use OSC (--midi osc:127.0.0.1:8000)"
        )
    services = _services()
    if not services:
        raise DeviceError(f"--midi {target}: no MIDI service to make a port in; {_NO_SERVICE}")
    return services[0]


_NO_SERVICE = (
    "on Linux, load ALSA's sequencer (sudo modprobe snd-seq) or start JACK; "
    "--midi osc:127.0.0.1:8000 needs neither"
)


def _services() -> list[int]:
    """MIDI services that are there, as rtmidi numbers them; the one for virtual ports first.

    They are looked for before rtmidi asks, because both of Linux's libraries print what they miss.
    """
    rtmidi = _rtmidi()
    is_there: dict[int, Callable[[], object]] = {
        rtmidi.API_LINUX_ALSA: _ALSA_SEQUENCER.exists,
        rtmidi.API_UNIX_JACK: _jack_server,
        rtmidi.API_RTMIDI_DUMMY: lambda: False,
    }
    compiled: list[int] = rtmidi.get_compiled_api()
    services = [api for api in compiled if api not in is_there or is_there[api]()]
    return sorted(services, key=lambda api: bool(api == rtmidi.API_UNIX_JACK))


def _jack_server() -> bytes:
    """Inode and path of the JACK server's socket, empty where none runs.

    Seen in Linux's table of sockets: without a client, without a word on stderr, and another one
    after a restart. On other systems JACK is left to the system's own MIDI service.
    """
    try:
        sockets = _UNIX_SOCKETS.read_bytes()
    except OSError:
        return b""
    name = re.escape(os.fsencode(os.environ.get("JACK_DEFAULT_SERVER") or "default"))
    listening = rb" 00010000 \S+ \S+ +(\d+ \S*/jack(?:_%s_|-\d+/%s/)\S*)" % (name, name)
    found = re.search(listening, sockets)
    return found[1] if found else b""


def _without_numbers(name: str) -> str:
    """An ALSA port's name without the client and port numbers behind it."""
    return re.sub(r" \d+:\d+$", "", name)


def _reason(e: Exception) -> str:
    return str(e).split(":")[-1].strip().rstrip(".") or type(e).__name__


def _rtmidi() -> Any:
    try:
        import rtmidi
    except ImportError as e:
        raise DeviceError(
            "python-rtmidi is not installed, so there are no MIDI ports; "
            "type: pip install python-rtmidi"
        ) from e
    return rtmidi
