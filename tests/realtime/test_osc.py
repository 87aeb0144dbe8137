"""The OSC server's rules, one by one, over real sockets."""

from __future__ import annotations

import logging
import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from realtime import osc
from realtime.controls import BY_ALIAS, CONTROLS, MAX_SUBSCRIPTIONS, Desk
from realtime.osc import OscServer
from realtime.osc_wire import BUNDLE, NTP_TO_UNIX_S, encode
from v3audio import __version__
from v3audio.errors import ConfigError, DeviceError, TimbreError
from v3audio.notes import NoteEvent

Connect = Callable[[], Any]
Eventually = Callable[[Callable[[], Any]], None]
NOW = 1


def at(unix_s: float) -> int:
    return int((unix_s + NTP_TO_UNIX_S) * 2**32) & (2**64 - 1)


def bundle(*parts: bytes, tag: int = NOW) -> bytes:
    sized = (struct.pack(">i", len(part)) + part for part in parts)
    return BUNDLE + struct.pack(">Q", tag) + b"".join(sized)


def errors(found: list[Any]) -> list[str]:
    return [message.args[0] for message in found if message.address == "/v3/error"]


def feed(server: OscServer, data: bytes, source: tuple[str, int] = ("127.0.0.1", 9)) -> None:
    """Hand a datagram to the handler on this thread."""
    server._packet(data, source)


# -- asking and setting


def test_ping_answers_with_its_arguments_name_version_and_protocol(client: Any) -> None:
    client.send("/ping", 7, 0.5, "hello")
    assert client.get().args == (7, 0.5, "hello", "v3audio", __version__, 1)
    client.raw(b"/ping\0\0\0,Tdh\0\0\0\0" + struct.pack(">dq", 0.25, 5))
    message = client.get()
    assert message == ("/pong", (1, 0.25, 5, "v3audio", __version__, 1))
    assert type(message.args[0]) is int


@pytest.mark.parametrize(
    "control", [c for c in CONTROLS if c.kind == "rw"], ids=lambda c: c.address
)
def test_each_control_is_set_and_read_back(control: Any, client: Any) -> None:
    words = {"/v3/timbre": ("oboe",), "/v3/morph/corners": ("cello", "oboe", "flute", "trumpet")}
    if control.address in words:
        value = words[control.address]
    elif control.choices:
        value = (control.choices[-1],)
    elif "s" in control.types:
        value = ("trumpet",)
    else:
        value = (1,) if control.high is None else (control.high,) * len(control.types)
    assert client.ask(control.address, *value) == []
    assert client.value(control.address) == value
    if control.alias:
        assert client.value(control.alias) == (1.0,) * len(control.types)
        assert client.ask(control.alias, *(0.0,) * len(control.types)) == []
        assert client.value(control.address) == (control.low,) * len(control.types)


def test_numbers_of_every_type_are_accepted_for_one_another(client: Any) -> None:
    for tags, data, mix in (
        (b",i", struct.pack(">i", 0), 0.0), (b",T", b"", 1.0), (b",F", b"", 0.0),
        (b",d", struct.pack(">d", 0.5), 0.5), (b",h", struct.pack(">q", 1), 1.0),
        (b",f", struct.pack(">f", 0.25), 0.25),
    ):  # fmt: skip
        client.raw(b"/v3/mix\0" + tags + b"\0\0" + data)
        assert client.value("/v3/mix") == (mix,)
    for tags, data, value in ((b",f", struct.pack(">f", 1.0), 1), (b",F", b"", 0)):
        client.raw(b"/v3/bypass\0\0" + tags + b"\0\0" + data)
        assert client.value("/v3/bypass") == (value,)
        assert type(client.value("/v3/bypass")[0]) is int


