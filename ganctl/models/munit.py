"""MUNIT: Huang, Liu, Belongie & Kautz, Multimodal Unsupervised Image-to-Image Translation, 2018. arXiv:1804.04732."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import least_squares_d, least_squares_g
from ganctl.losses.perceptual import VGG19, Perceptual
from ganctl.nn.content_style import Conv, Decoder, LayerNorm, at_least, content_encoder, init_kaiming, style_encoder
from ganctl.nn.layers import halved, init_normal, mlp, normal_prior
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published.content_style import renamed, sizes
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 1}
DATA = {"pairs": "unpaired", "mirror": True}
STYLE_DOWNS = 4
"""Halvings in the style encoder (appendix B)."""
SMALLEST_STYLE = 2**STYLE_DOWNS
"""Pixels: below, the reflected border of its last convolution would be wider than what it reflects."""
SMALLEST_PERCEPTUAL = 32
"""Pixels: of fewer VGG's pools leave one, and a norm of one pixel is nothing."""


@config
class Config:
    resolution: Count = 256
    """Side of training images (sec. 5.1: 256); the networks take any multiple of 2^content_downs."""
    source_channels: Count = 3
    """Channels of domain A, X₁ in the paper."""
    channels: Count = 3
    """Channels of domain B, X₂ in the paper."""
    ngf: Count = 64
    """Width of the encoders' first layer (appendix B: c7s1-64)."""
    content_downs: Annotated[int, Ge(1), Le(8)] = 2
    """Halvings in the content encoder (appendix B: d128, d256)."""
    res_blocks: Annotated[int, Ge(1), Le(64)] = 4
    """Residual blocks in the content encoder, and in the decoder (appendix B)."""
    style_dim: Count = 8
    """Numbers of a style code (appendix A: 8)."""
    mlp_dim: Count = 256
    """Width of the layers between a style code and AdaIN's numbers (the authors' code)."""
    ndf: Count = 64
    """Width of a discriminator's first layer (appendix B: d64)."""
    n_layers: Annotated[int, Ge(1), Le(8)] = 4
    """Halvings in a discriminator (appendix B: d64, d128, d256, d512)."""
    scales: Annotated[int, Ge(1), Le(8)] = 3
    """Discriminators, each of half the side of the one before (appendix B: 3)."""
    image_weight: Weight = 10.0
    """λ_x (eq. 5): 10 (appendix A)."""
    content_weight: Weight = 1.0
    """λ_c (eq. 5): 1 (appendix A)."""
    style_weight: Weight = 1.0
    """λ_s (eq. 5): 1 (appendix A)."""
    perceptual_weight: Weight = 0.0
    """Of the domain-invariant perceptual loss: 1 between street scenes and between seasons of Yosemite, none elsewhere
    (sec. 5.1, appendix A)."""
    glr: Rate = 1e-4
    """Appendix A: Adam, 0.0001 …"""
    dlr: Rate = 1e-4
    """The same for D."""
    lr_kimg: Rate = 100.0
    """… halved after every so many thousand images: 100,000 iterations of one image (appendix A)."""
    beta1: Moment = 0.5
    """Adam's first moment (appendix A); its second is 0.999."""


