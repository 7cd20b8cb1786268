"""AC-GAN: Odena, Olah & Shlens, Conditional Image Synthesis with Auxiliary Classifier GANs, 2017. arXiv:1610.09585."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.losses.objective import Judge, Loss, d_terms, g_terms
from ganctl.nn.layers import class_given, doublings, dropout, halvings, init_normal, normal_prior
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image, Label

TRAIN = {"batch": 100}
"""Table 2."""
AUGMENTS = ASKS = True


@config
class Config:
    """Appendix A, table 2 (CIFAR-10), one doubling more or less for other sizes."""

    resolution: Count = 32
    """Side of the images: CIFAR-10's."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count = 10
    """CIFAR-10's."""
    z_dim: Count = 100
    """With one number for each of 10 classes beside it, the 110 of table 2."""
    ngf: Count = 96
    """Width of G's last hidden layer, doubled towards the input (table 2: 384, 192, 96)."""
    ndf: Count = 16
    """Width of D's first layer, doubled with every layer (table 2: 16 to 512)."""
    d_batch_norm: bool = True
    """False leaves it out of D, as a penalty on D's gradient at single images needs it."""
    loss: Loss = "non_saturating"
    """L_S (eq. 2); G's as Goodfellow et al. 2014, sec. 3, have it."""
    class_weight: Weight = 1.0
    """Of L_C beside L_S: 1 (sec. 3)."""
    drop: Moment = 0.5
    """Dropout of D's layers (table 2)."""
    glr: Rate = 2e-4
    """Adam's learning rate: one of the three of table 2."""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.5
    """Adam's first moment (table 2)."""


class Generator(nn.Module):
    """Linear, ReLU, 5 × 5 transposed convolutions with batch norm and ReLU, tanh (table 2). Satisfies
    ConditionalSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.z_dim = cfg.z_dim
        width = cfg.ngf * 2 ** (n - 1)
        self.shape = (width, base, base)
        self.linear = nn.Linear(cfg.z_dim + cfg.classes, width * base**2)

        def conv(inputs: int, outputs: int) -> nn.Module:
            return nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, output_padding=1)

        self.main = doublings(n, width, cfg.channels, conv, BatchNorm)
        init_normal(self)

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n k h w"]:
        both = torch.cat([z, F.one_hot(c, self.c.n).to(z.dtype)], 1)
        return self.main(F.relu(self.linear(both)).unflatten(1, self.shape))

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        return self(z, class_given(c, self.c.n))


class Discriminator(nn.Module):
    """3 × 3 convolutions, of stride 2 and 1 in turn, batch norm but in the first, leaky ReLU, dropout (table 2).

    Returns logits of real against generated [N] and of the classes [N, K].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        self.drop = cfg.drop
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        width = cfg.channels
        for i in range(2 * n):
            out = cfg.ndf * 2**i
            self.convs.append(nn.Conv2d(width, out, 3, 2 - i % 2, 1))
            self.norms.append(BatchNorm(out) if i and cfg.d_batch_norm else nn.Identity())
            width = out
        self.out = nn.Linear(width * base**2, 1 + cfg.classes)
        init_normal(self)

    def forward(self, x: Float[Tensor, "n k h w"], p: Progress) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = dropout(F.leaky_relu(norm(conv(x)), 0.2), self.drop, p.uniform)
        logits = self.out(x.flatten(1))
        return logits[:, 0], logits[:, 1:]


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg))


def judge(n: Nets, p: Progress) -> tuple[Judge, list[Tensor]]:
    """D's logits of S alone, and a list that holds those of C, of each batch of images that it was asked about."""
    classes: list[Tensor] = []

    def source(x: Tensor) -> Tensor:
        logits, of_classes = n.D(x, p)
        classes.append(of_classes)
        return logits

    return source, classes


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_D L_S + L_C: L_S = E log P(S = real|x) + E log P(S = fake|G(c, z))  (eq. 2),

    L_C = E log P(C = c|x) + E log P(C = c|G(c, z))  (eq. 3).
    """
    assert b.c is not None
    with torch.no_grad():
        fake = n.G(p.normal(len(b.x), n.G.z_dim), b.c)
    D, classes = judge(n, p)
    terms = d_terms(cfg.loss, D, b.x, fake, p)
    real_class, fake_class, *_ = classes
    both = F.cross_entropy(real_class, b.c) + F.cross_entropy(fake_class, b.c)
    return {**terms, "D_class": cfg.class_weight * both}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_G L_C - L_S  (sec. 3), the second as Goodfellow et al. 2014, sec. 3, have it: E log P(S = real|G(c, z))."""
    assert b.c is not None
    D, classes = judge(n, p)
    terms = g_terms(cfg.loss, D, b.x, n.G(p.normal(len(b.x), n.G.z_dim), b.c), p)
    return {**terms, "G_class": cfg.class_weight * F.cross_entropy(classes[0], b.c)}


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}
