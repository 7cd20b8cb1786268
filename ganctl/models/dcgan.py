"""DCGAN: Radford, Metz & Chintala, Unsupervised Representation Learning with Deep Convolutional GANs, 2016. arXiv:1511.06434."""  # noqa: E501

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.nn.layers import halvings, init_normal, normal_prior, numbered_convs
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published import convolutional as published
from ganctl.ranges import Count, Moment, Rate
from ganctl.spec import Image

TRAIN = {"batch": 128}
AUGMENTS = ASKS = True

Layer = tuple[Count, Count, Count, Annotated[int, Ge(0), Le(64)]]
"""(output channels, kernel, stride, padding) of one (transposed) convolution."""
Layers = Annotated[tuple[Layer, ...], MaxLen(32)]
First = Literal["conv", "conv_relu_norm", "linear", "linear_norm"]
"""How G begins."""


@config
class Config:
    resolution: Count = 64
    """Side of the images: 64 (fig. 1)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 100
    """Dimension of z (fig. 1). Deviation: N(0, I) in place of U[-1, 1], as all published weights have it."""
    ngf: Count = 64
    """Width of G's last hidden layer, doubled towards the input: 64 gives fig. 1's networks at half width."""
    ndf: Count = 64
    """Width of D's first layer, doubled at every halving."""
    g_layers: Layers | None = None
    """G's layers where a published network departs from fig. 1; None follows the figure."""
    g_first: First = "conv"
    """G's first layer: a convolution of z, norm and ReLU (fig. 1). Published networks have the ReLU before the norm, or
    a linear layer to a map as large as the kernel, with or without both."""
    g_bias: bool = False
    """Biases in G's convolutions: they stand before a batch norm, so the figure's network needs none."""
    batch_norm: bool = True
    """False leaves batch norm out of G (WGAN, fig. 6)."""
    bn_eps: Rate = 1e-5
    """ε of G's batch norms (the authors' PyTorch port)."""
    d_batch_norm: bool = True
    """False leaves it out of D, as a penalty on D's gradient at single images needs it."""
    loss: Loss = "non_saturating"
    """log D(G(z)) maximised, as everybody does (Goodfellow et al. 2014, sec. 3)."""
    n_critic: Count = 1
    """Steps of D for each of G."""
    glr: Rate = 2e-4
    """Sec. 4: Adam with 0.0002 …"""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.5
    """… and momentum 0.5."""


def paper_layers(cfg: Config) -> tuple[Layer, ...]:
    """Fig. 1 at any size: z → base × base, then doubled to the resolution by 4 × 4 kernels of stride 2.

    Deviation: 4 × 4 kernels for the figure's 5 × 5, as in the authors' PyTorch port and all published weights.
    """
    n, base = halvings(cfg.resolution)
    hidden = [(cfg.ngf * 2**i, 4, 2, 1) for i in reversed(range(n - 1))]
    return ((cfg.ngf * 2 ** (n - 1), base, 1, 0), *hidden, (cfg.channels, 4, 2, 1))


def _check_side(table: Sequence[Layer], resolution: int) -> None:
    side = 1
    for _, kernel, stride, padding in table:
        side = (side - 1) * stride - 2 * padding + kernel if side > 0 else 0
    if side != resolution or len(table) < 2:
        why = f"its {len(table)} g_layers give {max(0, side)} px"
        raise UsageError(f"cannot build dcgan for {resolution} px", why, "set resolution to that, of two or more")


