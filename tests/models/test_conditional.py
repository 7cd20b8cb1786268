"""What class-conditional GANs are built of, held against what it is by definition."""

import pytest
import torch
from torch import nn

from ganctl.errors import UsageError
from ganctl.losses.regularizers import orthogonality
from ganctl.models import biggan, biggan_deep, sngan
from ganctl.nn.layers import truncated_normal
from ganctl.nn.norm import ConditionalBatchNorm, at_truncation
from ganctl.nn.projection import attended
from ganctl.nn.spectral import SNConv2d, SNLinear
from ganctl.train.loop import TrainConfig, run_phase
from tests.models.test_contract import batch, state_of, tiny


def test_truncated_normal_is_one() -> None:
    """Its quantiles are those of a normal between -2 and 2, by rejection; it keeps the order, and 1 changes nothing."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200_000, generator=g)
    assert truncated_normal(z, 1.0) is z
    kept = torch.randn(400_000, generator=g)
    kept = kept[kept.abs() <= 2]
    ours = truncated_normal(z, 0.5)
    assert ours.abs().max() <= 1
    q = torch.tensor([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
    assert (ours.quantile(q) - 0.5 * kept.quantile(q)).abs().max() < 0.01
    assert torch.equal(z[:999].argsort(), ours[:999].argsort())
    assert truncated_normal(z[:5], 0.0).abs().max() == 0


def test_spectral_norm_comes_to_the_largest_singular_value() -> None:
    layer = SNLinear(20, 12)
    nn.init.normal_(layer.weight)
    for _ in range(200):
        layer(torch.zeros(1, 20))
    layer.eval()
    normalised = (layer(torch.eye(20)) - layer.bias).detach()
    assert torch.linalg.matrix_norm(normalised, 2) == pytest.approx(1, abs=1e-4)


def test_orthogonality_is_the_papers() -> None:
    w, v = torch.randn(3, 2, 2, 2), torch.randn(4, 5)
    expected = 0.0
    for m in (w.reshape(3, 8), v):
        expected += float(((m @ m.T) * (1 - torch.eye(len(m)))).square().sum())
    assert float(orthogonality([w, v])) == pytest.approx(expected, rel=1e-5)
    conv = SNConv2d(4, 3, 3)
    assert float(orthogonality([conv.weight.detach()])) < 1e-9  # where training begins


def test_conditional_batch_norm_normalises_then_scales_by_class() -> None:
    gain, bias = nn.Embedding(2, 3), nn.Embedding(2, 3)
    norm = ConditionalBatchNorm(3, gain, bias)
    x, c = torch.randn(6, 3, 4, 4) * 3 + 1, torch.tensor([0, 1, 0, 1, 1, 0])
    y = norm(x, c)
    plain = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    by_class = plain * (1 + gain.weight[c])[:, :, None, None] + bias.weight[c][:, :, None, None]
    assert torch.allclose(y, by_class, atol=1e-5)
    assert torch.allclose(norm.get_buffer("stored_mean"), 0.1 * x.mean((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("module", [biggan, biggan_deep])
def test_standing_statistics_are_those_of_its_own_pictures(module) -> None:
    """What a batch's norms see, averaged: then evaluation gives what training mode gives, and u stays as it is."""
    cfg = module.Config(resolution=16, ngf=4, ndf=4, z_dim=6, shared_dim=4, classes=3, standing=30)
    torch.manual_seed(0)
    G = module.build(cfg).G.eval()
    z, y = torch.randn(500, G.z_dim), G.shared(torch.arange(500) % 3)
    before = {k: v.clone() for k, v in G.named_buffers()}
    with torch.no_grad():
        far = (G(z, y) - G.train()(z, y)).abs().mean()
        G.load_state_dict({**G.state_dict(), **before})
        module.settle(G.eval(), cfg)
        kept = {k: v.clone() for k, v in G.named_buffers()}
        near = (G(z, y) - G.train()(z, y)).abs().mean()
    assert near < 0.2 * far
    assert all(torch.equal(kept[k], v) for k, v in before.items() if k.endswith("u0"))
    assert not any(torch.equal(kept[k], v) for k, v in before.items() if k.endswith("stored_var"))


def test_rows_of_statistics_between_two_truncations() -> None:
    table = torch.arange(51.0)[:, None]
    assert at_truncation(table, 0.0) == 0 and at_truncation(table, 1.0) == 50
    assert at_truncation(table, 0.58) == 29 and at_truncation(table, 0.4) == 20
    assert float(at_truncation(table, 0.43)) == pytest.approx(0.5 * 21 + 0.5 * 22)
    # As the published networks have it: the nearer row counts less.
    assert float(at_truncation(table, 0.405)) == pytest.approx(0.25 * 20 + 0.75 * 21)


def test_sizes_that_the_papers_networks_do_not_come_to() -> None:
    with pytest.raises(UsageError, match="4 px doubled up to 7 times"):
        sngan.build(sngan.Config(resolution=1024))
    with pytest.raises(UsageError, match="feature maps are of 8, 16, 32 px"):
        attended("sagan", 32, [64])
    assert attended("sagan", 256, None) == {64} and attended("sagan", 32, None) == {16}
    with pytest.raises(UsageError, match="z has 4 parts"):
        biggan.build(biggan.Config(resolution=32, z_dim=3, classes=2, ngf=2, ndf=2))
    with pytest.raises(UsageError, match="numbers that never grow"):
        biggan_deep.build(biggan_deep.Config(resolution=16, g_widths=(8, 8, 8, 16, 16)))
    with pytest.raises(UsageError, match="51 rows of batch statistics"):
        biggan_deep.phases(biggan_deep.Config(statistics=51))


def test_the_convolutional_cgan_trains_and_heeds_its_class() -> None:
    module, cfg, nets = tiny("cgan", convolutional=True, width=8)
    before = {name: [p.clone() for p in getattr(nets, name).parameters()] for name in ("G", "D")}
    state = state_of(module, cfg, nets)
    for phase in module.phases(cfg):
        for _ in range(2):
            run_phase(state, phase, batch(cfg), TrainConfig(batch=4))
    for name, old in before.items():
        assert all(
            not torch.equal(a, b) for a, b in zip(old, getattr(nets, name).parameters(), strict=True) if a.ndim > 1
        )
    G = nets.G.eval()
    z = G.prior([3, 3])
    images = G.sample(z, torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().max() > 1e-3
    with pytest.raises(UsageError, match="no class given"):
        G.sample(z)
