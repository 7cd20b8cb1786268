"""AnimeGANv2: Chen, Liu & Chen, AnimeGAN: A Novel Lightweight GAN for Photo Animation, 2020."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import least_squares_g
from ganctl.losses.perceptual import VGG19, Perceptual, gram
from ganctl.nn.edges import luma, without_edges
from ganctl.nn.layers import init_normal
from ganctl.nn.spectral import SpectralConv
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 12}
DATA = {"pairs": "unpaired"}
SMALLEST = 8
"""Pixels: below, the reflected border of the innermost layers would be wider than what it reflects."""


@config
class Config:
    resolution: Count = 256
    """Side of training images (256 in the paper)."""
    source_channels: Count = 3
    """Channels of photographs."""
    channels: Count = 3
    """Channels of drawings."""
    width: Count = 32
    """Of G's first layer (v2's code: 32)."""
    ndf: Count = 32
    """Of D's first layer (v2's code: 32)."""
    align_corners: bool = True
    """How G enlarges: corners on corners, as its published weights are used, or pixels as areas."""
    adversarial_weight: Weight = 10.0
    """Of the adversarial loss, ω_adv (sec. 3.2)."""
    content_weight: Weight = 1.5
    """Of the content loss, ω_con: the paper's 1.5."""
    style_weight: Weight = 3.0
    """Of the greyscale style loss, ω_gra: the paper's 3."""
    colour_weight: Weight = 10.0
    """Of the colour reconstruction loss, ω_col: the paper's 10."""
    variation_weight: Weight = 1.0
    """Of the total variation, which v2 adds (its code: 1)."""
    edge_weight: Weight = 0.1
    """Of drawings without edges in D's loss: the paper's 0.1."""
    init_kimg: Weight = 67.0
    """For so many thousand photographs G learns by its content loss alone (sec. 3.3): ten epochs of v2's 6,656."""
    init_lr: Rate = 2e-4
    """Meanwhile, Adam's learning rate (v2's code: 0.0002) …"""
    glr: Rate = 2e-5
    """… and afterwards (v2's code: 0.00002)."""
    dlr: Rate = 4e-5
    """D's (v2's code: 0.00004)."""
    beta1: Moment = 0.5
    """Adam's first moment (v2's code)."""


