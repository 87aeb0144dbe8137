"""Timbres as files: a style vector and what belongs to it, one small .safetensors each.

The style vector means nothing under another model, so a mismatch is an error, never a warning.
Shipped timbres lie in the presets, captured ones in the user's folder; a name is looked up in both
and is never used as a path. Listing reads headers only, with neither torch nor numpy, which is
imported where a style vector is touched.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v3audio.config import from_table
from v3audio.errors import ConfigError, TimbreError, did_you_mean
from v3audio.paths import atomic_write, presets_dir, user_home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 3
"""Newest version of the file format.

A file without a colour is written as version 1; the colour of version 2 did not know loudness.
"""
KIND = "v3audio-timbre"
SUFFIX = ".safetensors"
STYLE_DIM = 16  # `Geometry.style_dim`
MAX_FILE_BYTES = 1_000_000  # a timbre takes up to 14 kB; what is larger is something else
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class TimbreInfo:
    """All of a timbre but its style vector: what its file's header says.

    Attributes:
        name: Letters, digits, ``-`` and ``_``; a blend carries its own recipe.
        note_range: Lowest and highest MIDI note at which the instrument sounds like itself.
        gain_db: Added to the played level so that all timbres are equally loud.
        decay_db_per_s: How fast a struck or plucked note dies away; 0 for a sustained one.
        model: Name of the model whose style space this is.
        model_sha256: Checksum of that model's weights.
        source: Where the sound came from.
        licence: Under which the timbre may be used.
        extras: Optional refinements, such as values per register.
        format: Version of the file format.
    """

    name: str
    note_range: tuple[int, int]
    model: str
    model_sha256: str
    gain_db: float = 0.0
    decay_db_per_s: float = 0.0
    source: str = ""
    licence: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
    format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timbre(TimbreInfo):
    """A timbre that can be played.

    Attributes:
        style: (16,) float32, V3's style vector (about unit variance in each dimension).
        colour: (`renderer.COLOUR_ROWS`, harmonics and noise bands) float32, natural log gains upon
            what the renderer makes of the style, as measured from the instrument: a row for each
            pitch, and one of what loudness changes; None: none.
    """

    style: NDArray[np.float32]
    colour: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        import numpy as np

        style = np.asarray(self.style, dtype=np.float32)
        if style.shape != (STYLE_DIM,) or not np.isfinite(style).all():
            raise TimbreError(
                f"timbre '{self.name}': its style has shape {style.shape}, wanted ({STYLE_DIM},) "
                "finite numbers"
            )
        object.__setattr__(self, "style", style)
        if self.colour is not None:
            from v3audio.renderer import COLOUR_ROWS

            # as its file will hold it: saved and loaded, a timbre shall sound the same
            colour = np.asarray(self.colour, np.float16).astype(np.float32)
            if colour.ndim != 2 or len(colour) != COLOUR_ROWS or not np.isfinite(colour).all():
                raise TimbreError(
                    f"timbre '{self.name}': its colour has shape {colour.shape}, wanted "
                    f"({COLOUR_ROWS}, harmonics and noise bands) finite numbers"
                )
            object.__setattr__(self, "colour", colour)
        object.__setattr__(self, "format", 1 if self.colour is None else FORMAT)

    @property
    def voice(self) -> NDArray[np.float32]:
        """What the renderer plays: the style, followed by the colour where there is one."""
        import numpy as np

        return self.style if self.colour is None else np.append(self.style, self.colour)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list of timbres.

    Attributes:
        name: As `find` takes it.
        path: Its file.
        is_shipped: Came with v3audio, rather than captured or imported.
        info: What the header says, or None where it cannot be read.
        problem: Why not, or an empty string.
    """

    name: str
    path: Path
    is_shipped: bool
    info: TimbreInfo | None
    problem: str = ""


def user_timbres_dir() -> Path:
    """Folder of captured and imported timbres; may not exist yet."""
    return user_home() / "timbres"


def check_name(name: str) -> str:
    """Give `name` back if a timbre may be called so.

    Raises:
        TimbreError: Anything but 1 to 64 letters, digits, ``-`` and ``_``.
    """
    if not _NAME.fullmatch(name):
        raise TimbreError(
            f"'{name}' cannot be the name of a timbre; wanted 1 to 64 letters, digits, - or _, "
            "for example my-flute"
        )
    return name


def check_new_name(name: str) -> str:
    """Give `name` back if the user's own timbre may be called so, a new one or one to replace.

    Raises:
        TimbreError: What `check_name` refuses, and the names of shipped timbres.
    """
    shipped = presets_dir() / "timbres" / f"{check_name(name)}{SUFFIX}"
    if shipped.exists():
        raise TimbreError(f"'{name}' is a shipped timbre; choose another name, as my-{name}")
    return name


