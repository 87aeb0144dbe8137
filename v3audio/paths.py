"""Where things live on disk, and the one way a file is replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from v3audio.errors import V3AudioError


def user_home() -> Path:
    """Folder of the user's timbres and models (`V3AUDIO_HOME` overrides); may not exist yet."""
    override = os.environ.get("V3AUDIO_HOME")
    return Path(override).expanduser() if override else Path(platformdirs.user_data_dir("v3audio"))


def presets_dir() -> Path:
    """Folder of the shipped models, timbres and demo.

    It is inside the installed package, or beside it in a checkout.

    Raises:
        V3AudioError: Neither exists, so the installation is not whole.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "presets", package.parent / "presets"):
        if folder.is_dir():
            return folder
    raise V3AudioError(
        f"{package / 'presets'}: the shipped presets are missing; "
        "reinstall v3audio (pip install --force-reinstall v3audio)"
    )


def check_target(path: Path | str, error: type[V3AudioError] = V3AudioError) -> Path:
    """Refuse, before long work, a file that could not be written after it.

    Returns:
        Where the file will really be: links followed.

    Raises:
        V3AudioError: (or `error`) there is no such folder, or `path` is a folder or a device.
    """
    path = Path(path)
    target = path.resolve()
    if not target.parent.is_dir():
        raise error(f"{path}: no such folder; make it first (mkdir -p '{target.parent}')")
    if target.is_dir():
        raise error(f"{path}: is a folder; give the name of a file in it")
    if target.exists() and not target.is_file():
        raise error(f"{path}: is a device, not a file; give the name of a file")
    return target


@contextlib.contextmanager
def atomic_write(path: Path | str, error: type[V3AudioError] = V3AudioError) -> Iterator[Path]:
    """Write a file beside its target and rename it, so that a crash leaves the old one.

    Use as ``with atomic_write("take.mid") as temporary: ...`` and write to `temporary`, which
    exists, is empty and has the suffix of `path`. It replaces `path` when the block ends well and
    is removed when it does not, whatever was raised.

    Args:
        path: The file to make or replace. Its folder must exist.
        error: What to raise when the system refuses.

    Raises:
        V3AudioError: (or `error`) the folder is missing or read-only, the disk is full, `path` is a
            folder or a device.
    """
    target = check_target(path, error)
    temporary = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(6)}{target.suffix}")
    try:
        # os.open rather than mkstemp: the result keeps the permissions that any new file gets
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        with contextlib.suppress(OSError):  # some systems cannot sync a folder; the rename stands
            _sync(target.parent)
    except OSError as e:
        raise error(write_refusal(path, e)) from e
    finally:
        temporary.unlink(missing_ok=True)


def write_refusal(path: Path | str, e: OSError) -> str:
    """One line for the user about a write that the system refused."""
    folder = Path(path).resolve().parent
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{path}: the disk is full; free some space, or write elsewhere. Nothing was changed"
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path}: {folder} is read-only; choose a folder you may write to"
    return f"{path}: cannot be written ({e.strerror or e})"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def demo_recording() -> Path:
    """The shipped recording that `v3audio demo` plays.

    Raises:
        V3AudioError: It is missing.
    """
    folder = presets_dir() / "demo"
    found = sorted(p for p in folder.glob("*") if p.suffix in (".flac", ".wav"))
    if not found:
        raise V3AudioError(
            f"{folder}: the demo recording is missing; "
            "reinstall v3audio (pip install --force-reinstall v3audio)"
        )
    return found[0]
