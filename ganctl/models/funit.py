"""FUNIT: Liu et al., Few-Shot Unsupervised Image-to-Image Translation, 2019. arXiv:1905.01723."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import hinge_d, wasserstein_g
from ganctl.losses.regularizers import logits_and_penalty
from ganctl.nn.content_style import Decoder, at_least, content_encoder, init_kaiming, style_encoder
from ganctl.nn.layers import mlp, numbered_convs
from ganctl.nn.norm import InstanceNorm
from ganctl.phase import Batch, Optimizer, Phase, Progress, RMSprop, Terms
from ganctl.published.content_style import renamed, sizes
from ganctl.ranges import Count, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 64, "ema_kimg": 44.4}
"""The authors' code: 64. Of the average 0.999 are left after a step (sec. 4), a half after 693 steps."""
DATA = {"pairs": "classes", "mirror": True}
MAX_WIDTH = 1024
"""Of D (the authors' code)."""


@config
class Config:
    resolution: Count = 128
    """Side of training images (sec. 4); the networks take any multiple of 2^content_downs."""
    channels: Count = 3
    """Of images, on both sides."""
    classes: Count = 119
    """Source classes, those of the training data (sec. 4.1: 119 of Animal Faces); targets are others."""
    ngf: Count = 64
    """Width of the encoders' first layer (the authors' code, as the next five)."""
    content_downs: Annotated[int, Ge(1), Le(8)] = 3
    """Halvings in the content encoder."""
    style_downs: Annotated[int, Ge(2), Le(8)] = 4
    """Halvings in the class encoder."""
    res_blocks: Annotated[int, Ge(1), Le(64)] = 2
    """Residual blocks in the content encoder, and in the decoder."""
    style_dim: Count = 64
    """Numbers of a class code."""
    mlp_dim: Count = 256
    """Width of the layers between a class code and AdaIN's numbers."""
    mlp_layers: Annotated[int, Ge(2), Le(16)] = 3
    """How many of them there are."""
    ndf: Count = 64
    """Width of D's first layer (the authors' code)."""
    n_layers: Annotated[int, Ge(1), Le(8)] = 5
    """Pairs of residual blocks in D, between which the side is halved (the authors' code: 10 blocks)."""
    image_weight: Weight = 0.1
    """λ_R (eq. 1): 0.1 (sec. 4)."""
    feature_weight: Weight = 1.0
    """λ_F (eq. 1): 1 (sec. 4)."""
    gamma: Weight = 10.0
    """γ of R1, the penalty on D's gradient at real images (sec. 4, after Mescheder et al. 2018, whose it is)."""
    glr: Rate = 1e-4
    """Sec. 4: RMSProp, 0.0001."""
    dlr: Rate = 1e-4
    """The same for D."""


