"""The DAW kit's control surfaces that follow the OSC table: TouchOSC, Open Stage Control and Pd.

``python -m realtime.daw_kit`` writes them into presets/daw. One layout serves the first two: what
stands where is said once, in cells, and each program's file is written from it. What the table
gains (a number, a switch, a choice) so stands on every surface.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from realtime.controls import BY_ADDRESS, CONTROLS, Control
from v3audio.paths import atomic_write, presets_dir
from v3audio.timbres import list_timbres

Kind = Literal["label", "text", "button", "toggle", "fader", "meter", "xy"]
Frame = tuple[float, float, float, float]

IN_PORT, FEEDBACK_PORT = 9720, 9721
METERS_HZ = 30.0
METER_FLOOR_DBFS = -90.0
COLUMNS, ROWS, CELL = 24, 15, 44  # of the layout; pixels a cell
GAP = 4  # pixels between neighbours

GREY, BLUE, GREEN, RED, GOLD = "#404448", "#3d7ea6", "#4c9a62", "#c0392b", "#b58a2b"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing on a surface.

    Attributes:
        kind: ``label`` stands still, ``text`` and ``meter`` show what comes, the rest also sends.
        frame: x, y, width and height in cells from the top left.
        caption: what is written on it; of a ``text``, what stands there before anything came.
        address: where it sends to, or what it shows; empty for a label.
        args: what a button sends.
        colour: ``#rrggbb``.
    """

    kind: Kind
    frame: Frame
    caption: str
    address: str = ""
    args: tuple[int | float | str, ...] = ()
    colour: str = GREY

    @property
    def control(self) -> Control:
        """The row of the table that it moves or shows."""
        return BY_ADDRESS[self.address]


def faders() -> list[Control]:
    """Numbers a player slides, fractions before whole ones."""
    return [c for c in CONTROLS if c.kind == "rw" and c.types == "f"] + [
        c for c in CONTROLS if c.kind == "rw" and c.types == "i" and 1 < (c.high or 0) <= 127
    ]


def toggles() -> list[Control]:
    """Switches."""
    return [c for c in CONTROLS if c.kind == "rw" and c.types == "i" and c.high == 1]


def choices() -> list[Control]:
    """Words to choose from."""
    return [c for c in CONTROLS if c.kind == "rw" and c.choices]


def name_of(control: Control) -> str:
    """``gain/in`` of ``/v3/gain/in``."""
    return control.address.removeprefix("/v3/")


