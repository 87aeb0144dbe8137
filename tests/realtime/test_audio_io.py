"""Sound cards by name, with a stand-in for PortAudio."""

from __future__ import annotations

import builtins
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from realtime import audio_io
from realtime.audio_io import AudioDevice, Stream, choose_devices, find_device, list_audio_devices
from v3audio.errors import DeviceError


class PortAudioError(Exception):
    pass


def fake(devices: list[dict[str, object]]) -> SimpleNamespace:
    return SimpleNamespace(
        PortAudioError=PortAudioError,
        query_hostapis=lambda: ({"name": "ALSA"}, {"name": "JACK"}),
        query_devices=lambda index=None: devices if index is None else devices[index],
        default=SimpleNamespace(device=(0, 1)),
    )


def card(name: str, hostapi: int, n_inputs: int, n_outputs: int) -> dict[str, object]:
    return {
        "name": name,
        "hostapi": hostapi,
        "max_input_channels": n_inputs,
        "max_output_channels": n_outputs,
        "default_samplerate": 48000.0,
        "default_low_input_latency": 128 / 48000,
        "default_low_output_latency": 256 / 48000,
    }


def test_lists_cards_with_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fake([card("Mic", 0, 1, 0), card("Card", 1, 2, 2)])
    monkeypatch.setitem(sys.modules, "sounddevice", found)
    assert list_audio_devices() == [
        AudioDevice("Mic", "ALSA", 1, 0, 48000, True, False, 0),
        AudioDevice("Card", "JACK", 2, 2, 48000, False, True, 1),
    ]


def test_a_machine_without_cards_has_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", fake([]))
    assert list_audio_devices() == []


def test_a_failing_sound_system_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = fake([])

    def fail() -> None:
        raise PortAudioError("host error")

    broken.query_devices = fail
    monkeypatch.setitem(sys.modules, "sounddevice", broken)
    with pytest.raises(DeviceError, match="host error"):
        list_audio_devices()


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError("PortAudio library not found"), "libportaudio2"), (ImportError(), "pip install")],
)
def test_a_missing_library_says_what_to_install(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def import_without(name: str, *args: object, **extra: object) -> object:
        if name == "sounddevice":
            raise error
        return real_import(name, *args, **extra)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(DeviceError, match=words):
        list_audio_devices()


# -- names --------------------------------------------------------------------------------------

CARDS = [
    AudioDevice("Built-in Audio", "MME", 2, 2, 44100, True, True, 0),
    AudioDevice("Scarlett 2i2 USB", "MME", 2, 2, 44100, False, False, 1),
    AudioDevice("Scarlett 2i2 USB", "Windows WASAPI", 2, 0, 48000, False, False, 2),
    AudioDevice("Scarlett 2i2 USB", "Windows WASAPI", 0, 2, 48000, False, False, 3),
    AudioDevice("Scarlett 18i20", "ASIO", 18, 20, 48000, False, False, 4),
    AudioDevice("HDMI", "Windows WASAPI", 0, 8, 48000, False, False, 5),
]


@pytest.mark.parametrize(
    ("name", "kind", "indices"),
    [
        ("Scarlett 2i2 USB", "input", [2, 1]),  # whole, the quicker service first
        ("2i2 wasapi", "output", [3]),
        ("scarlett 2I2", "output", [3, 1]),
        ("18i20", "input", [4]),
        ("mic", "input", [0]),
        ("speakers", "output", [0]),
    ],
)
def test_a_device_is_found_by_its_name_or_words_of_it(
    name: str, kind: str, indices: list[int]
) -> None:
    assert [d.index for d in find_device(name, kind, CARDS)] == indices


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("scarlott 2i2", "input", "did you mean 'Scarlett 2i2 USB'"),
        ("scarlett", "input", "'Scarlett 18i20', 'Scarlett 2i2 USB'; give one of them whole"),
        ("HDMI", "input", "no such input device"),
        ("xyz", "output", "there is 'Built-in Audio', 'Scarlett 2i2 USB'"),
    ],
)
def test_a_wrong_name_says_what_there_is(name: str, kind: str, words: str) -> None:
    with pytest.raises(DeviceError, match=f"--{kind} {name}.*{words}"):
        find_device(name, kind, CARDS)


