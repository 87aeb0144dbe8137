"""A sound server without a sound card, a musician who plays into it, and `v3audio live` on it.

`JackServer` runs `jackd -d dummy` under its own name; `Musician` is a JACK client that plays a
waveform into one port, and records sound and MIDI from others, all on the server's one frame clock:
frame differences between what it played and what it recorded are exact. `Live` is the instrument as
a process of its own. The tests of `realtime` use the first two as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from realtime.osc_wire import decode, encode

Samples = NDArray[np.float32]
T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str = "it", timeout_s: float = 30.0) -> T:
    """Ask again and again until a condition holds; what it then gave.

    Raises:
        TimeoutError: It does not come to hold.
    """
    tick, end_s = threading.Event(), time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} did not come within {timeout_s:g} s")
        tick.wait(0.002)
    return result


class MidiIn(NamedTuple):
    """A MIDI message as it reached the musician."""

    frame: int  # of the server's clock, relative to the start of the take
    data: bytes


class JackServer:
    """`jackd` with the dummy driver, under a name of its own, for the time of a `with` block.

    JACK has eight server slots on a machine, and a crashed server keeps its own until one of the
    same name was started and ended in order: leaving sees to that.

    Args:
        name: of the server; clients find it through JACK_DEFAULT_SERVER.
        sample_rate: Hz.
        period: samples.
        patient: its cycles wait for slow clients, where a real one would drop them.
    """

    def __init__(
        self,
        name: str = "v3audio",
        sample_rate: int = 48000,
        period: int = 128,
        patient: bool = False,
    ) -> None:
        self.name, self.sample_rate, self.period = name, sample_rate, period
        self._priority = ["--no-realtime", "-t", "5000"] if patient else ["-R", "-P", "70"]
        self._process: subprocess.Popen[bytes] | None = None
        self._has_crashed = False

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
        self._has_crashed = False
        # -S: else, whenever it is late, some of what its clients exchange is lost or comes twice
        self._process = subprocess.Popen(
            ["jackd", "-n", self.name, *self._priority, "-S", "-d", "dummy",
             "-r", str(self.sample_rate), "-p", str(self.period)],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        waited = subprocess.run(
            ["jack_wait", "-s", self.name, "-w", "-t", "30"],
            env=self.environment, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if waited.returncode != 0 or self._process.poll() is not None:
            self.end()
            raise RuntimeError(f"jackd -n {self.name} does not answer; is another one running?")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it: in order, or with SIGKILL as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process, self._has_crashed = None, how == signal.SIGKILL

    def __exit__(self, *exc: Any) -> None:
        if self._has_crashed:
            self.start()
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
        self._period = 0, 0.0  # the newest of a take: its first sample, and when it was called for
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
    def now_at(self) -> int:
        """The sample of the take that stands at this moment.

        From the period's first sample and the time since: the server's own estimate is
        milliseconds off for a while after each xrun.
        """
        at, called_s = self._period
        return at + round((time.perf_counter() - called_s) * self.server.sample_rate)

    def connect(self, client: str, timeout_s: float = 30.0) -> None:
        """Wait for a client's sound ports and connect them to this one's, and all MIDI to it.

        Args:
            client: the beginning of the JACK client's name.
            timeout_s: how long to wait for it.

        Raises:
            TimeoutError: it does not come.
        """

        def ports(**of_kind: bool) -> list[Any]:
            return wait_for(
                lambda: self._client.get_ports(f"^{client}.*", is_audio=True, **of_kind),
                f"a JACK client '{client}' with sound in and out", timeout_s,
            )  # fmt: skip

        takes, gives = ports(is_input=True), ports(is_output=True)
        for port in takes:  # only the musician plays into it
            for other in self._client.get_all_connections(port):
                self._client.disconnect(other, port)
        self._client.connect(self._out, takes[0])
        if not self._client.get_all_connections(self._in):
            self._client.connect(gives[0], self._in)

    def connect_midi(self, pattern: str, timeout_s: float = 30.0) -> None:
        """Wait for a MIDI output whose name matches and listen to it."""
        ports = wait_for(
            lambda: self._client.get_ports(pattern, is_midi=True, is_output=True),
            f"a MIDI output '{pattern}'", timeout_s,
        )  # fmt: skip
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
        self._period = at, time.perf_counter()
        frame = self._client.last_frame_time
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


class Live:
    """`v3audio live` as a process on a JACK server, and a socket that talks to it.

    Args:
        server: where it plays.
        more: further options of `live`.
        home: V3AUDIO_HOME.
    """

    client, midi_port, sound = "v3audio", "v3bench", "system"  # as JACK knows them
    command = (sys.executable, "-m", "v3audio", "live", "--input", sound, "--output", sound)

    def __init__(self, server: JackServer, *more: str, home: Path | None = None) -> None:
        self.port, self._rate = free_port(), server.sample_rate
        command = [
            *self.command, "--osc", f"127.0.0.1:{self.port}",
            "--midi", f"virtual:{self.midi_port}", "--json", *more,
        ]  # fmt: skip
        environment = server.environment | ({"V3AUDIO_HOME": str(home)} if home else {})
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.3)
        self._n_asked = 0

    def send(self, address: str, *args: object) -> None:
        """An OSC message."""
        self._socket.sendto(encode(address, args), ("127.0.0.1", self.port))

    def get(self, address: str = "") -> tuple[Any, ...]:
        """What an address holds, all sent before being obeyed; () without one.

        Raises:
            TimeoutError: no answer comes.
            RuntimeError: the session has ended.
        """

        def answer() -> list[tuple[Any, ...]]:
            self._n_asked += 1  # the question's own number: an answer to an older one is none
            found: list[tuple[Any, ...]] = [()]
            if address:
                self.send("/v3/get", address)
            self.send("/ping", self._n_asked)
            try:
                while (message := decode(self._socket.recv(65536))).args[:1] != (self._n_asked,):
                    found += [message.args] if message.address == address else []
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the session has ended: {self.end(None)}") from None
                return []
            return found[bool(address) :]

        return wait_for(answer, "an answer of the session")[-1]

    def stated_samples(self) -> tuple[int, int, int]:
        """The latency as stated at this moment: algorithm, buffer, device."""
        total, algorithm, device = (ms * self._rate / 1000.0 for ms in self.get("/v3/latency"))
        return round(algorithm), round(total - algorithm - device), round(device)

    def end(self, how: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, stdout and stderr after a signal, or after the one it has had."""
        if how is not None and self.process.poll() is None:
            self.process.send_signal(how)
        out, errors = self.process.communicate(timeout=30)
        return self.process.returncode, out, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.communicate()


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


def free_port() -> int:
    """A UDP port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
