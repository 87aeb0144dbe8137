"""How late is the instrument through a real sound server? Both sides recorded on one clock.

    python -m benchmarks.live_jack [FOLDER] [--rate 48000] [--period 128] [--json OUT.json]

`jackd -d dummy` runs without a sound card; `v3audio live` plays on it as on any other server, with
a virtual MIDI port. A JACK client plays the recordings of FOLDER into it and records its sound and
its MIDI in the very periods that it played in, so each figure is a difference of frames of a clock.
Each clip is played twice, its first `DRY_S` dry (mix 0), then all of it:

- delay: dry, the clip comes back as it was, so its delay is exact, in each tenth of a second;
  jitter is by how much they differ within a clip;
- device: that delay less the buffer that the session states (`/v3/latency`) for this clip. The
  buffer may grow while it plays; clips in which it did, or in which sound was lost, are counted,
  and say nothing about jitter;
- sound: from where a real attack after a rest passes the gate (2 ms RMS) to the first sample of our
  sound, the device taken off;
- note-on: from the true onset to the right note-on as the MIDI port delivers it, device not taken
  off, bands and errors as in live_latency.py;
- start: from the command typed to the first sound, a note being held meanwhile.

The wet path writes into the same ring at absolute positions; that it does not depend on blocks is a
test. FOLDER as in live_latency.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import live_latency
from benchmarks.jack_rig import (
    JackServer,
    Live,
    MidiIn,
    Musician,
    Samples,
    delay_samples,
    read_mono_at,
)

DRY_S = 10.0  # of each clip, through the dry path
WINDOW_S = 0.1  # of it, in which a delay is measured
MOST_DELAY_S = 0.2
GATE_DB = -50.0
REST_S, RISE_S = 0.1, 0.02  # before an attack that is timed by its sound
GAP_S = 0.7  # silence between clips, so that none hears the one before


@dataclass(frozen=True)
class State:
    """What the session and the server say at a moment."""

    stated_samples: tuple[int, int, int]  # algorithm, buffer, device
    xruns: int
    n_lost: int  # frames, by the server


@dataclass(frozen=True)
class Delay:
    """Of one clip, dry."""

    clip: str
    before: State
    after: State
    delays_samples: list[int]  # that occurred
    n_unlike: int  # windows that came back other than they were
    largest_difference: float  # of any sample, in the other windows

    @property
    def is_disturbed(self) -> bool:
        """The buffer grew or sound was lost, which the engine or the machine caused."""
        return self.before != self.after

    @property
    def device_samples(self) -> int:
        """What is not our stated buffer."""
        return self.delays_samples[0] - self.before.stated_samples[1]


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
    rate, server = options.rate, JackServer("v3bench", options.rate, options.period)
    command = ("--timbre", options.timbre, "--block", str(options.period))
    starts_s = [start_to_sound(server, *command) for _ in range(3)]

    delays: list[Delay] = []
    wet_delays: list[int] = []
    found, n_wet_disturbed = [], 0
    with server, Musician(server) as musician, Live(server, *command, "--mix", "0") as live:
        musician.connect(live.client)
        musician.connect_midi(live.midi_port)
        delay_samples(musician)  # it plays

        def state() -> State:
            return State(live.stated_samples(), live.get("/v3/xruns")[0], musician.n_lost)

        for clip in clips:
            x = read_mono_at(options.folder / clip["file"], rate, GAP_S)
            live.send("/v3/mix", 0.0)
            before = state()
            dry = np.concatenate([x[: round(DRY_S * rate)], np.zeros(round(GAP_S * rate))])
            heard, _ = musician.play(dry.astype(np.float32))
            live.send("/v3/mix", 1.0)
            between = state()
            delays.append(Delay(clip["id"], before, between, *exact_delays(dry, heard, rate)))
            heard, messages = musician.play(x)
            wet_delays += sound_delays(x, heard, rate)
            truth = json.loads((options.folder / clip["notes"]).read_text())
            found.append(live_latency.judge(clip["id"], note_ons(messages, rate), truth))
            n_wet_disturbed += state() != between
        code, out, errors = live.end()
    if code:
        raise RuntimeError(errors)
    report = json.loads(out.splitlines()[-1])

    calm = [d for d in delays if not d.is_disturbed and d.delays_samples]
    if not calm:
        raise SystemExit("each clip was disturbed (xruns, a buffer that grew): end other programs")
    devices = sorted({d.device_samples for d in calm})
    device = devices[len(devices) // 2]
    sound_ms = 1000.0 * (np.array(wet_delays) - device) / rate
    jitter = max(max(d.delays_samples) - min(d.delays_samples) for d in calm)
    summary = live_latency.summarise(found)
    buffers = sorted({d.before.stated_samples[1] for d in delays})
    sys.stdout.write(
        f"{platform.machine()}, {os.cpu_count()} cores, {_cpu_name()}; JACK {rate} Hz / "
        f"{options.period}\nstated at the end: {report['latency_ms']}; buffer while it played: "
        f"{' or '.join(map(str, buffers))} samples\n"
        f"device: {' or '.join(map(str, devices))} samples, by the exact delay of {len(calm)} clips"
        f"\nfrom the command to the first sound: {', '.join(f'{s:.2f} s' for s in starts_s)}\n"
        f"sound after an attack out of silence, device off: {len(sound_ms)} notes, median "
        f"{np.median(sound_ms):.1f} ms, p95 {np.percentile(sound_ms, 95):.1f}, "
        f"worst {sound_ms.max():.1f}\n"
    )
    sys.stdout.write(live_latency.table(found, summary))
    sys.stdout.write(
        f"jitter: {jitter} samples within the {len(calm)} undisturbed clips, of which "
        f"{sum(d.n_unlike for d in calm)} windows came back other than they were; largest "
        f"difference of a sample {max(d.largest_difference for d in calm):.1e}\n"
        f"disturbed, dry: {sum(d.is_disturbed for d in delays)} of {len(delays)} clips (xruns in "
        f"{sum(d.after.xruns > d.before.xruns for d in delays)}, the buffer grew in "
        f"{sum(d.after.stated_samples != d.before.stated_samples for d in delays)}, frames lost by "
        f"the server in {sum(d.after.n_lost > d.before.n_lost for d in delays)}); wet: "
        f"{n_wet_disturbed}\n"
        f"xruns {report['xruns']}, late {report['late_hops']}, dropped {report['dropped_events']}; "
        f"step {report['step_ms']}\n"
    )
    if options.json:
        figures = {
            "stated": report, "starts_s": starts_s, "devices_samples": devices,
            "delays": [asdict(d) for d in delays], "n_wet_disturbed": n_wet_disturbed,
            "sound_ms": sound_ms.tolist(), "notes": summary, "jitter_samples": jitter,
        }  # fmt: skip
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def start_to_sound(server: JackServer, *command: str) -> float:
    """Seconds from starting the process to the first sample that is not zero."""
    hold = np.arange(8 * server.sample_rate) * (440.0 / server.sample_rate)
    note = (0.2 * np.sign(np.sin(2 * np.pi * hold))).astype(np.float32)
    with server, Musician(server) as musician, Live(server, *command) as live:
        joining = threading.Thread(target=musician.connect, args=(live.client,))
        joining.start()
        heard, _ = musician.play(note)
        joining.join()
        live.end()
    return float(np.flatnonzero(heard)[0]) / server.sample_rate


def exact_delays(x: Samples, y: Samples, rate: int) -> tuple[list[int], int, float]:
    """Of the loud windows of x, by how many samples later each comes back in y.

    Returns:
        The delays that occur, in order; how many windows come back at none; the largest difference
        of a sample in the others.
    """
    n, most = round(WINDOW_S * rate), round(MOST_DELAY_S * rate)
    delays: list[int] = []
    n_unlike, largest = 0, 0.0
    for at in range(n, len(x) - n - most, n):  # the mix takes a moment to arrive
        part, reach = x[at : at + n].astype(np.float64), y[at : at + n + most].astype(np.float64)
        if np.sqrt(np.mean(part**2)) < 10 ** (GATE_DB / 20):
            continue
        power = np.concatenate([[0.0], np.cumsum(reach**2)])
        cross = np.fft.irfft(np.fft.rfft(reach) * np.fft.rfft(part, len(reach)).conj(), len(reach))
        distance = power[n:] - power[:-n] - 2 * cross[: most + 1]  # and the power of the part
        delay = int(distance.argmin())
        difference = float(np.abs(reach[delay : delay + n] - part).max())
        if difference > 1e-4:
            n_unlike += 1
            continue
        largest = max(largest, difference)
        delays += [delay] if delay not in delays else []
    return delays, n_unlike, largest


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
