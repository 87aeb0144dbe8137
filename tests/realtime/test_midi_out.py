from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mido
import numpy as np
import pytest

import realtime.midi_out as midi_out
from benchmarks.jack_rig import JackServer, wait_for
from realtime.controls import MidiSettings
from realtime.midi_out import MidiOut, NoteGate, list_midi_outputs
from realtime.osc_wire import decode
from v3audio.errors import DeviceError
from v3audio.notes import NoteEvent

RATE = 48_000
RPN_0 = ["b06500", "b06400", "b00602", "b02600", "b0657f", "b0647f"]
PANIC = ["b07b00", "b07800", "e00040"]


def event(kind: str, sample: int, midi: int = 60, cents: float = 0.0) -> NoteEvent:
    velocity = 0 if kind == "off" else 80
    return NoteEvent(kind, sample, midi, velocity, cents, 1.0)  # type: ignore[arg-type]


class FakePort:
    """Takes messages; may be stalled, fail, or be gone without a word."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[str] = []
        self.n_opened = 0
        self.fails = self.gone = False
        self.free = threading.Event()
        self.free.set()

    def open(self) -> None:
        if self.gone or self.fails:
            raise DeviceError("no such port")
        self.n_opened += 1

    def send(self, message: mido.Message) -> None:
        self.free.wait(100.0)
        if self.fails:
            raise DeviceError("broken pipe")
        if not self.gone:
            self.sent.append(bytes(message.bytes()).hex())

    def is_there(self) -> bool:
        return not self.gone

    def close(self) -> None:
        pass


class Rig:
    """A MidiOut with fake ports, and all that it says."""

    def __init__(self, *names: str) -> None:
        self.settings = MidiSettings()
        self.said: list[str] = []
        self.out = MidiOut(names or ("a",), lambda: self.settings, RATE, self.said.append)
        self.ports: list[FakePort] = [o.port for o in self.out._outputs]  # type: ignore[misc]

    def played(self, *events: NoteEvent) -> list[str]:
        """Put events and wait until the first port has what comes of them."""
        before = self.out.latency.n
        self.out.put(events)
        wait_for(lambda: self.out.latency.n > before)
        return self.ports[0].sent


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    monkeypatch.setattr(midi_out, "_port", FakePort)
    monkeypatch.setattr(midi_out, "RETRY_S", 0.01)
    monkeypatch.setattr(midi_out, "LOOK_S", 0.005)
    return Rig


def test_messages_are_in_the_order_of_the_rules(rig: Callable[..., Rig]) -> None:
    r = rig("a", "b")
    with r.out:
        r.played(event("on", 0, 60, 50.0), event("pitch", 480, 60, -50.0))
        r.played(event("off", 900), event("on", 960, 64))
    assert r.ports[0].sent == [
        *RPN_0,
        "903c50", "e00050",  # 50 of 200 cents: 8192 + 2048
        "e00030",
        "803c40", "e00040", "904050",
        "804040", *PANIC,  # leaving ends what sounds
    ]  # fmt: skip
    assert r.ports[1].sent == r.ports[0].sent
    assert r.out.n_dropped == 0
    assert r.out.latency.n == 2
    assert 0 < r.out.latency.max_ms < 5000


def test_panic_comes_once_and_playing_goes_on(rig: Callable[..., Rig]) -> None:
    r = rig()
    with r.out:
        r.played(event("on", 0, 60, 50.0))
        r.out.panic()
        wait_for(lambda: r.ports[0].sent[-3:] == PANIC)
        assert r.ports[0].sent[8:] == ["803c40", "e00040", *PANIC]
        sent = r.played(event("off", 100), event("on", 200, 62))
        assert sent[13:] == ["903e50"]  # the off of a note that panic ended is not sent again


def test_off_is_silence_and_on_again_waits_for_a_note(rig: Callable[..., Rig]) -> None:
    r = rig()
    with r.out:
        r.played(event("on", 0))
        r.settings = replace(r.settings, enable=False)
        wait_for(lambda: r.ports[0].sent[-3:] == PANIC)  # without any event
        n = len(r.ports[0].sent)
        assert (
            r.played(event("pitch", 480, 60, 30.0), event("off", 600), event("on", 700, 62))[n:]
            == []
        )
        r.settings = replace(r.settings, enable=True)
        assert r.played(event("off", 800, 62), event("on", 900, 64))[n:] == ["904050"]


@pytest.mark.parametrize(
    ("change", "released", "announced", "next_note"),
    [
        ({"mode": "notes"}, ["803c40", "e00040"], RPN_0, ["903e50"]),
        (
            {"channel": 16},
            ["803c40", "e00040"],
            [m[0] + "f" + m[2:] for m in RPN_0],
            ["9f3e50", "ef0050"],
        ),
        (
            {"bend_range": 12.5},
            ["803c40", "e00040"],
            [*RPN_0[:2], "b0060c", "b02632", *RPN_0[4:]],
            ["903e50", "e04842"],  # 8192 + 8192 * 0.5 / 12.5 = 8520
        ),
    ],
)
def test_a_changed_setting_releases_and_is_announced(
    rig: Callable[..., Rig],
    change: dict[str, Any],
    released: list[str],
    announced: list[str],
    next_note: list[str],
) -> None:
    r = rig()
    with r.out:
        r.played(event("on", 0, 60, 50.0))
        r.settings = replace(r.settings, **change)
        sent = r.played(event("off", 100), event("on", 200, 62, 50.0))
        assert sent[8:] == [*released, *announced, *next_note]


def test_mpe_announces_its_zone_and_gives_each_note_a_channel(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.settings = replace(r.settings, mode="mpe")
    with r.out:
        sent = r.played(
            event("on", 0, 60, 48.0),
            event("off", 9),
            event("on", 10, 60),
            event("pitch", 999, 60, 99),
        )
        assert sent[:4] == ["b06500", "b06406", "b0060f", "b02600"]  # lower zone, 15 members
        assert [m for m in sent if m.endswith("0630")] == [f"b{c:x}0630" for c in range(1, 16)]
        assert sent[-5:] == ["913c50", "e15240", "813c40", "923c50", "e22941"]
    assert sent[-3 * 15 - 3 :][:3] == ["823c40", "e10040", "e20040"]
    assert sent[-3 * 15 :][:3] == ["b17b00", "b17800", "e10040"]


def test_a_port_that_breaks_or_goes_is_told_once_and_used_when_it_is_back(
    rig: Callable[..., Rig],
) -> None:
    for how in ("fails", "gone"):
        r = rig("a", "b")
        with r.out:
            r.played(event("on", 0, 60))
            setattr(r.ports[0], how, True)
            r.played(event("off", 100, 60), event("on", 200, 62))
            wait_for(lambda r=r: r.out.ports == ("a (lost)", "b"))
            r.played(event("off", 300, 62), event("on", 400, 64))
            setattr(r.ports[0], how, False)
            wait_for(lambda r=r: len(r.said) == 2)  # after it was announced
            assert r.out.ports == ("a", "b")
            n = len(r.ports[0].sent)
            r.played(event("off", 500, 64), event("on", 600, 66))
            assert r.ports[0].sent[n - 6 :] == [*RPN_0, "904250"]  # nothing of the old notes
        assert r.ports[0].n_opened == 2
        assert [line.split(" (")[0] for line in r.said] == [
            "MIDI port a is lost",
            "MIDI port a is back",
        ]
        assert [m[:4] for m in r.ports[1].sent if m[0] in "89"] == [
            "903c", "803c", "903e", "803e", "9040", "8040", "9042", "8042",
        ]  # fmt: skip


def test_a_fault_of_our_own_is_shown_and_leaves_no_note_hanging(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    r = rig()
    with r.out:
        r.played(event("on", 0))
        r.out.put([event("on", 50, 200)])  # no such note
        wait_for(lambda: shown)
        r.out.put([event("off", 100)])  # nobody is hurt
    assert r.ports[0].sent[6:] == ["903c50", "803c40", *PANIC]


def test_a_full_queue_never_parts_an_on_from_its_off(rig: Callable[..., Rig]) -> None:
    r = rig()
    rng = np.random.default_rng(0)
    n_offered = sample = 0
    sounding: list[int] = []
    with r.out:
        for round_ in range(6):
            (r.ports[0].free.clear if round_ % 2 else r.ports[0].free.set)()
            for _ in range(700):
                sample += 128
                events = []
                for _ in range(int(rng.integers(0, 4))):
                    kind = rng.choice(["on", "off", "pitch"])
                    if kind == "on" and len(sounding) < 3:
                        sounding.append(int(rng.integers(60, 64)))  # may sound already
                        events.append(event("on", sample, sounding[-1]))
                    elif kind == "off" and sounding:
                        note = sounding[0]
                        sounding = [n for n in sounding if n != note]
                        events.append(event("off", sample, note))
                    elif sounding:
                        events.append(event("pitch", sample, sounding[0], float(rng.normal(0, 50))))
                n_offered += len(events)
                start_s = time.perf_counter()
                r.out.put(events, sample)
                assert time.perf_counter() - start_s < 50.0  # never waits for the stalled port
        r.ports[0].free.set()
        wait_for(lambda: r.out._n_taken == r.out._n_put)
        assert r.out._n_put + r.out.n_dropped == n_offered
        assert r.out.n_dropped > 100
    on: set[str] = set()
    n_ons = 0
    for message in r.ports[0].sent:
        if message[0] == "9":
            assert message[:4] not in on
            on.add(message[:4])
            n_ons += 1
        elif message[0] == "8":
            on.remove("9" + message[1:4])
    assert not on
    assert n_ons > 100


def test_the_gate_keeps_a_place_for_each_off() -> None:
    gate = NoteGate(capacity=4)
    assert len(gate.admit([event("on", 0, n) for n in range(60, 64)], 0)) == 2  # and 2 places kept
    assert gate.admit([event("off", 1, n) for n in range(60, 64)], 2) == [
        event("off", 1, 60),
        event("off", 1, 61),
    ]
    assert gate.n_dropped == 4
    assert gate.admit([event("on", 2, 60), event("pitch", 2, 60)], 1) == [event("on", 2, 60)]


def test_vkb_midi_over_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daw:
        daw.bind(("127.0.0.1", 0))
        daw.settimeout(30.0)
        target = f"osc:127.0.0.1:{daw.getsockname()[1]}"
        with MidiOut([target], MidiSettings, RATE) as out:
            assert out.ports == (target,)
            out.put([event("on", 0, 60, 50.0), event("off", 480), event("on", 480, 127)], 480)
            got = [decode(daw.recv(2048)) for _ in range(5)]
        got += [decode(daw.recv(2048)) for _ in range(2)]
    assert got == [
        ("/vkb_midi/0/note/60", (80,)),
        ("/vkb_midi/0/pitch", (8192 + 2048,)),
        ("/vkb_midi/0/note/60", (0,)),
        ("/vkb_midi/0/pitch", (8192,)),
        ("/vkb_midi/0/note/127", (80,)),
        ("/vkb_midi/0/note/127", (0,)),
        ("/vkb_midi/0/pitch", (8192,)),
    ]
    with pytest.raises(DeviceError, match="osc:HOST:PORT"):
        MidiOut(["osc:nowhere:port"], MidiSettings, RATE)


# --- names ----------------------------------------------------------------------------------------

ALSA = [
    midi_out.SystemPort("Midi Through:Port-0", "Midi Through:Port-0 14:0", 2),
    midi_out.SystemPort("FLUID Synth:in", "FLUID Synth:in 128:0", 2),
    midi_out.SystemPort("Keys:1 20:0", "Keys:1 20:0", 2),
    midi_out.SystemPort("Keys:1 24:0", "Keys:1 24:0", 2),
]


def test_a_port_is_found_by_name_or_by_a_part_that_only_it_has() -> None:
    for target in ("FLUID Synth:in", "FLUID Synth:in 128:0", "FLUID Synth:in 131:0", "fluid"):
        assert midi_out._choose(target, ALSA) is ALSA[1]
    assert midi_out._choose("Keys:1 24:0", ALSA) is ALSA[3]


@pytest.mark.parametrize(
    ("target", "ports", "line"),
    [
        ("keys", ALSA, "fits several ports ('Keys:1 20:0', 'Keys:1 24:0'); give more of the name"),
        ("FLUID Sinth", ALSA, "no such MIDI port; did you mean 'FLUID Synth:in'?; there are 'Midi"),
        ("x", [], "has no MIDI output port"),
    ],
)
def test_a_refusal_says_what_there_is(
    target: str, ports: list[midi_out.SystemPort], line: str
) -> None:
    with pytest.raises(DeviceError, match=re.escape(line)):
        midi_out._choose(target, ports)


def test_without_a_service_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi_out, "_services", list)
    for target in ("virtual", "virtual:Solo", "Keys"):
        with (
            pytest.raises(DeviceError, match="modprobe snd-seq"),
            MidiOut([target], MidiSettings, RATE),
        ):
            pass
    with pytest.raises(DeviceError, match="modprobe snd-seq"):
        list_midi_outputs()


def test_windows_is_told_of_loopmidi(monkeypatch: pytest.MonkeyPatch) -> None:
    import rtmidi

    monkeypatch.setattr(rtmidi, "get_compiled_api", lambda: [rtmidi.API_WINDOWS_MM])
    with pytest.raises(DeviceError, match="loopMIDI"), MidiOut(["virtual"], MidiSettings, RATE):
        pass


# --- real ports, through JACK ---------------------------------------------------------------------


@pytest.fixture
def jack(jack_server: JackServer, monkeypatch: pytest.MonkeyPatch) -> JackServer:
    monkeypatch.setattr(midi_out, "_ALSA_SEQUENCER", midi_out.Path("/nowhere"))
    monkeypatch.setattr(midi_out, "RETRY_S", 0.05)
    return jack_server


class Receiver:
    """Another program's input, connected to a port or waiting to be."""

    def __init__(self, source: str = "", out: MidiOut | None = None) -> None:
        import rtmidi

        self._got: list[str] = []
        self._in = rtmidi.MidiIn(rtmidi.API_UNIX_JACK, name="receiver")
        self._in.ignore_types(False, False, False)
        self._in.set_callback(lambda item, _: self._got.append(bytes(item[0]).hex()))
        if source:
            self._in.open_port(self._in.get_ports().index(source), name="in")
        else:
            self._in.open_virtual_port("in")
        sample = 0
        while out and not self._got:  # a new connection holds from some later period on
            out.put([event("on", sample, 1), event("off", sample, 1)])
            sample += 128
            threading.Event().wait(0.002)

    @property
    def got(self) -> list[str]:
        """What arrived, without what tried the connection."""
        return [m for m in self._got if m[2:] not in ("0150", "0140")]

    def close(self) -> None:
        self._in.delete()


