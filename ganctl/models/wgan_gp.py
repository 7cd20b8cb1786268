"""WGAN-GP: Gulrajani et al., Improved Training of Wasserstein GANs, 2017. arXiv:1704.00028."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.losses.regularizers import gradient_penalty
from ganctl.models import dcgan
from ganctl.nn.layers import halvings, normal_prior
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published.convolutional import openmmlab_wgan_gp
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 64}
AUGMENTS = ASKS = True


@config
class Config:
    """The residual networks of appendix F (CIFAR-10), one doubling more or less for other sizes."""

    resolution: Count = 32
    """Side of the images: CIFAR-10's."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 128
    """Dimension of z (appendix F)."""
    width: Count = 128
    """Feature maps of every block, G and critic (appendix F)."""
    g_layers: dcgan.Layers | None = None
    """Layers of a published G that is a stack of DCGAN's transposed convolutions; None: appendix F's blocks."""
    batch_norm: bool = True
    """In G only: the penalty speaks of single samples, so the critic has none (sec. 4, "No critic batch norm")."""
    loss: Loss = "wasserstein"
    """Eq. 3."""
    gp_weight: Weight = 10.0
    """λ (alg. 1)."""
    n_critic: Count = 5
    """Alg. 1."""
    glr: Rate = 2e-4
    """Appendix F. Deviation: constant, not decayed to 0 over 100,000 steps."""
    dlr: Rate = 2e-4
    """The same for the critic."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.9
    """… and second (appendix F)."""


class Block(nn.Module):
    """Pre-activation residual block of two 3 × 3 convolutions (appendix F).

    `scale` 2: nearest-neighbour upsampling before the first; ½: mean pooling after the second; 1: neither.
    `first` leaves out the leading ReLU, which would cut the dark half of an image's range off (the authors' code).
    """

    def __init__(self, inputs: int, outputs: int, *, scale: float, norm: bool, first: bool = False) -> None:
        super().__init__()
        self.scale, self.first = scale, first
        self.norm1 = BatchNorm(inputs) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = BatchNorm(outputs) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if scale != 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        y = x if self.first else F.relu(self.norm1(x))
        if self.scale == 2:
            x, y = F.interpolate(x, scale_factor=2.0), F.interpolate(y, scale_factor=2.0)
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        if self.scale == 0.5:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return self.shortcut(x) + y


class Generator(nn.Module):
    """Linear to base × base, one upsampling block for each doubling, norm, ReLU, 3 × 3, tanh. Satisfies Sampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, self.base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        self.linear = nn.Linear(cfg.z_dim, cfg.width * self.base**2)
        self.blocks = nn.Sequential(*[Block(cfg.width, cfg.width, scale=2.0, norm=cfg.batch_norm) for _ in range(n)])
        self.norm = BatchNorm(cfg.width) if cfg.batch_norm else nn.Identity()
        self.out = nn.Conv2d(cfg.width, cfg.channels, 3, padding=1)

    def forward(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        y = self.linear(z).unflatten(1, (-1, self.base, self.base))
        return self.out(F.relu(self.norm(self.blocks(y)))).tanh()

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self(z)


class Discriminator(nn.Module):
    """The critic: two downsampling blocks, two more, ReLU, mean over pixels, linear (appendix F). Returns f(x) [N]."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        w = cfg.width
        self.blocks = nn.Sequential(
            Block(cfg.channels, w, scale=0.5, norm=False, first=True),
            Block(w, w, scale=0.5, norm=False),
            Block(w, w, scale=1.0, norm=False),
            Block(w, w, scale=1.0, norm=False),
        )
        self.linear = nn.Linear(w, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        return self.linear(F.relu(self.blocks(x)).mean((2, 3))).squeeze(1)


@dataclass
class Nets:
    G: Generator | dcgan.Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(stack(cfg) if cfg.g_layers else Generator(cfg), Discriminator(cfg))


def stack(cfg: Config) -> dcgan.Generator:
    """OpenMMLab's G: ProGAN's stages without its norms, here as transposed convolutions with batch norm."""
    sizes = {"resolution": cfg.resolution, "channels": cfg.channels, "z_dim": cfg.z_dim, "g_layers": cfg.g_layers}
    return dcgan.Generator(dcgan.Config(**sizes, g_first="conv_relu_norm", g_bias=True, batch_norm=cfg.batch_norm))


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E D(x̃) - E D(x) + λ E (‖∇ D(x̂)‖₂ - 1)²  (eq. 3); minus the first term estimates the Wasserstein distance."""
    fake = n.G(p.normal(len(b.x), n.G.z_dim))
    penalty = gradient_penalty(lambda x: n.D(p.augment(x)), b.x, fake, p.uniform(len(b.x)))
    return {**d_terms(cfg.loss, n.D, b.x, fake, p), "D_gp": cfg.gp_weight * penalty}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E D(G(z))  (alg. 1, line 12)."""
    return g_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg), repeat=cfg.n_critic),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2), "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G of OpenMMLab (`noise2feat`, `conv_blocks.N`, `to_rgb`), which is no residual network."""
    found = openmmlab_wgan_gp(state)
    return found and (found[0], {"G": found[1]})
