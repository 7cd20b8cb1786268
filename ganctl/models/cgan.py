"""cGAN: Mirza & Osindero, Conditional Generative Adversarial Nets, 2014. arXiv:1411.1784."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.nn.layers import class_given, dropout, halvings, normal_prior, pixels
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate
from ganctl.spec import Image, Label

TRAIN = {"batch": 100}
"""Sec. 4.1."""
AUGMENTS = ASKS = True


@config
class Config:
    """Sec. 4.1: perceptrons, class and noise (or image) mapped apart and then joined."""

    resolution: Count = 28
    """Side of the images: MNIST's (sec. 4.1)."""
    channels: Count = 1
    """1 grey, 3 colour."""
    classes: Count = 10
    """Digits (sec. 4.1)."""
    z_dim: Count = 100
    """Deviation: N(0, I) in place of the paper's uniform noise, as every later GAN has it."""
    convolutional: bool = False
    """Deviation: True has convolutions for perceptrons, as published conditional networks of digits do: G and D take an
    embedding of the class beside z, or beside the image."""
    width: Count = 128
    """Of the first of the convolutional networks' layers; their last hidden ones have half of it."""
    norm_eps: Rate = 1e-5
    """ε of the convolutional G's inner batch norms. One published network has 0.8 there."""
    embedding: Count = 10
    """Of a class, in the convolutional G."""
    loss: Loss = "non_saturating"
    """Goodfellow et al. 2014, sec. 3."""
    glr: Rate = 2e-4
    """Deviation: Adam in place of momentum SGD with a decaying rate (sec. 4.1)."""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.5
    """Adam's first moment, as DCGAN has it."""


class Perceptrons(nn.Module):
    """z to 200 rectifiers and class to 1000, both to 1200, and these to pixels (sec. 4.1).

    Deviation: tanh in place of the sigmoid, images being in [-1, 1].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.classes, self.shape = cfg.classes, (cfg.channels, cfg.resolution, cfg.resolution)
        self.z, self.c = nn.Linear(cfg.z_dim, 200), nn.Linear(cfg.classes, 1000)
        self.joint, self.out = nn.Linear(1200, 1200), nn.Linear(1200, pixels(cfg.channels, cfg.resolution))

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n k h w"]:
        both = torch.cat([self.z(z), self.c(F.one_hot(c, self.classes).to(z.dtype))], 1)
        return self.out(F.relu(self.joint(F.relu(both)))).tanh().unflatten(1, self.shape)


class Convolutions(nn.Module):
    """z and the class's embedding by a linear map to base × base; norm, then nearest × 2, 3 × 3, norm, ReLU each.

    Keys are those of the published conditional WGAN-GP of digits (`label_emb`, `l1.0`, `conv_blocks.N`).
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        self.shape = (cfg.width, base, base)
        self.label_emb = nn.Embedding(cfg.classes, cfg.embedding)
        self.l1 = nn.Sequential(nn.Linear(cfg.z_dim + cfg.embedding, cfg.width * base**2))
        # Deviation: this norm's ε is 1e-5 whatever norm_eps says, as in the published network.
        layers: list[nn.Module] = [BatchNorm(cfg.width)]
        width = cfg.width
        for i in range(n):
            out = cfg.width // 2 if i == n - 1 else cfg.width
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, out, 3, padding=1)]
            layers += [BatchNorm(out, eps=cfg.norm_eps), nn.ReLU()]
            width = out
        self.conv_blocks = nn.Sequential(*layers, nn.Conv2d(width, cfg.channels, 3, padding=1), nn.Tanh())

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n k h w"]:
        return self.conv_blocks(self.l1(torch.cat([z, self.label_emb(c)], 1)).unflatten(1, self.shape))


class Generator(nn.Module):
    """G(z|y). Satisfies ConditionalSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.z_dim = cfg.z_dim
        self.main = Convolutions(cfg) if cfg.convolutional else Perceptrons(cfg)

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"]) -> Float[Tensor, "n k h w"]:
        return self.main(z, c)

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        return self(z, class_given(c, self.c.n))


class Maxout(nn.Module):
    """The largest of so many linear maps, unit by unit (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class Perceptron(nn.Module):
    """D(x|y): image to 240 maxout units of 5 pieces, class to 50 of 5, both to 240 of 4; dropout ½  (sec. 4.1)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.classes = cfg.classes
        self.x, self.c = Maxout(pixels(cfg.channels, cfg.resolution), 240, 5), Maxout(cfg.classes, 50, 5)
        self.joint, self.out = Maxout(290, 240, 4), nn.Linear(240, 1)

    def forward(self, x: Float[Tensor, "n k h w"], c: Int[Tensor, " n"], p: Progress) -> Float[Tensor, " n"]:
        both = torch.cat([self.x(x.flatten(1)), self.c(F.one_hot(c, self.classes).to(x.dtype))], 1)
        return self.out(dropout(self.joint(dropout(both, 0.5, p.uniform)), 0.5, p.uniform)).squeeze(1)


class Strided(nn.Module):
    """D(x|y) of strided convolutions: the class as one more channel, an image of its own. Leaky ReLU, no norm."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        self.label_emb = nn.Embedding(cfg.classes, cfg.resolution**2)
        layers: list[nn.Module] = []
        width = cfg.channels + 1
        for i in range(n):
            out = cfg.width // 2 if i == 0 else cfg.width
            layers += [nn.Conv2d(width, out, 4, 2, 1), nn.LeakyReLU(0.2)]
            width = out
        self.main, self.out = nn.Sequential(*layers), nn.Linear(width * base**2, 1)

    def forward(self, x: Float[Tensor, "n k h w"], c: Int[Tensor, " n"], p: Progress) -> Float[Tensor, " n"]:
        plane = self.label_emb(c).unflatten(1, (1, *x.shape[2:]))
        h = self.main(torch.cat([x, plane.to(x.dtype)], 1)).flatten(1)
        return self.out(dropout(h, 0.5, p.uniform)).squeeze(1)


@dataclass
class Nets:
    G: Generator
    D: Perceptron | Strided


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Strided(cfg) if cfg.convolutional else Perceptron(cfg))


def generated(n: Nets, b: Batch, p: Progress) -> Float[Tensor, "n k h w"]:
    """Images of the real batch's classes."""
    return n.G(p.normal(len(b.x), n.G.z_dim), b.c)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_D E log D(x|y) + E log(1 - D(G(z|y)|y))  (eq. 2)."""
    with torch.no_grad():
        fake = generated(n, b, p)
    return d_terms(cfg.loss, lambda x: n.D(x, b.c, p), b.x, fake, p)


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_G E log D(G(z|y)|y)  (Goodfellow et al. 2014, sec. 3)."""
    return g_terms(cfg.loss, lambda x: n.D(x, b.c, p), b.x, generated(n, b, p), p)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G of the published conditional WGAN-GP of digits: 28 px, two doublings, ε of the inner norms 0.8."""
    label, linear, last = (state.get(f"{k}.weight") for k in ("label_emb", "l1.0", "conv_blocks.9"))
    norm = state.get("conv_blocks.0.weight")
    if label is None or linear is None or last is None or norm is None or norm.ndim != 1:
        return None
    if label.ndim != 2 or linear.ndim != 2 or last.ndim != 4:
        return None
    cfg = {
        "resolution": 28, "channels": last.shape[0], "classes": label.shape[0], "embedding": label.shape[1],
        "z_dim": linear.shape[1] - label.shape[1], "convolutional": True, "width": norm.shape[0], "norm_eps": 0.8,
    }  # fmt: skip
    return cfg, {"G": {f"main.{k}": v for k, v in state.items()}}
