"""Each paper's equations, computed a second time from the lectures' formulas and compared with the code."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from ganctl.config import parse
from ganctl.load import family
from ganctl.losses import adversarial
from ganctl.models import dcgan, gan, lsgan, pix2pix, vae, wgan, wgan_gp
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Batch, Progress


def progress(seed: int = 0) -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(seed), torch.device("cpu"))


def images(n: int = 4, channels: int = 1, side: int = 16) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(9)) * 2 - 1


SMALL = {"resolution": 16, "channels": 1, "z_dim": 5, "ngf": 4, "ndf": 4}


def fakes(nets, n: int = 4) -> Tensor:
    """The images that a loss called with `progress()` generates."""
    return nets.G(progress().normal(n, nets.G.z_dim))


def test_gan_value_function() -> None:
    """V(D, G) = E log D(x) + E log(1 - D(G(z))); D ascends it, G descends its second half or ascends log D(G(z))."""
    cfg = gan.Config(resolution=16, g_hidden=(8,), d_hidden=(8,), z_dim=5)
    nets, x = gan.build(cfg), images()
    real, fake = nets.D(x).sigmoid(), nets.D(fakes(nets)).sigmoid()
    value = real.log().mean() + (1 - fake).log().mean()
    assert gan.d_loss(nets, Batch(x), progress(), cfg)["D_loss"].item() == pytest.approx(-value.item(), abs=1e-6)
    minimax = gan.g_loss(nets, Batch(x), progress(), replace(cfg, loss="minimax"))["G_loss"].item()
    assert minimax == pytest.approx((1 - fake).log().mean().item(), abs=1e-6)
    better = gan.g_loss(nets, Batch(x), progress(), cfg)["G_loss"].item()
    assert better == pytest.approx(-fake.log().mean().item(), abs=1e-6)


def test_minimax_gradient_vanishes_where_d_is_sure_and_the_other_does_not() -> None:
    """The lectures' saturation problem: d/dl log(1 - σ(l)) = -σ(l) → 0, d/dl -log σ(l) = σ(l) - 1 → -1."""
    gradients = {}
    for kind, loss in adversarial.LOG_LOSS_G.items():
        logit = torch.tensor([-20.0], requires_grad=True)
        loss(logit).backward()
        gradients[kind] = logit.grad.item()
    assert abs(gradients["minimax"]) < 1e-8
    assert gradients["non_saturating"] == pytest.approx(-1, abs=1e-6)


def test_losses_stay_finite_for_extreme_logits() -> None:
    high = torch.tensor([1e4, -1e4])
    for value in (adversarial.log_loss_d(high, high), *(f(high) for f in adversarial.LOG_LOSS_G.values())):
        assert value.isfinite()


def test_gan_takes_k_steps_of_d_and_the_chosen_loss() -> None:
    d, g = gan.phases(gan.Config(k=3))
    assert (d.repeat, g.repeat, d.updates, g.updates) == (3, 1, ("D",), ("G",))
    nets = gan.build(gan.Config(resolution=16, g_hidden=(8,), d_hidden=(8,)))
    values = [gan.phases(gan.Config(loss=kind))[1].loss(nets, Batch(images()), progress())["G_loss"].item()
              for kind in ("minimax", "non_saturating")]  # fmt: skip
    assert values[0] < 0 < values[1]


