"""The kit's files stand as the table gives them, and the pages say only what there is."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from realtime import daw_kit
from realtime.controls import BY_ADDRESS, BY_ALIAS

PAGES = sorted((Path(__file__).parents[2] / "docs/daw").glob("*.md"))


@pytest.mark.parametrize("name", daw_kit.files())
def test_shipped_file_is_what_the_table_gives(name, kit) -> None:
    shipped, wanted = (kit / name).read_bytes(), daw_kit.files()[name]
    if name.endswith(".tosc"):  # zlib's bytes differ from one build of it to another
        shipped, wanted = zlib.decompress(shipped), zlib.decompress(wanted)
    assert shipped == wanted, "write them anew: python -m realtime.daw_kit"


def test_main_writes_them(kit, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(daw_kit, "presets_dir", lambda: tmp_path)
    for name in daw_kit.files():
        (tmp_path / "daw" / name).parent.mkdir(parents=True, exist_ok=True)
    daw_kit.main()
    for name, data in daw_kit.files().items():
        assert (tmp_path / "daw" / name).read_bytes() == data


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_addresses_files_and_pages_that_are_there(page, kit) -> None:
    text = page.read_text()
    for address in re.findall(r"(?<![\w.<>])/v3/[a-z_/]+[a-z](?![\w*/])", text):
        assert address in BY_ADDRESS or address in BY_ALIAS, address
    for path in re.findall(r"presets/daw/[\w./-]*[\w/]", text):
        assert (kit.parent.parent / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    for address, tags, words in re.findall(r"oscsend \S+ 9720 (\S+) ([ifs]+) ([^`\n]+)", text):
        args = [
            {"i": int, "f": float, "s": str}[t](w) for t, w in zip(tags, words.split(), strict=True)
        ]
        control = BY_ADDRESS[address]
        assert control.types == tags
        assert control.kind == "t" or control.read(args) == tuple(args)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_types_only_what_v3audio_takes(page) -> None:
    import typer.main

    from v3audio.cli import app

    commands = typer.main.get_command(app).commands
    for line in re.findall(
        r"\bv3audio (?:live|devices|latency|timbres|doctor)\b[^`#\n]*", page.read_text()
    ):
        _, name, *words = line.split()
        known = {opt for parameter in commands[name].params for opt in parameter.opts}
        used = {word for word in words if word.startswith("--")}
        assert used <= known, f"{line}: {used - known}"
