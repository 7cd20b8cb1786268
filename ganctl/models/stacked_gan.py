"""SGAN: Huang, Li, Poursaeed, Hopcroft & Belongie, Stacked Generative Adversarial Networks, 2017. arXiv:1612.04357."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.nn.layers import halvings
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms, half_cosine
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image, Label

TRAIN = {"batch": 100}


@config
class Config:
    resolution: Count = 28
    """Side of the images: MNIST's (sec. 4.1)."""
    channels: Count = 1
    """1 grey, 3 colour."""
    classes: Count = 10
    """Of the images: the top of the stack."""
    z_dim: Count = 50
    """Of the noise of each generator, uniform in [0, 1) (the authors' code on MNIST)."""
    features: Count = 256
    """h1, the encoder's units under its classes: fc3 (sec. 4.1)."""
    g_units: Count = 512
    """Of the two hidden layers of G1 (the authors' code)."""
    ngf: Count = 64
    """Width of G0's last hidden layer, twice that below."""
    ndf: Count = 32
    """Width of the first layers of the encoder and of D0."""
    adversarial: Weight = 1.0
    """λ1 (sec. 3.3), as the authors' code has it on MNIST …"""
    conditional: Weight = 1.0
    """… λ2 …"""
    entropy: Weight = 10.0
    """… λ3."""
    glr: Rate = 1e-4
    """The authors' code on MNIST."""
    dlr: Rate = 1e-4
    """The same for the discriminators."""
    beta1: Moment = 0.5
    """Adam's first moment."""
    elr: Rate = 1e-3
    """Of the encoder, falling to 0 …"""
    encoder_kimg: Rate = 180.0
    """… after so many thousand images: then it stays as it is. Deviation: the paper trains it before anything else."""
    joint_kimg: Weight = 300.0
    """For so long G0 is given the features of real images, then those that G1 made (sec. 3.3: independent, joint)."""


class Encoder(nn.Module):
    """E0: x → h1, E1: h1 → y; a classifier (sec. 3.1), the authors' for MNIST."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        side = ((cfg.resolution - 4) // 2 - 4) // 2
        if side < 1:
            what = f"cannot build stacked_gan for {cfg.resolution} px"
            raise UsageError(what, "the encoder's two convolutions leave nothing", "choose at least 16 px")
        self.conv1 = nn.Conv2d(cfg.channels, cfg.ndf, 5)
        self.conv2 = nn.Conv2d(cfg.ndf, cfg.ndf, 5)
        self.fc3 = nn.Linear(cfg.ndf * side**2, cfg.features)
        self.fc4 = nn.Linear(cfg.features, cfg.classes)

    def h1(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """E0(x), after its ReLU."""
        y = F.max_pool2d(F.relu(self.conv1((x + 1) / 2)), 2)
        y = F.max_pool2d(F.relu(self.conv2(y)), 2)
        return F.relu(self.fc3(y.flatten(1)))

    def y(self, h1: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Class logits, E1(h1)."""
        return self.fc4(h1)


def fc_block(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after, bias=False), BatchNorm(after), nn.ReLU()]


