"""The SuperCollider class in sclang: its methods against the table, its functions, its help."""

from __future__ import annotations

import pytest

from realtime.controls import BY_ADDRESS, CONTROLS

SCRIPT = r"""
var quark = "%s", port = %d, help, v;
v = V3Audio("127.0.0.1", port);
v.ping(7); v.get("mix"); v.dump;
v.enable; v.bypass(false); v.freeze(false);
v.timbre("flute:0.7,trumpet:0.3"); v.timbreIndex(2); v.fade(200); v.next; v.prev; v.list;
v.morph("flute", "oboe", 0.25); v.corners("flute", "oboe", "viola", "tuba"); v.morphXY(0.25, 0.75);
v.mix(0.5); v.gain(-3, -6); v.gate(-60);
v.transpose(-12); v.fine(50); v.snap(1); v.ref(442); v.scale(9, "minor");
v.midi; v.channel(2); v.mode("mpe"); v.bendRange(48); v.minNote(40); v.sensitivity(0.7);
v.velocity("attack"); v.panic;
v.record(false); v.export("take-1"); v.capture("mine"); v.captureStop;
v.onNote { |note, velocity, channel, cents| [\note, note, velocity, channel, cents].postln };
v.onPitch { |hz, confidence| [\pitch, hz, confidence].postln };
v.onLevel { |db| [\level, db].postln };
v.onError { |address, reason| [\error, address, reason].postln };
v.onPong { |echo, name, version, protocol| [\pong, echo, name, version, protocol].postln };
v.on("timbre/item") { |index, name, origin|
    [\item, index, name, origin].postln; v.free; 0.exit };
help = quark +/+ "HelpSource/Classes/V3Audio.schelp";
[\help, SCDoc.parseFileFull(help).notNil].postln;
V3Audio.methods.reject { |m| m.name.asString.beginsWith("pr") or: { m.name == \init } }.do { |m|
    File.readAllString(help).contains("METHOD:: " ++ m.name ++ "\n").not.if {
        [\undocumented, m.name].postln } };
"""


@pytest.fixture
def sclang(peer, run, kit, tmp_path):
    quark = kit / "supercollider/v3audio"
    conf, script = tmp_path / "conf.yaml", tmp_path / "test.scd"
    conf.write_text(f"includePaths:\n    - {quark}\nexcludePaths: []\n")
    script.write_text(SCRIPT % (quark, peer.port))
    return run("sclang", "-l", str(conf), str(script), HOME=str(tmp_path),
               QTWEBENGINE_DISABLE_SANDBOX="1", QT_QPA_PLATFORM="offscreen")  # fmt: skip


def test_class_reaches_the_whole_table_and_hears(peer, sclang) -> None:
    heard = peer.hear_until("/v3/capture/stop")
    for address, args in heard:
        control = BY_ADDRESS[address]
        if control.kind == "rw":
            assert control.read(args) == pytest.approx(args), address  # right types, in range
    settable = {c.address for c in CONTROLS if c.kind != "r"}
    assert {address for address, _ in heard} == settable - {"/v3/unsubscribe"}
    assert heard[0][1][0] == "/v3/*"
    assert heard[0][1][1] == peer.program[1]  # feedback to the port that it sends from

    peer.say("/v3/out/note", 60, 100, 1, -3.5)
    peer.say("/v3/out/pitch", 440.0, 0.5)
    peer.say("/v3/out/level", -12.0)
    peer.say("/v3/error", "/v3/mix", "no")
    peer.say("/pong", 7, "v3audio", "0.1", 1)
    peer.say("/v3/timbre/item", 0, "flute", "a flute")
    for line in (
        "[ note, 60, 100, 1, -3.5 ]",
        "[ pitch, 440.0, 0.5 ]",
        "[ level, -12.0 ]",
        "[ error, /v3/mix, no ]",
        "[ pong, 7, v3audio, 0.1, 1 ]",
        "[ item, 0, flute, a flute ]",
    ):
        sclang.wait_for(line)
    assert peer.hear() == ("/v3/unsubscribe", ("/v3/*", peer.program[1]))

    assert "[ help, true ]" in sclang.printed
    assert "undocumented" not in sclang.printed
    assert "ERROR" not in sclang.printed
