"""Sound files in and out, in blocks, so that two hours take no more memory than two seconds.

Reading gives mono float32 and refuses at the border what cannot be used; what it has to repair it
logs as one warning. Writing goes beside the target, which is replaced only once all is on disk.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from v3audio.errors import AudioFileError
from v3audio.paths import atomic_write, write_refusal
from v3audio.units import gain_to_db

Samples = NDArray[np.float32]

MIN_SAMPLE_RATE = 8_000
MAX_SAMPLE_RATE = 192_000
MIN_DURATION_S = 0.03
BLOCK_SAMPLES = 65_536
WAV_LIMIT_BYTES = 2**32 - 2**20  # a WAV header counts bytes in 32 bits
# Subtypes, by their beginning, that cannot pass full scale, so that no look at the peaks is needed.
_BOUNDED = ("PCM_", "ALAC_", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "DPCM_", "GSM", "G72")
_LEVELS_DB = np.arange(-60.0, 801.0, 0.5)  # edges of the peak histogram; float32 ends at 770 dBFS
_FORMATS = {".wav": "WAV", ".flac": "FLAC"}  # that are written
_READABLE = frozenset(
    {".wav", ".flac", ".aif", ".aiff", ".aifc", ".ogg", ".oga", ".opus", ".mp3", ".caf", ".au",
     ".snd", ".w64", ".rf64"}
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a sound file holds.

    Attributes:
        path: The file.
        sample_rate: In Hz.
        n_samples: Samples per channel.
        n_channels: Channels; reading gives their mean.
        format: Container as libsndfile names it, such as ``WAV``.
        subtype: Sample format, such as ``PCM_24``.
    """

    path: Path
    sample_rate: int
    n_samples: int
    n_channels: int
    format: str
    subtype: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def audio_info(path: Path | str) -> AudioInfo:
    """Look at a sound file and check that it can be used.

    Raises:
        AudioFileError: Missing, a folder, empty, not audio, without samples, shorter than 30 ms, or
            of a sample rate outside 8 to 192 kHz.
    """
    path = Path(path)
    with _open(path) as file:
        info = AudioInfo(
            path, file.samplerate, file.frames, file.channels, file.format, file.subtype
        )
    if info.n_samples == 0:
        raise AudioFileError(
            f"{path}: holds no samples; record at least {MIN_DURATION_S * 1000:.0f} ms"
        )
    if not MIN_SAMPLE_RATE <= info.sample_rate <= MAX_SAMPLE_RATE:
        raise AudioFileError(
            f"{path}: sample rate is {info.sample_rate} Hz, wanted {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE}; convert it first (sox '{path}' -r 48000 converted.wav)"
        )
    if info.duration_s < MIN_DURATION_S:
        raise AudioFileError(
            f"{path}: lasts {info.duration_s * 1000:.0f} ms, wanted at least "
            f"{MIN_DURATION_S * 1000:.0f} ms; give a longer recording"
        )
    return info


def read_mono(
    path: Path | str, *, sample_rate: int | None = None, block_samples: int = BLOCK_SAMPLES
) -> Iterator[Samples]:
    """Read a sound file block by block as mono.

    Channels are averaged. NaN and infinity become 0 and are counted in a warning. A file whose
    float samples pass full scale is turned down as a whole so that nothing passes 1, with a warning
    that says by how much; a few wild samples in an otherwise sane file are clipped instead of
    pulling everything down.

    Args:
        path: A file that libsndfile reads.
        sample_rate: Resample to this rate in Hz (high quality, phase kept, no shift); None keeps
            the file's own.
        block_samples: Length of the blocks, all but the last.

    Returns:
        Iterator over (n,) float32 blocks in [-1, 1], n = `block_samples` but for the last. Without
        resampling they add up to the file's samples.

    Raises:
        AudioFileError: At once for all that `audio_info` refuses; while reading where the file is
            damaged.
    """
    info = audio_info(path)
    blocks = _repaired(info)
    if sample_rate is not None and sample_rate != info.sample_rate:
        blocks = _resampled(blocks, info.sample_rate, sample_rate)
    return _rechunked(blocks, block_samples)


