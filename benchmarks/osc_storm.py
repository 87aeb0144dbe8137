"""OSC storms against a running `v3audio live`: what it answers, how soon, and what it weighs after.

    v3audio live --timbre flute --osc 127.0.0.1:9720 &
    python benchmarks/osc_storm.py --osc 127.0.0.1:9720 --pid $!

Without a target it starts a server of its own beside an engine of straw (1 ms of numpy every 5 ms)
and also says how late that engine was, with and without the storm: `--alone`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import random
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from realtime.controls import BY_ALIAS, CONTROLS, Desk
from realtime.osc import OscServer
from realtime.osc_wire import BUNDLE, decode, encode, parse_endpoint

Job = tuple[Callable[..., None], tuple[Any, ...]]
FADERS = ("/v3/mix", "/v3/gate", "/v3/n/gain/in", "/v3/pitch/fine", "/v3/morph/amount")


class Client:
    """A socket towards the server; `ping` tells how long an answer takes."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.server = server

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        with contextlib.suppress(OSError):
            self.socket.sendto(data, self.server)

    def send(self, address: str, *args: Any) -> None:
        """Send a message."""
        self.raw(encode(address, args))

    def ping(self, tag: int, timeout_s: float = 2.0) -> float:
        """Milliseconds until the answer; infinity where none comes."""
        start_s = time.perf_counter()
        self.send("/ping", tag)
        self.socket.settimeout(timeout_s)
        try:
            while True:
                message = decode(self.socket.recv(65535))
                if message.address == "/pong" and message.args[0] == tag:
                    return 1000.0 * (time.perf_counter() - start_s)
        except TimeoutError:
            return math.inf

    def value(self, address: str) -> tuple[Any, ...] | None:
        """What an address holds, None where no answer comes."""
        self.send("/v3/get", address)
        self.socket.settimeout(2.0)
        with contextlib.suppress(TimeoutError):
            while (message := decode(self.socket.recv(65535))).address != address:
                pass
            return message.args
        return None


def paced(rate: float, duration_s: float) -> Iterator[int]:
    """Count so many times a second, catching up where the system was late."""
    start_s = time.perf_counter()
    n = int(rate * duration_s)
    for k in range(n):
        wait_s = start_s + k / rate - time.perf_counter()
        if wait_s > 0.0005:
            time.sleep(wait_s)
        yield k


def bundle(*parts: bytes, tag: int = 1) -> bytes:
    """An OSC bundle."""
    sized = (struct.pack(">i", len(part)) + part for part in parts)
    return BUNDLE + struct.pack(">Q", tag) + b"".join(sized)


