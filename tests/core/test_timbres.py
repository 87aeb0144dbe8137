from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from v3audio import timbres
from v3audio.errors import TimbreError
from v3audio.geometry import Geometry
from v3audio.glides import TimbreGlide
from v3audio.renderer import COLOUR_ROWS
from v3audio.timbres import Timbre

MODEL = "ab" * 32


def make(name: str = "reed", seed: int = 0, **fields: Any) -> Timbre:
    style = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
    given = {"note_range": (58, 91), "model": "default", "model_sha256": MODEL} | fields
    return Timbre(name=name, style=style, **given)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Presets of our own: oboe and flute."""
    folder = tmp_path / "presets" / "timbres"
    folder.mkdir(parents=True)
    monkeypatch.setattr(timbres, "presets_dir", lambda: tmp_path / "presets")
    for seed, name in enumerate(("oboe", "flute")):
        timbres.save(make(name, seed), folder / f"{name}.safetensors")
    return folder


def test_a_file_gives_back_all_of_a_timbre(tmp_path: Path) -> None:
    timbre = make(gain_db=-2.5, decay_db_per_s=12.0, source="own", licence="CC0-1.0",
                  extras={"anchors": [[60, 1.5]], "words": "x"})  # fmt: skip
    path = timbres.save(timbre, tmp_path / "reed.safetensors")
    again = timbres.load(path)
    np.testing.assert_array_equal(again.style, timbre.style)
    assert again.style.dtype == np.float32
    info = timbres.read_info(path)
    for name in timbres.TimbreInfo.__slots__:
        assert getattr(again, name) == getattr(timbre, name) == getattr(info, name)
    assert path.stat().st_size < 4000


def test_the_style_has_the_models_dimensions() -> None:
    assert Geometry().style_dim == timbres.STYLE_DIM


@pytest.mark.parametrize("style", [np.zeros(15), np.zeros((1, 16)), np.full(16, np.nan)])
def test_a_style_is_16_finite_numbers(style: np.ndarray) -> None:
    with pytest.raises(TimbreError, match="wanted \\(16,\\) finite numbers"):
        replace(make(), style=style)


def test_lookup_by_name_and_by_file(shipped: Path) -> None:
    for spec in ("oboe", "Oboe", str(shipped / "oboe.safetensors")):
        assert timbres.find(spec, MODEL).name == "oboe"


def test_the_users_timbres_stand_beside_the_shipped(shipped: Path) -> None:
    path = timbres.save_as_users(make("mine"))
    assert path == timbres.user_timbres_dir() / "mine.safetensors"
    assert [(e.name, e.is_shipped) for e in timbres.list_timbres()] == [
        ("flute", True), ("mine", False), ("oboe", True),
    ]  # fmt: skip
    assert timbres.find("mine").name == "mine"


def test_a_damaged_file_does_not_hide_the_others(shipped: Path) -> None:
    (shipped / "flute.safetensors").write_bytes(b"junk")
    flute, oboe = timbres.list_timbres()
    assert flute.info is None
    assert "damaged" in flute.problem
    assert oboe.info is not None


def test_an_unknown_name_gets_the_nearest(shipped: Path) -> None:
    with pytest.raises(TimbreError, match=r"no timbre 'obo'; did you mean 'oboe'\?.*timbres list"):
        timbres.find("obo")


# --- blends --------------------------------------------------------------------------------------


def test_a_blend_is_the_weighted_mean(shipped: Path) -> None:
    common = {"licence": "CC0-1.0"}
    extras_a = {"x": 1.0, "only": 2, "rows": [1, 2], "deep": {"y": 4}, "word": "u"}
    extras_b = {"x": 3.0, "rows": [3, 4], "deep": {"y": 0}, "word": "v"}
    a = make("a", 1, gain_db=2.0, note_range=(50, 80), decay_db_per_s=10, extras=extras_a, **common)
    b = make("b", 2, gain_db=-2.0, note_range=(60, 90), extras=extras_b, **common)
    timbres.save_as_users(a), timbres.save_as_users(b)
    mixed = timbres.find("a:3, b:1", MODEL)
    np.testing.assert_allclose(mixed.style, 0.75 * a.style + 0.25 * b.style, rtol=1e-6)
    assert mixed.gain_db == pytest.approx(1.0)
    assert mixed.decay_db_per_s == pytest.approx(7.5)
    assert mixed.note_range == (50, 90)
    assert mixed.licence == "CC0-1.0"
    assert mixed.extras == {"x": 1.5, "rows": [1.5, 2.5], "deep": {"y": 3.0}}
    assert mixed.name == "a:3,b:1"


def test_one_alone_keeps_itself_and_equal_parts_need_no_weight(shipped: Path) -> None:
    oboe, flute = timbres.find("oboe"), timbres.find("flute")
    np.testing.assert_array_equal(timbres.find("oboe:0.3").style, oboe.style)
    np.testing.assert_allclose(
        timbres.find("oboe,flute").style, (oboe.style + flute.style) / 2, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("oboe:-1,flute:1", "cannot read 'oboe:-1'"),
        ("oboe:x,flute:1", "cannot read 'oboe:x'"),
        ("oboe:nan,flute", "cannot read 'oboe:nan'"),
        ("oboe:inf,flute", "cannot read 'oboe:inf'"),
        ("oboe:0,flute:0", "not all 0"),
        ("oboe,,flute", "cannot read ''"),
        ("", "cannot read ''"),
        ("oboe:0.5,flut:0.5", "no timbre 'flut'; did you mean 'flute'"),
    ],
)
def test_blends_it_refuses(shipped: Path, spec: str, said: str) -> None:
    with pytest.raises(TimbreError, match=said):
        timbres.find(spec)


def test_timbres_of_two_models_do_not_blend(shipped: Path) -> None:
    timbres.save_as_users(make("other", model="old", model_sha256="cd" * 32))
    with pytest.raises(TimbreError, match="'oboe' was made for model 'default' and 'other' for"):
        timbres.find("oboe,other")


def test_a_morph_goes_from_one_to_the_other(shipped: Path) -> None:
    a, b = make("a", 1, gain_db=2.0, decay_db_per_s=8.0), make("b", 2, gain_db=-2.0)
    assert timbres.morph(a, b, 0.0) is a
    assert timbres.morph(a, b, 1.0) is b
    half = timbres.morph(a, b, 0.25)
    np.testing.assert_allclose(half.style, 0.75 * a.style + 0.25 * b.style, rtol=1e-5, atol=1e-6)
    assert (half.gain_db, half.decay_db_per_s) == pytest.approx((1.0, 6.0))
    for amount in (-0.1, 1.1, float("nan")):
        with pytest.raises(TimbreError, match="expected 0 to 1"):
            timbres.morph(a, b, amount)
    with pytest.raises(TimbreError, match="blend timbres of one model"):
        timbres.morph(a, make("c", model_sha256="cd" * 32), 0.5)


def test_four_corners_are_themselves_and_the_middle_is_all_of_them() -> None:
    corners = tuple(make(name, seed, gain_db=seed) for seed, name in enumerate("abcd"))
    north_west, north_east, south_west, south_east = corners
    assert timbres.four_corners(corners, 0.0, 1.0) is north_west
    assert timbres.four_corners(corners, 1.0, 1.0) is north_east
    assert timbres.four_corners(corners, 0.0, 0.0) is south_west
    assert timbres.four_corners(corners, 1.0, 0.0) is south_east
    middle = timbres.four_corners(corners, 0.5, 0.5)
    styles = np.stack([t.style for t in corners])
    np.testing.assert_allclose(middle.style, styles.mean(0), rtol=1e-5, atol=1e-6)
    assert timbres.four_corners(corners, 0.25, 0.0).gain_db == pytest.approx(2.25)
    with pytest.raises(TimbreError, match="morph y = 2: expected 0 to 1"):
        timbres.four_corners(corners, 0.0, 2)


def test_all_timbres_of_a_model(shipped: Path) -> None:
    timbres.save_as_users(make("mine"))
    timbres.save_as_users(make("other", model_sha256="cd" * 32))
    timbres.save_as_users(make("spoilt"))
    _flip_a_bit(timbres.path_of("spoilt"))
    loaded = timbres.load_all(MODEL)
    assert list(loaded) == ["flute", "mine", "oboe"]
    np.testing.assert_array_equal(loaded["oboe"].style, timbres.find("oboe").style)


# --- refusals ------------------------------------------------------------------------------------


def test_a_timbre_of_another_model_is_refused(shipped: Path) -> None:
    with pytest.raises(TimbreError, match=r"made for model 'default' \(abababab\), not for this"):
        timbres.find("oboe", "cd" * 32)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the metadata of a timbre's file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def edit_timbre(**fields: Any) -> Callable[[Path], None]:
    def change(metadata: dict[str, Any]) -> None:
        metadata[timbres.KIND] = json.dumps(json.loads(metadata[timbres.KIND]) | fields)

    return lambda path: edit(path, change)


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-5]), "damaged"),
    "head only": (lambda p: p.write_bytes(p.read_bytes()[:5]), "damaged"),
    "empty": (lambda p: p.write_bytes(b""), "damaged"),
    "one bit": (_flip_a_bit, "damaged"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 4), "damaged"),
    "huge header": (lambda p: p.write_bytes(struct.pack("<Q", 2**60) + b"{}"), "damaged"),
    "no json": (lambda p: p.write_bytes(struct.pack("<Q", 2) + b"xx"), "damaged"),
    "json list": (lambda p: p.write_bytes(struct.pack("<Q", 2) + b"[]"), "not a timbre"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"style": [0.0] * 16})), "is a pickle"),
    "torch file": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(100)), "is a pickle"),
    "foreign": (lambda p: save_file({"w": np.zeros(3, np.float32)}, p), "not a timbre of v3audio"),
    "too big": (lambda p: p.write_bytes(bytes(2_000_000)), "too many for a timbre"),
    "future": (edit_timbre(format=4), "is in format 4, this v3audio reads up to 3"),
    "no name": (edit_timbre(name=3), "name = 3: expected text"),
    "unknown field": (edit_timbre(shine=1), "unknown name 'shine'"),
    "no metadata": (lambda p: edit(p, lambda m: m.clear()), "not a timbre"),
    "no checksum": (edit_timbre(style_sha256=None), "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_files_it_refuses(tmp_path: Path, kind: str) -> None:
    path = timbres.save(make(), tmp_path / "reed.safetensors")
    damage, said = DAMAGES[kind]
    damage(path)
    with pytest.raises(TimbreError, match=said) as refusal:
        timbres.find(str(path))
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TimbreError, match="pickle"):
        timbres.load(path)
    assert not (tmp_path / "exploded").exists()


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TimbreError, match="no such file"):
        timbres.find(str(tmp_path / "none.safetensors"))
    with pytest.raises(TimbreError, match="is a folder"):
        timbres.load(tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a.b", "a b", "a:1", "-a", "x" * 65, "\u00fc"])
def test_names_that_no_file_is_made_of(name: str, home: Path) -> None:
    with pytest.raises(TimbreError, match="cannot be the name of a timbre"):
        timbres.save_as_users(make(name))
    assert not list(home.iterdir())


def test_a_name_is_never_a_path(shipped: Path) -> None:
    """A file outside the timbres' folders is reached by its path only, not by a crafted name."""
    timbres.save(make("secret"), shipped.parent / "secret.safetensors")
    with pytest.raises(TimbreError, match="no timbre"):
        timbres.path_of("../secret")


