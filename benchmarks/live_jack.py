"""How late is the instrument through a real sound server? Both sides recorded on one clock.

    python benchmarks/live_jack.py [FOLDER] [--rate 48000] [--period 128] [--json OUT.json]

`jackd -d dummy` runs without a sound card; `v3audio live` plays on it as on any other server, with
a virtual MIDI port. A JACK client plays the recordings of FOLDER into it and records its sound and
its MIDI in the very periods that it played in, so each figure is a difference of frames of a clock:

- device: a click through the dry path (mix 0), less our stated buffer. JACK's own two periods;
- sound: from where a real attack after a rest passes the gate (2 ms RMS) to the first sample of our
  sound, the device taken off;
- note-on: from the true onset to the right note-on as the MIDI port delivers it, device not taken
  off, bands and errors as in live_latency.py;
- start: from the command typed to the first sound, a note being held meanwhile;
- jitter: 20 s of the recordings through the dry path, compared sample by sample with what was
  played at that one delay; the largest difference of any sample is printed. (The wet path writes
  into the same ring at absolute positions; that it does not depend on blocks is a test.)

FOLDER as in live_latency.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from benchmarks import live_latency
from benchmarks.jack_rig import (
    JackServer,
    MidiIn,
    Musician,
    Samples,
    delay_samples,
    read_mono_at,
)

GATE_DB = -50.0
REST_S, RISE_S = 0.1, 0.02  # before an attack that is timed by its sound
GAP_S = 0.7  # silence between clips, so that none hears the one before


def main() -> None:
    """Parse the options, run, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--rate", default=48000, type=int)
    parser.add_argument("--period", default=128, type=int)
    parser.add_argument("--timbre", default="flute")
    parser.add_argument("--only", help="comma-separated clip ids")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    clips = json.loads((options.folder / "manifest.json").read_text())
    wanted = options.only.split(",") if options.only else None
    clips = [c for c in clips if c.get("notes") and (wanted is None or c["id"] in wanted)]

    server = JackServer("v3bench", options.rate, options.period)
    with server, Musician(server) as musician, Live(server, options.timbre, mix=0.0) as live:
        musician.connect(live.client)
        dry_samples = delay_samples(musician)
        sample = read_mono_at(options.folder / clips[0]["file"], options.rate)[: 20 * options.rate]
        heard, _ = musician.play(sample)
        largest = float(np.abs(heard[dry_samples:] - sample[:-dry_samples]).max())
        stated = live.stop()["latency_ms"]
    starts_s = [start_to_sound(server, options.timbre) for _ in range(3)]
    buffer_samples = round(stated["buffer"] * options.rate / 1000)
    device_samples = dry_samples - buffer_samples

    found, sound_ms = [], []
    with server, Musician(server) as musician, Live(server, options.timbre) as live:
        musician.connect(live.client)
        musician.connect_midi(live.midi_pattern)
        for clip in clips:
            x = read_mono_at(options.folder / clip["file"], options.rate, GAP_S)
            heard, messages = musician.play(x)
            sound_ms += [
                1000.0 * (delay - device_samples) / options.rate
                for delay in sound_delays(x, heard, options.rate)
            ]
            truth = json.loads((options.folder / clip["notes"]).read_text())
            found.append(live_latency.judge(clip["id"], note_ons(messages, options.rate), truth))
        lost = musician.n_lost
        report = live.stop()

    sys.stdout.write(
        f"{platform.machine()}, {os.cpu_count()} cores, {_cpu_name()}; JACK {options.rate} Hz / "
        f"{options.period}\nstated: {report['latency_ms']}\n"
        f"dry path {dry_samples} samples, of it device {device_samples}\n"
        f"from the command to the first sound: {', '.join(f'{s:.2f} s' for s in starts_s)}\n"
        f"sound after an attack out of silence, device off: {len(sound_ms)} notes, median "
        f"{np.median(sound_ms):.1f} ms, p95 {np.percentile(sound_ms, 95):.1f}, "
        f"worst {max(sound_ms):.1f}\n"
    )
    summary = live_latency.summarise(found)
    sys.stdout.write(live_latency.table(found, summary))
    sys.stdout.write(
        f"jitter: largest difference between dry sound and input, {dry_samples} samples earlier: "
        f"{largest:.1e}\n"
        f"xruns {report['xruns']}, late {report['late_hops']}, dropped {report['dropped_events']}, "
        f"frames lost by the musician {lost}; step {report['step_ms']}\n"
    )
    if options.json:
        figures = {
            "stated": report, "starts_s": starts_s,
            "dry_samples": dry_samples, "device_samples": device_samples,
            "sound_ms": sound_ms, "notes": summary, "largest_difference": largest,
        }  # fmt: skip
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


