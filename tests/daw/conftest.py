"""A UDP peer that stands for v3audio, and real programs that are run against it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.osc_wire import decode, encode
from v3audio.paths import presets_dir

WAIT_S = 60.0  # far more than any of it takes, for a busy machine


class Peer:
    """Hears what a program sends, and answers to where it came from."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(WAIT_S)
        self.port: int = self.socket.getsockname()[1]
        self.program: Any = None

    def hear(self) -> tuple[str, tuple[Any, ...]]:
        """The next message; TimeoutError when none comes."""
        data, self.program = self.socket.recvfrom(4096)
        message = decode(data)
        return message.address, message.args

    def hear_until(self, address: str) -> list[tuple[str, tuple[Any, ...]]]:
        """All messages up to the first to `address`, that one included."""
        heard = [self.hear()]
        while heard[-1][0] != address:
            heard.append(self.hear())
        return heard

    def say(self, address: str, *args: Any) -> None:
        self.socket.sendto(encode(address, args), self.program)


class Program:
    """A running program and what it has printed, on either stream."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
        self.printed = ""

    def wait_for(self, text: str) -> None:
        """Read until it has printed `text`; fails with all that it printed instead."""
        assert self.process.stdout is not None
        end_s = time.monotonic() + WAIT_S
        while text not in self.printed:
            left_s = end_s - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, left_s))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"never printed {text!r}, but:\n{self.printed}"
            self.printed += data.decode(errors="replace")

    def stop(self) -> str:
        """End it and what it started (sclang's browser holds on to its output); what it printed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.printed += self.process.communicate()[0].decode(errors="replace")
        return self.printed


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.socket.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    """Start programs by name, which the test is skipped without; they end with the test."""
    started: list[Program] = []

    def start(name: str, *args: str, **environment: str) -> Program:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        started.append(Program(name, *args, **environment))
        return started[-1]

    yield start
    for program in started:
        program.stop()


@pytest.fixture
def kit() -> Path:
    return presets_dir() / "daw"