def test_a_clamped_value_is_fed_back_and_only_then(client: Any) -> None:
    assert client.ask("/v3/mix", 0.5) == []
    assert client.ask("/v3/mix", 1.5) == [("/v3/mix", (1.0,))]
    assert client.ask("/v3/n/gain/in", -2.0) == [("/v3/n/gain/in", (0.0,))]
    assert client.ask("/v3/pitch/transpose", 3.7) == [("/v3/pitch/transpose", (4,))]
    assert client.ask("/v3/scale/name", "Major") == [("/v3/scale/name", ("major",))]
    assert client.value("/v3/gain/in") == (-60.0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("address", [*(c.address for c in CONTROLS if c.kind == "rw"
                                       and "s" not in c.types), *BY_ALIAS])  # fmt: skip
def test_nan_and_infinity_are_refused_everywhere(
    address: str, bad: float, client: Any, desk: Desk
) -> None:
    before = desk.now
    n = len(desk.get(address))
    assert errors(client.ask(address, *(bad,) * n)) == [address]
    assert desk.now is before


@pytest.mark.parametrize(
    ("address", "args"),
    [
        ("/v3/nothing", ()), ("/nothing", (1,)), ("/", ()), ("/v3/mix", ("loud",)),
        ("/v3/mix", ()), ("/v3/mix", (0.5, 0.5)), ("/v3/timbre", (3,)), ("/v3/timbre", ("oboo",)),
        ("/v3/timbre", ("../../../etc/passwd",)), ("/v3/timbre", ("x" * 300,)),
        ("/v3/out/level", (1.0,)), ("/v3/heartbeat", (1.0,)), ("/v3/n/enable", (1,)),
        ("/v3/get", ()), ("/v3/get", ("/v3/none",)), ("/v3/get", (1,)),
        ("/v3/get", ("/" + "*" * 500,)), ("/v3/rec/export", ("../take",)), ("/v3/rec/export", ()),
        ("/v3/capture/start", ("a/b",)), ("/v3/capture/start", (1,)), ("/v3/none/*", (1,)),
        ("/vkb_midi/1/note/60", (1,)), ("/v3/subscribe", ("v3",)), ("/v3/subscribe", ("/none",)),
        ("/v3/subscribe", ("/v3/*", 70000)), ("/v3/subscribe", ("/v3/*", math.nan)),
        ("/v3/subscribe", ("/v3/*", 1, 2, 3, 4)), ("/v3/unsubscribe", ("/v3/*", "x")),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_answered_and_changes_nothing(
    address: str, args: tuple[Any, ...], client: Any, desk: Desk, actions: Any, server: OscServer
) -> None:
    before = desk.now
    assert errors(client.ask(address, *args)) == [address]
    assert desk.now is before
    assert actions.done == []
    assert server.n_errors == 1
    assert client.ask("/v3/mix", 0.5) == []


def test_errors_say_what_was_wanted_and_what_is_near(client: Any) -> None:
    (message,) = client.ask("/v3/mixx", 0.5)
    assert message.args == ("/v3/mixx", "no such address; did you mean '/v3/mix'?")
    (message,) = client.ask("/v3/gate", "loud")
    assert message.args == ("/v3/gate", "'loud' came, wanted a number of -90..0 dBFS")


def test_one_bad_datagram_never_costs_the_next(client: Any, desk: Desk) -> None:
    bad = [b"", b"\0", b"junk", b"/v3/mix", b"#bundle\0", BUNDLE + b"\xff" * 30,
           b"/v3/mix\0,f\0\0", encode("/v3/timbre", ("x" * 64_000,)), b"/" + b"y" * 65_000,
           b"#bundle\0" + b"\0" * 65_000]  # fmt: skip
    for k, data in enumerate(bad, 1):
        client.raw(data)
        client.send("/v3/mix", k / 100)
        client.until_pong()
        assert desk.now.settings.mix == pytest.approx(k / 100)


def test_errors_are_rate_limited_and_counted(
    client: Any, server: OscServer, eventually: Eventually
) -> None:
    server._second_s = math.inf  # it does not end before all have come, on the slowest machine
    for _ in range(250):
        client.raw(b"junk")
    eventually(lambda: server.n_errors == 250)
    assert len(errors(client.until_pong())) == osc.ERRORS_PER_S


def test_errors_that_come_back_are_not_answered(client: Any, server: OscServer) -> None:
    assert client.ask("/v3/error", "/v3/mix", "what?") == []
    client.send("/pong", 1)
    assert client.until_pong() == []
    assert server.n_errors == 0


def test_two_servers_that_feed_each_other_come_to_rest(
    desk: Desk, actions: Any, eventually: Eventually
) -> None:
    other = Desk(desk.voice)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        OscServer("127.0.0.1", 0, desk, actions, ("127.0.0.1", port)) as first,
        OscServer("127.0.0.1", port, other, actions, ("127.0.0.1", first.port)),
    ):
        desk.set("/v3/mix", (0.5,))
        eventually(lambda: other.now.settings.mix == 0.5)
        n = first.n_received
        other.set("/v3/gate", (-30.0,))
        eventually(lambda: desk.now.settings.gate_db == pytest.approx(-30.0))
        assert first.n_received - n < 100


# -- triggers


def test_triggers_act_but_not_on_release(client: Any, actions: Any, desk: Desk) -> None:
    for args in ((), (1,), (0.5,), ("x",), (0, 0)):
        client.ask("/v3/midi/panic", *args)
    for release in (0, 0.0, False):
        client.ask("/v3/midi/panic", release)
        client.ask("/v3/timbre/next", release)
    client.raw(b"/v3/midi/panic\0\0,F\0\0")
    client.until_pong()
    assert actions.done == [("panic",)] * 5
    assert desk.now.timbre == "flute"
    client.ask("/v3/timbre/next", 1)
    assert desk.now.timbre == "oboe"
    client.ask("/v3/timbre/prev")
    assert desk.now.timbre == "flute"
    client.ask("/v3/rec/export", "take-1")
    client.ask("/v3/capture/start", "mine")
    client.ask("/v3/capture/stop")
    assert actions.done[5:] == [("export", "take-1"), ("start", "mine"), ("stop",)]


def test_what_an_action_refuses_is_told(client: Any, actions: Any) -> None:
    actions.error = TimbreError("'flute' is a shipped timbre; choose another name, as my-flute")
    ((_, args),) = client.ask("/v3/capture/start", "flute")
    assert args == ("/v3/capture/start", str(actions.error))


def test_what_cannot_follow_a_change_is_told(client: Any, desk: Desk) -> None:
    def full_disk(address: str, _values: Any) -> None:
        if address == "/v3/rec/enable":
            raise TimbreError("no space left for a take")

    desk.listeners.append(full_disk)
    ((_, args),) = client.ask("/v3/rec/enable", 1)
    assert args == ("/v3/rec/enable", "no space left for a take")
    assert client.ask("/v3/mix", 0.5) == []


def test_a_fault_of_ours_is_told_served_past_and_raised_at_the_end(
    desk: Desk, actions: Any, eventually: Eventually
) -> None:
    actions.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"), OscServer(
        "127.0.0.1", 0, desk, actions
    ) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # fmt: skip
        sender.sendto(encode("/v3/midi/panic"), ("127.0.0.1", server.port))
        sender.sendto(encode("/v3/mix", (0.5,)), ("127.0.0.1", server.port))
        eventually(lambda: desk.now.settings.mix == 0.5)


def test_list_and_dump(client: Any, desk: Desk) -> None:
    found = client.ask("/v3/timbre/list")
    items = [(k, name, f"a {name}") for k, name in enumerate(desk.names)]
    assert found == [*(("/v3/timbre/item", item) for item in items), ("/v3/timbre/end", (4,))]
    dumped = dict(client.ask("/v3/dump"))
    wanted = {c.address for c in CONTROLS if c.kind == "rw"} | set(BY_ALIAS)
    assert set(dumped) == wanted | {"/v3/latency", "/v3/xruns", "/v3/cpu"}
    assert dumped["/v3/timbre"] == ("flute",)
    assert dumped["/v3/n/gain/out"] == (pytest.approx(60 / 84),)
    assert dumped["/v3/latency"] == pytest.approx((1030000 / 48000, 6.125, 10.0))


def test_get_takes_patterns_and_meters(client: Any) -> None:
    assert client.ask("/v3/get", "/v3/gain/*") == [
        ("/v3/gain/in", (0.0,)), ("/v3/gain/out", (0.0,)),
    ]  # fmt: skip
    assert client.value("/v3/out/pitch") == (440.0, 0.75)
    assert client.value("/v3/out/code") == (21, 0.5)
    assert client.value("/v3/xruns") == (3,)


def test_patterns_in_incoming_addresses(client: Any, desk: Desk) -> None:
    assert client.ask("/v3/gain/*", -6) == []
    assert (desk.now.settings.gain_in_db, desk.now.settings.gain_out_db) == (-6.0, -6.0)
    client.ask("/v3/{bypass,freeze}", 1)
    assert desk.now.settings.bypass and desk.now.settings.freeze
    client.ask("/v3/[!a-e]reeze", 0)
    client.ask("/v3/pitch/re?", 442)
    assert (desk.now.settings.freeze, desk.now.settings.ref_hz) == (False, 442.0)
    assert errors(client.ask("/v3/scale/*", 2)) == ["/v3/scale/name"]
    assert desk.now.settings.scale_root == 2
    client.send("/pi*g", 1)
    assert client.get().address == "/pong"


# -- bundles and time


def test_nested_bundles_are_obeyed_in_order_and_heard_at_once(client: Any, desk: Desk) -> None:
    seen = []
    desk.listeners.append(lambda address, _: seen.append((address, desk.now)))
    data = bundle(
        encode("/v3/mix", (0.1,)),
        bundle(encode("/v3/mix", (0.2,)), encode("/v3/gate", (-20.0,))),
        encode("/v3/bad"), encode("/v3/bypass", (1,)), encode("/v3/get", ("/v3/mix",)),
    )  # fmt: skip
    client.raw(data)
    found = client.until_pong()
    assert errors(found) == ["/v3/bad"]
    assert ("/v3/mix", (pytest.approx(0.2),)) in found
    assert (desk.now.settings.gate_db, desk.now.settings.bypass) == (-20.0, True)
    assert {id(now) for _, now in seen} == {id(desk.now)}


def test_a_bundle_nested_100_deep(client: Any, desk: Desk) -> None:
    data = encode("/v3/mix", (0.25,))
    for _ in range(100):
        data = bundle(data)
    client.raw(data)
    client.until_pong()
    assert desk.now.settings.mix == 0.25


@pytest.mark.parametrize("unix_s", [0.0, 1e9, time.time() - 1.0, 4_102_444_800.0])
def test_1970_the_past_and_2100_are_now(unix_s: float, client: Any, desk: Desk) -> None:
    client.raw(bundle(encode("/v3/mix", (0.25,)), tag=at(unix_s)))
    client.until_pong()
    assert desk.now.settings.mix == 0.25


def test_beyond_two_seconds_is_now_with_one_warning(
    client: Any, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    warnings = []
    for k, ahead_s in enumerate((3.0, 3600.0, 300_000_000.0)):
        client.raw(bundle(encode("/v3/mix", (k / 10,)), tag=at(time.time() + ahead_s)))
        warnings += errors(client.until_pong())
        assert desk.now.settings.mix == pytest.approx(k / 10)
    assert warnings == ["#bundle"]
    assert len([r for r in caplog.records if "at once" in r.message]) == 1


def test_up_to_two_seconds_ahead_is_scheduled_in_time_order(client: Any, desk: Desk) -> None:
    told: list[tuple[float, float]] = []
    done = threading.Event()

    def listen(address: str, values: tuple[Any, ...]) -> None:
        if address == "/v3/mix":
            told.append((values[0], time.time()))
            if len(told) == 2:
                done.set()

    desk.listeners.append(listen)
    start_s = time.time()
    client.raw(bundle(encode("/v3/mix", (0.75,)), tag=at(start_s + 0.6)))
    client.raw(bundle(encode("/v3/mix", (0.5,)), tag=at(start_s + 0.5)))
    assert done.wait(30)
    assert [value for value, _ in told] == [0.5, 0.75]
    assert all(then >= start_s + due for (_, then), due in zip(told, (0.5, 0.6), strict=True))


def test_the_schedule_is_bounded(desk: Desk, actions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(osc, "MAX_SCHEDULED", 3)
    server = OscServer("127.0.0.1", 0, desk, actions)  # not entered: no thread obeys what is due
    for k in range(5):
        feed(server, bundle(encode("/v3/mix", (k / 10,)), tag=at(time.time() + 1.9)))
    assert server._n_scheduled == len(server._scheduled) == 3
    assert desk.now.settings.mix == pytest.approx(0.4)
    server._socket.close()


# -- feedback


def test_others_are_told_at_once_and_the_sender_is_not(connect: Connect) -> None:
    sender, other = connect(), connect()
    for client in (sender, other):
        client.ask("/v3/subscribe", "/v3/*", 0, 0)
    sender.send("/v3/mix", 0.5)
    assert other.get("/v3/mix").args == (0.5,)
    assert other.get("/v3/n/mix").args == (0.5,)
    assert [m for m in sender.until_pong() if "mix" in m.address] == []
    other.send("/v3/n/mix", 0.25)
    assert sender.get("/v3/mix").args == (0.25,)
    sender.send("/v3/mix", 7.0)
    assert sender.get("/v3/mix").args == (1.0,)
    assert other.get("/v3/mix").args == (1.0,)


def test_what_a_choice_brings_with_it_is_told_to_all(connect: Connect) -> None:
    sender, other = connect(), connect()
    for client in (sender, other):
        client.ask("/v3/subscribe", "/v3/timbre", 0, 0)
    sender.send("/v3/timbre", "oboe")
    assert sender.get("/v3/timbre/index").args == (2,)
    assert other.get("/v3/timbre").args == ("oboe",)
    assert other.get("/v3/timbre/index").args == (2,)
    sender.send("/v3/timbre/next")
    assert sender.get("/v3/timbre").args == ("trumpet",)


def test_changes_made_here_are_told_to_all(client: Any, desk: Desk) -> None:
    client.ask("/v3/subscribe", "/v3/gate")
    desk.set("/v3/gate", (-12.0,))
    assert client.get().args == (-12.0,)


def test_meters_come_at_the_subscribed_rate(client: Any) -> None:
    """No faster: 10 a second, not the usual 30. No slower: that only a quiet machine could tell."""
    start_s = time.monotonic()
    client.ask("/v3/subscribe", "/v3/out/level", 0, 10)
    for _ in range(4):
        assert client.get("/v3/out/level").args == (-20.0,)
    assert time.monotonic() - start_s >= 0.29


def test_meters_heartbeat_and_the_figures_of_each_second(
    monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr(osc, "BEAT_S", 0.1)
    client = connect()
    client.ask("/v3/subscribe")
    wanted = {
        "/v3/out/pitch": (440.0, 0.75), "/v3/out/level": (-20.0,), "/v3/out/code": (21, 0.5),
        "/v3/latency": (pytest.approx(21.4583, abs=1e-3), 6.125, 10.0), "/v3/xruns": (3,),
        "/v3/cpu": (0.25,),
    }  # fmt: skip
    found: dict[str, tuple[Any, ...]] = {}
    while not wanted.keys() <= found.keys():
        message = client.get()
        found[message.address] = message.args
    assert {address: found[address] for address in wanted} == wanted
    beats = [client.get("/v3/heartbeat").args[0] for _ in range(2)]
    assert sorted(beats) == [0.0, 1.0]


@pytest.fixture
def no_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server that is made after this: nothing is sent just because a second is over."""
    monkeypatch.setattr(osc, "BEAT_S", 1000.0)


def test_notes_go_out_at_once(no_beat: None, client: Any, server: OscServer, desk: Desk) -> None:
    desk.set("/v3/midi/channel", (5,))
    client.ask("/v3/subscribe", "/v3/out/note", 0, 0)
    server.put([
        NoteEvent("on", 0, 60, 90, 12.5, 1.0), NoteEvent("pitch", 1, 60, 90, 20.0, 1.0),
        NoteEvent("off", 2, 60, 0, 0.0, 1.0),
    ])  # fmt: skip
    assert client.get().args == (60, 90, 5, 12.5)
    assert client.get().args == (60, 0, 5, 0.0)
    client.ask("/v3/subscribe", "/v3/capture/*", 0, 0)
    server.say("/v3/capture/report", "mine", 1.0, 2.0)
    assert client.get().args == ("mine", 1.0, 2.0)


def test_a_full_queue_of_notes_is_counted_and_never_waits(desk: Desk, actions: Any) -> None:
    server = OscServer("127.0.0.1", 0, desk, actions)  # not entered: nobody takes them out
    on = NoteEvent("on", 0, 60, 90, 0.0, 1.0)
    for _ in range(osc.MAX_QUEUED + 7):
        server.put([on, on])
    assert server.n_dropped == 14
    server._socket.close()


# -- subscriptions


def test_the_port_may_be_another_one_and_answers_go_there(connect: Connect) -> None:
    talker, listener = connect(), connect()
    talker.send("/v3/subscribe", "/v3/mix", listener.port)
    talker.send("/ping", "there")
    assert listener.get().args[0] == "there"
    talker.send("/v3/mix", 0.5)
    talker.send("/v3/mix", 2.0)
    assert listener.get().args == (1.0,)
    third = connect()
    third.send("/v3/mix", 0.25)
    assert listener.get().args == (0.25,)


def test_subscriptions_end_by_request_or_by_time(
    connect: Connect, server: OscServer, eventually: Eventually
) -> None:
    client, other = connect(), connect()
    client.ask("/v3/subscribe", "/v3/mix")
    client.ask("/v3/subscribe", "/v3/gate")
    client.ask("/v3/subscribe", "/v3/mix")
    assert len(server._subscriptions) == 2
    client.ask("/v3/unsubscribe", "/v3/mix")
    other.ask("/v3/mix", 0.5)
    other.ask("/v3/gate", -10)
    assert client.get().address == "/v3/gate"
    other.ask("/v3/unsubscribe", "/v3/gate")  # not other's
    assert len(server._subscriptions) == 1
    other.ask("/v3/unsubscribe", "/v3/gate", client.port)
    assert server._subscriptions == ()
    client.ask("/v3/subscribe", "/v3/mix", 0, 30, 0.05)
    eventually(lambda: server._targets_of("/v3/mix") == set())


def test_there_is_room_for_64_and_then_the_oldest_ends(connect: Connect, server: OscServer) -> None:
    first = connect()
    first.ask("/v3/subscribe", "/v3/mix")
    others = connect()
    for k in range(MAX_SUBSCRIPTIONS):
        others.send("/v3/subscribe", "/v3/mix", 20000 + k)
    assert first.get("/v3/error").args[0] == "/v3/subscribe"
    assert len(server._subscriptions) == MAX_SUBSCRIPTIONS
    assert first.port not in [s.target[1] for s in server._subscriptions]


def test_osc_to_is_a_subscriber_from_the_start_for_ever(desk: Desk, actions: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(30)
        to = listener.getsockname()
        with OscServer("127.0.0.1", 0, desk, actions, to) as server:
            found = set()
            while found < {"/v3/startup", "/v3/heartbeat", "/v3/latency", "/v3/out/level"}:
                data = listener.recv(65535)
                found.add(data[: data.index(b"\0")].decode())
                if data.startswith(b"/v3/startup"):
                    assert data == encode("/v3/startup", ("v3audio", __version__))
            listener.sendto(encode("/v3/unsubscribe"), ("127.0.0.1", server.port))
            listener.sendto(encode("/ping"), ("127.0.0.1", server.port))
            while not listener.recv(65535).startswith(b"/pong"):
                pass
            assert len(server._subscriptions) == 1
            port = server.port
    with pytest.raises(ConfigError, match="itself listens"):
        OscServer("127.0.0.1", port, desk, actions, ("127.0.0.1", port))


# -- ports


def test_a_taken_port_says_what_to_type(server: OscServer, desk: Desk, actions: Any) -> None:
    with pytest.raises(DeviceError) as caught:
        OscServer("127.0.0.1", server.port, desk, actions)
    assert f"port {server.port} is taken" in str(caught.value)
    assert "--osc off" in str(caught.value)
    with pytest.raises(DeviceError, match="no address of this computer"):
        OscServer("192.0.2.7", 0, desk, actions)
    with pytest.raises(DeviceError, match="no such host"):
        OscServer("no.such.host.invalid", 0, desk, actions)


def test_to_listen_beyond_this_computer_warns(
    desk: Desk, actions: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        OscServer("0.0.0.0", 0, desk, actions)._socket.close()
        assert "anyone on that network can play" in caplog.text
        caplog.clear()
        OscServer("127.0.0.1", 0, desk, actions)._socket.close()
        assert caplog.text == ""


def test_the_last_message_is_told(client: Any, server: OscServer) -> None:
    assert server.last == ""
    client.send("/v3/mix", 0.5)
    client.send("/ping")
    client.get()
    client.ask("/v3/scale/name", "dorian")
    client.send("/v3/gain/in", -6.5)
    client.send("/v3/get", "/v3/mix")
    client.get()
    assert server.last == "/v3/get /v3/mix"
    client.send("/v3/get", "/v3/mix\x1b[2J\n")
    client.get()
    assert server.last == "/v3/get /v3/mix?[2J?"


# -- floods


def drive(server: OscServer, packets: list[bytes]) -> None:
    server._obey_flood([(data, ("127.0.0.1", 9)) for data in packets])


def test_in_a_flood_the_newest_valid_value_of_each_control_counts(
    desk: Desk, actions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = OscServer("127.0.0.1", 0, desk, actions)
    told: list[str] = []
    desk.listeners.append(lambda address, _: told.append(address))
    faders = [encode("/v3/mix", (k / 1000,)) for k in range(400)]
    drive(server, [*faders, encode("/v3/gate", (-9.0,)), encode("/v3/mix", ("bad",))])
    assert desk.now.settings.mix == pytest.approx(0.399)
    assert desk.now.settings.gate_db == -9.0
    assert told == ["/v3/gate", "/v3/n/gate", "/v3/mix", "/v3/n/mix"]
    monkeypatch.setattr(osc, "OTHERS_PER_S", 0)  # no time passes
    drive(server, [encode("/v3/midi/panic")] * 3000)
    assert server.n_skipped == 3000 - len(actions.done) == 3000 - osc.OTHERS_AT_ONCE
    server._socket.close()


def test_a_flood_is_survived_and_its_last_value_stands(
    client: Any, server: OscServer, desk: Desk, eventually: Eventually
) -> None:
    rng = random.Random(4)
    for k in range(5000):
        client.send("/v3/mix", k / 5000)
        if k % 20 == 0:
            client.raw(rng.randbytes(40))
        if k % 500 == 499:  # as many as any system holds for a program that naps
            eventually(lambda k=k: server.n_received > k)
    eventually(lambda: desk.now.settings.mix == pytest.approx(4999 / 5000))
    assert server.n_received == 5250
    client.until_pong()


@pytest.mark.slow
def test_100000_random_and_mutated_datagrams(desk: Desk, actions: Any) -> None:
    """Straight into the handler; what is valid is obeyed, nothing is raised, nothing grows."""
    server = OscServer("127.0.0.1", 0, desk, actions)
    server._spend = lambda _cost: None  # type: ignore[method-assign]  # all of them, however fast
    rng = random.Random(7)
    addresses = [c.address for c in CONTROLS] + list(BY_ALIAS)
    values: list[Any] = [0, 1, -1, 0.5, 2**31 - 1, -(2**31), math.nan, math.inf, 1e30, "", "flute",
                         "../x", "a" * 300, "/v3/*", b"\0\1", None, "flute:0.5,oboe:1"]  # fmt: skip
    good = [
        encode(rng.choice(addresses), [rng.choice(values) for _ in range(rng.randrange(4))])
        for _ in range(2000)
    ]
    good += [bundle(*rng.sample(good, 3), tag=rng.choice([0, 1, 2**63, at(0)])) for _ in range(200)]
    for k in range(100_000):
        if k % 4 == 0:
            data = rng.randbytes(rng.randrange(48))
        else:
            data = good[rng.randrange(len(good))]
            for _ in range(k % 4 - 1):
                where = rng.randrange(len(data))
                kind = rng.randrange(3)
                if kind == 0:
                    data = data[:where] + bytes([rng.randrange(256)]) + data[where + 1 :]
                elif kind == 1:
                    data = data[: where + 1]
                else:
                    data = (
                        data[:where]
                        + rng.choice([b"\0\0\0\0", b"*", b"{a,", b"\xff"])
                        + data[where:]
                    )
        feed(server, data, ("127.0.0.1", 1 + rng.randrange(3)))
        server._outbox.empty() or server._outbox.get_nowait()
    assert server._bug is None
    assert server.n_errors > 30_000
    assert len(server._subscriptions) <= MAX_SUBSCRIPTIONS
    assert len(actions.done) > 100
    feed(server, encode("/v3/mix", (0.375,)))
    assert desk.now.settings.mix == 0.375
    server._socket.close()
