"""Everything a player can move or watch over OSC: one table, and the desk that holds the values.

The table drives reading, clamping, feedback, the 0..1 aliases, OSCQuery and the OSC page of the
documentation, which is written by ``python -m realtime.controls > docs/osc.md``.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from v3audio import timbres
from v3audio.errors import ControlError, TimbreError, did_you_mean
from v3audio.settings import RANGES, SCALES, VELOCITIES, Settings

if TYPE_CHECKING:
    from v3audio.timbres import Timbre

Value = int | float | str
Listener = Callable[[str, tuple[Value, ...]], None]

PROTOCOL = 1  # of the messages; said by /pong
MIDI_MODES = ("notes", "bend", "mpe")
MAX_TEXT = 256  # characters of a name or blend
MAX_PATTERN = 256
MAX_SUBSCRIPTIONS = 64
ERRORS_PER_S = 100  # answers to one client; further ones are counted only
FLOOD_PER_S = 1000  # datagrams; beyond, messages to one control are merged
OTHERS_PER_S = 1000  # messages obeyed that cannot be merged: triggers, patterns, bundles
ALIASES = "/v3/n/"
_TAKE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class MidiSettings:
    """How notes leave as MIDI.

    Attributes:
        enable: off sends no notes.
        channel: 1..16; the first member channel's neighbour in MPE is the zone's own.
        mode: ``notes`` (no bends), ``bend`` or ``mpe``.
        bend_range: semitones, 1..96, that a full bend means to the receiver.
    """

    enable: bool = True
    channel: int = 1
    mode: str = "bend"
    bend_range: float = 2.0


@dataclass(frozen=True, slots=True)
class Morph:
    """Two timbres and how far it is from one to the other; four, and a point between them.

    Attributes:
        a: name or blend heard at `amount` 0.
        b: name or blend heard at `amount` 1.
        amount: 0..1.
        x: 0 (west) .. 1 (east).
        y: 0 (south) .. 1 (north).
        corners: names or blends in the north-west, north-east, south-west and south-east.
    """

    a: str = ""
    b: str = ""
    amount: float = 0.0
    x: float = 0.5
    y: float = 0.5
    corners: tuple[str, str, str, str] = ("", "", "", "")


@dataclass(frozen=True, slots=True)
class Controls:
    """All that a player has set, as one value that is swapped whole.

    Attributes:
        settings: what the engine obeys.
        timbre: the timbre last chosen: a name or a blend.
        timbre_index: its place in the list, -1 for a blend.
        morph: the two ways to stand between timbres.
        sounding: which of the three is heard: the last one that was moved.
        midi: what the MIDI ports obey.
        recording: a take is being recorded.
    """

    settings: Settings = field(default_factory=Settings)
    timbre: str = ""
    timbre_index: int = 0
    morph: Morph = field(default_factory=Morph)
    sounding: Literal["timbre", "morph", "corners"] = "timbre"
    midi: MidiSettings = field(default_factory=MidiSettings)
    recording: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """One row of the table.

    Attributes:
        address: OSC path.
        types: type tags of its arguments as they are sent: i, f and s.
        kind: ``rw`` set and fed back, ``r`` sent by us, ``t`` a trigger.
        help: what it does, for a musician.
        field: dotted fields of `Controls`, one for each argument, apart by spaces.
        low, high: range of each number; None where there is none.
        default: what holds at the start.
        unit: of the numbers.
        choices: the words that are taken; empty for any text.
    """

    address: str
    types: str
    kind: Literal["rw", "r", "t"]
    help: str
    field: str | None = None
    low: float | None = None
    high: float | None = None
    default: Value | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()

    @property
    def alias(self) -> str | None:
        """Its twin that counts from 0 to 1, for controls of numbers with fractions."""
        is_fader = self.kind == "rw" and "f" in self.types
        return ALIASES + self.address.removeprefix("/v3/") if is_fader else None

    def read(self, args: Sequence[Any]) -> tuple[Value, ...]:
        """The arguments of a message as this control takes them: right types, within range.

        Raises:
            ControlError: Too few or too many, words for numbers or numbers for words, NaN or
                infinity, or a word that is none of the choices.
        """
        if len(args) != len(self.types):
            raise ControlError(f"{len(args)} arguments came, wanted {self.wanted}")
        return tuple(
            self._text(arg) if tag == "s" else self._number(arg, tag)
            for tag, arg in zip(self.types, args, strict=True)
        )

    def _text(self, arg: Any) -> str:
        if not isinstance(arg, str):
            raise ControlError(f"a number or no text came, wanted {self.wanted}")
        if len(arg) > MAX_TEXT:
            raise ControlError(f"a text of {len(arg)} characters came, up to {MAX_TEXT} are taken")
        if not self.choices:
            return arg
        lowered = {choice.lower(): choice for choice in self.choices}
        if arg.lower() not in lowered:
            raise ControlError(
                f"'{arg}' came, wanted {self.wanted}{did_you_mean(arg, self.choices)}"
            )
        return lowered[arg.lower()]

    def _number(self, arg: Any, tag: str) -> int | float:
        if not isinstance(arg, int | float):
            raise ControlError(f"{arg!r:.40} came, wanted {self.wanted}")
        if not math.isfinite(arg):
            raise ControlError(f"{arg} came, wanted {self.wanted}")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        value = min(max(arg, low), high)
        return math.floor(value + 0.5) if tag == "i" else float(value)

    def to_alias(self, values: Sequence[Any]) -> tuple[float, ...]:
        """Values in this control's unit as 0..1."""
        assert self.low is not None and self.high is not None
        return tuple((v - self.low) / (self.high - self.low) for v in values)

    def from_alias(self, values: Sequence[Any]) -> tuple[float, ...]:
        """0..1 as values in this control's unit; what lies outside gives what lies outside."""
        assert self.low is not None and self.high is not None
        return tuple(
            self.low + v * (self.high - self.low) if isinstance(v, int | float) else v
            for v in values
        )

    @property
    def range_text(self) -> str:
        """``0..24 dB`` where there is a range, the unit alone where there is none."""
        if self.low is None or self.high is None:
            return self.unit
        return f"{self.low:g}..{self.high:g} {self.unit}".strip()

    @property
    def wanted(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        n = len(self.types)
        if "s" in self.types:
            return "a text" if n == 1 else f"{n} texts"
        noun = "a number" if n == 1 else f"{n} numbers"
        return f"{noun} of {self.range_text}" if self.high is not None else noun


def _rw(address: str, types: str, dotted: str, help: str, **more: Any) -> Control:
    """A row whose range and default stand where the field is defined."""
    group, _, name = dotted.split()[0].rpartition(".")
    owner = {"settings": Settings(), "midi": MidiSettings(), "morph": Morph()}[group]
    default: Any = getattr(owner, name)
    low, high = (0, 1) if isinstance(default, bool) else RANGES.get(name, (None, None))
    more = {"low": low, "high": high} | more
    default = int(default) if types == "i" else default if types in ("f", "s", "ff") else None
    return Control("/v3/" + address, types, "rw", help, dotted, default=default, **more)


def _r(address: str, types: str, help: str, **more: Any) -> Control:
    return Control(address, types, "r", help, **more)


def _t(address: str, types: str, help: str) -> Control:
    return Control(address, types, "t", help)


CONTROLS: tuple[Control, ...] = (
    _t("/ping", "", "Answers `/pong`: the same arguments, then name, version and protocol."),
    _r("/pong", "ssi", "The answer to `/ping`."),
    _t("/v3/subscribe", "sifi", "Feedback and meters to the sender; see Subscriptions."),
    _t("/v3/unsubscribe", "si", "Ends them."),
    _t("/v3/get", "s", "Answers with the value of that address; patterns work."),
    _t("/v3/dump", "", "Answers with every value."),
    _rw("enable", "i", "settings.enabled", "Off: silence and no notes."),
    _rw("bypass", "i", "settings.bypass", "The input as it came, no notes."),
    _rw("freeze", "i", "settings.freeze", "What sounds now is held, the input is not heard."),
    Control("/v3/timbre", "s", "rw", "A name, or a blend as `flute:0.7,trumpet:0.3`.", "timbre"),
    Control("/v3/timbre/index", "i", "rw", "Its place in the list, from 0; a blend has -1.",
            "timbre_index", low=0),
    _rw("timbre/fade_ms", "f", "settings.fade_ms", "Glide from one timbre to the next.", unit="ms"),
    _t("/v3/timbre/next", "", "The next timbre of the list; after the last, the first."),
    _t("/v3/timbre/prev", "", "The one before."),
    _t("/v3/timbre/list", "", "Answers `/v3/timbre/item` for each timbre, then `/v3/timbre/end`."),
    _r("/v3/timbre/item", "iss", "Index, name, and where its sound came from."),
    _r("/v3/timbre/end", "i", "How many timbres were listed."),
    _rw("morph/a", "s", "morph.a", "The timbre at amount 0."),
    _rw("morph/b", "s", "morph.b", "The timbre at amount 1."),
    _rw("morph/amount", "f", "morph.amount", "How far from a to b.", low=0, high=1),
    _rw("morph/xy", "ff", "morph.x morph.y", "A point between four corners: x to the east, "
        "y to the north.", low=0, high=1),
    _rw("morph/corners", "ssss", "morph.corners", "Timbres in the north-west, north-east, "
        "south-west and south-east."),
    _rw("mix", "f", "settings.mix", "0 the input alone, 1 the new timbre alone."),
    _rw("gain/in", "f", "settings.gain_in_db", "Of what is heard.", unit="dB"),
    _rw("gain/out", "f", "settings.gain_out_db", "Of what is played.", unit="dB"),
    _rw("gate", "f", "settings.gate_db", "What is softer counts as silence.", unit="dBFS"),
    _rw("pitch/transpose", "i", "settings.transpose", "In sound and notes.", unit="semitones"),
    _rw("pitch/fine", "f", "settings.fine_cents", "Detuning.", unit="cents"),
    _rw("pitch/snap", "f", "settings.snap", "0 as played, 1 exactly in the scale."),
    _rw("pitch/ref", "f", "settings.ref_hz", "The player's A4.", unit="Hz"),
    _rw("scale/root", "i", "settings.scale_root", "C is 0, B is 11."),
    _rw("scale/name", "s", "settings.scale", "The scale that snap pulls to.",
        choices=tuple(SCALES)),
    _rw("midi/enable", "i", "midi.enable", "Off: no notes go out."),
    _rw("midi/channel", "i", "midi.channel", "Where notes go.", low=1, high=16),
    _rw("midi/mode", "s", "midi.mode", "Notes alone, with pitch bend, or a channel each (MPE).",
        choices=MIDI_MODES),
    _rw("midi/bend_range", "i", "midi.bend_range", "What a full bend means to the receiver.",
        unit="semitones", low=1, high=96),
    _rw("midi/min_note", "f", "settings.min_note_ms", "Shorter notes are not sent.", unit="ms"),
    _rw("midi/sensitivity", "f", "settings.sensitivity", "How readily a note starts."),
    _rw("midi/velocity", "s", "settings.velocity", "What makes a note loud.", choices=VELOCITIES),
    _t("/v3/midi/panic", "", "All notes off, bends to 0."),
    Control("/v3/rec/enable", "i", "rw", "Records a take: what was played, and its notes.",
            "recording", 0, 1, 0),
    _t("/v3/rec/export", "s", "Writes the take as WAV and MIDI under that name, never a path."),
    _t("/v3/capture/start", "s", "Begins a new timbre of that name from what is played."),
    _t("/v3/capture/stop", "", "Ends it and makes the timbre."),
    _r("/v3/capture/progress", "f", "How much of the needed sound is there.", low=0, high=1),
    _r("/v3/capture/report", "sff", "The new timbre's name, its lowest and its highest note."),
    _r("/v3/out/note", "iiif", "Note, velocity (0 = off), channel, cents; at once."),
    _r("/v3/out/pitch", "ff", "Hz and confidence (0..1) of what is heard."),
    _r("/v3/out/level", "f", "Level of what is heard.", unit="dBFS"),
    _r("/v3/out/code", "if", "Codebook index and distance of what is heard."),
    _r("/v3/latency", "fff", "Total, algorithm and device; each second.", unit="ms"),
    _r("/v3/xruns", "i", "Gaps in the sound so far; each second."),
    _r("/v3/cpu", "f", "Share of the time that the engine works; each second."),
    _r("/v3/heartbeat", "f", "1 and 0 in turn, each second."),
    _r("/v3/startup", "ss", "Name and version, when v3audio starts."),
    _r("/v3/error", "ss", "Address and reason, to whoever sent what was refused."),
    _r("/vkb_midi/<ch>/note/<n>", "i", "Velocity; to `--midi osc:HOST:PORT`, as Reaper and Bitwig "
       "take it."),
    _r("/vkb_midi/<ch>/pitch", "i", "Pitch bend, 0..16383 with 8192 in the middle."),
)  # fmt: skip

BY_ADDRESS: dict[str, Control] = {control.address: control for control in CONTROLS}
BY_ALIAS: dict[str, Control] = {c.alias: c for c in CONTROLS if c.alias}
_GET = {c.address: attrgetter(*c.field.split()) for c in CONTROLS if c.field}
_AS: dict[str, Callable[[Any], Value]] = {"i": round, "f": float, "s": str}


class Desk:
    """The values of all controls, and the timbre that results. The sole owner of both.

    Any thread may set; readers take `now` and `voice` with one attribute read and never wait.

    A timbre is heard in one of three ways, and the last one moved is the one that counts:
    `/v3/timbre` (or index, next, prev) chooses one; moving `/v3/morph/amount` stands between a and
    b; moving `/v3/morph/xy` stands between the four corners. Choosing a timbre again leaves the
    morph. Changing a, b or the corners is heard at once where they sound, and is kept otherwise.

    Attributes:
        now: the controls as they stand.
        voice: the timbre that results from them.
        names: the timbres that can be chosen, in the order of `/v3/timbre/index`.
        listeners: told (address, values) of each control that was set and each alias of it, on the
            thread that set it and before the next change; they must return at once.
    """

    def __init__(
        self,
        voice: Timbre,
        known: Mapping[str, Timbre] | None = None,
        settings: Settings | None = None,
        midi: MidiSettings | None = None,
    ) -> None:
        """Start with one timbre.

        Args:
            voice: what sounds at the start; may be a file's or a blend.
            known: timbres by name that may be chosen (`timbres.load_all`), all of one model.
            settings: of the engine at the start.
            midi: of the ports at the start.
        """
        self._known = dict(sorted((known or {}).items()))
        self._first = voice
        if _TAKE_NAME.fullmatch(voice.name) and voice.name not in self._known:
            self._known = dict(sorted((self._known | {voice.name: voice}).items()))
        self.names = tuple(self._known)
        others = [name for name in self.names if name != voice.name] or [voice.name]
        around = (voice.name, *(others[k % len(others)] for k in range(3)))
        self.now = Controls(
            settings=settings or Settings(),
            timbre=voice.name,
            timbre_index=self._index(voice.name),
            morph=Morph(a=voice.name, b=others[0], corners=around),  # type: ignore[arg-type]
            midi=midi or MidiSettings(),
        )
        self.voice = voice
        self.listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._draft = self.now
        self._told: dict[str, None] = {}  # set in the open bundle, in order
        self._depth = 0

    def get(self, address: str) -> tuple[Value, ...]:
        """What an ``rw`` address, or an alias, holds.

        Raises:
            ControlError: It holds nothing.
        """
        control, is_alias = self._control(address)
        with self._lock:  # inside a bundle: what was set before in it
            values = _values(self._draft, control)
        return control.to_alias(values) if is_alias else values

    def set(self, address: str, args: Sequence[Any]) -> tuple[Value, ...]:
        """Set one control.

        Args:
            address: of an ``rw`` control or an alias.
            args: as they came: int, float, bool and str.

        Returns:
            What stands there now, if that is not what was sent (clamped, rounded, a name spelt
            otherwise); else nothing.

        Raises:
            ControlError: No such control, or no such value; nothing has changed.
        """
        control, is_alias = self._control(address)
        with self.together():
            values = control.read(control.from_alias(args) if is_alias else args)
            self._draft = self._assigned(self._draft, control, values)
            self._told[control.address] = None
            stands = _values(self._draft, control)
            if not is_alias:
                return () if stands == tuple(args) else stands
            # compared as it was sent: the way to the control's own unit and back would round
            clamped = tuple(min(max(float(v), 0.0), 1.0) for v in args)
            return () if clamped == tuple(args) else clamped

    @property
    def listing(self) -> list[tuple[str, str]]:
        """Each timbre that can be chosen and where its sound came from."""
        return [(name, timbre.source) for name, timbre in self._known.items()]

    def step_timbre(self, step: int) -> None:
        """Choose the timbre `step` places further down the list, which is a ring."""
        with self.together():
            index = self._draft.timbre_index
            if index < 0 < -step:
                index = 0  # a blend stands after the last of the list and before the first
            name = self.names[(index + step) % len(self.names)] if self.names else ""
            self._draft = self._selected(self._draft, name)

    def add_timbre(self, timbre: Timbre) -> None:
        """Let a new timbre be chosen, as one that was just captured; the list moves with it."""
        with self.together():
            self._known = dict(sorted((self._known | {timbre.name: timbre}).items()))
            self.names = tuple(self._known)
            self._draft = replace(self._draft, timbre_index=self._index(self._draft.timbre))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let several changes be heard as one, as the messages of an OSC bundle are."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._publish()

    def _publish(self) -> None:
        before, now = self.now, self._draft
        self._told, told = {}, self._told
        if now is before and not told:
            return
        if _heard(now) != _heard(before):
            self.voice = self._voice(now)
        self.now = now
        if now.timbre != before.timbre:  # name and place move each other
            told["/v3/timbre"] = None
        if now.timbre_index != before.timbre_index:
            told["/v3/timbre/index"] = None
        for address in told:
            control = BY_ADDRESS[address]
            values = _values(now, control)
            for listener in self.listeners:
                listener(address, values)
                if control.alias:
                    listener(control.alias, control.to_alias(values))

    def _assigned(self, now: Controls, control: Control, values: tuple[Value, ...]) -> Controls:
        match control.address:
            case "/v3/timbre":
                return self._selected(now, str(values[0]))
            case "/v3/timbre/index":
                if not self.names:
                    raise ControlError("there is no list of timbres")
                return self._selected(now, self.names[min(int(values[0]), len(self.names) - 1)])
            case "/v3/morph/a" | "/v3/morph/b":
                values = (self._timbre(str(values[0])).name,)
            case "/v3/morph/corners":
                corners = tuple(self._timbre(str(value)).name for value in values)
                return replace(now, morph=replace(now.morph, corners=corners))  # type: ignore[arg-type]
            case "/v3/morph/amount":
                now = replace(now, sounding="morph")
            case "/v3/morph/xy":
                now = replace(now, sounding="corners")
        assert control.field
        for dotted, value in zip(control.field.split(), values, strict=True):
            group, _, name = dotted.rpartition(".")
            owner: Any = getattr(now, group) if group else now
            if isinstance(getattr(owner, name), bool):
                value = bool(value)
            owner = replace(owner, **{name: value})
            now = replace(now, **{group: owner}) if group else owner
        return now

    def _selected(self, now: Controls, spec: str) -> Controls:
        name = self._timbre(spec).name
        return replace(now, timbre=name, timbre_index=self._index(name), sounding="timbre")

    def _index(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1

    def _voice(self, now: Controls) -> Timbre:
        morph = now.morph
        if now.sounding == "morph":
            return timbres.morph(self._timbre(morph.a), self._timbre(morph.b), morph.amount)
        if now.sounding == "corners":
            nw, ne, sw, se = (self._timbre(name) for name in morph.corners)
            return timbres.four_corners((nw, ne, sw, se), morph.x, morph.y)
        return self._timbre(now.timbre)

    def _timbre(self, spec: str) -> Timbre:
        """A timbre by name or blend; names are looked up in what was loaded, never on disk."""
        if spec == self._first.name:
            return self._first
        parts = []
        for part in spec.split(","):
            name, colon, weight = part.strip().partition(":")
            try:
                parts.append((self._by_name(name), float(weight) if colon else 1.0))
            except ValueError:
                raise ControlError(
                    f"cannot read '{part.strip()}', wanted NAME or NAME:WEIGHT"
                ) from None
        if len(parts) == 1:
            return parts[0][0]
        try:
            return timbres.blend(parts)
        except TimbreError as e:
            raise ControlError(str(e)) from None

    def _by_name(self, name: str) -> Timbre:
        if name in self._known:
            return self._known[name]
        for known, timbre in self._known.items():
            if known.lower() == name.lower():
                return timbre
        raise ControlError(
            f"no timbre '{name:.80}'{did_you_mean(name[:80], self._known)} (see /v3/timbre/list)"
        )

    @staticmethod
    def _control(address: str) -> tuple[Control, bool]:
        control = BY_ADDRESS.get(address) or BY_ALIAS.get(address)
        if control is None:
            raise ControlError("no such address")
        if control.kind != "rw":
            what = "is sent by v3audio" if control.kind == "r" else "is a trigger"
            raise ControlError(f"{what}; it holds no value")
        return control, control.address != address


def _heard(now: Controls) -> tuple[object, ...]:
    """All that decides which timbre results."""
    morph = now.morph
    if now.sounding == "morph":
        return now.sounding, morph.a, morph.b, morph.amount
    if now.sounding == "corners":
        return now.sounding, morph.corners, morph.x, morph.y
    return now.sounding, now.timbre


def _values(now: Controls, control: Control) -> tuple[Value, ...]:
    """What a control holds, in the types it is sent as."""
    found = _GET[control.address](now)
    values = found if isinstance(found, tuple) else (found,)
    return tuple(_AS[tag](value) for tag, value in zip(control.types, values, strict=True))


def check_name(args: Sequence[Any], what: str) -> str:
    """The one argument of a trigger that names something to be kept: a name, never a path.

    Raises:
        ControlError: Anything but 1 to 64 letters, digits, ``-`` and ``_``.
    """
    if len(args) == 1 and isinstance(args[0], str) and _TAKE_NAME.fullmatch(args[0]):
        return args[0]
    raise ControlError(f"wanted one name for the {what}: 1 to 64 letters, digits, - or _")


def matches(pattern: str, address: str, *, below: bool = False) -> bool:
    """Whether an OSC pattern means an address: ``? * [a-z] [!a-z] {one,two}`` within one part.

    All places that the pattern may have reached are followed at once, so that no pattern, however
    devious, takes longer than its length times the address's.

    Args:
        pattern: as it came.
        address: a plain address.
        below: a pattern also means what lies below the addresses it matches, as ``/v3/*`` does
            for subscriptions.
    """
    k = _first_special(pattern)
    places = {k} if address.startswith(pattern[:k]) else set()
    while k < len(pattern) and places:
        c = pattern[k]
        k += 1
        end = pattern.find({"[": "]", "{": "}"}.get(c, "\0"), k)
        if c == "*":
            places = {q for p in places for q in range(p, (address + "/").index("/", p) + 1)}
        elif c == "?":
            places = {p + 1 for p in places if address[p : p + 1] not in ("", "/")}
        elif c == "[" and end >= 0:
            spans, inside = _spans(pattern[k:end])
            places = {
                p + 1
                for p in places
                if address[p : p + 1] not in ("", "/")
                and any(low <= address[p] <= high for low, high in spans) == inside
            }
            k = end + 1
        elif c == "{" and end >= 0:
            words = pattern[k:end].split(",")
            places = {p + len(w) for p in places for w in words if address.startswith(w, p)}
            k = end + 1
        else:
            places = {p + 1 for p in places if address[p : p + 1] == c}
    return any(p == len(address) or (below and address[p] == "/") for p in places)


@lru_cache(maxsize=1024)
def _first_special(pattern: str) -> int:
    """How many plain characters a pattern begins with."""
    return next((k for k, c in enumerate(pattern) if c in "*?[{"), len(pattern))


def _spans(text: str) -> tuple[list[tuple[str, str]], bool]:
    """First and last characters of the spans in ``[a-z]``, and whether it is not a ``[!a-z]``."""
    inside = not text.startswith("!")
    text = text.removeprefix("!")
    spans, k = [], 0
    while k < len(text):
        is_span = text[k + 1 : k + 2] == "-" and k + 2 < len(text)
        spans.append((text[k], text[k + 2 if is_span else k]))
        k += 3 if is_span else 1
    return spans, inside


@lru_cache(maxsize=256)
def addresses_of(pattern: str) -> tuple[str, ...]:
    """Every settable or triggerable address that an incoming address means, in table order.

    Raises:
        ControlError: The pattern is too long to be one.
    """
    if len(pattern) > MAX_PATTERN:
        raise ControlError(f"a pattern of {len(pattern)} characters, up to {MAX_PATTERN} are taken")
    known = [c.address for c in CONTROLS if c.kind != "r"]
    return tuple(a for a in [*known, *BY_ALIAS] if matches(pattern, a))


_PAGE = """\
# OSC

v3audio is played and watched over OSC (UDP). It listens on port 9720 of this computer; `--osc
HOST:PORT` chooses another place (`0.0.0.0:9720` is all networks, and then anyone on them can play),
`--osc off` turns it off. `--osc-to HOST:PORT` sends feedback and meters from the start to a program
that cannot subscribe, to port 9721 where none is given. This page is written from the table in
`realtime/controls.py` (`python -m realtime.controls > docs/osc.md`).

```
oscsend localhost 9720 /v3/timbre s oboe
oscsend localhost 9720 /v3/mix f 0.8
oscsend localhost 9720 /v3/subscribe sif "/v3/*" 9721 30 && oscdump 9721
```

## Addresses

Kinds: **rw** set it, and its feedback comes on the same path; **r** sent by v3audio; **t** a
trigger: any arguments, but a single 0 (the release of a button) is ignored. Types are what v3audio
sends: `i` whole number, `f` number, `s` text.

{table}

## Faders that know only 0 to 1

Each of these is the control above on a straight scale from 0 (its lowest value) to 1 (its highest),
set and fed back alike: {aliases}.

## Rules

- `i f d h T F` are accepted for one another. Numbers are clamped, and the clamped value is sent
  back to whoever sent it. Everyone else who subscribed is told of every change at once.
- What cannot be obeyed (an unknown address, words for numbers, NaN, infinity) changes nothing and
  is answered by `/v3/error`: address and reason, up to {errors} a second for each client.
- The patterns `*`, `?`, `[a-z]`, `[!a-z]` and `{{one,two}}` work in the addresses you send, within
  one part: `/v3/gain/*` sets both gains, `/v3/*` does not reach them.
- The messages of a bundle are heard together. A bundle for a time up to 2 s ahead waits until then;
  for a past time, for now, or for later than that it is obeyed at once. Bundles may hold bundles.
- Answers go where the message came from, or to the port that the same client subscribed with.
- Names are names: nothing that arrives here is ever used as a path on disk.

## Subscriptions

`/v3/subscribe [pattern] [port] [hz] [ttl_s]`; what is left out is `/v3/*`, the port that the
message came from (also written 0), 30 meters a second (0 for none), and for ever (also written 0).
A pattern also means all that lies below: `/v3/*` is everything, `/v3/out` the notes and meters. A
client may subscribe to several patterns; the same one again renews it. There is room for
{subscriptions}; then the oldest ends. `/v3/unsubscribe [pattern] [port]` ends all of a client's, or
those that it names.

## Timbres and morphing

`/v3/timbre` takes names and blends (`flute:0.7,trumpet:0.3`). Whatever was moved last is heard:
choosing a timbre (also by index, next or prev) plays that one; moving `/v3/morph/amount` plays what
lies between `/v3/morph/a` and `/v3/morph/b`; moving `/v3/morph/xy` plays the point between the four
corners, 0 0 being south-west and 1 1 north-east. Choosing a timbre again leaves the morph. Each
change glides over `/v3/timbre/fade_ms`.

## Found by itself

The same host and port number also answer over HTTP, as the
[OSCQuery proposal](https://github.com/Vidvox/OSCQueryProposal) says: `http://localhost:9720/` tells
all addresses, ranges and values, `http://localhost:9720/v3/mix?VALUE` one of them (where that port
is taken, on another one). With `pip install v3audio[discovery]` the session is announced by
zeroconf as `_osc._udp` and `_oscjson._tcp`.

## Much at once

Beyond {flood} messages a second they are merged, so that they cannot disturb the sound: the newest
value of each control counts. Of triggers, patterns and bundles, {others} a second are obeyed.
"""


def osc_page() -> str:
    """The OSC page of the documentation."""
    rows = ["| Address | Types | Range (default) | Kind | What it does |", "|---|---|---|---|---|"]
    for c in CONTROLS:
        limits = ", ".join(f"`{choice}`" for choice in c.choices) or c.range_text
        if c.default not in (None, ""):
            default = c.default if isinstance(c.default, str) else f"{c.default:g}"
            limits = f"{limits} ({default})".strip()
        rows.append(f"| `{c.address}` | {c.types} | {limits} | {c.kind} | {c.help} |")
    return _PAGE.format(
        table="\n".join(rows),
        aliases=", ".join(f"`{alias}`" for alias in BY_ALIAS),
        errors=ERRORS_PER_S,
        subscriptions=MAX_SUBSCRIPTIONS,
        flood=FLOOD_PER_S,
        others=OTHERS_PER_S,
    )


if __name__ == "__main__":
    sys.stdout.write(osc_page())
