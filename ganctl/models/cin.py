"""CIN: Dumoulin, Shlens & Kudlur, A Learned Representation for Artistic Style, 2017. arXiv:1610.07629."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.perceptual import VGG19, Perceptual, gram
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 16, "ema_rampup": None}
DATA = {"pairs": "unpaired"}
SIZE_FROM_DATA = False
SMALLEST = 8
"""Pixels: below, the reflected border of the innermost layers would be wider than what it reflects."""
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
"""Of the style; the third is that of the content, as in the network of Johnson et al. that sec. 2 builds on."""


@config
class Config:
    resolution: Count = 256
    """Side of training images; the network takes any multiple of 4."""
    channels: Count = 3
    """Of content, styles and results."""
    styles: Count = 32
    """N, the pictures of the data's second side: 32 (sec. 4.1)."""
    width: Count = 32
    """Channels of the first convolution (appendix, table 1: 32)."""
    style_weight: Weight = 5.0
    """λ_s (eq. 1), where λ_c is 1: that of Johnson et al."""
    glr: Rate = 1e-3
    """Adam's learning rate (table 1)."""
    beta1: Moment = 0.9
    """Its first moment (table 1)."""

    @property
    def source_channels(self) -> int:
        """Content and styles are of one kind."""
        return self.channels


class Layer(nn.Module):
    """Convolution with a reflected border, then conditional instance normalisation (eq. 5), which has a row of γ and of
    β for each style."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, styles: int) -> None:
        super().__init__()
        self.pad = kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        self.weight, self.bias = nn.Parameter(torch.ones(styles, outputs)), nn.Parameter(torch.zeros(styles, outputs))
        nn.init.normal_(self.conv.weight, 0.0, 0.01)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n s"]) -> Float[Tensor, "n k h2 w2"]:
        """`style` is γ and β, one behind the other."""
        gamma, beta = style[..., None, None].chunk(2, 1)
        x = self.conv(F.pad(x, (self.pad,) * 4, "reflect"))
        return gamma * F.instance_norm(x) + beta


class Generator(nn.Module):
    """The style transfer network (appendix, table 1). Satisfies Styled, its styles being the N it was trained on.

    A style's code is all its γ and β; the weighted mean of codes is that of sec. 4.4.
    """

    style_prior, own_style = True, False

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source = self.target = Image(None, cfg.channels)
        self.stride, w, n = 4, cfg.width, cfg.styles
        self.down = nn.ModuleList(
            [Layer(cfg.channels, w, 9, 1, n), Layer(w, 2 * w, 3, 2, n), Layer(2 * w, 4 * w, 3, 2, n)]
        )
        self.blocks = nn.ModuleList(Layer(4 * w, 4 * w, 3, 1, n) for _ in range(10))
        self.up = nn.ModuleList([Layer(4 * w, 2 * w, 3, 1, n), Layer(2 * w, w, 3, 1, n)])
        self.last = Layer(w, cfg.channels, 9, 1, n)

    def layers(self) -> list[Layer]:
        return [m for m in self.modules() if isinstance(m, Layer)]

    def codes(self, c: Int[Tensor, " n"]) -> Float[Tensor, "n s"]:
        """γ and β of each layer, of the styles of these numbers."""
        return torch.cat([p[c] for layer in self.layers() for p in (layer.weight, layer.bias)], 1)

    def draw_style(self, seeds: Sequence[int]) -> Float[Tensor, "n s"]:
        """Nothing is drawn: seed k is style k, and after the last begins the first again."""
        n = len(self.last.weight)
        return self.codes(torch.tensor([seed % n for seed in seeds], device=self.last.weight.device))

    def encode_style(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n s"]:
        """Raises UsageError: only styles that were learned are known."""
        n = len(self.last.weight)
        raise UsageError("cannot see the style of a picture", f"this model knows {n}", f"pass --style 0 … {n - 1}")

    def forward(self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n s"]) -> Float[Tensor, "n c h w"]:
        """Images on [-1, 1]; two layers make a residual block, up-sampling is nearest, a sigmoid ends it."""
        parts = iter(style.split([2 * layer.weight.shape[1] for layer in self.layers()], 1))
        for layer in self.down:
            x = layer(x, next(parts)).relu()
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = x + second(first(x, next(parts)).relu(), next(parts))
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2), next(parts)).relu()
        return 2 * self.last(x, next(parts)).sigmoid() - 1

    def translate(
        self, x: Float[Tensor, "n c h w"], *, seed: int = 0, style: Float[Tensor, "m s"] | None = None
    ) -> Float[Tensor, "n c h w"]:
        """In the style told, or without one in that of the seed's number. Sides are multiples of 4."""
        h, w = x.shape[2:]
        style = self.draw_style([seed]) if style is None else style
        x = F.pad(x, (0, max(SMALLEST - w, 0), 0, max(SMALLEST - h, 0)), "replicate")
        return self(x, style.to(x).expand(x.shape[0], -1))[..., :h, :w]


@dataclass
class Nets:
    G: Generator
    vgg: Perceptual


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that the network cannot halve twice, or VGG four times."""
    if cfg.resolution % 4 or cfg.resolution < 16:
        where = f"cannot build cin for {cfg.resolution} px"
        raise UsageError(where, "it halves the side twice, its loss four times", "choose a multiple of 4, 16 or more")
    # Deviation: VGG-19 in place of VGG-16 (sec. 2), as every perceptual loss here.
    return Nets(Generator(cfg), Perceptual(dict.fromkeys(LAYERS, 1.0)))


def given(cfg: Config) -> dict[str, str]:
    """The network that content and style are compared by (sec. 2)."""
    return {"vgg.features": VGG19}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """λ_s L_s + λ_c L_c  (eq. 1), of contents c and of styles s drawn with them:

    L_c = Σ ‖φ_j(T(c, s)) - φ_j(c)‖² / U_j  (eq. 2), L_s = Σ ‖G(φ_i(T(c, s))) - G(φ_i(s))‖²_F  (eq. 3).
    """
    assert b.y is not None and b.cy is not None
    with torch.no_grad():
        content, style = n.vgg.of(b.x), n.vgg.of(b.y)
    made = n.vgg.of(n.G(b.x, n.G.codes(b.cy)))
    errors = [(gram(a) - gram(s)).square().sum((1, 2)).mean() for a, s in zip(made, style, strict=True)]
    return {"G_content": F.mse_loss(made[2], content[2]), "G_style": cfg.style_weight * torch.stack(errors).sum()}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg))]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1)}