def test_no_default_device_is_said() -> None:
    with pytest.raises(DeviceError, match="no input device that is its default"):
        find_device("mic", "input", CARDS[1:])


def test_one_stream_serves_both_where_one_service_has_both() -> None:
    def indices(source: str | None, output: str | None) -> list[int | None]:
        return [d and d.index for d in choose_devices(source, output, CARDS)]

    assert indices("2i2", "2i2") == [2, 3]
    assert indices("2i2", "Built-in Audio") == [1, 0]  # both have MME
    assert indices("2i2", None) == [2, None]
    assert indices(None, "HDMI") == [None, 5]
    with pytest.raises(DeviceError, match=r"ASIO.*MME.*one service"):
        choose_devices("18i20", "Built-in Audio", CARDS)


# -- streams ------------------------------------------------------------------------------------


class FakeStream:
    """A stream that a test calls."""

    def __init__(self, kind: str, refused: set[float], **asked: Any) -> None:
        if asked["samplerate"] in refused:
            raise PortAudioError("Error opening Stream: Invalid sample rate")
        self.kind, self.asked = kind, asked
        self.latency = (0.002, 0.004) if kind == "Stream" else 0.003
        self.active = self.closed = False
        self.hangs = threading.Event()
        self.hangs.set()

    def start(self) -> None:
        self.active = True

    def close(self) -> None:
        assert self.hangs.wait(10)
        self.closed = True

    def call(self, *sound: np.ndarray, **flags: bool) -> None:
        names = ("input_overflow", "input_underflow", "output_overflow", "output_underflow")
        status = SimpleNamespace(**{n: flags.get(n, False) for n in names})
        self.asked["callback"](*sound, len(sound[0]), None, status if flags else None)


class FakePortAudio:
    def __init__(self, devices: list[dict[str, object]], refused: set[float]) -> None:
        self.module = fake(devices)
        self.streams: list[FakeStream] = []
        self.n_starts = self.n_ends = 0
        for kind in ("Stream", "InputStream", "OutputStream"):
            setattr(self.module, kind, lambda kind=kind, **a: self._open(kind, refused, **a))
        self.module._initialized = 1
        self.module._initialize = self._start
        self.module._terminate = self._end

    def _open(self, kind: str, refused: set[float], **asked: Any) -> FakeStream:
        self.streams.append(FakeStream(kind, refused, **asked))
        return self.streams[-1]

    def _start(self) -> None:
        self.module._initialized = 1
        self.n_starts += 1

    def _end(self) -> None:
        self.module._initialized = 0
        self.n_ends += 1


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    cards = [card("Card", 0, 2, 4), card("Big", 0, 18, 20), card("system", 1, 2, 2)]
    portaudio = FakePortAudio(cards, refused={44100})
    portaudio.module.default.device = (0, 0)
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio.module)
    return portaudio


Call = tuple[Any, Any, bool]


def opened(source: str | None, output: str | None, rate: int | None = None) -> tuple[Stream, list]:
    calls: list[Call] = []
    return Stream(source, output, rate, 128, lambda *call: calls.append(call)), calls


def test_a_duplex_stream_is_opened_with_the_block_and_the_cards_rate(
    portaudio: FakePortAudio,
) -> None:
    stream, calls = opened("mic", "speakers")
    (inner,) = portaudio.streams
    assert inner.kind == "Stream"
    assert inner.asked["device"] == (0, 0)
    assert inner.asked["channels"] == (1, 2)
    assert inner.asked["blocksize"] == stream.block == 128
    assert inner.asked["dtype"] == "float32"
    assert inner.asked["latency"] == pytest.approx(2 * 128 / 48000)
    assert (stream.sample_rate, stream.latency_samples) == (48000, 288)
    assert (stream.source, stream.output) == ("Card", "Card")
    x, y = np.ones((128, 1), np.float32), np.zeros((128, 2), np.float32)
    inner.call(x, y)
    inner.call(x, y, input_overflow=True)
    inner.call(x, y, priming_output=True)  # no loss
    assert [call[2] for call in calls] == [False, True, False]
    assert calls[0][0] is x
    assert calls[0][1] is y


