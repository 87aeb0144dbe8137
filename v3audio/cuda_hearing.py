"""`Hearing` on a GPU for a player: one captured graph per step, so that no Python stands between.

A frame is so small that launching its hundred kernels one by one takes longer than computing them.
Captured once and replayed, they take one launch; the window goes over and the result comes back
through pinned memory on the same stream, and one wait at the end covers all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from v3audio.errors import DeviceError
from v3audio.geometry import N_VIEWS
from v3audio.hearing import Hearing
from v3audio.notes import FrameNotes

FloatArray = NDArray[np.float32]

N_NUMBERS = 8  # of a frame, before its arrays; see `Hearing.live`
_WARM_UPS = 3  # cuFFT's plans, cuBLAS's workspace and the content kernel's matrix are made once


class CudaHearing:
    """A `Hearing` asked for the newest frame of one or several players at once.

    On a CPU it computes the same without a graph, which is how it is tested without a GPU.

    Args:
        hearing: the model and its code map, on the device where it shall run.
        n_streams: B, windows heard in one step.

    Raises:
        DeviceError: the GPU has no memory left for it.
    """

    def __init__(self, hearing: Hearing, n_streams: int = 1) -> None:
        self._hearing, self._device = hearing, hearing.device
        on_gpu = self._device.type == "cuda"
        g = hearing.geometry
        shape = n_streams, g.window_length
        self._n_positions = g.n_positions
        try:
            self._in = torch.zeros(shape, pin_memory=on_gpu)
            n_columns = N_NUMBERS + g.n_positions + N_VIEWS * g.n_bins
            self._out = torch.zeros(n_streams, n_columns, pin_memory=on_gpu)
            self._windows = torch.zeros(shape, device=self._device)
            self._run = self._captured() if on_gpu else self._compute
        except torch.cuda.OutOfMemoryError:
            raise DeviceError(
                "--device cuda: the GPU has no memory left; end other programs on it, "
                "or type --device cpu"
            ) from None
        # the same memory as numpy sees it
        self._in_array, self._out_array = self._in.numpy(), self._out.numpy()

    def step(self, windows: FloatArray) -> FloatArray:
        """Hear (B, window_length) windows.

        Returns: (B, columns) as `Hearing.live`; the next step overwrites it.
        """
        self._in_array[:] = windows
        self._run()
        return self._out_array

    def frame(self, window: FloatArray) -> FrameNotes:
        """Hear one (window_length,) window at the analysis rate."""
        row = self.step(window[None])[0]
        level_db, onset, periodicity, pitch_midi, confidence, brief_db = row[:6].tolist()
        position, views = np.split(row[N_NUMBERS:], [self._n_positions])
        return FrameNotes(
            level_db, onset, periodicity, pitch_midi, confidence, None, position,
            views.reshape(N_VIEWS, -1), brief_db,
        )  # fmt: skip

    def code(self) -> tuple[int, float]:
        """The code nearest to the newest frame's content, and its distance."""
        code, distance = self._out_array[0, 6:N_NUMBERS].tolist()
        return int(code), distance

    @torch.inference_mode()
    def _compute(self) -> None:
        self._windows.copy_(self._in, non_blocking=True)
        self._out.copy_(self._hearing.live(self._windows), non_blocking=True)

    @torch.inference_mode()
    def _captured(self) -> Callable[[], None]:
        """`_compute` with all between the two copies in one graph."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        # as on the CPU: convolutions in whole float32 and not in TF32's 10 bits
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        stream.wait_stream(torch.cuda.current_stream(self._device))  # the weights are on their way
        with exact:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._compute()
            stream.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                result = self._hearing.live(self._windows)

        @torch.inference_mode()
        def run() -> None:
            with torch.cuda.stream(stream):
                self._windows.copy_(self._in, non_blocking=True)
                graph.replay()
                self._out.copy_(result, non_blocking=True)
            stream.synchronize()

        return run
