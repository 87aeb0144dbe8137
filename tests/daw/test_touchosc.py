"""The TouchOSC layout: a whole .tosc document whose every message means something in the table."""

from __future__ import annotations

import itertools
import re
import zlib
from xml.etree import ElementTree

import pytest

from realtime.controls import BY_ADDRESS, CONTROLS
from realtime.daw_kit import COLUMNS, ROWS, faders, toggles
from v3audio.timbres import list_timbres

READ = {"INTEGER": int, "FLOAT": float, "STRING": str}


@pytest.fixture
def root(kit):
    document = ElementTree.fromstring(zlib.decompress((kit / "touchosc/v3audio.tosc").read_bytes()))
    assert document.tag == "lexml"
    assert document.attrib == {"version": "3"}
    (group,) = document
    return group


def properties(node) -> dict[str, str]:
    return {p.findtext("key"): p.findtext("value") for p in node.iter("property")}


def frame(node) -> tuple[int, int, int, int]:
    (found,) = (p for p in node.find("properties") if p.findtext("key") == "frame")
    return tuple(int(found.find("value").findtext(axis)) for axis in "xywh")


def messages(node) -> list[tuple[str, list, list]]:
    """Address, lowest and highest arguments of what each child sends or takes."""
    found = []
    for osc in node.iter("osc"):
        path = "".join(p.findtext("value") for p in osc.find("path"))
        ends: list[list] = [[], []]
        for p in osc.find("arguments"):
            read = READ[p.findtext("conversion")]
            is_fixed = p.findtext("type") == "CONSTANT"
            for end, scale in zip(ends, ("scaleMin", "scaleMax"), strict=True):
                end.append(read(p.findtext("value" if is_fixed else scale)))
        found.append((path, *ends))
    return found


def test_every_node_is_whole_inside_the_page_and_clear_of_others(root) -> None:
    nodes = list(root.find("children"))
    assert root.get("type") == "GROUP"
    assert {n.get("type") for n in nodes} == {"LABEL", "BUTTON", "FADER", "XY"}
    assert len({n.get("ID") for n in root.iter("node")}) == len(nodes) + 1
    _, _, width, height = frame(root)
    assert width / height == COLUMNS / ROWS
    for node in nodes:
        x, y, w, h = frame(node)
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
    apart = [n for n in nodes if not properties(n)["name"].endswith("caption")]
    for one, other in itertools.combinations(apart, 2):
        (ax, ay, aw, ah), (bx, by, bw, bh) = frame(one), frame(other)
        are_clear = ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
        assert are_clear, (properties(one)["name"], properties(other)["name"])


def test_every_message_is_taken_by_the_table_as_it_is(root) -> None:
    found = messages(root)
    for address, low, high in found:
        control = BY_ADDRESS[address]
        if control.kind == "rw":
            assert list(control.read(low)) == low
            assert list(control.read(high)) == high
    moved = {address: (low, high) for address, low, high in found}
    for control in [*faders(), *toggles()]:
        assert moved[control.address] == ([control.low], [control.high])
    assert moved["/v3/morph/xy"] == ([0, 0], [1, 1])
    assert moved["/v3/subscribe"][0] == ["/v3/*", 9721, 30.0]
    triggers = {c.address for c in CONTROLS if c.kind == "t"} & moved.keys()
    assert triggers >= {"/v3/midi/panic", "/v3/dump", "/v3/timbre/next", "/v3/timbre/prev"}


def test_the_first_timbres_and_every_choice_have_a_button(root) -> None:
    sent = [(address, *low) for address, low, _ in messages(root)]
    names = [entry.name for entry in list_timbres() if entry.is_shipped]
    for name in names[:24]:  # the page has room for so many; "next" goes through all
        assert ("/v3/timbre", name) in sent
    for control in CONTROLS:
        for word in control.choices:
            assert (control.address, word) in sent


def test_buttons_send_once_when_pressed_and_meters_never(root) -> None:
    for node in root.find("children"):
        osc, kind = node.find("messages/osc"), properties(node).get("buttonType")
        if kind == "0":
            assert osc.findtext("triggers/trigger/condition") == "RISE"
            assert osc.findtext("receive") == "0"
        elif properties(node)["name"].startswith("/v3/out/level") and osc is not None:
            assert (osc.findtext("send"), osc.findtext("receive")) == ("0", "1")


def test_script_shows_messages_of_the_table_in_labels_that_are_there(root) -> None:
    shown = set(re.findall(r"\['(/[^']+)'\]", properties(root)["script"]))
    names = {properties(n)["name"] for n in root.find("children") if n.get("type") == "LABEL"}
    assert {"/v3/out/note", "/v3/timbre", "/v3/error"} <= shown <= names
    for address in shown:
        BY_ADDRESS[address]