def test_a_virtual_port_in_jack(jack: JackServer) -> None:
    said: list[str] = []
    with MidiOut(["virtual:Solo"], MidiSettings, RATE, said.append) as out:
        receiver = Receiver("v3audio:Solo", out)
        assert out.ports == ("Solo",)
        out.put([event("on", 0, 60, 50.0), event("off", 480), event("on", 480, 62)], 480)
        expected = ["903c50", "e00050", "803c40", "e00040", "903e50"]
        wait_for(lambda: receiver.got == expected)
        out.panic()
        wait_for(lambda: receiver.got == [*expected, "803e40", *PANIC])

        jack.end(signal.SIGKILL)  # nothing is raised by it: the library goes on as if it were there
        receiver.close()
        out.put([event("on", 960, 64)], 960)
        for sample in range(960, 10**6, 960):  # more than a dead server's buffer holds
            out.put([event("pitch", sample, 64, (sample // 960 % 2) * 50.0)], sample)
        wait_for(lambda: out.ports == ("Solo (lost)",))
        jack.start()
        wait_for(lambda: len(said) == 2)  # announced again, before anybody listens
        assert out.ports == ("Solo",)
        receiver = Receiver("v3audio:Solo", out)
        out.put([event("off", 1440, 64), event("on", 1440, 65)], 1440)
        wait_for(lambda: receiver.got == ["904150"])
    wait_for(lambda: receiver.got == ["904150", "804140", *PANIC])
    receiver.close()
    assert [line.split(" (")[0] for line in said] == [
        "MIDI port Solo is lost",
        "MIDI port Solo is back",
    ]


def test_a_named_port_in_jack_vanishes_and_comes_back(jack: JackServer) -> None:
    receiver = Receiver()
    wait_for(lambda: list_midi_outputs() == ["receiver:in"])
    with (
        pytest.raises(DeviceError, match=r"no such MIDI port; there are 'receiver:in'"),
        MidiOut(["piano"], MidiSettings, RATE),
    ):
        pass
    said: list[str] = []
    with MidiOut(["receiver"], MidiSettings, RATE, said.append) as out:
        assert out.ports == ("receiver:in",)
        out.put([event("on", 0)])
        wait_for(lambda: receiver.got == [*RPN_0, "903c50"])
        receiver.close()
        wait_for(lambda: out.ports == ("receiver:in (lost)",))
        receiver = Receiver()
        wait_for(lambda: out.ports == ("receiver:in",))
        out.put([event("off", 100), event("on", 200, 62)])
        wait_for(lambda: receiver.got == [*RPN_0, "903e50"])
    wait_for(lambda: receiver.got == [*RPN_0, "903e50", "803e40", *PANIC])
    receiver.close()
