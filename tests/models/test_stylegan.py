"""StyleGAN's equations: adaptive instance normalisation, truncation, noise, mixing, R1 while growing."""

import pytest
import torch
import torch.nn.functional as F

from ganctl.models import progan, stylegan
from ganctl.phase import Batch, Progress

SMALL = {
    "resolution": 16, "channels": 1, "z_dim": 5, "w_dim": 6, "mapping_width": 7, "mapping_layers": 3, "width": 8,
    "grow_from": 4, "stage_kimg": 1.0, "fade_kimg": 2.0,
}  # fmt: skip


def progress(nimg: int = 10**6) -> Progress:
    return Progress(nimg, 0, torch.Generator().manual_seed(4), torch.device("cpu"))


def images(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(9)) * 2 - 1


def nets(**changes: object) -> stylegan.Nets:
    """With noise that is heard: its strengths start from 0."""
    torch.manual_seed(0)
    built = stylegan.build(stylegan.Config(**{**SMALL, **changes}))
    for name, p in built.G.named_parameters():
        if name.endswith("apply_noise.weight"):
            torch.nn.init.normal_(p)
    return built


@torch.no_grad()
def test_a_layer_ends_with_the_style_as_its_statistics() -> None:
    """AdaIN(x, y) = y_s (x - μ(x)) / σ(x) + y_b  (eq. 1): every feature map has mean y_b and deviation |y_s|."""
    layer = nets().G.synthesis.layer1
    w = torch.randn(3, 6)
    y = layer(torch.randn(3, 8, 4, 4), w, "const")
    scale, shift = layer.style(w).chunk(2, 1)
    assert torch.allclose(y.mean((2, 3)), shift, atol=1e-5)
    assert torch.allclose(y.std((2, 3), unbiased=False), (1 + scale).abs(), atol=1e-4)


@torch.no_grad()
def test_the_filter_is_1_2_1_along_both_axes() -> None:
    x = torch.randn(2, 3, 5, 7)
    kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    expected = F.conv2d(x, kernel.expand(3, 1, 3, 3), padding=1, groups=3)
    assert torch.allclose(stylegan.blurred(x), expected, atol=1e-6)


@torch.no_grad()
def test_truncation_draws_the_first_layers_to_the_mean() -> None:
    G = nets().G.eval()
    G.mapping.w_avg.copy_(torch.randn(6))
    z = G.prior([0, 1])
    w = G.map(z)
    assert w.shape == (2, 6, 6) and torch.equal(w, w[:, :1].expand_as(w))
    assert torch.allclose(G.map(z, psi=0.0), G.mapping.w_avg.expand_as(w), atol=1e-6)
    cut = G.map(z, psi=0.7, cutoff=2)
    assert torch.allclose(cut[:, :2], G.mapping.w_avg + 0.7 * (w[:, :2] - G.mapping.w_avg), atol=1e-6)
    assert torch.equal(cut[:, 2:], w[:, 2:])
    assert torch.equal(G.sample(z, psi=0.5), G.synthesize(G.map(z, psi=0.5)))


@torch.no_grad()
def test_noise_is_stored_none_or_each_images_own() -> None:
    G = nets().G.eval()
    w = G.map(G.prior([0, 0, 1]))
    const, none = G.synthesize(w), G.synthesize(w, noise="none")
    assert torch.allclose(const[0], const[1], atol=1e-5) and not torch.allclose(const, none)
    drawn = G.synthesize(w, noise=[torch.Generator().manual_seed(s) for s in (5, 6, 5)])
    assert not torch.allclose(drawn[0], drawn[1])
    alone = G.synthesize(w[2:], noise=[torch.Generator().manual_seed(5)])
    assert torch.allclose(alone[0], drawn[2], atol=1e-5)


@torch.no_grad()
def test_mixing_takes_a_second_latent_from_a_layer_on() -> None:
    n = nets()

    def places(count: int, lod: float, share: float = 0.9) -> torch.Tensor:
        """Where w changes, [count, layers - 1]."""
        ws = stylegan.styles(n, progress(), stylegan.Config(**SMALL, style_mixing=share), count, lod)
        return (ws[:, 1:] != ws[:, :-1]).any(2)

    found = places(400, 0.0)
    assert set(found.sum(1).tolist()) == {0, 1} and found.sum().item() / 400 == pytest.approx(0.9, abs=0.05)
    assert found.float().mean(0).min() > 0.1, "every layer but the first may be the place"
    # A network of 4 px has two layers, and so one place.
    assert places(100, 2.0).sum(0)[0] > 80 and not places(100, 2.0)[:, 1:].any()
    assert not places(50, 0.0, 0.0).any()


@torch.no_grad()
def test_the_mean_of_w_follows_the_batches() -> None:
    n, cfg = nets(), stylegan.Config(**SMALL, w_beta=0.9)
    n.G.mapping.w_beta = 0.9
    before = torch.randn(6)
    n.G.mapping.w_avg.copy_(before)
    w = n.G.mapping(progress().normal(32, 5))
    stylegan.styles(n, progress(), cfg, 32, 0.0)
    assert torch.allclose(n.G.mapping.w_avg, 0.9 * before + 0.1 * w.mean(0), atol=1e-5)


def test_r1_of_a_network_that_has_not_grown_is_that_of_full_images() -> None:
    """γ / 2 E ‖∇ D(x)‖², computed here on enlarged pictures."""
    n, cfg, nimg = nets(), stylegan.Config(**SMALL), 2000
    lod = progan.lod_at(nimg, 2, 1.0, 2.0)
    assert lod == 1.5
    real = F.interpolate(progan.at_detail(images(), lod), scale_factor=2).requires_grad_(True)
    logits = n.D(real, lod)
    (grad,) = torch.autograd.grad(logits.sum(), real)
    terms = stylegan.d_loss(n, Batch(images()), progress(nimg), cfg)
    assert terms["D_r1"].item() == pytest.approx(5 * grad.square().sum((1, 2, 3)).mean().item(), rel=1e-4)
    fake = n.D(stylegan.generated(n, progress(), cfg, 4, lod), lod)
    expected = -logits.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    assert terms["D_loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    g = stylegan.g_loss(n, Batch(images()), progress(nimg), cfg)["G_loss"]
    assert g.item() == pytest.approx(-fake.sigmoid().log().mean().item(), abs=1e-5)
    assert n.G.synthesis.lod.item() == n.D.lod.item() == 1.5
