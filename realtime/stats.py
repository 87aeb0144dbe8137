"""Counting what a live session did, in bounded memory however long it plays."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

_EDGES_MS = np.geomspace(1e-4, 1e5, 1801).tolist()  # 0.1 us .. 100 s in steps of 1.2 %


class Durations:
    """Histogram of step times: percentiles within 1.2 %, maximum and sum exact."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_EDGES_MS) + 1)
        self.n = 0
        self.total_ms = 0.0
        self.max_ms = 0.0

    def add(self, ms: float) -> None:
        """Count one step of `ms` milliseconds."""
        self._counts[bisect_left(_EDGES_MS, ms)] += 1
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


@dataclass(frozen=True, slots=True)
class Latency:
    """The wait from a sound coming in to its effect going out, apart by who causes it.

    Attributes:
        algorithm_samples: of the engine, an input sample to its effect.
        buffer_samples: blocks that are filled and rendered ahead.
        device_samples: of the sound card, in and out, as it states it.
        sample_rate: Hz of the three counts.
    """

    algorithm_samples: int
    buffer_samples: int
    device_samples: int
    sample_rate: int

    @property
    def algorithm_ms(self) -> float:
        """`algorithm_samples` in milliseconds."""
        return 1000.0 * self.algorithm_samples / self.sample_rate

    @property
    def buffer_ms(self) -> float:
        """`buffer_samples` in milliseconds."""
        return 1000.0 * self.buffer_samples / self.sample_rate

    @property
    def device_ms(self) -> float:
        """`device_samples` in milliseconds."""
        return 1000.0 * self.device_samples / self.sample_rate

    @property
    def total_ms(self) -> float:
        """All of it."""
        total = self.algorithm_samples + self.buffer_samples + self.device_samples
        return 1000.0 * total / self.sample_rate


@dataclass(slots=True)
class SessionStats:
    """What happened in a session; counts are apart by cause, and each has one writing thread.

    Attributes:
        step: time of each `Engine.process` call.
        n_samples: samples played.
        n_notes: note-ons.
        underruns: gaps in the output because the engine was late.
        overruns: gaps in the input because the engine was so late that the ring was full.
        device_xruns: gaps that the sound card reported.
        late_hops: blocks that were not ready when their sound was due.
        dropped_midi: events that a MIDI output could not take.
        dropped_osc: events that OSC could not take.
        n_non_finite: input samples that were NaN or infinite.
        n_device_lost: times that the sound card went away.
        cpu: share of the last second that the engine needed, 0..1 and above where it is too slow.
    """

    step: Durations = field(default_factory=Durations)
    n_samples: int = 0
    n_notes: int = 0
    underruns: int = 0
    overruns: int = 0
    device_xruns: int = 0
    late_hops: int = 0
    dropped_midi: int = 0
    dropped_osc: int = 0
    n_non_finite: int = 0
    n_device_lost: int = 0
    cpu: float = 0.0

    @property
    def xruns(self) -> int:
        """Gaps in the sound, whatever caused them."""
        return self.underruns + self.overruns + self.device_xruns

    @property
    def dropped_events(self) -> int:
        """Note events that could not be delivered."""
        return self.dropped_midi + self.dropped_osc


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a player sees of a session at one moment.

    Attributes:
        state: ``playing``, ``bypassed``, ``off``, ``device lost`` or ``stopped``.
        timbre: what plays, as named.
        elapsed_s: since the session began.
        input_db: level of the newest frame, dBFS.
        output_db: level of the newest output, dBFS.
        note: MIDI number of the sounding note; None without one.
        cents: heard pitch relative to it.
        pitch_hz: heard pitch.
        confidence: of it, 0..1.
        latency: apart by cause.
        xruns: gaps in the sound: the next three together.
        underruns: because the engine was late.
        overruns: because the engine was so late that input was skipped.
        device_xruns: because the sound card says so.
        late_hops: blocks that were not ready when due.
        dropped_events: note events that could not be delivered.
        cpu: share of the last second that the engine needed.
        step_p99_ms: time that 99 % of the engine's steps did not pass.
        n_notes: note-ons so far.
        osc: last OSC message, empty without one.
        midi: ports as opened, a lost one marked.
        recording: a take is being recorded.
    """

    state: str
    timbre: str
    elapsed_s: float
    input_db: float
    output_db: float
    note: int | None
    cents: float
    pitch_hz: float
    confidence: float
    latency: Latency
    xruns: int
    underruns: int
    overruns: int
    device_xruns: int
    late_hops: int
    dropped_events: int
    cpu: float
    step_p99_ms: float
    n_notes: int
    osc: str
    midi: tuple[str, ...]
    recording: bool
