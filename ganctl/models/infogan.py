"""InfoGAN: Chen, Duan, Houthooft, Schulman, Sutskever & Abbeel, InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets, 2016. arXiv:1606.03657."""  # noqa: E501

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.objective import Judge, Loss, d_terms, g_terms
from ganctl.nn.layers import doublings, halvings, init_normal
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image, Label

TRAIN = {"batch": 128}
"""The authors' code; the paper does not say."""
AUGMENTS = ASKS = True
HEAD = "D"
"""Of Discriminator, the layer that gives D's logit."""


@config
class Config:
    """Appendix C.1 (MNIST), one doubling more or less for other sizes."""

    resolution: Count = 28
    """Side of the images: MNIST's."""
    channels: Count = 1
    """1 grey, 3 colour."""
    noise_dim: Count = 62
    """Incompressible noise z (appendix C.1)."""
    categories: Count = 10
    """Values of the categorical code, which takes the place of a class: `--class` (sec. 7.2)."""
    continuous: Annotated[int, Ge(1), Le(64)] = 2
    """Continuous codes, U[-1, 1] (sec. 7.2). They are the last coordinates of z."""
    ngf: Count = 64
    """Width of G's last hidden layer, doubled towards the input (table 1)."""
    ndf: Count = 64
    """Width of D's first layer, doubled at every halving (table 1)."""
    units: Count = 1024
    """Of the fully connected layers of G and D (table 1)."""
    d_batch_norm: bool = True
    """False leaves it out of D and Q, as a penalty on D's gradient at single images needs it."""
    loss: Loss = "non_saturating"
    """The value function of D and G in eq. 6; G's as Goodfellow et al. 2014, sec. 3, have it."""
    lam: Weight = 1.0
    """λ of the mutual information with the categorical code (eq. 6; appendix C: 1) …"""
    lam_continuous: Weight = 1.0
    """… and with the continuous ones: 1 in the authors' code for MNIST. Sec. 6 would have less, by their entropy."""
    glr: Rate = 1e-3
    """Adam's learning rate of G (appendix C) …"""
    dlr: Rate = 2e-4
    """… and of D and Q (appendix C)."""
    beta1: Moment = 0.5
    """Adam's first moment, as DCGAN has it."""


class Generator(nn.Module):
    """Two fully connected layers, then 4 × 4 transposed convolutions, batch norm and ReLU; tanh at the end (table 1).

    Satisfies ConditionalSampler, the class being the categorical code. z is [noise, continuous codes]; `code_count`
    is how many there are of the latter.
    Deviation: a tanh, which the table leaves out, for images in [-1, 1].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.categories)
        self.noise_dim, self.code_count = cfg.noise_dim, cfg.continuous
        width = cfg.ngf * 2 ** (n - 1)
        self.shape = (width, base, base)
        inputs, inner = cfg.noise_dim + cfg.continuous + cfg.categories, width * base**2
        self.fc = nn.Sequential(
            *(nn.Linear(inputs, cfg.units), BatchNorm(cfg.units), nn.ReLU()),
            *(nn.Linear(cfg.units, inner), BatchNorm(inner), nn.ReLU()),
        )

        def conv(inputs: int, outputs: int) -> nn.Module:
            return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)

        self.main = doublings(n, width, cfg.channels, conv, BatchNorm)
        init_normal(self)

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n k h w"]:
        both = torch.cat([z, F.one_hot(c, self.c.n).to(z.dtype)], 1)
        return self.main(self.fc(both).unflatten(1, self.shape))

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        """N(0, I) noise, then codes from U[-1, 1]."""
        rows = []
        for seed in seeds:
            g = torch.Generator().manual_seed(seed)
            noise = torch.randn(self.noise_dim, generator=g)
            rows.append(torch.cat([noise, 2 * torch.rand(self.code_count, generator=g) - 1]))
        return torch.stack(rows)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        if c is None:
            raise UsageError("no code given", f"the network has {self.c.n} categories", "pass --class")
        return self(z, c)


class Discriminator(nn.Module):
    """4 × 4 convolutions of stride 2 and a fully connected layer, leaky ReLU 0.1; D and Q share all but their last
    layers (sec. 6, table 1).

    Returns D's logits [N], Q's logits of the categories [N, K] and means of the continuous codes [N, C].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)

        def norm(width: int) -> nn.Module:
            return BatchNorm(width) if cfg.d_batch_norm else nn.Identity()

        layers: list[nn.Module] = []
        width = cfg.channels
        for i in range(n):
            out = cfg.ndf * 2**i
            layers += [nn.Conv2d(width, out, 4, 2, 1), *([norm(out)] if i else []), nn.LeakyReLU(0.1)]
            width = out
        layers += [nn.Flatten(), nn.Linear(width * base**2, cfg.units), norm(cfg.units), nn.LeakyReLU(0.1)]
        self.main, self.D = nn.Sequential(*layers), nn.Linear(cfg.units, 1)
        self.Q = nn.Sequential(nn.Linear(cfg.units, 128), norm(128), nn.LeakyReLU(0.1))
        self.categorical, self.means = nn.Linear(128, cfg.categories), nn.Linear(128, cfg.continuous)
        init_normal(self)

    def forward(
        self, x: Float[Tensor, "n k h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n q"], Float[Tensor, "n c"]]:
        h = self.main(x)
        q = self.Q(h)
        return self.D(h).squeeze(1), self.categorical(q), self.means(q)


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg))