def test_jack_decides_on_block_and_latency_itself(portaudio: FakePortAudio) -> None:
    stream, _ = opened("system", "system")
    assert portaudio.streams[0].asked["blocksize"] == stream.block == 0
    assert stream.latency_samples == 384  # as its ports say; the stream leaves out periods


def test_streams_of_one_direction(portaudio: FakePortAudio) -> None:
    (_, taken), (_, given) = opened("Big#7", None), opened(None, "Big")
    source, output = portaudio.streams
    assert (source.kind, source.asked["channels"]) == ("InputStream", 7)
    assert (output.kind, output.asked["channels"]) == ("OutputStream", 2)
    x = np.zeros((64, 7), np.float32)
    source.call(x)
    output.call(x)
    assert taken == [(x, None, False)]
    assert given == [(None, x, False)]


def test_a_refused_rate_falls_back_to_the_cards_own(portaudio: FakePortAudio) -> None:
    stream, _ = opened("mic", "speakers", 44100)
    assert stream.sample_rate == 48000


def test_a_channel_that_is_not_there_is_said(portaudio: FakePortAudio) -> None:
    with pytest.raises(DeviceError, match=r"Card has 2 inputs; give #1 to #2"):
        opened("mic#3", None)


def test_a_card_that_refuses_is_said_and_portaudio_let_go(portaudio: FakePortAudio) -> None:
    portaudio.module.query_devices()[0]["default_samplerate"] = 44100.0
    with pytest.raises(DeviceError, match=r"Card: the sound card refuses.*Invalid sample rate"):
        opened("mic", None)
    assert portaudio.module._initialized == 0


def test_each_stream_sees_the_devices_of_its_time(portaudio: FakePortAudio) -> None:
    opened("mic", None)
    portaudio.module.query_devices().append(card("New", 0, 1, 0))
    opened("New", None)
    assert portaudio.n_ends == portaudio.n_starts == 2


def test_a_card_that_falls_silent_is_dead(portaudio: FakePortAudio) -> None:
    stream, _ = opened("mic", None)
    stream.start()
    (inner,) = portaudio.streams
    for _ in range(50):
        inner.call(np.zeros((128, 1), np.float32))
        assert stream.is_alive()
    looks = [stream.is_alive() for _ in range(audio_io.SILENT_LOOKS)]
    assert looks == [True] * (audio_io.SILENT_LOOKS - 1) + [False]


def test_long_portions_are_not_taken_for_silence(portaudio: FakePortAudio) -> None:
    stream, _ = opened("mic", None)
    stream.start()
    portaudio.streams[0].call(np.zeros((48000, 1), np.float32))
    assert all(stream.is_alive() for _ in range(30))


def test_a_stream_that_ended_by_itself_is_dead(portaudio: FakePortAudio) -> None:
    stream, _ = opened("mic", None)
    stream.start()
    portaudio.streams[0].active = False
    assert not stream.is_alive()


def test_closing_ends_stream_and_portaudio(portaudio: FakePortAudio) -> None:
    with opened("mic", None)[0]:
        assert portaudio.streams[0].active
    assert portaudio.streams[0].closed
    assert portaudio.module._initialized == 0


def test_a_stream_that_hangs_is_left_where_it_is(
    portaudio: FakePortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []
    monkeypatch.setattr(audio_io, "CLOSE_S", 0.01)
    monkeypatch.setattr(audio_io, "abandon_portaudio", lambda: left.append(True))
    stream, _ = opened("mic", None)
    portaudio.streams[0].hangs.clear()
    stream.close()
    assert left == [True]
    assert portaudio.module._initialized == 1  # not ended under the hanging thread
    portaudio.streams[0].hangs.set()


def test_a_dead_jack_is_not_even_closed(
    portaudio: FakePortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []
    monkeypatch.setattr(audio_io, "abandon_portaudio", lambda: left.append(True))
    stream, calls = opened("system", "system")
    stream.start()
    stream.close()
    assert left == [True]
    assert not portaudio.streams[0].closed
    y = np.ones((64, 2), np.float32)
    portaudio.streams[0].call(np.ones((64, 1), np.float32), y)  # it was only asleep
    assert not y.any()
    assert not calls
