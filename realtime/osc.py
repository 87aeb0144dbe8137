"""The OSC server: what arrives moves the desk, what changes and what is heard goes out.

Two threads. One receives: it takes packets apart, sets the desk and answers. One sends: notes at
once, changes to the other subscribers, meters at each one's rate, a heartbeat each second. The
engine's thread only ever puts notes into a bounded queue.

A flood must not cost the sound anything. Both threads hold Python's lock while they work, so beyond
`FLOOD_PER_S` the receiver naps for some times as long as it worked and then takes all that came
meanwhile at once: of several messages to one control the newest that is valid counts, and of
messages that cannot be merged so, no more than `OTHERS_PER_S` are obeyed and the rest is counted.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import ipaddress
import logging
import math
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from realtime.controls import (
    BY_ADDRESS,
    BY_ALIAS,
    CONTROLS,
    ERRORS_PER_S,
    FLOOD_PER_S,
    MAX_PATTERN,
    MAX_SUBSCRIPTIONS,
    OTHERS_PER_S,
    PROTOCOL,
    Desk,
    addresses_of,
    check_name,
    matches,
)
from realtime.osc_wire import Address, address_of, decode, elements, encode, resolve
from v3audio import __version__
from v3audio.errors import ConfigError, ControlError, DeviceError, V3AudioError, did_you_mean

if TYPE_CHECKING:
    from realtime.stats import Snapshot
    from v3audio.engine import Readout
    from v3audio.notes import NoteEvent

log = logging.getLogger("v3audio.osc")

MAX_CLIENTS = 64  # that errors are answered to in one second
MAX_HZ = 100.0
MAX_AHEAD_S = 2.0
MAX_SCHEDULED = 1000  # messages of bundles that are not due yet
MAX_QUEUED = 1000  # what waits to be sent
OTHERS_AT_ONCE = 500
RESERVE = 100  # of these for messages that cost little
RECEIVE_BUFFER_BYTES = 1 << 22  # what comes while the receiver naps
REST = 4.0  # rest after work, in multiples of it: what a flood may take is a fifth of one core
BEAT_S = 1.0
WINDOW_S = 0.1
MAX_NAP_S = 0.03
MAX_DRAINED = 4096  # datagrams taken at once
MAX_TRIES = 8  # of the newest messages to one control until one is valid
SILENCE_DB = -120.0
MAX_LAST = 80  # characters of `last`
_IGNORED = frozenset({"/v3/error", "/pong"})  # never answered, or two servers would talk for ever
_METERS = ("/v3/out/pitch", "/v3/out/level", "/v3/out/code")
_STATE = tuple(a for c in CONTROLS if c.kind == "rw" for a in (c.address, c.alias) if a)
_EACH_SECOND = ("/v3/latency", "/v3/xruns", "/v3/cpu")
_COMMON = frozenset({"/v3/*", "/v3", "/*", *BY_ADDRESS, *BY_ALIAS})  # patterns not looked up
_HOLDING = dict.fromkeys((*_STATE, *_METERS, *_EACH_SECOND))
_SETTABLE = frozenset(address.encode() for address in _STATE)


class Actions(Protocol):
    """What triggers do; called on the OSC thread, so each returns at once.

    A `V3AudioError` that is raised becomes `/v3/error` to whoever asked.
    """

    def panic(self) -> None:
        """All notes off."""

    def export_take(self, name: str) -> None:
        """Write the take under that name."""

    def capture_start(self, name: str) -> None:
        """Begin a new timbre from what is played."""

    def capture_stop(self) -> None:
        """End it."""

    def snapshot(self) -> Snapshot:
        """What a player sees."""

    def readout(self) -> Readout:
        """What is heard just now."""


@dataclass(slots=True)
class Subscription:
    """Who gets what.

    Attributes:
        client: who asked.
        target: where it goes.
        pattern: which addresses, and all below them.
        hz: how often meters are sent; 0 for never.
        until_s: monotonic time at which it ends.
        due_s: when the next meters go out; the sending thread's.
    """

    client: Address
    target: Address
    pattern: str
    hz: float
    until_s: float
    due_s: float = 0.0


class _Out(NamedTuple):
    """A message that waits to be sent; `source` set this value itself and need not be told."""

    address: str
    args: Sequence[Any]
    source: Address | None = None
    is_state: bool = False  # only its newest value matters


class OscServer:
    """Serves one session over UDP, from `__enter__` to `__exit__`.

    Attributes:
        host: address that it is bound to.
        port: UDP port that it is bound to.
        n_received: datagrams that came.
        n_errors: messages refused.
        n_skipped: messages of a flood not obeyed, and messages that could not be sent.
        n_dropped: note events that could not be sent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        desk: Desk,
        actions: Actions,
        feedback: Address | None = None,
    ) -> None:
        """Bind the port.

        Args:
            host: where to listen; anything but this computer's own loopback warns.
            port: UDP port; 0 for any free one.
            desk: what messages move.
            actions: what triggers do.
            feedback: a subscriber to ``/v3/*`` from the start and for ever (`--osc-to`).

        Raises:
            DeviceError: The port is taken, or there is no such host here.
            ConfigError: `feedback` is this very server.
        """
        family, address = resolve(host, port, "--osc")
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            with contextlib.suppress(OSError):  # some systems refuse what exceeds their limit
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            _bind(self._socket, address)
            self.host, self.port = self._socket.getsockname()[:2]
            ip = ipaddress.ip_address(self.host.partition("%")[0])
            self._own = {(self.host, self.port)}
            if ip.is_unspecified:
                self._own |= {("127.0.0.1", self.port), ("::1", self.port)}
            self._subscriptions: tuple[Subscription, ...] = ()
            if feedback:
                _, target = resolve(*feedback, "--osc-to")
                if target in self._own:
                    raise ConfigError(
                        f"--osc-to {target[0]}:{target[1]} is where v3audio itself listens; "
                        "give the port on which your program listens, as 127.0.0.1:9721"
                    )
                self._subscriptions = (Subscription(target, target, "/v3/*", 30.0, math.inf),)
        except BaseException:
            self._socket.close()
            raise
        self._permanent = len(self._subscriptions)
        if not ip.is_loopback:
            log.warning(
                "OSC listens on %s: anyone on that network can play this instrument "
                "(--osc 127.0.0.1:%d keeps it to this computer)", host, self.port,
            )  # fmt: skip
        self.desk = desk
        self.n_received = self.n_errors = self.n_skipped = self.n_dropped = 0
        self._actions = actions
        self._triggers: dict[str, Callable[[tuple[Any, ...], Address], None]] = {
            "/ping": self._ping,
            "/v3/subscribe": self._subscribe,
            "/v3/unsubscribe": self._unsubscribe,
            "/v3/get": self._get,
            "/v3/dump": self._dump,
            "/v3/timbre/next": lambda _args, _source: desk.step_timbre(1),
            "/v3/timbre/prev": lambda _args, _source: desk.step_timbre(-1),
            "/v3/timbre/list": self._list,
            "/v3/midi/panic": lambda _args, _source: actions.panic(),
            "/v3/rec/export": lambda args, _: actions.export_take(check_name(args, "take")),
            "/v3/capture/start": lambda args, _: actions.capture_start(check_name(args, "timbre")),
            "/v3/capture/stop": lambda _args, _source: actions.capture_stop(),
        }
        self._last: tuple[str, tuple[Any, ...]] | None = None
        self._bug: BaseException | None = None
        self._stopping = False
        # the receiving thread's own
        self._scheduled: list[tuple[float, int, list[bytes], Address]] = []
        self._n_scheduled = 0  # messages in it
        self._order = count()
        self._warned_ahead = False
        self._source: Address | None = None  # of the packet in hand, and what it sets
        self._touched: dict[str, None] = {}
        self._n_in_window, self._window_end_s = 0, 0.0
        self._tokens, self._tokens_at_s = float(OTHERS_AT_ONCE), time.monotonic()
        self._answered: dict[Address, int] = {}  # errors in this second
        self._second_s = 0.0
        # the sending thread's own
        self._outbox: queue.SimpleQueue[_Out | list[NoteEvent] | None] = queue.SimpleQueue()
        self._pending: dict[str, _Out] = {}  # newest change of each control
        self._echo_from_s = 0.0
        self._receiver = threading.Thread(target=self._receive, name="osc", daemon=True)
        self._sender = threading.Thread(target=self._send_loop, name="osc-send", daemon=True)

    def __enter__(self) -> Self:
        self.desk.listeners.append(self._on_change)
        self._sender.start()
        self._receiver.start()
        self.say("/v3/startup", "v3audio", __version__)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.desk.listeners.remove(self._on_change)
        self._stopping = True
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        self._transmit(b"", [(wildcard.get(self.host, self.host), self.port)])  # wakes the receiver
        self._receiver.join()
        self._outbox.put(None)
        self._sender.join()
        self._socket.close()
        if self._bug is not None and error is None:
            raise self._bug

    @property
    def last(self) -> str:
        """The last message that came, as a line of text; empty at first."""
        if self._last is None:
            return ""
        address, args = self._last
        words = [address, *(f"{a:g}" if isinstance(a, float) else str(a) for a in args)]
        return "".join(c if c.isprintable() else "?" for c in " ".join(words)[:MAX_LAST])

    def put(self, events: list[NoteEvent]) -> None:
        """Send notes; from the engine's thread, never waits. Bends are in `/v3/out/pitch`."""
        if events and self._outbox.qsize() < MAX_QUEUED:
            self._outbox.put(events)
        else:
            self.n_dropped += len(events)

    def say(self, address: str, *args: Any) -> None:
        """Send a message to the subscribers to its address, from any thread."""
        self._queue(_Out(address, args))

    # -- receiving

    def _receive(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self._stopping:
                wait_s = 1.0
                if self._scheduled:
                    wait_s = max(0.0, self._scheduled[0][0] - time.monotonic())
                is_ready = selector.select(wait_s)
                before_s = time.monotonic()
                is_flood = False
                if before_s >= self._window_end_s:
                    self._n_in_window, self._window_end_s = 0, before_s + WINDOW_S
                try:
                    self._obey_due()
                    packets = self._drain() if is_ready else []
                    self._n_in_window += len(packets)
                    is_flood = self._n_in_window > FLOOD_PER_S * WINDOW_S
                    if is_flood:
                        self._obey_flood(packets)
                    else:
                        for data, source in packets:
                            self._packet(data, source)
                except Exception as bug:  # ours; kept for __exit__, and the next packet is served
                    self._keep(bug)
                if is_flood:
                    nap_s = REST * (time.monotonic() - before_s)
                    time.sleep(min(max(0.001, nap_s), MAX_NAP_S))

    def _drain(self) -> list[tuple[bytes, Address]]:
        packets: list[tuple[bytes, Address]] = []
        for _ in range(MAX_DRAINED):
            try:
                data, source = self._socket.recvfrom(65535)
            except BlockingIOError:
                break
            except OSError:  # Windows tells of a client that is gone; others may still send
                continue
            self.n_received += 1
            if (address := (source[0], source[1])) not in self._own:
                packets.append((data, address))
        return packets

    def _obey_flood(self, packets: Iterable[tuple[bytes, Address]]) -> None:
        """Of messages to one control obey the newest that is valid, in the order of the newest."""
        merged: dict[bytes | int, list[tuple[bytes, Address]]] = {}
        for k, packet in enumerate(packets):
            address = packet[0][: max(0, packet[0].find(b"\0", 0, 64))]
            key = address if address in _SETTABLE else k
            merged[key] = [*merged.pop(key, ())[1 - MAX_TRIES :], packet]
        for group in merged.values():
            for data, source in reversed(group):
                if self._packet(data, source):
                    break

    def _packet(self, data: bytes, source: Address) -> bool:
        """Obey one datagram, a message or a bundle, now or when it is due; whether all could be."""
        if not data.startswith(b"#"):
            return self._obey([data], source)
        try:
            self._spend(1 + len(data) // 256)
            found = elements(data)
        except ControlError as e:
            self._refuse(source, "#bundle", str(e))
            return False
        now_s, unix_s = time.monotonic(), time.time()
        at_once = []
        for due, group in groupby(found, key=itemgetter(0)):
            messages = [message for _, message in group]
            ahead_s = 0.0 if due is None else due - unix_s
            fits = self._n_scheduled + len(messages) <= MAX_SCHEDULED
            if 0.0 < ahead_s <= MAX_AHEAD_S and fits:
                entry = (now_s + ahead_s, next(self._order), messages, source)
                heapq.heappush(self._scheduled, entry)
                self._n_scheduled += len(messages)
                continue
            at_once += messages
            if ahead_s > 0.0 and not self._warned_ahead:
                self._warned_ahead = True
                reason = (
                    f"a bundle for {ahead_s:.1f} s from now was obeyed at once: up to "
                    f"{MAX_AHEAD_S:g} s and {MAX_SCHEDULED} messages are kept (said once)"
                )
                log.warning("OSC: %s", reason)
                self._answer(source, "/v3/error", "#bundle", reason)
        return self._obey(at_once, source)

    def _obey_due(self) -> None:
        while self._scheduled and self._scheduled[0][0] <= time.monotonic():
            _, _, messages, source = heapq.heappop(self._scheduled)
            self._n_scheduled -= len(messages)
            self._obey(messages, source)

    def _obey(self, messages: Sequence[bytes], source: Address) -> bool:
        """Obey messages of one client so that they are heard in one block; whether all were."""
        self._source, self._touched = source, {}
        try:
            with self.desk.together():
                is_obeyed = all([self._message(message, source) for message in messages])
            return is_obeyed
        except V3AudioError as e:  # a listener, such as the recorder, could not follow
            self._refuse(source, next(iter(self._touched), ""), str(e))
            return False
        finally:
            self._source = None

    def _message(self, data: bytes, source: Address) -> bool:
        """Obey one message, or tell its sender why not."""
        address = ""
        try:
            address = address_of(data)
            if address in _IGNORED:
                return True
            targets = self._targets(address)
            _, args = decode(data)
        except ControlError as e:
            self._refuse(source, address, str(e))
            return False
        self._last = (address, args)
        is_obeyed = True
        for target in targets:
            try:
                self._apply(target, args, source)
            except V3AudioError as e:
                self._refuse(source, target, str(e))
                is_obeyed = False
            except Exception as bug:  # ours; kept for __exit__, and the next message is served
                self._keep(bug)
                self._refuse(source, target, f"a fault in v3audio ({type(bug).__name__})")
                is_obeyed = False
        return is_obeyed

    def _targets(self, address: str) -> Sequence[str]:
        """What an incoming address means: itself, or all that its pattern matches."""
        if not any(c in address for c in "*?[{"):
            if address in self._triggers or address in BY_ALIAS:
                return (address,)
            control = BY_ADDRESS.get(address)
            if control is None:
                raise ControlError("no such address")
            if control.kind == "r":
                raise ControlError("is sent by v3audio, it cannot be set")
            return (address,)
        self._spend(4)
        targets = addresses_of(address)
        if not targets:
            raise ControlError("matches no address")
        return targets

    def _apply(self, address: str, args: tuple[Any, ...], source: Address) -> None:
        trigger = self._triggers.get(address)
        if trigger is not None:
            # the release of a button is no second press
            if args != (0,):
                self._spend(1)
                trigger(args, source)
            return
        control = BY_ADDRESS.get(address) or BY_ALIAS[address]
        if stands := self.desk.set(address, args):
            self._answer(source, address, *stands)
        self._touched |= {control.address: None, control.alias or control.address: None}

    def _spend(self, cost: int) -> None:
        """Take from what messages that cannot be merged may cost in a second.

        What costs much leaves a reserve to what costs little, as a ping or a panic.

        Raises:
            ControlError: So much is not left.
        """
        now_s = time.monotonic()
        earned = (now_s - self._tokens_at_s) * OTHERS_PER_S
        self._tokens = min(OTHERS_AT_ONCE, self._tokens + earned)
        self._tokens_at_s = now_s
        if self._tokens < (cost if cost == 1 else cost + RESERVE):
            self.n_skipped += 1
            raise ControlError("too much at once; this was not obeyed, send it again")
        self._tokens -= cost

    def _refuse(self, source: Address, address: str, reason: str) -> None:
        self.n_errors += 1
        now_s = time.monotonic()
        if now_s >= self._second_s:
            self._answered.clear()
            self._second_s = now_s + 1.0
        n_answered = self._answered.get(source, 0)
        if n_answered >= ERRORS_PER_S or (not n_answered and len(self._answered) >= MAX_CLIENTS):
            return
        self._answered[source] = n_answered + 1
        if reason == "no such address" and n_answered < 5:  # to look for it costs a millisecond
            reason += did_you_mean(address[:80], [*BY_ADDRESS, *BY_ALIAS])
        self._answer(source, "/v3/error", address[:MAX_PATTERN], reason)

    def _keep(self, bug: BaseException) -> None:
        if self._bug is None:
            self._bug = bug

    # -- triggers that answer

    def _ping(self, args: tuple[Any, ...], source: Address) -> None:
        self._answer(source, "/pong", *args, "v3audio", __version__, PROTOCOL)

    def _subscribe(self, args: tuple[Any, ...], source: Address) -> None:
        pattern, numbers = _pattern_and_numbers(args, ("port", "hz", "ttl_s"))
        port, hz, ttl_s = [*numbers, *[0.0, 30.0, 0.0][len(numbers) :]]
        target = (source[0], _port(port) or source[1])
        if target in self._own:
            raise ControlError(f"port {target[1]} is where v3audio itself listens")
        if pattern not in _COMMON:
            self._spend(4)
            if not any(covers(pattern, a) for a in [*BY_ADDRESS, *BY_ALIAS]):
                raise ControlError(f"'{pattern:.80}' matches no address; /v3/* is all of them")
        now_s = time.monotonic()
        until_s = now_s + ttl_s if ttl_s > 0.0 else math.inf
        new = Subscription(source, target, pattern, min(max(hz, 0.0), MAX_HZ), until_s)
        kept = [
            s
            for k, s in enumerate(self._subscriptions)
            if s.until_s > now_s
            and (k < self._permanent or (s.target, s.pattern) != (target, pattern))
        ]
        ended = kept.pop(self._permanent) if len(kept) >= MAX_SUBSCRIPTIONS else None
        self._subscriptions = (*kept, new)
        if ended:
            reason = f"ended: {MAX_SUBSCRIPTIONS} others subscribed since; subscribe again"
            self._transmit(encode("/v3/error", ("/v3/subscribe", reason)), [ended.target])
        self._queue(None)  # the sending thread looks anew for when meters are due

    def _unsubscribe(self, args: tuple[Any, ...], source: Address) -> None:
        pattern, numbers = _pattern_and_numbers(args, ("port",))
        targets = {(source[0], _port(number)) for number in numbers}
        has_pattern = bool(args) and isinstance(args[0], str)
        self._subscriptions = tuple(
            s
            for k, s in enumerate(self._subscriptions)
            if k < self._permanent
            or (has_pattern and s.pattern != pattern)
            or (s.target not in targets if targets else source not in (s.client, s.target))
        )

    def _get(self, args: tuple[Any, ...], source: Address) -> None:
        if len(args) != 1 or not isinstance(args[0], str):
            raise ControlError("wanted one address or pattern, as /v3/mix")
        if len(args[0]) > MAX_PATTERN:
            raise ControlError(f"a pattern of {len(args[0])} characters; up to {MAX_PATTERN}")
        if args[0] in _HOLDING:
            self._answer(source, args[0], *self.value(args[0]))
            return
        self._spend(4)
        found = _holding(args[0])
        if not found:
            raise ControlError(f"'{args[0]:.80}' matches no address that holds a value")
        self._spend(len(found))
        for address in found:
            self._answer(source, address, *self.value(address))

    def _dump(self, _args: tuple[Any, ...], source: Address) -> None:
        self._spend(len(_STATE))
        for address in (*_STATE, *_EACH_SECOND):
            self._answer(source, address, *self.value(address))

    def _list(self, _args: tuple[Any, ...], source: Address) -> None:
        listing = self.desk.listing
        for index, (name, origin) in enumerate(listing):
            self._answer(source, "/v3/timbre/item", index, name, origin)
        self._answer(source, "/v3/timbre/end", len(listing))

    def value(self, address: str) -> tuple[Any, ...]:
        """What an address holds now, controls and meters alike, from any thread.

        Raises:
            ControlError: It holds nothing.
        """
        if address in _METERS:
            heard = self._actions.readout()
            return {
                "/v3/out/pitch": (_finite(heard.pitch_hz), _finite(heard.confidence)),
                "/v3/out/level": (_finite(heard.level_db, SILENCE_DB),),
                "/v3/out/code": (int(heard.code), _finite(heard.code_distance)),
            }[address]
        if address in _EACH_SECOND:
            seen = self._actions.snapshot()
            latency = seen.latency
            return {
                "/v3/latency": (latency.total_ms, latency.algorithm_ms, latency.device_ms),
                "/v3/xruns": (seen.xruns,),
                "/v3/cpu": (_finite(seen.cpu),),
            }[address]
        return self.desk.get(address)

    # -- sending

    def _on_change(self, address: str, values: tuple[Any, ...]) -> None:
        is_receiver = threading.get_ident() == self._receiver.ident
        source = self._source if is_receiver and address in self._touched else None
        self._queue(_Out(address, values, source, is_state=True))

    def _queue(self, out: _Out | None) -> None:
        if self._outbox.qsize() < MAX_QUEUED:
            self._outbox.put(out)
        else:
            self.n_skipped += 1

    def _answer(self, source: Address, address: str, *args: Any) -> None:
        """To a client: to the port that it subscribed with, else where its message came from."""
        targets = [s.target for s in self._subscriptions if s.client == source]
        self._transmit(encode(address, args), [targets[-1] if targets else source])

    def _transmit(self, data: bytes, targets: Iterable[Address]) -> None:
        for target in targets:
            try:
                self._socket.sendto(data, target)
            except OSError:  # a full buffer or a network that is gone: as lost as any datagram
                self.n_skipped += 1

    def _targets_of(self, address: str, source: Address | None = None) -> set[Address]:
        """Where subscribers to an address want it, without `source`, who knows already."""
        now_s = time.monotonic()
        return {
            s.target
            for s in self._subscriptions
            if s.until_s > now_s
            and (source is None or source not in (s.client, s.target))
            and covers(s.pattern, address)
        }

    def _send_loop(self) -> None:
        next_beat_s, beat = time.monotonic(), 1.0
        while True:
            due_s = next_beat_s
            try:
                now_s = time.monotonic()
                if now_s >= next_beat_s:
                    next_beat_s = max(next_beat_s + BEAT_S, now_s)
                    self._send_beat(beat)
                    beat = 1.0 - beat
                due_s = min(next_beat_s, self._send_meters(now_s))
                if self._pending:
                    due_s = min(due_s, self._echo_from_s)
                    if time.monotonic() >= self._echo_from_s:
                        self._send_pending()
            except Exception as bug:  # ours; kept for __exit__, and what is due next is sent
                self._keep(bug)
            try:
                item = self._outbox.get(timeout=max(0.0, due_s - time.monotonic()))
            except queue.Empty:
                continue
            if item is None and self._stopping and self._outbox.empty():
                break
            if isinstance(item, list):
                self._send_notes(item)
            elif item is not None and item.is_state:
                self._pending[item.address] = item
                if time.monotonic() >= self._echo_from_s:
                    self._send_pending()
            elif item is not None:
                self._transmit(encode(item.address, item.args), self._targets_of(item.address))

    def _send_notes(self, events: list[NoteEvent]) -> None:
        targets = self._targets_of("/v3/out/note")
        channel = self.desk.now.midi.channel
        for event in events if targets else ():
            if event.kind != "pitch":
                velocity = event.velocity if event.kind == "on" else 0
                args = (event.note, velocity, channel, float(event.cents))
                self._transmit(encode("/v3/out/note", args), targets)

    def _send_pending(self) -> None:
        """Tell the others what changed; then rest, so that many changes to many cost a share."""
        before_s = time.monotonic()
        while self._pending:
            address = next(iter(self._pending))
            out = self._pending.pop(address)
            self._transmit(encode(address, out.args), self._targets_of(address, out.source))
        after_s = time.monotonic()
        self._echo_from_s = after_s + REST * (after_s - before_s)

    def _send_beat(self, beat: float) -> None:
        self._transmit(encode("/v3/heartbeat", (beat,)), self._targets_of("/v3/heartbeat"))
        for address in _EACH_SECOND:
            if targets := self._targets_of(address):
                self._transmit(encode(address, self.value(address)), targets)

    def _send_meters(self, now_s: float) -> float:
        """Send meters to those whose time has come; when the next one's comes."""
        due = []
        next_s = math.inf
        for s in self._subscriptions:
            if s.hz <= 0.0 or s.until_s <= now_s:
                continue
            if now_s >= s.due_s:
                if s.due_s:
                    due.append(s)
                # on one grid for all, so that subscribers of one rate are served together
                s.due_s = (math.floor(now_s * s.hz) + 1) / s.hz
            next_s = min(next_s, s.due_s)
        for address in _METERS:
            if targets := {s.target for s in due if covers(s.pattern, address)}:
                self._transmit(encode(address, self.value(address)), targets)
        return next_s


@lru_cache(maxsize=256)
def _holding(pattern: str) -> tuple[str, ...]:
    """Every address with a value that a pattern means."""
    return tuple(address for address in _HOLDING if matches(pattern, address))


@lru_cache(maxsize=8192)
def covers(pattern: str, address: str) -> bool:
    """Whether a subscription's pattern means an address, or a branch that holds it."""
    return matches(pattern.rstrip("/"), address, below=True)


def _pattern_and_numbers(
    args: tuple[Any, ...], names: Sequence[str]
) -> tuple[str, tuple[float, ...]]:
    """``[s pattern] [number ...]`` as subscribe and unsubscribe take them."""
    pattern = "/v3/*"
    if args and isinstance(args[0], str):
        pattern, args = args[0], args[1:]
    wanted = f"wanted [pattern] [{'] ['.join(names)}]"
    if not pattern.startswith("/") or len(pattern) > MAX_PATTERN:
        raise ControlError(f"'{pattern:.80}' is no pattern of addresses; {wanted}")
    if len(args) > len(names) or not all(
        isinstance(a, int | float) and math.isfinite(a) for a in args
    ):
        raise ControlError(wanted)
    return pattern, args


def _port(number: float) -> int:
    if not 0 <= number <= 65535:
        raise ControlError(f"port {number:.0f} came, wanted 1 to 65535")
    return int(number)


def _finite(value: float, otherwise: float = 0.0) -> float:
    return float(value) if math.isfinite(value) else otherwise


def _bind(sock: socket.socket, address: Address) -> None:
    try:
        sock.bind(address)
    except OSError as e:
        host, port = address
        raise DeviceError(
            {
                errno.EADDRINUSE: f"OSC port {port} is taken by another program, perhaps another "
                f"v3audio; choose a free one (--osc {host}:{port + 10}) or none (--osc off)",
                errno.EACCES: f"OSC port {port} is kept for the system; choose one above 1023 "
                f"(--osc {host}:9720)",
                errno.EADDRNOTAVAIL: f"{host} is no address of this computer, so OSC cannot "
                "listen there; use --osc 127.0.0.1:9720, or 0.0.0.0:9720 for all of its networks",
            }.get(e.errno or 0, f"OSC cannot listen on {host}:{port} ({e.strerror})")
        ) from None
