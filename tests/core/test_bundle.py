"""Model folders: a round trip, and every way in which one is refused."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from v3audio.bundle import (
    META,
    WEIGHTS,
    Bundle,
    find_model,
    load_bundle,
    save_model,
    save_renderer,
    write_meta,
)
from v3audio.code_map import CodeMap
from v3audio.errors import BundleError
from v3audio.geometry import ModelConfig
from v3audio.model import V3Model
from v3audio.renderer import RendererConfig
from v3audio.renderer_net import RendererNet

CONFIG = ModelConfig(codebook_size=16, hidden=16, partial_hidden=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    bundle = save_model(tmp_path / "mine", V3Model(CONFIG), made_by={"seed": 3}, metrics={"x": 0.5})
    write_meta(
        Bundle(
            bundle.folder,
            bundle.config,
            CodeMap([60] * 16, 0.25),
            bundle.checksum,
            bundle.made_by,
            bundle.metrics,
        )
    )
    return tmp_path / "mine"


def edit(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps(meta | changes))


def test_round_trip(folder):
    torch.manual_seed(0)
    original = V3Model(CONFIG)
    bundle = load_bundle(folder)
    loaded = bundle.load_model()
    assert bundle.code_map == CodeMap([60] * 16, 0.25)
    assert (bundle.made_by, bundle.metrics) == ({"seed": 3}, {"x": 0.5})
    assert loaded.config == CONFIG
    for name, value in original.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_found_by_name_in_the_users_home(folder, home):
    (home / "models").mkdir()
    folder.rename(home / "models" / "mine")
    assert load_bundle("mine").name == "mine"
    with pytest.raises(BundleError, match="did you mean 'mine'"):
        find_model("mien")


def refuse_flipped_byte(folder):
    blob = bytearray((folder / WEIGHTS).read_bytes())
    blob[-1] ^= 1
    (folder / WEIGHTS).write_bytes(blob)


def refuse_cut_short(folder):
    blob = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(blob[: len(blob) // 2])


def refuse_pickle(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"atoms": [1, 2, 3]}))


def refuse_missing_weights(folder):
    (folder / WEIGHTS).unlink()


def refuse_future_format(folder):
    edit(folder, format=2)


def refuse_other_kind(folder):
    edit(folder, kind="something-else")


def refuse_no_json(folder):
    (folder / META).write_text("{")


def refuse_missing_field(folder):
    meta = json.loads((folder / META).read_text())
    del meta["weights_sha256"]
    (folder / META).write_text(json.dumps(meta))


def refuse_notes_beyond_midi(folder):
    edit(folder, code_to_note=[200] * 16)


def refuse_unknown_setting(folder):
    meta = json.loads((folder / META).read_text())
    edit(folder, config=meta["config"] | {"wings": 2})


REFUSALS = {
    refuse_flipped_byte: "checksum",
    refuse_cut_short: "checksum",
    refuse_pickle: "checksum",
    refuse_missing_weights: "cannot be read",
    refuse_future_format: "update v3audio",
    refuse_other_kind: "not a v3audio model",
    refuse_no_json: "JSON",
    refuse_missing_field: "incomplete",
    refuse_notes_beyond_midi: "no MIDI notes",
    refuse_unknown_setting: "wings",
}


@pytest.mark.parametrize("damage", REFUSALS, ids=lambda f: f.__name__)
def test_refusals(folder, damage):
    damage(folder)
    with pytest.raises(BundleError, match=REFUSALS[damage]) as refused:
        load_bundle(folder).load_model()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("load", ["load_model", "load_hearing", "load_live_hearing"])
@pytest.mark.parametrize("other", [{"codebook_size": 8}, {"channels": 2}], ids=str)
def test_weights_of_another_shape_are_refused(folder, load, other):
    sizes = {"codebook_size": 16, "hidden": 16, "partial_hidden": 4} | other
    replace_weights(folder, V3Model(ModelConfig(**sizes)).state_dict())
    with pytest.raises(BundleError, match="not the weights"):
        getattr(load_bundle(folder), load)()


def test_a_missing_weight_is_refused(folder):
    weights = V3Model(CONFIG).state_dict()
    del weights["content_head.kernel"]
    replace_weights(folder, weights)
    with pytest.raises(BundleError, match=r"content_head\.kernel"):
        load_bundle(folder).load_live_hearing()


def replace_weights(folder, weights):
    save_file(weights, folder / WEIGHTS)
    edit(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def test_a_foreign_renderer_is_refused_both_ways(folder):
    bundle = save_renderer(load_bundle(folder), RendererNet(RendererConfig(hidden=16)), {})
    assert bundle.load_frozen_renderer().config == bundle.load_renderer().config
    config = bundle.renderer["config"]
    for change in ({"n_harmonics": 50}, {"n_style": 8}):
        edit(folder, renderer=bundle.renderer | {"config": config | change})
        for load in (load_bundle(folder).load_renderer, load_bundle(folder).load_frozen_renderer):
            with pytest.raises(BundleError, match="not the weights"):
                load()


def test_uncalibrated_or_silent_models_say_what_to_do(folder):
    with pytest.raises(BundleError, match="renderer"):
        load_bundle(folder).load_renderer()
    edit(folder, code_to_note=None)
    with pytest.raises(BundleError, match="v3audio calibrate"):
        load_bundle(folder).load_hearing()


def test_missing_model_lists_what_there_is(tmp_path):
    with pytest.raises(BundleError, match="no model"):
        find_model("nowhere")
    with pytest.raises(BundleError, match="is no model"):
        find_model(tmp_path)
