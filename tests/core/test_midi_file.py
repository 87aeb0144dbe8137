from __future__ import annotations

import itertools
from pathlib import Path

import mido
import numpy as np
import pytest

from v3audio.errors import AudioFileError, ConfigError
from v3audio.midi_file import MidiWriter, NoteEncoder, estimate_tempo, write_midi
from v3audio.notes import Note, NoteEvent


def note(onset_s: float, offset_s: float, midi: int = 60, cents: float = 0.0) -> Note:
    return Note(onset_s, offset_s, midi, cents, velocity=80, confidence=1.0)


def event(kind: str, sample: int, midi: int = 60, cents: float = 0.0) -> NoteEvent:
    velocity = 0 if kind == "off" else 80
    return NoteEvent(kind, sample, midi, velocity, cents, 1.0)  # type: ignore[arg-type]


def timed(path: Path) -> list[tuple[int, mido.Message]]:
    """The channel messages of the notes' track with their absolute ticks."""
    track = mido.MidiFile(path).tracks[1]
    ticks = itertools.accumulate(m.time for m in track)
    return [(t, m) for t, m in zip(ticks, track, strict=True) if not m.is_meta]


def played(path: Path) -> list[tuple[int, str, int]]:
    """(tick, type, note or bend) without the head."""
    return [
        (t, m.type, m.pitch if m.type == "pitchwheel" else m.note)
        for t, m in timed(path)
        if m.type != "control_change"
    ]


def write_events(path: Path, events: list[NoteEvent], sync_every: int = 10_000) -> None:
    """As a live session does; each time the file is whole, every note in it has its end."""
    with path.open("wb", 0) as file:
        writer = MidiWriter(file, "v3audio live", NoteEncoder())
        for k, e in enumerate(events, 1):
            writer.event(e, e.sample / 48_000)
            if k % sync_every == 0 or k == len(events):
                writer.sync()
                kinds = [kind for _, kind, _ in played(path)]
                assert kinds.count("note_on") == kinds.count("note_off")


def test_the_bytes_of_one_note(tmp_path: Path) -> None:
    write_midi(tmp_path / "a.mid", [note(0.5, 1.0, 69)], tempo_bpm=120, name="A4")
    assert (tmp_path / "a.mid").read_bytes() == bytes.fromhex(
        # header: type 1, 2 tracks, 480 ticks
        "4d546864 00000006 0001 0002 01e0"
        # conductor: name "A4", 500000 us a beat, 4/4, end
        "4d54726b 00000019 00ff03024134 00ff510307a120 00ff580404021808 00ff2f00"
        # notes: name; RPN 0 (bend range) = 2, then deselected; on at 480, off at 960; end
        "4d54726b 00000027 00ff03024134"
        "00b06500 006400 000602 002600 00657f 00647f"
        "8360904550 8360804540 00ff2f00"
    )


def test_notes_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    onsets = np.cumsum(rng.uniform(0.1, 0.6, 50))
    notes = [note(float(t), float(t) + 0.09, int(m)) for t, m in
             zip(onsets, rng.integers(28, 100, 50), strict=True)]  # fmt: skip
    path = tmp_path / "a.mid"
    write_midi(path, notes, tempo_bpm=97.3)
    file = mido.MidiFile(path)
    assert (file.type, file.ticks_per_beat) == (1, 480)
    seconds_per_tick = file.tracks[0][1].tempo / 1e6 / 480
    found = played(path)
    ons = [(t * seconds_per_tick, n) for t, kind, n in found if kind == "note_on"]
    offs = [(t * seconds_per_tick, n) for t, kind, n in found if kind == "note_off"]
    for was, on, off in zip(notes, ons, offs, strict=True):
        assert on[1] == off[1] == was.midi
        assert on[0] == pytest.approx(was.onset_s, abs=0.7 * seconds_per_tick)
        assert off[0] == pytest.approx(was.offset_s, abs=0.7 * seconds_per_tick)


