"""Being found: OSCQuery over HTTP, and announcements by zeroconf where that is installed.

OSCQuery (the proposal of Vidvox, 1.0) tells a program all addresses, their ranges and values as
JSON. It is made from the same table as everything else, answers GET only, and listens where OSC
does. zeroconf is licensed under the LGPL, so it is an extra of its own, never a part of v3audio:
``pip install v3audio[discovery]``. The one owner of zeroconf, loaded on use.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

from realtime.controls import BY_ALIAS, CONTROLS, Control
from realtime.osc import REST, OscServer
from v3audio.errors import ControlError

log = logging.getLogger("v3audio.osc")

MAX_CLIENTS = 8  # connected at the same time
GOODBYE_S = 0.2  # that leaving waits for zeroconf; what is cut off ends by itself in two minutes
_ACCESS = {"r": 1, "t": 2, "rw": 3}
_ATTRIBUTES = ("FULL_PATH", "CONTENTS", "TYPE", "ACCESS", "VALUE", "RANGE", "DESCRIPTION", "UNIT",
               "CLIPMODE")  # fmt: skip
_UNITS = {"dB": "gain.db", "dBFS": "gain.db", "ms": "time.ms", "Hz": "time.hz",
          "cents": "pitch.cents"}  # fmt: skip


def tree(server: OscServer, path: str = "/") -> dict[str, Any] | None:
    """The node at `path` and all below it, as OSCQuery describes them; None where there is none."""
    addresses = {c.address: c for c in CONTROLS if "<" not in c.address} | BY_ALIAS
    inside = path.rstrip("/") + "/"
    node = {"FULL_PATH": path} | (_leaf(server, path, addresses[path]) if path in addresses else {})
    names = dict.fromkeys(
        a[len(inside) :].partition("/")[0] for a in addresses if a.startswith(inside)
    )
    if names:
        node["CONTENTS"] = {name: tree(server, inside + name) for name in names}
        node.setdefault("ACCESS", 0)
    return node if len(node) > 1 else None


def _leaf(server: OscServer, address: str, control: Control) -> dict[str, Any]:
    is_alias = address != control.address
    leaf: dict[str, Any] = {
        "TYPE": control.types or "N",
        "ACCESS": _ACCESS[control.kind],
        "DESCRIPTION": control.help + (f" As `{control.address}`, 0 to 1." if is_alias else ""),
    }
    low, high = (0.0, 1.0) if is_alias else (control.low, control.high)
    if control.choices:
        leaf["RANGE"] = [{"VALS": list(control.choices)}]
    elif address == "/v3/timbre/index":
        leaf["RANGE"] = [{"MIN": 0, "MAX": len(server.desk.names) - 1}]
    elif low is not None and high is not None:
        leaf["RANGE"] = [{"MIN": low, "MAX": high} for _ in control.types]
    if "RANGE" in leaf:
        leaf["CLIPMODE"] = ["both" if control.kind == "rw" else "none" for _ in control.types]
    if control.unit in _UNITS and not is_alias:
        leaf["UNIT"] = [_UNITS[control.unit] for _ in control.types]
    if control.kind != "t":
        # an event, such as a note, is sent but does not stand anywhere
        with contextlib.suppress(ControlError):
            leaf["VALUE"] = list(server.value(address))
    return leaf


def host_info(server: OscServer) -> dict[str, Any]:
    """What OSCQuery's `?HOST_INFO` answers."""
    can = ("ACCESS", "VALUE", "RANGE", "DESCRIPTION", "CLIPMODE", "UNIT")
    cannot = ("LISTEN", "PATH_CHANGED", "TAGS", "CRITICAL", "EXTENDED_TYPE", "HTML")
    return {
        "NAME": "v3audio",
        "EXTENSIONS": dict.fromkeys(can, True) | dict.fromkeys(cannot, False),
        "OSC_IP": server.host,
        "OSC_PORT": server.port,
        "OSC_TRANSPORT": "UDP",
    }


