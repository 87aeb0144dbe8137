"""The thread around the engine, driven by a sound card that a test plays."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.jack_rig import wait_for
from realtime.ring import AudioPath
from realtime.stats import SessionStats
from realtime.worker import (
    LATE_OFTEN,
    MAX_MORE,
    ONE_STALL_S,
    CardSource,
    EngineWorker,
    FileSource,
    Player,
    RateBridge,
    prefill_samples,
)
from v3audio.engine import Readout
from v3audio.notes import NoteEvent
from v3audio.settings import Settings

RATE = 48000
SILENCE = Readout(-120.0, 0.0, 0.0, None, 0.0, -1, 0.0, -120.0)


class Doubler:
    """An engine that gives back twice what it gets; a note sounds from its first sample on."""

    def __init__(self, sample_rate: int = RATE) -> None:
        self.sample_rate = sample_rate
        self.settings = Settings()
        self.timbre = "flute"
        self.n_samples = self.n_non_finite = 0
        self.readout = SILENCE
        self.sounds = False
        self.blocks: list[tuple[Settings, object]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.waits = threading.Event()
        self.raises: BaseException | None = None

    def process(self, block: np.ndarray) -> tuple[np.ndarray, list[NoteEvent]]:
        if not self.may_go.is_set():
            self.waits.set()
            assert self.may_go.wait(60)
        if self.raises:
            raise self.raises
        self.blocks.append((self.settings, self.timbre))
        self.n_samples += len(block)
        self.readout = said(len(self.blocks))
        return 2 * block, self._note("on")

    def panic(self) -> list[NoteEvent]:
        return self._note("off")

    flush = panic

    def reset(self) -> None:
        self.n_samples = 0

    def _note(self, kind: str) -> list[NoteEvent]:
        if self.sounds == (kind == "on"):
            return []
        self.sounds = kind == "on"
        return [NoteEvent(kind, self.n_samples, 69, 90, 0.0, 1.0)]  # type: ignore[arg-type]


def said(k: int) -> Readout:
    return SILENCE._replace(level_db=float(k))


class Card:
    """Calls the path as a sound card would, and waits for the engine where a test wants it."""

    def __init__(self, path: AudioPath, n: int = 128) -> None:
        self.path, self.n = path, n
        self.rng = np.random.default_rng(0)
        self.taken: list[np.ndarray] = []
        self.heard: list[np.ndarray] = []

    def call(self, n: int | None = None) -> None:
        n = n or self.n
        x = self.rng.uniform(-0.5, 0.5, n).astype(np.float32)
        out = np.empty((n, 2), np.float32)
        self.path.exchange(x, out, n, False)
        self.taken.append(x)
        self.heard.append(out[:, 0])

    @property
    def x(self) -> np.ndarray:
        return np.concatenate(self.taken)

    @property
    def y(self) -> np.ndarray:
        return np.concatenate(self.heard)


class Rig:
    def __init__(self, engine: Doubler, n: int = 128, block: int = 128, rate: int = RATE) -> None:
        self.engine = engine
        self.stats = SessionStats()
        self.player = Player(engine, self.stats)  # type: ignore[arg-type]
        self.events: list[NoteEvent] = []
        self.player.on_events.append(lambda events, _at: self.events.extend(events))
        self.path = AudioPath(rate, RATE)
        self.card = Card(self.path, n)
        for _ in range(3):  # while nothing runs yet
            self.card.call()
        self.card.taken.clear()
        self.card.heard.clear()
        self.worker = EngineWorker(self.player, self.path, CardSource(self.path), block)

    def play(self, n_calls: int) -> None:
        """Call, and let the worker finish each time."""
        for _ in range(n_calls):
            self.card.call()
            self.settle()

    def settle(self) -> None:
        wait_for(
            lambda: self.worker._position >= self.path.now or self.worker.error, "the worker"
        )


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(Doubler())
    yield rig
    rig.engine.may_go.set()
    rig.worker.stop()


def test_sound_comes_back_after_the_prefill_and_never_sooner_or_later(rig: Rig) -> None:
    rig.worker.start()
    assert rig.worker.prefill == 128
    rig.play(50)
    np.testing.assert_array_equal(rig.card.y[128:], 2 * rig.card.x[:-128])
    assert not rig.card.y[:128].any()
    assert rig.path.n_underruns == rig.stats.late_hops == rig.stats.overruns == 0
    assert rig.stats.n_samples == 50 * 128
    assert rig.stats.step.n == 50


@pytest.mark.parametrize(
    ("portion", "block", "prefill"),
    [(128, 128, 128), (64, 128, 128), (64, 16, 128), (48, 48, 144), (441, 128, 441),
     (1024, 128, 1024), (256, 2048, 2048), (1, 1, 120)],
)  # fmt: skip
def test_prefill_is_whole_portions_of_a_block_and_two_and_a_half_ms(
    portion: int, block: int, prefill: int
) -> None:
    assert prefill_samples(portion, block, RATE) == prefill


@pytest.mark.parametrize("portions", [(64,), (1024,), (100, 37, 128, 1)])
def test_any_portions_are_played(portions: tuple[int, ...]) -> None:
    rig = Rig(Doubler(), n=max(portions))
    rig.worker.start()
    for k in range(60):
        rig.card.call(portions[k % len(portions)])
        rig.settle()
    prefill = rig.worker.prefill
    np.testing.assert_array_equal(rig.card.y[prefill:], 2 * rig.card.x[:-prefill])
    rig.worker.stop()


def test_a_card_that_comes_to_hand_over_more_gets_a_longer_prefill_once(rig: Rig) -> None:
    rig.worker.start()
    rig.play(20)
    rig.card.n = 512
    rig.play(20)
    assert rig.worker.prefill == 512
    n = 15 * 512
    np.testing.assert_array_equal(rig.card.y[-n:], 2 * rig.card.x[-n - 512 : -512])
    assert rig.path.n_underruns == 1


def test_a_slow_engine_is_silence_counted_and_the_delay_stays(rig: Rig) -> None:
    rig.worker.start()
    rig.play(10)
    rig.engine.may_go.clear()
    for _ in range(10):  # 27 ms
        rig.card.call()
    assert rig.engine.waits.wait(60)
    rig.engine.may_go.set()
    rig.settle()
    rig.play(20)
    y, x = rig.card.y, rig.card.x
    assert rig.path.n_underruns == 1
    assert rig.stats.late_hops > 0
    assert rig.stats.overruns == 0
    n = 15 * 128
    np.testing.assert_array_equal(y[-n:], 2 * x[-n - 128 : -128])
    assert [e.kind for e in rig.events] == ["on"]  # nothing of the input was lost


def test_an_engine_that_is_late_again_and_again_works_further_ahead(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def stall() -> None:
        rig.engine.waits.clear()
        rig.engine.may_go.clear()
        for _ in range(10):
            rig.card.call()
        assert rig.engine.waits.wait(60)
        rig.engine.may_go.set()
        rig.settle()
        rig.play(round(ONE_STALL_S * RATE / 128) + 1)

    rig.worker.start()
    for _ in range(LATE_OFTEN - 1):
        stall()
    assert rig.worker.prefill == 128 and not caplog.messages
    stall()
    assert rig.worker.prefill == 256
    assert [m.split(",")[0] for m in caplog.messages] == ["the engine is late too often"]
    n = 40 * 128
    np.testing.assert_array_equal(rig.card.y[-n:], 2 * rig.card.x[-n - 256 : -256])
    for _ in range(LATE_OFTEN * (MAX_MORE + 1)):
        stall()
    assert rig.worker.prefill == 128 * (1 + MAX_MORE)  # and no further


def test_a_long_stall_skips_what_was_missed_and_lets_the_notes_go(rig: Rig) -> None:
    rig.worker.start()
    rig.play(10)
    rig.engine.may_go.clear()
    rig.engine.waits.clear()
    rig.card.call()
    assert rig.engine.waits.wait(60)  # the stall begins with this block, however slow the machine
    for _ in range(399):  # 1.06 s
        rig.card.call()
    rig.engine.may_go.set()
    rig.settle()
    rig.play(20)
    assert (rig.stats.overruns, rig.path.n_underruns) == (1, 1)
    n = 15 * 128
    np.testing.assert_array_equal(rig.card.y[-n:], 2 * rig.card.x[-n - 128 : -128])
    assert [e.kind for e in rig.events] == ["on", "off", "on"]
    assert rig.events[-1].sample > 380 * 128  # by the card's clock, not the engine's
    assert rig.player.position == rig.path.now


def test_an_error_of_the_engine_is_kept_and_silence_follows(rig: Rig) -> None:
    rig.worker.start()
    rig.play(5)
    rig.engine.raises = RuntimeError("a bug")
    rig.card.call()
    assert rig.worker.done.wait(60)
    rig.worker.stop()
    assert rig.worker.error is rig.engine.raises
    n = len(rig.card.y)
    for _ in range(5):
        rig.card.call()
    assert not rig.card.y[n + 128 :].any()


def test_stop_lets_the_notes_go_and_gives_the_garbage_collector_back(rig: Rig) -> None:
    rig.worker.start()
    assert not gc.isenabled()
    rig.play(5)
    rig.worker.stop()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert [e.kind for e in rig.events] == ["on", "off"]


def test_panic_acts_without_any_sound_coming_in(rig: Rig) -> None:
    rig.worker.start()
    rig.play(5)
    released = threading.Event()
    rig.player.on_events.append(lambda events, _at: released.set())
    rig.worker.panic()  # as when the card is gone
    assert released.wait(60)
    assert [e.kind for e in rig.events] == ["on", "off"]


def test_the_desk_is_read_with_every_block(rig: Rig) -> None:
    settings = [Settings(mix=k / 10) for k in range(5)]
    rig.player.desk = desk = SimpleNamespace(  # type: ignore[assignment]
        now=SimpleNamespace(settings=settings[0]), voice="oboe"
    )
    rig.worker.start()
    for k in range(5):
        desk.now = SimpleNamespace(settings=settings[k])
        desk.voice = f"timbre {k}"
        rig.play(1)
    assert rig.engine.blocks == [(settings[k], f"timbre {k}") for k in range(5)]


def test_readout_is_kept_up_only_while_somebody_looks(rig: Rig) -> None:
    rig.worker.start()
    rig.play(20)
    assert rig.player.readout().level_db == -120.0
    rig.play(40)
    assert rig.player.readout().level_db > 50
    rig.play(800)
    assert rig.player.readout().level_db < 500  # nobody looked for a second


def test_sound_out_gets_the_input_too(rig: Rig) -> None:
    got: list[tuple[np.ndarray, np.ndarray, int]] = []
    rig.player.on_sound.append(lambda x, y, _events, at: got.append((x, y, at)))
    rig.worker.start()
    rig.play(10)
    np.testing.assert_array_equal(np.concatenate([x for x, _, _ in got]), rig.card.x)
    assert [at for _, _, at in got] == [128 * k for k in range(10)]


def test_cpu_is_the_share_of_the_last_second() -> None:
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 0.001  # each block takes 1 ms of its 2.67
        return now_s

    player = Player(Doubler(), SessionStats(), clock)  # type: ignore[arg-type]
    for _ in range(400):
        player.step(np.zeros(128, np.float32))
    assert player.stats.cpu == pytest.approx(0.375, rel=0.01)


# -- files --------------------------------------------------------------------------------------


def test_a_file_is_played_to_its_last_sample_and_not_beyond() -> None:
    rig = Rig(Doubler())
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 10_000).astype(np.float32)
    rig.worker = EngineWorker(rig.player, rig.path, FileSource(iter(np.split(x, 10))), 128)
    rig.worker.start()
    while not rig.worker.done.is_set():
        rig.play(1)
        assert len(rig.card.y) < 20_000
    rig.play(10)
    rig.worker.stop()
    y = rig.card.y[128:]
    np.testing.assert_array_equal(y[: len(x)], 2 * x)
    assert not y[len(x) :].any()
    assert rig.path.n_underruns == 0
    assert rig.stats.n_samples == len(x)
    assert [e.kind for e in rig.events] == ["on", "off"]


def test_a_file_source_cuts_at_will_and_passes_errors_on() -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.arange(10, dtype=np.float32)
        yield np.arange(10, 15, dtype=np.float32)
        raise OSError("damaged")

    source = FileSource(blocks())
    first, second = source.read(7, 0), source.read(7, 7)
    assert first is not None and second is not None
    assert (*first, *second) == tuple(range(14))
    with pytest.raises(OSError, match="damaged"):
        source.read(7, 14)
    source.close()


def test_closing_a_file_source_ends_its_thread() -> None:
    source = FileSource((np.zeros(10, np.float32) for _ in range(10**9)), n_ahead=2)
    source.read(5, 0)
    source.close()
    source._thread.join(30)
    assert not source._thread.is_alive()


# -- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("card_rate", "n"), [(44100, 128), (96000, 256), (48000, 64)])
def test_a_card_of_another_rate_hears_the_same_sound_at_a_constant_delay(
    card_rate: int, n: int
) -> None:
    rig = Rig(Doubler(32000 if card_rate == 48000 else RATE), n=n, rate=card_rate)
    rig.worker.start()
    rig.play(round(0.5 * card_rate / n))
    rig.worker.stop()
    x, y = rig.card.x, rig.card.y
    t = rig.worker.prefill
    assert rig.worker.conversion_samples < 0.03 * card_rate
    bridge = RateBridge(card_rate, rig.engine.sample_rate)
    z = bridge.to_card(2 * bridge.to_engine(x))
    k = min(len(z), len(y) - t)
    np.testing.assert_allclose(y[t : t + k], z[:k], atol=1e-5)
    assert rig.path.n_underruns == 0