def test_lsgan_targets() -> None:
    cfg = lsgan.Config(**SMALL, a=-1.0, b=1.0, c=0.0)
    nets, x = lsgan.build(cfg), images()
    nets.G.eval(), nets.D.eval()
    real, fake = nets.D(x), nets.D(fakes(nets))
    expected = 0.5 * ((real - 1) ** 2).mean() + 0.5 * ((fake + 1) ** 2).mean()
    assert lsgan.d_loss(nets, Batch(x), progress(), cfg)["D_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    expected = 0.5 * (fake**2).mean()
    assert lsgan.g_loss(nets, Batch(x), progress(), cfg)["G_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_wgan_clips_the_critic_after_each_of_n_critic_steps() -> None:
    cfg = wgan.Config(**SMALL, clip=0.005, n_critic=5)
    nets = wgan.build(cfg)
    critic, generator = wgan.phases(cfg)
    assert (critic.repeat, generator.repeat, generator.after) == (5, 1, None)
    untouched = [p.clone() for p in nets.G.parameters()]
    assert max(p.abs().max() for p in nets.D.parameters()) > 0.005
    critic.after(nets)
    assert max(p.abs().max().item() for p in nets.D.parameters()) == pytest.approx(0.005)
    assert all(torch.equal(a, b) for a, b in zip(untouched, nets.G.parameters(), strict=True))
    nets.G.eval(), nets.D.eval()
    expected = nets.D(fakes(nets)).mean() - nets.D(images()).mean()
    found = critic.loss(nets, Batch(images()), progress())["D_loss"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_batch_norm_switch_is_of_the_generator_alone() -> None:
    nets = wgan.build(wgan.Config(**SMALL, batch_norm=False))
    assert not any(isinstance(m, BatchNorm) for m in nets.G.modules())
    assert any(isinstance(m, BatchNorm) for m in nets.D.modules())


def test_wgan_gp_penalty_against_a_critic_with_a_known_gradient() -> None:
    """For D(x) = Σ w·x the gradient is w everywhere, so the penalty is λ (‖w‖ - 1)² for any mixture."""
    cfg = wgan_gp.Config(resolution=16, channels=1, z_dim=5, width=8, gp_weight=10.0)
    nets, x = wgan_gp.build(cfg), images()
    w = torch.linspace(-1, 1, 256)
    nets.D = nn.Sequential(nn.Flatten(), linear := nn.Linear(256, 1, bias=False), nn.Flatten(0))  # type: ignore[assignment]
    linear.weight.data = w[None]
    terms = wgan_gp.d_loss(nets, Batch(x), progress(), cfg)
    assert terms["D_gp"].item() == pytest.approx(10 * (w.norm().item() - 1) ** 2, rel=1e-5)
    assert [p.repeat for p in wgan_gp.phases(cfg)] == [5, 1]
    assert not any(isinstance(m, BatchNorm) for m in wgan_gp.build(cfg).D.modules())


def test_wgan_gp_critic_sees_the_dark_half_of_the_range() -> None:
    """Its first block must not clip an image at 0: two images that differ only below 0 are told apart by more than
    the shortcut's mean, which is blind to what happens inside a 2 × 2 cell."""
    torch.manual_seed(0)
    D = wgan_gp.build(wgan_gp.Config(resolution=16, channels=1, width=8)).D
    checks = torch.tensor([[-1.0, -0.2], [-0.2, -1.0]]).repeat(8, 8)[None, None]
    stripes = torch.tensor([[-1.0, -1.0], [-0.2, -0.2]]).repeat(8, 8)[None, None]
    assert (D(checks) - D(stripes)).abs() > 1e-4


def test_vae_lower_bound() -> None:
    """-L = -E log p(x|z) + KL(q(z|x) ‖ N(0, I)), by torch.distributions."""
    torch.manual_seed(0)
    nets, x = vae.build(vae.Config(resolution=16, z_dim=5, hidden=(16,))), images().clamp(0).ceil() * 2 - 1
    mean, logvar = nets.AE.posterior(x)
    q = Normal(mean, (logvar / 2).exp())
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
    z = mean + q.stddev * progress().normal(4, 5)
    nll = -Bernoulli(logits=nets.AE.logits(z)).log_prob((x + 1) / 2).flatten(1).sum(1).mean()
    terms = vae.loss(nets, Batch(x), progress())
    assert terms["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert terms["nll"].item() == pytest.approx(nll.item(), rel=1e-5)


def test_pix2pix_halves_d_and_weighs_l1() -> None:
    cfg = pix2pix.Config(
        resolution=16, channels=1, source_channels=1, ngf=4, ndf=4, num_downs=3, n_layers=2, l1_weight=50.0
    )
    nets = pix2pix.build(cfg)
    nets.G.eval(), nets.D.eval()
    pair = Batch(images(), images().flip(0))
    fake = nets.G(pair.x, progress().uniform)
    real_logits, fake_logits = nets.D(torch.cat([pair.x, pair.y], 1)), nets.D(torch.cat([pair.x, fake], 1))
    expected = -0.5 * (real_logits.sigmoid().log().mean() + (1 - fake_logits.sigmoid()).log().mean())
    assert pix2pix.d_loss(nets, pair, progress())["D_loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    terms = pix2pix.g_loss(nets, pair, progress(), cfg)
    assert terms["G_l1"].item() == pytest.approx(50 * (fake - pair.y).abs().mean().item(), rel=1e-5)
    assert terms["G_loss"].item() == pytest.approx(-fake_logits.sigmoid().log().mean().item(), abs=1e-5)


def test_unet_has_the_papers_layers() -> None:
    """Appendix 6.1.1: C64-C128-C256-C512-C512-C512-C512-C512, and three dropouts in the decoder."""
    with torch.device("meta"):
        G = pix2pix.build(pix2pix.Config()).G
    downs = [m.out_channels for m in G.modules() if isinstance(m, nn.Conv2d)]
    assert downs == [64, 128, 256, 512, 512, 512, 512, 512]
    assert sum(m.drop for m in G.modules() if isinstance(m, pix2pix.Level)) == 3


def test_patchgan_sees_70_pixels() -> None:
    """Appendix 6.1.2: one output of the default discriminator depends on 70 × 70 input pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        D = pix2pix.build(pix2pix.Config(norm="instance", ndf=4)).D
    # Receptive field of 4 × 4 kernels, from the last layer to the first: r ← (r - 1) · stride + 4.
    r = 1
    for m in reversed([m for m in D.modules() if isinstance(m, nn.Conv2d)]):
        r = (r - 1) * m.stride[0] + m.kernel_size[0]
    assert r == 70


def test_initial_weights_are_those_of_dcgan() -> None:
    torch.manual_seed(0)
    nets = dcgan.build(dcgan.Config(resolution=32))
    for net in (nets.G, nets.D):
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                assert abs(m.weight.std().item() - 0.02) < 2e-3 and abs(m.weight.mean().item()) < 2e-3
            if isinstance(m, BatchNorm):
                assert abs(m.weight.mean().item() - 1) < 0.02 and not m.bias.any()


def test_sizes_that_networks_take() -> None:
    from ganctl.errors import UsageError
    from ganctl.nn.layers import halvings

    assert {r: halvings(r) for r in (64, 32, 28, 48, 8)} == {64: (4, 4), 32: (3, 4), 28: (2, 7), 48: (4, 3), 8: (1, 4)}
    for wrong in (1, 3, 4, 7, 30, 31, 100 + 1):
        with pytest.raises(UsageError, match=f"{wrong} px"):
            halvings(wrong)
    with pytest.raises(UsageError, match="multiples of 256"):
        pix2pix.build(pix2pix.Config(resolution=64))
    with pytest.raises(UsageError, match="g_layers give 3 px"):
        dcgan.build(dcgan.Config(resolution=28, g_layers=((1, 3, 2, 0),)))
    assert math.isclose(2 ** halvings(96)[0] * halvings(96)[1], 96)


@pytest.mark.parametrize(
    ("model", "changes", "layer", "scale"),
    [
        ("srgan", {"content": "vgg22"}, "relu2_2", 0.006),
        ("esrgan", {"perceptual_weight": 0.5, "l1_weight": 0.01}, "conv5_4", 0.5),
    ],
)
def test_the_content_loss_of_super_resolution_is_over_the_papers_features(model, changes, layer, scale) -> None:
    """Features taken by another network of the same weights, the distance by hand; its gradient reaches G."""
    from ganctl.nn.features.vgg import VGG19Features
    from ganctl.nn.shrink import shrink

    small = {"resolution": 16, "width": 4, "num_blocks": 1, "ndf": 4}
    module = family(model)
    cfg = parse(module.Config, {**small, **changes}, where=model)
    torch.manual_seed(0)
    nets, b = module.build(cfg), Batch(images(2, 3))
    nets.G.eval()
    terms = module.g_loss(nets, b, progress(), cfg)
    other = VGG19Features([layer])
    other.load_state_dict(nets.vgg.state_dict())
    mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    made = nets.G.translate(shrink(b.x, 4))
    (a,), (wanted,) = (other(((x + 1) / 2 - mean) / deviation) for x in (made, b.x))
    distance = (a - wanted).square().mean() if model == "srgan" else (a - wanted).abs().mean()
    assert terms["G_vgg"].item() == pytest.approx(scale * distance.item(), rel=1e-4) and distance.item() > 0
    terms["G_vgg"].backward()
    assert all(q.grad is not None for q in nets.G.parameters()) and nets.vgg.features[0].weight.grad is None
    assert module.given(cfg) == {"vgg.features": "vgg19-imagenet"} and module.given(module.Config()) == {}
    assert ("G_mse" in terms, "G_l1" in terms) == (False, model == "esrgan")
