"""Sound cards by name: listed, opened, watched and opened again.

The one owner of sounddevice (PortAudio), loaded on use. Two things of PortAudio shape this module.
It sees new devices only when it starts anew. And when a JACK server dies it waits for ever in
closing the stream and aborts the process in stopping itself; so what is dead is left where it is,
and a fresh copy of the library takes over.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from v3audio.errors import DeviceError, did_you_mean

Frames = NDArray[np.float32]
Callback = Callable[[Frames | None, Frames | None, bool], None]

N_OUTPUT_CHANNELS = 2
"""The sound is given to so many of a card's outputs: its main pair."""
LOOK_S = 0.1
"""How often `Stream.is_alive` wants to be asked."""
SILENT_LOOKS = 6
"""A card that was silent in so many looks in a row, or for three of its portions, is lost."""
CLOSE_S = 2.0  # a stream that takes longer to close is dead
# of one card's several names, the service that is quickest
_HOSTS = ("ASIO", "JACK", "Core Audio", "WASAPI", "ALSA", "WDM-KS", "DirectSound", "MME", "OSS")
_CLIENT_NAME = b"v3audio"  # in a JACK patch bay; PortAudio keeps the pointer
_abandoned: list[Any] = []  # copies of PortAudio with threads that still run


@dataclass(frozen=True, slots=True)
class AudioDevice:
    """One sound card as the system names it.

    Attributes:
        name: what `--input` and `--output` accept.
        host: the system's sound service behind it (ALSA, Core Audio, WASAPI...).
        n_inputs: input channels.
        n_outputs: output channels.
        sample_rate: its usual rate in Hz.
        is_default_input: what `mic` means.
        is_default_output: what `speakers` means.
        index: where PortAudio has it, today.
    """

    name: str
    host: str
    n_inputs: int
    n_outputs: int
    sample_rate: int
    is_default_input: bool
    is_default_output: bool
    index: int = 0


def list_audio_devices() -> list[AudioDevice]:
    """Every sound card PortAudio sees, in its order; empty on a machine without one.

    Raises:
        DeviceError: PortAudio is missing or fails.
    """
    sounddevice = _sounddevice()
    try:
        hosts = list(sounddevice.query_hostapis())
        devices = list(sounddevice.query_devices())
        default_input, default_output = sounddevice.default.device
    except sounddevice.PortAudioError as e:
        raise DeviceError(f"the sound system does not answer ({e}); try again, or reboot it") from e
    for host in hosts:  # Windows' own default is its slowest service
        if "WASAPI" in host["name"] and host["default_output_device"] >= 0:
            default_input = host["default_input_device"]
            default_output = host["default_output_device"]
    return [
        AudioDevice(
            name=str(device["name"]),
            host=str(hosts[device["hostapi"]]["name"]),
            n_inputs=int(device["max_input_channels"]),
            n_outputs=int(device["max_output_channels"]),
            sample_rate=int(device["default_samplerate"]),
            is_default_input=index == default_input,
            is_default_output=index == default_output,
            index=index,
        )
        for index, device in enumerate(devices)
    ]


def find_device(name: str, kind: str, devices: list[AudioDevice]) -> list[AudioDevice]:
    """The devices that a name means, the quickest service first.

    Args:
        name: ``mic`` or ``speakers`` (the system's defaults), a device's name, or words that its
            name and service contain, in any case.
        kind: ``input`` or ``output``.
        devices: as listed.

    Raises:
        DeviceError: none, or several of different names.
    """
    usable = [d for d in devices if (d.n_inputs if kind == "input" else d.n_outputs)]
    if name in ("mic", "speakers"):
        found = [
            d for d in usable if (d.is_default_input if kind == "input" else d.is_default_output)
        ]
        if not found:
            raise DeviceError(
                f"--{kind} {name}: this machine has no {kind} device that is its default; "
                "see what there is with: v3audio devices, or give a sound file"
            )
        return found
    found = [d for d in usable if d.name == name]
    if not found:
        words = name.lower().split()
        found = [d for d in usable if all(w in f"{d.name}, {d.host}".lower() for w in words)]
    names = sorted({d.name for d in found})
    if not found:
        hint = did_you_mean(name, [d.name for d in usable])
        known = ", ".join(f"'{n}'" for n in dict.fromkeys(d.name for d in usable)) or "none"
        raise DeviceError(
            f"--{kind} {name}: no such {kind} device{hint or f'; there is {known}'} "
            "(v3audio devices lists them)"
        )
    if len(names) > 1:
        raise DeviceError(
            f"--{kind} {name}: {len(names)} devices have that in their names: "
            f"{', '.join(repr(n) for n in names)}; give one of them whole"
        )
    rank = {d.host: k for k, host in reversed(list(enumerate(_HOSTS))) for d in found
            if host in d.host}  # fmt: skip
    return sorted(found, key=lambda d: rank.get(d.host, len(_HOSTS)))


