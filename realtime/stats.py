"""Counting what a live session did, in bounded memory however long it plays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_EDGES_MS = np.geomspace(1e-4, 1e5, 1801)  # 0.1 us .. 100 s in steps of 1.2 %


class Durations:
    """Histogram of step times: percentiles within 1.2 %, maximum and sum exact."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(_EDGES_MS) + 1, np.int64)
        self.n = 0
        self.total_ms = 0.0
        self.max_ms = 0.0

    def add(self, ms: float) -> None:
        """Count one step of `ms` milliseconds."""
        self._counts[int(np.searchsorted(_EDGES_MS, ms))] += 1
        self.n += 1
        self.total_ms += ms
        self.max_ms = max(self.max_ms, ms)

    def percentile_ms(self, percent: float) -> float:
        """The time that `percent` of the steps did not pass; 0 before the first step."""
        if self.n == 0:
            return 0.0
        wanted = int(np.ceil(self.n * percent / 100.0))
        index = int(np.searchsorted(np.cumsum(self._counts), max(1, wanted)))
        return float(min(_EDGES_MS[min(index, len(_EDGES_MS) - 1)], self.max_ms))


@dataclass(slots=True)
class SessionStats:
    """What happened in a session; counts are apart by cause.

    Attributes:
        step: time of each `Engine.process` call.
        n_samples: samples played.
        n_notes: note-ons.
        xruns: gaps that the sound card reported (none between files).
        late_hops: blocks that were not ready when their sound was due (`--pace realtime`).
        dropped_events: note events that could not be delivered.
    """

    step: Durations = field(default_factory=Durations)
    n_samples: int = 0
    n_notes: int = 0
    xruns: int = 0
    late_hops: int = 0
    dropped_events: int = 0
