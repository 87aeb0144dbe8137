"""The table and the desk: reading, clamping, aliases, timbres, morphs, patterns, the page."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realtime.controls import (
    BY_ADDRESS,
    BY_ALIAS,
    CONTROLS,
    Control,
    Desk,
    MidiSettings,
    addresses_of,
    check_name,
    matches,
    osc_page,
)
from v3audio.errors import ControlError
from v3audio.settings import RANGES, Settings
from v3audio.timbres import Timbre

NUMBERS = [c for c in CONTROLS if c.kind == "rw" and "s" not in c.types]
RANGED = [c for c in NUMBERS if c.high is not None]
INTERFACE = """
/ping /v3/subscribe /v3/unsubscribe /v3/get /v3/dump /v3/enable /v3/bypass /v3/freeze /v3/timbre
/v3/timbre/index /v3/timbre/fade_ms /v3/timbre/next /v3/timbre/prev /v3/timbre/list /v3/morph/a
/v3/morph/b /v3/morph/amount /v3/morph/xy /v3/morph/corners /v3/mix /v3/gain/in /v3/gain/out
/v3/gate /v3/pitch/transpose /v3/pitch/fine /v3/pitch/snap /v3/pitch/ref /v3/scale/root
/v3/scale/name /v3/midi/enable /v3/midi/channel /v3/midi/mode /v3/midi/bend_range /v3/midi/min_note
/v3/midi/sensitivity /v3/midi/velocity /v3/midi/panic /v3/rec/enable /v3/rec/export
/v3/capture/start /v3/capture/stop /v3/capture/progress /v3/capture/report /v3/out/note
/v3/out/pitch /v3/out/level /v3/out/code /v3/latency /v3/xruns /v3/cpu /v3/heartbeat /v3/startup
/v3/error /v3/timbre/item /v3/timbre/end /pong
""".split()  # noqa: SIM905  # reads as the contract does


def field(desk: Desk, dotted: str) -> Any:
    value: Any = desk.now
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def test_the_table_has_every_address_once() -> None:
    addresses = [c.address for c in CONTROLS]
    assert len(addresses) == len(set(addresses))
    assert set(INTERFACE) == {a for a in addresses if not a.startswith("/vkb_midi")}


def test_every_setting_of_the_engine_is_in_the_table_with_its_own_range() -> None:
    rows = {dotted: c for c in CONTROLS if c.field for dotted in c.field.split()}
    for name in set(Settings.__slots__) - {"formant"}:  # Python's alone: not in what was promised
        control = rows[f"settings.{name}"]
        assert (control.low, control.high) == RANGES.get(
            name, (0, 1) if isinstance(getattr(Settings(), name), bool) else (None, None)
        )


@pytest.mark.parametrize("control", RANGED, ids=lambda c: c.address)
def test_numbers_are_set_clamped_and_hold_their_default(control: Control, desk: Desk) -> None:
    assert control.low is not None and control.high is not None
    n = len(control.types)
    if control.default is not None:
        assert desk.get(control.address) == (control.default,) * n
    for edge, beyond in ((control.low, control.low - 0.6), (control.high, control.high + 1e9)):
        assert desk.set(control.address, (beyond,) * n) == (edge,) * n
        assert desk.get(control.address) == (edge,) * n
        assert desk.set(control.address, (edge,) * n) == ()
    assert control.field
    assert [field(desk, dotted) for dotted in control.field.split()] == [control.high] * n


@pytest.mark.parametrize("control", NUMBERS, ids=lambda c: c.address)
@pytest.mark.parametrize(
    "bad",
    [(), (0.5, 0.5, 0.5), ("half",), (None,), (b"x",), (math.nan,), (math.inf,), (-math.inf,)],
    ids=str,
)
def test_what_is_no_number_changes_nothing(
    control: Control, bad: tuple[Any, ...], desk: Desk
) -> None:
    before = desk.now
    args = bad * len(control.types) if len(bad) == 1 else bad
    for address in filter(None, (control.address, control.alias)):
        with pytest.raises(ControlError, match="wanted"):
            desk.set(address, args)
    assert desk.now is before


def test_whole_numbers_are_rounded_and_the_rounded_one_is_told(desk: Desk) -> None:
    assert desk.set("/v3/pitch/transpose", (2.4,)) == (2,)
    assert desk.set("/v3/pitch/transpose", (-2.5,)) == (-2,)
    assert desk.set("/v3/pitch/transpose", (7.0,)) == ()
    assert desk.now.settings.transpose == 7.0
    assert desk.set("/v3/enable", (False,)) == ()
    assert desk.now.settings.enabled is False
    assert desk.set("/v3/enable", (2**40,)) == (1,)
    assert desk.now.settings.enabled is True


@pytest.mark.parametrize("alias", BY_ALIAS)
def test_aliases_count_from_0_to_1(alias: str, desk: Desk) -> None:
    control = BY_ALIAS[alias]
    assert control.low is not None and control.high is not None
    n = len(control.types)
    for x in (0.0, 0.25, 1.0):
        assert desk.set(alias, (x,) * n) == ()
        assert desk.get(alias) == pytest.approx((x,) * n)
        expected = control.low + x * (control.high - control.low)
        assert desk.get(control.address) == pytest.approx((expected,) * n)
    assert desk.set(alias, (1.5,) * n) == (1.0,) * n
    assert desk.get(control.address) == (control.high,) * n


def test_every_float_has_an_alias() -> None:
    assert {c.address for c in BY_ALIAS.values()} == {
        c.address for c in CONTROLS if c.kind == "rw" and set(c.types) == {"f"}
    }


@pytest.mark.parametrize(
    ("address", "word", "stands"),
    [
        ("/v3/scale/name", "DORIAN", ("dorian",)),
        ("/v3/midi/mode", "mpe", ()),
        ("/v3/midi/velocity", "attack", ()),
    ],
)
def test_words_are_taken_from_the_list(
    address: str, word: str, stands: tuple[str, ...], desk: Desk
) -> None:
    assert desk.set(address, (word,)) == stands
    assert desk.get(address) == (stands or (word,))
    before = desk.now
    for bad in ("lochrian", "", "../../etc/passwd", 3, "x" * 65536):
        with pytest.raises(ControlError):
            desk.set(address, (bad,))
    assert desk.now is before


def test_a_misspelt_word_is_answered_with_the_nearest(desk: Desk) -> None:
    with pytest.raises(ControlError, match="did you mean 'dorian'"):
        desk.set("/v3/scale/name", ("dorain",))
    with pytest.raises(ControlError, match="did you mean 'oboe'"):
        desk.set("/v3/timbre", ("oboo",))


def test_only_rw_addresses_can_be_set(desk: Desk) -> None:
    for address in ("/v3/out/level", "/v3/midi/panic", "/v3/nothing", "/v3/n/enable", ""):
        with pytest.raises(ControlError):
            desk.set(address, (1,))
        with pytest.raises(ControlError):
            desk.get(address)


# -- timbres


def styles(desk: Desk) -> float:
    """The test's timbres hold one number 16 times: cello 0, flute 1, oboe 2, trumpet 3."""
    assert np.ptp(desk.voice.style) < 1e-6
    return float(desk.voice.style[0])


