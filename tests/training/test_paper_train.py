"""V3 learns a tiny set of either domain in seconds, and only with its four terms as they are.

The sets are made here: an octave of notes of six synthetic timbres through the real front end, and
digits in four colours.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training import losses
from training.losses import EPS, LossConfig, v3_terms
from training.paper import experiment, insnotes, methods, phonenums, probes
from training.paper.datasets import MOST_SHOTS, Splits, clips_of
from training.paper.experiment import Experiment, TrainingConfig, adapt, train
from training.paper.fragments import Batch, Fragments, draw
from training.paper.measure import encode, measure, ood_accuracy, recombine
from training.paper.methods import MethodConfig
from training.paper.metrics import codebook_accuracy, labels_covered, name_codes, retrieval
from training.paper.networks import NetworkConfig
from training.train import OptimConfig

TERMS = ("content", "style", "fragment", "clip")
R = 15.0


@pytest.fixture(scope="module")
def music() -> Fragments:
    """An octave, in six timbres; (60, 12) fragments of 144 x 4."""
    rng = np.random.default_rng(0)
    t = np.arange(insnotes.STEP_SAMPLES) / insnotes.SAMPLE_RATE
    hz = 440 * 2 ** ((60 + np.arange(12) - 69) / 12)
    k = np.arange(1, 13)
    waves = np.sin(2 * np.pi * hz[:, None, None] * k[:, None] * t).astype(np.float32)
    rows = []
    for style in range(6):
        level = np.exp(-k / (1.5 + 2 * style)) * rng.uniform(0.1, 1, len(k))
        octave = np.tensordot(level, waves, (0, 1)) * np.exp(-t * style / 3)
        notes = np.tile(octave, (10, 1)) * rng.uniform(0.2, 1, (120, 1))
        sound = notes.ravel() + 1e-3 * rng.normal(size=notes.size)
        rows.append(insnotes.log_frequency(np.float32(sound)))
    x = torch.from_numpy(np.stack(rows))
    data = Fragments((x - x.mean()) / x.std(), np.tile(np.arange(120) % 12, (6, 1)), np.arange(6),
                     insnotes.NOTE_NAMES, tuple("abcdef"))
    return clips_of(data, 12)


@pytest.fixture(scope="module")
def digits() -> Fragments:
    """Digits in four colours, (48, 10) fragments of 3 x 24 x 16."""
    colours = ("black", "red", "green", "blue")
    drawn = phonenums.draw_rows(12, colours, rng=np.random.default_rng(0), hand="print",
                                order="each-once", held_out=False)
    x = 1 - torch.from_numpy(drawn.pixels).permute(0, 1, 4, 2, 3).float() / 255
    x = torch.nn.functional.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
    return Fragments(x, drawn.digits, drawn.styles, tuple("0123456789"), colours)


@pytest.fixture(params=["music", "digits"])
def data(request: pytest.FixtureRequest) -> Fragments:
    """Each domain in turn."""
    chosen: Fragments = request.getfixturevalue(request.param)
    return chosen


def tiny(data: Fragments, steps: int, **weights: float | str | bool) -> Experiment:
    """A recipe for seconds."""
    n = len(data.content_names)
    pictures = 10.0 if len(data.shape) == 3 else 1.0
    return Experiment(
        network=NetworkConfig(codes=n, latent=16, width=64),
        method=MethodConfig(**{"reconstruction": pictures} | weights),
        training=TrainingConfig(steps=steps, clips=16, fragments=n, shot_steps=3),
        optim=OptimConfig(lr=3e-3, warm_up=5))


@pytest.mark.slow
def test_v3_finds_contents_and_styles_without_labels(data: Fragments) -> None:
    trained = train(tiny(data, 250), data, seed=0)
    found = encode(trained.model, data)
    n = len(data.content_names)
    table = found.table(n, n)
    assert labels_covered(table) == n
    assert codebook_accuracy(table) > 0.98
    assert retrieval(found.content, found.content_label, 400).auc > 0.95
    assert retrieval(found.style, found.style_label, 400).auc > 0.85
    assert retrieval(found.style, found.content_label, 400).auc < 0.25
    made = recombine(trained.model, found, name_codes(table))
    assert made.x.shape == (n, len(data.style_names), *data.shape)
    assert made.names.tolist() == list(range(n))


def factors(content: Tensor, content_q: Tensor, style: Tensor) -> dict[str, Tensor]:
    """Of each term what shall vary, and what shall not: (2,)."""
    content_frag = (losses.fragment_variability(content)
                    + losses.fragment_variability(content_q)) / 2
    content_clip = (losses.clip_variability(content) + losses.clip_variability(content_q)) / 2
    style_frag, style_clip = losses.fragment_variability(style), losses.clip_variability(style)
    pairs = {"content": (content_frag, content_clip), "style": (style_clip, style_frag),
             "fragment": (content_frag, style_frag), "clip": (style_clip, content_clip)}
    return {name: torch.stack(pair) for name, pair in pairs.items()}


def hinge_of(variable: Tensor, invariant: Tensor) -> Tensor:
    """The paper's hinge of two factors."""
    return torch.relu(R - variable / (invariant + EPS)) / R