def list_timbres() -> list[Entry]:
    """All timbres by name; one of the user's hides a shipped one of the same name."""
    return [
        Entry(name, path, is_shipped, *_try_info(path))
        for name, (path, is_shipped) in sorted(_catalogue().items())
    ]


def path_of(name: str) -> Path:
    """File of a shipped or captured timbre.

    Raises:
        TimbreError: No such timbre; names the nearest.
    """
    known = _catalogue()
    by_lowercase = {k.lower(): k for k in known}
    found = name if name in known else by_lowercase.get(name.lower())
    if found is None:
        raise TimbreError(
            f"no timbre '{name}'{did_you_mean(name, known)} (see them all: v3audio timbres list)"
        )
    return known[found][0]


def find(spec: str, model_sha256: str | None = None) -> Timbre:
    """The timbre that the user asked for.

    Args:
        spec: A name, a ``.safetensors`` file, or a blend ``flute:0.7,trumpet:0.3``.
        model_sha256: Checksum of the model that will play it; None skips the check.

    Raises:
        TimbreError: Unknown (names the nearest), damaged, foreign, from a future version, made for
            another model, or a blend with impossible weights.
    """
    parts = [_weighted(part, spec) for part in spec.split(",")]
    timbres = [(load(_locate(name)), weight) for name, weight in parts]
    timbre = timbres[0][0] if len(timbres) == 1 else blend(timbres)
    if model_sha256 is not None and timbre.model_sha256 != model_sha256:
        raise TimbreError(
            f"timbre '{timbre.name}' was made for model '{timbre.model}' "
            f"({timbre.model_sha256[:8] or 'no checksum'}), not for this one ({model_sha256[:8]}); "
            "capture it again with this model (v3audio capture NAME FILE)"
        )
    return timbre


def blend(parts: Sequence[tuple[Timbre, float]]) -> Timbre:
    """Weighted mean of timbres of one model.

    Args:
        parts: Timbres and their weights, which need not add up to 1.

    Returns:
        A timbre whose numbers are the weighted means; its note range spans all of theirs. Extras
        survive where all parts have them in the same shape.

    Raises:
        TimbreError: A weight is negative or not finite, all are 0, or the models differ.
    """
    import numpy as np

    names = ",".join(f"{t.name}:{w:g}" for t, w in parts)
    total = math.fsum(w for _, w in parts)
    if not parts or not math.isfinite(total) or total <= 0 or any(w < 0 for _, w in parts):
        raise TimbreError(
            f"blend '{names}': weights must be 0 or more and not all 0, as in flute:0.7,trumpet:0.3"
        )
    first = parts[0][0]
    for other, _ in parts[1:]:
        if other.model_sha256 != first.model_sha256:
            raise TimbreError(
                f"blend '{names}': '{first.name}' was made for model '{first.model}' and "
                f"'{other.name}' for '{other.model}'; blend timbres of one model"
            )
    weights = [w / total for _, w in parts]
    timbres = [t for t, _ in parts]
    colours = [(t.colour, w) for t, w in zip(timbres, weights, strict=True) if t.colour is not None]
    if len({colour.shape for colour, _ in colours}) > 1:
        raise TimbreError(f"blend '{names}': their colours belong to different renderers")
    return Timbre(
        name=names,
        style=np.asarray(_mean([t.style for t in timbres], weights), dtype=np.float32),
        note_range=(min(t.note_range[0] for t in timbres), max(t.note_range[1] for t in timbres)),
        model=first.model,
        model_sha256=first.model_sha256,
        gain_db=_mean([t.gain_db for t in timbres], weights),
        decay_db_per_s=_mean([t.decay_db_per_s for t in timbres], weights),
        source="; ".join(dict.fromkeys(t.source for t in timbres if t.source)),
        licence="; ".join(dict.fromkeys(t.licence for t in timbres if t.licence)),
        extras=_mean_table([t.extras for t in timbres], weights),
        colour=_mean(*zip(*colours, strict=True)) if colours else None,
    )


def morph(a: Timbre, b: Timbre, amount: float) -> Timbre:
    """A timbre on the way from `a` (amount 0, then exactly `a`) to `b` (amount 1).

    Raises:
        TimbreError: An amount outside 0..1, or timbres of two models.
    """
    _check_share("morph amount", amount)
    return _blend_parts([(a, 1.0 - amount), (b, amount)])