def test_new_names_leave_the_shipped_alone(shipped: Path) -> None:
    assert timbres.check_new_name("mine") == "mine"
    with pytest.raises(TimbreError, match="'oboe' is a shipped timbre; choose another"):
        timbres.check_new_name("oboe")


# --- exchange ------------------------------------------------------------------------------------


def test_export_and_import(shipped: Path, tmp_path: Path) -> None:
    given = timbres.export_file("oboe:0.5,flute:0.5", tmp_path / "mix.safetensors")
    path = timbres.import_file(given)
    assert timbres.load(path).name == "mix"
    assert timbres.import_file(given) == path  # the same again is no conflict
    timbres.save(make("mix", seed=9), given)
    with pytest.raises(TimbreError, match="you already have another timbre 'mix'"):
        timbres.import_file(given)
    with pytest.raises(TimbreError, match=r"ends in \.safetensors"):
        timbres.export_file("oboe", tmp_path / "oboe.bin")


def test_a_carried_name_cannot_lead_out_of_the_folder(tmp_path: Path, home: Path) -> None:
    path = timbres.save(make(), tmp_path / "x.safetensors")
    edit_timbre(name="../../evil")(path)
    with pytest.raises(TimbreError, match="cannot be the name"):
        timbres.import_file(path)
    assert not list(home.iterdir())