def load_mono(path: Path | str, *, sample_rate: int | None = None) -> tuple[Samples, int]:
    """Read a whole, short sound file.

    Returns:
        (n_samples,) float32 mono as `read_mono` gives it, and its sample rate in Hz.
    """
    rate = sample_rate or audio_info(path).sample_rate
    return np.concatenate(list(read_mono(path, sample_rate=sample_rate))), rate


class AudioWriter:
    """Write a ``.wav`` or ``.flac`` file block by block, as a context manager.

    The target appears, or is replaced, when the ``with`` block ends well. An exception, Ctrl-C
    included, leaves what stood there before and no leftovers; who wants to keep what was written so
    far ends the block instead.
    """

    def __init__(
        self,
        path: Path | str,
        sample_rate: int,
        *,
        n_channels: int = 1,
        subtype: str = "PCM_24",
    ) -> None:
        """Prepare to write; nothing is touched before the ``with`` block.

        Args:
            path: Target; its suffix chooses the format.
            sample_rate: In Hz.
            n_channels: Channels.
            subtype: ``PCM_16``, ``PCM_24`` (default), or ``FLOAT`` (wav only). Samples beyond -1..1
                are clipped in the PCM formats.

        Raises:
            AudioFileError: Another suffix, or a subtype that the format does not have.
        """
        self.path = Path(path)
        self.n_samples = 0
        check_output(self.path)
        kind = _FORMATS[self.path.suffix.lower()]
        if not soundfile.check_format(kind, subtype):
            raise AudioFileError(f"{path}: {kind} files have no {subtype} samples; write a .wav")
        self._limit = WAV_LIMIT_BYTES if kind == "WAV" else None
        self._bytes_per_sample = n_channels * {"PCM_16": 2, "PCM_24": 3}.get(subtype, 4)
        self._open_args: dict[str, Any] = dict(
            samplerate=sample_rate, channels=n_channels, subtype=subtype, format=kind
        )
        self._stack = contextlib.ExitStack()
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> Self:
        """Create the temporary file, so that a bad folder is refused before the work."""
        temporary = self._stack.enter_context(atomic_write(self.path, AudioFileError))
        try:
            self._file = soundfile.SoundFile(temporary, "w", **self._open_args)
        except BaseException as e:
            self._stack.__exit__(type(e), e, e.__traceback__)
            raise
        return self

    def write(self, block: NDArray[np.floating[Any]]) -> None:
        """Append (n,) or (n, n_channels) samples.

        Raises:
            AudioFileError: The disk is full, or the file passes the 4 GB a WAV can hold.
        """
        if self._file is None:
            raise RuntimeError("AudioWriter.write outside its `with` block")
        self.n_samples += len(block)
        if self._limit is not None and self.n_samples * self._bytes_per_sample > self._limit:
            raise AudioFileError(
                f"{self.path}: longer than a WAV file can be (4 GB); write a .flac"
            )
        try:
            self._file.write(block)
        except (soundfile.LibsndfileError, AssertionError) as e:  # a short write trips its assert
            raise self._full() from e

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the finished file in place, or remove what was written if an exception passes."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except soundfile.LibsndfileError as e:
            if value is None:
                value = self._full()
                value.__cause__ = e
                self._stack.__exit__(type(value), value, None)
                raise value from e
        self._stack.__exit__(kind, value, trace)

    def _full(self) -> AudioFileError:
        # libsndfile keeps the reason to itself; a write to an open file fails for want of room
        return AudioFileError(write_refusal(self.path, OSError(errno.ENOSPC, "disk full")))


def check_output(path: Path | str) -> None:
    """Refuse a sound file name with a suffix that cannot be written."""
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        got = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise AudioFileError(
            f"{path}: {got}, wanted .wav or .flac; name it for example {path.stem or 'out'}.wav"
        )


def is_audio_name(path: Path) -> bool:
    """Whether a file in a folder looks, by its name, like a recording to take along."""
    return not path.name.startswith(".") and path.suffix.lower() in _READABLE and path.is_file()