def mutants(rng: random.Random) -> Iterator[bytes]:
    """Datagrams without end: random ones, and the table's own with bytes changed."""
    addresses = [c.address for c in CONTROLS if "<" not in c.address] + list(BY_ALIAS)
    values = [0, 1, -1, 0.5, 2**31 - 1, math.nan, math.inf, "", "flute", "../x", "a" * 300, "/v3/*"]
    nasty = [encode("/v3/timbre", ("x" * 60_000,)), b"#bundle\0" + b"\xff" * 64, b"/" * 500,
             encode("/v3/" + "*a" * 60, (1,))]  # fmt: skip
    deep = encode("/v3/mix", (0.5,))
    for _ in range(100):
        deep = bundle(deep)
    nasty += [
        deep,
        bundle(encode("/v3/gate", (-40,)), tag=2_208_988_800 << 32),
        bundle(tag=2**64 - 1),
    ]
    while True:
        kind = rng.randrange(8)
        if kind == 0:
            yield rng.choice(nasty)
        elif kind == 1:
            yield rng.randbytes(rng.randrange(64))
        else:
            args = [rng.choice(values) for _ in range(rng.randrange(4))]
            data = bytearray(encode(rng.choice(addresses), args))
            for _ in range(rng.randrange(3)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            yield bytes(data)


def fuzz(server: tuple[str, int], n: int, rate: float) -> None:
    """`n` random and mutated datagrams through the socket."""
    client, packets = Client(server), mutants(random.Random(11))
    for _ in paced(rate, n / rate):
        client.raw(next(packets))


def flood(server: tuple[str, int], rate: float, duration_s: float) -> None:
    """Faders moved `rate` times a second, with junk in between."""
    client, rng = Client(server), random.Random(5)
    for k in paced(rate, duration_s):
        if k % 25 == 0:
            client.raw(rng.randbytes(24))
        client.send(FADERS[k % len(FADERS)], rng.random() - (40 if k % len(FADERS) == 1 else 0))


def presets(server: tuple[str, int], rate: float, duration_s: float) -> None:
    """Another timbre `rate` times a second: names, blends, places, morphs."""
    client = Client(server)
    for k in paced(rate, duration_s):
        match k % 4:
            case 0:
                client.send("/v3/timbre/next", 1)
            case 1:
                client.send("/v3/timbre", "flute:0.5,oboe:0.5")
            case 2:
                client.send("/v3/morph/xy", (k % 100) / 100, 0.5)
            case 3:
                client.send("/v3/timbre", "oboe")


def subscribers(server: tuple[str, int], n: int, duration_s: float) -> None:
    """`n` clients at 30 Hz that read what they are sent; prints how much came."""
    clients = [Client(server) for _ in range(n)]
    for client in clients:
        client.send("/v3/subscribe", "/v3/*", 0, 30, duration_s + 5)
        client.socket.setblocking(False)
    end_s, counts = time.perf_counter() + duration_s, [0] * n
    while time.perf_counter() < end_s:
        time.sleep(0.02)
        for k, client in enumerate(clients):
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.socket.recv(2048)
                    counts[k] += 1
    for client in clients:
        client.send("/v3/unsubscribe")
    say(f"    subscribers: {n} got {min(counts)} to {max(counts)} messages each")


def say(text: str) -> None:
    """One line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def memory_mb(pid: int | None) -> str:
    """Resident memory of a process, where the system tells it."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            kb = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return "unknown"
    return f"{kb / 1024:.1f} MB"


def storm(
    name: str,
    server: tuple[str, int],
    pid: int | None,
    jobs: list[Job],
) -> bool:
    """Run jobs in processes of their own, ping meanwhile; whether the server answered after it."""
    before = memory_mb(pid)
    workers = [multiprocessing.Process(target=job, args=(server, *args)) for job, args in jobs]
    for worker in workers:
        worker.start()
    client, times_ms, k = Client(server), [], 0
    while any(worker.is_alive() for worker in workers):
        k += 1
        times_ms.append(client.ping(k, 1.0))
        time.sleep(0.05)
    for worker in workers:
        worker.join()
    time.sleep(0.2)
    after_ms = client.ping(-1)
    client.send("/v3/mix", 0.625)
    stands = client.value("/v3/mix")
    answered = sorted(t for t in times_ms if math.isfinite(t))
    lost = len(times_ms) - len(answered)
    p95 = answered[int(0.95 * (len(answered) - 1))] if answered else math.inf
    say(
        f"{name}: {len(times_ms)} pings, {lost} unanswered, "
        f"median {statistics.median(answered) if answered else math.inf:.2f} ms, p95 {p95:.2f} ms; "
        f"after it {after_ms:.2f} ms, set and read back {stands == (0.625,)}; "
        f"memory {before} -> {memory_mb(pid)}"
    )
    return math.isfinite(after_ms) and stands == (0.625,)


def run_all(server: tuple[str, int], pid: int | None, n_fuzz: int, duration_s: float) -> bool:
    """Every storm in turn."""
    storms: list[tuple[str, list[Job]]] = [
        ("calm", [(flood, (50.0, 3.0))]),
        (f"fuzz, {n_fuzz} datagrams", [(fuzz, (n_fuzz, 4000.0))]),
        ("flood, 5000/s", [(flood, (5000.0, duration_s))]),
        ("50 subscribers", [(subscribers, (50, duration_s)), (flood, (100.0, duration_s))]),
        ("presets, 100/s", [(presets, (100.0, duration_s))]),
        ("all at once", [(flood, (5000.0, duration_s)), (subscribers, (50, duration_s)),
                         (presets, (100.0, duration_s))]),
    ]  # fmt: skip
    return all([storm(name, server, pid, jobs) for name, jobs in storms])


class StrawEngine:
    """A thread that needs Python for 1 ms of every 5, and notes how late it was done."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> StrawEngine:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> str:
        """What was noted since the last time, in words."""
        late, self.late_ms = sorted(self.late_ms), []
        at = (late[int(q * (len(late) - 1))] for q in (0.5, 0.99, 0.999, 1.0))
        return "done after {:.2f} ms median, {:.2f} p99, {:.2f} p99.9, {:.2f} at most".format(*at)

    def _run(self) -> None:
        import numpy as np

        a = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        due_s = time.perf_counter()
        while not self._stop.is_set():
            due_s = max(due_s + 0.005, time.perf_counter())  # lateness is not passed on
            time.sleep(max(0.0, due_s - time.perf_counter()))
            work_end_s = time.thread_time() + 0.001
            while time.thread_time() < work_end_s:  # of its own time, whoever else runs
                a = np.tanh(a @ a * 0.1)
            self.late_ms.append(1000.0 * (time.perf_counter() - due_s))


def alone(n_fuzz: int, duration_s: float) -> bool:
    """The storms against a server of our own, beside an engine of straw."""
    from realtime.stats import Latency
    from v3audio import timbres
    from v3audio.engine import Readout

    readout = Readout(-20.0, 440.0, 0.9, 69, 0.0, 3, 0.1, -20.0)
    seen = SimpleNamespace(latency=Latency(294, 256, 480, 48000), xruns=0, cpu=0.2)
    actions = SimpleNamespace(
        panic=lambda: None, export_take=lambda name: None, capture_start=lambda name: None,
        capture_stop=lambda: None, snapshot=lambda: seen, readout=lambda: readout,
    )  # fmt: skip
    sys.setswitchinterval(0.0005)
    known = {e.name: timbres.load(e.path) for e in timbres.list_timbres() if e.info}
    desk, is_well = Desk(known["flute"], known), True
    jobs: dict[str, Job] = {
        "flood, 5000/s": (flood, (5000.0, duration_s)),
        "presets, 100/s": (presets, (100.0, duration_s)),
        "50 subscribers": (subscribers, (50, duration_s)),
        f"fuzz, {n_fuzz} datagrams": (fuzz, (n_fuzz, 4000.0)),
    }
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        OscServer("127.0.0.1", 0, desk, actions) as server,
        StrawEngine() as engine,
    ):
        sink.bind(("127.0.0.1", 0))  # reads nothing: what the senders alone cost the machine
        for name, job in jobs.items():
            engine.late_ms = []
            worker = multiprocessing.Process(target=job[0], args=(sink.getsockname(), *job[1]))
            worker.start()
            worker.join()
            say(f"    engine of straw, the storm aimed elsewhere: {engine.take()}")
            before_s = time.process_time()
            is_well &= storm(name, ("127.0.0.1", server.port), os.getpid(), [job])
            spent_s = time.process_time() - before_s - 0.001 * len(engine.late_ms)
            say(f"    engine of straw, the storm here: {engine.take()}; OSC took {spent_s:.2f} s")
        say(f"received {server.n_received}, errors {server.n_errors}, skipped {server.n_skipped}")
    with OscServer("127.0.0.1", 0, desk, actions) as server:
        delays = sorted(change_delays(desk, ("127.0.0.1", server.port)))
    say(f"a change is in desk.now after {statistics.median(delays):.3f} ms median, "
        f"{delays[int(0.99 * len(delays))]:.3f} p99")  # fmt: skip
    return is_well


def change_delays(desk: Desk, server: tuple[str, int], n: int = 500) -> list[float]:
    """Milliseconds from the sending of a datagram to the change in `desk.now`."""
    heard, arrived_s = threading.Event(), 0.0

    def listen(address: str, _values: Any) -> None:
        nonlocal arrived_s
        if address == "/v3/mix":
            arrived_s = time.perf_counter()
            heard.set()

    desk.listeners.append(listen)
    client, delays = Client(server), []
    for k in range(n):
        heard.clear()
        sent_s = time.perf_counter()
        client.send("/v3/mix", k / n)
        if heard.wait(2):
            delays.append(1000.0 * (arrived_s - sent_s))
        time.sleep(0.002)
    return delays


def main() -> int:
    """Parse what was typed and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--osc", default="127.0.0.1:9720", help="HOST:PORT of a running session")
    parser.add_argument("--pid", type=int, help="its process, to read its memory")
    parser.add_argument("--alone", action="store_true", help="a server of our own")
    parser.add_argument("--datagrams", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each storm")
    args = parser.parse_args()
    if args.alone:
        return 0 if alone(args.datagrams, args.seconds) else 1
    server = parse_endpoint(args.osc, 9720, "--osc")
    return 0 if run_all(server, args.pid, args.datagrams, args.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