def test_timbres_by_name_index_next_and_previous(desk: Desk) -> None:
    assert desk.names == ("cello", "flute", "oboe", "trumpet")
    assert (desk.now.timbre, desk.now.timbre_index, styles(desk)) == ("flute", 1, 1.0)
    assert desk.set("/v3/timbre", ("Oboe",)) == ("oboe",)
    assert (desk.now.timbre_index, styles(desk)) == (2, 2.0)
    assert desk.set("/v3/timbre/index", (99,)) == (3,)
    assert (desk.now.timbre, styles(desk)) == ("trumpet", 3.0)
    desk.step_timbre(1)
    assert (desk.now.timbre, styles(desk)) == ("cello", 0.0)
    desk.step_timbre(-1)
    assert (desk.now.timbre, styles(desk)) == ("trumpet", 3.0)


def test_a_blend_has_no_place_in_the_list(desk: Desk) -> None:
    assert desk.set("/v3/timbre", ("oboe:3, cello:1",)) == ("oboe:3,cello:1",)
    assert styles(desk) == pytest.approx(1.5)
    assert desk.now.timbre_index == -1
    desk.step_timbre(1)
    assert desk.now.timbre == "cello"
    desk.set("/v3/timbre", ("oboe,cello",))
    desk.step_timbre(-1)
    assert desk.now.timbre == "trumpet"