Mutation = Callable[[Tensor, Tensor], Tensor]
"""Of a term, given the pair of factors it is made of."""
MUTATIONS: dict[str, Mutation] = {
    "sign turned": lambda term, pair: -term,
    "no gradient": lambda term, pair: term.detach(),
    "left out": lambda term, pair: 0 * term,
    "variable factor lost": lambda term, pair: hinge_of(pair[0].detach(), pair[1]),
    "invariant factor lost": lambda term, pair: hinge_of(pair[0], pair[1].detach()),
}


def moved(term: str, data: Fragments, mutate: Mutation | None,
          monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Variable and invariant factor over what they were, after 20 steps by one term alone."""
    def mutated(content: Tensor, content_q: Tensor, style: Tensor,
                config: LossConfig) -> dict[str, Tensor]:
        terms = v3_terms(content, content_q, style, config)
        if mutate is not None:
            terms[term] = mutate(terms[term], factors(content, content_q, style)[term])
        return terms

    monkeypatch.setattr(methods, "v3_terms", mutated)
    off = {name: 0.0 for name in TERMS if name != term}
    recipe = tiny(data, 1, reconstruction=0.0, commitment=0.0, **off)
    method = experiment.build(recipe, data, seed=0)
    batch = draw(data, 16, recipe.training.fragments, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02)

    @torch.no_grad()
    def now() -> Tensor:
        encoded = method.model.encode(batch.x.flatten(0, 1))
        q = method.model.quantize(encoded.content).z_q
        shape = batch.x.shape[:2]
        return factors(*(v.unflatten(0, shape) for v in (encoded.content, q, encoded.style)))[term]

    experiment._start(method.model, batch, torch.Generator().manual_seed(0))
    before = now()
    for _ in range(20):
        experiment.train_step(method, optimizer, batch, 5.0)
    variable, invariant = (now() / before).tolist()
    return variable, invariant


@pytest.mark.parametrize("term", TERMS)
def test_each_term_moves_both_its_factors_and_no_mutation_does(
        term: str, data: Fragments, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable factor up, the invariant one down, each farther than without its own pull."""
    found = {name: moved(term, data, mutate, monkeypatch)
             for name, mutate in {"as it is": None, **MUTATIONS}.items()}
    without_variable, _ = found["variable factor lost"]
    _, without_invariant = found["invariant factor lost"]
    for name, (variable, invariant) in found.items():
        is_right = (variable > 1.03 and invariant < 0.9 and variable > 1.01 * without_variable
                    and invariant < 0.9 * without_invariant)
        assert is_right == (name == "as it is"), name


@pytest.mark.parametrize("name", ["vq", "mine", "cycle", "vae", "supervised"])
def test_baselines_share_encoder_decoder_and_budget(name: str, digits: Fragments) -> None:
    ours = experiment.build(tiny(digits, 1), digits, seed=5)
    theirs = experiment.build(tiny(digits, 1, name=name), digits, seed=5)
    for key, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs.model.state_dict()[key])  # the same start, too
    trained = train(tiny(digits, 40, name=name), digits, seed=5)
    first, last = trained.log[0], trained.log[-1]
    assert first.keys() == last.keys()
    own = {"vq": set(), "mine": {"independence"}, "cycle": {"independence"}, "vae": {"prior"},
           "supervised": {"content", "style"}}
    assert first.keys() == {"step", "reconstruction", "commitment"} | own[name]