def codes(n: Nets, count: int, p: Progress) -> tuple[Float[Tensor, "n z"], Int[Tensor, " n"], Float[Tensor, "n c"]]:
    """z with its continuous codes, categories, and those codes alone."""
    u = p.uniform(count, 1 + n.G.code_count)
    continuous = 2 * u[:, 1:] - 1
    return torch.cat([p.normal(count, n.G.noise_dim), continuous], 1), (u[:, 0] * n.G.c.n).long(), continuous


def information(logits: Tensor, means: Tensor, c: Tensor, continuous: Tensor, cfg: Config) -> Terms:
    """-λ (L_I - H(c)) = -λ E log Q(c|x)  (eq. 5), of either kind of code; x = G(z, c).

    Q of a continuous code is a Gaussian (sec. 6). Deviation: its variance is 1, not learnt; without its constant the
    term is half a squared error.
    """
    squared = (means - continuous).square().sum(1).mean() / 2
    return {"mi": cfg.lam * F.cross_entropy(logits, c), "mi_continuous": cfg.lam_continuous * squared}


def judge(n: Nets) -> tuple[Judge, list[tuple[Tensor, Tensor]]]:
    """D's logits alone, and a list that holds Q's answers, of each batch of images that both were asked about."""
    found: list[tuple[Tensor, Tensor]] = []

    def source(x: Tensor) -> Tensor:
        logits, *of_codes = n.D(x)
        found.append((of_codes[0], of_codes[1]))
        return logits

    return source, found


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_D E log D(x) + E log(1 - D(G(z, c))), and max_Q λ L_I(G, Q)  (eq. 6)."""
    z, c, continuous = codes(n, len(b.x), p)
    with torch.no_grad():
        fake = n.G(z, c)
    D, found = judge(n)
    terms = d_terms(cfg.loss, D, b.x, fake, p)
    (logits, means) = found[1]
    return terms | {f"Q_{k}": term for k, term in information(logits, means, c, continuous, cfg).items()}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_G E log D(G(z, c)) + λ L_I(G, Q)  (eq. 6; Goodfellow et al. 2014, sec. 3)."""
    z, c, continuous = codes(n, len(b.x), p)
    D, found = judge(n)
    terms = g_terms(cfg.loss, D, b.x, n.G(z, c), p)
    (logits, means) = found[0]
    return terms | {f"G_{k}": term for k, term in information(logits, means, c, continuous, cfg).items()}


def mutual_information(logits: Float[Tensor, "n q"], c: Int[Tensor, " n"]) -> float:
    """L_I of the categorical code, in nats: H(c) + E log Q(c|x)  (eq. 5), at most log K  (fig. 1)."""
    return math.log(logits.shape[1]) - float(F.cross_entropy(logits, c))


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}