def test_a_home_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("V3AUDIO_HOME", str(tmp_path / "file"))
    with pytest.raises(TimbreError, match="set V3AUDIO_HOME"):
        timbres.save_as_users(make())


# -- colours ---------------------------------------------------------------------------------------


def coloured(name: str = "mine", seed: int = 1, n: int = 140) -> Timbre:
    rows = np.random.default_rng(seed).standard_normal((COLOUR_ROWS, n)).astype(np.float32)
    return replace(make(name, seed), colour=rows)


def test_a_colour_is_kept_in_format_3_and_a_file_without_one_stays_format_1(tmp_path: Path) -> None:
    plain, mine = make(), coloured()
    for timbre, version in ((plain, 1), (mine, 3)):
        path = timbres.save(timbre, tmp_path / f"{timbre.name}.safetensors")
        again = timbres.load(path)
        assert again.format == timbre.format == timbres.read_info(path).format == version
        np.testing.assert_array_equal(again.voice, timbre.voice)
        assert path.stat().st_size < 16_000
    assert len(plain.voice) == 16 and len(mine.voice) == 16 + COLOUR_ROWS * 140
    assert replace(mine, colour=None).format == 1


def test_a_colour_of_format_2_knows_no_loudness(tmp_path: Path) -> None:
    path = timbres.save(coloured(), tmp_path / "mine.safetensors")
    arrays = load_file(path)
    old = np.ascontiguousarray(arrays["colour"][:-1])
    with safe_open(path, "numpy") as file:
        table = json.loads(file.metadata()[timbres.KIND])
    table |= {"format": 2, "colour_sha256": hashlib.sha256(old.tobytes()).hexdigest()}
    save_file({"style": arrays["style"], "colour": old}, path, {timbres.KIND: json.dumps(table)})
    again = timbres.load(path)
    assert again.colour is not None and again.format == 3
    np.testing.assert_array_equal(again.colour[:-1], old.astype(np.float32))
    assert not again.colour[-1].any()


