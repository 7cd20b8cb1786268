"""SNGAN: Miyato, Kataoka, Koyama & Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018. arXiv:1802.05957."""  # noqa: E501

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.nn.layers import class_given, halvings, normal_prior
from ganctl.nn.norm import BatchNorm, ConditionalBatchNorm
from ganctl.nn.projection import WIDTHS, ProjectionDiscriminator, UpBlock, published_discriminator, widths
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published import residual as published
from ganctl.ranges import Count, Moment, Rate
from ganctl.spec import Image, Label

TRAIN = {"batch": 64}
AUGMENTS = ASKS = True


@config
class Config:
    """The residual networks (appendix B.4); with classes, those of Miyato & Koyama 2018, arXiv:1802.05637."""

    resolution: Count = 32
    """Side of the images: CIFAR-10's (table 4)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count | None = None
    """None: unconditional. Else G normalises by class, and D projects on it (Miyato & Koyama 2018, eq. 3)."""
    z_dim: Count = 128
    """Dimension of z (table 4)."""
    ngf: Count = 64
    """Width of G's last block at 128 px; its blocks have 4 times that up to 32 px: 256 (table 4)."""
    ndf: Count = 32
    """The same for D: 128 (table 4)."""
    bn_eps: Rate = 1e-5
    """ε of batch norms; 1e-4 in the networks of OpenMMLab and StudioGAN."""
    loss: Loss = "hinge"
    """Eq. 16 and 17."""
    n_dis: Count = 5
    """Steps of D for each of G (table 1, setting C and others)."""
    glr: Rate = 2e-4
    """Adam's learning rate (appendix B.4). Deviation: constant, not decayed to 0."""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.9
    """… and second (appendix B.4)."""


class ClassNorm(nn.Module):
    """Batch norm with a scale and a shift for each class (Miyato & Koyama 2018, appendix A), or plain without any."""

    def __init__(self, channels: int, classes: int | None, eps: float) -> None:
        super().__init__()
        if classes:
            gain, bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
            nn.init.zeros_(gain.weight)  # the scale is 1 + gain
            nn.init.zeros_(bias.weight)
            self.norm: nn.Module = ConditionalBatchNorm(channels, gain, bias, eps=eps)
        else:
            self.norm = BatchNorm(channels, eps=eps)
        self.classes = classes

    def forward(self, x: Float[Tensor, "n c h w"], c: Int[Tensor, " n"] | None) -> Float[Tensor, "n c h w"]:
        return self.norm(x, c) if self.classes else self.norm(x)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Not normalised: in this paper D alone is."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Generator(nn.Module):
    """Linear, a block for each doubling, norm, ReLU, 3 × 3, tanh (table 4). Satisfies ConditionalSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        _, self.base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes) if cfg.classes else None
        self.z_dim = cfg.z_dim
        first, *rest = (k * cfg.ngf for k in widths("sngan", cfg.resolution))
        self.linear = nn.Linear(cfg.z_dim, first * self.base**2)
        blocks = []
        for width, out in itertools.pairwise([first, *rest]):
            blocks.append(UpBlock(width, out, conv=convolution, norm=lambda n: ClassNorm(n, cfg.classes, cfg.bn_eps)))
        self.blocks = nn.ModuleList(blocks)
        self.norm = BatchNorm(rest[-1], eps=cfg.bn_eps)
        self.out = nn.Conv2d(rest[-1], cfg.channels, 3, padding=1)
        xavier(self)

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        if self.c is not None:
            c = class_given(c, self.c.n)
        y = self.linear(z).unflatten(1, (-1, self.base, self.base))
        for block in self.blocks:
            y = block(y, c)
        return self.out(F.relu(self.norm(y))).tanh()

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        return self(z, c)


@torch.no_grad()
def xavier(net: nn.Module) -> None:
    """Glorot & Bengio's uniform weights and biases of 0, in blocks √2 times as wide (the authors' code)."""
    for name, m in net.named_modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(m.weight, gain=2**0.5 if name.endswith(("conv1", "conv2")) else 1.0)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


@dataclass
class Nets:
    G: Generator
    D: ProjectionDiscriminator


def build(cfg: Config) -> Nets:
    multiples = widths("sngan", cfg.resolution)
    D = ProjectionDiscriminator(cfg.channels, multiples, cfg.ndf, cfg.resolution, cfg.classes)
    return Nets(Generator(cfg), D)


def generated(n: Nets, b: Batch, p: Progress) -> Float[Tensor, "n c h w"]:
    """Images of the real batch's classes: they are distributed as the data's."""
    return n.G(p.normal(len(b.x), n.G.z_dim), b.c if n.G.c else None)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))  (eq. 16)."""
    with torch.no_grad():
        fake = generated(n, b, p)
    return d_terms(cfg.loss, lambda x: n.D(x, b.c), b.x, fake, p)


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E D(G(z))  (eq. 17)."""
    return g_terms(cfg.loss, lambda x: n.D(x, b.c), b.x, generated(n, b, p), p)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg), repeat=cfg.n_dis),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2), "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G of OpenMMLab (`noise2feat`) and StudioGAN (`linear0`), without spectral norm; D in the PyTorch code of Brock et
    al. 2019, which can build this paper's.
    """
    if published.kind(state) == "sngan":
        return _generator(published.rows(state) or {})
    sizes, wide = published_discriminator(state) or ({}, True)
    if wide or sizes.pop("attention"):
        return None
    return sizes, {"D": {k: v for k, v in state.items() if not k.endswith(".sv0")}}


def _generator(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    sizes, table = published.sizes(tensors), tensors.get("blocks.0.0.bn1.gain.weight")
    if sizes is None or sizes["blocks"] not in WIDTHS or sizes["follows"] or (table is not None and table.ndim != 2):
        return None
    cfg = {
        "resolution": 4 << sizes["blocks"], "channels": sizes["channels"], "z_dim": sizes["inputs"],
        "ngf": sizes["width"] // WIDTHS[sizes["blocks"]][-1], "classes": None if table is None else table.shape[0],
        "bn_eps": published.EPS,
    }  # fmt: skip
    # A block is no row of its own here, and each of its norms stands one level deeper.
    names = {k: re.sub(r"^blocks\.(\d+)\.0\.(bn\d\.)?", lambda m: f"blocks.{m[1]}.{_deeper(m[2])}", k) for k in tensors}
    return cfg, {"G": {names[k]: v for k, v in tensors.items()}}


def _deeper(norm: str | None) -> str:
    return f"{norm}norm." if norm else ""