def layout(timbres: Sequence[str]) -> list[Item]:
    """The surface, as `COLUMNS` by `ROWS` cells.

    Args:
        timbres: names of the first timbres on it, four in a row, 24 at most.
    """
    feedback = ("/v3/*", FEEDBACK_PORT, METERS_HZ)
    items = [
        Item("text", (0, 0, 4, 2), "note", "/v3/out/note", colour=BLUE),
        Item("text", (4, 0, 7, 1), "timbre", "/v3/timbre"),
        Item("button", (4, 1, 3.5, 1), "previous", "/v3/timbre/prev", (1,)),
        Item("button", (7.5, 1, 3.5, 1), "next", "/v3/timbre/next", (1,)),
        Item("meter", (11, 0, 6, 1), "level", "/v3/out/level", colour=GREEN),
        Item("text", (11, 1, 3, 1), "pitch", "/v3/out/pitch"),
        Item("text", (14, 1, 3, 1), "latency", "/v3/latency"),
        Item("text", (17, 0, 3, 1), "xruns", "/v3/xruns"),
        Item("text", (17, 1, 3, 1), "cpu", "/v3/cpu"),
        Item("button", (20, 0, 2, 1), "connect", "/v3/subscribe", feedback, GOLD),
        Item("button", (20, 1, 2, 1), "refresh", "/v3/dump", (1,), GOLD),
        Item("button", (22, 0, 2, 2), "PANIC", "/v3/midi/panic", (1,), RED),
    ]
    for k, name in enumerate(timbres[:24]):
        cell = (k % 4 * 2, 2 + k // 4, 2, 1)
        items.append(Item("button", cell, name, "/v3/timbre", (name,), BLUE))
    items.append(Item("xy", (8, 2, 6, 6), "morph", "/v3/morph/xy", colour=GREEN))
    words = [(c, word) for c in choices() for word in c.choices]
    for k, (control, word) in enumerate(words):
        cell = (16 + k % 4 * 2, 2 + k // 4, 2, 1)
        colour = BLUE if control.address == "/v3/scale/name" else GREEN
        items.append(Item("button", cell, word, control.address, (word,), colour))
    height = 6 / len(toggles())
    for k, control in enumerate(toggles()):
        switch = (14, 2 + k * height, 2, height)
        items.append(Item("toggle", switch, name_of(control), control.address, colour=GOLD))
    width = COLUMNS / len(faders())
    for k, control in enumerate(faders()):
        group, _, last = name_of(control).rpartition("/")
        items.append(Item("label", (k * width, 8, width, 0.5), group))
        items.append(Item("label", (k * width, 8.5, width, 0.5), last))
        items.append(Item("fader", (k * width, 9, width, 5.4), "", control.address, colour=BLUE))
    items.append(Item("text", (0, 14.4, COLUMNS, 0.6), "", "/v3/error"))
    return items


def _pixels(frame: Frame) -> tuple[int, int, int, int]:
    left, top = round(frame[0] * CELL), round(frame[1] * CELL)
    right, bottom = round((frame[0] + frame[2]) * CELL), round((frame[1] + frame[3]) * CELL)
    return left, top, right - left - GAP, bottom - top - GAP


# --- TouchOSC: zlib-compressed XML. Host and ports are kept by the device, not in the file.

# A message of several values is written into its label by the script.
_TOUCHOSC_SCRIPT = """
local names = {'C', 'C#', 'D', 'D#', 'E', 'F', 'F#', 'G', 'G#', 'A', 'A#', 'B'}

local written = {
  ['/v3/out/note'] = function(note, velocity, channel, cents)
    if velocity == 0 then return '-' end
    local octave = math.floor(note / 12) - 1
    return string.format('%s%d %+d', names[note % 12 + 1], octave, math.floor(cents + 0.5))
  end,
  ['/v3/out/pitch'] = function(hz, confidence) return string.format('%.1f Hz', hz) end,
  ['/v3/latency'] = function(total) return string.format('%.1f ms', total) end,
  ['/v3/xruns'] = function(n) return string.format('%d xruns', n) end,
  ['/v3/cpu'] = function(share) return string.format('CPU %.0f %%', 100 * share) end,
  ['/v3/timbre'] = function(name) return name end,
  ['/v3/error'] = function(address, reason) return address .. ': ' .. reason end,
}

function onReceiveOSC(message, connections)
  local text = written[message[1]]
  if text then
    local values = {}
    for k, argument in ipairs(message[2]) do values[k] = argument.value end
    self:findByName(message[1], true).values.text = text(table.unpack(values))
  end
  return false
end
""".strip()

_TOUCHOSC_TYPES: dict[Kind, str] = {
    "label": "LABEL",
    "text": "LABEL",
    "button": "BUTTON",
    "toggle": "BUTTON",
    "fader": "FADER",
    "meter": "FADER",
    "xy": "XY",
}
_TAGS = {int: "i", float: "f", str: "s"}
_CONVERSIONS = {"i": "INTEGER", "f": "FLOAT", "s": "STRING"}


def touchosc(items: Iterable[Item]) -> bytes:
    """The layout as a .tosc file; equal layouts give equal bytes."""
    lexml = ElementTree.Element("lexml", version="3")
    root = _node(lexml, "GROUP", "v3audio", (0, 0, COLUMNS * CELL, ROWS * CELL), "#16181a")
    _property(root, "s", "script", _TOUCHOSC_SCRIPT)
    children = ElementTree.SubElement(root, "children")
    for item in items:
        _touchosc_item(children, item)
    xml = ElementTree.tostring(lexml, encoding="unicode")
    return zlib.compress(f"<?xml version='1.0' encoding='UTF-8'?>{xml}".encode(), 9)


def _touchosc_item(parent: ElementTree.Element, item: Item) -> None:
    kind, frame = _TOUCHOSC_TYPES[item.kind], _pixels(item.frame)
    name = item.address if item.kind == "text" else f"{item.address} {item.caption}".strip()
    node = _node(parent, kind, name, frame, item.colour)
    if kind == "LABEL":
        _caption(node, item.caption, size=28 if item.frame[3] > 1 else 13)
        if item.kind == "label":
            _property(node, "b", "background", 0)
        return
    _property(node, "b", "interactive", int(item.kind != "meter"))
    messages = ElementTree.SubElement(node, "messages")
    if item.kind == "button":
        _property(node, "i", "buttonType", 0)
        _value(node, "x", 0)
        constants = [("CONSTANT", _CONVERSIONS[_TAGS[type(arg)]], arg, 0, 1) for arg in item.args]
        _message(messages, item.address, constants, {"x": "RISE"}, receive=False)
    else:
        control = item.control
        low = METER_FLOOR_DBFS if control.low is None else control.low
        high = 0.0 if control.high is None else control.high
        axes = "xy"[: len(control.types)]
        for axis in axes:
            start = low if control.default is None else float(control.default)
            _value(node, axis, 0.5 if item.kind == "xy" else (start - low) / (high - low))
        conversion = _CONVERSIONS[control.types[0]]
        values = [("VALUE", conversion, axis, low, high) for axis in axes]
        triggers = dict.fromkeys(axes, "ANY")
        _message(messages, item.address, values, triggers, send=item.kind != "meter")
        if item.kind == "toggle":
            _property(node, "i", "buttonType", 2)
        elif item.kind == "meter":
            _property(node, "i", "orientation", 1)
            _property(node, "b", "cursor", 0)
    if item.caption:  # buttons and faders carry no text of their own
        label = _node(parent, "LABEL", f"{name} caption", frame, item.colour)
        _caption(label, item.caption, size=13 if len(item.caption) < 12 else 10)
        _property(label, "b", "background", 0)
        _property(label, "b", "interactive", 0)


def _node(
    parent: ElementTree.Element, kind: str, name: str, frame: tuple[int, int, int, int], colour: str
) -> ElementTree.Element:
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"v3audio {kind} {name} {frame}"))
    node = ElementTree.SubElement(parent, "node", ID=identity, type=kind)
    ElementTree.SubElement(node, "properties")
    ElementTree.SubElement(node, "values")
    _property(node, "s", "name", name)
    for tag, key, value in (
        ("r", "frame", dict(zip("xywh", frame, strict=True))),
        ("c", "color", _rgba(colour)),
    ):
        _property(node, tag, key, value)
    return node


