"""A sound server without a sound card, and a musician who plays recordings into it.

`JackServer` runs `jackd -d dummy` under its own name; `Musician` is a JACK client that plays a
waveform into one port, and records sound and MIDI from others, all on the server's one frame clock:
frame differences between what it played and what it recorded are exact.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class MidiIn(NamedTuple):
    """A MIDI message as it reached the musician."""

    frame: int  # of the server's clock, relative to the start of the take
    data: bytes


class JackServer:
    """`jackd` with the dummy driver, under a name of its own, for the time of a `with` block.

    Args:
        name: of the server; clients find it through JACK_DEFAULT_SERVER.
        sample_rate: Hz.
        period: samples.
    """

    def __init__(self, name: str = "v3audio", sample_rate: int = 48000, period: int = 128) -> None:
        self.name, self.sample_rate, self.period = name, sample_rate, period
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall use this server."""
        return {
            **os.environ,
            "JACK_DEFAULT_SERVER": self.name,
            "JACK_NO_START_SERVER": "1",
            "JACK_NO_AUDIO_RESERVATION": "1",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not come up.
        """
        self._process = subprocess.Popen(
            ["jackd", "-n", self.name, "-R", "-P", "70", "-S", "-d", "dummy",
             "-r", str(self.sample_rate), "-p", str(self.period)],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        waited = subprocess.run(
            ["jack_wait", "-s", self.name, "-w", "-t", "10"],
            env=self.environment, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if waited.returncode != 0 or self._process.poll() is not None:
            self.end()
            raise RuntimeError(f"jackd -n {self.name} does not answer; is another one running?")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it: in order, or with SIGKILL as a crash would.

        JACK has eight server slots on a machine, and a crashed server keeps its own until one of
        the same name was started and ended in order.
        """
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def __exit__(self, *exc: Any) -> None:
        self.end()


@contextlib.contextmanager
def use_server(server: JackServer) -> Iterator[None]:
    """Let this process's own JACK clients find the server."""
    before = dict(os.environ)
    os.environ.update(server.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Musician:
    """Plays waveforms to one client and hears what it answers, sample by sample.

    Args:
        server: where to play.
        name: of this JACK client.
    """

    def __init__(self, server: JackServer, name: str = "musician") -> None:
        import jack

        with use_server(server):
            self._client = jack.Client(name, no_start_server=True, servername=server.name)
        self.server = server
        self._out = self._client.outports.register("out")
        self._in = self._client.inports.register("in")
        self._midi = self._client.midi_inports.register("midi")
        self._play: Samples = np.zeros(0, np.float32)
        self._heard: Samples = np.zeros(0, np.float32)
        self._at: int | None = None  # None: not in a take
        self._next_frame: int | None = None
        self._messages: list[MidiIn] = []
        self._done = threading.Event()
        self.start_frame = 0  # of the server's clock, when sample 0 of the newest take was played
        self.received: list[bytes] = []  # all MIDI ever, in takes and between them
        self.n_lost = 0  # frames that the server did not hand to this client in a take
        self._client.set_process_callback(self._process)

    def __enter__(self) -> Self:
        self._client.activate()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._client.deactivate()
        self._client.close()

    @property
    def frame_time(self) -> int:
        """The server's frame clock now, as an estimate between two periods."""
        return int(self._client.frame_time)

    def connect(self, client: str, timeout_s: float = 30.0) -> None:
        """Wait for a client's sound ports and connect them to this one's, and all MIDI to it.

        Args:
            client: the beginning of the JACK client's name.
            timeout_s: how long to wait for it.

        Raises:
            TimeoutError: it does not come.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            takes = self._client.get_ports(f"^{client}.*", is_audio=True, is_input=True)
            gives = self._client.get_ports(f"^{client}.*", is_audio=True, is_output=True)
            if takes and gives:
                break
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no JACK client '{client}' with sound in and out")
            time.sleep(0.01)
        for port in takes:  # only the musician plays into it
            for other in self._client.get_all_connections(port):
                self._client.disconnect(other, port)
        self._client.connect(self._out, takes[0])
        if not self._client.get_all_connections(self._in):
            self._client.connect(gives[0], self._in)

    def connect_midi(self, pattern: str, timeout_s: float = 30.0) -> None:
        """Wait for a MIDI output whose name matches and listen to it."""
        deadline_s = time.monotonic() + timeout_s
        while not (ports := self._client.get_ports(pattern, is_midi=True, is_output=True)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no MIDI output '{pattern}'")
            time.sleep(0.01)
        self._client.connect(ports[0], self._midi)

    def play(self, waveform: Samples) -> tuple[Samples, list[MidiIn]]:
        """Play (n,) samples and return the (n,) heard meanwhile, and the MIDI received.

        Index t of what was heard was heard in the very period that sample t was played in.
        """
        self._play = np.ascontiguousarray(waveform, np.float32)
        self._heard = np.zeros(len(waveform), np.float32)
        self._messages = []
        self._next_frame = None
        self._done.clear()
        self._at = 0  # last: from now on the callback plays
        if not self._done.wait(len(waveform) / self.server.sample_rate + 30.0):
            raise TimeoutError("the JACK server has stopped calling")
        return self._heard, self._messages

    def _process(self, n: int) -> None:
        out, at = self._out.get_array(), self._at
        arrived = [(offset, bytes(data)) for offset, data in self._midi.incoming_midi_events()]
        self.received += [data for _, data in arrived]
        if at is None:
            out[:] = 0
            return
        frame = self._client.last_frame_time
        if at == 0:
            self.start_frame = frame
        if self._next_frame is not None and frame != self._next_frame:
            self.n_lost += frame - self._next_frame
        self._next_frame = frame + n
        part = self._play[at : at + n]
        out[: len(part)] = part
        out[len(part) :] = 0
        self._heard[at : at + len(part)] = self._in.get_array()[: len(part)]
        self._messages += [MidiIn(at + offset, data) for offset, data in arrived]
        at += len(part)
        self._at = at if at < len(self._play) else None
        if self._at is None:
            self._done.set()


def delay_samples(musician: Musician) -> int:
    """From a click played to the click heard, through a session that plays its input dry.

    Raises:
        RuntimeError: none comes back.
    """
    rate = musician.server.sample_rate
    click = np.zeros(rate, np.float32)
    click[rate // 4] = 0.5
    for _ in range(10):  # it is connected before it plays
        heard, _ = musician.play(click)
        if heard.any():
            return int(np.abs(heard).argmax()) - rate // 4
    raise RuntimeError("no click comes back")


def read_mono_at(path: Path, sample_rate: int, rest_s: float = 0.0) -> Samples:
    """A recording's mean channel at a rate, and some silence after it: (n,)."""
    x, own = soundfile.read(path, dtype="float32", always_2d=True)
    mono = x.mean(1)
    mono = soxr.resample(mono, own, sample_rate) if own != sample_rate else mono
    rest = np.zeros(round(rest_s * sample_rate), np.float32)
    return np.concatenate([mono.astype(np.float32), rest])