def four_corners(corners: tuple[Timbre, Timbre, Timbre, Timbre], x: float, y: float) -> Timbre:
    """A timbre in a square of four; in a corner exactly that one.

    Args:
        corners: North-west, north-east, south-west, south-east.
        x: 0 (west) .. 1 (east).
        y: 0 (south) .. 1 (north), as pads count.

    Raises:
        TimbreError: A place outside the square, or timbres of different models.
    """
    _check_share("morph x", x)
    _check_share("morph y", y)
    weights = ((1.0 - x) * y, x * y, (1.0 - x) * (1.0 - y), x * (1.0 - y))
    return _blend_parts(list(zip(corners, weights, strict=True)))


def _blend_parts(parts: list[tuple[Timbre, float]]) -> Timbre:
    """Blend of those that have a weight; one alone stays itself."""
    parts = [(timbre, weight) for timbre, weight in parts if weight > 0.0]
    return parts[0][0] if len(parts) == 1 else blend(parts)


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise TimbreError(f"{name} = {value}: expected 0 to 1")


def load_all(model_sha256: str) -> dict[str, Timbre]:
    """Every timbre that this model can play, by name and in order; damaged ones are left out."""
    loaded = {}
    for entry in list_timbres():
        if entry.info is not None and entry.info.model_sha256 == model_sha256:
            try:
                loaded[entry.name] = load(entry.path)
            except TimbreError:  # a good header before a damaged body
                continue
    return loaded


def save(timbre: Timbre, path: Path | str) -> Path:
    """Write a timbre to a file, which is replaced only when complete.

    Raises:
        TimbreError: The system refuses, or the file would not be found again (other suffix).
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    if path.suffix != SUFFIX:
        raise TimbreError(f"{path}: a timbre's file ends in {SUFFIX}; name it {path.stem}{SUFFIX}")
    table = asdict(timbre)
    del table["style"], table["colour"]
    arrays = {"style": timbre.style}
    if timbre.colour is not None:
        arrays["colour"] = timbre.colour.astype("float16")
    table |= {f"{name}_sha256": _checksum(array) for name, array in arrays.items()}
    # one key only: safetensors writes several in any order, and equal timbres shall be equal files
    data = to_bytes(arrays, {KIND: json.dumps(table)})
    with atomic_write(path, TimbreError) as temporary:
        temporary.write_bytes(data)
    return path


def save_as_users(timbre: Timbre) -> Path:
    """Write a timbre into the user's folder under its own name, replacing one of theirs.

    Raises:
        TimbreError: Not a name for a file, or the system refuses.
    """
    check_name(timbre.name)
    folder = user_timbres_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise TimbreError(
            f"{folder}: cannot be made ({e.strerror}); "
            "set V3AUDIO_HOME to a folder you may write to"
        ) from None
    return save(timbre, folder / f"{timbre.name}{SUFFIX}")


def load(path: Path | str) -> Timbre:
    """Read a timbre's file.

    Raises:
        TimbreError: Missing, damaged, a pickle, foreign, or from a future version.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    path = Path(path)
    info, checksums = _read_header(path)
    try:
        arrays: dict[str, NDArray[Any]] = from_bytes(path.read_bytes())
    except (SafetensorError, OSError):
        raise _damaged(path) from None
    types = {"style": np.float32, "colour": np.float16}
    if {name: _checksum(array) for name, array in arrays.items()} != checksums or any(
        array.dtype != types[name] for name, array in arrays.items()
    ):
        raise _damaged(path)
    if info.format == 2 and "colour" in arrays:
        arrays["colour"] = np.pad(arrays["colour"], ((0, 1), (0, 0)))
    fields: dict[str, Any] = {name: getattr(info, name) for name in TimbreInfo.__slots__}
    return Timbre(**fields | arrays)


def read_info(path: Path | str) -> TimbreInfo:
    """Read a timbre file's header only (same errors as `load`)."""
    return _read_header(Path(path))[0]


def import_file(path: Path | str) -> Path:
    """Copy a timbre's file, checked, into the user's folder under the name it carries.

    Raises:
        TimbreError: What `load` refuses, or the user has another timbre of that name.
    """
    timbre = load(path)
    target = user_timbres_dir() / f"{check_name(timbre.name)}{SUFFIX}"
    if target.exists() and target.read_bytes() != Path(path).read_bytes():
        raise TimbreError(
            f"you already have another timbre '{timbre.name}' ({target}); move that one away first"
        )
    return save_as_users(timbre)


def export_file(name: str, path: Path | str) -> Path:
    """Write a named timbre, or a blend, to a file of its own; a blend is called by the file's name.

    Raises:
        TimbreError: What `find` and `save` refuse.
    """
    path, timbre = Path(path), find(name)
    if not _NAME.fullmatch(timbre.name):
        timbre = replace(timbre, name=check_name(path.stem))
    return save(timbre, path)