def _rgba(colour: str) -> dict[str, float]:
    parts = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return {c: round(part / 255, 3) for c, part in zip("rgb", parts, strict=True)} | {"a": 1.0}


def _property(node: ElementTree.Element, tag: str, key: str, value: Any) -> None:
    parent = node.find("properties")
    assert parent is not None
    found = ElementTree.SubElement(parent, "property", type=tag)
    ElementTree.SubElement(found, "key").text = key
    element = ElementTree.SubElement(found, "value")
    if isinstance(value, dict):
        for part, number in value.items():
            ElementTree.SubElement(element, part).text = str(number)
    else:
        element.text = str(value)


def _value(node: ElementTree.Element, key: str, default: float | str) -> None:
    parent = node.find("values")
    assert parent is not None
    value = ElementTree.SubElement(parent, "value")
    ElementTree.SubElement(value, "key").text = key
    ElementTree.SubElement(value, "locked").text = "0"
    ElementTree.SubElement(value, "lockedDefaultCurrent").text = "0"
    text = f"{default:.6g}" if isinstance(default, float | int) else default
    ElementTree.SubElement(value, "default").text = text
    ElementTree.SubElement(value, "defaultPull").text = "0"


def _caption(node: ElementTree.Element, text: str, size: int) -> None:
    _value(node, "text", text)
    _property(node, "i", "textSize", size)
    _property(node, "i", "textAlignH", 2)
    _property(node, "i", "textAlignV", 2)
    _property(node, "c", "textColor", _rgba("#ffffff"))