def respond(server: OscServer, target: str) -> tuple[HTTPStatus, Any]:
    """Status and JSON of a GET for `target`, which is ``/path`` or ``/path?ATTRIBUTE``."""
    path, has_query, attribute = target.partition("?")
    if has_query and attribute == "HOST_INFO":
        return HTTPStatus.OK, host_info(server)
    node = tree(server, unquote(path).rstrip("/") or "/")
    if node is None:
        return HTTPStatus.NOT_FOUND, None
    if not has_query:
        return HTTPStatus.OK, node
    if attribute not in _ATTRIBUTES:
        return HTTPStatus.BAD_REQUEST, None
    if attribute not in node:
        return HTTPStatus.NO_CONTENT, None
    return HTTPStatus.OK, {attribute: node[attribute]}


class _Handler(BaseHTTPRequestHandler):
    """One GET; anything else is 501 by the base class."""

    timeout = 5.0  # a client that says nothing is let go
    server: _HttpServer

    def do_GET(self) -> None:
        with self.server.turn:  # then a rest: many questions cost the sound a share, no more
            before_s = time.monotonic()
            status, answer = respond(self.server.osc, self.path)
            body = b"" if answer is None else json.dumps(answer).encode()
            time.sleep(REST * (time.monotonic() - before_s))
        self.send_response(status)
        if answer is not None:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not on a player's terminal."""
        log.debug(format, *args)


class _HttpServer(ThreadingHTTPServer):
    """A thread for each client, up to `MAX_CLIENTS`; further ones are turned away."""

    daemon_threads = True

    def __init__(self, osc: OscServer, port: int) -> None:
        self.osc = osc
        self.address_family = socket.AF_INET6 if ":" in osc.host else socket.AF_INET
        self.turn = threading.Lock()
        self._free = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__((osc.host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news."""
        log.debug("OSCQuery: %s went away", client_address, exc_info=True)


class Discovery:
    """Makes a running `OscServer` known, from `__enter__` to `__exit__`.

    Attributes:
        port: TCP port of OSCQuery: the number of the OSC port, or a free one where that is taken.
        is_announced: zeroconf is installed and does its part.
    """

    def __init__(self, osc: OscServer) -> None:
        self._osc = osc
        try:
            self._http = _HttpServer(osc, osc.port)
        except OSError:
            self._http = _HttpServer(osc, 0)
        self.port = int(self._http.server_address[1])
        self.is_announced = False
        self._leaving = threading.Event()
        self._announcer = threading.Thread(target=self._announce, name="zeroconf", daemon=True)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="oscquery", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._announcer.start()  # it asks the network for a second whether the names are free
        return self

    def __exit__(self, *_exc: object) -> None:
        self._leaving.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._announcer.join(GOODBYE_S)

    def _announce(self) -> None:
        """Announce both services until it is time to leave; where that fails, all else goes on."""
        try:
            from zeroconf import InterfaceChoice, ServiceInfo, Zeroconf
        except ImportError:
            log.info("not announced on the network: pip install v3audio[discovery]")
            return
        ip = ipaddress.ip_address(self._osc.host.partition("%")[0])
        own = _own_ip() if ip.is_unspecified else str(ip)
        # an address that only this computer reaches is told to nobody else
        interfaces = InterfaceChoice.Default if ip.is_unspecified else [own]
        name = f"v3audio {self._osc.port}"
        try:
            with Zeroconf(interfaces=interfaces) as zeroconf:
                for kind, port in (("_osc._udp", self._osc.port), ("_oscjson._tcp", self.port)):
                    if self._leaving.is_set():
                        return
                    info = ServiceInfo(
                        f"{kind}.local.", f"{name}.{kind}.local.", port=port,
                        parsed_addresses=[own], server=f"v3audio-{self._osc.port}.local.",
                    )  # fmt: skip
                    zeroconf.register_service(info, allow_name_change=True)
                self.is_announced = True
                self._leaving.wait()
                # said once and at once; to close says it twice more, for which nobody waits
                if goodbye := zeroconf.generate_unregister_all_services():
                    zeroconf.send(goodbye)
        except Exception as e:  # zeroconf raises many kinds; to be unannounced costs no sound
            log.warning("OSC is not announced on the network (%s); it works all the same", e)


def _own_ip() -> str:
    """The address of this computer that others on its network reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way it would go
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