class Stack(nn.Module):
    """G1: y, z1 → h1 and G0: h1, z0 → x. Satisfies ConditionalSampler; its latent is z1 and z0 in a row."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.z_dim = cfg.z_dim
        self.G1 = nn.Sequential(
            *fc_block(cfg.z_dim + cfg.classes, cfg.g_units),
            *fc_block(cfg.g_units, cfg.g_units),
            nn.Linear(cfg.g_units, cfg.features),
            nn.ReLU(),
        )
        self.embed = nn.Sequential(*fc_block(cfg.z_dim, 2 * cfg.ngf))
        # Deviation: sides are doubled by 4 × 4 kernels, as DCGAN's; the code's 5 × 5 reach 28 px and no other.
        n, base = halvings(cfg.resolution)
        width = 2 * cfg.ngf
        layers = [*fc_block(cfg.features + width, width * base**2), nn.Unflatten(1, (width, base, base))]
        for _ in range(n - 1):
            layers += [nn.ConvTranspose2d(width, cfg.ngf, 4, 2, 1, bias=False), BatchNorm(cfg.ngf), nn.ReLU()]
            width = cfg.ngf
        self.G0 = nn.Sequential(*layers, nn.ConvTranspose2d(width, cfg.channels, 4, 2, 1), nn.Tanh())

    def h1(self, c: Int[Tensor, " n"], z1: Float[Tensor, "n z"]) -> Float[Tensor, "n f"]:
        return self.G1(torch.cat([z1, F.one_hot(c, self.c.n).to(z1.dtype)], 1))

    def image(self, h1: Float[Tensor, "n f"], z0: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.G0(torch.cat([h1, self.embed(z0)], 1))

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return torch.stack([torch.rand(2 * self.z_dim, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        z1, z0 = z.chunk(2, dim=1)
        return self.image(self.h1(c, z1), z0)


class Heads(nn.Module):
    """Of the last features of a discriminator: its logit, and Q's estimate of the noise  (sec. 3.2, after eq. 9)."""

    def __init__(self, width: int, z_dim: int) -> None:
        super().__init__()
        self.adversarial, self.noise = nn.Linear(width, 1), nn.Linear(width, z_dim)

    def forward(self, features: Float[Tensor, "n f"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n z"]]:
        return self.adversarial(features).squeeze(1), self.noise(features).sigmoid()


class Discriminators(nn.Module):
    """D1 of features and D0 of images; Q1 and Q0 share all but the last layer with them (the authors' code)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        width = cfg.features
        self.D1 = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), Heads(width, cfg.z_dim)
        )
        layers: list[nn.Module] = []
        before, side = cfg.channels, cfg.resolution
        for i in range(3):
            layers += [nn.Conv2d(before, cfg.ndf * 2**i, 5, 2, 2), nn.LeakyReLU(0.2)]
            before, side = cfg.ndf * 2**i, (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(before * side**2, width), nn.ReLU(), Heads(width, cfg.z_dim)]
        self.D0 = nn.Sequential(*layers)


@dataclass
class Nets:
    G: Stack
    E: Encoder
    D: Discriminators


def build(cfg: Config) -> Nets:
    """Raises UsageError for sides that the networks do not take."""
    return Nets(Stack(cfg), Encoder(cfg), Discriminators(cfg))


@dataclass
class Made:
    """What the generators make of a batch: noise, features and images."""

    z1: Tensor
    z0: Tensor
    real_h1: Tensor
    h1: Tensor
    given: Tensor
    """The features that G0 was given: those of real images, or in joint training those of G1, without gradient."""
    x: Tensor


def made(n: Nets, b: Batch, p: Progress, cfg: Config) -> Made:
    """Of the classes of real images, as in the authors' code."""
    assert b.c is not None
    z1, z0 = p.uniform(len(b.x), cfg.z_dim), p.uniform(len(b.x), cfg.z_dim)
    with torch.no_grad():
        real_h1 = n.E.h1(b.x)
    h1 = n.G.h1(b.c, z1)
    given = h1.detach() if p.nimg >= 1000 * cfg.joint_kimg else real_h1
    return Made(z1, z0, real_h1, h1, given, n.G.image(given, z0))


def e_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-E log p(c|x): the encoder is a classifier."""
    assert b.c is not None
    return {"E_loss": F.cross_entropy(n.E.y(n.E.h1(b.x)), b.c)}


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """Of each i: -½ E log D(h) - ½ E log(1 - D(ĥ))  (eq. 1), and λ3 E -log Q(z|ĥ)  (eq. 8): Q learns too.

    Q is a Gaussian of fixed variance: the squared error of the noise (the authors' code).
    """
    with torch.no_grad():
        m = made(n, b, p, cfg)
    terms: Terms = {}
    for i, D, real, fake, z in ((1, n.D.D1, m.real_h1, m.h1, m.z1), (0, n.D.D0, b.x, m.x, m.z0)):
        (real_logits, _), (fake_logits, noise) = D(real), D(fake)
        terms[f"D{i}"] = cfg.adversarial * log_loss_d(real_logits, fake_logits) / 2
        terms[f"Q{i}"] = cfg.entropy * F.mse_loss(noise, z)
    return terms


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """Of each i: λ1 E -log D(ĥ) + λ2 E d(E(ĥ), h) + λ3 E -log Q(z|ĥ)  (eq. 5, 6, 8): of an image the features that G0
    was given are to be found in it again, of features their class."""
    assert b.c is not None
    m = made(n, b, p, cfg)
    terms: Terms = {}
    for i, D, fake, z in ((1, n.D.D1, m.h1, m.z1), (0, n.D.D0, m.x, m.z0)):
        logits, noise = D(fake)
        terms[f"G{i}_adv"] = cfg.adversarial * non_saturating_g(logits)
        terms[f"G{i}_ent"] = cfg.entropy * F.mse_loss(noise, z)
    terms["G1_cond"] = cfg.conditional * F.cross_entropy(n.E.y(m.h1), b.c)
    terms["G0_cond"] = cfg.conditional * F.mse_loss(n.E.h1(m.x), m.given)
    return terms


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("E", ("E",), e_loss),
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    def elr(nimg: int, total: int) -> float:
        return half_cosine(cfg.elr, 0.0, nimg / (1000 * cfg.encoder_kimg))

    return {"G": Adam(cfg.glr, cfg.beta1), "E": Adam(elr), "D": Adam(cfg.dlr, cfg.beta1)}
