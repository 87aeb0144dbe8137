"""The shipped timbres that are captures of real takes.

    python -m training.takes ../shared/train presets/timbres

TAKES is a folder with `manifest.json`, a list of {"file", "instrument", "source", "licence"}. What
a musician does with `v3audio capture --adapt`, this does with each of `CAPTURES`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from v3audio import timbres
from v3audio.capture import capture
from v3audio.errors import ConfigError

CAPTURES = {
    "karoryfer-sax": "weresax_altosax",
    "bowed-bass": "dsmolken_doublebass_arco",
    "plucked-bass": "dsmolken_doublebass_pizz",
}
"""Name of each timbre, and the folder of its takes."""


def write(takes: Path, out: Path, model: Path | str | None = None) -> list[Path]:
    """Capture and save each of `CAPTURES`, as loud as the model's other timbres.

    Raises:
        ConfigError: takes that are not there.
    """
    written = []
    listed = json.loads((takes / "manifest.json").read_text())
    for name, folder in CAPTURES.items():
        of_one = [take for take in listed if Path(take["file"]).parent.name == folder]
        if not of_one:
            raise ConfigError(f"{takes}: no takes in {folder}/, which '{name}' is a capture of")
        files = [takes / take["file"] for take in of_one]
        taken = capture(name, files, model, licence=of_one[0]["licence"]).adapted()
        source = f"captured from {of_one[0]['instrument']}: {of_one[0]['source']}"
        timbre = replace(taken.timbre, source=source)
        written.append(timbres.save(timbre, out / f"{name}{timbres.SUFFIX}"))
    return written


def main() -> None:
    """Parse the options, capture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("takes", type=Path, help="folder with manifest.json")
    parser.add_argument("out", type=Path, help="folder of timbres")
    parser.add_argument("--model", help="name or folder; the shipped one if left out")
    options = parser.parse_args()
    write(options.takes, options.out, options.model)


if __name__ == "__main__":
    main()
