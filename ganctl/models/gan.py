"""GAN: Goodfellow et al., Generative Adversarial Nets, 2014. arXiv:1406.2661."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.nn.layers import mlp, normal_prior, pixels
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Widths
from ganctl.spec import Image

TRAIN = {"batch": 100}
AUGMENTS = ASKS = True


@config
class Config:
    resolution: Count = 28
    """Side of the images: MNIST's (sec. 5)."""
    channels: Count = 1
    """1 grey, 3 colour."""
    z_dim: Count = 100
    """Deviation: N(0, I) in place of the paper's uniform noise, as every later GAN has it."""
    g_hidden: Widths = (1200, 1200)
    """Rectifier layers of G (sec. 5)."""
    d_hidden: Widths = (512, 256)
    """Deviation: leaky ReLU 0.2 in place of maxout and dropout (sec. 5)."""
    loss: Loss = "non_saturating"
    """Sec. 3: "rather than training G to minimize log(1 - D(G(z))) we can train G to maximize log D(G(z))"."""
    k: Count = 1
    """Discriminator steps for each generator step (alg. 1)."""
    glr: Rate = 2e-4
    """Deviation: Adam in place of momentum SGD."""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.5
    """Adam's first moment, as DCGAN has it."""


class Generator(nn.Module):
    """A multilayer perceptron from noise to pixels, tanh at the end. Satisfies Sampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        sizes = [cfg.z_dim, *cfg.g_hidden, pixels(cfg.channels, cfg.resolution)]
        self.main = nn.Sequential(*mlp(sizes, nn.ReLU()), nn.Tanh())

    def forward(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        assert self.x.size
        return self.main(z).unflatten(1, (self.x.channels, *self.x.size))

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self(z)


class Discriminator(nn.Module):
    """A multilayer perceptron from pixels to one logit."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        sizes = [pixels(cfg.channels, cfg.resolution), *cfg.d_hidden, 1]
        self.main = nn.Sequential(*mlp(sizes, nn.LeakyReLU(0.2)))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        return self.main(x.flatten(1)).squeeze(1)


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg))


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_D E log D(x) + E log(1 - D(G(z)))  (eq. 1)."""
    return d_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """min_G E log(1 - D(G(z))), or max_G E log D(G(z))  (eq. 1 and sec. 3)."""
    return g_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def phases(cfg: Config) -> list[Phase]:
    """Alg. 1: k steps of D, one of G."""
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg), repeat=cfg.k),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """Perceptrons saved as a bare Sequential of three linear layers (keys 0, 2, 4): G with ReLU, D with leaky ReLU.

    Images are square and grey. Which activation a file was trained with cannot be seen in it.
    """
    if set(state) != {f"{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")} or state["0.weight"].ndim != 2:
        return None
    inputs, hidden = state["0.weight"].shape[1], [state[k].numel() for k in ("0.bias", "2.bias")]
    outputs = state["4.bias"].numel()
    side = math.isqrt(inputs if outputs == 1 else outputs)
    if side < 8 or side * side not in (inputs, outputs):
        return None
    renamed = {f"main.{k}": v for k, v in state.items()}
    if outputs == 1:
        return {"resolution": side, "channels": 1, "d_hidden": hidden}, {"D": renamed}
    return {"resolution": side, "channels": 1, "z_dim": inputs, "g_hidden": hidden}, {"G": renamed}
