"""Real OSC programs play the real server and desk: every address, from oscsend, sclang and Pd."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from benchmarks.jack_rig import wait_for
from realtime.controls import BY_ADDRESS, CONTROLS, Desk
from realtime.daw_kit import name_of
from realtime.osc import OscServer
from realtime.osc_wire import decode, encode
from realtime.stats import Latency, Snapshot
from v3audio import timbres
from v3audio.engine import Readout
from v3audio.notes import NoteEvent
from v3audio.paths import demo_recording

WAIT_S = 60.0  # far more than any of it takes, for a busy machine
NAMES = ("flute", "oboe", "viola", "tuba")
VALUES: dict[str, tuple] = {  # none of them as at the start
    "/v3/enable": (0,),
    "/v3/bypass": (1,),
    "/v3/freeze": (1,),
    "/v3/timbre": ("oboe",),
    "/v3/timbre/index": (2,),
    "/v3/timbre/fade_ms": (200.0,),
    "/v3/morph/a": ("viola",),
    "/v3/morph/b": ("tuba",),
    "/v3/morph/amount": (0.25,),
    "/v3/morph/xy": (0.25, 0.75),
    "/v3/morph/corners": ("tuba", "viola", "oboe", "flute"),
    "/v3/mix": (0.5,),
    "/v3/gain/in": (-3.0,),
    "/v3/gain/out": (-6.0,),
    "/v3/gate": (-60.0,),
    "/v3/pitch/transpose": (-12,),
    "/v3/pitch/fine": (50.0,),
    "/v3/pitch/snap": (1.0,),
    "/v3/pitch/ref": (442.0,),
    "/v3/scale/root": (9,),
    "/v3/scale/name": ("minor",),
    "/v3/midi/enable": (0,),
    "/v3/midi/channel": (2,),
    "/v3/midi/mode": ("mpe",),
    "/v3/midi/bend_range": (48,),
    "/v3/midi/min_note": (40.0,),
    "/v3/midi/sensitivity": (0.75,),
    "/v3/midi/velocity": ("attack",),
    "/v3/rec/enable": (1,),
}


class Played:
    """What a session offers to OSC; each call is noted and wakes whoever waits."""

    def __init__(self) -> None:
        self.called: list[tuple[str, ...]] = []
        self.changed = threading.Condition()

    def note(self, *call: str) -> None:
        with self.changed:
            self.called.append(call)
            self.changed.notify_all()

    def wait_for(self, is_done: Callable[[], bool]) -> bool:
        # asked without the condition: it asks the desk, whose listeners (`note`) wait for it
        end_s = time.monotonic() + WAIT_S
        while not (done := is_done()) and time.monotonic() < end_s:
            with self.changed:
                self.changed.wait(0.05)
        return done

    def panic(self) -> None:
        self.note("panic")

    def export_take(self, name: str) -> None:
        self.note("export", name)

    def capture_start(self, name: str) -> None:
        self.note("capture", name)

    def capture_stop(self) -> None:
        self.note("captured")

    def snapshot(self) -> Snapshot:
        return Snapshot(
            state="playing", timbre="flute", elapsed_s=1.0, input_db=-20.0, output_db=-20.0,
            note=None, cents=0.0, pitch_hz=0.0, confidence=0.0,
            latency=Latency(480, 256, 128, 48000), xruns=3, underruns=1, overruns=1,
            device_xruns=1, late_hops=0, dropped_events=0, cpu=0.25, step_p99_ms=1.0, n_notes=0,
            osc="", midi=(), recording=False,
        )  # fmt: skip

    def readout(self) -> Readout:
        return Readout(-12.5, 440.0, 0.5, 69, 0.0, 7, 0.5, -20.0)


@pytest.fixture(scope="module")
def known() -> dict[str, timbres.Timbre]:
    return {name: timbres.find(name) for name in NAMES}


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def server(known, played):
    desk = Desk(known["flute"], known)
    desk.listeners.append(lambda address, args: played.note(address, *map(str, args)))
    with OscServer("127.0.0.1", 0, desk, played) as server:
        yield server


def oscsend(server: OscServer, address: str, types: str, *args: object) -> None:
    if shutil.which("oscsend") is None:
        pytest.skip("oscsend is not installed: apt install liblo-tools")
    words = [types, *map(str, args)] if types else []
    subprocess.run(["oscsend", "127.0.0.1", str(server.port), address, *words], check=True)


def stands(desk: Desk, address: str) -> bool:
    return desk.get(address) == pytest.approx(VALUES[address])


def test_values_name_every_control() -> None:
    assert VALUES.keys() == {c.address for c in CONTROLS if c.kind == "rw"}


@pytest.mark.parametrize("address", VALUES)
def test_oscsend_sets(address, server, played) -> None:
    assert not stands(server.desk, address)
    oscsend(server, address, BY_ADDRESS[address].types, *VALUES[address])
    assert played.wait_for(lambda: stands(server.desk, address))


@pytest.mark.parametrize("address", [c.address for c in CONTROLS if c.alias])
def test_oscsend_sets_by_alias(address, server, played) -> None:
    control = BY_ADDRESS[address]
    values = control.to_alias(VALUES[address])
    oscsend(server, control.alias, control.types, *values)
    assert played.wait_for(lambda: stands(server.desk, address))


def test_oscsend_triggers_and_is_answered(server, played) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(WAIT_S)
        heard: dict[str, tuple] = {}

        def wait_for(address: str) -> tuple:
            while address not in heard:
                message = decode(listening.recv(4096))
                heard[message.address] = message.args
            return heard.pop(address)

        port = listening.getsockname()[1]
        oscsend(server, "/v3/subscribe", "siff", "/v3/*", port, 60.0, 0.0)
        assert wait_for("/v3/out/level") == (-12.5,)
        assert wait_for("/v3/out/pitch") == (440.0, 0.5)
        assert wait_for("/v3/out/code") == (7, 0.5)
        assert wait_for("/v3/latency") == pytest.approx((18.0, 10.0, 2.6667), abs=1e-3)
        assert wait_for("/v3/xruns") == (3,)
        assert wait_for("/v3/cpu") == (0.25,)
        assert wait_for("/v3/heartbeat")[0] in (0.0, 1.0)
        server.put([NoteEvent("on", 0, 60, 100, -3.5, 1.0)])
        assert wait_for("/v3/out/note") == (60, 100, 1, -3.5)

        oscsend(server, "/v3/timbre/next", "")
        assert wait_for("/v3/timbre") == ("oboe",)
        oscsend(server, "/v3/timbre/prev", "")
        assert wait_for("/v3/timbre/index") == (1,)
        assert wait_for("/v3/timbre") == ("flute",)
        oscsend(server, "/v3/midi/panic", "")
        oscsend(server, "/v3/rec/export", "s", "take-1")
        oscsend(server, "/v3/capture/start", "s", "mine")
        oscsend(server, "/v3/capture/stop", "")
        wanted = {("panic",), ("export", "take-1"), ("capture", "mine"), ("captured",)}
        assert played.wait_for(lambda: wanted <= set(played.called))
        oscsend(server, "/v3/unsubscribe", "si", "/v3/*", port)


def test_sclang_moves_everything(server, played, run, kit, tmp_path) -> None:
    conf, script = tmp_path / "conf.yaml", tmp_path / "play.scd"
    conf.write_text(f"includePaths:\n    - {kit / 'supercollider/v3audio'}\nexcludePaths: []\n")
    sets = "\n".join(
        f"v.set({', '.join(_sc(a) for a in (name_of(BY_ADDRESS[address]), *args))});"
        for address, args in VALUES.items()
    )
    script.write_text(
        f'v = V3Audio("127.0.0.1", {server.port});\n'
        "v.onPong { |echo ...who| [\\pong, echo, who[0]].postln };\n"
        "v.onNote { |note, velocity| [\\note, note, velocity].postln };\n"
        'v.on("timbre/end") { |n| [\\timbres, n].postln };\n'
        "v.onError { |address, reason| [\\error, address, reason].postln };\n"
        f'v.list; v.ping(7); v.next; v.panic; v.set("mix", "loud");\n{sets}\n'
    )
    program = run("sclang", "-l", str(conf), str(script), HOME=str(tmp_path),
                  QTWEBENGINE_DISABLE_SANDBOX="1", QT_QPA_PLATFORM="offscreen")  # fmt: skip
    last = [a for a in VALUES if a not in ("/v3/timbre", "/v3/timbre/index")]
    assert played.wait_for(lambda: all(stands(server.desk, address) for address in last))
    assert ("/v3/timbre", "oboe") in played.called
    assert ("panic",) in played.called
    server.put([NoteEvent("on", 0, 60, 100, -3.5, 1.0)])
    for line in (
        "[ timbres, 4 ]",
        "[ pong, 7, v3audio ]",
        "[ error, /v3/mix, ",
        "[ note, 60, 100 ]",
    ):
        program.wait_for(line)


def test_pd_moves_everything_and_shows_what_stands(server, played, run, kit) -> None:
    server.desk.set("/v3/midi/mode", ("notes",))
    sends = "; ".join(
        f"v3audio-help {address.removeprefix('/v3/')} {' '.join(map(str, args))}"
        for address, args in VALUES.items()
    )
    program = run("pd", "-nogui", "-noaudio", "-nomidi", "-stderr",
                  "-open", str(kit / "pd/v3audio-help.pd"),
                  "-send", f"; v3audio-help connect 127.0.0.1 {server.port}; {sends}")  # fmt: skip
    last = [a for a in VALUES if a not in ("/v3/timbre", "/v3/timbre/index")]
    assert played.wait_for(lambda: all(stands(server.desk, address) for address in last))
    program.wait_for("feedback: midi mode notes\n")
    program.wait_for("feedback: out level -12.5\n")
    server.put([NoteEvent("on", 0, 60, 100, -3.5, 1.0)])
    program.wait_for("note: 60 100 2 -3.5\n")


def _sc(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_pd_plays_a_real_session(run, kit, tmp_path) -> None:
    """From the command line to Pd's console: a real recording's notes, while Pd moves the mix."""
    sound, rate = soundfile.read(demo_recording(), dtype="int16")
    long = tmp_path / "long.flac"  # it goes on until Pd is there, on the slowest machine
    soundfile.write(long, np.tile(sound, (10, 1) if sound.ndim > 1 else 10), rate)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(WAIT_S)
        asking.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        live = run(sys.executable, "-c", "from v3audio.cli import main; main()", "live",
                   "--input", str(long), "--output", "none", "--pace", "realtime",
                   "--osc", f"127.0.0.1:{port}", "--timbre", "clarinet")  # fmt: skip
        live.wait_for(f"127.0.0.1:{port}")
        pd = run("pd", "-nogui", "-noaudio", "-nomidi", "-stderr",
                 "-open", str(kit / "pd/v3audio-help.pd"), "-send",
                 f"; v3audio-help connect 127.0.0.1 {port}; v3audio-help mix 0.25")  # fmt: skip
        pd.wait_for("feedback: timbre clarinet\n")
        pd.wait_for("feedback: out level ")
        pd.wait_for("note: ")

        def mix() -> tuple:
            asking.sendto(encode("/v3/get", ("/v3/mix",)), ("127.0.0.1", port))
            return decode(asking.recv(4096))

        wait_for(lambda: mix() == ("/v3/mix", (0.25,)), "what Pd set")

        live.process.send_signal(signal.SIGINT)
        assert live.process.wait(WAIT_S) == 0
