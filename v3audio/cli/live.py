"""`v3audio live`: the instrument, played."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from v3audio.cli.common import (
    MixOption,
    ModelOption,
    TimbreOption,
    TransposeOption,
    leaving_at_once,
    progress_bar,
)

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
        str | None,
        typer.Option(
            "--osc", metavar="HOST:PORT|off", help="Listen for OSC control.",
            show_default="127.0.0.1:9720; off from file to file",
        ),
    ] = None,
    osc_to: Annotated[
        str | None,
        typer.Option(
            "--osc-to", metavar="HOST:PORT", show_default="whoever subscribes",
            help="Send OSC feedback there from the start (the usual port is 9721).",
        ),
    ] = None,
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
    tui: Annotated[
        bool, typer.Option("--tui", help="A panel with meters instead of the status line.")
    ] = False,
    model: ModelOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the session's figures as JSON, last on stdout.")
    ] = False,
) -> None:  # fmt: skip
    """Play: sound in, notes and another timbre out, at once.

    A file as --input runs the very same engine, block by block. An output file of it has its sample
    rate and length, and is not shifted to hide latency.
    """
    with leaving_at_once():
        from realtime.options import LiveOptions, plan
        from realtime.session import run_live
        from v3audio.cli.status import watch

    options = LiveOptions(
        input=source, output=output, midi=tuple(midi or ()), osc=osc or "auto", osc_to=osc_to,
        timbre=timbre, device=device, rate=rate, block=block, transpose=transpose, mix=mix,
        gate_db=gate, pace=pace, model=model,
    )  # fmt: skip
    if plan(options).realtime:
        report = run_live(options, on_start=_say_start, watch=lambda snapshot: watch(snapshot, tui))
    else:
        with progress_bar("live") as told:
            report = run_live(options, on_start=_say_start, progress=told)
    _say_end(report)
    if as_json:
        print(json.dumps(report.to_json()))


def _say_start(report: LiveReport) -> None:
    latency = report.latency
    print(
        f"{report.timbre} at {report.sample_rate} Hz, latency {latency.total_ms:.1f} ms "
        f"(algorithm {latency.algorithm_ms:.1f}, buffer {latency.buffer_ms:.1f}, "
        f"device {latency.device_ms:.1f}); {', '.join(report.connected)}. Ctrl-C ends it.",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _say_end(report: LiveReport) -> None:
    from v3audio.cli.status import xruns_in_words

    s = report.stats
    print(
        f"{'stopped after' if report.interrupted else 'played'} "
        f"{s.n_samples / report.sample_rate:.1f} s, {s.n_notes} notes, "
        f"xruns {xruns_in_words(s)}, {s.late_hops} late hops, "
        f"{s.dropped_events} dropped events",
        file=sys.stderr,
    )
