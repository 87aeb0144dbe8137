"""OSC as bytes: messages in and out, bundles taken apart. The one owner of python-osc.

What arrives here comes from anyone, so nothing recurses, nothing is read past its end, and what
is refused is refused whole, with a reason, before it can mean anything.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pythonosc.parsing import osc_types

from v3audio.errors import ConfigError, ControlError, DeviceError

Value = int | float | str
Address = tuple[str, int]  # host and UDP port

BUNDLE = b"#bundle\0"
MAX_MESSAGE_BYTES = 2048  # no control needs more; python-osc reads strings byte by byte
MAX_ELEMENTS = 1024  # messages in one bundle
NTP_TO_UNIX_S = 2_208_988_800  # 1900 to 1970
_INT32 = range(-(2**31), 2**31)
_READ: dict[str, Callable[[bytes, int], tuple[Any, int]]] = {
    "i": osc_types.get_int,
    "f": osc_types.get_float,
    "s": osc_types.get_string,
    "d": osc_types.get_double,
    "h": osc_types.get_int64,
    "b": osc_types.get_blob,
    "S": osc_types.get_string,
}
_WORTH: dict[str, Any] = {"T": True, "F": False, "N": None, "I": True}  # tags without bytes
_WRITE: dict[str, Callable[[Any], bytes]] = {
    "i": osc_types.write_int,
    "f": osc_types.write_float,
    "s": osc_types.write_string,
    "b": osc_types.write_blob,
}


class Message(NamedTuple):
    """A message as it arrived; `args` hold int, float, str, bool, bytes or None."""

    address: str
    args: tuple[Any, ...]


def address_of(data: bytes) -> str:
    """The address pattern of a message, however damaged the rest may be.

    Raises:
        ControlError: No address.
    """
    end = data.find(b"\0", 0, MAX_MESSAGE_BYTES)
    try:
        address = data[:end].decode("ascii")
    except UnicodeDecodeError:
        address = ""
    if end < 0 or not address.startswith("/") or not address.isprintable():
        raise ControlError("not an OSC message: it must begin with an address such as /v3/mix")
    return address


def decode(data: bytes) -> Message:
    """Read one message; arrays are read as their values one after the other.

    Raises:
        ControlError: Not a whole OSC message, too long, or a type tag that has no meaning here.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise ControlError(f"a message of {len(data)} bytes; up to {MAX_MESSAGE_BYTES} are taken")
    address = address_of(data)
    start = (len(address) & ~3) + 4
    if len(data) % 4 or len(data) < start:
        raise ControlError("not a whole OSC message: it was cut short")
    if len(data) == start:  # old senders leave the type tags out where there are no arguments
        return Message(address, ())
    args: list[Any] = []
    try:
        tags, index = osc_types.get_string(data, start)
        if not tags.startswith(","):
            raise ControlError("not an OSC message: the type tags are missing")
        for tag in tags[1:]:
            if tag in _READ:
                value, index = _READ[tag](data, index)
                args.append(value)
            elif tag in _WORTH:
                args.append(_WORTH[tag])
            elif tag not in "[]":
                raise ControlError(f"type tag '{tag}' is not understood; send i, f or s")
            if index < start or index > len(data):
                raise ControlError("not a whole OSC message: it was cut short")
    except (osc_types.ParseError, ValueError) as e:  # ValueError: a string that is not UTF-8
        raise ControlError("not a whole OSC message: its arguments cannot be read") from e
    return Message(address, tuple(args))