def test_off_comes_before_on_and_bend_goes_to_0_before_on(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    write_midi(path, [note(0.5, 1.0, 62, 25.0), note(0.0, 0.5, 60, -50.0), note(1.0, 2.0, 62)])
    assert played(path) == [
        (0, "note_on", 60),
        (0, "pitchwheel", -2048),
        (480, "note_off", 60),
        (480, "pitchwheel", 0),
        (480, "note_on", 62),
        (480, "pitchwheel", 1024),
        (960, "note_off", 62),
        (960, "pitchwheel", 0),
        (960, "note_on", 62),
        (1920, "note_off", 62),
    ]


@pytest.mark.parametrize(("cents", "bends"), [(2.9, 0), (-2.9, 0), (3.0, 2), (-40.0, 2)])
def test_small_deviations_are_not_worth_a_bend(tmp_path: Path, cents: float, bends: int) -> None:
    write_midi(tmp_path / "a.mid", [note(0.0, 0.5, 60, cents)])
    assert sum(kind == "pitchwheel" for _, kind, _ in played(tmp_path / "a.mid")) == bends


def test_every_on_has_its_off_whatever_overlaps(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    notes = [note(float(t), float(t + d), int(m)) for t, d, m in
             zip(rng.uniform(0, 3, 200), rng.uniform(0, 1, 200), rng.integers(60, 64, 200),
                 strict=True)]  # fmt: skip
    notes += [note(1.0, 1.0), note(1.0, 1.0)]  # no length, twice
    for mpe in (False, True):
        path = tmp_path / f"{mpe}.mid"
        write_midi(path, notes, mpe=mpe)
        sounding: dict[tuple[int, int], int] = {}
        n_ons = 0
        for tick, message in timed(path):
            if message.type == "note_on":
                assert all(key[1] != message.note for key in sounding)
                sounding[message.channel, message.note] = tick
                n_ons += 1
            elif message.type == "note_off":
                assert tick > sounding.pop((message.channel, message.note))
        assert not sounding
        assert n_ons == len(notes)


def test_mpe_announces_its_zone_and_rotates_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    write_midi(path, [note(i, i + 0.9, 60, 10.0) for i in range(17)], mpe=True)
    messages = [m for _, m in timed(path)]
    first = [(m.channel, m.control, m.value) for m in messages[:3]]
    assert first == [(0, 101, 0), (0, 100, 6), (0, 6, 15)]  # RPN 6 on channel 1: 15 members
    ranges = {}
    for a, b, c in zip(messages, messages[1:], messages[2:], strict=False):
        if a.type == b.type == c.type == "control_change" and (a.value, b.value) == (0, 0) and (
            a.control, b.control, c.control
        ) == (101, 100, 6):  # fmt: skip
            ranges[c.channel] = c.value
    assert ranges == {0: 2} | dict.fromkeys(range(1, 16), 48)
    assert [m.channel for m in messages if m.type == "note_on"] == [*range(1, 16), 1, 2]
    bends = [m for m in messages if m.type == "pitchwheel"]
    assert bends[0].pitch == round(0.1 / 48 * 8192)
    assert bends[15].pitch == 0  # channel 1 again: back to 0 before its second note
    assert bends[15].channel == 1


def test_live_events_stand_where_they_were_emitted(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    events = [
        event("on", 24_000, 60, 20.0),
        event("pitch", 24_100, 60, 60.0),  # 2 ms later: over 200 a second, left out
        event("pitch", 24_480, 60, 22.0),  # within the dead band
        event("pitch", 26_400, 60, 120.0),
        event("off", 48_000, 60),
        event("on", 48_000, 64),
    ]
    write_events(path, events)
    assert played(path) == [
        (480, "note_on", 60),
        (480, "pitchwheel", round(0.2 / 2 * 8192)),
        (528, "pitchwheel", round(1.2 / 2 * 8192)),
        (960, "note_off", 60),
        (960, "pitchwheel", 0),
        (960, "note_on", 64),
        (961, "note_off", 64),  # still on at the end: closed
    ]


def test_a_bend_stays_in_range() -> None:
    encoder = NoteEncoder()
    assert encoder.on(0.0, 60, 80, 900.0)[-1].pitch == 8191
    assert encoder.pitch(1.0, 60, -900.0)[-1].pitch == -8192
    assert encoder.pitch(2.0, 61, 10.0) == []  # does not sound
    assert encoder.off(61) == []
    assert [m.type for m in encoder.stop()] == ["note_off", "pitchwheel"]


def test_notes_alone_have_no_bends() -> None:
    encoder = NoteEncoder("notes", channel=10)
    messages = encoder.on(0.0, 60, 80, 40.0) + encoder.pitch(1.0, 60, -30.0) + encoder.off(60)
    assert [bytes(m.bytes()).hex() for m in messages] == ["993c50", "893c40"]
    assert {m.channel for m in encoder.start() + encoder.panic()} == {9}


@pytest.mark.parametrize(
    ("mode", "asked", "coarse", "fine"),
    [
        ("bend", 2.0, 2, 0),
        ("bend", 12.5, 12, 50),
        ("bend", 2.999, 3, 0),
        ("mpe", 2.0, 48, 0),
        ("mpe", 24.0, 24, 0),
    ],
)
def test_the_bend_range_is_announced_to_the_cent(
    mode: str, asked: float, coarse: int, fine: int
) -> None:
    announced = NoteEncoder(mode, bend_range=asked).start()[-6:]  # type: ignore[arg-type]
    assert [(m.control, m.value) for m in announced] == [
        (101, 0), (100, 0), (6, coarse), (38, fine), (101, 127), (100, 127),
    ]  # fmt: skip


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_bends_of_every_frame_pass_and_faster_ones_are_thinned_to_200_a_second(rate: int) -> None:
    frames = [event("pitch", round(k * rate / 200), 60, 10.0 * (k % 2)) for k in range(1, 1001)]
    rush = [event("pitch", round(k * rate / 1000), 60, 10.0 * (k % 2)) for k in range(1, 5001)]
    for events, n_wanted in ((frames, 1000), (rush, 1001)):
        encoder = NoteEncoder()
        encoder.on(0.0, 60, 80, 0.0)
        n_bends = sum(len(encoder.event(e, e.sample / rate)) for e in events)
        assert n_wanted - 3 <= n_bends <= n_wanted


def test_panic_silences_whatever_sounds() -> None:
    encoder = NoteEncoder("mpe")
    for note in (60, 64):
        encoder.on(0.0, note, 80, 20.0)
    sent = [bytes(m.bytes()).hex() for m in encoder.panic()]
    assert sent[:4] == ["813c40", "824040", "e10040", "e20040"]
    assert sent[4:] == [
        m for c in range(1, 16) for m in (f"b{c:x}7b00", f"b{c:x}7800", f"e{c:x}0040")
    ]
    assert encoder.stop() == encoder.off(60) == encoder.pitch(9.0, 64, 50.0) == []


def test_a_file_is_whole_after_each_sync_and_the_same_in_the_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    events = [event(str(rng.choice(["on", "off", "pitch"])), 997 * k, int(rng.integers(60, 64)),
                    float(rng.normal(0, 60))) for k in range(400)]  # fmt: skip
    whole, grown = tmp_path / "whole.mid", tmp_path / "grown.mid"
    write_events(whole, events)
    write_events(grown, events, sync_every=7)
    assert grown.read_bytes() == whole.read_bytes()


def test_a_note_that_still_sounds_lasts_until_the_end_that_is_given(tmp_path: Path) -> None:
    with (path := tmp_path / "a.mid").open("wb", 0) as file:
        writer = MidiWriter(file, "a", NoteEncoder())
        writer.event(event("on", 0), 0.0)
        writer.sync(1.0)
        assert played(path) == [(0, "note_on", 60), (960, "note_off", 60)]
        writer.event(event("off", 0), 2.0)
        writer.sync(9.0)
    assert played(path) == [(0, "note_on", 60), (1920, "note_off", 60)]


def test_nothing_heard_is_a_valid_file(tmp_path: Path) -> None:
    write_midi(tmp_path / "a.mid", [], name="Stille \u2669")
    assert played(tmp_path / "a.mid") == []
    assert mido.MidiFile(tmp_path / "a.mid", charset="utf-8").tracks[1].name == "Stille \u2669"


def test_what_it_refuses(tmp_path: Path) -> None:
    for tempo_bpm in (0.0, -3.0, float("nan"), 1e9):
        with pytest.raises(ConfigError, match="tempo is"):
            write_midi(tmp_path / "a.mid", [], tempo_bpm)
    with pytest.raises(AudioFileError, match="no such folder"):
        write_midi(tmp_path / "none" / "a.mid", [])
    assert not list(tmp_path.iterdir())


# --- tempo ---------------------------------------------------------------------------------------


def melody(bpm: float, beats: list[float], jitter_s: float = 0.012) -> list[Note]:
    rng = np.random.default_rng(0)
    steps_s = np.tile(beats, 60 // len(beats)) * 60.0 / bpm
    onsets_s = 0.3 + np.cumsum(steps_s) + rng.normal(0, jitter_s, len(steps_s))
    return [note(float(t), float(t) + 0.1) for t in onsets_s]


@pytest.mark.parametrize("bpm", [80, 96, 112, 120, 133])
@pytest.mark.parametrize("beats", [[1.0], [0.5], [1, 0.5, 0.5, 1, 1], [0.75, 0.25, 1, 0.5, 0.5]])
def test_tempo_of_a_loosely_played_melody(bpm: float, beats: list[float]) -> None:
    assert estimate_tempo(melody(bpm, beats)) == pytest.approx(bpm, rel=0.005)


def test_tempo_is_120_where_nothing_decides() -> None:
    rng = np.random.default_rng(0)
    free = [note(float(t), float(t) + 0.1) for t in np.cumsum(rng.uniform(0.1, 1.2, 8))]
    for notes in ([], [note(0, 1)], [note(0, 1), note(1, 2)], [note(0, 1)] * 9, free):
        assert estimate_tempo(notes) == 120.0
