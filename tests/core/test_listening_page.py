"""The page of a recording, as a file, as sound, and in a browser where there is one."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import v3audio
from v3audio import colour, listening_page, timbres
from v3audio.api import capture
from v3audio.errors import AudioFileError
from v3audio.listening_page import LEAD_S, MAX_S, encode_sound, write_page
from v3audio.loudness import loudness_lufs
from v3audio.notes import Note
from v3audio.paths import demo_recording

NAMES = ("double-bass", "flute", "trumpet")
BLENDS = ("flute:0.75,trumpet:0.25", "flute:0.5,trumpet:0.5", "flute:0.25,trumpet:0.75")
SHORT_S = 2.3  # of the shipped recording: four notes
VOID = {"meta", "link", "img", "input", "wbr"}


@dataclass
class Read(HTMLParser):
    """A page taken apart, as strictly as no browser would."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag != "p" or self.open[-1] == "p":
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@dataclass
class Page:
    path: Path
    source: Path
    text: str
    n_sounds: int
    read: Read

    def sounds(self) -> dict[str, tuple[np.ndarray, int]]:
        """Samples and rate by name."""
        return {
            each["data-name"]: soundfile.read(io.BytesIO(held(each["src"], "audio/mpeg")))
            for each in self.read.all("audio")
        }


