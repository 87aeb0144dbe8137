"""`v3audio latency`: how long the sound card takes, measured, and what `live` adds to it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v3audio.cli.common import progress_bar

if TYPE_CHECKING:
    from realtime.latency import RoundTrip
    from realtime.stats import Latency


def latency(
    source: Annotated[
        str, typer.Option("--input", metavar="DEV", help="mic, or a device's name.")
    ] = "mic",
    output: Annotated[
        str, typer.Option("--output", metavar="DEV", help="speakers, or a device's name.")
    ] = "speakers",
    rate: Annotated[
        int | None,
        typer.Option("--rate", min=8_000, max=192_000, metavar="HZ",
                     show_default="the sound card's own", help="Sample rate."),
    ] = None,
    block: Annotated[
        int, typer.Option("--block", min=1, max=65_536, metavar="N", help="Samples at a time.")
    ] = 128,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, last on stdout.")
    ] = False,
) -> None:  # fmt: skip
    """Measure the round trip of a real loopback, and what of it is ours in `live`.

    Connect an output to an input first: a cable, the microphone held to the loudspeaker, or a route
    in the patch bay. Soft sweeps are played for four to eight seconds; mind the volume.
    """
    from realtime.audio_io import Stream
    from realtime.latency import measure_round_trip
    from realtime.stats import Latency
    from realtime.worker import prefill_samples
    from v3audio import Engine

    with progress_bar("listening for sweeps") as told:
        trip = measure_round_trip(
            lambda callback: Stream(source, output, rate, block, callback), told=told
        )
    ours = Latency(
        Engine(sample_rate=trip.sample_rate, block=block).latency_samples,
        prefill_samples(trip.portion, block, trip.sample_rate),
        round(trip.samples), trip.sample_rate,
    )  # fmt: skip
    print(_in_words(trip, ours), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(_figures(trip, ours, block)))


def _in_words(trip: RoundTrip, ours: Latency) -> str:
    to_ms = 1000.0 / trip.sample_rate
    return (
        f"round trip {trip.ms:.2f} ms ({trip.samples:.1f} samples at {trip.sample_rate} Hz, "
        f"{trip.portion} at a time); {trip.quality}: {trip.n_heard} of {trip.n_played} sweeps "
        f"heard {trip.margin_db:.0f} dB clear, {trip.spread_samples * to_ms:.3f} ms apart\n"
        f"the driver states {trip.stated_samples * to_ms:.2f} ms\n"
        f"live: {ours.total_ms:.1f} ms from sound to sound, of which {ours.device_ms:.1f} are the "
        f"device's and {ours.algorithm_ms + ours.buffer_ms:.1f} ours "
        f"(algorithm {ours.algorithm_ms:.1f}, buffer {ours.buffer_ms:.1f})"
    )


def _figures(trip: RoundTrip, ours: Latency, block: int) -> dict[str, Any]:
    from v3audio import __version__

    to_ms = 1000.0 / trip.sample_rate
    return {
        "version": __version__,
        "sample_rate": trip.sample_rate,
        "block": block,
        "portion": trip.portion,
        "round_trip_samples": round(trip.samples, 2),
        "round_trip_ms": round(trip.ms, 3),
        "spread_ms": round(trip.spread_samples * to_ms, 3),
        "stated_ms": round(trip.stated_samples * to_ms, 3),
        "heard": trip.n_heard,
        "played": trip.n_played,
        "margin_db": round(trip.margin_db, 1),
        "quality": trip.quality,
        "latency_ms": {
            "algorithm": round(ours.algorithm_ms, 3),
            "buffer": round(ours.buffer_ms, 3),
            "device": round(ours.device_ms, 3),
            "total": round(ours.total_ms, 3),
        },
    }