def _open(path: Path) -> soundfile.SoundFile:
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder, wanted a sound file; name a file in it")
    if not path.exists():
        raise AudioFileError(f"{path}: no such file; check the name (ls '{path.parent}')")
    if not path.is_file():
        raise AudioFileError(f"{path}: is a device, wanted a sound file")
    try:
        if path.stat().st_size == 0:
            raise AudioFileError(f"{path}: is empty (0 bytes); record or copy it again")
        with path.open("rb"):
            pass
        return soundfile.SoundFile(path)
    except OSError as e:
        raise AudioFileError(
            f"{path}: cannot be read ({e.strerror}); check its permissions"
        ) from None
    except (soundfile.LibsndfileError, TypeError):  # TypeError: headerless .raw
        raise AudioFileError(
            f"{path}: not a sound file that libsndfile reads (WAV, FLAC, AIFF, OGG, MP3, CAF...); "
            f"convert it first (ffmpeg -i '{path}' converted.wav)"
        ) from None


def _decoded(info: AudioInfo) -> Iterator[NDArray[np.float32]]:
    """(n, n_channels) float32 blocks as they stand in the file."""
    with _open(info.path) as file:
        done = 0
        while done < info.n_samples:
            try:
                block = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                raise AudioFileError(
                    f"{info.path}: damaged after {done / info.sample_rate:.1f} s; "
                    "copy or convert it again"
                ) from None
            if not len(block):
                return
            done += len(block)
            yield block


def _repaired(info: AudioInfo) -> Iterator[Samples]:
    """Mono blocks without NaN, infinity or samples beyond full scale."""
    bounded = info.subtype.startswith(_BOUNDED)
    gain = np.float32(1.0 if bounded else _safe_gain(info))
    n_bad = 0
    for block in _decoded(info):
        if not bounded:
            finite = np.isfinite(block)
            if not finite.all():
                n_bad += int(block.size - np.count_nonzero(finite))
                block = np.where(finite, block, np.float32(0))
            # each channel is limited before the mean, which could else overflow on absurd values
            block = np.clip(block * gain, -1.0, 1.0)
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    if n_bad:
        log.warning("%s: %d samples are NaN or infinite, taken as silence", info.path, n_bad)


def _safe_gain(info: AudioInfo) -> float:
    """Factor that brings a file's peaks to full scale, 1 where they already are within it.

    All but the loudest 0.01 % of the non-zero samples set the scale, with 12 dB left for true peaks
    above them: so a single wild value does not silence the rest.
    """
    peak, counts = 0.0, np.zeros(len(_LEVELS_DB) + 1, np.int64)
    for block in _decoded(info):
        level = np.abs(block[np.isfinite(block) & (block != 0)])
        if level.size:
            peak = max(peak, float(level.max()))
            bins = np.searchsorted(_LEVELS_DB, 20 * np.log10(level.astype(np.float64)))
            counts += np.bincount(bins, minlength=len(counts))
    if peak <= 1.0:
        return 1.0
    usual = int(np.searchsorted(np.cumsum(counts), 0.9999 * counts.sum()))
    usual_db = float(_LEVELS_DB[min(usual, len(_LEVELS_DB) - 1)])
    gain_db = -max(0.0, min(gain_to_db(peak), usual_db + 12.0))
    log.warning(
        "%s: peaks reach %+.1f dB above full scale; turned down by %.1f dB%s",
        info.path, gain_to_db(peak), -gain_db,
        " and clipped" if gain_to_db(peak) + gain_db > 0.01 else "",
    )  # fmt: skip
    return float(10.0 ** (gain_db / 20.0))


def _resampled(blocks: Iterator[Samples], rate_in: int, rate_out: int) -> Iterator[Samples]:
    stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _rechunked(blocks: Iterator[Samples], size: int) -> Iterator[Samples]:
    """Cut a stream of blocks of any lengths into blocks of one length, the last one shorter."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate((rest, block)) if len(rest) else block
        n_whole = len(rest) // size * size
        for start in range(0, n_whole, size):
            yield rest[start : start + size]
        rest = rest[n_whole:]
    if len(rest):
        yield rest