class Live:
    """`v3audio live` as a process on a JACK server, from its first sound to its report."""

    midi_pattern = "v3bench"
    client = "v3audio"

    def __init__(self, server: JackServer, timbre: str, mix: float = 1.0, *more: str) -> None:
        self._command = [
            sys.executable, "-m", "v3audio", "live", "--timbre", timbre, "--mix", str(mix),
            "--block", str(server.period), "--midi", f"virtual:{self.midi_pattern}",
            "--osc", "off", "--json", *more,
        ]  # fmt: skip
        self._environment = server.environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Live:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, text=True
        )
        return self

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> dict[str, object]:
        """Ctrl-C; what `--json` printed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        out, _ = self._process.communicate(timeout=30)
        return json.loads(out.splitlines()[-1])

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def start_to_sound(server: JackServer, timbre: str) -> float:
    """Seconds from starting the process to the first sample that is not zero."""
    length_s = 8.0
    hold = np.arange(round(length_s * server.sample_rate)) * (440.0 / server.sample_rate)
    note = (0.2 * np.sign(np.sin(2 * np.pi * hold))).astype(np.float32)
    with server, Musician(server) as musician, Live(server, timbre) as live:
        joining = threading.Thread(target=musician.connect, args=(live.client,))
        joining.start()
        heard, _ = musician.play(note)
        joining.join()
        live.stop()
    return float(np.flatnonzero(heard)[0]) / server.sample_rate


def sound_delays(x: Samples, y: Samples, rate: int) -> list[int]:
    """Samples from each attack out of silence in x to the first sound in y.

    An attack is where the RMS of the last 2 ms passes the gate, having been 6 dB below it from
    `REST_S` to `RISE_S` before; only those count before which y rests too.
    """
    level = _running_rms(x, round(0.002 * rate))
    loud, quiet = 10 ** (GATE_DB / 20), 10 ** ((GATE_DB - 6) / 20)
    rest, rise, ahead = round(REST_S * rate), round(RISE_S * rate), round(0.25 * rate)
    delays = []
    at = rest
    while at < len(x) - ahead:
        ups = np.flatnonzero(level[at:] > loud)
        if not len(ups):
            break
        up = at + int(ups[0])
        sounds = np.flatnonzero(y[up : up + ahead])
        rested = level[up - rest : up - rise].max() < quiet and not y[up - rise : up].any()
        if rested and len(sounds):
            delays.append(int(sounds[0]))
        calm = np.flatnonzero(_running_max(level[up:], rest) < quiet)
        if not len(calm):
            break
        at = up + max(1, int(calm[0]))
    return delays


def note_ons(messages: list[MidiIn], rate: int) -> list[tuple[float, int]]:
    """(seconds, note) of each note-on."""
    return [(m.frame / rate, m.data[1]) for m in messages if m.data[0] >> 4 == 9 and m.data[2] > 0]


def _running_rms(x: Samples, n: int) -> Samples:
    power = np.cumsum(np.concatenate([np.zeros(n), x.astype(np.float64) ** 2]))
    return np.sqrt(np.maximum(power[n:] - power[:-n], 0) / n).astype(np.float32)


def _running_max(x: Samples, n: int) -> Samples:
    from scipy.ndimage import maximum_filter1d

    return maximum_filter1d(x, n, origin=n // 2 - 1)[: len(x)]


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


if __name__ == "__main__":
    main()
