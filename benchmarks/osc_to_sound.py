"""How soon is a control heard? From an OSC datagram to the first sample that it changed.

    python -m benchmarks.osc_to_sound [--period 128] [--trials 60]

A JACK client plays a steady tone into `v3audio live` with the mix at 0, so that without a change
the tone would be heard exactly. At random moments a datagram moves the gain; where the take stands
is noted as it is sent, and the first sample that differs from what would have been heard is looked
for. Gains, mix, bypass and enable act with the next block; pitch and timbre with the next frame, up
to 5 ms later. The delay through the sound card and our buffer, which everything waits for, is
measured by a click before each take of a few changes and taken off; a take in which the buffer grew
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
TAKE_S, GAP_S = 2.0, 0.25
GAINS_DB = (-20.0, 0.0)


def main() -> None:
    """Parse the options, run, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--period", default=128, type=int)
    parser.add_argument("--trials", default=60, type=int)
    options = parser.parse_args()
    rng = random.Random(0)
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
            found = take(live, musician, card, rng)
            if state() != before:
                n_disturbed += 1
                continue
            waits_ms += found
            cards.add(card)
    block_ms = 1000.0 * options.period / RATE
    waits = np.array(waits_ms)
    sys.stdout.write(
        f"{len(waits)} changes of gain, period {options.period} ({block_ms:.2f} ms); card and "
        f"buffer, {' or '.join(map(str, sorted(cards)))} samples, taken off; {n_disturbed} more "
        "takes disturbed by the machine\n"
        f"from datagram to sound: median {np.median(waits):.2f} ms, p95 "
        f"{np.percentile(waits, 95):.2f}, worst {waits.max():.2f}; within a block + 2 ms: "
        f"{100 * np.mean(waits <= block_ms + 2):.0f} %\n"
    )


def take(live: Live, musician: Musician, card: int, rng: random.Random) -> list[float]:
    """Move the gain down and up a few times while a tone plays; ms until each is heard.

    Args:
        live: plays its input dry.
        musician: is connected to it.
        card: samples from the musician's tone to hearing it.
        rng: of the moments.

    Raises:
        RuntimeError: a change is not heard.
    """
    n = round(TAKE_S * RATE)
    tone = (0.2 * np.sin(2 * np.pi * 440.0 * np.arange(n) / RATE)).astype(np.float32)
    sent: list[tuple[int, float]] = []

    def move() -> None:
        for k in range(2 * int(0.4 * (TAKE_S / GAP_S - 1))):  # an even number: back to 0 dB
            time.sleep(GAP_S * (1.0 + 0.25 * rng.random()))
            sent.append((musician.now_at, GAINS_DB[k % 2]))
            live.send("/v3/gain/out", sent[-1][1])

    mover = threading.Thread(target=move)
    mover.start()
    heard, _ = musician.play(tone)
    mover.join()
    waits, gain_db = [], 0.0
    for at, new_db in sent:
        as_before = 10 ** (gain_db / 20) * tone[at - card : at - card + round(GAP_S * RATE)]
        differs = np.abs(heard[at : at + len(as_before)] - as_before) > 1e-4
        if not differs.any():
            raise RuntimeError("the change of gain is not heard")
        waits.append(1000.0 * (int(differs.argmax()) - card) / RATE)
        gain_db = new_db
    return waits


if __name__ == "__main__":
    main()
