"""`v3audio live`: the instrument, played."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from v3audio.cli.common import MixOption, ModelOption, TimbreOption, TransposeOption, progress_bar

if TYPE_CHECKING:
    from realtime.session import LiveReport


def live(
    timbre: TimbreOption = "flute",
    source: Annotated[
        str, typer.Option("--input", metavar="SRC", help="mic, a device's name, or a sound file.")
    ] = "mic",
    output: Annotated[
        str,
        typer.Option(
            "--output", metavar="DST", help="speakers, a device's name, a .wav/.flac file, or none."
        ),
    ] = "speakers",
    midi: Annotated[
        list[str] | None,
        typer.Option(
            "--midi",
            metavar="DST",
            help="A port's name, virtual[:NAME], osc:HOST:PORT, a .mid file, or none; repeatable.",
            show_default="none",
        ),
    ] = None,
    osc: Annotated[
        str, typer.Option("--osc", metavar="HOST:PORT|off", help="Listen for OSC control.")
    ] = "off",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the model runs.")
    ] = "auto",
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", min=8_000, max=192_000, metavar="HZ", show_default="the input's own",
            help="Sample rate of the engine.",
        ),
    ] = None,
    block: Annotated[
        int, typer.Option("--block", min=1, max=65_536, metavar="N", help="Samples at a time.")
    ] = 128,
    transpose: TransposeOption = 0.0,
    mix: MixOption = 1.0,
    gate: Annotated[
        float, typer.Option("--gate", min=-90, max=0, metavar="DB", help="dBFS; below is silence.")
    ] = -50.0,
    pace: Annotated[
        Literal["realtime", "fast"] | None,
        typer.Option("--pace", help="As played, or as fast as it can.",
                     show_default="fast from file to file"),
    ] = None,
    model: ModelOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the session's figures as JSON, last on stdout.")
    ] = False,
) -> None:  # fmt: skip
    """Play: sound in, notes and another timbre out, at once.

    A file as --input runs the very same engine, block by block. The output file has the input's
    sample rate and length, and is not shifted to hide latency.
    """
    from realtime.session import LiveOptions, run_live

    options = LiveOptions(
        input=source, output=output, midi=tuple(midi or ()), osc=osc, timbre=timbre, device=device,
        rate=rate, block=block, transpose=transpose, mix=mix, gate_db=gate, pace=pace or "fast",
        model=model,
    )  # fmt: skip
    with progress_bar("live") as told:
        report = run_live(options, on_start=_say_latency, progress=told)
    _say_end(report)
    if as_json:
        print(json.dumps(report.to_json()))


def _say_latency(report: LiveReport) -> None:
    latency = report.to_json()["latency_ms"]
    print(
        f"{report.timbre} at {report.sample_rate} Hz, latency {latency['total']:.1f} ms "
        f"(algorithm {latency['algorithm']:.1f}, buffer {latency['buffer']:.1f}, "
        f"device {latency['device']:.1f}). Ctrl-C ends it.",
        file=sys.stderr,
    )


def _say_end(report: LiveReport) -> None:
    stats = report.stats
    played_s = stats.n_samples / report.sample_rate
    print(
        f"{'stopped after' if report.interrupted else 'played'} {played_s:.1f} s, "
        f"{stats.n_notes} notes, {stats.xruns} xruns, {stats.late_hops} late hops, "
        f"{stats.dropped_events} dropped events",
        file=sys.stderr,
    )
