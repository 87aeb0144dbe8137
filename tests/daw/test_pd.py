"""The Pd patches, in Pd itself: what they send, what they hear, and that vanilla Pd has it all."""

from __future__ import annotations

import pytest

from realtime.controls import BY_ADDRESS
from realtime.daw_kit import faders, name_of, toggles

PD = ("-nogui", "-noaudio", "-nomidi", "-nostdpath", "-stderr")


def test_panel_moves_every_number_and_switch(peer, run, kit) -> None:
    controls = [*faders(), *toggles()]
    values = {c.address: round((c.low + 2 * c.high) / 3) for c in controls}
    sends = "; ".join(f"v3audio-{name_of(c)} {values[c.address]}" for c in controls)
    patch = str(kit / "pd/v3audio-panel.pd")
    program = run(
        "pd", *PD, "-open", patch,
        "-send", f"; v3audio-in connect 127.0.0.1 {peer.port}; {sends}; v3audio-in midi/panic",
    )  # fmt: skip

    heard = peer.hear_until("/v3/midi/panic")
    assert [address for address, _ in heard[:2]] == ["/v3/subscribe", "/v3/dump"]
    assert {address: args[0] for address, args in heard[2:-1]} == pytest.approx(values)
    for address, args in heard[2:-1]:
        assert BY_ADDRESS[address].read(args)

    assert program.stop() == ""  # Pd names here what it could not create


def test_object_speaks_and_hears(peer, run, kit) -> None:
    program = run("pd", *PD, "-open", str(kit / "pd/v3audio-help.pd"), "-send",
                  f"; v3audio-help connect 127.0.0.1 {peer.port};"
                  r" v3audio-help timbre flute:0.7\,trumpet:0.3;"
                  " v3audio-help morph/xy 0.25 0.75; v3audio-help midi/panic;"
                  " v3audio-help osc /ping 7")  # fmt: skip
    assert peer.hear_until("/ping") == [
        ("/v3/subscribe", ()),
        ("/v3/dump", ()),
        ("/v3/timbre", ("flute:0.7,trumpet:0.3",)),
        ("/v3/morph/xy", (0.25, 0.75)),
        ("/v3/midi/panic", ()),
        ("/ping", (7.0,)),
    ]

    peer.say("/v3/out/note", 60, 100, 1, -3.5)
    program.wait_for("note: 60 100 1 -3.5\n")
    assert "answered: 1\n" in program.printed
    peer.say("/v3/out/level", -12.0)
    program.wait_for("feedback: out level -12\n")
    peer.say("/v3/midi/mode", "mpe")
    program.wait_for("feedback: midi mode mpe\n")
    peer.say("/pong", 7, "v3audio", "0.1", 1)
    program.wait_for("feedback: pong 7 v3audio 0.1 1\n")


def test_object_asks_again_when_the_session_went_away(peer, run, kit) -> None:
    program = run("pd", *PD, "-open", str(kit / "pd/v3audio-help.pd"),
                  "-send", f"; v3audio-help connect 127.0.0.1 {peer.port}")  # fmt: skip
    peer.hear_until("/v3/dump")
    peer.say("/v3/heartbeat", 1.0)
    program.wait_for("answered: 1\n")

    assert peer.hear() == ("/v3/subscribe", ())  # after 3 s of silence
    program.wait_for("answered: 0\n")
