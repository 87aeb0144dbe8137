"""The V3 network: equivariance by construction, the codebook, shapes."""

import pytest
import torch

from v3audio.features import Views
from v3audio.model import KERNEL_BELOW, ModelConfig, V3Model
from v3audio.vq import Codebook

CONFIG = ModelConfig(codebook_size=32, hidden=32)
G = CONFIG.geometry


def comb(position: int, seed: int = 0) -> torch.Tensor:
    """A made-up harmonic spectrum (1, F) at a position."""
    x = torch.zeros(1, G.n_bins)
    for k, offset in enumerate((0, 36, 57, 72, 84)):
        if position + offset < G.n_bins:
            x[0, position + offset] = 1 - 0.15 * k
    return x


@pytest.fixture(scope="module")
def model() -> V3Model:
    torch.manual_seed(0)
    return V3Model(CONFIG).eval()


def test_content_follows_a_shift_and_style_ignores_it():
    torch.manual_seed(0)
    model = V3Model(CONFIG).eval()
    head = model.content_head
    with torch.no_grad():  # a detector of harmonic combs, as training finds one
        for peaks in head.peaks:
            peaks.weight.zero_()
            peaks.weight[:, :, 7] = 1
            peaks.bias.zero_()
        head.kernel.zero_()
        for offset in (0, 36, 57, 72, 84):
            head.kernel[:, KERNEL_BELOW + offset] = 1
    views = [Views(comb(p), comb(p), comb(p)) for p in (80, 95)]
    low, high = (model.encode(v) for v in views)
    assert int(high.position.argmax()) - int(low.position.argmax()) == 15
    torch.testing.assert_close(low.content[0, 60:180], high.content[0, 75:195], atol=0.02, rtol=0)
    torch.testing.assert_close(low.style, high.style, atol=1e-4, rtol=0)


def test_content_is_a_distribution_of_unit_norm(model):
    views = Views(*torch.rand(3, 7, G.n_bins))
    encoded = model.encode(views)
    torch.testing.assert_close(encoded.position.sum(-1), torch.ones(7))
    torch.testing.assert_close(encoded.content.norm(dim=-1), torch.ones(7))
    assert encoded.style.shape == (7, G.style_dim)


def test_decoder_moves_its_template_with_the_content(model):
    contents = torch.zeros(1, 2, G.n_positions)
    contents[0, 0, 60] = contents[0, 1, 72] = 1
    style = torch.randn(1, G.style_dim, generator=torch.Generator().manual_seed(0))
    spectra = model.decode(contents, style).spectrum
    formant = model.decoder.formant_of_style(style) + model.decoder.bias
    source = torch.logit(spectra[0]) - formant  # what is left is the moved template
    torch.testing.assert_close(source[0, :-12], source[1, 12:], atol=1e-4, rtol=0)
    assert float((source[0] - source[1]).abs().max()) > 0.01


def test_codebook_finds_clusters_and_revives_dead_atoms():
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(8, 5, generator=generator) * 5
    z = centres.repeat(40, 1) + 0.05 * torch.randn(320, 5, generator=generator)
    book = Codebook(8, 5, dead_below=25)  # of 40 a cluster: two atoms cannot share one
    book.start(z, generator)
    assert book(z).codes.unique().numel() == 8
    book.atoms[0] = book.total[0] = 1e3  # an atom nothing is near
    for _ in range(1000):
        out = book(z)
        book.update(z, out.codes, generator)
    out = book(z)
    assert out.codes.unique().numel() == 8
    assert float(out.commitment) < 0.05


def test_gradient_passes_straight_through():
    book = Codebook(4, 3)
    book.atoms.copy_(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    z = torch.randn(6, 3, requires_grad=True)
    book(z).z_q.sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))
    torch.testing.assert_close(book(z).z_q.detach(), book.atoms[book(z).codes])
