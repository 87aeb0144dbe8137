"""A session on a real sound server: `jackd` with its dummy driver, played by another client."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from realtime.options import LiveOptions
from realtime.session import Session
from v3audio.engine import Engine, HearingPart
from v3audio.notes import FrameNotes, NoteEvent
from v3audio.renderer import Renderer, RendererConfig
from v3audio.renderer_net import RendererNet, frozen
from v3audio.timbres import Timbre

jack = pytest.importorskip("jack")

pytestmark = pytest.mark.skipif(shutil.which("jackd") is None, reason="needs jackd")

RATE, PERIOD = 48000, 512
TIMBRE = Timbre(
    name="test", note_range=(40, 80), model="none", model_sha256="0", style=np.zeros(16, np.float32)
)
WAIT_S = 20.0


class LoudIsA4:
    """Hears A4 wherever there is sound."""

    def frame(self, window: np.ndarray) -> FrameNotes:
        level = float(10 * np.log10(np.square(window[-320:]).mean() + 1e-12))
        sure = float(level > -60)
        return FrameNotes(level, 0.0, sure, 69.0, sure)


class NoteEachSecond:
    """Hears A4 for 0.8 s of every second, whatever is played."""

    def __init__(self) -> None:
        self.n = 0

    def frame(self, window: np.ndarray) -> FrameNotes:
        self.n += 1
        sure = float(self.n % 200 < 160)
        return FrameNotes(-20.0 if sure else -90.0, 0.0, sure, 69.0, sure)


def engine(hearing: HearingPart | None = None) -> Engine:
    torch.manual_seed(0)
    net = RendererNet(RendererConfig(hidden=16)).eval()
    renderer = Renderer(frozen(net), RATE)
    return Engine(TIMBRE, RATE, hearing=hearing or LoudIsA4(), renderer=renderer)


class Server:
    """`jackd` under its own name, whose cycles wait for slow clients instead of dropping them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["jackd", "-n", self.name, "--no-realtime", "-S", "-t", "5000",
             "-d", "dummy", "-r", str(RATE), "-p", str(PERIOD)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        subprocess.run(["jack_wait", "-s", self.name, "-w", "-t", "10"], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    def end(self, kill: bool = False) -> None:
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(10)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(f"v3audio-{os.getpid()}")
    monkeypatch.setenv("JACK_DEFAULT_SERVER", server.name)
    monkeypatch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
    monkeypatch.setenv("JACK_NO_START_SERVER", "1")
    server.start()
    yield server
    server.end()  # in order, for that gives its slot in shared memory back


class Musician:
    """A client that plays a waveform once `go` is set, and records all that it hears."""

    def __init__(self, waveform: np.ndarray) -> None:
        self.heard: list[np.ndarray] = []
        self.began = 0  # frames heard before the first one played
        self.go = threading.Event()
        self.done = threading.Event()
        self._waveform, self._at = waveform, 0
        self.client = jack.Client("musician", no_start_server=True)
        self._out = self.client.outports.register("out")
        self._in = self.client.inports.register("in")
        self.client.set_process_callback(self._process)

    def _process(self, n: int) -> None:
        out = self._out.get_array()
        self.heard.append(self._in.get_array().copy())
        if not self._at:
            self.began = n * (len(self.heard) - 1)
        x = self._waveform[self._at : self._at + n] if self.go.is_set() else self._waveform[:0]
        out[: len(x)], out[len(x) :] = x, 0
        self._at += n if self.go.is_set() else 0
        if self._at > len(self._waveform) + RATE // 4:
            self.done.set()


@contextlib.contextmanager
def beside(work: Callable[[Session], None], session: Session) -> Iterator[None]:
    """Do `work` on another thread while the session runs; it ends the session."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work(session)
        except BaseException as e:
            errors.append(e)
        finally:
            session.stop()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def until(true: Callable[[], bool], what: str) -> None:
    tick = threading.Event()
    for _ in range(round(WAIT_S / 0.01)):
        if true():
            return
        tick.wait(0.01)
    raise AssertionError(f"not within {WAIT_S} s: {what}")


def take() -> np.ndarray:
    rng = np.random.default_rng(1)
    t = np.arange(RATE // 4) / RATE
    notes = [0.3 * np.sin(2 * np.pi * f * t) * np.hanning(len(t)) for f in (440, 330, 550)]
    return (np.concatenate(notes) + 1e-4 * rng.standard_normal(3 * len(t))).astype(np.float32)


@pytest.mark.timeout(120)
def test_the_sound_is_the_engines_sample_for_sample_at_one_constant_delay(server: Server) -> None:
    x = take()
    musician = Musician(x)
    options = LiveOptions("musician", "musician", osc="off", block=4 * PERIOD)
    taken: list[np.ndarray] = []
    with musician.client, Session(options, engine=engine()) as session:
        session.player.on_sound.append(lambda block, _out, _events, _at: taken.append(block.copy()))
        assert session.report().device == "musician"
        prefill = session.report().latency.buffer_samples
        assert prefill == 4 * PERIOD

        def play(session: Session) -> None:
            until(lambda: session.stats.n_samples > 0, "sound")
            musician.go.set()
            assert musician.done.wait(WAIT_S)

        with beside(play, session):
            session.run()
    inputs, heard = np.concatenate(taken), np.concatenate(musician.heard)
    at = int(np.flatnonzero(inputs)[0])
    np.testing.assert_array_equal(inputs[at : at + len(x)], x)  # taken whole
    wet, _ = engine().process(inputs)
    first = int(np.flatnonzero(wet)[0])
    there = int(np.flatnonzero(heard)[0])
    n = len(x) - (first - at)
    np.testing.assert_array_equal(heard[there : there + n], wet[first : first + n])
    # a loop through two clients takes the server one period
    assert there - musician.began - (first - at) in (prefill, prefill + PERIOD)
    assert session.stats.underruns == session.stats.overruns == 0


@pytest.mark.timeout(120)
def test_a_server_that_dies_lets_the_notes_go_and_playing_goes_on_when_it_is_back(
    server: Server,
) -> None:
    events: list[NoteEvent] = []
    options = LiveOptions("system", "system", osc="off", block=PERIOD)

    def outlive(session: Session) -> None:
        for n_lost in (1, 2):
            until(lambda: bool(events) and events[-1].kind != "off", "a note")
            server.end(kill=True)
            until(lambda: session.snapshot().state == "device lost", "the loss")
            until(lambda: events[-1].kind == "off", "the note's end")
            assert session.stats.n_device_lost == n_lost
            server.start()
            until(lambda: session.snapshot().state == "playing", "the return")
            n_before = session.stats.n_samples
            until(lambda: session.stats.n_samples > n_before + RATE // 2, "sound")  # noqa: B023

    with Session(options, engine=engine(NoteEachSecond())) as session:
        session.player.on_events.append(lambda new, _at: events.extend(new))
        with beside(outlive, session):
            session.run()
    kinds = [e.kind for e in events if e.kind != "pitch"]
    assert kinds == ["on", "off"] * (len(kinds) // 2)


@pytest.mark.timeout(120)
def test_a_session_ends_in_order_while_its_server_is_dead(server: Server) -> None:
    options = LiveOptions("system", "system", osc="off", block=PERIOD)

    def kill(session: Session) -> None:
        until(lambda: session.stats.n_samples > 0, "sound")
        server.end(kill=True)

    with Session(options, engine=engine()) as session, beside(kill, session):
        session.run()
    assert session.snapshot().state == "stopped"
    server.start()  # its slot in shared memory is given back by an orderly end
