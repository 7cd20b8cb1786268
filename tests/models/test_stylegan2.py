"""StyleGAN2 beyond its golden files: every architecture, noise, truncation, mixing, lazy regularisation."""

import pytest
import torch
from torch import Tensor

from ganctl.config import parse
from ganctl.errors import UsageError
from ganctl.losses.regularizers import path_length_penalty, path_lengths
from ganctl.models import stylegan2
from ganctl.nn import winograd
from ganctl.nn.clip import clip
from ganctl.phase import Adam, Batch, Progress

TINY = {"resolution": 16, "z_dim": 6, "w_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 8}


def tiny(**changes: object) -> tuple[stylegan2.Config, stylegan2.Nets]:
    cfg = parse(stylegan2.Config, {**TINY, **changes}, where="test")
    torch.manual_seed(0)
    nets = stylegan2.build(cfg)
    # As trained a little: noise is heard, and w has a mean.
    for name, q in nets.G.named_parameters():
        if name.endswith("noise_strength"):
            q.data.fill_(0.5)
    nets.G.mapping.w_avg.normal_()
    return cfg, nets


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def progress() -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(3), torch.device("cpu"))


@pytest.mark.parametrize("d", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("g", ["orig", "skip", "resnet"])
def test_every_architecture_has_its_layers_and_learns(g: str, d: str) -> None:
    cfg, nets = tiny(g_architecture=g, d_architecture=d)
    keys_g, keys_d = set(nets.G.synthesis.state_dict()), set(nets.D.state_dict())
    for side in (4, 8, 16):
        assert (f"b{side}.torgb.weight" in keys_g) == (g == "skip" or side == 16)
        assert (f"b{side}.skip.weight" in keys_g) == (g == "resnet" and side > 4)
        assert (f"b{side}.conv0.weight" in keys_g) == (side > 4)
        assert (f"b{side}.fromrgb.weight" in keys_d) == (d == "skip" or side == 16)
        assert (f"b{side}.skip.weight" in keys_d) == (d == "resnet" and side > 4)
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    for phase in stylegan2.phases(cfg):
        terms = phase.loss(nets, Batch(x), progress())
        sum(terms.values()).backward()  # type: ignore[union-attr]
        moved = getattr(nets, phase.updates[0])
        assert all(q.grad is not None and q.grad.isfinite().all() for q in moved.parameters() if q.ndim > 1)


@torch.no_grad()
def test_images_of_an_rgb_output_add_up_in_skip_alone() -> None:
    """Without the finest image output, the skip network still has a picture: the coarser ones enlarged."""
    _, nets = tiny()
    G = nets.G
    z = G.prior(range(2))
    whole = G.synthesis(G.map(z))
    last = G.synthesis.b16.torgb
    last.weight.zero_()
    last.bias.zero_()
    coarse = G.synthesis(G.map(z))
    assert coarse.std() > 0.1 and (whole - coarse).std() > 0.1


@torch.no_grad()
def test_noise_is_each_images_own_and_none_is_the_mean() -> None:
    _, nets = tiny()
    G = nets.G
    w = G.map(G.prior(range(3)))

    const, none = G.synthesize(w), G.synthesize(w, noise="none")
    random = G.synthesize(w, noise=generators(5, 6, 7))
    for a, b in ((const, none), (const, random), (none, random)):
        assert (a - b).abs().mean() > 1e-3
    assert torch.equal(random, G.synthesize(w, noise=generators(5, 6, 7)))
    assert torch.allclose(random[1:2], G.synthesize(w[1:2], noise=generators(6)), atol=1e-5)
    for q in (q for name, q in G.named_parameters() if name.endswith("noise_strength")):
        q.zero_()
    assert torch.equal(G.synthesize(w), none) and torch.equal(G.synthesize(w, noise=generators(5, 6, 7)), none)
    silent = tiny(noise=False)[1].G
    assert not any("noise" in key for key in silent.state_dict())
    assert torch.equal(silent.synthesize(w), silent.synthesize(w, noise="none"))
    with pytest.raises(ValueError):
        G.synthesize(w, noise=generators(5))


@torch.no_grad()
def test_truncation_draws_towards_the_mean_up_to_the_cutoff() -> None:
    _, nets = tiny()
    G = nets.G
    z = G.prior(range(2))
    assert z.shape == (2, 6) and G.synthesis.layers == 6
    w, mean = G.map(z), G.mapping.w_avg
    assert torch.allclose(G.map(z, psi=0.0), mean.expand(2, 6, 8))
    assert torch.allclose(G.map(z, psi=0.25), mean + 0.25 * (w - mean), atol=1e-6)
    part = G.map(z, psi=0.25, cutoff=2)
    assert torch.equal(part[:, 2:], w[:, 2:]) and torch.equal(part[:, :2], G.map(z, psi=0.25)[:, :2])
    assert torch.equal(G.sample(z, psi=0.25), G.synthesize(G.map(z, psi=0.25)))


def test_classes_are_needed_by_networks_that_have_them() -> None:
    _, nets = tiny(classes=3)
    z, c = nets.G.prior(range(3)), torch.tensor([0, 1, 2])
    x = nets.G.sample(z, c)
    assert nets.G.c is not None and nets.G.c.n == 3
    assert (x - nets.G.sample(z, c.flip(0))).abs().max() > 1e-3
    assert (nets.D(x, c) - nets.D(x, c.flip(0))).abs().max() > 1e-4
    for call in (lambda: nets.G.sample(z), lambda: nets.D(x)):
        with pytest.raises(UsageError, match="no class"):
            call()
    assert tiny()[1].G.c is None


def test_mixing_takes_the_second_style_from_a_layer_on() -> None:
    ws, second = torch.zeros(3, 6, 2), torch.ones(3, 2)
    mixed = stylegan2.mix(ws, second, torch.tensor([1.0, 4.0, 6.0]))
    assert mixed[:, :, 0].tolist() == [[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6]
    for share in (0.0, 0.9, 1.0):
        cfg, nets = tiny(style_mixing=share)
        ws = stylegan2.styles(nets, None, progress(), cfg, 400)
        same = (ws == ws[:, :1]).all(2)
        assert same[:, 0].all() and abs(float((~same[:, -1]).float().mean()) - share) < 0.05
        if share:
            assert {int(n) for n in same[~same[:, -1]].sum(1)} == {1, 2, 3, 4, 5}


def test_the_running_mean_of_w_follows_training_alone() -> None:
    cfg, nets = tiny(w_beta=0.5, style_mixing=0.0)
    before = nets.G.mapping.w_avg.clone()
    nets.G.sample(nets.G.prior([0]))
    assert torch.equal(nets.G.mapping.w_avg, before)
    ws = stylegan2.styles(nets, None, progress(), cfg, 4)
    assert torch.allclose(nets.G.mapping.w_avg, (before + ws[:, 0].mean(0)) / 2)


def test_path_length_is_the_jacobians() -> None:
    """Of a linear generator: over many y, the mean square of ‖Jᵀ y‖ is ‖J‖², here over layers and pixels."""
    g = torch.Generator().manual_seed(0)
    jacobian, n = torch.randn(3 * 4 * 4, 2 * 5, generator=g), 4000
    ws = torch.randn(n, 2, 5, generator=g, requires_grad=True)
    image = (ws.flatten(1) @ jacobian.T).view(n, 3, 4, 4)
    lengths = path_lengths(image, ws, torch.randn(n, 3, 4, 4, generator=g))
    assert abs(float(lengths.detach().square().mean()) / float(jacobian.square().sum() / 2 / 16) - 1) < 0.03
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    penalty, mean = path_length_penalty(lengths, torch.tensor(1.0), 0.5)
    assert mean.item() == 1.5 and penalty.tolist() == [0.25, 2.25]
    penalty.sum().backward()
    # d/dl Σ (l - a)² with a = ½ + (l₁ + l₂) / 4.
    assert torch.allclose(lengths.grad, torch.tensor([-1.0 - 0.5, 3.0 - 0.5]))  # type: ignore[arg-type]


def test_lazy_regularisation_corrects_the_optimisers_and_may_be_left_out() -> None:
    cfg, nets = tiny(beta1=0.5)
    adam = stylegan2.optimizers(cfg)
    assert adam["G"] == Adam(2e-3 * 4 / 5, 0.5 ** (4 / 5), 0.99 ** (4 / 5))
    assert adam["D"] == Adam(2e-3 * 16 / 17, 0.5 ** (16 / 17), 0.99 ** (16 / 17))
    assert [(p.name, p.every) for p in stylegan2.phases(cfg)] == [("D", 1), ("D_r1", 16), ("G", 1), ("G_pl", 4)]
    assert "mean" in nets.path.state_dict()
    plain, _ = tiny(r1_gamma=0.0, pl_weight=0.0)
    assert [p.name for p in stylegan2.phases(plain)] == ["D", "G"]
    assert stylegan2.optimizers(plain) == {"G": Adam(2e-3, 0.0, 0.99), "D": Adam(2e-3, 0.0, 0.99)}


def test_half_precision_stays_near_and_only_where_it_may() -> None:
    _, nets = tiny(clamp=256.0, num_fp16_res=1)
    G, dtypes = nets.G, {}
    for side in (4, 8, 16):
        block = getattr(G.synthesis, f"b{side}")
        block.conv1.register_forward_hook(lambda _m, _a, out, side=side: dtypes.update({side: out.dtype}))
    z = G.prior(range(2))
    with torch.no_grad():
        exact = G.sample(z)
        only = [False, False, True]
        for half, training, expected in (
            *((torch.bfloat16, False, [True] * 3), (torch.bfloat16, True, only)),
            *((torch.float16, False, only), (torch.float16, True, only)),
        ):
            nets.G.train(training), nets.D.train(training)
            with torch.autocast("cpu", half):
                x = G.sample(z)
                logits = nets.D(x)
            assert [dtypes[side] == half for side in (4, 8, 16)] == expected
            assert x.dtype == logits.dtype == torch.float32 and (x - exact).abs().mean() < 0.02


@pytest.mark.parametrize("g", ["skip", "resnet"])
def test_pictures_and_training_agree(g: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gradients are wanted layers are plain convolutions; pictures are made the faster way."""
    monkeypatch.setattr(winograd, "SMALLEST", 4)
    _, nets = tiny(g_architecture=g, clamp=1.0)
    w = nets.G.map(nets.G.prior(range(3)))
    for noise in ("const", "none", None):
        exact = nets.G.synthesize(w, noise=noise or generators(5, 6, 7))
        with torch.no_grad():
            fast = nets.G.synthesize(w, noise=noise or generators(5, 6, 7))
        assert exact.requires_grad and 0 < (fast - exact).abs().max() < 2e-5


@pytest.mark.parametrize("resolution", [4, 12, 48])
def test_other_sides_are_refused(resolution: int) -> None:
    with pytest.raises(UsageError, match="powers of 2"):
        tiny(resolution=resolution)


def test_the_cut_lets_gradients_pass() -> None:
    x = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    y: Tensor = clip(x)
    assert y.tolist() == [-1.0, 0.5, 1.0]
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 2.0, 3.0]


def test_widths_are_those_of_configuration_f() -> None:
    widths = [stylegan2.width(stylegan2.Config(), 2**i) for i in range(2, 11)]
    assert widths == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    with torch.device("meta"):
        nets = stylegan2.build(stylegan2.Config())
    # As the authors' training script counts them.
    counts = {k: sum(q.numel() for q in getattr(nets, k).parameters()) for k in ("G", "D")}
    assert counts == {"G": 30_370_060, "D": 29_012_513}
