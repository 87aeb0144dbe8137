"""What `v3audio live` was asked for, and whether it can be done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from v3audio.audio_file import AudioInfo, audio_info, check_output
from v3audio.errors import AudioFileError, ConfigError
from v3audio.paths import check_target
from v3audio.streaming import check_sample_rate

Pace = Literal["realtime", "fast"]
Endpoint = tuple[str, int]

MAX_BLOCK = 65536
OSC_PORT, OSC_FEEDBACK_PORT = 9720, 9721


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What `v3audio live` was asked for; names as in its options.

    Attributes:
        input: ``mic``, a device's name, or a sound file.
        output: ``speakers``, a device's name, a ``.wav`` or ``.flac`` file, or ``none``.
        midi: ports' names, ``virtual[:NAME]``, ``osc:HOST:PORT``, ``.mid`` files, or ``none``.
        osc: HOST:PORT to listen on, ``off``, or ``auto``: the usual port where somebody plays.
        osc_to: HOST:PORT that gets the feedback from the start; None for whoever subscribes.
        timbre: name, file or blend.
        model: folder or name of a model; None for the shipped one.
        device: where the model runs: ``auto``, ``cpu`` or ``cuda``.
        rate: Hz at which the engine runs; None for the sound card's or the file's own. An output
            file has the input file's rate all the same.
        block: samples handed to the engine at once; a sound card may insist on its own.
        transpose: semitones, -36..36.
        mix: 0 dry .. 1 wet.
        gate_db: dBFS, -90..0.
        pace: ``fast`` (as fast as it can), ``realtime`` (a block when its sound is due), or None:
            fast where only files are involved.
    """

    input: str
    output: str = "none"
    midi: tuple[str, ...] = ()
    osc: str = "auto"
    osc_to: str | None = None
    timbre: str = "flute"
    model: str | None = None
    device: str = "auto"
    rate: int | None = None
    block: int = 128
    transpose: float = 0.0
    mix: float = 1.0
    gate_db: float = -50.0
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Options after a look at them: what is a file, a device, a port or an address.

    Attributes:
        file_in: the input, where it is a file.
        card_in: name of the input device, where it is one.
        file_out: the output, where it is a file.
        card_out: name of the output device, where it is one.
        midi_files: ``.mid`` files to write.
        midi_ports: ports and addresses to play.
        osc: where to listen; None for nowhere.
        osc_may_fail: whether to go on without OSC where that is taken.
        osc_to: where the feedback goes from the start; None for nowhere.
        realtime: a block is played when its sound is due.
    """

    file_in: AudioInfo | None
    card_in: str | None
    file_out: Path | None
    card_out: str | None
    midi_files: tuple[Path, ...]
    midi_ports: tuple[str, ...]
    osc: Endpoint | None
    osc_may_fail: bool
    osc_to: Endpoint | None
    realtime: bool

    @property
    def has_card(self) -> bool:
        """Whether a sound card paces the session."""
        return self.card_in is not None or self.card_out is not None


def plan(options: LiveOptions) -> Plan:
    """Refuse what cannot be done before any work.

    Raises:
        AudioFileError: an input that cannot be read or an output that cannot be written.
        ConfigError: a value out of range, or options that do not go together.
    """
    if not 1 <= options.block <= MAX_BLOCK:
        raise ConfigError(f"--block {options.block}: expected 1 to {MAX_BLOCK} samples (try 128)")
    if options.pace not in ("fast", "realtime", None):
        raise ConfigError(f"--pace {options.pace}: expected fast or realtime")
    if options.rate is not None:
        check_sample_rate(options.rate)
    is_file = Path(options.input).is_file() or _looks_like_file(options.input)
    file_in = audio_info(options.input) if is_file and options.input != "mic" else None
    file_out, card_out = None, None
    if _looks_like_file(options.output):
        file_out = Path(options.output)
        check_output(file_out)
        check_target(file_out, AudioFileError)
    elif options.output != "none":
        card_out = options.output
    midi = [target for target in options.midi if target != "none"]
    files = [Path(target) for target in midi if Path(target).suffix.lower() in (".mid", ".midi")]
    for path in files:
        check_target(path, AudioFileError)
    ports = [target for target in midi if Path(target) not in files]
    has_card = file_in is None or card_out is not None
    asked_for_osc = options.osc not in ("auto", "off") or options.osc_to is not None
    if has_card and options.pace == "fast":
        raise ConfigError(
            "--pace fast: a sound card sets its own pace; leave it out, or give files as --input "
            "and --output"
        )
    files_only = not (has_card or ports or asked_for_osc)
    realtime = options.pace == "realtime" or (options.pace is None and not files_only)
    osc, osc_to = None, None
    if options.osc != "off" and (realtime or asked_for_osc):
        from realtime.osc_wire import parse_endpoint

        host_port = "127.0.0.1" if options.osc == "auto" else options.osc
        osc = parse_endpoint(host_port, OSC_PORT, "--osc")
        if options.osc_to is not None:
            osc_to = parse_endpoint(options.osc_to, OSC_FEEDBACK_PORT, "--osc-to")
    elif options.osc_to is not None:
        raise ConfigError("--osc-to needs OSC, which --osc off turns off; leave one of them out")
    return Plan(
        file_in, None if file_in else options.input, file_out, card_out, tuple(files), tuple(ports),
        osc, options.osc == "auto", osc_to, realtime,
    )  # fmt: skip


def _looks_like_file(name: str) -> bool:
    """Whether a name is meant as a file: devices may be called anything, but hardly `x.wav`."""
    suffix = Path(name).suffix
    return 2 <= len(suffix) <= 5 and suffix[1:].isalnum() and not suffix[1:].isdigit()