class Domain(nn.Module):
    """The auto-encoder of one domain (fig. 3): c = Eᶜ(x), s = Eˢ(x), x = G(c, s)."""

    def __init__(self, channels: int, cfg: Config) -> None:
        super().__init__()
        self.image, width = Image(None, channels), cfg.ngf << cfg.content_downs
        self.content = content_encoder(channels, cfg.ngf, cfg.content_downs, cfg.res_blocks)
        self.style = style_encoder(channels, cfg.ngf, STYLE_DOWNS, cfg.style_dim)
        self.decoder = Decoder(channels, width, cfg.content_downs, cfg.res_blocks, LayerNorm)
        self.mlp = nn.Sequential(*mlp([cfg.style_dim, cfg.mlp_dim, cfg.mlp_dim, self.decoder.numbers], nn.ReLU()))
        self.style_dim, self.stride = cfg.style_dim, 2**cfg.content_downs
        init_kaiming(self)

    def encode(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n k h2 w2"], Float[Tensor, "n s"]]:
        return self.content(x), self.encode_style(x)

    def encode_style(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n s"]:
        return self.style(at_least(x, SMALLEST_STYLE)).flatten(1)

    def decode(self, content: Float[Tensor, "n k h w"], style: Float[Tensor, "n s"]) -> Float[Tensor, "n c h2 w2"]:
        return self.decoder(content, self.mlp(style))


@dataclass(frozen=True)
class Way:
    """From one domain to another: G₂(E₁ᶜ(x), s)  (sec. 3.1). Satisfies Styled."""

    a: Domain
    b: Domain
    style_prior: ClassVar[bool] = True
    own_style: ClassVar[bool] = False

    @property
    def source(self) -> Image:
        return self.a.image

    @property
    def target(self) -> Image:
        return self.b.image

    @property
    def stride(self) -> int:
        return self.a.stride

    def draw_style(self, seeds: Sequence[int]) -> Float[Tensor, "n s"]:
        """s ~ N(0, I), the prior q(s) of sec. 3.2."""
        return normal_prior(seeds, self.b.style_dim)

    def encode_style(self, x: Float[Tensor, "n k h w"]) -> Float[Tensor, "n s"]:
        """E₂ˢ(x) of images of the target's domain."""
        return self.b.encode_style(x)

    def translate(
        self, x: Float[Tensor, "n c h w"], *, seed: int = 0, style: Float[Tensor, "m s"] | None = None
    ) -> Float[Tensor, "n k h w"]:
        """Every image in the style, or in that of the seed. Sides are continued up to two pixels of content."""
        h, w = x.shape[2:]
        style = self.draw_style([seed]) if style is None else style
        content = self.a.content(at_least(x, 2 * self.stride))
        return self.b.decode(content, style.to(x).expand(x.shape[0], -1))[..., :h, :w]


class Generator(nn.Module):
    """The auto-encoders of both domains. Satisfies Styled from A to B; `reverse` leads from B to A."""

    style_prior, own_style = True, False

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.A, self.B = Domain(cfg.source_channels, cfg), Domain(cfg.channels, cfg)
        self.source, self.target, self.stride = self.A.image, self.B.image, self.A.stride

    @property
    def reverse(self) -> Way:
        return Way(self.B, self.A)

    def draw_style(self, seeds: Sequence[int]) -> Float[Tensor, "n s"]:
        return Way(self.A, self.B).draw_style(seeds)

    def encode_style(self, x: Float[Tensor, "n k h w"]) -> Float[Tensor, "n s"]:
        return self.B.encode_style(x)

    def translate(
        self, x: Float[Tensor, "n c h w"], *, seed: int = 0, style: Float[Tensor, "m s"] | None = None
    ) -> Float[Tensor, "n k h w"]:
        return Way(self.A, self.B).translate(x, seed=seed, style=style)


class Discriminator(nn.Module):
    """D of one domain at several scales (appendix B). Returns a map of logits of each, the finest first."""

    def __init__(self, channels: int, cfg: Config) -> None:
        super().__init__()
        widths = [channels, *(cfg.ndf << i for i in range(cfg.n_layers))]

        def critic() -> nn.Sequential:
            layers = [Conv(a, b, 4, activation=lambda: nn.LeakyReLU(0.2)) for a, b in itertools.pairwise(widths)]
            return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))

        self.scales = nn.ModuleList(critic() for _ in range(cfg.scales))

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        found = []
        for i, scale in enumerate(self.scales):
            x = halved(x) if i else x
            found.append(scale(x))
        return found


class Discriminators(nn.Module):
    """Of each domain one: A (D₁ in the paper) and B (D₂)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.A, self.B = (Discriminator(c, cfg) for c in (cfg.source_channels, cfg.channels))
        init_normal(self)


@dataclass
class Nets:
    G: Generator
    D: Discriminators
    phi: Perceptual | None = None
    """Where the perceptual loss is wanted."""


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that cannot be halved so often."""
    where = f"cannot build munit for {cfg.resolution} px"
    if cfg.resolution % 2**cfg.content_downs:
        hint = f"choose a multiple of {2**cfg.content_downs}"
        raise UsageError(where, f"the content encoder halves the side {cfg.content_downs} times", hint)
    least = max(2 ** (cfg.n_layers + cfg.scales - 1), SMALLEST_STYLE)
    if cfg.resolution < least:
        why = f"n_layers = {cfg.n_layers} and scales = {cfg.scales} need {least} px"
        raise UsageError(where, why, "choose a larger --resolution, or fewer with --set n_layers=… or scales=…")
    if cfg.perceptual_weight and cfg.resolution < SMALLEST_PERCEPTUAL:
        why = f"of less than {SMALLEST_PERCEPTUAL} px VGG leaves one pixel, whose norm is nothing"
        raise UsageError(where, why, "choose a larger --resolution, or --set perceptual_weight=0")
    # Deviation: relu5_4 of VGG-19, which all perceptual losses here have; the authors' code has relu5_3 of VGG-16.
    phi = Perceptual({"relu5_4": 1.0}) if cfg.perceptual_weight else None
    return Nets(Generator(cfg), Discriminators(cfg), phi)


def given(cfg: Config) -> dict[str, str]:
    """What training takes from elsewhere: the weights of φ."""
    return {"phi": VGG19} if cfg.perceptual_weight else {}