def test_supervised_learns_from_labels(digits: Fragments) -> None:
    trained = train(tiny(digits, 100, name="supervised"), digits, seed=0)
    found = encode(trained.model, digits)
    assert retrieval(found.content, found.content_label, 400).auc > 0.95
    assert retrieval(found.style, found.style_label, 400).auc > 0.95


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_mine_measures_information(correlation: float, digits: Fragments) -> None:
    """Of two Gaussians, which is known: -log(1 - rho^2) / 2 nats."""
    method = experiment.build(tiny(digits, 1, name="mine"), digits, seed=0)
    assert method.critic is not None
    optimizer = torch.optim.Adam(method.critic.parameters(), lr=1e-3)
    torch.manual_seed(0)

    def pair(n: int) -> tuple[Tensor, Tensor]:
        content, style = torch.randn(n, 16), torch.randn(n, 16)
        style[:, 0] = correlation * content[:, 0] + (1 - correlation**2) ** 0.5 * style[:, 0]
        return content, style

    for _ in range(200):
        optimizer.zero_grad()
        (-method.information(*pair(256))).backward()
        optimizer.step()
    with torch.no_grad():
        found = method.information(*pair(4096)).item()
    assert found == pytest.approx(-0.5 * np.log(1 - correlation**2), abs=0.25)


def test_the_critic_is_trained_by_its_own_loss_alone(digits: Fragments) -> None:
    method = experiment.build(tiny(digits, 1, name="mine"), digits, seed=0)
    assert method.critic is not None
    learned = {id(p) for p in method.learned()}
    assert not any(id(p) in learned for p in method.critic.parameters())
    batch = draw(digits, 4, 10, torch.Generator().manual_seed(0))
    method.critic_loss(batch).backward()
    assert all(p.grad is None for p in method.learned())


def test_an_interrupted_run_goes_on_to_the_same_end(digits: Fragments, tmp_path: Path) -> None:
    recipe = tiny(digits, 30)
    recipe = replace(recipe, training=replace(recipe.training, checkpoint_every=10))
    whole = train(recipe, digits, seed=1, folder=tmp_path / "whole")
    short = replace(recipe, training=replace(recipe.training, steps=30))
    calls = 0

    def stop(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    save = experiment.checkpoint.save
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiment.checkpoint, "save", lambda *a: (save(*a), stop()))
        train(short, digits, seed=1, folder=tmp_path / "cut")
    again = train(short, digits, seed=1, folder=tmp_path / "cut")
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, again.method.state_dict()[key]), key


@pytest.mark.slow
def test_measuring_gives_every_figure_and_leaves_the_model(
        digits: Fragments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_STEPS", 5)
    recipe = tiny(digits, 60)
    recipe = replace(recipe, data=replace(recipe.data, domain="phonenums"))
    shots = digits.rows(np.tile(np.arange(12) < MOST_SHOTS, 4))
    splits = Splits(digits, digits, shots, digits, insnotes.Normaliser(0.0, 1.0))
    trained = train(recipe, digits, seed=0)
    before = {k: v.clone() for k, v in trained.method.state_dict().items()}
    figures = measure(trained, recipe, splits, seed=0)
    assert all(torch.equal(v, trained.method.state_dict()[k]) for k, v in before.items())
    names = name_codes(encode(trained.model, digits).table(10, 10))
    assert figures["ood"]["0"] == {k: round(v, 4) for k, v in
                                   ood_accuracy(trained.model, digits, names).items()}
    assert figures["ood"].keys() == {"0", "1", "5", "10"}
    assert figures["ood"]["0"].keys() == {*digits.style_names, "mean"}
    assert figures["probe_chance_content"] == 0.1
    assert 0 <= figures["probe_mlp_content_from_style"] <= 1


def test_few_shots_leave_the_codebook_and_move_the_rest(digits: Fragments) -> None:
    trained = train(tiny(digits, 30), digits, seed=0)
    adapted = adapt(trained, tiny(digits, 30), digits, 1, seed=0)
    was, now = trained.method.state_dict(), adapted.state_dict()
    for key in was:
        moved = not torch.equal(was[key], now[key])
        assert moved != key.startswith("model.codebook"), key


def test_labels_reach_the_supervised_method_alone(digits: Fragments) -> None:
    """V3's loss is the same whatever the labels are."""
    batch = draw(digits, 4, 10, torch.Generator().manual_seed(0))
    wrong = Batch(batch.x, (batch.content + 1) % 10, (batch.style + 1) % 4)

    def loss(name: str, given: Batch) -> float:
        terms, _, _ = experiment.build(tiny(digits, 1, name=name), digits, seed=0)(given)
        return torch.stack(list(terms.values())).sum().item()

    assert loss("v3", batch) == loss("v3", wrong)
    assert loss("supervised", batch) != loss("supervised", wrong)
