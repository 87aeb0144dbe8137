"""InsNotes and PhoneNums: what is drawn, that it is the same again, and how it is cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.paper import datasets, insnotes, phonenums
from training.paper.datasets import DataConfig, clips_of
from training.paper.fragments import Fragments, draw
from v3audio.errors import ConfigError

N_NOTES = 18  # of a file: an octave and a half


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phonenums"
    assert phonenums.render(folder, seed=3, rows_per_colour=1) == 3
    return folder


def test_digits_are_the_same_again(digits: Path, tmp_path: Path) -> None:
    phonenums.render(tmp_path / "again", seed=3, rows_per_colour=1)
    for split in phonenums.SPLITS:
        name = f"{split}.npz"
        assert (tmp_path / "again" / name).read_bytes() == (digits / name).read_bytes()
    assert phonenums.render(digits, seed=3, rows_per_colour=1) == 0  # nothing left to do
    with pytest.raises(ConfigError, match="seed was 3, now 4"):
        phonenums.render(digits, seed=4, rows_per_colour=1)


def test_digits_have_their_colours_and_each_digit_once(digits: Path) -> None:
    from matplotlib import colors

    data = phonenums.load(digits, "train", halved=False)
    assert data.shape == (3, 48, 32)
    assert np.array_equal(np.sort(data.content, 1), np.tile(np.arange(10), (8, 1)))
    for row, name in enumerate(data.style_names):
        ink = data.x[row].amax((0, 2, 3)).numpy()  # the most of each channel
        assert ink == pytest.approx(1 - np.array(colors.to_rgb(name)), abs=0.15), name
    half = phonenums.load(digits, "train", halved=True)
    assert half.shape == (3, 24, 16)
    assert float(half.x.mean()) == pytest.approx(float(data.x.mean()), abs=1e-5)


def test_random_rows_repeat_digits() -> None:
    drawn = phonenums.draw_rows(2, ("teal",), rng=np.random.default_rng(0), hand="print",
                                order="random", held_out=False)
    assert any(len(set(row)) < 10 for row in drawn.digits)


def test_scans_to_test_on_are_others() -> None:
    ours = {mask.tobytes() for masks in phonenums._masks("scanned", False) for mask in masks}
    theirs = {mask.tobytes() for masks in phonenums._masks("scanned", True) for mask in masks}
    assert len(ours) > 3 * len(theirs) > 0
    assert not ours & theirs


def test_hands_and_colours_that_do_not_exist() -> None:
    def draw_with(colour: str, hand: str) -> None:
        phonenums.draw_rows(1, (colour,), rng=np.random.default_rng(0), hand=hand,
                            order="random", held_out=False)

    with pytest.raises(ConfigError, match="octarine"):
        draw_with("octarine", "print")
    with pytest.raises(ConfigError, match="print, script or scanned"):
        draw_with("teal", "quill")


def test_splits_keep_shots_and_test_apart(digits: Path) -> None:
    splits = datasets.load(DataConfig(domain="phonenums", folder=digits))
    assert splits.shots.content.shape == (80, 10)
    assert np.bincount(splits.shots.style).tolist() == [10] * 8
    assert np.bincount(splits.ood.style).tolist() == [5] * 8
    assert splits.ood.style_names == phonenums.OOD_COLOURS
    shown = {x.numpy().tobytes() for x in splits.shots.x}
    assert not any(x.numpy().tobytes() in shown for x in splits.ood.x)


def test_data_that_are_missing_say_what_to_type(tmp_path: Path) -> None:
    for domain in ("insnotes", "phonenums"):
        with pytest.raises(ConfigError, match=f"v3audio data {domain} -o {tmp_path}"):
            datasets.load(DataConfig(domain=domain, folder=tmp_path))


def numbered(n_rows: int, length: int) -> Fragments:
    """Fragments whose value says where they are from: row * 100 + place."""
    x = 100.0 * torch.arange(n_rows)[:, None] + torch.arange(length)
    content = np.tile(np.arange(length), (n_rows, 1))
    return Fragments(x[..., None], content, np.arange(n_rows), ("",) * length, ("",) * n_rows)


def test_a_batch_holds_consecutive_fragments_of_one_row() -> None:
    batch = draw(numbered(5, 9), 20, 4, torch.Generator().manual_seed(0))
    assert batch.x.shape == (20, 4, 1)
    assert torch.equal(batch.x.diff(dim=1), torch.ones(20, 3, 1))
    assert torch.equal(batch.x[:, 0, 0] // 100, batch.style.float())
    assert torch.equal(batch.x[..., 0] % 100, batch.content.float())
    with pytest.raises(ConfigError, match="rows have 9"):
        draw(numbered(5, 9), 20, 10, torch.Generator())


def test_rows_are_cut_into_clips() -> None:
    cut = clips_of(numbered(2, 9), 4)
    assert cut.x[..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7],
                                      [100, 101, 102, 103], [104, 105, 106, 107]]
    assert cut.style.tolist() == [0, 0, 1, 1]


@pytest.fixture
def short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insnotes, "NOTES_PER_FILE", N_NOTES)


@pytest.mark.parametrize("note", [60, 65, 71])
def test_spectra_peak_at_the_pitch(short_files: None, note: int) -> None:
    hz = 440 * 2 ** ((note - 69) / 12)
    t = np.arange(N_NOTES * insnotes.STEP_SAMPLES) / insnotes.SAMPLE_RATE
    sound = np.float32(0.5 * np.sin(2 * np.pi * hz * t))
    x = insnotes.log_frequency(sound)
    assert x.shape == (N_NOTES, 144, 4)
    peak = insnotes.LOG_LOW_HZ * 2 ** (x[3].mean(1).argmax() / insnotes.LOG_PER_OCTAVE)
    assert abs(12 * np.log2(peak / hz)) <= 0.26  # half a quarter tone
    x = insnotes.spectrogram(sound)
    assert x.shape == (N_NOTES, 512, 32)
    peak = x[3].mean(1).argmax() * insnotes.SAMPLE_RATE / insnotes.N_FFT
    assert abs(peak - hz) <= insnotes.SAMPLE_RATE / insnotes.N_FFT / 2
    assert x[3].max() == pytest.approx(np.log(0.5), abs=0.2)  # a sine reads its amplitude


@pytest.mark.fluidsynth
@pytest.mark.slow
def test_insnotes_are_the_same_again_and_play_their_notes(
    short_files: None, tmp_path: Path
) -> None:
    import soundfile

    from training.paper.sounds import pitch_of

    for name in ("a", "b"):
        assert insnotes.render(tmp_path / name, seed=1, files_per_program=1, programs=(73,)) == 1
    path = Path("073") / "00.flac"
    assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    sound, rate = soundfile.read(tmp_path / "a" / path, dtype="float32")
    assert rate == 16_000 and len(sound) == N_NOTES * 16_896
    assert np.abs(sound).max() == pytest.approx(0.9, abs=0.01)
    for note in (0, 13, N_NOTES - 1):
        one = sound[note * insnotes.STEP_SAMPLES :][:16_000]
        assert pitch_of(one) == pytest.approx(60 + note % 12, abs=0.5)
    data, normaliser = insnotes.load(tmp_path / "a", (73,), slice(1), "log-frequency")
    assert data.shape == (144, 4) and data.style_names == ("flute",)
    assert float(data.x.mean()) == pytest.approx(0, abs=1e-3)
    assert float(data.x.std()) == pytest.approx(1, abs=1e-3)
    again, same = insnotes.load(tmp_path / "a", (73,), slice(1), "log-frequency", normaliser)
    assert torch.equal(again.x, data.x) and same == normaliser
    with pytest.raises(ConfigError, match="too few files of program 73"):
        insnotes.load(tmp_path / "a", (73,), slice(1, 2), "log-frequency")
