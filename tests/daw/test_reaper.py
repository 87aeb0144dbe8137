"""The REAPER pattern file: lines that REAPER reads, for messages that v3audio sends and takes."""

from __future__ import annotations

import re

import pytest

from realtime.controls import BY_ADDRESS, BY_ALIAS

# Of REAPER's own Default.ReaperOSC: what may stand before a value, and before a pattern.
VALUES = {
    "DEVICE_TRACK_COUNT": "number", "DEVICE_SEND_COUNT": "number", "DEVICE_RECEIVE_COUNT": "number",
    "DEVICE_FX_COUNT": "number", "DEVICE_FX_PARAM_COUNT": "number",
    "DEVICE_FX_INST_PARAM_COUNT": "number", "DEVICE_MARKER_COUNT": "number",
    "DEVICE_REGION_COUNT": "number", "REAPER_TRACK_FOLLOWS": "REAPER|DEVICE",
    "DEVICE_TRACK_FOLLOWS": "DEVICE|LAST_TOUCHED", "DEVICE_TRACK_BANK_FOLLOWS": "DEVICE|MIXER",
    "DEVICE_FX_FOLLOWS": "DEVICE|LAST_TOUCHED|FOCUSED", "DEVICE_EQ": "INSERT|EXISTING",
    "DEVICE_ROTARY_CENTER": "0|0.5",
}  # fmt: skip
ACTIONS = {"VKB_MIDI_NOTE": "if", "VKB_MIDI_PITCH": "if", "DEVICE_TRACK_SELECT": "it",
           "TRACK_VOLUME": "nfs", "TRACK_PAN": "ns", "RECORD": "tb"}  # fmt: skip


@pytest.fixture
def patterns(kit) -> dict[str, str]:
    """Pattern of each action, those that are commented out included; checks every line."""
    found = {}
    for line in (kit / "reaper/v3audio.ReaperOSC").read_text().splitlines():
        if not line or line.startswith("# "):
            continue
        action, value = line.removeprefix("#").split()
        if action in VALUES:
            assert re.fullmatch(VALUES[action].replace("number", r"\d+"), value), line
        else:
            flag, address = value[0], value[1:]
            assert flag in ACTIONS[action], line
            assert re.fullmatch(r"(/[a-z0-9_@]+)+", address), line
            found[action] = value
    return found


def test_reaper_takes_the_notes_that_are_sent(patterns) -> None:
    for action, sent in (("VKB_MIDI_NOTE", "/vkb_midi/<ch>/note/<n>"),
                         ("VKB_MIDI_PITCH", "/vkb_midi/<ch>/pitch")):  # fmt: skip
        types = BY_ADDRESS[sent].types
        assert patterns[action] == types + re.sub("<.*?>", "@", sent)


def test_what_reaper_may_move_is_in_the_table(patterns) -> None:
    for action in ("TRACK_VOLUME", "TRACK_PAN"):
        assert patterns[action].startswith("n")  # 0..1, as the aliases are
        assert patterns[action][1:] in BY_ALIAS
    assert BY_ADDRESS[patterns["RECORD"][1:]].high == 1


def test_nothing_but_notes_unasked(kit) -> None:
    lines = (kit / "reaper/v3audio.ReaperOSC").read_text().splitlines()
    active = {line.split()[0] for line in lines if line and not line.startswith("#")}
    assert active - VALUES.keys() == {"VKB_MIDI_NOTE", "VKB_MIDI_PITCH"}
