"""A desk with timbres, an OSC server on a free port, clients that speak over real sockets, JACK."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.jack_rig import JackServer, use_server, wait_for
from realtime.controls import Desk
from realtime.osc import OscServer
from realtime.osc_wire import Message, decode, encode
from realtime.stats import Latency
from v3audio.timbres import Timbre

_NUMBERS = itertools.count()
PATIENCE_S = 30.0  # until a message counts as not sent; none that comes is waited for that long


def timbre(name: str, value: float) -> Timbre:
    return Timbre(
        name=name, note_range=(48, 84), model="m", model_sha256="0", source=f"a {name}",
        style=np.full(16, value, np.float32),
    )  # fmt: skip


TIMBRES = {name: timbre(name, k) for k, name in enumerate(["cello", "flute", "oboe", "trumpet"])}


class FakeReadout(NamedTuple):
    level_db: float = -20.0
    pitch_hz: float = 440.0
    confidence: float = 0.75
    note: int | None = 69
    cents: float = 0.0
    code: int = 21
    code_distance: float = 0.5
    output_db: float = -18.0


@dataclass
class FakeSnapshot:
    latency: Latency = field(default_factory=lambda: Latency(294, 256, 480, 48000))
    xruns: int = 3
    cpu: float = 0.25


class FakeActions:
    """What a session would do, written down."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.error: Exception | None = None

    def _note(self, *what: str) -> None:
        self.done.append(what)
        if self.error:
            raise self.error

    def panic(self) -> None:
        self._note("panic")

    def export_take(self, name: str) -> None:
        self._note("export", name)

    def capture_start(self, name: str) -> None:
        self._note("start", name)

    def capture_stop(self) -> None:
        self._note("stop")

    def snapshot(self) -> Any:
        return FakeSnapshot()

    def readout(self) -> Any:
        return FakeReadout()


class Client:
    """One UDP socket that talks to the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.server = ("127.0.0.1", port)

    def send(self, address: str, *args: Any) -> None:
        self.raw(encode(address, args))

    def raw(self, data: bytes) -> None:
        self.socket.sendto(data, self.server)

    def get(self, wanted: str | None = None) -> Message:
        """The next message, or the next one at that address."""
        self.socket.settimeout(PATIENCE_S)
        while True:
            message = decode(self.socket.recv(65535))
            if wanted in (None, message.address):
                return message

    def until_pong(self) -> list[Message]:
        """All that came until everything sent so far was obeyed and answered."""
        self.send("/ping", "until")
        found = []
        while (message := self.get()).address != "/pong":
            found.append(message)
        return found

    def ask(self, address: str, *args: Any) -> list[Message]:
        """Send, and what that was answered with, notifications aside."""
        self.send(address, *args)
        return self.until_pong()

    def value(self, address: str) -> tuple[Any, ...]:
        self.send("/v3/get", address)
        return self.get(address).args


@pytest.fixture
def desk() -> Desk:
    return Desk(TIMBRES["flute"], TIMBRES)


@pytest.fixture
def actions() -> FakeActions:
    return FakeActions()


@pytest.fixture
def server(desk: Desk, actions: FakeActions) -> Iterator[OscServer]:
    with OscServer("127.0.0.1", 0, desk, actions) as server:
        yield server


@pytest.fixture
def connect(server: OscServer) -> Iterator[Callable[[], Client]]:
    with contextlib.ExitStack() as sockets:

        def connect() -> Client:
            client = Client(server.port)
            sockets.enter_context(client.socket)
            return client

        yield connect


@pytest.fixture
def client(connect: Callable[[], Client]) -> Client:
    return connect()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until something holds."""
    return wait_for


@pytest.fixture
def jack_server() -> Iterator[JackServer]:
    """A sound server of the test's own, which this process and its children find.

    Its name is used once: what the library kept of a server that died stays with the name.
    """
    pytest.importorskip("jack")
    if shutil.which("jackd") is None:
        pytest.skip("JACK is missing: apt install jackd2")
    name = f"v3audio-{os.getpid()}-{next(_NUMBERS)}"
    with JackServer(name, period=512, patient=True) as server, use_server(server):
        yield server
