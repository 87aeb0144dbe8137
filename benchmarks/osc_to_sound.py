"""How soon is a control heard? From an OSC datagram to the first sample that it changed.

    python -m benchmarks.osc_to_sound [--period 128] [--trials 60]

A JACK client plays a steady tone into `v3audio live`, sends a datagram at a random moment, reads
the server's frame clock as it does, and looks for the first sample in what it hears that differs
from what it would have heard: the gain is changed with the mix at 0, so without the change the tone
would be heard exactly. Gains, mix, bypass and enable act with the next block; pitch and timbre with
the next frame, up to 5 ms later. The delay through the sound card and our buffer, which everything
waits for, is measured by a click before each trial and taken off; a trial in which the buffer grew
or sound was lost says nothing, and is counted and repeated.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time

import numpy as np

from benchmarks.jack_rig import JackServer, Live, Musician, delay_samples

RATE = 48_000


def main() -> None:
    """Parse the options, run, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--period", default=128, type=int)
    parser.add_argument("--trials", default=60, type=int)
    options = parser.parse_args()
    rng = random.Random(0)
    tone = (0.2 * np.sin(2 * np.pi * 440.0 * np.arange(RATE) / RATE)).astype(np.float32)
    waits_ms: list[float] = []
    cards: set[int] = set()
    n_disturbed = 0
    with (
        JackServer("v3osc", RATE, options.period) as server,
        Musician(server) as musician,
        Live(server, "--mix", "0", "--block", str(options.period)) as live,
    ):
        musician.connect(live.client)
        delay_samples(musician)  # it plays

        def state() -> tuple[object, ...]:
            return live.stated_samples(), live.get("/v3/xruns"), musician.n_lost

        while len(waits_ms) < options.trials:
            before, card = state(), delay_samples(musician)
            sent: list[int] = []

            def send(value: float, sent: list[int]) -> None:
                sent.append(musician.frame_time)
                live.send("/v3/gain/out", value)

            timer = threading.Timer(0.4 + 0.2 * rng.random(), send, (-20.0, sent))
            timer.start()
            heard, _ = musician.play(tone)
            timer.join()
            live.send("/v3/gain/out", 0.0)
            time.sleep(0.05)
            if state() != before:
                n_disturbed += 1
                continue
            changed = np.abs(heard[card:] - tone[: RATE - card]) > 1e-4
            changed[: RATE // 4] = False  # the tone begins at once, after a click's silence
            if not changed.any():
                raise RuntimeError("the change of gain is not heard")
            first = musician.start_frame + int(changed.argmax())
            waits_ms.append(1000.0 * (first - sent[0]) / RATE)
            cards.add(card)
    block_ms = 1000.0 * options.period / RATE
    waits = np.array(waits_ms)
    sys.stdout.write(
        f"{len(waits)} changes of gain, period {options.period} ({block_ms:.2f} ms); card and "
        f"buffer, {' or '.join(map(str, sorted(cards)))} samples, taken off; {n_disturbed} more "
        "trials disturbed by the machine\n"
        f"from datagram to sound: median {np.median(waits):.2f} ms, p95 "
        f"{np.percentile(waits, 95):.2f}, worst {waits.max():.2f}; within a block + 2 ms: "
        f"{100 * np.mean(waits <= block_ms + 2):.0f} %\n"
    )


if __name__ == "__main__":
    main()
