"""The published network at its published size, and a codebook whose merges come apart."""

import pytest
import torch

from training.paper.networks import Autoencoder, NetworkConfig, RevivedCodebook
from v3audio.errors import ConfigError

PUBLISHED = NetworkConfig("paper", codes=12, latent=512, width=512)


def test_the_published_network_has_the_published_size() -> None:
    with torch.device("meta"):
        model = Autoencoder((512, 32), PUBLISHED)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(55.2e6, rel=0.001)


@pytest.mark.parametrize(("shape", "width"), [((512, 32), 128), ((3, 48, 32), 16)])
def test_the_published_network_runs_at_any_size(shape: tuple[int, ...], width: int) -> None:
    model = Autoencoder(shape, NetworkConfig("paper", codes=5, latent=8, width=width, blocks=1))
    x = torch.randn(2, *shape)
    content, style = model.encode(x)
    assert content.shape == style.shape == (2, 8)
    rebuilt = model.decode(content, style)
    assert rebuilt.shape == x.shape
    rebuilt.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("shape", "config", "message"), [
    ((144, 4), PUBLISHED, "multiples of 128 on axis -2"),
    ((512, 32), NetworkConfig("paper", width=100), "a multiple of 128"),
    ((3, 50, 32), NetworkConfig("paper", width=16), "multiples of 16 on axis -2"),
])
def test_sizes_that_do_not_fit(shape: tuple[int, ...], config: NetworkConfig,
                               message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Autoencoder(shape, config)


def test_content_and_style_encoders_share_nothing() -> None:
    model = Autoencoder((7,), NetworkConfig(latent=4, width=8))
    model.encode(torch.randn(3, 7)).content.sum().backward()
    touched = {name for name, p in model.encoder.named_parameters() if p.grad is not None}
    assert touched and not any(name.startswith("style") for name in touched)


def test_an_atom_without_a_content_takes_over_one_of_two_that_share() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 2.0]])
    labels = torch.arange(90) % 3
    z = centres[labels] + 0.1 * torch.randn(90, 2)
    generator = torch.Generator().manual_seed(0)
    book = RevivedCodebook(3, 2, 0.98)
    book.start(z, generator)
    book.atoms.copy_(torch.tensor([[-0.1, 0.0], [0.1, 0.0], [10.0, 1.0]]))  # a split and a merge
    book.total.copy_(book.atoms * book.count[:, None])
    for _ in range(120):
        book.update(z, book(z).codes, generator)
    assert len(torch.unique(torch.stack([book(centres).codes]))) == 3