@pytest.mark.parametrize(
    "bad",
    [
        "", "obo", "../flute", "/etc/passwd", "flute.safetensors", "presets/timbres/flute",
        "flute:", "flute:x", "flute:nan,oboe:1", "flute:-1,oboe:2", "flute:0,oboe:0", ",", "flute,",
        "~/flute", "flute\0", "x" * 65536, 3, 0.5, None,
    ],
)  # fmt: skip
def test_what_is_no_timbre_changes_nothing_and_touches_no_disk(
    bad: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the disk was asked")

    monkeypatch.setattr(Path, "open", touched)
    monkeypatch.setattr(Path, "glob", touched)
    before, voice = desk.now, desk.voice
    for address in ("/v3/timbre", "/v3/morph/a"):
        with pytest.raises(ControlError):
            desk.set(address, (bad,))
    with pytest.raises(ControlError):
        desk.set("/v3/morph/corners", ("flute", "flute", "flute", bad))
    assert (desk.now, desk.voice) == (before, voice)
    desk.set("/v3/timbre", ("oboe:1,flute:1",))


def test_what_was_moved_last_is_heard(desk: Desk) -> None:
    desk.set("/v3/morph/a", ("cello",))
    desk.set("/v3/morph/b", ("trumpet",))
    desk.set("/v3/morph/corners", ("cello", "flute", "oboe", "trumpet"))
    assert (desk.now.sounding, styles(desk)) == ("timbre", 1.0)  # kept, not heard
    desk.set("/v3/morph/amount", (0.5,))
    assert (desk.now.sounding, styles(desk)) == ("morph", 1.5)
    desk.set("/v3/morph/a", ("trumpet",))
    assert styles(desk) == 3.0
    assert desk.now.timbre == "flute"
    for xy, corner in (
        ((0, 1), 0.0),
        ((1, 1), 1.0),
        ((0, 0), 2.0),
        ((1, 0), 3.0),
        ((0.5, 0.5), 1.5),
    ):
        desk.set("/v3/morph/xy", xy)
        assert (desk.now.sounding, styles(desk)) == ("corners", pytest.approx(corner))
    desk.set("/v3/timbre", ("flute",))
    assert (desk.now.sounding, styles(desk)) == ("timbre", 1.0)


def test_the_voice_is_the_same_object_until_it_changes(desk: Desk) -> None:
    desk.set("/v3/timbre", ("oboe:1,cello:1",))
    voice = desk.voice
    desk.set("/v3/mix", (0.5,))
    desk.set("/v3/morph/b", ("cello",))
    desk.set("/v3/timbre", ("oboe:1,cello:1",))
    assert desk.voice is voice


def test_a_captured_timbre_can_be_chosen_at_once(desk: Desk) -> None:
    mine = replace(desk.voice, name="bell")
    desk.add_timbre(mine)
    assert desk.names == ("bell", "cello", "flute", "oboe", "trumpet")
    assert desk.now.timbre_index == 2
    desk.set("/v3/timbre", ("bell",))
    assert desk.voice is mine


@pytest.mark.parametrize("name", ["my-own", "a:0.5,b:0.5"])
def test_a_start_from_a_file_or_blend_needs_no_list(name: str, desk: Desk) -> None:
    own = replace(desk.voice, name=name)
    alone = Desk(own)
    assert alone.get("/v3/timbre") == (name,)
    alone.set("/v3/morph/amount", (1.0,))
    alone.set("/v3/timbre", (name,))
    assert alone.voice is own
    assert alone.get("/v3/timbre/index") == (0 if name == "my-own" else -1,)


# -- listeners and bundles


def test_listeners_are_told_each_control_and_its_alias(desk: Desk) -> None:
    told: list[tuple[str, tuple[Any, ...]]] = []
    desk.listeners.append(lambda address, values: told.append((address, values)))
    desk.set("/v3/gain/out", (-60.0,))
    assert told == [("/v3/gain/out", (-60.0,)), ("/v3/n/gain/out", (0.0,))]
    told.clear()
    desk.set("/v3/timbre", ("oboe",))
    assert told == [("/v3/timbre", ("oboe",)), ("/v3/timbre/index", (2,))]
    told.clear()
    desk.step_timbre(1)
    assert told == [("/v3/timbre", ("trumpet",)), ("/v3/timbre/index", (3,))]


def test_changes_made_together_are_seen_together(desk: Desk) -> None:
    seen = []
    desk.listeners.append(lambda address, _: seen.append((address, desk.now.settings.mix)))
    before = desk.now
    with desk.together():
        desk.set("/v3/mix", (0.25,))
        desk.set("/v3/bypass", (1,))
        assert desk.get("/v3/mix") == (0.25,)
        assert desk.now is before
        with pytest.raises(ControlError):
            desk.set("/v3/gate", ("loud",))
    assert desk.now.settings == replace(Settings(), mix=0.25, bypass=True)
    assert [address for address, _ in seen] == ["/v3/mix", "/v3/n/mix", "/v3/bypass"]


def test_many_threads_may_set(desk: Desk) -> None:
    addresses = ["/v3/mix", "/v3/pitch/snap", "/v3/midi/sensitivity", "/v3/n/gate"]

    def move(address: str) -> None:
        for k in range(200):
            desk.set(address, (k / 199,))

    threads = [threading.Thread(target=move, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [desk.get(address) for address in addresses] == [(1.0,)] * 4


def test_midi_settings_start_as_given(desk: Desk) -> None:
    other = Desk(desk.voice, settings=Settings(mix=0.5), midi=MidiSettings(channel=3))
    assert other.get("/v3/mix") == (0.5,)
    assert other.get("/v3/midi/channel") == (3,)


# -- names and patterns


@pytest.mark.parametrize("name", ["take-1", "A", "x" * 64])
def test_names_are_names(name: str) -> None:
    assert check_name((name,), "take") == name


@pytest.mark.parametrize(
    "bad", ["", "..", "../x", "a/b", "a\\b", "C:x", "x" * 65, ".x", "-x", "a b", "a\0", 3, None]
)
def test_names_are_never_paths(bad: Any) -> None:
    with pytest.raises(ControlError, match="take"):
        check_name((bad,), "take")


@pytest.mark.parametrize(
    ("pattern", "address", "is_match"),
    [
        ("/v3/mix", "/v3/mix", True),
        ("/v3/m?x", "/v3/mix", True),
        ("/v3/m?", "/v3/mix", False),
        ("/v3/*", "/v3/mix", True),
        ("/v3/*", "/v3/gain/in", False),
        ("/v3/*/in", "/v3/gain/in", True),
        ("/*/*/*", "/v3/gain/in", True),
        ("/v3/g*n/i*", "/v3/gain/in", True),
        ("/v3?mix", "/v3/mix", False),
        ("/v3[!a]mix", "/v3/mix", False),
        ("/v[0-9]/mix", "/v3/mix", True),
        ("/v[!0-9]/mix", "/v3/mix", False),
        ("/v3/[a-m]ix", "/v3/mix", True),
        ("/v3/mi[xyz-]", "/v3/mix", True),
        ("/v3/gain/{in,out}", "/v3/gain/out", True),
        ("/v3/gain/{i,in}", "/v3/gain/in", True),
        ("/v3/{mix", "/v3/mix", False),
        ("/v3/[mix", "/v3/mix", False),
        ("/v3/mix*", "/v3/mix", True),
        ("/v3/**x", "/v3/mix", True),
        ("", "/v3/mix", False),
    ],
)
def test_patterns(pattern: str, address: str, is_match: bool) -> None:
    assert matches(pattern, address) is is_match


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [("/v3/*", True), ("/v3/gain", True), ("/v3", True), ("", True), ("/v3/ga", False),
     ("/v3/n/*", False), ("/*/*/*/*", False)],
)  # fmt: skip
def test_a_subscription_also_means_what_lies_below(pattern: str, is_match: bool) -> None:
    assert matches(pattern, "/v3/gain/in", below=True) is is_match


def test_no_pattern_takes_long() -> None:
    devious = [
        "/v3/" + "*a" * 120 + "b", "/v3/" + "*" * 250, "/v3/" + "{a,aa,aaa}" * 25,
        "/v3/" + "[!-~]" * 50, "{" * 256, "[" * 256, "/" + "*/" * 127, "/v3/" + "{,}" * 80 + "q",
        "/v3/{" + ",".join(["*"] * 120) + "}",
    ]  # fmt: skip
    start_s = time.thread_time()  # of our own: others may work here, too
    for pattern in devious:
        addresses_of(pattern)
        matches(pattern, "/" + "a" * 200)
    assert time.thread_time() - start_s < 1.0


def test_patterns_of_random_characters_never_fail() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        pattern = "".join(rng.choices("/v3*?[]{}!-,amix", k=rng.randrange(20)))
        matches(pattern, "/v3/mix", below=rng.random() < 0.5)


def test_patterns_mean_what_can_be_set_or_triggered() -> None:
    assert addresses_of("/v3/gain/*") == ("/v3/gain/in", "/v3/gain/out")
    assert "/v3/midi/panic" in addresses_of("/v3/midi/*")
    assert not any(BY_ADDRESS[a].kind == "r" for a in addresses_of("/v3/*") if a in BY_ADDRESS)
    with pytest.raises(ControlError, match="characters"):
        addresses_of("/" + "*" * 1000)


def test_the_page_in_the_docs_is_the_tables() -> None:
    page = Path(__file__).parents[2] / "docs" / "osc.md"
    assert page.read_text(encoding="utf-8") == osc_page(), (
        "type: python -m realtime.controls > docs/osc.md"
    )
    assert all(f"`{c.address}`" in osc_page() for c in CONTROLS)


def test_a_timbre_type_is_what_the_engine_gets(desk: Desk) -> None:
    desk.set("/v3/morph/xy", (0.1, 0.9))
    assert isinstance(desk.voice, Timbre)
