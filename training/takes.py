"""The shipped timbres that are captured from real takes (CC0) instead of learned from a soundfont.

    python -m training.takes TAKES -o presets/timbres

TAKES is a folder with `manifest.json` (file, midi, instrument of each take). Run it again after
the model or its renderer has been trained anew, as for any captured timbre.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from v3audio import timbres
from v3audio.capture import capture

CAPTURED = {
    "bowed-bass": ("dsmolken_doublebass_arco", "double bass, bowed: dsmolken.double-bass"),
    "karoryfer-sax": ("weresax_altosax", "alto saxophone: karoryfer.weresax"),
    "plucked-bass": ("dsmolken_doublebass_pizz", "double bass, plucked: dsmolken.double-bass"),
}
"""Folder of the takes, and what they are, by timbre."""


def main(takes: Path, out: Path) -> None:
    """Write the timbres, and say what each take was good for."""
    manifest = json.loads((takes / "manifest.json").read_text())
    for name, (folder, what) in CAPTURED.items():
        files = [takes / take["file"] for take in manifest if take["file"].startswith(f"{folder}/")]
        taken = capture(name, files).adapted()
        timbre = replace(
            taken.timbre,
            source=f"captured from {what} (sfzinstruments), CC0 takes",
            licence="CC0-1.0",
        )
        path = timbres.save(timbre, out / f"{name}{timbres.SUFFIX}")
        sys.stdout.write("\n".join([f"{path}:", *taken.report.lines(), ""]) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("takes", type=Path)
    parser.add_argument("-o", dest="out", type=Path, required=True)
    options = parser.parse_args()
    main(options.takes, options.out)