def choose_devices(
    source: str | None, output: str | None, devices: list[AudioDevice]
) -> tuple[AudioDevice | None, AudioDevice | None]:
    """The input and the output device that one stream can serve, one sound service for both.

    Raises:
        DeviceError: a name means none or several, or the two have no service in common.
    """
    sources = find_device(source, "input", devices) if source else [None]
    outputs = find_device(output, "output", devices) if output else [None]
    for one in sources:
        for other in outputs:
            if one is None or other is None or one.host == other.host:
                return one, other
    assert sources[0] is not None and outputs[0] is not None
    raise DeviceError(
        f"--input {source} belongs to {sources[0].host} and --output {output} to "
        f"{outputs[0].host}: two clocks that drift apart; name two devices of one service "
        "(v3audio devices)"
    )


class Stream:
    """An open stream of a sound card, silent until `start`.

    Args:
        source: name of the input device, ``mic``, or ``NAME#2`` for its second channel alone; None
            without input.
        output: name of the output device, or ``speakers``; None without output.
        rate: Hz wanted; None for the card's own. A card that refuses it runs at its own.
        block: samples to ask the card for; JACK decides by itself.
        callback: called with the input (n, channels), the output (n, channels) to fill, and whether
            the card lost some, on PortAudio's thread.

    Attributes:
        sample_rate: Hz.
        block: samples asked for; 0: as the card likes.
        latency_samples: of the card, in and out, as it states it.
        source: name of the input device, empty without.
        output: name of the output device, empty without.

    Raises:
        DeviceError: no such device, or it refuses.
    """

    def __init__(
        self,
        source: str | None,
        output: str | None,
        rate: int | None,
        block: int,
        callback: Callback,
    ) -> None:
        self._sounddevice = sounddevice = _sounddevice(fresh=True)
        source, self._channel = _split_channel(source)
        card_in, card_out = choose_devices(source, output, list_audio_devices())
        card = card_in or card_out
        assert card is not None, "a stream without a card"
        self.source = card_in.name if card_in else ""
        self.output = card_out.name if card_out else ""
        self._is_jack = "JACK" in card.host
        if card_in and self._channel >= card_in.n_inputs:
            raise DeviceError(
                f"--input {source}#{self._channel + 1}: {card_in.name} has {card_in.n_inputs} "
                f"inputs; give #1 to #{card_in.n_inputs}"
            )
        # A fixed size would make PortAudio buffer once more where the server has its own (JACK).
        self.block = 0 if self._is_jack else block
        self._callback = callback
        self._n_calls = self._seen_calls = self._silent_looks = 0
        self._largest = 0  # samples that it ever handed over at once
        self._started = False
        n_in = self._channel + 1
        n_out = min(card_out.n_outputs, N_OUTPUT_CHANNELS) if card_out else 0
        rates = [r for r in (rate, card.sample_rate, card_out and card_out.sample_rate) if r]
        for k, self.sample_rate in enumerate(rates):
            settings: dict[str, Any] = dict(
                samplerate=self.sample_rate, blocksize=self.block, dtype="float32",
                latency="low" if self._is_jack else 2 * block / self.sample_rate,
            )  # fmt: skip
            try:
                if card_in and card_out:
                    self._stream = sounddevice.Stream(
                        device=(card_in.index, card_out.index), channels=(n_in, n_out),
                        callback=self._duplex, **settings,
                    )  # fmt: skip
                elif card_in:
                    self._stream = sounddevice.InputStream(
                        device=card_in.index, channels=n_in, callback=self._input, **settings
                    )
                else:
                    assert card_out is not None
                    self._stream = sounddevice.OutputStream(
                        device=card_out.index, channels=n_out, callback=self._output, **settings
                    )
                break
            except sounddevice.PortAudioError as e:
                if k + 1 < len(rates):
                    continue
                end_portaudio()
                names = " and ".join(n for n in (self.source, self.output) if n)
                raise DeviceError(
                    f"{names}: the sound card refuses ({_reason(e)}); is another program using "
                    "it? Close that, or choose another one (v3audio devices)"
                ) from e
        if self._is_jack:  # the stream leaves one period out of each
            latencies = [
                sounddevice.query_devices(one.index)[f"default_low_{kind}_latency"]
                for one, kind in ((card_in, "input"), (card_out, "output"))
                if one
            ]
        else:
            stated = self._stream.latency
            latencies = stated if card_in and card_out else [stated]
        self.latency_samples = round(sum(latencies) * self.sample_rate)

    def start(self) -> None:
        """Let the card call.

        Raises:
            DeviceError: it does not.
        """
        try:
            self._stream.start()
            self._started = True
        except self._sounddevice.PortAudioError as e:
            self.close()
            raise DeviceError(f"the sound card does not start ({_reason(e)})") from e

    def is_alive(self) -> bool:
        """Whether the card still calls; look every `LOOK_S`."""
        try:
            active = self._stream.active
        except self._sounddevice.PortAudioError:
            return False
        called = self._n_calls != self._seen_calls
        self._seen_calls = self._n_calls
        # counted in looks, not seconds: a process that was stopped itself has seen no silence
        self._silent_looks = 0 if called else self._silent_looks + 1
        portion_s = self._largest / self.sample_rate
        return bool(active) and self._silent_looks < max(SILENT_LOOKS, 3 * portion_s / LOOK_S)

    def close(self) -> None:
        """End it, and PortAudio, in 2 s at most however dead the card is."""
        self._callback = _silence  # a server that only slept may call again
        if self._is_jack and self._started and not self._calls():
            abandon_portaudio()
            return
        closing = threading.Thread(target=self._stream.close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if closing.is_alive():
            abandon_portaudio()
        else:
            end_portaudio()

    def _calls(self) -> bool:
        before = self._n_calls
        for _ in range(SILENT_LOOKS):
            time.sleep(0.05)
            if self._n_calls != before:
                return True
        return False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    # -- PortAudio's thread ------------------------------------------------------------------------

    def _duplex(self, taken: Frames, given: Frames, n: int, at: Any, status: Any) -> None:
        self._called(taken, given, n, status)

    def _input(self, taken: Frames, n: int, at: Any, status: Any) -> None:
        self._called(taken, None, n, status)

    def _output(self, given: Frames, n: int, at: Any, status: Any) -> None:
        self._called(None, given, n, status)

    def _called(self, taken: Frames | None, given: Frames | None, n: int, status: Any) -> None:
        self._n_calls += 1
        self._largest = max(self._largest, n)
        self._callback(taken, given, bool(status) and _lost_some(status))


def end_portaudio() -> None:
    """Stop PortAudio, so that it sees the devices of that time when it is needed next.

    Only while its JACK server is alive, or there is none: else it would abort the process.
    """
    sounddevice: Any = sys.modules.get("sounddevice")
    while sounddevice and sounddevice._initialized:
        sounddevice._terminate()


def abandon_portaudio() -> None:
    """Leave a PortAudio that would hang or abort as it is; a fresh copy takes its place.

    Raises:
        DeviceError: this system cannot load it a second time.
    """
    sounddevice: Any = sys.modules["sounddevice"]
    sounddevice._initialized = 0  # nor shall it be stopped when the process ends
    _abandoned.append(sounddevice._lib)  # unloading it would take the code from under its threads
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        if found := re.search(r"(/\S*libportaudio\S*)$", maps.read(), re.MULTILINE):
            with tempfile.NamedTemporaryFile(suffix=".so") as copy:
                shutil.copyfile(found[1], copy.name)
                sounddevice._lib = sounddevice._ffi.dlopen(copy.name)
                _name_client(copy.name)
            return
    raise DeviceError("the sound system hangs; end v3audio and start it again")


def _sounddevice(fresh: bool = False) -> Any:
    """The module, with PortAudio started; `fresh`: started now, so that it sees new devices."""
    first = "sounddevice" not in sys.modules
    try:
        import sounddevice
    except OSError as e:  # the Python package is there, the library behind it is not
        raise DeviceError(
            "PortAudio is not installed, so no sound card can be used; install it "
            "(Debian/Ubuntu: sudo apt install libportaudio2, macOS: brew install portaudio)"
        ) from e
    except ImportError as e:
        raise DeviceError("sounddevice is not installed; type: pip install sounddevice") from e
    if fresh or first:
        end_portaudio()
    if not getattr(sounddevice, "_initialized", 1):
        _name_client(getattr(sounddevice, "_libname", None))
        try:
            sounddevice._initialize()
        except sounddevice.PortAudioError as e:
            raise DeviceError(f"the sound system does not start ({e})") from e
    return sounddevice


def _name_client(library: str | None) -> None:
    """Tell a loaded PortAudio how to call itself in JACK; the setting outlives its restarts."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # where there is no JACK
        ctypes.CDLL(library).PaJack_SetClientName(_CLIENT_NAME)


def _split_channel(source: str | None) -> tuple[str | None, int]:
    """`NAME#2` as the name and the channel's index; without a number the first channel.

    The first alone, not a mean: an instrument stands on input 1, and what else a card picks up on
    its other inputs is not meant.
    """
    name, mark, number = (source or "").rpartition("#")
    if mark and number.isdecimal() and int(number) > 0:
        return name, int(number) - 1
    return source, 0


def _silence(_taken: Frames | None, given: Frames | None, _lost: bool) -> None:
    if given is not None:
        given[:] = 0


def _lost_some(status: Any) -> bool:
    return bool(
        status.input_overflow
        or status.output_underflow
        or status.input_underflow
        or status.output_overflow
    )


def _reason(e: Exception) -> str:
    return str(e.args[0] if e.args else e).removeprefix("Error opening Stream: ")
