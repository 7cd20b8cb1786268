"""SAGAN: Zhang, Goodfellow, Metaxas & Odena, Self-Attention Generative Adversarial Networks, 2019. arXiv:1805.08318."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.nn.attention import SelfAttention
from ganctl.nn.layers import class_given, halvings, normal_prior
from ganctl.nn.norm import BatchNorm, ConditionalBatchNorm
from ganctl.nn.projection import WIDTHS, ProjectionDiscriminator, UpBlock, attended, published_discriminator, widths
from ganctl.nn.spectral import SNConv2d, SNLinear
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published import residual as published
from ganctl.ranges import Count, Moment, Rate, Widths
from ganctl.spec import Image, Label

TRAIN = {"batch": 256}
"""The authors' code; the paper does not say."""
AUGMENTS = ASKS = True


@config
class Config:
    """The networks are those of Miyato & Koyama 2018 with attention, and spectral norm in G too (sec. 4.1)."""

    resolution: Count = 128
    """Side of the images: 128 (sec. 4)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count = 1000
    """ImageNet's: conditional batch norm in G, projection in D (sec. 4)."""
    z_dim: Count = 128
    """Dimension of z (the authors' code)."""
    ngf: Count = 64
    """Width of G's last block at 128 px, as in Miyato & Koyama 2018 …"""
    ndf: Count = 64
    """… and of D's first."""
    attention: Widths | None = None
    """Sides of the feature maps with self-attention; None: 64 px, the best of table 1, half the resolution where that
    is less."""
    bn_eps: Rate = 1e-5
    """ε of batch norms; 1e-4 in the networks of OpenMMLab and StudioGAN."""
    spectral: bool = True
    """False: G's weights are used as they are. Those of published generators were divided when they were read."""
    loss: Loss = "hinge"
    """Eq. 4."""
    glr: Rate = 1e-4
    """Sec. 4: 0.0001 for G …"""
    dlr: Rate = 4e-4
    """… and 0.0004 for D, one step of each: the two time-scale rule (sec. 4.2)."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.9
    """… and second (sec. 4)."""


def norm_of(classes: int, eps: float) -> Any:
    """Conditional batch norm: a scale and a shift for each class."""

    def norm(channels: int) -> ConditionalBatchNorm:
        gain, bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.zeros_(gain.weight)  # the scale is 1 + gain
        nn.init.zeros_(bias.weight)
        return ConditionalBatchNorm(channels, gain, bias, eps=eps)

    return norm


class Generator(nn.Module):
    """Linear, a block for each doubling, attention, norm, ReLU, 3 × 3, tanh. Satisfies ConditionalSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        _, self.base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.z_dim = cfg.z_dim
        width, *rest = (k * cfg.ngf for k in widths("sagan", cfg.resolution))
        with_attention = attended("sagan", cfg.resolution, cfg.attention)

        def conv(inputs: int, outputs: int, kernel: int) -> SNConv2d:
            return SNConv2d(inputs, outputs, kernel, spectral=cfg.spectral)

        self.linear = SNLinear(cfg.z_dim, width * self.base**2, spectral=cfg.spectral)
        rows, side = [], self.base
        for out in rest:
            side *= 2
            row: list[nn.Module] = [UpBlock(width, out, conv=conv, norm=norm_of(cfg.classes, cfg.bn_eps))]
            if side in with_attention:
                row.append(SelfAttention(out, spectral=cfg.spectral))
            rows.append(nn.ModuleList(row))
            width = out
        self.blocks = nn.ModuleList(rows)
        self.norm = BatchNorm(width, eps=cfg.bn_eps)
        self.out = conv(width, cfg.channels, 3)

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n k h w"]:
        h = self.linear(z).unflatten(1, (-1, self.base, self.base))
        for row in self.blocks:
            for layer in row.children():
                h = layer(h, c) if isinstance(layer, UpBlock) else layer(h)
        return self.out(F.relu(self.norm(h))).tanh()

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        return self(z, class_given(c, self.c.n))


@dataclass
class Nets:
    G: Generator
    D: ProjectionDiscriminator


def build(cfg: Config) -> Nets:
    multiples, sides = widths("sagan", cfg.resolution), attended("sagan", cfg.resolution, cfg.attention)
    sizes = (cfg.channels, multiples, cfg.ndf, cfg.resolution, cfg.classes)
    return Nets(Generator(cfg), ProjectionDiscriminator(*sizes, attention=sides))


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z), y))  (eq. 4)."""
    with torch.no_grad():
        fake = n.G(p.normal(len(b.x), n.G.z_dim), b.c)
    return d_terms(cfg.loss, lambda x: n.D(x, b.c), b.x, fake, p)


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E D(G(z), y)  (eq. 4), y the classes of the real batch."""
    return g_terms(cfg.loss, lambda x: n.D(x, b.c), b.x, n.G(p.normal(len(b.x), n.G.z_dim), b.c), p)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2), "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G of OpenMMLab (`noise2feat`) and StudioGAN (`linear0`), a BigGAN without shared embedding too; D in the PyTorch
    code of Brock et al. 2019, which can build this paper's.
    """
    if published.kind(state) == "sagan":
        return _generator(published.rows(state) or {})
    sizes, wide = published_discriminator(state) or ({}, True)
    if wide or not sizes["attention"] or not sizes["classes"]:
        return None
    return sizes, {"D": {k: v for k, v in state.items() if not k.endswith(".sv0")}}


def _generator(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    sizes, table = published.sizes(tensors), tensors.get("blocks.0.0.bn1.gain.weight")
    if sizes is None or table is None or table.ndim != 2 or sizes["blocks"] not in WIDTHS:
        return None
    cfg = {
        "resolution": 4 << sizes["blocks"], "channels": sizes["channels"], "z_dim": sizes["inputs"],
        "ngf": sizes["width"] // WIDTHS[sizes["blocks"]][-1], "classes": table.shape[0],
        "attention": [8 << i for i in sizes["follows"]], "bn_eps": published.EPS, "spectral": False,
    }  # fmt: skip
    return cfg, {"G": dict(tensors)}
