import io
import re

import numpy as np
import pytest
from PIL import Image

from v3audio.notes import Note
from v3audio.pictures import (
    COLUMNS,
    HIGH_HZ,
    LOW_HZ,
    RANGE_DB,
    ROWS,
    roll_svg,
    spectrogram_db,
    spectrogram_png,
)


def row_of(hz: float, top_hz: float = HIGH_HZ) -> int:
    return int(ROWS * np.log(hz / LOW_HZ) / np.log(top_hz / LOW_HZ))


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("hz", [110.0, 440.0, 5_000.0])
def test_a_tone_is_a_line_at_its_height_and_level(rate: int, hz: float):
    x = 0.5 * np.sin(2 * np.pi * hz * np.arange(2 * rate) / rate)
    db = spectrogram_db(x.astype(np.float32), rate)
    assert db.shape == (ROWS, COLUMNS)
    middle = db[:, COLUMNS // 2]
    assert abs(int(middle.argmax()) - row_of(hz, min(HIGH_HZ, rate / 2))) <= 2
    assert middle.max() == pytest.approx(-6, abs=4)  # a window's main lobe spans a few rows
    assert middle[row_of(hz * 2.5, min(HIGH_HZ, rate / 2)) if hz < 3_000 else 0] < -60


def test_time_runs_from_left_to_right():
    x = np.zeros(48_000, np.float32)
    x[12_000:24_000] = np.sin(2 * np.pi * 1_000 * np.arange(12_000) / 48_000)
    line = spectrogram_db(x, 48_000).max(0) > -20
    assert np.flatnonzero(line)[[0, -1]] / COLUMNS == pytest.approx([0.25, 0.5], abs=0.03)


def test_the_png_is_white_below_the_range_and_dark_on_top():
    db = np.full((ROWS, COLUMNS), -200.0, np.float32)
    db[-1] = 0.0  # the highest band
    db[0] = -RANGE_DB / 2
    image = Image.open(io.BytesIO(spectrogram_png(db, top_db=0.0)))
    assert image.size == (COLUMNS, ROWS)
    shade = np.asarray(image.convert("L"), np.int64)
    assert shade[0].max() < 40 and (shade[1:-1] == 255).all()
    assert shade[0, 0] < shade[-1, 0] < 255


def test_a_piano_roll_shows_each_note_where_it_is_and_breaks_the_line_at_rests():
    notes = [Note(0.5, 1.0, 60, 0.0, 127, 1.0), Note(1.5, 2.0, 64, 0.0, 1, 1.0)]
    pitch = np.array([60.0, 60.5, np.nan, 60.0, 64.0], np.float32)
    svg = roll_svg(notes, [("before", pitch)], hop_s=0.1, duration_s=2.5)
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    assert (width, height) == (2.5, 9)  # 58 to 66
    boxes = re.findall(r'"note" x="(\S+)" y="(\S+)" height="1" width="(\S+)" fill-opacity="(\S+)"',
                       svg)  # fmt: skip
    assert [tuple(map(float, box)) for box in boxes] == [(0.5, 6, 0.5, 1.0), (1.5, 2, 0.5, 0.4)]
    path = re.search(r'class="before" d="(.*?)"', svg)[1]
    assert path == "M0.10 6.50 L0.20 6.00 M0.40 6.50 M0.50 2.50"
