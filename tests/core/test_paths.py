from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import v3audio
from v3audio import paths
from v3audio.errors import AudioFileError, V3AudioError

ROOT = Path(v3audio.__file__).parents[1]


def test_user_home_can_be_moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.user_home() == home
    monkeypatch.delenv("V3AUDIO_HOME")
    assert paths.user_home().name == "v3audio"


def test_presets_are_found_beside_the_package_in_a_checkout() -> None:
    assert paths.presets_dir() == ROOT / "presets"


def test_presets_are_found_inside_an_installed_wheel(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    subprocess.run([*pip, *build, str(tmp_path / "dist"), _copy_of_sources(tmp_path)], check=True)
    (wheel,) = (tmp_path / "dist").glob("v3audio-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("v3audio", "training", "realtime"):
        sources = {str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*.py")}
        assert sources <= held
    recipes = {str(p.relative_to(ROOT)) for p in (ROOT / "training").rglob("*.toml")}
    presets = {"v3audio/" + str(p.relative_to(ROOT)) for p in (ROOT / "presets").rglob("*.*")}
    assert recipes | presets | {"v3audio/py.typed"} <= held
    assert not any(name.startswith(("tests/", "presets/")) for name in held)

    target = tmp_path / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True)
    said = subprocess.run(
        # -S keeps this environment's own (editable) v3audio away; its libraries come by path
        [sys.executable, "-S", "-c", "from v3audio.paths import presets_dir; print(presets_dir())"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
        env=env | {"PYTHONPATH": os.pathsep.join([str(target), _site_packages()])},
    )  # fmt: skip
    found = Path(said.stdout.strip())
    assert found == target / "v3audio" / "presets"
    shipped = {p.relative_to(ROOT / "presets") for p in (ROOT / "presets").rglob("*.*")}
    assert shipped <= {p.relative_to(found) for p in found.rglob("*.*")}


def _copy_of_sources(tmp_path: Path) -> str:
    """What a build needs, linked elsewhere, so that it leaves no build folder in the checkout."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "v3audio", "training", "realtime",
                 "presets"):  # fmt: skip
        (source / name).symlink_to(ROOT / name)
    return str(source)


def _site_packages() -> str:
    import platformdirs

    return str(Path(platformdirs.__file__).parents[1])


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "v3audio" / "paths.py"))
    with pytest.raises(V3AudioError, match="reinstall"):
        paths.presets_dir()


# --- atomic_write --------------------------------------------------------------------------------


def test_a_file_is_replaced_at_the_end_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with paths.atomic_write(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with paths.atomic_write(tmp_path / "ours"):
        pass
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plain", "ours")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_whatever_is_raised_leaves_the_old_file(
    tmp_path: Path, raised: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(raised), paths.atomic_write(target) as temporary:
        temporary.write_text("half")
        raise raised
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "is read-only"),
        (errno.EACCES, "is read-only"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_the_systems_refusals_are_one_clear_line(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(AudioFileError, match=said), \
            paths.atomic_write(tmp_path / "a.wav", AudioFileError) as temporary:  # fmt: skip
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_targets_it_refuses(tmp_path: Path) -> None:
    for target, said in (
        (tmp_path / "missing" / "a.txt", "no such folder; make it first"),
        (tmp_path, "is a folder"),
        (Path(os.devnull), "is a device"),
    ):
        with pytest.raises(V3AudioError, match=said), paths.atomic_write(target):
            pass
    assert not list(tmp_path.iterdir())


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with paths.atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
