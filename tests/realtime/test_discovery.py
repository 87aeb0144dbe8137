"""OSCQuery over real HTTP, and zeroconf as another program on this computer hears it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from realtime.controls import BY_ALIAS, CONTROLS
from realtime.discovery import Discovery, host_info
from realtime.osc import OscServer


@pytest.fixture
def discovery(server: OscServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Discovery]:
    monkeypatch.setattr(Discovery, "_announce", lambda self: None)  # HTTP alone
    with Discovery(server) as discovery:
        yield discovery


def ask(port: int, target: str, method: str = "GET") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    is_json = (response.headers.get("Content-Type") or "").startswith("application/json")
    return response.status, json.loads(body) if is_json else None


def leaves(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    inside = [leaves(child) for child in node.get("CONTENTS", {}).values()]
    own = {node["FULL_PATH"]: node} if "TYPE" in node else {}
    return own | {path: leaf for found in inside for path, leaf in found.items()}


def test_the_tree_holds_the_whole_table(discovery: Discovery) -> None:
    status, tree = ask(discovery.port, "/")
    assert status == 200
    assert tree["FULL_PATH"] == "/"
    found = leaves(tree)
    table = {c.address: c for c in CONTROLS if "<" not in c.address} | BY_ALIAS
    assert set(found) == set(table)
    for path, leaf in found.items():
        control = table[path]
        assert leaf["ACCESS"] == {"r": 1, "t": 2, "rw": 3}[control.kind]
        assert leaf["TYPE"] == (control.types or "N")
        for each in ("RANGE", "VALUE", "CLIPMODE"):
            assert each not in leaf or len(leaf[each]) == len(control.types)
        if control.kind == "rw":
            assert "VALUE" in leaf


def test_ranges_values_and_words(discovery: Discovery, client: Any) -> None:
    client.ask("/v3/mix", 0.25)
    _, mix = ask(discovery.port, "/v3/mix")
    assert (mix["VALUE"], mix["RANGE"]) == ([0.25], [{"MIN": 0, "MAX": 1}])
    _, xy = ask(discovery.port, "/v3/morph/xy?RANGE")
    assert xy == {"RANGE": [{"MIN": 0, "MAX": 1}] * 2}
    _, mode = ask(discovery.port, "/v3/midi/mode?RANGE")
    assert mode == {"RANGE": [{"VALS": ["notes", "bend", "mpe"]}]}
    _, alias = ask(discovery.port, "/v3/n/gain/out?VALUE")
    assert alias["VALUE"] == [pytest.approx(60 / 84)]
    _, level = ask(discovery.port, "/v3/out/level?VALUE")
    assert level == {"VALUE": [-20.0]}
    _, index = ask(discovery.port, "/v3/timbre/index?RANGE")
    assert index == {"RANGE": [{"MIN": 0, "MAX": 3}]}
    _, branch = ask(discovery.port, "/v3/gain/?CONTENTS")
    assert set(branch["CONTENTS"]) == {"in", "out"}


def test_the_host_tells_where_osc_goes(discovery: Discovery, server: OscServer) -> None:
    status, info = ask(discovery.port, "/?HOST_INFO")
    assert (status, info) == (200, host_info(server))
    assert (info["OSC_IP"], info["OSC_PORT"], info["OSC_TRANSPORT"]) == (
        "127.0.0.1", server.port, "UDP",
    )  # fmt: skip
    assert info["EXTENSIONS"]["RANGE"] and not info["EXTENSIONS"]["LISTEN"]


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/v3/nothing", "GET", 404), ("/v3/mix?NONSENSE", "GET", 400), ("/v3/mix?", "GET", 400),
        ("/v3/midi/panic?VALUE", "GET", 204), ("/v3/out/note?VALUE", "GET", 204),
        ("/../../etc/passwd", "GET", 404), ("/%2e%2e/etc", "GET", 404), ("/v3/mix", "POST", 501),
        ("/v3/mix", "PUT", 501), ("/" + "x" * 70_000, "GET", 414),
    ],
)  # fmt: skip
def test_statuses(target: str, method: str, status: int, discovery: Discovery) -> None:
    assert ask(discovery.port, target, method)[0] == status


def test_it_listens_where_osc_does_and_on_its_port(
    discovery: Discovery, server: OscServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert discovery.port == server.port
    assert discovery._http.server_address[0] == "127.0.0.1"
    second = Discovery(server)  # the port is taken now
    assert second.port != server.port
    with second:
        assert ask(second.port, "/v3/mix")[0] == 200


def test_silent_and_rude_clients_cost_the_others_nothing(discovery: Discovery) -> None:
    silent = [socket.create_connection(("127.0.0.1", discovery.port)) for _ in range(4)]
    for each in silent[:2]:
        each.sendall(b"\xff\x00junk\r\n\r\n")
    assert ask(discovery.port, "/v3/mix?VALUE") == (200, {"VALUE": [1.0]})
    for each in silent:
        each.close()


def test_another_program_finds_both_services(
    server: OscServer, eventually: Callable[[Callable[[], Any]], None]
) -> None:
    from zeroconf import ServiceBrowser, ServiceListener, Zeroconf

    found: dict[str, Any] = {}
    both = threading.Event()

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            info = zc.get_service_info(type_, name)
            if info and f"v3audio {server.port}" in name:
                found[type_] = (info.parsed_addresses(), info.port)
            if len(found) == 2:
                both.set()

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            gone.set()

    gone = threading.Event()
    with Discovery(server) as discovery:
        zeroconf = Zeroconf(interfaces=["127.0.0.1"])
        ServiceBrowser(zeroconf, ["_osc._udp.local.", "_oscjson._tcp.local."], Listener())
        assert both.wait(60)
        eventually(lambda: discovery.is_announced)
    assert gone.wait(60)
    zeroconf.close()
    discovery._announcer.join()
    assert found == {
        "_osc._udp.local.": (["127.0.0.1"], server.port),
        "_oscjson._tcp.local.": (["127.0.0.1"], discovery.port),
    }


def test_leaving_waits_for_no_announcer(
    server: OscServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C feels instant."""
    answers = threading.Event()
    monkeypatch.setattr(Discovery, "_announce", lambda self: answers.wait(100))
    with Discovery(server) as discovery:
        pass
    assert discovery._announcer.is_alive()
    answers.set()
    discovery._announcer.join()


def test_without_zeroconf_all_else_works(
    server: OscServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zeroconf", None)
    with Discovery(server) as discovery:
        assert ask(discovery.port, "/v3/mix?VALUE") == (200, {"VALUE": [1.0]})
    assert not discovery.is_announced
