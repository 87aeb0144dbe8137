"""Does it hold for half an hour? Real recordings, an OSC load and the TUI, on a real sound server.

    python -m benchmarks.soak [FOLDER] [--minutes 30] [--json OUT.json]

A JACK client plays the recordings of FOLDER round and round into `v3audio live --tui`, which draws
on a terminal of its own; a control surface moves everything that can be moved, ten messages a
second, and is sent meters at 30 Hz. Beside it runs the *control*: the same session, ring and
threads around an engine that copies its input. What the control loses at the same time, the machine
has lost; seconds in which only the player loses sound are its own.

Printed every minute: xruns of both and resident memory; at the end all figures and, a line each,
whether what is asked of half an hour held: no second with losses of ours alone, memory that grew
less than `MOST_GROWTH_MB` after the first minute (by then every timbre has been loaded), and a p99
of the step below half a block. The exit code is the number of lines that did not hold.
FOLDER as in live_latency.py.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jack_rig import JackServer, Live, Musician, Samples, free_port, read_mono_at
from realtime.osc_wire import decode, encode
from v3audio.engine import Readout
from v3audio.settings import Settings

OSC_HZ = 10.0
GAP_S = 0.7
MOST_GROWTH_MB = 5.0


def main() -> None:
    """Parse the options, run, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--minutes", default=30.0, type=float)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--control", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.control:
        run_control()
        return
    clips = json.loads((options.folder / "manifest.json").read_text())
    sounds = [read_mono_at(options.folder / c["file"], 48_000, GAP_S) for c in clips]
    with JackServer("v3soak") as server:
        figures = soak(server, np.concatenate(sounds), options.minutes)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    lines = verdict(figures)
    sys.stdout.writelines(f"{'held: ' if held else 'BROKE:'} {line}\n" for held, line in lines)
    sys.exit(sum(not held for held, _ in lines))


def verdict(figures: dict[str, Any]) -> list[tuple[bool, str]]:
    """Whether each of what is asked held, in words."""
    report, rss, step = figures["report"], figures["rss_mb"], figures["report"]["step_ms"]
    block_ms = 1000.0 * report["block"] / report["sample_rate"]
    warm_mb = rss[min(1, len(rss) - 1)]
    own, lossy = figures["seconds_with_loss_of_ours_alone"], figures["seconds_with_loss"]
    return [
        (figures["exit"] == 0, f"{figures['minutes']:g} minutes, exit code {figures['exit']}"),
        (own == 0, f"losses: {own} s of ours alone, {lossy} s in all; xruns {figures['xruns']}, of "
                   f"the control beside it {figures['control_xruns']}"),
        (rss[-1] - warm_mb < MOST_GROWTH_MB,
         f"memory: {rss[0]:.1f} MB at first, {warm_mb:.1f} after a minute, {rss[-1]:.1f} at the "
         f"end, {rss[-1] - warm_mb:+.1f} since the first minute"),
        (figures["step_p99_ms"] < 0.5 * block_ms,
         f"step: p50 {step['p50']:.2f} ms, p95 {step['p95']:.2f}, p99 {figures['step_p99_ms']:.2f} "
         f"({figures['step_p99_ms'] / block_ms:.0%} of a block), worst {step['max']:.2f}"),
    ]  # fmt: skip