def _message(
    parent: ElementTree.Element,
    address: str,
    args: Iterable[tuple[str, str, Any, float, float]],
    triggers: dict[str, str],
    *,
    send: bool = True,
    receive: bool = True,
) -> None:
    """One OSC message of a control: type, conversion, what, and its range for each argument."""
    osc = ElementTree.SubElement(parent, "osc")
    flags = {"enabled": 1, "send": int(send), "receive": int(receive), "feedback": 0}
    for flag, number in flags.items():
        ElementTree.SubElement(osc, flag).text = str(number)
    ElementTree.SubElement(osc, "connections").text = "11111"
    element = ElementTree.SubElement(osc, "triggers")
    for var, condition in triggers.items():
        trigger = ElementTree.SubElement(element, "trigger")
        ElementTree.SubElement(trigger, "var").text = var
        ElementTree.SubElement(trigger, "condition").text = condition
    path = [("CONSTANT", "STRING", address, 0, 1)]
    for key, partials in (("path", path), ("arguments", args)):
        element = ElementTree.SubElement(osc, key)
        for kind, conversion, value, low, high in partials:
            partial = ElementTree.SubElement(element, "partial")
            ElementTree.SubElement(partial, "type").text = kind
            ElementTree.SubElement(partial, "conversion").text = conversion
            ElementTree.SubElement(partial, "value").text = str(value)
            ElementTree.SubElement(partial, "scaleMin").text = f"{low:g}"
            ElementTree.SubElement(partial, "scaleMax").text = f"{high:g}"


# --- Open Stage Control: JSON. What is not said takes the program's own default.


def open_stage_control(items: Iterable[Item]) -> str:
    """The layout as an Open Stage Control session."""
    session = {
        "version": "1.25.1",
        "createdWith": "Open Stage Control",
        "type": "session",
        "content": {
            "type": "root",
            "id": "root",
            "widgets": [_widget(k, item) for k, item in enumerate(items)],
            "tabs": [],
        },
    }
    return json.dumps(session, indent=1) + "\n"


def _widget(k: int, item: Item) -> dict[str, Any]:
    left, top, width, height = _pixels(item.frame)
    widget: dict[str, Any] = {
        "type": {"label": "text", "toggle": "button", "meter": "fader"}.get(item.kind, item.kind),
        "id": f"{item.kind}_{k}",
        "left": left,
        "top": top,
        "width": width,
        "height": height,
        "colorWidget": item.colour,
    }
    if item.kind in ("label", "text"):
        widget |= {"value" if item.kind == "label" else "default": item.caption}
    if not item.address:
        return widget | {"address": "auto", "bypass": True, "interaction": False}
    widget |= {"address": item.address, "target": f"127.0.0.1:{IN_PORT}", "decimals": 4}
    if item.kind in ("text", "meter"):
        widget |= {"bypass": True, "interaction": False}
    if item.kind in ("button", "toggle"):
        widget |= {"label": item.caption, "mode": "tap" if item.kind == "button" else "toggle"}
    if item.kind == "button":
        return widget | {
            "on": item.args[-1],
            "preArgs": list(item.args[:-1]),
            "typeTags": "".join(_TAGS[type(arg)] for arg in item.args),
        }
    control = item.control
    widget["typeTags"] = control.types
    if item.kind in ("fader", "meter", "xy"):
        low = METER_FLOOR_DBFS if control.low is None else control.low
        high = 0 if control.high is None else control.high
        scale = {"min": low, "max": high}
        widget |= {"rangeX": scale, "rangeY": scale} if item.kind == "xy" else {"range": scale}
    if item.kind == "meter":
        widget |= {"horizontal": True, "design": "compact"}
    return widget


# --- Pd: a patch of vanilla objects around presets/daw/pd/v3audio.pd.

_IEM = "0 12 #fcfcfc #000000 #000000"  # font, its size, and the colours of sliders and switches


class _Canvas:
    """Objects and connections of a Pd patch or subpatch, numbered in the order they are placed."""

    def __init__(self, frame: str) -> None:
        self.lines = [f"#N canvas {frame};"]
        self.connections: list[str] = []
        self.n_objects = 0

    def place(self, kind: str, x: int, y: int, text: str, *sources: tuple[int, int]) -> int:
        """Add an object behind (object, outlet) of others; its number."""
        text = text.replace("$", "\\$").replace(",", " \\,")
        self.lines.append(f"#X {kind} {x} {y} {text};")
        for source, outlet in sources:
            self.connections.append(f"#X connect {source} {outlet} {self.n_objects} 0;")
        self.n_objects += 1
        return self.n_objects - 1

    def place_canvas(self, x: int, y: int, name: str, inner: _Canvas) -> None:
        """Add a subpatch."""
        self.lines += [*inner.lines, *inner.connections, f"#X restore {x} {y} pd {name};"]
        self.n_objects += 1

    def __str__(self) -> str:
        return "\n".join([*self.lines, *self.connections]) + "\n"