def held(address: str, media_type: str) -> bytes:
    start = f"data:{media_type};base64,"
    assert address.startswith(start)
    return base64.b64decode(address[len(start) :], validate=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of the beginning of the shipped recording, with three timbres."""
    folder = tmp_path_factory.mktemp("page")
    source = folder / "a & b.flac"
    x, rate = soundfile.read(demo_recording(), dtype="float32")
    soundfile.write(source, x[: round(SHORT_S * rate)], rate)
    midi = folder / "a.mid"
    midi.write_bytes(b"MThd...")
    every = timbres.load_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("V3AUDIO_HOME", str(folder))
        patch.setattr(timbres, "load_all", lambda s: {n: every(s)[n] for n in NAMES})
        patch.setattr(colour, "ADAPT_STEPS", 10)  # how well it adapts is not judged here
        told: list[tuple[int, int]] = []
        n_sounds = write_page(folder / "page.html", source, "flute", credit="me <c>", midi=midi,
                              progress=lambda *at: told.append(at))  # fmt: skip
    assert told == [(k + 1, told[-1][0]) for k in range(len(told))]
    text = (folder / "page.html").read_text(encoding="utf-8")
    read = Read()
    read.feed(text)
    read.close()
    return Page(folder / "page.html", source, text, n_sounds, read)


def test_it_is_whole_and_every_name_in_it_is_text(page: Page):
    assert page.read.open == []
    assert "@@" not in page.text
    assert "<title>a &amp; b - v3audio</title>" in page.text and "me &lt;c&gt;" in page.text
    ids = [a["id"] for _, a in page.read.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_it_needs_nothing_from_elsewhere(page: Page):
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.text)
    assert not re.search(r"https?:|//\w|@import|url\(|fetch|XMLHttp", words)
    for _, attributes in page.read.elements:
        for name in ("src", "href", "srcset", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    policy = next(a["content"] for a in page.read.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")  # and the browser would not let it either


def test_it_shows_the_recording_the_timbres_the_way_between_and_what_was_captured(page: Page):
    names = [a["data-name"] for a in page.read.all("audio")]
    assert names == ["a & b.flac", "flute", "double-bass", "trumpet", *BLENDS,
                     "a & b captured", "a & b adapted"]  # fmt: skip
    assert page.n_sounds == len(names)
    sounds = {a["id"] for a in page.read.all("audio")}
    shown = [a["data-sound"] for a in page.read.all("figure") if "data-sound" in a]
    assert set(shown) == sounds
    assert len(shown) == 2 + 3 + 5 + 3
    assert held(page.read.all("a")[0]["href"], "audio/midi") == b"MThd..."


def test_it_can_be_used_without_eyes_or_mouse(page: Page):
    assert all(a.get("aria-label") for a in page.read.all("button"))
    assert all(a.get("alt") for a in page.read.all("img"))
    assert [a["aria-label"] for a in page.read.all("svg") if "role" in a] == [
        "Piano roll of 4 notes"
    ]
    assert page.read.all("html")[0]["lang"] == "en"


def test_every_sound_decodes_with_its_length_and_all_are_equally_loud(page: Page):
    stated = float(re.search(r"brought to (-[\d.]+) LUFS", page.text)[1])
    length = soundfile.info(page.source).frames
    seconds = float(page.read.all("body")[0]["data-seconds"])
    assert seconds == pytest.approx(length / 44_100, abs=1e-3)
    for name, (sound, rate) in page.sounds().items():
        assert (len(sound), rate) == (length, 44_100), name
        assert loudness_lufs(sound, rate) == pytest.approx(stated, abs=0.2), name
        assert np.abs(sound).max() < 1.0, name


@pytest.mark.parametrize("name", ["flute", "double-bass", BLENDS[1], "a & b captured"])
def test_what_is_heard_is_what_transfer_makes(page: Page, name: str):
    x, rate = soundfile.read(page.source, dtype="float32")
    transpose = {"double-bass": -24}.get(name, 0)
    assert ("transposed -24" in page.text) and page.text.count("transposed") == 1
    timbre = capture("mine", [page.source]) if "captured" in name else name
    made = v3audio.transfer(x, rate, timbre, transpose=transpose)
    assert np.corrcoef(made, page.sounds()[name][0])[0, 1] > 0.999


def test_the_recording_itself_is_there_as_it_came(page: Page):
    x, _ = soundfile.read(page.source)
    assert np.corrcoef(x, page.sounds()["a & b.flac"][0])[0, 1] > 0.999


def test_of_a_long_recording_it_takes_a_part_from_just_before_the_first_note(tmp_path: Path):
    rate = 8_000
    source = tmp_path / "long.wav"
    ramp = np.arange(40 * rate, dtype=np.float32) / (40 * rate)
    soundfile.write(source, ramp, rate, subtype="FLOAT")
    part, part_rate, first_s = listening_page._excerpt(source, 12.0)
    assert (part_rate, first_s, len(part)) == (rate, 12.0 - LEAD_S, MAX_S * rate)
    first = round(first_s * rate)
    assert np.array_equal(part, ramp[first : first + len(part)])
    assert len(listening_page._excerpt(source, 38.0)[0]) == round((2 + LEAD_S) * rate)


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 96_000])
@pytest.mark.parametrize("formats", [{"MP3", "FLAC"}, {"FLAC"}])
def test_a_sound_of_any_rate_becomes_one_that_browsers_play(
    rate: int, formats: set[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(soundfile, "available_formats", lambda: dict.fromkeys(formats, ""))
    x = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    media_type, data = encode_sound(x, rate)
    assert media_type == ("audio/mpeg" if "MP3" in formats else "audio/flac")
    y, played_rate = soundfile.read(io.BytesIO(data))
    assert played_rate == (rate if rate in (32_000, 44_100) else 48_000)
    assert len(y) == played_rate
    time_s = np.arange(len(y)) / played_rate
    assert np.corrcoef(y, np.sin(2 * np.pi * 440 * time_s))[0, 1] > 0.999


def test_a_line_beyond_a_timbre_is_played_in_the_nearest_octave_that_fits():
    reed = timbres.Timbre(name="reed", note_range=(60, 84), model="", model_sha256="",
                          style=np.zeros(16, np.float32))  # fmt: skip

    def octaves(*line: int) -> int:
        notes = [Note(k, k + 1.0, midi, 0.0, 90, 1.0) for k, midi in enumerate(line)]
        players = listening_page._Players(np.zeros(1), 44_100, notes, None, None, None, 0)
        return players._octaves(reed)

    assert octaves(60, 72, 84) == 0
    assert octaves(58, 60, 62) == 0  # a few beyond are no reason to move the line
    assert octaves(48, 50, 60) == 1
    assert octaves(36, 40, 43) == 2
    assert octaves(86, 96) == -1
    assert octaves(*[38] * 19, 24) == 2  # one stray note does not cost a third octave


def test_a_recording_without_notes_is_refused_and_leaves_no_page(tmp_path: Path):
    source = tmp_path / "silence.wav"
    soundfile.write(source, np.zeros(44_100), 44_100)
    with pytest.raises(AudioFileError, match=r"silence\.wav: no notes heard"):
        write_page(tmp_path / "page.html", source, "flute")
    assert [p.name for p in tmp_path.iterdir()] == ["silence.wav"]


# -- in a browser ----------------------------------------------------------------------------------


class Chromium:
    """A headless browser at the other end of two pipes."""

    def __init__(self, program: str, profile: Path) -> None:
        (commands, to_browser), (from_browser, answers) = os.pipe(), os.pipe()
        # the browser reads file 3 and writes file 4
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "", program, "--headless",
             "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", "--no-first-run",
             "--autoplay-policy=no-user-gesture-required"],
            pass_fds=(commands, answers), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._to, self._from = os.fdopen(to_browser, "wb", 0), os.fdopen(from_browser, "rb")
        self._n, self.session, self.events = 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._n += 1
        message = {"id": self._n, "method": method, "params": params, **self.session}
        self._to.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._n:
            self.events.append(answer)
        return answer["result"]

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True,
                           returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        extra = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **extra)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def close(self) -> None:
        self.call("Browser.close")
        self.process.wait(20)
        self._to.close()
        self._from.close()

    def _next(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has gone"
            message += byte
        return json.loads(message)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    known = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    opened = Chromium(next(filter(None, map(shutil.which, known))), tmp_path / "profile")
    yield opened
    opened.close()


LENGTHS = """(async () => {
  const context = new OfflineAudioContext(1, 1, 44100), lengths = [];
  for (const each of document.querySelectorAll("audio")) {
    const bytes = Uint8Array.from(atob(each.src.split(",")[1]), c => c.charCodeAt(0));
    lengths.push((await context.decodeAudioData(bytes.buffer)).duration);
  }
  return lengths;
})()"""
STATE = """[
  document.body.classList.contains("playing"),
  Number(document.querySelector("#seek").value),
  document.querySelector("#now output").textContent,
]"""


def until(condition: str) -> str:
    """A script that ends once the condition holds, and gives the page's state."""
    return f"""new Promise((done, failed) => {{
      const limit = setTimeout(() => failed("never: " + {json.dumps(condition)}), 10000);
      (function look() {{
        if ({condition}) {{ clearTimeout(limit); done({STATE}); }} else requestAnimationFrame(look);
      }})();
    }})"""


@pytest.mark.browser
def test_a_browser_plays_it_by_keyboard_and_asks_nobody_for_anything(page: Page, browser: Chromium):
    browser.call("Page.navigate", url=page.path.as_uri())
    browser.run(until("document.readyState === 'complete' && document.querySelector('#seek')"))
    length_s = soundfile.info(page.source).duration
    assert browser.run(LENGTHS) == pytest.approx([length_s] * page.n_sounds, abs=0.002)

    seek, playing = "Number(document.querySelector('#seek').value)", "document.body.className"
    browser.press(" ", " ")
    before = browser.run(until(f"{playing} === 'js playing' && {seek} > 0.3"))
    browser.press("n", "n")  # another voice, in the same place
    after = browser.run(until(f"document.querySelector('[data-sound=v1] .cursor').style.left"
                              f" && {seek} > {before[1]} + 0.1"))  # fmt: skip
    assert [before[0], before[2], after[0], after[2]] == [True, "a & b.flac", True, "flute"]
    at = browser.run("document.querySelector('[data-sound=v1] .cursor').style.left")
    assert 0 < float(at.rstrip("%")) < 100
    browser.run("document.querySelector('[data-sound=v2] button').click()")
    assert browser.run(until("document.querySelector('#now output').textContent == 'double-bass'"))
    end = browser.run(until(f"{playing} === 'js'"))  # it stops at the end, and goes back
    assert end == [False, 0, "double-bass"]

    asked = {e["params"]["request"]["url"].split(":")[0] for e in browser.events
             if e["method"] == "Network.requestWillBeSent"}  # fmt: skip
    assert asked <= {"file", "data"}
    said = [e for e in browser.events if e["method"] in
            ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")]  # fmt: skip
    assert said == []


@pytest.mark.browser
def test_a_narrow_screen_needs_no_sideways_scrolling(page: Page, browser: Chromium):
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2,
                 mobile=True)  # fmt: skip
    browser.call("Page.navigate", url=page.path.as_uri())
    browser.run(until("document.readyState === 'complete' && document.querySelector('#seek')"))
    assert browser.run("document.documentElement.scrollWidth") == 360
    small = browser.run("""[...document.querySelectorAll("button")]
      .map(b => Math.min(b.offsetWidth, b.offsetHeight)).filter(size => size < 44).length""")
    assert small == 0  # each is large enough for a finger