def elements(data: bytes) -> list[tuple[float | None, bytes]]:
    """Take a packet apart, however deeply its bundles are nested.

    Returns:
        Each message's bytes, in order, and when it is due: UNIX seconds, None for at once. A
        bundle inside another is due no earlier than that one.

    Raises:
        ControlError: A bundle is damaged or too large; nothing of the packet is then to be used.
    """
    if not data.startswith(BUNDLE):
        return [(None, data)]
    found: list[tuple[float | None, bytes]] = []
    # open bundles, outermost first: (where the next element begins, end, due)
    stack = [(16, len(data), _due(data, 0, None))]
    while stack:
        start, end, due = stack.pop()
        if start == end:
            continue
        body = start + 4
        size = int.from_bytes(data[start:body], "big")
        if size % 4 or body + size > end:
            raise ControlError("a damaged bundle: an element is longer than the bundle")
        stack.append((body + size, end, due))
        if data.startswith(BUNDLE, body) and size >= 16:
            stack.append((body + 16, body + size, _due(data, body, due)))
        elif size:
            found.append((due, data[body : body + size]))
            if len(found) > MAX_ELEMENTS:
                raise ControlError(f"a bundle of more than {MAX_ELEMENTS} messages")
    return found


def _due(data: bytes, start: int, outer: float | None) -> float | None:
    """When the bundle at `start` is due; its time tag is 32.32 bits of seconds since 1900."""
    if len(data) < start + 16:
        raise ControlError("a damaged bundle: its time tag is cut short")
    tag = int.from_bytes(data[start + 8 : start + 16], "big")
    own = None if tag <= 1 else tag / 2**32 - NTP_TO_UNIX_S
    return own if outer is None else outer if own is None else max(own, outer)


def encode(address: str, args: Sequence[Any] = ()) -> bytes:
    """One message, of int, float and str (bytes and None too, as an echo may hold them).

    Numbers that a type cannot hold go out as the nearest that can be sent.
    """
    tags, parts = ",", []
    for value in args:
        if value is None:
            tags += "N"
            continue
        tag, value = _sendable(value)
        tags += tag
        parts.append(_WRITE[tag](value))
    encoded: bytes = osc_types.write_string(address) + osc_types.write_string(tags)
    return encoded + b"".join(parts)


def _sendable(value: Any) -> tuple[str, Any]:
    """Type tag and value: bool as 0 or 1, what exceeds 32 bits as float."""
    if isinstance(value, str):
        return "s", value.replace("\0", "")
    if isinstance(value, bytes):
        return ("b", value) if value else ("s", "")
    if isinstance(value, int) and value in _INT32:
        return "i", int(value)
    try:
        return "f", struct.unpack(">f", struct.pack(">f", float(value)))[0]
    except OverflowError:
        return "f", math.inf if value > 0 else -math.inf


def parse_endpoint(text: str, default_port: int, option: str) -> Address:
    """``HOST:PORT`` as the options take it; either part may be left out.

    Args:
        text: "127.0.0.1:9720", "studio.local", ":9000", "9000" or "[::1]:9720".
        default_port: used where none is given.
        option: its name, for the message.

    Raises:
        ConfigError: Not that, or no such port.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or port.endswith("]"):  # one part only, or the colons of [::1]
        host, port = ("", text) if text.strip().isdigit() else (text.strip(), str(default_port))
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.strip().isdigit() or not 0 <= int(port) <= 65535 or " " in host:
        raise ConfigError(
            f"{option} {text}: expected HOST:PORT with a port of 1 to 65535, as {option} "
            f"127.0.0.1:{default_port}"
        )
    return host, int(port)


def resolve(host: str, port: int, option: str) -> tuple[socket.AddressFamily, Address]:
    """Family and numeric address of a host.

    Raises:
        DeviceError: No such host.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as e:
        raise DeviceError(
            f"{option} {host}:{port}: no such host ({getattr(e, 'strerror', None) or e}); "
            "give its number, as 192.168.1.20"
        ) from None
    return family, (str(address[0]), int(address[1]))


class UdpSender:
    """Sends messages to one address; never waits, whoever listens there or not.

    Attributes:
        n_dropped: messages that the system would not take.
    """

    def __init__(self, host: str, port: int) -> None:
        """Open a socket towards HOST:PORT.

        Raises:
            DeviceError: No such host.
        """
        family, self.address = resolve(host, port, "osc")
        self.n_dropped = 0
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, address: str, *args: Value) -> None:
        """Send one message."""
        try:
            self._socket.sendto(encode(address, args), self.address)
        except OSError:  # a full buffer, or a network that is gone: as lost as any datagram
            self.n_dropped += 1

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
