"""The renderer's trainer: measured spectra in, a network that plays them out. No audio in the loss.

The loss asks for three things of every frame: the mel spectrum that the predicted harmonics and
noise would have (exact in expectation, one matrix per pitch), each harmonic, each noise band.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training import checkpoint, render_data
from training.render_data import InstrumentTable, RenderDataConfig
from v3audio import spectra, timbres
from v3audio.bundle import Bundle, load_bundle, save_renderer
from v3audio.config import from_table, load_toml, to_toml
from v3audio.errors import ConfigError
from v3audio.features import FrontEnd
from v3audio.model import V3Model
from v3audio.render_loss import loss_terms
from v3audio.renderer import (
    RenderControl,
    Renderer,
    RendererConfig,
    SpectrumSource,
)
from v3audio.renderer_net import RendererNet, frozen


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights of the three parts, all L1 in natural log amplitude."""

    mel: float = 1.0
    harmonics: float = 0.3
    noise: float = 0.1


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """AdamW, warm-up, cosine to zero, and an average of the weights along the way."""

    lr: float = 2e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    steps: int = 6000
    pitches: int = 32
    frames: int = 40
    average: float = 0.998


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where and how often."""

    out: Path = Path("runs/renderer")
    seed: int = 0
    threads: int = 1
    checkpoint_every: int = 1000


@dataclass(frozen=True, slots=True)
class StyleConfig:
    """How style vectors are shown: the mean a timbre will carry, and the scatter of single notes.

    Attributes:
        note_share: Share of frames that get the style of one note instead of the mean.
        jitter: Gaussian noise on every style vector, in units of the table's standard deviation.
    """

    note_share: float = 0.3
    jitter: float = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training run of the renderer; the TOML file's tables are its fields."""

    kind: str = "renderer"
    run: RunConfig = field(default_factory=RunConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    data: RenderDataConfig = field(default_factory=RenderDataConfig)
    model: RendererConfig = field(default_factory=RendererConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)


class FrameSet:
    """All frames of one split, grouped by MIDI note.

    A batch is some pitches with some frames each, so that one matrix per pitch turns harmonics
    into mel bands. Letters: R rows, K harmonics, N noise bands, M mel bands.

    Args:
        tables: instruments; their order is the index into the style table.
        keep: which MIDI notes belong to the split.
    """

    def __init__(self, tables: list[InstrumentTable], keep: Callable[[int], bool]) -> None:
        parts: dict[str, list[NDArray[np.generic]]] = {n: [] for n in (
            "midi", "program", "level", "age", "cents", "harmonics", "noise", "mel", "floor",
            "weight")}
        for index, t in enumerate(tables):
            notes = np.array([keep(int(m)) for m in t.midi], np.bool_)
            n, n_frames = int(notes.sum()), len(t.age_s)
            if not n:
                continue
            mel = t.mel[notes].astype(np.float32)
            floor = mel.max((1, 2)) + np.log(spectra.MEL_FLOOR)
            loud = t.level_db[notes] > t.level_db[notes].max(1, keepdims=True) - 45
            rows = {
                "midi": np.repeat(t.midi[notes].astype(np.int64), n_frames),
                "program": np.full(n * n_frames, index),
                "level": t.level_db[notes].ravel(),
                "age": np.tile(t.age_s, n),
                "cents": t.frame_cents[notes].astype(np.float32).ravel(),
                "harmonics": t.harmonics[notes].reshape(n * n_frames, -1),
                "noise": t.noise[notes].reshape(n * n_frames, -1),
                "mel": mel.reshape(n * n_frames, -1).astype(np.float16),
                "floor": np.repeat(floor, n_frames),
                # frames lie close in the attack: weigh them between per frame and per second
                "weight": np.tile(np.sqrt(np.gradient(t.age_s) / 0.015), n),
            }
            for name, value in rows.items():
                parts[name].append(value[loud.ravel()])
        if not parts["midi"]:
            raise ConfigError("the renderer has no notes to train on; check [data] in the recipe")
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        order = np.argsort(joined["midi"], kind="stable")
        self._t = {
            name: torch.from_numpy(np.ascontiguousarray(v[order])) for name, v in joined.items()
        }
        midi = joined["midi"][order]
        self.midis, starts = np.unique(midi, return_index=True)
        self._bounds = np.append(starts, len(midi))

    def __len__(self) -> int:
        """Frames in all."""
        return int(self._bounds[-1])

    def draw(self, n_pitches: int, n_frames: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random batch: every column of R = n_pitches * n_frames rows, grouped by pitch."""
        counts = torch.from_numpy(np.diff(self._bounds)).float()
        pitches = torch.multinomial(counts, n_pitches, replacement=True, generator=generator)
        low = torch.from_numpy(self._bounds)[pitches]
        span = counts[pitches].long()
        pick = (torch.rand(n_pitches, n_frames, generator=generator) * span[:, None]).long()
        rows = (low[:, None] + pick).flatten()
        return {name: v[rows].float() if v.is_floating_point() else v[rows]
                for name, v in self._t.items()}


class Styles:
    """Style vectors of every instrument: the mean, and those of single notes.

    Args: table: program to (n, D) vectors; programs: the order of the instruments.
    """

    def __init__(self, table: dict[int, NDArray[np.float32]], programs: list[int]) -> None:
        if missing := [p for p in programs if p not in table]:
            raise ConfigError(f"no style vector for programs {missing}")
        n = max(len(table[p]) for p in programs)
        self.mean = torch.from_numpy(np.stack([table[p].mean(0) for p in programs])).float()
        self._notes = torch.from_numpy(
            np.stack([np.resize(table[p], (n, table[p].shape[1])) for p in programs])).float()

    def draw(self, program: Tensor, config: StyleConfig, generator: torch.Generator) -> Tensor:
        """A style vector for each row, (R, D); see `StyleConfig`."""
        n = len(program)
        mean = self.mean[program]
        which = torch.randint(self._notes.shape[1], (n,), generator=generator)
        amount = torch.rand(n, 1, generator=generator)
        amount = amount * (torch.rand(n, 1, generator=generator) < config.note_share)
        style = mean + amount * (self._notes[program, which] - mean)
        noise = torch.randn(style.shape, generator=generator)
        return style + config.jitter * self.mean.std(0) * noise


def stand_in_styles(programs: list[int], n_style: int, seed: int = 0
                    ) -> dict[int, NDArray[np.float32]]:
    """Random style vectors, one per program, N(0, 1): for tests, which need no V3 model."""
    rng = np.random.default_rng(seed)
    return {p: rng.standard_normal((1, n_style)).astype(np.float32) for p in programs}


def train(recipe: Recipe, tables: list[InstrumentTable], styles: dict[int, NDArray[np.float32]],
          say: Callable[[str], None] = print, resume: bool = False,
          stop_after: int | None = None) -> RendererNet:
    """Train one renderer.

    Args:
        recipe: all settings.
        tables: analysed instruments.
        styles: program to (n, n_style) style vectors.
        say: takes progress lines.
        resume: go on from the newest checkpoint in `run.out`, bit for bit.
        stop_after: end early after this many steps, as a killed run would (tests).

    Returns: the network with averaged weights, in eval mode.
    """
    torch.set_num_threads(recipe.run.threads)
    o, config = recipe.optim, recipe.model
    every = recipe.data.held_out_every
    frames = FrameSet(tables, lambda midi: midi % every != 0)
    looked_up = Styles(styles, [t.program for t in tables])
    torch.manual_seed(recipe.run.seed)  # initial weights
    generator = torch.Generator().manual_seed(recipe.run.seed)
    net = RendererNet(config)
    net.style_mean.copy_(looked_up.mean.mean(0))
    if len(tables) > 1:
        net.style_std.copy_(looked_up.mean.std(0, unbiased=False).clamp(min=1e-3))
    both = nn.ModuleDict({"net": net, "average": copy.deepcopy(net).requires_grad_(False)})
    average = list(both["average"].parameters())
    optimizer = torch.optim.AdamW(net.parameters(), lr=o.lr, weight_decay=o.weight_decay)
    first, spent = 0, 0.0
    if resume and (found := checkpoint.load_latest(recipe.run.out, both, optimizer, generator)):
        first, spent = found[0], float(found[1]["cpu_s"])
    clock = time.process_time()
    for step in range(first, o.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(o, step)
        batch = frames.draw(o.pitches, o.frames, generator)
        style = looked_up.draw(batch["program"], recipe.style, generator)
        log_rms = net(style, batch["midi"] + batch["cents"] / 100, batch["level"], batch["age"])
        terms = loss_terms(log_rms, batch, config)
        loss = (recipe.loss.mel * terms["mel"] + recipe.loss.harmonics * terms["harmonics"]
                + recipe.loss.noise * terms["noise"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()),
                                 1 - min(o.average, done / (done + 10)))
        if done % recipe.run.checkpoint_every == 0 or done in (o.steps, stop_after):
            if not math.isfinite(loss.item()):
                raise ConfigError(f"the renderer diverged at step {done}; lower optim.lr")
            shown = ", ".join(f"{name} {v.item():.3f}" for name, v in terms.items())
            say(f"renderer step {done}/{o.steps}: {shown}")
            checkpoint.save(recipe.run.out, done, both, optimizer, generator,
                            {"cpu_s": spent + time.process_time() - clock})
        if done == stop_after:
            break
    trained: RendererNet = both["average"].eval()  # type: ignore[assignment]
    return trained


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up, then a cosine to 1 % of the rate."""
    if step < config.warm_up:
        return config.lr * (step + 1) / config.warm_up
    part = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


class MeasuredSpectrum:
    """Plays back a note's own analysed frames: what the renderer could reach at best.

    Args: config: sizes; age_s: (T,); log_rms: (T, K + N) natural logs, any common scale.
    """

    def __init__(self, config: RendererConfig, age_s: NDArray[np.floating],
                 log_rms: NDArray[np.floating]) -> None:
        self.config = config
        self._age_s = age_s
        rms = np.exp(log_rms.astype(np.float32))
        self._rms = rms / np.sqrt((rms**2).sum(1, keepdims=True))

    def __call__(self, style: NDArray[np.float32], pitch_midi: float, level_db: float,
                 age_s: float) -> NDArray[np.float32]:
        """The frame at `age_s`, interpolated; the other arguments are not needed."""
        at = float(np.interp(age_s, self._age_s, np.arange(len(self._age_s))))
        low = min(int(at), len(self._rms) - 2)
        here, there = self._rms[low], self._rms[low + 1]
        out: NDArray[np.float32] = (here + (at - low) * (there - here)).astype(np.float32)
        return out


def play_like(source: RendererNet | SpectrumSource, style: NDArray[np.float32],
              note: render_data.NoteFrames, level_shift_db: float, seconds: float, seed: int = 0
              ) -> NDArray[np.float32]:
    """Render a note with the measured level and pitch of `note`, (n_samples,) at 48 kHz."""
    source = frozen(source) if isinstance(source, RendererNet) else source
    renderer = Renderer(source, spectra.SYNTH_RATE, seed)
    n_hop = spectra.SYNTH_RATE // 200
    out = []
    for i in range(round(seconds * 200)):
        age_s = (i + 1) / 200
        cents = float(np.interp(age_s, note.age_s, note.frame_cents))
        level_db = float(np.interp(age_s, note.age_s, note.level_db)) + level_shift_db
        out.append(renderer.render(n_hop, RenderControl(
            note.midi + cents / 100, level_db, age_s, style)))
    return np.concatenate(out)


def mel_distance(real: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Log-mel L1 between two notes given as mel power (T, M).

    Natural log of mel amplitude (half the log of mel power), 80 HTK bands from 40 Hz to 16 kHz,
    Hann window of 2048 samples at 48 kHz every 10 ms from note-on to note-off; `other` is brought
    to the total power of `real` over the whole note; both are floored 60 dB below the loudest band
    of `real`. Mean over bands and frames.
    """
    other = other * (real.sum() / max(float(other.sum()), 1e-20))
    floor = float(real.max()) * spectra.MEL_FLOOR
    log_real, log_other = np.log(np.maximum(real, floor)), np.log(np.maximum(other, floor))
    return float(0.5 * np.abs(log_real - log_other).mean())


def evaluate(net: RendererNet, styles: dict[int, NDArray[np.float32]], recipe: Recipe,
             tables: list[InstrumentTable], velocities: tuple[int, ...] = (60, 100),
             say: Callable[[str], None] = print, bound: bool = True) -> dict[str, Any]:
    """Play pitches never trained, and measure how near they come to the real notes.

    The 24 timbres, every held-out pitch of their range, two velocities never trained. Level and
    pitch follow the real note; the spectrum is all the renderer's.

    Returns: means over notes of `l1` (to the real note), `bound` (analysis and resynthesis of the
        real note itself), `nearest_other` (real note to the nearest of the 23 other instruments'
        real notes of the same pitch and velocity), `nearest_share` (share of rendered notes
        nearest to their own instrument), and the same by instrument.
    """
    soundfont = render_data.find_soundfonts(
        [Path(recipe.data.soundfont)] if recipe.data.soundfont else None)[0]
    table_of = {t.program: t for t in tables}
    judged = [t for t in render_data.TIMBRES if t.program in table_of and t.program in styles]
    hold_s, every = recipe.data.hold_s, recipe.data.held_out_every
    pitches = sorted({m for t in judged for m in range(t.low, t.high + 1) if m % every == 0})
    centres = (np.arange(0.0, hold_s - 0.01, 0.01) * spectra.SYNTH_RATE).astype(np.int64)
    pad = render_data.NOTE_PAD
    notes: dict[tuple[int, int, int], NDArray[np.float32]] = {}
    mels: dict[tuple[int, int, int], NDArray[np.float32]] = {}
    with render_data.StereoSynth(soundfont) as synth:
        for timbre in judged:
            synth.start(timbre.program)
            for midi in pitches:
                for velocity in velocities:
                    sound = synth.play_note(timbre.program, midi, velocity, hold_s, 0.0)
                    if np.abs(sound).max() < 1e-4:
                        continue  # the soundfont has no such note
                    key = timbre.program, midi, velocity
                    mels[key] = spectra.mel_power(sound, centres + pad)
                    if timbre.low <= midi <= timbre.high:
                        notes[key] = sound
    rows = []
    for (program, midi, velocity), sound in notes.items():
        frames = render_data.analyse_note(sound, midi, velocity, hold_s, net.config)
        if frames is None:
            continue
        table = table_of[program]
        shift = float((table.level_db - table.raw_level_db)[0, 0])
        style = styles[program].mean(0)
        real = mels[program, midi, velocity]
        played = play_like(net, style, frames, shift, hold_s)
        rendered = spectra.mel_power(played, centres)
        row: dict[str, Any] = {"program": program, "midi": midi, "velocity": velocity,
                               "l1": mel_distance(real, rendered)}
        others = {p: mels[p, midi, velocity] for p in table_of
                  if p != program and (p, midi, velocity) in mels}
        row["nearest_other"] = min(mel_distance(real, m) for m in others.values())
        to_others = {p: mel_distance(m, rendered) for p, m in others.items()}
        row["confused_with"] = min(to_others, key=to_others.__getitem__)
        row["nearest"] = row["l1"] < min(to_others.values())
        if bound:
            measured = MeasuredSpectrum(net.config, frames.age_s,
                                        np.concatenate([frames.harmonics, frames.noise], 1))
            again = play_like(measured, style, frames, shift, hold_s)
            row["bound"] = mel_distance(real, spectra.mel_power(again, centres))
        rows.append(row)
    if not rows:
        raise ConfigError("no held-out note could be played; check [data] in the recipe")
    report = _means(rows) | {"n_notes": len(rows), "by_timbre": {
        t.name: _means([r for r in rows if r["program"] == t.program])
        for t in judged if any(r["program"] == t.program for r in rows)}}
    say(f"unseen pitches: log-mel L1 {report['l1']:.3f}, bound {report.get('bound', 0):.3f}, "
        f"nearest other {report['nearest_other']:.3f}, target nearest in "
        f"{100 * report['nearest_share']:.1f} % of {len(rows)} notes")
    return report


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    out = {name: round(float(np.mean([r[name] for r in rows])), 4)
           for name in ("l1", "nearest_other", "bound") if name in rows[0]}
    return out | {"nearest_share": round(float(np.mean([r["nearest"] for r in rows])), 4)}


def style_table(model: V3Model, tables: list[InstrumentTable]) -> dict[int, NDArray[np.float32]]:
    """What V3 hears of each instrument: its style vector of every kept note.

    A timbre carries the mean over its notes; the single notes show the renderer how far a style
    strays. Frames are 20 ms apart, from 0.1 s after the onset on.

    Returns: program to (n_notes, D).
    """
    g = model.config.geometry
    front_end = FrontEnd(g)
    step = g.sample_rate // 50
    table = {}
    for t in tables:
        vectors = []
        for tone in t.tones:
            sound = np.pad(tone.astype(np.float32) / 32768, (g.window_length, 0))
            windows = np.lib.stride_tricks.sliding_window_view(sound, g.window_length)
            taken = np.ascontiguousarray(windows[step * 5 :: step])
            # what has died away says nothing about the instrument
            loud = np.abs(taken[:, -step:]).max(1) > 10 ** (-30 / 20) * np.abs(sound).max()
            loud[0] |= not loud.any()  # a short pluck may be over: take its end
            with torch.inference_mode():
                style = model.encode(front_end(torch.from_numpy(taken[loud]))).style
            vectors.append(style.median(0).values.numpy())
        table[t.program] = np.stack(vectors)
    return table


def main(recipe_path: Path, overrides: list[str] | None = None, resume: bool = False,
         say: Callable[[str], None] = print) -> Path:
    """Run a recipe: render, analyse, train, measure, and put the renderer beside its V3 model.

    Args:
        recipe_path: a TOML file with `kind = "renderer"`.
        overrides: `section.key=value` each.
        resume: go on from the newest checkpoint in `run.out`.
        say: takes progress lines.

    Returns: the model folder, whose renderer is the new one.

    Raises:
        ConfigError: the recipe, or a run folder that already holds another run.
        BundleError: no such V3 model.
        FluidSynthMissing: the notes cannot be rendered.
    """
    recipe = from_table(Recipe, load_toml(recipe_path, overrides or []))
    bundle = load_bundle(recipe.data.model)
    _claim(recipe, resume)
    paths = render_data.build(recipe.data, recipe.model, say)
    tables = list(render_data.load(paths, recipe.model.reference_db))
    styles = style_table(bundle.load_model(), tables)
    clock = time.process_time()
    net = train(recipe, tables, styles, say, resume)
    seconds = time.process_time() - clock
    report = evaluate(net, styles, recipe, tables, say=say)
    report["train_cpu_s"] = round(seconds, 1)
    (recipe.run.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    soundfont = render_data.find_soundfonts(
        [Path(recipe.data.soundfont)] if recipe.data.soundfont else None)[0]
    now = load_bundle(recipe.data.model)  # it may have been calibrated in the meantime
    if now.checksum != bundle.checksum:
        raise ConfigError(f"{bundle.folder}: its weights were replaced while the renderer learned "
                          "their styles; train the renderer again")
    save_renderer(now, net, {
        "seed": recipe.run.seed, "data": f"single notes of {soundfont.name}", "metrics": {
            k: v for k, v in report.items() if k != "by_timbre"}})
    written = write_timbres(recipe.run.out / "timbres", bundle,
                            measure_timbres(net, styles, tables, soundfont))
    say(f"{len(written)} timbres in {recipe.run.out / 'timbres'}")
    return bundle.folder


def _claim(recipe: Recipe, resume: bool) -> None:
    """Make the run folder, or refuse one that holds a run that would be lost or mixed."""
    kept = recipe.run.out / "recipe.toml"
    text = to_toml(recipe)
    if kept.exists():
        if not resume:
            raise ConfigError(f"{recipe.run.out}: already holds a run; go on with --resume, "
                              "or choose another folder with --set run.out=DIR")
        if kept.read_text() != text:
            raise ConfigError(f"{kept}: the run there has other settings; give the same recipe "
                              "to --resume it, or choose another folder with --set run.out=DIR")
    recipe.run.out.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)


@dataclass(frozen=True, slots=True)
class TimbreMeasures:
    """What a timbre file needs to know beside the name.

    Attributes:
        name: Of the timbre.
        program: General MIDI program it was measured from.
        note_range: MIDI notes it sounds right on.
        style: (D,) mean style vector.
        gain_db: Makes all timbres equally loud (K-weighted) at equal level; their mean is 0.
        decay_db_per_s: At the low and the high end of the range; 0 where the sound is sustained.
        release_s: Time to fade by 60 dB after the note is let go.
    """

    name: str
    program: int
    note_range: tuple[int, int]
    style: NDArray[np.float32]
    gain_db: float
    decay_db_per_s: tuple[float, float]
    release_s: float


def measure_timbres(net: RendererNet, styles: dict[int, NDArray[np.float32]],
                    tables: list[InstrumentTable], soundfont: Path) -> list[TimbreMeasures]:
    """Measure the shipped timbres: loudness as rendered, decay and release as in the soundfont."""
    table_of = {t.program: t for t in tables}
    found = [t for t in render_data.TIMBRES if t.program in table_of]
    source = frozen(net)
    loudness = {t.program: spectra.k_weighted_db(source, styles[t.program].mean(0), t.low, t.high)
                for t in found}
    middle = float(np.mean(list(loudness.values())))
    with render_data.StereoSynth(soundfont) as synth:
        return [TimbreMeasures(
            t.name, t.program, (t.low, t.high), styles[t.program].mean(0),
            round(middle - loudness[t.program], 2), render_data.decay(table_of[t.program], t),
            render_data.release_s(synth, t)) for t in found]


def write_timbres(folder: Path, bundle: Bundle, measures: list[TimbreMeasures],
                  source: str = "FluidR3_GM soundfont (Frank Wen)", licence: str = "MIT"
                  ) -> list[Path]:
    """Write one timbre file for each measured instrument.

    `decay_db_per_s` is that of the middle of the range; `extras` hold both ends and the release.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for m in measures:
        low, high = m.decay_db_per_s
        timbre = timbres.Timbre(
            name=m.name, note_range=m.note_range, model=bundle.name, model_sha256=bundle.checksum,
            gain_db=m.gain_db, decay_db_per_s=round((low + high) / 2, 1),
            source=f"{source}, program {m.program}", licence=licence, style=m.style,
            extras={"decay_low_db_per_s": low, "decay_high_db_per_s": high,
                    "release_s": m.release_s})
        paths.append(timbres.save(timbre, folder / f"{m.name}{timbres.SUFFIX}"))
    return paths