def pd_panel(timbres: Sequence[str]) -> str:
    """A Pd panel: what `v3audio-<path>` receives is sent to /v3/<path>, and feedback is shown.

    Args:
        timbres: names of the timbres to click on.
    """
    panel = _Canvas("60 60 1180 600 12")
    title = "v3audio live: slide or click. From other patches: mix 0.5 to v3audio-in"
    panel.place("text", 20, 14, title)
    panel.place_canvas(20, 44, "wires", _pd_wires())
    panel.place("obj", 120, 44, f"tgl 19 0 empty v3audio-answered answered 24 9 {_IEM} 0 1")
    for k, what in enumerate(("note", "velocity", "channel", "cents")):
        panel.place("floatatom", 260 + 140 * k, 44, f"6 0 0 1 {what} v3audio-{what} - 12")
    for k, control in enumerate([*faders(), *toggles()]):
        x, y = 20 + k // 11 * 330, 90 + k % 11 * 44
        name = name_of(control)
        ends = f"v3audio-{name} v3audio-{name}-show {name}"
        if control in toggles():
            panel.place("obj", x, y, f"tgl 19 0 {ends} 24 9 {_IEM} 0 1")
        else:
            slider = f"hsl 200 19 {control.low:g} {control.high:g} 0 0"
            panel.place("obj", x, y, f"{slider} {ends} 206 9 {_IEM} 0 1")
    words = [f"timbre {name}" for name in timbres] + ["timbre/prev", "timbre/next", "midi/panic"]
    words += [f"{name_of(c)} {word}" for c in choices() for word in c.choices if " " not in word]
    click = panel.place("obj", 650, 570, "s v3audio-in")
    for k, word in enumerate(words):
        message = panel.place("msg", 650 + k // 22 * 170, 90 + k % 22 * 21, word)
        panel.connections.append(f"#X connect {message} 0 {click} 0;")
    return str(panel)


def _pd_wires() -> _Canvas:
    """The session, and what leads from the sliders to it and back."""
    wires = _Canvas("100 100 900 900 wires 0")
    session = wires.place("obj", 20, 40, "v3audio", (wires.place("obj", 20, 10, "r v3audio-in"), 0))
    unpack = wires.place("obj", 20, 70, "unpack f f f f", (session, 0))
    for k, what in enumerate(("note", "velocity", "channel", "cents")):
        wires.place("obj", 20 + 150 * k, 100, f"s v3audio-{what}", (unpack, k))
    wires.place("obj", 300, 40, "s v3audio-answered", (session, 2))
    groups: dict[str, list[Control]] = {}  # feedback comes as a list: gain in -6
    for control in [*faders(), *toggles()]:
        groups.setdefault(name_of(control).rpartition("/")[0], []).append(control)
    plain = groups.pop("")
    names = " ".join([*map(name_of, plain), *groups])
    first = wires.place("obj", 20, 140, f"route {names}", (session, 1))
    sources = [(first, k, c) for k, c in enumerate(plain)]
    for k, (group, controls) in enumerate(groups.items()):
        names = " ".join(name_of(c).removeprefix(f"{group}/") for c in controls)
        rest = wires.place("obj", 20 + 120 * k, 180, f"route {names}", (first, len(plain) + k))
        sources += [(rest, j, c) for j, c in enumerate(controls)]
    for k, (source, outlet, control) in enumerate(sources):
        y, name = 220 + 30 * k, name_of(control)
        show = wires.place("msg", 20, y, "set $1", (source, outlet))
        wires.place("obj", 90, y, f"s v3audio-{name}-show", (show, 0))
        moved = wires.place("obj", 360, y, f"r v3audio-{name}")
        send = wires.place("msg", 580, y, f"{name} $1", (moved, 0))
        wires.place("obj", 760, y, "s v3audio-in", (send, 0))
    return wires


def files() -> dict[str, bytes]:
    """Every file that is written from the table, by its path below presets/daw."""
    timbres = [entry.name for entry in list_timbres() if entry.is_shipped]
    items = layout(timbres)
    return {
        "touchosc/v3audio.tosc": touchosc(items),
        "open-stage-control/v3audio.json": open_stage_control(items).encode(),
        "pd/v3audio-panel.pd": pd_panel(timbres).encode(),
    }


def main() -> None:
    """Write the files into this checkout's presets/daw."""
    for name, data in files().items():
        with atomic_write(presets_dir() / "daw" / name) as partial:
            Path(partial).write_bytes(data)


if __name__ == "__main__":
    main()
