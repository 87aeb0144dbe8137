"""A new timbre from what is being played: recorded here, made by a process of its own.

Making it takes seconds of full work on one core and loads PyTorch; in this process it would be
heard.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from v3audio import timbres
from v3audio.audio_file import AudioWriter
from v3audio.errors import TimbreError, V3AudioError
from v3audio.notes import NoteEvent
from v3audio.timbres import Timbre

Samples = NDArray[np.float32]

MAX_S = 60.0
"""No more is recorded; seconds are enough."""
NEEDED_S = 2.0
"""Time of sounding notes from which a timbre is likely to come out well."""
_TOLD_S = 0.1
_MAKE = "import os; hasattr(os, 'nice') and os.nice(10); from v3audio.cli import main; main()"


class Capture:
    """Records the input until `stop`, then makes the timbre. One at a time.

    Args:
        name: of the timbre.
        sample_rate: Hz of the engine.
        model: name or folder of the model; None for the shipped one.
        model_sha256: its checksum.
        say: told an OSC address and its arguments: progress, report or error.
        made: told the timbre.

    Raises:
        TimbreError: not a name for a user's timbre.
    """

    def __init__(
        self,
        name: str,
        sample_rate: int,
        model: str | None,
        model_sha256: str,
        say: Callable[..., None],
        made: Callable[[Timbre], None],
    ) -> None:
        self._name = timbres.check_new_name(name)
        self._rate, self._model, self._sha256 = sample_rate, model, model_sha256
        self._say, self._made = say, made
        self._sound = np.zeros(round(MAX_S * sample_rate), np.float32)
        self._n = self._n_sounding = self._told_at = 0
        self._sounds = False
        self.is_recording = True
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def put(self, block: Samples, events: Sequence[NoteEvent]) -> None:
        """Take a block of input and the notes that began or ended in it. Engine thread only."""
        n = min(len(block), len(self._sound) - self._n)
        self._sound[self._n : self._n + n] = block[:n]
        self._n += n
        for event in events:
            self._sounds = event.kind != "off"
        self._n_sounding += n if self._sounds else 0
        if n and self._n - self._told_at >= _TOLD_S * self._rate:
            self._told_at = self._n
            self._say("/v3/capture/progress", min(1.0, self._n_sounding / (NEEDED_S * self._rate)))

    def stop(self) -> None:
        """Make the timbre of what was recorded, in the background."""
        self.is_recording = False
        self._thread = threading.Thread(target=self._make, name="capture", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Break off."""
        self.is_recording = False
        if self._process is not None:
            self._process.kill()
        if self._thread is not None:
            self._thread.join()

    def _make(self) -> None:
        try:
            timbre = self._made_timbre()
        except (V3AudioError, OSError) as e:
            self._say("/v3/error", "/v3/capture/stop", str(e))
            return
        self._made(timbre)
        self._say("/v3/capture/report", timbre.name, *map(float, timbre.note_range))

    def _made_timbre(self) -> Timbre:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self._name}.wav"
            with AudioWriter(path, self._rate, subtype="FLOAT") as writer:
                writer.write(self._sound[: self._n])
            command = [sys.executable, "-c", _MAKE, "capture", self._name, str(path)]
            self._process = subprocess.Popen(
                command + (["--model", self._model] if self._model else []),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True,
            )  # fmt: skip
            _, complaint = self._process.communicate()
            if self._process.returncode:
                lines = complaint.strip().splitlines() or ["it was broken off"]
                raise TimbreError(lines[-1])
        return timbres.find(self._name, self._sha256)
