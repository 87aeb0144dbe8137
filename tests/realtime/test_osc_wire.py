"""OSC as bytes: messages both ways against python-osc's own, bundles, and whatever is no OSC."""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

import pytest
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from realtime.osc_wire import (
    BUNDLE,
    MAX_ELEMENTS,
    MAX_MESSAGE_BYTES,
    NTP_TO_UNIX_S,
    Message,
    UdpSender,
    decode,
    elements,
    encode,
    parse_endpoint,
)
from v3audio.errors import ConfigError, ControlError, DeviceError


def bundle(*parts: bytes, tag: int = 1) -> bytes:
    sized = (struct.pack(">i", len(part)) + part for part in parts)
    return BUNDLE + struct.pack(">Q", tag) + b"".join(sized)


def built(address: str, *args: tuple[str, Any]) -> bytes:
    builder = OscMessageBuilder(address)
    for tag, value in args:
        builder.add_arg(value, tag)
    return bytes(builder.build().dgram)


def test_bytes_on_the_wire() -> None:
    expected = "2f76332f 6d697800 2c666973 00000000 3f000000 ffffffff 61620000"
    data = encode("/v3/mix", (0.5, -1, "ab"))
    assert data == bytes.fromhex(expected)
    assert decode(data) == Message("/v3/mix", (0.5, -1, "ab"))


@pytest.mark.parametrize(
    ("args", "read"),
    [
        ([("i", 7)], (7,)),
        ([("f", 0.25)], (0.25,)),
        ([("d", 0.1)], (0.1,)),
        ([("h", 2**40)], (2**40,)),
        ([("s", "flöte")], ("flöte",)),
        ([("T", True), ("F", False), ("N", None)], (True, False, None)),
        ([("b", b"abcde"), ("i", 1)], (b"abcde", 1)),
        ([("[", ""), ("i", 1), ("i", 2), ("]", "")], (1, 2)),
        ([], ()),
    ],
)
def test_what_python_osc_builds_is_read(args: list[Any], read: tuple[Any, ...]) -> None:
    if args and args[0][0] == "[":
        builder = OscMessageBuilder("/a")
        builder.add_arg([1, 2])
        assert decode(bytes(builder.build().dgram)).args == read
    else:
        assert decode(built("/a", *args)).args == read


@pytest.mark.parametrize(
    ("value", "tag", "read"),
    [
        (True, "i", 1), (2**31 - 1, "i", 2**31 - 1), (2**31, "f", 2.0**31),
        (10**60, "f", float("inf")), (1e300, "f", float("inf")), (-1e300, "f", float("-inf")),
        (b"xy", "b", b"xy"),
        (b"", "s", ""), ("a\0b", "s", "ab"), (None, "N", None),
    ],
)  # fmt: skip
def test_what_is_sent_is_whole_numbers_floats_and_text(value: Any, tag: str, read: Any) -> None:
    data = encode("/a", (value,))
    assert data[4:6] == b"," + tag.encode()
    assert OscMessage(data).params == [read]


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"\0", b"/", b"/a", b"/a\0", b"a\0\0\0", b"\xff" * 8, b"/\xe4\0\0,\0\0\0", b"/a\n\0",
        b"/a\0\0,i\0\0", b"/a\0\0,i\0\0\0\0\0", b"/a\0\0,f\0\0", b"/a\0\0if\0\0\0\0\0\0",
        b"/a\0\0,s\0\0abcd", b"/a\0\0,s\0\0\xff\xfe\0\0", b"/a\0\0,b\0\0\xff\xff\xff\xf0abcd",
        b"/a\0\0,b\0\0\0\0\0\x20abcd", b"/a\0\0,Q\0\0", b"/a\0\0,iiii", b"/a\0\0,d\0\0\0\0\0\0",
        b"/a\0\0,s\0\0" + b"x" * 65536 + b"\0" * 4, b"/" + b"x" * 65536 + b"\0" * 3,
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_whole(bad: bytes) -> None:
    with pytest.raises(ControlError):
        decode(bad)