def layer(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, layer norm (v2: in the place of instance norm), leaky ReLU (fig. 2: Conv-Block)."""
    # A stride of 2 continues the image by one pixel, to the right and below.
    side = kernel // 2
    pad = (0, 1, 0, 1) if stride == 2 else (side, side, side, side)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=groups > 1)
    return nn.Sequential(nn.ReflectionPad2d(pad), conv, nn.GroupNorm(1, outputs), nn.LeakyReLU(0.2))


class InvertedResidual(nn.Module):
    """IRB: twice as wide, each channel by itself, narrow again; added to the input where widths agree (fig. 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inside = 2 * inputs
        expand, depthwise = layer(inputs, inside, 1), layer(inside, inside, groups=inside)
        self.layers = nn.Sequential(
            expand, depthwise, nn.Conv2d(inside, outputs, 1, bias=False), nn.GroupNorm(1, outputs)
        )
        self.added = inputs == outputs

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        return x + self.layers(x) if self.added else self.layers(x)


class Generator(nn.Module):
    """v2's lighter G: a quarter of the size inside, four inverted residual blocks. Satisfies Translator.

    Keys are those of bryandlee/animegan2-pytorch.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source, self.target = Image(None, cfg.source_channels), Image(None, cfg.channels)
        self.align_corners, self.stride = cfg.align_corners, 1 if cfg.align_corners else 4
        w = cfg.width
        self.block_a = nn.Sequential(layer(cfg.source_channels, w, 7), layer(w, 2 * w, stride=2), layer(2 * w, 2 * w))
        self.block_b = nn.Sequential(layer(2 * w, 4 * w, stride=2), layer(4 * w, 4 * w))
        blocks = [InvertedResidual(4 * w if i == 0 else 8 * w, 8 * w) for i in range(4)]
        self.block_c = nn.Sequential(layer(4 * w, 4 * w), *blocks, layer(8 * w, 4 * w))
        self.block_d = nn.Sequential(layer(4 * w, 4 * w), layer(4 * w, 4 * w))
        self.block_e = nn.Sequential(layer(4 * w, 2 * w), layer(2 * w, 2 * w), layer(2 * w, w, 7))
        self.out_layer = nn.Sequential(nn.Conv2d(w, cfg.channels, 1, bias=False), nn.Tanh())
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Of any size with corners on corners, else of sides that are multiples of 4."""
        half = self.block_a(x)
        y = self.block_d(self._enlarged(self.block_c(self.block_b(half)), half))
        return self.out_layer(self.block_e(self._enlarged(y, x)))

    def _enlarged(self, y: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(y, like.shape[2:], mode="bilinear", align_corners=self.align_corners)

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h w"]:
        """No randomness: every seed gives the same. Sides below 8 px are continued by their last row and column."""
        h, w = x.shape[2:]
        return self(F.pad(x, (0, max(SMALLEST - w, 0), 0, max(SMALLEST - h, 0)), "replicate"))[..., :h, :w]


class Discriminator(nn.Module):
    """A logit for every patch; spectral normalisation, layer norm (fig. 3; v2's code). No convolution has a bias."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        w = cfg.ndf
        layers: list[nn.Module] = [SpectralConv(cfg.channels, w, 3, 1, 1), nn.LeakyReLU(0.2)]
        for inputs, wider in ((w, 2 * w), (4 * w, 4 * w)):
            # As it is padded, at the left and above alone, v2's code takes pixels 2i - 1, 2i, 2i + 1.
            layers += [nn.ZeroPad2d((1, 0, 1, 0)), SpectralConv(inputs, wider, 3, 2), nn.LeakyReLU(0.2)]
            layers += [SpectralConv(wider, 2 * wider, 3, 1, 1), nn.GroupNorm(1, 2 * wider), nn.LeakyReLU(0.2)]
        layers += [SpectralConv(8 * w, 8 * w, 3, 1, 1), nn.GroupNorm(1, 8 * w), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, SpectralConv(8 * w, 1, 3, 1, 1))
        init_normal(self)
        for m in self.modules():
            if isinstance(m, SpectralConv):
                nn.init.normal_(m.weight_orig, 0.0, 0.02)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h2 w2"]:
        return self.model(x)


@dataclass
class Nets:
    G: Generator
    D: Discriminator
    vgg: Perceptual | None


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that is no multiple of 4, or too small for VGG."""
    where = f"cannot build animegan for {cfg.resolution} px"
    if cfg.resolution % 4 or cfg.resolution < 16:
        raise UsageError(where, "it takes multiples of 4 from 16 on", "choose another --resolution")
    seen = cfg.content_weight or cfg.style_weight
    return Nets(Generator(cfg), Discriminator(cfg), Perceptual({"conv4_4": 1.0}) if seen else None)


def given(cfg: Config) -> dict[str, str]:
    """Features of conv4_4 (sec. 3.2).

    Deviation: of PyTorch's VGG-19, whose numbers are smaller than those of the authors' file. Their weight of the
    adversarial loss, 300, would leave the content no say, and 10 is the default here.
    """
    return {"vgg.features": VGG19} if cfg.content_weight or cfg.style_weight else {}


def beginning(cfg: Config) -> int:
    """Photographs that G sees before there is more than the content loss."""
    return round(1000 * cfg.init_kimg) if cfg.content_weight else 0


def shown(x: Float[Tensor, "n c h w"], channels: int) -> Float[Tensor, "n k h w"]:
    """As D or VGG sees a picture in grey: its luma in every channel."""
    return luma(x).expand(-1, channels, -1, -1)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E (D(a) - 1)² + E D(G(p))² + E D(x)² + 0.1 E D(y)²: drawings a, photographs p; x drawings in grey, and y in grey
    without edges  (sec. 3.2).
    """
    assert b.y is not None
    with torch.no_grad():
        fake = n.G(b.x)
        grey, smooth = shown(b.y, cfg.channels), shown(without_edges(b.y), cfg.channels)
    real = (n.D(b.y) - 1).square().mean()
    wrong = n.D(fake).square().mean() + n.D(grey).square().mean()
    return {"D_loss": real + wrong + cfg.edge_weight * n.D(smooth).square().mean()}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """ω_adv E (D(G(p)) - 1)² + ω_con L_con + ω_gra L_gra + ω_col L_col  (sec. 3.2), and v2's total variation.

    L_con = E |φ(p) - φ(G(p))| is all of it at first (sec. 3.3).
    """
    assert b.y is not None
    fake = n.G(b.x)
    terms = {}
    if n.vgg is not None:
        found = n.vgg.of(visible(fake))[0]
        with torch.no_grad():
            photo = n.vgg.of(visible(b.x))[0]
        terms["G_content"] = cfg.content_weight * F.l1_loss(found, photo)
        if p.nimg < beginning(cfg):
            return terms
        with torch.no_grad():
            drawing = n.vgg.of(luma(b.y))[0]
        # E |Gram(φ(x)) - Gram(φ(G(p)))|  (sec. 3.2).
        terms["G_style"] = cfg.style_weight * F.l1_loss(gram(found), gram(drawing))
    terms["G_loss"] = cfg.adversarial_weight * 2 * least_squares_g(n.D(fake), 1.0)
    terms["G_colour"] = cfg.colour_weight * colour_loss(b.x, fake)
    terms["G_variation"] = cfg.variation_weight * total_variation(fake)
    return terms


def visible(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
    """What VGG can see: RGB or grey."""
    return x if x.shape[1] in (1, 3) else luma(x)


def colour_loss(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n k h w"]) -> Float[Tensor, ""]:
    """E |Y(p) - Y(G(p))| + Huber of U and of V, images on [0, 1]  (sec. 3.2). Of what is not RGB, Y alone."""
    loss = F.l1_loss(luma(y), luma(x)) / 2
    if x.shape[1] == y.shape[1] == 3:
        # Of BT.601: U = 0.492 (B - Y), V = 0.877 (R - Y).
        for channel, scale in ((2, 0.492111), (0, 0.877283)):
            u, v = (scale * (image[:, channel] - luma(image)[:, 0]) / 2 for image in (x, y))
            loss = loss + F.huber_loss(v, u)
    return loss


def total_variation(x: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """½ E of the squared differences between neighbours, across and along (v2's code)."""
    across, along = x[:, :, 1:] - x[:, :, :-1], x[..., 1:] - x[..., :-1]
    return 0.5 * across.square().mean() + 0.5 * along.square().mean()


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg), start=beginning(cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    def rate(nimg: int, total: int) -> float:
        return cfg.init_lr if nimg < beginning(cfg) else cfg.glr

    return {"G": Adam(rate, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """AnimeGANv2's generator as bryandlee/animegan2-pytorch publishes it: `block_a` … `block_e`, `out_layer`."""
    first, last = state.get("block_a.0.1.weight"), state.get("out_layer.0.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return None
    blocks = {m[1] for k in state if (m := re.match(r"block_c\.(\d+)\.layers\.", k))}
    if blocks != {"1", "2", "3", "4"}:
        return None
    cfg = {"source_channels": first.shape[1], "channels": last.shape[0], "width": first.shape[0]}
    return cfg, {"G": dict(state)}