@pytest.mark.parametrize("colour", [np.zeros((43, 140)), np.zeros(140), np.full((44, 2), np.inf)])
def test_a_colour_has_a_row_for_each_pitch_and_finite_numbers(colour: np.ndarray) -> None:
    with pytest.raises(TimbreError, match="its colour has shape"):
        replace(make(), colour=colour)


def test_a_damaged_or_missing_colour_is_refused(tmp_path: Path) -> None:
    path = timbres.save(coloured(), tmp_path / "mine.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TimbreError, match="damaged"):
        timbres.load(path)
    header = data[8 : 8 + struct.unpack("<Q", data[:8])[0]].decode()
    kept = json.loads(header)["__metadata__"]
    save_file({"style": coloured().style}, path, kept)
    with pytest.raises(TimbreError, match="damaged"):
        timbres.load(path)


def test_a_blend_takes_of_each_colour_its_share() -> None:
    plain, mine, yours = make("reed"), coloured(), coloured("yours", 2)
    assert mine.colour is not None and yours.colour is not None
    half = timbres.morph(plain, mine, 0.5)
    assert half.colour is not None
    np.testing.assert_allclose(half.colour, 0.5 * mine.colour, atol=2e-3)
    both = timbres.blend([(mine, 3), (yours, 1)])
    assert both.colour is not None
    np.testing.assert_allclose(both.colour, 0.75 * mine.colour + 0.25 * yours.colour, atol=3e-3)
    assert timbres.morph(plain, mine, 0.0) is plain
    with pytest.raises(TimbreError, match="different renderers"):
        timbres.blend([(mine, 1), (coloured("other", 3, n=20), 1)])


def test_a_glide_passes_between_timbres_with_and_without_a_colour() -> None:
    plain, mine = make("reed"), coloured()
    glide = TimbreGlide(plain)
    for target, before in ((mine, plain), (plain, mine)):
        glide.go(target, 4)
        longest = max(len(plain.voice), len(mine.voice))
        start, end = (np.pad(t.voice, (0, longest - len(t.voice))) for t in (before, target))
        for step in (1, 2, 3):
            glide.step()
            np.testing.assert_allclose(glide.style, start + step / 4 * (end - start), atol=1e-6)
        glide.step()
        np.testing.assert_array_equal(glide.style, target.voice)