def _catalogue() -> dict[str, tuple[Path, bool]]:
    """Path and whether shipped, by name."""
    found: dict[str, tuple[Path, bool]] = {}
    for folder, is_shipped in ((presets_dir() / "timbres", True), (user_timbres_dir(), False)):
        if folder.is_dir():
            for path in folder.glob(f"*{SUFFIX}"):
                if _NAME.fullmatch(path.stem):
                    found[path.stem] = (path, is_shipped)
    return found


def _try_info(path: Path) -> tuple[TimbreInfo | None, str]:
    try:
        return read_info(path), ""
    except TimbreError as e:
        return None, str(e)


def _locate(name: str) -> Path:
    is_path = name.endswith(SUFFIX) or "/" in name or os.sep in name
    return Path(name).expanduser() if is_path else path_of(name)


def _weighted(part: str, spec: str) -> tuple[str, float]:
    """``"flute:0.7"`` -> name and weight, which is 1 where none is given."""
    name, colon, weight = part.strip().rpartition(":")
    if not colon or weight.endswith(SUFFIX):  # no weight, or the colon of a path
        name, weight = part.strip(), "1"
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value) or value < 0:
        raise TimbreError(
            f"timbre '{spec}': cannot read '{part.strip()}'; wanted NAME or NAME:WEIGHT with a "
            "weight of 0 or more, as in flute:0.7,trumpet:0.3"
        )
    return name, value


def _read_header(path: Path) -> tuple[TimbreInfo, dict[str, str]]:
    """Metadata and the arrays' checksums; safetensors is 8 bytes of length, JSON, then the data."""
    if path.is_dir():
        raise TimbreError(f"{path}: is a folder, wanted a timbre's {SUFFIX} file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise TimbreError(f"{path}: {size} bytes are too many for a timbre; wrong file?")
            head = file.read(8)
            if head[:1] == b"\x80" or head[:2] == b"PK":
                raise TimbreError(
                    f"{path}: is a pickle, which can run code and is never read; "
                    "make the timbre again (v3audio capture NAME FILE)"
                )
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if length > size - 8:
                raise _damaged(path)
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise TimbreError(f"{path}: no such file (see the timbres: v3audio timbres list)") from None
    except OSError as e:
        raise TimbreError(f"{path}: cannot be read ({e.strerror})") from None
    except ValueError:  # neither JSON nor text
        raise _damaged(path) from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or KIND not in metadata:
        raise TimbreError(f"{path}: is a safetensors file but not a timbre of v3audio")
    try:
        table = json.loads(metadata[KIND])
        version = table.get("format")
        if type(version) is int and version > FORMAT:
            raise TimbreError(
                f"{path}: is in format {version}, this v3audio reads up to {FORMAT}; "
                "upgrade it (pip install -U v3audio)"
            )
        checksums = {"style": str(table.pop("style_sha256"))}
        if "colour_sha256" in table:
            checksums["colour"] = str(table.pop("colour_sha256"))
        return from_table(TimbreInfo, table), checksums
    except (ConfigError, KeyError, ValueError, AttributeError) as e:
        raise TimbreError(f"{path}: damaged, or written by another program ({e})") from None


def _damaged(path: Path) -> TimbreError:
    return TimbreError(f"{path}: damaged, or no timbre at all; copy it again, or capture it anew")


def _checksum(array: NDArray[np.floating[Any]]) -> str:
    import numpy as np

    little = array.dtype.newbyteorder("<")
    return hashlib.sha256(np.ascontiguousarray(array, little).tobytes()).hexdigest()


def _mean(values: Sequence[Any], weights: Sequence[float]) -> Any:
    return sum(w * v for w, v in zip(weights, values, strict=True))


def _mean_table(tables: Sequence[dict[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """Weighted means of the values that all tables have: numbers, and lists of equal shape."""
    import numpy as np

    mixed: dict[str, Any] = {}
    for key in _shared_keys(tables):
        values = [t[key] for t in tables]
        if all(isinstance(v, dict) for v in values):
            mixed[key] = _mean_table(values, weights)
            continue
        try:
            arrays = [np.asarray(v, dtype=np.float64) for v in values]
        except (TypeError, ValueError):
            continue  # words have no mean
        if len({a.shape for a in arrays}) == 1:
            mixed[key] = _mean(arrays, weights).tolist()
    return mixed


def _shared_keys(tables: Sequence[dict[str, Any]]) -> Iterator[str]:
    return (key for key in tables[0] if all(key in t for t in tables[1:]))
