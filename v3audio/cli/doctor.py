"""`v3audio doctor`: what is installed, what is missing, what to type."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from v3audio.errors import V3AudioError


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    found: str
    remedy: str = ""  # empty: nothing is missing


def doctor() -> None:
    """Say what is installed, what is missing, and what to type."""
    findings = list(examine())
    width = max(len(f.what) for f in findings)
    for finding in findings:
        mark = "MISSING" if finding.remedy else "ok"
        print(f"{mark:<8} {finding.what:<{width}}  {finding.found}")
        if finding.remedy:
            print(f"{'':<8} {'':<{width}}  {finding.remedy}")
    n_missing = sum(bool(f.remedy) for f in findings)
    print(f"\n{n_missing} missing" if n_missing else "\nall is there")


def examine() -> Iterator[Finding]:
    """Look at everything v3audio may use; nothing raises."""
    from v3audio import __version__

    yield Finding("v3audio", f"{__version__}, Python {platform.python_version()}, {sys.platform}")
    checks: dict[str, Callable[[], str]] = {
        "torch": _torch,
        "libsndfile": _libsndfile,
        "model": _model,
        "timbres": _timbres,
        "PortAudio": _portaudio,
        **({"JACK": _jack, "priority": _priority} if sys.platform == "linux" else {}),
        "MIDI": _midi,
        "discovery": _discovery,
        "FluidSynth": _fluidsynth,
        "soundfonts": _soundfonts,
        "TensorBoard": _tensorboard,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, check())
        except (V3AudioError, ImportError, OSError) as e:
            text = " ".join(str(e).split())
            found, _, remedy = text.partition("; ")
            yield Finding(what, found, remedy or "type: pip install --force-reinstall v3audio")


def _torch() -> str:
    import torch

    gpu = (
        f"GPU {torch.cuda.get_device_name()}"
        if torch.cuda.is_available()
        else "no GPU (none needed)"
    )
    return f"{torch.__version__}, {gpu}"


def _libsndfile() -> str:
    import soundfile

    return str(soundfile.__libsndfile_version__)


def _model() -> str:
    from v3audio.bundle import load_bundle

    bundle = load_bundle()
    bundle.load_hearing()
    bundle.load_renderer()
    return f"{bundle.name} ({bundle.checksum[:12]}) in {bundle.folder}"


def _timbres() -> str:
    from v3audio.timbres import list_timbres

    entries = list_timbres()
    if bad := [e for e in entries if e.info is None]:
        raise V3AudioError(bad[0].problem)
    if not entries:
        raise V3AudioError("none; make one: v3audio capture NAME FILE")
    n_shipped = sum(e.is_shipped for e in entries)
    return f"{n_shipped} shipped, {len(entries) - n_shipped} of yours"


def _portaudio() -> str:
    from realtime.audio_io import list_audio_devices

    cards = list_audio_devices()
    if not cards:
        raise V3AudioError(
            "no sound device; plug a sound card in, or start a sound server (JACK, PipeWire); "
            "files work without"
        )
    hosts = ", ".join(dict.fromkeys(card.host for card in cards))
    return f"{len(cards)} sound devices ({hosts})"


def _jack() -> str:
    from realtime.audio_io import list_audio_devices

    if not any("JACK" in card.host for card in list_audio_devices()):
        raise V3AudioError(
            "no server answers, needed only to be patched to other programs; "
            "Debian/Ubuntu: sudo apt install jackd2, then jackd -d alsa -r 48000 -p 128; "
            "with PipeWire: sudo apt install pipewire-jack, then pw-jack v3audio live"
        )
    return "the server answers"


def _priority() -> str:
    import resource

    if os.geteuid() and not resource.getrlimit(resource.RLIMIT_RTPRIO)[0]:
        raise V3AudioError(
            "this user may not ask for real-time priority, so other programs can cause gaps; "
            "type: sudo usermod -aG audio $USER, give the group rtprio 95 in "
            "/etc/security/limits.d/audio.conf, and log in anew"
        )
    return "real-time priority is granted"


def _midi() -> str:
    from realtime.midi_out import list_midi_outputs

    return f"{len(list_midi_outputs())} output ports"


def _fluidsynth() -> str:
    from training.soundfonts import fluidsynth_available

    if not fluidsynth_available():
        raise V3AudioError(
            "not found, needed only to render training sound; "
            "Debian/Ubuntu: sudo apt install fluidsynth   macOS: brew install fluid-synth"
        )
    return "found"


def _soundfonts() -> str:
    from training.soundfonts import find_soundfonts

    return ", ".join(str(p) for p in find_soundfonts())


def _tensorboard() -> str:
    return _optional("tensorboard", "to watch a training", "train")


def _discovery() -> str:
    return _optional("zeroconf", "so that OSC apps find v3audio by themselves", "discovery")


def _optional(package: str, wherefore: str, extra: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        raise V3AudioError(
            f"not found, needed only {wherefore}; type: pip install 'v3audio[{extra}]'"
        ) from None