def test_bundles_are_taken_apart_in_order() -> None:
    a, b, c = encode("/a"), encode("/b", (1,)), encode("/c")
    assert elements(a) == [(None, a)]
    assert elements(bundle(a, bundle(b), c)) == [(None, a), (None, b), (None, c)]
    assert elements(bundle()) == []
    builder = OscBundleBuilder(1_800_000_000.5)
    builder.add_content(OscMessage(a))
    assert elements(bytes(builder.build().dgram)) == [(pytest.approx(1_800_000_000.5), a)]


def test_an_inner_bundle_is_due_no_earlier_than_the_outer() -> None:
    def tag(unix_s: float) -> int:
        return round((unix_s + NTP_TO_UNIX_S) * 2**32)

    a = encode("/a")
    early, late = tag(1e9), tag(2e9)
    for outer, inner, due in ((early, late, 2e9), (late, early, 2e9), (late, 1, 2e9), (1, 1, None)):
        ((found, _),) = elements(bundle(bundle(a, tag=inner), tag=outer))
        assert found == (due if due is None else pytest.approx(due))


@pytest.mark.parametrize("depth", [100, 3000])
def test_deep_nesting_is_no_depth_of_calls(depth: int) -> None:
    data = encode("/a")
    for _ in range(depth):
        data = bundle(data)
    assert elements(data) == [(None, encode("/a"))]


@pytest.mark.parametrize(
    "bad",
    [
        BUNDLE, BUNDLE + b"\0" * 7, bundle(b"") + b"\0", bundle() + b"\0\0\0\4",
        bundle() + b"\xff\xff\xff\xff", bundle() + b"\x7f\xff\xff\xfc" + b"\0" * 8,
        bundle(encode("/a"), bundle() + b"\0\0\0\x10/b\0\0"),
    ],
)  # fmt: skip
def test_a_damaged_bundle_is_refused_whole(bad: bytes) -> None:
    with pytest.raises(ControlError, match="damaged"):
        elements(bad)


def test_what_a_packet_may_hold_is_bounded() -> None:
    with pytest.raises(ControlError, match=str(MAX_ELEMENTS)):
        elements(bundle(*[encode("/a")] * (MAX_ELEMENTS + 1)))
    with pytest.raises(ControlError, match=str(MAX_MESSAGE_BYTES)):
        decode(encode("/a", ("x" * MAX_MESSAGE_BYTES,)))


def test_random_and_mutated_packets_are_read_or_refused() -> None:
    rng = random.Random(1)
    good = [encode("/v3/mix", (0.5,)), bundle(encode("/a", (1, "x")), bundle(encode("/b")))]
    n_read = 0
    for k in range(20_000):
        data = bytearray(rng.choice(good) if k % 2 else rng.randbytes(rng.randrange(64)))
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            for _, message in elements(bytes(data[: rng.choice([len(data), 17])])):
                decode(message)
                n_read += 1
        except ControlError:
            pass
    assert n_read > 1000


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("studio.local", ("studio.local", 9720)),
        (":9000", ("127.0.0.1", 9000)),
        ("9000", ("127.0.0.1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::1]", ("::1", 9720)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text, 9720, "--osc") == endpoint


@pytest.mark.parametrize("text", ["host:", "host:x", "host:70000", "host:-1", "a b:1", "1:2:x"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        parse_endpoint(text, 9720, "--osc")


def test_the_sender_sends_and_never_minds() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        sender = UdpSender("127.0.0.1", listener.getsockname()[1])
        sender.send("/vkb_midi/1/note/60", 90)
        assert decode(listener.recv(100)) == Message("/vkb_midi/1/note/60", (90,))
    for _ in range(3):
        sender.send("/vkb_midi/1/note/60", 0)  # nobody listens any more
    sender.close()
    sender.send("/late")
    assert sender.n_dropped >= 1
    with pytest.raises(DeviceError, match="no such host"):
        UdpSender("no.such.host.invalid", 9000)
