"""What a session must survive, done to a real one on a real sound server; one line for each.

    python -m benchmarks.survive [FOLDER] [--only NAME,NAME]

`v3audio live` plays on `jackd -d dummy`; a JACK client plays a recording of FOLDER into it and
listens to its sound and MIDI. Each trial says what was done and what came of it; the exit code is
the number of trials that did not hold. OSC storms have a script of their own, osc_storm.py, which
the trial `storm` runs against the session.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mido
import numpy as np
import soundfile

from benchmarks.jack_rig import JackServer, Live, Musician, Samples, delay_samples, read_mono_at
from benchmarks.soak import rss_mb


class Trials:
    """All trials; each a method that returns what came of it, or raises.

    Args:
        sound: (n,) a recording at 48 kHz.
        server: runs.
    """

    def __init__(self, sound: Samples, server: JackServer) -> None:
        self.sound, self.server = sound, server

    def signals(self) -> str:
        """SIGINT, SIGTERM and SIGHUP at 24 moments of start and play: exit 0, files whole."""
        rng = random.Random(0)
        late = 0
        for trial in range(24):
            how = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[trial % 3]
            with tempfile.TemporaryDirectory() as folder, Musician(self.server) as musician:
                wav, mid = Path(folder, "out.wav"), Path(folder, "out.mid")
                with Live(self.server, "--output", str(wav), "--midi", str(mid)) as live:
                    stop = threading.Timer(
                        0.4 + 3.0 * rng.random(), live.process.send_signal, (how,)
                    )
                    stop.start()
                    playing = _connect_if_up(musician, Live.client, 2.0)
                    if playing:
                        musician.play(self.sound[: 48_000 * 2])
                    stop.join()
                    code, _, errors = live.end(None)
                assert code == 0, f"exit {code} after {how.name}: {errors}"
                if mid.exists():
                    late += 1
                    _check_file(mid)
                    soundfile.info(str(wav))
                left = [p.name for p in Path(folder).iterdir() if p not in (wav, mid)]
                assert not left, f"left behind: {left}"
        return f"24 of 24 exit 0; {late} had begun to write, all valid, nothing left behind"

    def stopped(self) -> str:
        """SIGSTOP for 2 s while it plays: notes let go, delay as stated, memory flat."""
        with Musician(self.server) as musician, Live(self.server, "--mix", "0") as live:
            self._join(musician)
            before, stated_before = delay_samples(musician), live.stated_samples()
            threading.Timer(1.0, live.process.send_signal, (signal.SIGSTOP,)).start()
            threading.Timer(3.0, live.process.send_signal, (signal.SIGCONT,)).start()
            musician.play(self.sound[: 48_000 * 6])
            again = _connect_if_up(musician, Live.client, 10.0)
            after, stated_after = delay_samples(musician), live.stated_samples()
            _, rest = musician.play(self.sound[: 48_000 * 3])
            code, out, errors = live.end()
            musician.play(np.zeros(48_000, np.float32))
        report = json.loads(out.splitlines()[-1])
        assert again and code == 0
        grown = sum(stated_after) - sum(stated_before)  # it works further ahead when late often
        assert before + grown == after, f"delay {before} samples before, {after} after, {errors}"
        hanging = _hanging(musician.received)
        assert not hanging, f"notes that hang: {hanging}"
        assert any(m.data[0] >> 4 == 9 for m in rest), "no note after it"
        return f"delay {before} samples, then {after}; xruns {report['xruns']}; no note hangs"

    def killed_server(self) -> str:
        """SIGKILL for jackd, and another one after 2 s: notes let go, playing again, exit 0."""
        with Live(self.server) as live:
            with Musician(self.server) as musician:
                self._join(musician)
                musician.play(self.sound[: 48_000 * 2])
                self.server.end(signal.SIGKILL)
            time.sleep(2.0)
            self.server.start()
            started_s = time.monotonic()
            with Musician(self.server) as musician:
                musician.connect(Live.client, 30.0)
                back_s = time.monotonic() - started_s
                musician.connect_midi(Live.midi_port)
                heard, messages = musician.play(self.sound[: 48_000 * 4])
                code, _, errors = live.end()
        assert code == 0, f"exit {code}: {errors}"
        assert heard.any() and messages, "silent after it came back"
        assert "is gone" in errors and "is back" in errors, errors
        return f"lost and back by itself {back_s:.1f} s after the new server; exit 0"

    def taken_port(self) -> str:
        """The OSC port taken: one line that says what to type, and exit 2."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            port = other.getsockname()[1]
            done = subprocess.run(
                [*Live.command, "--osc", f"127.0.0.1:{port}"],
                env=self.server.environment, capture_output=True, text=True, timeout=30,
                check=False,
            )  # fmt: skip
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2 and len(lines) == 1, (done.returncode, done.stderr)
        return lines[0]

    def vanished_port(self) -> str:
        """A named MIDI port that goes and comes back while notes play."""
        with Musician(self.server) as musician:
            synth = Musician(self.server, "synth")
            with Live(self.server, "--midi", "synth:midi") as live:
                synth.__enter__()
                self._join(musician)
                musician.play(self.sound[: 48_000 * 2])
                synth.__exit__()
                musician.play(self.sound[: 48_000 * 2])
                live.get()
                with Musician(self.server, "synth") as again:
                    got = threading.Thread(target=again.play, args=(np.zeros(48_000 * 5),))
                    got.start()
                    musician.play(self.sound[: 48_000 * 5])
                    got.join()
                    n_back = len(again.received)
                code, _, errors = live.end()
        assert code == 0
        assert n_back, f"nothing reaches the port that came back: {errors}"
        return f"playing went on; {n_back} messages reached the port after it came back"

    def full_disk(self) -> str:
        """A disk of 1 MB fills while a take is recorded: one line, the take valid, sound on."""
        with _small_disk() as disk, Musician(self.server) as musician:
            with Live(self.server, home=disk) as live:
                self._join(musician)
                live.send("/v3/rec/enable", 1)
                heard, _ = musician.play(self.sound[: 48_000 * 10])
                live.get()
                code, _, errors = live.end()
            takes = sorted(p for p in disk.rglob("*") if p.suffix in (".wav", ".mid"))
            seconds = [soundfile.info(str(p)).duration for p in takes if p.suffix == ".wav"]
            for p in takes:
                if p.suffix == ".mid":
                    _check_file(p)
        assert code == 0 and seconds, (code, errors)
        assert np.abs(heard[-48_000:]).max() > 0 or np.abs(heard[48_000 * 6 :]).max() > 0
        line = next(line for line in errors.splitlines() if "full" in line or "space" in line)
        return f"{line} (kept: {', '.join(f'{s:.1f} s' for s in seconds)})"

    def storm(self) -> str:
        """100,000 mutated datagrams, 5,000 a second, 50 subscribers, presets 100 times a second."""
        with Musician(self.server) as musician, Live(self.server) as live:
            self._join(musician)
            live.get()
            before = rss_mb(live.process.pid)
            command = [sys.executable, "-m", "benchmarks.osc_storm", "--osc",
                       f"127.0.0.1:{live.port}", "--pid", str(live.process.pid)]  # fmt: skip
            storm = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            while storm.poll() is None:
                musician.play(self.sound[: 48_000 * 5])
            after = rss_mb(live.process.pid)
            code, out, errors = live.end()
            musician.play(np.zeros(48_000, np.float32))
        text = storm.stdout.read() if storm.stdout else ""
        assert code == 0 and storm.returncode == 0, (code, storm.returncode, errors, text)
        report = json.loads(out.splitlines()[-1])
        hanging = _hanging(musician.received)
        assert not hanging, f"notes that hang: {hanging}"
        return (
            f"RSS {before:.1f} -> {after:.1f} MB, xruns {report['xruns']}, "
            f"notes {report['notes']}, none hangs, exit 0\n{text}"
        )

    def _join(self, musician: Musician) -> None:
        musician.connect(Live.client)
        musician.connect_midi(Live.midi_port)


