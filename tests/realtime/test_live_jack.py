"""A session on a real sound server: `jackd` with its dummy driver, played by another client."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.jack_rig import JackServer, Musician, wait_for
from realtime.options import LiveOptions
from realtime.session import Session
from realtime.worker import EngineWorker
from v3audio.engine import Engine, HearingPart
from v3audio.notes import FrameNotes, NoteEvent
from v3audio.renderer import Renderer, RendererConfig
from v3audio.renderer_net import RendererNet, frozen
from v3audio.timbres import Timbre

RATE = 48000
TIMBRE = Timbre(
    name="test", note_range=(40, 80), model="none", model_sha256="0", style=np.zeros(16, np.float32)
)


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


class Waiting(Musician):
    """Plays on only when the engine has done what it was given, however slow the machine is."""

    worker: EngineWorker | None = None

    def _process(self, n: int) -> None:
        wait_for(self.has_caught_up, "the engine")
        super()._process(n)

    def has_caught_up(self) -> bool:
        worker = self.worker
        return worker is None or not worker._path.running or worker._position >= worker._path.now


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


def take() -> np.ndarray:
    rng = np.random.default_rng(1)
    t = np.arange(RATE // 4) / RATE
    notes = [0.3 * np.sin(2 * np.pi * f * t) * np.hanning(len(t)) for f in (440, 330, 550)]
    return (np.concatenate(notes) + 1e-4 * rng.standard_normal(3 * len(t))).astype(np.float32)


def test_the_sound_is_the_engines_sample_for_sample_at_one_constant_delay(
    jack_server: JackServer,
) -> None:
    period, x = jack_server.period, take()
    options = LiveOptions("musician", "musician", osc="off", block=4 * period)
    taken: list[np.ndarray] = []
    heard = np.zeros(0, np.float32)
    with Waiting(jack_server) as musician, Session(options, engine=engine()) as session:
        session.player.on_sound.append(lambda block, _out, _events, _at: taken.append(block.copy()))
        musician.worker = session._worker
        assert session.report().device == "musician"
        prefill = session.report().latency.buffer_samples
        assert prefill == 4 * period

        def play(session: Session) -> None:
            nonlocal heard
            wait_for(lambda: session.stats.n_samples, "sound")
            heard, _ = musician.play(np.concatenate([x, np.zeros(RATE // 4, np.float32)]))

        with beside(play, session):
            session.run()
    inputs = np.concatenate(taken)
    at = int(np.flatnonzero(inputs)[0])
    np.testing.assert_array_equal(inputs[at : at + len(x)], x)  # taken whole
    wet, _ = engine().process(inputs)
    first, there = int(np.flatnonzero(wet)[0]), int(np.flatnonzero(heard)[0])
    n = len(x) - (first - at)
    np.testing.assert_array_equal(heard[there : there + n], wet[first : first + n])
    # a loop through two clients takes the server one period
    assert there - (first - at) in (prefill, prefill + period)
    assert session.stats.underruns == session.stats.overruns == musician.n_lost == 0


def test_a_server_that_dies_lets_the_notes_go_and_playing_goes_on_when_it_is_back(
    jack_server: JackServer,
) -> None:
    events: list[NoteEvent] = []
    options = LiveOptions("system", "system", osc="off", block=jack_server.period)

    def outlive(session: Session) -> None:
        for n_lost in (1, 2):
            wait_for(lambda: bool(events) and events[-1].kind != "off", "a note")
            jack_server.end(signal.SIGKILL)
            wait_for(lambda: session.snapshot().state == "device lost", "the loss")
            wait_for(lambda: events[-1].kind == "off", "the note's end")
            assert session.stats.n_device_lost == n_lost
            jack_server.start()
            wait_for(lambda: session.snapshot().state == "playing", "the return")
            n_before = session.stats.n_samples
            wait_for(lambda: session.stats.n_samples > n_before + RATE // 2, "sound")  # noqa: B023

    with Session(options, engine=engine(NoteEachSecond())) as session:
        session.player.on_events.append(lambda new, _at: events.extend(new))
        with beside(outlive, session):
            session.run()
    kinds = [e.kind for e in events if e.kind != "pitch"]
    assert kinds == ["on", "off"] * (len(kinds) // 2)


def test_a_session_ends_in_order_while_its_server_is_dead(jack_server: JackServer) -> None:
    options = LiveOptions("system", "system", osc="off", block=jack_server.period)

    def kill(session: Session) -> None:
        wait_for(lambda: session.stats.n_samples > 0, "sound")
        jack_server.end(signal.SIGKILL)

    with Session(options, engine=engine()) as session, beside(kill, session):
        session.run()
    assert session.snapshot().state == "stopped"
