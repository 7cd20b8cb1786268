"""The autoencoders with adversaries, and the stack: their losses and priors computed a second time by other means."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from ganctl.errors import UsageError
from ganctl.models import aae, ae, stacked_gan, vaegan, wae
from ganctl.phase import Batch, Progress


def progress(nimg: int = 0) -> Progress:
    return Progress(nimg, 0, torch.Generator().manual_seed(0), torch.device("cpu"))


def images(n: int = 8, seed: int = 9) -> Tensor:
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


SMALL = {"resolution": 16, "channels": 1, "z_dim": 5}


def log(logits: Tensor, *, real: bool) -> float:
    """E log D or E log(1 - D), from probabilities in double precision."""
    p = logits.double().sigmoid()
    return (p if real else 1 - p).log().mean().item()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_ae_is_the_cross_entropy_of_pixels_taken_for_probabilities() -> None:
    nets, x = ae.build(ae.Config(**SMALL, hidden=(12,))), images()
    decoded = (nets.AE.decode(nets.AE.encode(x)) + 1) / 2
    expected = -Bernoulli(probs=decoded, validate_args=False).log_prob((x + 1) / 2).flatten(1).sum(1).mean()
    assert ae.loss(nets, Batch(x), progress())["nll"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_ae_samples_the_gaussian_of_its_codes() -> None:
    net = ae.build(ae.Config(**{**SMALL, "z_dim": 3}, hidden=(4,))).AE
    root = torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, -1, 1]])
    wanted = MultivariateNormal(torch.tensor([1.0, -2, 3]), root @ root.T)
    for _ in range(1500):
        net.observe(wanted.sample((200,)))
    drawn = net.prior(range(6000)).double()
    assert (drawn.mean(0) - wanted.mean).abs().max() < 0.2
    assert (torch.cov(drawn.T) - wanted.covariance_matrix).abs().max() < 0.5
    with torch.no_grad():
        # A covariance that rounding has left a little negative is still drawn from.
        net.covariance.copy_(torch.diag(torch.tensor([1.0, 1.0, -1e-6])))
    assert net.prior([0]).isfinite().all()


def test_mixture_and_swiss_roll_have_their_parts_in_order() -> None:
    normal, part = torch.randn(20000, 2), torch.rand(20000)
    k = 10
    for c in (0, 3, 9):
        z = aae.mixture(normal, part, torch.full((len(part),), c), k)
        angle = 2 * math.pi * c / k
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        along, across = z @ direction, z @ torch.tensor([-direction[1], direction[0]])
        for values, mean, std in ((along, aae.RADIUS, aae.ALONG), (across, 0.0, aae.ACROSS)):
            assert values.mean().item() == pytest.approx(mean, abs=0.05)
            assert values.std().item() == pytest.approx(std, rel=0.05)
    whole = aae.mixture(normal, part, None, k)
    nearest = torch.atan2(whole[:, 1], whole[:, 0]) / (2 * math.pi / k)
    shares = torch.bincount(nearest.round().long() % k, minlength=k) / len(whole)
    assert (shares - 1 / k).abs().max() < 0.02

    spiral = aae.swiss_roll(0 * normal, part, None, k)
    # Archimedes: the radius grows with the angle, and equal lengths are equally likely.
    radius = spiral.norm(dim=1)
    assert radius.max().item() == pytest.approx(aae.REACH, abs=0.01)
    assert (radius / aae.REACH).square().mean().item() == pytest.approx(0.5, abs=0.01)
    ends = [aae.swiss_roll(0 * normal, part, torch.full((len(part),), c), k).norm(dim=1) for c in range(k)]
    assert all(a.max() <= b.min() + 1e-3 for a, b in itertools.pairwise(ends))
    assert ends[3].min().item() == pytest.approx(aae.REACH * math.sqrt(0.3), abs=0.01)


def test_aae_weighs_reconstruction_and_adversary() -> None:
    cfg = aae.Config(**SMALL, hidden=(12,), prior_std=2.0, adversarial=3.0)
    nets, x = aae.build(cfg), images()
    z = nets.AE.encode(x)
    terms = aae.ae_loss(nets, Batch(x), progress(), cfg)
    assert list(terms) == ["rec", "G_z"]
    error = ((nets.AE.decode(z) - x) / 2).square().flatten(1).sum(1).mean() / 2
    assert terms["rec"].item() == pytest.approx(error.item(), rel=1e-5)
    assert terms["G_z"].item() == pytest.approx(-3 * log(nets.D.z(z), real=True), rel=1e-5)
    drawn = 2 * progress().normal(8, 5)
    expected = -log(nets.D.z(drawn), real=True) - log(nets.D.z(z), real=False)
    assert aae.d_loss(nets, Batch(x), progress(), cfg)["D_z"].item() == pytest.approx(expected, rel=1e-5)


def test_aae_tells_d_the_class_and_one_more_for_the_unknown() -> None:
    """Sec. 2.3: a known class has its part of the prior; an unknown one is compared with the whole of it."""
    cfg = aae.Config(**{**SMALL, "z_dim": 2}, hidden=(12,), prior="swiss_roll", classes=4, classes_in="prior")
    nets, x, y, c = aae.build(cfg), images(), images(seed=3), torch.arange(8) % 4
    assert nets.AE.c is None and nets.D.y is None
    seen: list[Tensor] = []
    D = nets.D.z
    nets.D.z = Recording(D, seen)
    aae.d_loss(nets, Batch(x, None, c), progress(), cfg)
    real, fake = seen
    assert torch.equal(fake, torch.cat([nets.AE.encode(x), F.one_hot(c, 5).float()], 1))
    assert torch.equal(real[:, 2:], F.one_hot(c, 5).float())
    p = progress()
    assert torch.equal(real[:, :2], aae.swiss_roll(p.normal(8, 2), p.uniform(8), c, 4))
    seen.clear()
    aae.d_loss(nets, Batch(x, y, None, c), progress(), cfg)
    real, fake = seen
    told = torch.cat([torch.full((8,), 4), c])
    assert torch.equal(fake[:, 2:], F.one_hot(told, 5).float()) and torch.equal(real[:, 2:], fake[:, 2:])
    assert torch.equal(fake[:, :2], nets.AE.encode(torch.cat([x, y])))
    p = progress()
    normal, part = p.normal(16, 2), p.uniform(16)
    assert torch.equal(real[:8, :2], aae.swiss_roll(normal, part, None, 4)[:8])
    assert torch.equal(real[8:, :2], aae.swiss_roll(normal, part, told.clamp(max=3), 4)[8:])
    seen.clear()
    terms = aae.ae_loss(nets, Batch(x, y, None, c), progress(), cfg)
    assert torch.equal(seen[0], fake) and list(terms) == ["rec", "G_z"]


class Recording(nn.Module):
    """A discriminator that keeps what it was shown."""

    def __init__(self, D: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.D, self.seen = D, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return self.D(x)


def test_aae_with_classes_in_its_code_learns_them_from_the_labelled_images() -> None:
    """Sec. 5: reconstruction of x from (y, z), adversaries of both, cross-entropy of labelled images alone."""
    cfg = aae.Config(**SMALL, hidden=(12,), classes=4, adversarial=2.0)
    nets, x, y, c = aae.build(cfg), images(), images(seed=3), torch.arange(8) % 4
    terms = aae.ae_loss(nets, Batch(x, y, None, c), progress(), cfg)
    assert list(terms) == ["rec", "G_z", "G_y", "classes"]
    logits = nets.AE.logits(y)
    expected = -2 * logits.double().softmax(1).log()[torch.arange(8), c].mean().item()
    assert terms["classes"].item() == pytest.approx(expected, rel=1e-5)
    probabilities = nets.AE.logits(x).softmax(1)
    assert terms["G_y"].item() == pytest.approx(-2 * log(nets.D.y(probabilities), real=True), rel=1e-5)
    d = aae.d_loss(nets, Batch(x, y, None, c), progress(), cfg)
    p = progress()
    p.normal(8, 5), p.uniform(8)
    categorical = F.one_hot((p.uniform(8) * 4).long(), 4).float()
    expected = -log(nets.D.y(categorical), real=True) - log(nets.D.y(probabilities), real=False)
    assert d["D_y"].item() == pytest.approx(expected, rel=1e-5)
    # All images labelled: their own classes.
    terms = aae.ae_loss(nets, Batch(x, None, c), progress(), cfg)
    assert terms["classes"].item() == pytest.approx(2 * F.cross_entropy(nets.AE.logits(x), c).item(), rel=1e-6)
    assert nets.AE.c and nets.AE.c.n == 4


def test_aae_refuses_what_no_prior_can_give() -> None:
    with pytest.raises(ValueError, match="z_dim must be 2"):
        aae.Config(prior="mixture")
    with pytest.raises(UsageError, match="part of the prior"):
        aae.build(aae.Config(classes=10, classes_in="prior"))


@pytest.mark.parametrize("penalty", ["gan", "mmd"])
def test_wae_adds_the_penalty_to_the_cost(penalty: str) -> None:
    cfg = wae.Config(**SMALL, width=4, d_hidden=(12,), penalty=penalty, weight=7.0)
    nets, x = wae.build(cfg), images()
    nets.AE.eval()
    z = nets.AE.encode(x)
    phases = wae.phases(cfg)
    terms = phases[-1].loss(nets, Batch(x), progress())
    cost = wae.COST * ((nets.AE.decode(z) - x) / 2).square().flatten(1).sum(1).mean()
    assert terms["rec"].item() == pytest.approx(cost.item(), rel=1e-5)
    p = progress().normal(8, 5)
    if penalty == "mmd":
        assert [phase.name for phase in phases] == ["AE"] and list(wae.optimizers(cfg)) == ["AE"]
        assert terms["mmd"].item() == pytest.approx(7 * pairwise(z, p, 10.0), rel=1e-4)
        return
    assert terms["G_z"].item() == pytest.approx(-7 * log(nets.D(z), real=True), rel=1e-5)
    expected = -7 * (log(nets.D(p), real=True) + log(nets.D(z), real=False))
    assert phases[0].loss(nets, Batch(x), progress())["D_z"].item() == pytest.approx(expected, rel=1e-5)


def pairwise(q: Tensor, p: Tensor, base: float) -> float:
    """Alg. 2, pair by pair."""
    n, total = len(q), 0.0

    def k(a: Tensor, b: Tensor) -> float:
        return sum(base * s / (base * s + (a - b).square().sum().item()) for s in wae.SCALES)

    for i in range(n):
        for j in range(n):
            within = 0.0 if i == j else (k(q[i], q[j]) + k(p[i], p[j])) / (n * (n - 1))
            total += within - 2 * k(q[i], p[j]) / n**2
    return total


def test_wae_refuses_a_side_that_cannot_be_halved_four_times() -> None:
    with pytest.raises(UsageError, match="halves the side 4 times"):
        wae.build(wae.Config(resolution=12))


VAEGAN = vaegan.Config(**SMALL, width=4, enc_units=8, dis_units=8, recon_weight=0.05)


def test_vaegan_terms() -> None:
    nets, x = vaegan.build(VAEGAN), images()
    nets.AE.eval(), nets.D.eval()
    p = progress()
    mean, logvar = nets.AE.posterior(x)
    z, prior = mean + (logvar / 2).exp() * p.normal(8, 5), p.normal(8, 5)
    reconstructed, sampled = nets.AE.decode(z), nets.AE.decode(prior)
    terms = vaegan.ae_loss(nets, Batch(x), progress(), VAEGAN)
    kl = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert terms["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    # Eq. 7: a Gaussian of identity covariance around Dis_l(x̃), without its constant.
    nll = -Normal(nets.D.features(reconstructed), 1.0).log_prob(nets.D.features(x)).flatten(1)
    nll = nll.sum(1).mean() - 0.5 * math.log(2 * math.pi) * nll.shape[1]
    assert terms["AE_llike"].item() == pytest.approx(0.05 * nll.item(), rel=1e-3)
    expected = -log(nets.D(reconstructed), real=True) - log(nets.D(sampled), real=True)
    assert terms["G_loss"].item() == pytest.approx(expected, rel=1e-4)
    terms = vaegan.d_loss(nets, Batch(x), progress())
    assert terms["D_real"].item() == pytest.approx(-log(nets.D(x), real=True), rel=1e-4)
    expected = -log(nets.D(reconstructed), real=False) - log(nets.D(sampled), real=False)
    assert terms["D_fake"].item() == pytest.approx(expected, rel=1e-4)


def test_vaegan_gives_encoder_and_decoder_the_gradients_of_algorithm_1() -> None:
    nets, x = vaegan.build(VAEGAN), images()
    nets.AE.eval(), nets.D.eval()
    torch.stack(list(vaegan.ae_loss(nets, Batch(x), progress(), VAEGAN).values())).sum().backward()
    found = {name: q.grad.clone() for name, q in nets.AE.named_parameters()}
    for name in ("Enc", "Dec"):
        p = progress()
        mean, logvar = nets.AE.posterior(x)
        z = mean + (logvar / 2).exp() * p.normal(8, 5)
        reconstructed, sampled = nets.AE.decode(z), nets.AE.decode(p.normal(8, 5))
        prior = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum() / 8
        llike = (nets.D.features(reconstructed) - nets.D.features(x)).square().sum() / 2 / 8
        fooled = -nets.D(reconstructed).sigmoid().log().mean() - nets.D(sampled).sigmoid().log().mean()
        loss = prior + llike if name == "Enc" else 0.05 * llike + fooled
        parameters = dict(getattr(nets.AE, name).named_parameters())
        grads = torch.autograd.grad(loss, list(parameters.values()))
        for key, grad in zip(parameters, grads, strict=True):
            assert (grad - found[f"{name}.{key}"]).abs().max() <= 1e-4 * max(1, grad.abs().max().item()), key


STACK = stacked_gan.Config(
    resolution=16, channels=1, classes=3, z_dim=5, features=6, g_units=8, ngf=4, ndf=4, joint_kimg=0.1,
    adversarial=2.0, conditional=3.0, entropy=5.0,
)  # fmt: skip


@pytest.mark.parametrize("joint", [False, True])
def test_stacked_gan_losses_before_and_in_joint_training(joint: bool) -> None:
    nets, x, c = stacked_gan.build(STACK), images(6), torch.arange(6) % 3
    nets.G.eval()
    p = progress()
    z1, z0 = p.uniform(6, 5), p.uniform(6, 5)
    real, h1 = nets.E.h1(x), nets.G.h1(c, z1)
    given = h1 if joint else real
    made = nets.G.image(given, z0)
    nimg = 100 if joint else 99
    terms = stacked_gan.g_loss(nets, Batch(x, None, c), progress(nimg), STACK)
    (logit1, noise1), (logit0, noise0) = nets.D.D1(h1), nets.D.D0(made)
    expected = {
        "G1_adv": -2 * log(logit1, real=True),
        "G0_adv": -2 * log(logit0, real=True),
        "G1_ent": 5 * (noise1 - z1).square().mean().item(),
        "G0_ent": 5 * (noise0 - z0).square().mean().item(),
        "G1_cond": -3 * nets.E.y(h1).softmax(1).log()[torch.arange(6), c].mean().item(),
        "G0_cond": 3 * (nets.E.h1(made) - given).square().mean().item(),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)
    terms = stacked_gan.d_loss(nets, Batch(x, None, c), progress(nimg), STACK)
    expected = {
        "D1": -log(nets.D.D1(real)[0], real=True) - log(logit1, real=False),
        "Q1": expected["G1_ent"],
        "D0": -log(nets.D.D0(x)[0], real=True) - log(logit0, real=False),
        "Q0": expected["G0_ent"],
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_stacked_gan_trains_each_generator_by_its_own_losses() -> None:
    """In joint training nothing of G0's losses reaches G1: sec. 3.3 adds up the losses of each G_i."""
    nets, x, c = stacked_gan.build(STACK), images(6), torch.arange(6) % 3
    terms = stacked_gan.g_loss(nets, Batch(x, None, c), progress(100), STACK)
    lower = terms["G0_adv"] + terms["G0_ent"] + terms["G0_cond"]
    lower.backward()
    assert all(q.grad is None for q in nets.G.G1.parameters())
    assert all(q.grad is not None for q in [*nets.G.G0.parameters(), *nets.G.embed.parameters()])


def test_stacked_gan_freezes_the_encoder_in_time() -> None:
    adam = stacked_gan.optimizers(stacked_gan.Config(encoder_kimg=2.0))["E"]
    assert callable(adam.lr)
    rates = [adam.lr(nimg, 9000) for nimg in (0, 1000, 2000, 9000)]
    assert rates == pytest.approx([1e-3, 5e-4, 0, 0], abs=1e-12)
    with pytest.raises(UsageError, match="two convolutions leave nothing"):
        stacked_gan.build(stacked_gan.Config(resolution=14))