def soak(server: JackServer, sound: Samples, minutes: float) -> dict[str, Any]:
    """Run both side by side for so long."""
    port = free_port()
    command = [
        *Live.command, "--tui", "--json", "--osc", f"127.0.0.1:{port}", "--midi", "virtual:v3soak",
    ]  # fmt: skip
    screen, terminal = pty.openpty()
    player = subprocess.Popen(
        command, env=server.environment | {"TERM": "xterm-256color"}, stdin=terminal,
        stdout=subprocess.PIPE, stderr=terminal, text=True,
    )  # fmt: skip
    os.close(terminal)
    last_drawn = bytearray()
    threading.Thread(target=_drain, args=(screen, last_drawn), daemon=True).start()
    with Musician(server) as musician, Surface(port) as surface:
        musician.connect(Live.client)
        musician.connect_midi("v3soak")
        control = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--control"], env=server.environment,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        control_counts: list[int] = []
        threading.Thread(target=_follow, args=(control, control_counts), daemon=True).start()
        track = Track(player.pid)
        until_s = time.monotonic() + 60 * minutes
        n_messages = 0
        while time.monotonic() < until_s:
            n = min(len(sound), max(1, round(48_000 * (until_s - time.monotonic()))))
            stop = threading.Event()
            watch = threading.Thread(
                target=track.follow, args=(stop, surface, control_counts), daemon=True
            )
            watch.start()
            _, messages = musician.play(sound[:n])
            n_messages += len(messages)
            stop.set()
            watch.join()
        lost = musician.n_lost
        player.send_signal(signal.SIGTERM)  # a job of a shell may have SIGINT ignored
        out, _ = player.communicate(timeout=30)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last_drawn.decode(errors="replace"))
    sys.stdout.write(drawn[-2500:] + "\n")
    control.send_signal(signal.SIGTERM)
    control.wait(10)
    report = json.loads(out.splitlines()[-1])
    own = [
        second
        for second, (mine, theirs) in enumerate(track.losses)
        if mine and not any(t for _, t in track.losses[max(0, second - 1) : second + 2])
    ]
    figures = {
        "minutes": minutes, "exit": player.returncode, "report": report,
        "xruns": sum(mine for mine, _ in track.losses),
        "control_xruns": sum(theirs for _, theirs in track.losses),
        "seconds_with_loss": sum(mine > 0 for mine, _ in track.losses),
        "seconds_with_loss_of_ours_alone": len(own),
        "step_p99_ms": float(re.findall(r"step +([\d.]+) ms \(99 %\)", drawn)[-1]),
        "rss_mb": [*track.rss_mb[::60], track.rss_mb[-1]], "midi_messages": n_messages,
        "osc_sent": surface.n_sent, "osc_received": surface.n_received, "musician_lost": lost,
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return figures


@dataclass
class Track:
    """Second by second: what was lost by both, and our memory."""

    pid: int
    losses: list[tuple[int, int]] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    _before: tuple[int, int] | None = None

    def follow(self, stop: threading.Event, surface: Surface, control: list[int]) -> None:
        """Note a line every second until told to stop."""
        while not stop.wait(1.0):
            now = surface.xruns, control[-1] if control else 0
            if self._before is not None:
                self.losses.append((now[0] - self._before[0], now[1] - self._before[1]))
            self._before = now
            self.rss_mb.append(rss_mb(self.pid))
            if len(self.rss_mb) % 60 == 0:
                sys.stdout.write(
                    f"{len(self.rss_mb) // 60:3d} min: xruns {now[0]} (control {now[1]}), "
                    f"RSS {self.rss_mb[-1]:.1f} MB\n"
                )
                sys.stdout.flush()


class Surface:
    """A control surface that is never still."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.5)
        self._to = "127.0.0.1", port
        self._stop = threading.Event()
        self.xruns = self.n_sent = self.n_received = 0
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._move, self._hear)]

    def __enter__(self) -> Surface:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _move(self) -> None:
        rng = random.Random(0)
        moves = _moves(rng)
        since = 0
        while not self._stop.wait(1 / OSC_HZ):
            if since % round(5 * OSC_HZ) == 0:  # the session may have started after us
                self._send("/v3/subscribe", "/v3/*", 0, 30.0, 30.0)
            since += 1
            self._send(*next(moves))

    def _send(self, address: str, *args: Any) -> None:
        self._socket.sendto(encode(address, args), self._to)
        self.n_sent += 1

    def _hear(self) -> None:
        while not self._stop.is_set():
            try:
                message = decode(self._socket.recv(65536))
            except OSError:
                continue
            self.n_received += 1
            if message.address == "/v3/xruns":
                self.xruns = int(message.args[0])


def _moves(rng: random.Random) -> Iterator[tuple[Any, ...]]:
    while True:
        yield rng.choice([
            ("/v3/mix", rng.uniform(0.5, 1)), ("/v3/gain/out", rng.uniform(-12, 0)),
            ("/v3/pitch/transpose", rng.randrange(-12, 13)), ("/v3/timbre/next", 1),
            ("/v3/morph/amount", rng.random()), ("/v3/morph/xy", rng.random(), rng.random()),
            ("/v3/pitch/snap", rng.random()), ("/v3/timbre/fade_ms", rng.uniform(0, 300)),
            ("/v3/n/gain/in", rng.uniform(0.6, 0.8)),
            ("/v3/midi/mode", rng.choice(["bend", "mpe"])),
        ])  # fmt: skip


class Wire:
    """An engine that gives back what it is given."""

    model_name, sample_rate, latency_samples, n_non_finite = "wire", 48_000, 0, 0
    settings = Settings()
    readout = Readout(-120.0, 0.0, 0.0, None, 0.0, -1, 0.0, -120.0)

    def __init__(self) -> None:
        from v3audio.timbres import find

        self.timbre = find("flute")
        self.n_samples = 0

    def process(self, block: Samples) -> tuple[Samples, list[Any]]:
        """A copy."""
        self.n_samples += len(block)
        return block.copy(), []

    def panic(self) -> list[Any]:
        """Nothing sounds."""
        return []

    flush = panic

    def reset(self) -> None:
        """As new."""
        self.n_samples = 0

    warm_up = reset


def run_control() -> None:
    """The same session around a `Wire`; prints its xruns every second."""
    from realtime.session import LiveOptions, Session

    options = LiveOptions(Live.sound, Live.sound, osc="off")
    with Session(options, engine=Wire()) as session:  # type: ignore[arg-type]

        def tell() -> None:
            while True:
                time.sleep(1.0)
                sys.stdout.write(f"{session.snapshot().xruns}\n")
                sys.stdout.flush()

        threading.Thread(target=tell, daemon=True).start()
        session.run()


def _follow(process: subprocess.Popen[str], counts: list[int]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        counts.append(int(line))


def _drain(terminal: int, last: bytearray) -> None:
    """Read what is drawn, so that it does not stop; the newest of it is kept."""
    try:
        while drawn := os.read(terminal, 65536):
            last += drawn
            del last[:-8192]
    except OSError:
        return


def rss_mb(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