def styles(n: Nets, b: Batch, p: Progress) -> tuple[Tensor, Tensor]:
    """s₁ and s₂ from N(0, I), one for each image."""
    return p.normal(len(b.x), n.G.A.style_dim), p.normal(len(b.x), n.G.B.style_dim)


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """E D₂(G₂(c₁, s₂))² + E (D₂(x₂) - 1)², the same of D₁  (eq. 4 with appendix B's least squares), over all scales."""
    assert b.y is not None
    s1, s2 = styles(n, b, p)
    with torch.no_grad():
        fake_b = n.G.B.decode(n.G.A.content(b.x), s2)
        fake_a = n.G.A.decode(n.G.B.content(b.y), s1)

    def judged(D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return torch.stack([2 * least_squares_d(r, f, 0.0, 1.0) for r, f in zip(D(real), D(fake), strict=True)]).sum()

    return {"D_loss_B": judged(n.D.B, b.y, fake_b), "D_loss_A": judged(n.D.A, b.x, fake_a)}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E (D₂(G₂(c₁, s₂)) - 1)² and the same of D₁, over all scales  (eq. 4 with appendix B's least squares);

    λ_x E ‖G₁(E₁ᶜ(x₁), E₁ˢ(x₁)) - x₁‖₁  (eq. 1), λ_c E ‖E₂ᶜ(G₂(c₁, s₂)) - c₁‖₁  (eq. 2),
    λ_s E ‖E₂ˢ(G₂(c₁, s₂)) - s₂‖₁  (eq. 3), each with its like of the other domain  (eq. 5);

    E ‖IN(φ(G₂(c₁, s₂))) - IN(φ(x₁))‖² and its like, where it is wanted  (sec. 5.1).

    Norms are means over all numbers (the authors' code).
    """
    # Deviation: without the explicit cycle loss that the authors' code has for some data.
    assert b.y is not None
    A, B = n.G.A, n.G.B
    s1, s2 = styles(n, b, p)
    (c1, own1), (c2, own2) = A.encode(b.x), B.encode(b.y)
    fake_b, fake_a = B.decode(c1, s2), A.decode(c2, s1)
    (c1_again, s2_again), (c2_again, s1_again) = B.encode(fake_b), A.encode(fake_a)

    def fooled(D: nn.Module, fake: Tensor) -> Tensor:
        return torch.stack([2 * least_squares_g(f, 1.0) for f in D(fake)]).sum()

    terms = {
        "G_loss_B": fooled(n.D.B, fake_b),
        "G_loss_A": fooled(n.D.A, fake_a),
        "G_image": cfg.image_weight * (F.l1_loss(A.decode(c1, own1), b.x) + F.l1_loss(B.decode(c2, own2), b.y)),
        "G_content": cfg.content_weight * (F.l1_loss(c1_again, c1) + F.l1_loss(c2_again, c2)),
        "G_style": cfg.style_weight * (F.l1_loss(s2_again, s2) + F.l1_loss(s1_again, s1)),
    }
    if n.phi is not None:
        apart = n.phi.distance(fake_b, b.x, normalised) + n.phi.distance(fake_a, b.y, normalised)
        terms["G_perceptual"] = cfg.perceptual_weight * apart
    return terms


def normalised(a: Tensor, b: Tensor) -> Tensor:
    """‖IN(a) - IN(b)‖²: without the means and deviations of channels, which are the domain's (sec. 5.1)."""
    return F.mse_loss(F.instance_norm(a), F.instance_norm(b))


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), d_loss),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    def halving(start: float, nimg: int) -> float:
        return start * 0.5 ** (nimg // (cfg.lr_kimg * 1000))

    return {
        "G": Adam(lambda nimg, total: halving(cfg.glr, nimg), cfg.beta1),
        "D": Adam(lambda nimg, total: halving(cfg.dlr, nimg), cfg.beta1),
    }


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The authors' `gen_*.pt`: `a` and `b`, an auto-encoder each, with `enc_style`, `enc_content`, `mlp` and `dec`; GAN
    Compression's, one auto-encoder that serves both sides (its test script).

    Buffers of its AdaIN layers and of instance norms of its oldest versions are read without.
    """
    sides = {s: {k[2:]: v for k, v in state.items() if k.startswith(f"{s}.")} for s in "ab"}
    if "enc_style.model.0.conv.weight" in state:
        sides = {"a": dict(state), "b": dict(state)}
    (a, b) = found = [sizes(side) for side in sides.values()]
    if a is None or b is None or not all("enc_style.model.0.conv.weight" in side for side in sides.values()):
        return None
    cfg = {name: b[name] for name in ("channels", "ngf", "content_downs", "style_dim", "mlp_dim", "res_blocks")}
    if any(f is None or f["mlp_layers"] != 3 or f["style_downs"] != STYLE_DOWNS for f in found):
        return None
    tensors = {f"{side.upper()}.{k}": v for side, own in sides.items() for k, v in renamed(own).items()}
    return {"source_channels": a["channels"], **cfg}, {"G": tensors}