def main() -> None:
    """Parse the options, run the trials, print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--only", help="comma-separated names of trials")
    options = parser.parse_args()
    names = ["taken_port", "signals", "stopped", "killed_server", "vanished_port", "full_disk",
             "storm"]  # fmt: skip
    clip = next(c for c in json.loads((options.folder / "manifest.json").read_text()) if c["notes"])
    sound = np.tile(read_mono_at(options.folder / clip["file"], 48_000, 0.5), 3)
    failed = 0
    for name in options.only.split(",") if options.only else names:
        with JackServer("v3survive") as server:
            trial: Callable[[], str] = getattr(Trials(sound, server), name)
            try:
                outcome = "held:  " + trial()
            except Exception as e:  # a trial that breaks is a result, too
                failed += 1
                outcome = f"BROKE: {type(e).__name__}: {e}"
        sys.stdout.write(f"{name}: {(trial.__doc__ or '').strip()}\n  {outcome}\n")
        sys.stdout.flush()
    sys.exit(failed)


def _connect_if_up(musician: Musician, client: str, timeout_s: float) -> bool:
    try:
        musician.connect(client, timeout_s)
    except TimeoutError:
        return False
    return True


def _hanging(messages: list[bytes]) -> set[tuple[int, int]]:
    """(channel, note) of notes that were begun and not ended."""
    sounding: set[tuple[int, int]] = set()
    for message in messages:
        kind, channel = message[0] >> 4, message[0] & 15
        if kind == 9 and message[2]:
            sounding.add((channel, message[1]))
        elif kind in (8, 9):
            sounding.discard((channel, message[1]))
        elif kind == 11 and message[1] in (120, 123):
            sounding = {key for key in sounding if key[0] != channel}
    return sounding


def _check_file(path: Path) -> None:
    sounding: set[int] = set()
    for message in mido.MidiFile(path):
        if message.type == "note_on" and message.velocity:
            sounding.add(message.note)
        elif message.type in ("note_on", "note_off"):
            sounding.discard(message.note)
    assert not sounding, f"{path.name}: notes {sounding} never end"


@contextmanager
def _small_disk() -> Iterator[Path]:
    """A file system of 1 MB; needs the rights to mount one."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    main()