class Generator(nn.Module):
    """x̄ = F_x(E_x(x), 1/K Σ E_y(y_k))  (sec. 3.1). Satisfies Styled: the style is the mean code of K class images."""

    style_prior, own_style = False, True

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source = self.target = Image(None, cfg.channels)
        self.stride, width = 2**cfg.content_downs, cfg.ngf << cfg.content_downs
        self.smallest = 2 * self.stride, 2**cfg.style_downs
        """Pixels that content and class encoder need: their last borders are reflected."""
        self.content = content_encoder(cfg.channels, cfg.ngf, cfg.content_downs, cfg.res_blocks)
        self.style = style_encoder(cfg.channels, cfg.ngf, cfg.style_downs, cfg.style_dim)
        self.decoder = Decoder(cfg.channels, width, cfg.content_downs, cfg.res_blocks, InstanceNorm)
        hidden = [cfg.mlp_dim] * (cfg.mlp_layers - 1)
        self.mlp = nn.Sequential(*mlp([cfg.style_dim, *hidden, self.decoder.numbers], nn.ReLU()))
        init_kaiming(self)

    def encode_style(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n s"]:
        """E_y(y), a code for each image; that of a class is the mean over its images."""
        return self.style(at_least(x, self.smallest[1])).flatten(1)

    def decode(self, content: Float[Tensor, "n k h w"], style: Float[Tensor, "n s"]) -> Float[Tensor, "n c h2 w2"]:
        return self.decoder(content, self.mlp(style))

    def forward(self, x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h2 w2"]) -> Float[Tensor, "n c h w"]:
        """G(x, {y}), K = 1 as in training (sec. 4)."""
        return self.decode(self.content(x), self.encode_style(y))

    def translate(
        self, x: Float[Tensor, "n c h w"], *, seed: int = 0, style: Float[Tensor, "m s"] | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Every image as one of the class of `style`; without it as one of its own. Nothing is drawn."""
        h, w = x.shape[2:]
        style = self.encode_style(x) if style is None else style
        return self.decode(self.content(at_least(x, self.smallest[0])), style.to(x).expand(x.shape[0], -1))[..., :h, :w]


class Block(nn.Module):
    """lrelu(x) + f(x), or where it widens a 1 × 1 convolution of x + f(x); f = conv ∘ lrelu ∘ conv ∘ lrelu.

    Borders are reflected. What goes around f is activated because the authors' code activates in place.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv_0, self.conv_1 = nn.Conv2d(width, width, 3), nn.Conv2d(width, out, 3)
        self.conv_s = nn.Conv2d(width, out, 1, bias=False) if out != width else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        active = F.leaky_relu(x, 0.2)
        d = self.conv_0(F.pad(active, [1] * 4, "reflect"))
        d = self.conv_1(F.pad(F.leaky_relu(d, 0.2), [1] * 4, "reflect"))
        return d + (active if self.conv_s is None else self.conv_s(x))


class Discriminator(nn.Module):
    """A binary judgement for each source class (sec. 3.2), of patches. Returns logits of one class, and D_f."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.first = nn.Conv2d(cfg.channels, cfg.ndf, 7)
        widths = [min(cfg.ndf << i, MAX_WIDTH) for i in range(cfg.n_layers + 1)]
        self.blocks = nn.ModuleList(
            block for a, b in itertools.pairwise(widths) for block in (Block(a, a), Block(a, b))
        )
        self.last = nn.Conv2d(widths[-1], cfg.classes, 1)
        init_kaiming(self)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f h2 w2"]:
        """D without its last layer."""
        x = self.first(F.pad(x, [3] * 4, "reflect"))
        for i, block in enumerate(self.blocks):
            if i and i % 2 == 0:
                x = F.avg_pool2d(F.pad(x, [1] * 4, "reflect"), 3, 2)
            x = block(x)
        return F.leaky_relu(x, 0.2)

    def forward(
        self, x: Float[Tensor, "n c h w"], c: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n h2 w2"], Float[Tensor, "n f"]]:
        """D^c(x), and D_f(x): the mean of the features over all positions (the authors' code)."""
        features = self.features(x)
        logits = self.last(features)
        return logits[torch.arange(len(x), device=x.device), c], features.mean((2, 3))


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that cannot be halved so often."""
    where = f"cannot build funit for {cfg.resolution} px"
    if cfg.resolution % 2**cfg.content_downs:
        hint = f"choose a multiple of {2**cfg.content_downs}"
        raise UsageError(where, f"the content encoder halves the side {cfg.content_downs} times", hint)
    least = max(2 ** (cfg.content_downs + 1), 2**cfg.style_downs, 2**cfg.n_layers)
    if cfg.resolution < least:
        hint = "choose a larger --resolution, or fewer layers of D with --set n_layers=…"
        raise UsageError(where, f"its encoders and D need {least} px", hint)
    return Nets(Generator(cfg), Discriminator(cfg))


def sides(b: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Content images and their classes c_x; a class image for each, of another class, and its class c_y."""
    assert b.y is not None and b.c is not None and b.cy is not None
    return b.x, b.c, b.y, b.cy


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E max(0, 1 - D^cₓ(x)) + E max(0, 1 + D^c_y(G(x, {y})))  (eq. 2 with sec. 4's hinge),

    and R1, γ/2 E ‖∇ D^cₓ(x)‖², of the mean over D's map.
    """
    # Deviation: the authors' code takes the gradient of the mean over the batch too, so that its penalty is, beside
    # γ/2, weaker by the square of the batch's size; here it is that of the work the paper cites, whatever the batch.
    x, cx, y, cy = sides(b)
    with torch.no_grad():
        fake = n.G(x, y)
    real, penalty = logits_and_penalty(lambda x: n.D(x, cx)[0], x)
    pixels = real.shape[1] * real.shape[2]
    return {
        "D_loss": hinge_d(real, n.D(fake, cy)[0]),
        "D_r1": cfg.gamma / 2 * penalty.mean() / pixels**2,
    }


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E D^c_y(G(x, {y}))  (eq. 2 with sec. 4's hinge), λ_R E ‖x - G(x, {x})‖₁  (eq. 3), and

    λ_F E ‖D_f(G(x, {y})) - D_f(y)‖₁  (eq. 4). Norms are means over all numbers (the authors' code).
    """
    # Deviation: the authors' code judges G(x, {x}) too, as of class c_x, and matches its features to those of x.
    x, _, y, cy = sides(b)
    content = n.G.content(x)
    logits, features = n.D(n.G.decode(content, n.G.encode_style(y)), cy)
    with torch.no_grad():
        wanted = n.D(y, cy)[1]
    again = n.G.decode(content, n.G.encode_style(x))
    return {
        "G_loss": wasserstein_g(logits),
        "G_image": cfg.image_weight * F.l1_loss(again, x),
        "G_features": cfg.feature_weight * F.l1_loss(features, wanted),
    }


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": RMSprop(cfg.glr), "D": RMSprop(cfg.dlr)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The authors' files: `gen` and its average `gen_test`, with `enc_content`, `enc_class_model`, `mlp` and `dec`;

    `dis`, with `cnn_f` and `cnn_c`.
    """
    if "cnn_c.0.conv.weight" in state:
        return discriminator(state)
    cfg = sizes(state)
    if cfg is None or "enc_class_model.model.0.conv.weight" not in state:
        return None
    return dict(cfg), {"G": renamed(state)}


def discriminator(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """Blocks in one sequence with the halvings, 1, 2, 5, 6, 9, 10 … counted without them."""
    first, last = state.get("cnn_f.0.conv.weight"), state["cnn_c.0.conv.weight"]
    blocks = len(numbered_convs(state, r"cnn_f\.(\d{1,3})\.conv_0\.conv\.weight"))
    if first is None or first.ndim != 4 or last.ndim != 4 or blocks < 2 or blocks % 2:
        return None
    names = {"cnn_f.0.conv.": "first.", "cnn_c.0.conv.": "last."}
    for i in range(blocks):
        own = 1 + i + i // 2 * 2
        names |= {f"cnn_f.{own}.conv_{j}.conv.": f"blocks.{i}.conv_{j}." for j in "01s"}
    found = {}
    for key, tensor in state.items():
        prefix = key[: key.rfind(".") + 1]
        found[names.get(prefix, prefix) + key.removeprefix(prefix)] = tensor
    cfg = {"channels": first.shape[1], "ndf": first.shape[0], "n_layers": blocks // 2, "classes": last.shape[0]}
    return cfg, {"D": found}
