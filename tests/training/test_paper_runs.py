"""A table of runs: planned, run, interrupted, gone on with, and reported on."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import training
from training.paper import insnotes, phonenums, probes, report, runs
from training.paper.insnotes import Normaliser
from training.paper.measure import Recombined, pitch_kept
from training.paper.runs import Recipe, plan
from training.paper.sounds import SAMPLE_RATE, pitch_of, to_sound
from v3audio.cli import app
from v3audio.config import from_table, load_toml
from v3audio.errors import ConfigError

N_NOTES = 4  # of a file, where one note is looked at
RECIPES = Path(training.__file__).parent / "recipes"


@pytest.fixture(scope="module", autouse=True)
def hasty_probes() -> Iterator[None]:
    """What probes find is tested elsewhere; here a few steps of them do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "_STEPS", 5)
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants of a digits table that takes seconds."""
    folder = tmp_path_factory.mktemp("table")
    phonenums.render(folder / "data", rows_per_colour=1)
    path = folder / "tiny.toml"
    path.write_text(f"""
        kind = "paper"
        [run]
        out = "{folder / 'runs'}"
        codes = [10]
        seeds = [0, 1]
        jobs = 1
        [data]
        domain = "phonenums"
        folder = "{folder / 'data'}"
        [network]
        latent = 8
        width = 16
        [training]
        steps = 4
        clips = 8
        fragments = 10
        shot_steps = 1
        [variants.v3]
        [variants."no style term"]
        "method.style" = 0.0
        "run.codes" = [12]
    """)
    return path


@pytest.fixture(scope="module")
def done(recipe: Path) -> Path:
    """The same, run."""
    return runs.main(recipe, say=lambda line: None)


def test_a_plan_has_every_variant_size_and_seed(recipe: Path) -> None:
    planned = plan(from_table(Recipe, load_toml(recipe, ["run.codes=10,20"])))
    assert [run.folder.name for run in planned] == [
        "v3-k10-seed0", "v3-k20-seed0", "no-style-term-k12-seed0",
        "v3-k10-seed1", "v3-k20-seed1", "no-style-term-k12-seed1"]
    assert {run.experiment.method.style for run in planned if run.variant == "v3"} == {1.0}
    assert {run.experiment.method.style for run in planned if run.variant != "v3"} == {0.0}


def test_a_plan_refuses_what_is_not_there(recipe: Path) -> None:
    with pytest.raises(ConfigError, match="no variant 'v4'"):
        plan(from_table(Recipe, load_toml(recipe, ["run.only=v4"])))
    with pytest.raises(ConfigError, match="codebook never starts"):
        from_table(Recipe, load_toml(recipe, ["training.free_steps=4"]))
    table = load_toml(recipe)
    table["variants"] = {"v3": {"method.stile": 1.0}}
    with pytest.raises(ConfigError, match="stile"):
        plan(from_table(Recipe, table))


@pytest.mark.parametrize("path", sorted(p for p in RECIPES.glob("*.toml")
                                        if load_toml(p).get("kind") == "paper"),
                         ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    planned = plan(from_table(Recipe, load_toml(path)))
    folders = [run.folder for run in planned]
    assert len(set(folders)) == len(folders) > 0


def test_each_run_leaves_its_json_and_its_weights(done: Path) -> None:
    stored = json.loads((done / "no-style-term-k12-seed1" / "run.json").read_text())
    assert stored["experiment"]["method"]["style"] == 0.0
    assert stored["seed"] == 1 and stored["log"][-1]["step"] == 4
    _, figures, trained, splits = runs.open_run(done / "no-style-term-k12-seed1")
    from training.paper.measure import encode
    from training.paper.metrics import codebook_accuracy

    table = encode(trained.model, splits.test).table(12, 10)
    assert codebook_accuracy(table) == pytest.approx(figures["codebook_accuracy"], abs=1e-3)


def test_an_interrupted_table_goes_on(done: Path, recipe: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    missing = done / "v3-k10-seed1" / "run.json"
    before = missing.read_bytes()
    missing.unlink()
    performed: list[str] = []
    real: Callable[[runs.Run], str] = runs.perform
    monkeypatch.setattr(runs, "perform",
                        lambda run: performed.append(run.folder.name) or real(run))
    runs.main(recipe, say=lambda line: None)
    assert performed == ["v3-k10-seed1"]
    again, first = json.loads(missing.read_bytes()), json.loads(before)
    for timing in ("train_cpu_s", "measure_cpu_s"):
        del again["figures"][timing], first["figures"][timing]
    assert again == first


def test_runs_of_other_settings_are_not_taken_for_these(done: Path, recipe: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        runs.main(recipe, ["method.relativity=5"], say=lambda line: None)


def test_the_table_has_means_and_worst_seeds(done: Path) -> None:
    with (done / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    values = [float(row["fragment_accuracy"]) for row in rows if row["variant"] == "v3"]
    text = (done / "table.md").read_text()
    assert f"{np.mean(values):.3f} ({min(values):.3f})" in text
    leaks = [float(row["leak_style_from_content"]) for row in rows if row["variant"] == "v3"]
    assert f"{np.mean(leaks):.3f} ({max(leaks):.3f})" in text  # of a leak the worst is the largest
    assert "pitch" not in text  # digits have none


def test_a_run_is_reported_on_with_pictures_and_a_sheet(done: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(done / "v3-k10-seed0"), "-o",
                                      str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report" / "report.md").read_text()
    assert "# v3, 10 codes, seed 0" in page and "codebook accuracy" in page
    for name in re.findall(r"\(([\w.]+)\)", page):
        assert (tmp_path / "report" / name).stat().st_size > 1000, name
    sheet = (tmp_path / "report" / "sheet.html").read_text()
    used = sheet.count("<tr><th>") - 1  # the head
    assert used >= 1 and sheet.count("<img") == 8 * used
    assert "http" not in sheet


def test_a_folder_of_runs_gives_a_table(done: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(done), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "table.md").read_text() == (done / "table.md").read_text()
    with pytest.raises(ConfigError, match="no finished runs"):
        report.evaluate(tmp_path, tmp_path)


def test_data_commands(tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["data", *words])

    done = run("phonenums", "-o", str(tmp_path / "p"), "--size", "1", "--order", "random")
    assert done.exit_code == 0 and "3 new files" in done.output
    assert isinstance(run("phonenums", "-o", str(tmp_path / "q"), "--hand", "quill").exception,
                      ConfigError | SystemExit)
    assert isinstance(run("insnotes", "-o", str(tmp_path / "i"), "--programs", "1,x").exception,
                      ConfigError | SystemExit)


@pytest.fixture
def short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insnotes, "NOTES_PER_FILE", N_NOTES)


def spectrum(note: float, n_harmonics: int = 6) -> np.ndarray:
    """A log-frequency fragment (144, 4) of one harmonic note, through the real front end."""
    t = np.arange(N_NOTES * insnotes.STEP_SAMPLES) / SAMPLE_RATE
    hz = 440 * 2 ** ((note - 69) / 12)
    sound = sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, n_harmonics + 1))
    return insnotes.log_frequency(np.float32(0.2 * sound))[2]


@pytest.mark.parametrize("note", [60, 64.3, 71])
def test_spectra_become_sound_of_their_pitch(short_files: None, note: float) -> None:
    sound = to_sound(spectrum(note), Normaliser(0.0, 1.0))
    assert np.abs(sound).max() == pytest.approx(0.5)
    assert pitch_of(sound) == pytest.approx(note, abs=0.15)


@pytest.mark.slow
def test_spectrograms_become_sound_of_their_pitch(short_files: None) -> None:
    t = np.arange(N_NOTES * insnotes.STEP_SAMPLES) / SAMPLE_RATE
    sound = np.float32(sum(np.sin(2 * np.pi * k * 330 * t) / k for k in (1, 2, 3)))
    x = insnotes.spectrogram(sound)[2]
    again = to_sound(x, Normaliser(0.0, 1.0))
    assert pitch_of(again) == pytest.approx(69 + 12 * np.log2(330 / 440), abs=0.15)


def test_pitch_kept_counts_slots(short_files: None) -> None:
    import torch

    c, d = spectrum(60), spectrum(62)
    x = torch.from_numpy(np.stack([[c, c, d], [d, d, d]]))
    figures = pitch_kept(Recombined(x, np.array([4, 7]), np.array([0, 3])), Normaliser(0.0, 1.0))
    assert figures["pitch_kept"] == pytest.approx(5 / 6)
    assert figures["pitch_right"] == pytest.approx(2 / 6)  # the code named D# plays D
