"""Other programs' OSC: liblo's oscsend and oscdump, and python-osc, against a running server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from pythonosc.udp_client import SimpleUDPClient

from realtime.controls import BY_ALIAS, CONTROLS, Control, Desk
from realtime.osc import OscServer

Eventually = Callable[[Callable[[], Any]], None]
RW = [c for c in CONTROLS if c.kind == "rw"]

needs_liblo = pytest.mark.skipif(
    shutil.which("oscsend") is None, reason="liblo is missing: apt install liblo-tools"
)


def oscsend(port: int, address: str, types: str = "", *args: object) -> None:
    command = ["oscsend", "127.0.0.1", str(port), address, *([types] if types else [])]
    subprocess.run([*command, *map(str, args)], check=True, timeout=60)


def values(control: Control) -> tuple[Any, ...]:
    """Something other than the default."""
    if control.address == "/v3/morph/corners":
        return ("oboe", "cello", "trumpet", "flute")
    if "s" in control.types:
        return (control.choices[-1],) if control.choices else ("oboe",)
    if control.types == "i":
        return (
            2 if control.high is None else int(control.high - (control.default == control.high)),
        )
    assert control.low is not None and control.high is not None
    return (control.low + 0.75 * (control.high - control.low),) * len(control.types)


@needs_liblo
@pytest.mark.parametrize("control", RW, ids=lambda c: c.address)
def test_oscsend_sets_each_control(
    control: Control, server: OscServer, desk: Desk, eventually: Eventually
) -> None:
    args = values(control)
    assert desk.get(control.address) != args
    oscsend(server.port, control.address, control.types, *args)
    eventually(lambda: desk.get(control.address) == pytest.approx(args))


@needs_liblo
@pytest.mark.parametrize("alias", BY_ALIAS)
def test_oscsend_sets_each_fader(
    alias: str, server: OscServer, desk: Desk, eventually: Eventually
) -> None:
    control = BY_ALIAS[alias]
    oscsend(server.port, alias, control.types, *["0.25"] * len(control.types))
    eventually(lambda: desk.get(alias) == pytest.approx((0.25,) * len(control.types)))


@needs_liblo
def test_oscsend_pulls_every_trigger(
    server: OscServer, desk: Desk, actions: Any, eventually: Eventually
) -> None:
    oscsend(server.port, "/v3/timbre/next", "i", 1)
    eventually(lambda: desk.now.timbre == "oboe")
    oscsend(server.port, "/v3/timbre/prev")
    eventually(lambda: desk.now.timbre == "flute")
    oscsend(server.port, "/v3/midi/panic", "T")
    oscsend(server.port, "/v3/rec/export", "s", "take-1")
    oscsend(server.port, "/v3/capture/start", "s", "mine")
    oscsend(server.port, "/v3/capture/stop", "i", 1)
    wanted = [("panic",), ("export", "take-1"), ("start", "mine"), ("stop",)]
    eventually(lambda: actions.done == wanted)
    assert server.n_errors == 0


@needs_liblo
def test_oscdump_hears_what_oscsend_subscribed_to(
    server: OscServer, desk: Desk, eventually: Eventually
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        ["oscdump", "-L", str(port)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"LC_ALL": "C"},
    ) as dump:  # fmt: skip
        assert dump.stdout
        try:
            oscsend(server.port, "/v3/subscribe", "sif", "/v3/*", port, 20)
            eventually(lambda: server._subscriptions)
            heard: dict[str, str] = {}
            while not {"/v3/out/level", "/v3/heartbeat", "/v3/latency", "/v3/gate"} <= set(heard):
                if "/v3/out/level" in heard and "/v3/gate" not in heard:
                    desk.set("/v3/gate", (-33.0,))
                _, address, rest = dump.stdout.readline().split(" ", 2)
                heard[address] = rest.strip()
            assert heard["/v3/gate"].startswith("f -33.0")
            assert heard["/v3/latency"].startswith("fff 21.45")
        finally:
            dump.terminate()


def test_python_osc_speaks_with_it(server: OscServer, desk: Desk) -> None:
    client = SimpleUDPClient("127.0.0.1", server.port)
    client.send_message("/v3/n/mix", 0.5)
    client.send_message("/v3/get", "/v3/mix")
    answers = client.get_messages(30)
    assert next(answers).params == [0.5]
    client.send_message("/v3/morph/xy", [0.25, 2.0])
    assert next(answers).params == [0.25, 1.0]
    client.send_message("/v3/bypass", True)
    client.send_message("/ping", ["x", 3])
    assert next(answers).params[:2] == ["x", 3]
    assert desk.now.settings.bypass is True