class Generator(nn.Module):
    """Transposed convolutions, batch norm and ReLU; tanh at the end (sec. 3). Satisfies Sampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        table = cfg.g_layers or paper_layers(cfg)
        _check_side(table, cfg.resolution)
        layers = first_layer(table[0], cfg)
        for i, ((width, *_), (out, kernel, stride, padding)) in enumerate(itertools.pairwise(table)):
            layers.append(nn.ConvTranspose2d(width, out, kernel, stride, padding, bias=cfg.g_bias))
            # No batch norm in the output layer (sec. 3).
            layers += [nn.Tanh()] if i == len(table) - 2 else [*normalised(out, cfg), nn.ReLU()]
        self.main = nn.Sequential(*layers)
        init_normal(self)

    def forward(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.main(z[:, :, None, None])

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self(z)


def first_layer(row: Layer, cfg: Config) -> list[nn.Module]:
    """From z [N, z, 1, 1] to the first map, norm and ReLU as `g_first` has them."""
    out, kernel, stride, padding = row
    if cfg.g_first.startswith("linear"):
        side = kernel - 2 * padding
        linear = nn.Linear(cfg.z_dim, out * side**2)
        layers: list[nn.Module] = [nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, (out, side, side)))]
        return layers if cfg.g_first == "linear" else [*layers, *normalised(out, cfg), nn.ReLU()]
    conv = nn.ConvTranspose2d(cfg.z_dim, out, kernel, stride, padding, bias=cfg.g_bias)
    last = [*normalised(out, cfg), nn.ReLU()]
    return [conv, *(last if cfg.g_first == "conv" else reversed(last))]


def normalised(width: int, cfg: Config) -> list[nn.Module]:
    return [BatchNorm(width, eps=cfg.bn_eps)] if cfg.batch_norm else []


class Discriminator(nn.Module):
    """Strided convolutions, batch norm and leaky ReLU 0.2 (sec. 3). Returns logits [N]."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        layers: list[nn.Module] = []
        width = cfg.channels
        for i in range(n):
            out = cfg.ndf * 2**i
            layers.append(nn.Conv2d(width, out, 4, 2, 1, bias=False))
            # No batch norm in the input layer (sec. 3).
            layers += [*([BatchNorm(out)] if i > 0 and cfg.d_batch_norm else []), nn.LeakyReLU(0.2)]
            width = out
        layers.append(nn.Conv2d(width, 1, base, 1, 0, bias=False))
        self.main = nn.Sequential(*layers)
        init_normal(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        return self.main(x).flatten()


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg))


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_D E log D(x) + E log(1 - D(G(z)))  (Goodfellow et al. 2014, eq. 1).

    Real and generated images pass D as batches of their own, each with its own batch statistics.
    """
    return d_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_G E log D(G(z))  (Goodfellow et al. 2014, sec. 3), or what `loss` names."""
    return g_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg), repeat=cfg.n_critic),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """PyTorch's example (G or D, keys `main.N`, fig. 1), G in blocks `gen.K.0` (conv), `gen.K.1` (norm), OpenMMLab's,
    StudioGAN's and GAN Zoo's G.

    The second states no strides or paddings; known is the 28 px network of kernels 3, 4, 3, 4 and strides 2, 1, 2, 2.
    """
    if (found := published.openmmlab(state) or published.studiogan(state)) is not None:
        return found[0], {"G": found[1]}
    state = published.gan_zoo(state)
    convs = numbered_convs(state, r"main\.(\d{1,4})\.weight")
    if len(convs) > 1 and "main.1.running_mean" in state:
        return _example(convs, state)
    if len(convs) > 1 and "main.2.weight" in state:
        if convs[-1].shape[0] != 1 or any(c.shape[-1] != 4 for c in convs[:-1]):
            return None
        side = convs[-1].shape[-1] * 2 ** (len(convs) - 1)
        return {"resolution": side, "channels": convs[0].shape[1], "ndf": convs[0].shape[0]}, {"D": dict(state)}
    return _blocks(state)


def _example(
    convs: Sequence[Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G of fig. 1, whose last layer may be of 1 × 1 (then no tensor tells its padding: 2 at 28 px)."""
    base, last = convs[0].shape[-1], convs[-1]
    doubling = convs[1:-1] if last.shape[-1] == 1 else convs[1:]
    if any(c.shape[-1] != 4 for c in doubling) or len(convs) > 32:
        return None
    cfg: dict[str, Any] = {
        "resolution": base * 2 ** len(doubling),
        "channels": last.shape[1],
        "z_dim": convs[0].shape[0],
        "ngf": last.shape[0],
    }
    if last.shape[-1] == 1:
        middle = [(c.shape[1], 4, 2, 1) for c in doubling]
        cfg["g_layers"] = [(convs[0].shape[1], base, 1, 0), *middle, (last.shape[1], 1, 1, 0)]
    return cfg, {"G": dict(state)}


def _blocks(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    convs = numbered_convs(state, r"gen\.(\d{1,4})\.0\.weight")
    if [c.shape[-1] for c in convs] != [3, 4, 3, 4]:
        return None
    table = [(c.shape[1], c.shape[-1], stride, 0) for c, stride in zip(convs, (2, 1, 2, 2), strict=True)]
    cfg = {"resolution": 28, "channels": table[-1][0], "z_dim": convs[0].shape[0], "g_layers": table, "g_bias": True}
    return cfg, {"G": {_plain_name(k): v for k, v in state.items()}}


def _plain_name(key: str) -> str:
    """gen.K.J.x → main.(3K + J).x: three modules a block."""
    match = re.fullmatch(r"gen\.(\d{1,3})\.(\d)\.(.+)", key)
    return f"main.{3 * int(match[1]) + int(match[2])}.{match[3]}" if match else key
