"""The Open Stage Control session: JSON whose every widget means something in the table."""

from __future__ import annotations

import json

import pytest

from realtime.controls import BY_ADDRESS
from realtime.daw_kit import IN_PORT, faders, toggles

TAGS = {int: "i", float: "f", str: "s"}


@pytest.fixture
def widgets(kit):
    session = json.loads((kit / "open-stage-control/v3audio.json").read_text())
    assert (session["type"], session["createdWith"]) == ("session", "Open Stage Control")
    assert session["content"]["type"] == "root"
    return session["content"]["widgets"]


def test_widgets_send_what_the_table_takes(widgets) -> None:
    assert len({w["id"] for w in widgets}) == len(widgets)
    sending = [w for w in widgets if not w.get("bypass")]
    for widget in sending:
        control = BY_ADDRESS[widget["address"]]
        assert widget["target"] == f"127.0.0.1:{IN_PORT}"
        if widget.get("mode") == "tap":
            args = [*widget["preArgs"], widget["on"]]
            assert widget["typeTags"] == "".join(TAGS[type(a)] for a in args)
            assert control.kind == "t" or list(control.read(args)) == args
        else:
            assert widget["typeTags"] == control.types
    moved = {w["address"]: w for w in sending}
    for control in faders():
        assert moved[control.address]["range"] == {"min": control.low, "max": control.high}
    for control in toggles():
        assert moved[control.address]["mode"] == "toggle"
    assert (
        moved["/v3/morph/xy"]["rangeX"] == moved["/v3/morph/xy"]["rangeY"] == {"min": 0, "max": 1}
    )


def test_what_only_shows_never_sends(widgets) -> None:
    shown = {w["address"] for w in widgets if w.get("bypass")} - {"auto"}
    assert shown >= {"/v3/out/note", "/v3/out/level", "/v3/timbre", "/v3/latency", "/v3/error"}
    for address in shown:
        assert BY_ADDRESS[address].kind == "r" or address == "/v3/timbre"
