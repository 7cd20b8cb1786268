"""StyleGAN2: Karras, Laine, Aittala, Hellsten, Lehtinen & Aila, Analyzing and Improving the Image Quality of StyleGAN, 2020. arXiv:1912.04958."""  # noqa: E501

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.losses.regularizers import balanced_consistency, logits_and_penalty, path_length_penalty, path_lengths
from ganctl.nn.clip import clip
from ganctl.nn.equalized import EqualizedLinear, ResampledConv2d, activate
from ganctl.nn.layers import numpy_prior
from ganctl.nn.mapping import Mapping, one_hot
from ganctl.nn.minibatch_std import minibatch_std
from ganctl.nn.modulated import modulated_conv2d, styled_conv2d
from ganctl.nn.noise import Draw, drawn_by
from ganctl.nn.precision import float32_unless
from ganctl.nn.resample import BINOMIAL, downsample2d, fir_filter, upsample2d
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.protocols import Noise
from ganctl.published import stylegan2 as published
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image, Label

TRAIN = {"batch": 32, "ema_kimg": 10, "ema_rampup": None, "kimg": 25000}
"""Appendix B; the average's half-life and the batch of Karras et al. 2019, appendix C. Where 2006.06676 trains on few
images, its code has an `ema_rampup` of 0.05."""

AUGMENTS = True
POWER_OF_2 = True
HALF = {"clamp": 256.0, "num_fp16_res": 4}
"""What a training in fp16 or bf16 takes where it is told nothing else (2006.06676, appendix D, and its code).

Deviation: R1 and path lengths stay in float32, where that code has them in half precision too: second derivatives need
range and digits, and phases run once in 16 or 4 steps cost little.
"""

Architecture = Literal["orig", "skip", "resnet"]
"""Fig. 7: plain; the sum of an RGB output (or input) at every resolution; residual blocks."""


@config
class Config:
    """Configuration F (table 1), with classes, clamping and half precision of Karras et al. 2020, arXiv:2006.06676."""

    resolution: Count = 1024
    """Side of the images: 8 or more, a power of 2."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count | None = None
    """None: unconditional. Else G and D take a class (2006.06676, appendix D: projection in D)."""
    joint_labels: bool = False
    """Classes as in StyleGAN2's own code: G normalises z and the class's vector together, D has a logit for each."""
    z_dim: Count = 512
    """Dimension of z."""
    w_dim: Count = 512
    """Dimension of w."""
    mapping_layers: Count = 8
    """Depth of the mapping network; 2 where 2006.06676 trains on few images."""
    mapping_lr: Rate = 0.01
    """Its learning rate, as a share of the others' (appendix B)."""
    w_beta: Moment = 0.995
    """Decay of the running mean of w, a step."""
    channel_base: Annotated[int, Ge(1), Le(1 << 17)] = 32768
    """Feature maps times side where they are fewer than …"""
    channel_max: Count = 512
    """… the most: 64 at 512 px, 32 at 1024 px (configuration F)."""
    g_architecture: Architecture = "skip"
    """Of the synthesis network (table 2)."""
    d_architecture: Architecture = "resnet"
    """Of D (table 2)."""
    noise: bool = True
    """Whether layers add noise."""
    clamp: Rate | None = None
    """Bound on every convolution's output: 256 in 2006.06676, for half precision; None: none."""
    num_fp16_res: Annotated[int, Ge(0), Le(16)] | None = None
    """How many of the highest resolutions may compute in half precision; the others, and 4 px, then stay in fp32. None:
    all may."""
    mbstd_group: Count | None = 4
    """Samples a minibatch standard deviation is taken over; None: the whole batch."""
    mbstd_channels: Count = 1
    """Feature maps it adds."""
    d_mapping_layers: Count = 8
    """Depth of D's mapping of the class."""
    style_mixing: Annotated[float, Ge(0), Le(1)] = 0.9
    """How often an image is made of two styles in training (Karras et al. 2019, sec. 3.1)."""
    r1_gamma: Weight = 10.0
    """γ of R1 (Mescheder et al. 2018) …"""
    r1_every: Count = 16
    """… applied every so many steps (sec. 3.1)."""
    pl_weight: Weight = 2.0
    """γ of path length regularisation. Deviation: the code's 2, with y of eq. 4 divided by √(h w), for appendix B's
    ln 2 / (r² (ln r - ln 2))."""
    pl_every: Count = 4
    """Applied every so many steps. Deviation: 4 as in the code, for appendix B's 8."""
    pl_decay: Moment = 0.01
    """How far the running mean of lengths, a of eq. 4, moves in a step (appendix B)."""
    pl_shrink: Count = 2
    """On one of so many images of the batch."""
    glr: Rate = 2e-3
    """Adam's learning rate (appendix B), before the correction for lazy regularisation."""
    dlr: Rate = 2e-3
    """The same for D."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.99
    """… and second."""


def auto(resolution: int, batch: int | None) -> dict[str, int | float]:
    """Numbers for new data, where a recipe says `auto` (2006.06676; the rules are those of the authors' code).

    Deviation: the batch is the code's for one GPU, however many there are.
    """
    batch = batch or max(1, min(4096 // resolution, 32))
    lr = 2e-3 if resolution >= 1024 else 2.5e-3
    found = {"channel_base": 32768 if resolution >= 512 else 16384, "mbstd_group": min(batch, 4), "glr": lr, "dlr": lr}
    return found | {"r1_gamma": 2e-4 * resolution**2 / batch, "batch": batch, "ema_kimg": batch * 10 / 32}


def sides(cfg: Config) -> list[int]:
    """4, 8 … resolution. Raises UsageError for other sides."""
    if cfg.resolution < 8 or cfg.resolution & (cfg.resolution - 1):
        why = "its sides are 8, 16, 32 … 1024: powers of 2"
        raise UsageError(f"cannot build stylegan2 for {cfg.resolution} px", why, "choose another --resolution")
    return [1 << i for i in range(2, cfg.resolution.bit_length())]


def width(cfg: Config, side: int) -> int:
    """Feature maps of a resolution (appendix B of Karras et al. 2019)."""
    return min(cfg.channel_base // side, cfg.channel_max)


def in_half(cfg: Config, side: int) -> bool:
    """Whether a resolution may compute in half precision."""
    return cfg.num_fp16_res is None or (side > 4 and side << cfg.num_fp16_res > cfg.resolution)


class StyleConv(nn.Module):
    """Modulated 3 × 3 convolution, noise, bias, leaky ReLU (fig. 2c): one layer of the synthesis network."""

    def __init__(self, cfg: Config, inputs: int, outputs: int, side: int, *, up: bool) -> None:
        super().__init__()
        self.up, self.clamp, self.shape = up, cfg.clamp, (1, side, side)
        self.affine = EqualizedLinear(cfg.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(())) if cfg.noise else None
        if cfg.noise:
            self.register_buffer("noise_const", torch.randn(side, side))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", fir_filter(BINOMIAL))

    def forward(
        self, x: Float[Tensor, "n i h w"], w: Float[Tensor, "n d"], noise: str | Draw, gain: float = 1.0
    ) -> Float[Tensor, "n o h2 w2"]:
        up_filter = self.get_buffer("resample_filter") if self.up else None
        maps = None
        if self.noise_strength is not None and noise != "none":
            maps = noise(len(x), *self.shape) if callable(noise) else self.get_buffer("noise_const")
            maps = maps * self.noise_strength
        return styled_conv2d(x, self.weight, self.affine(w), self.bias, maps, up_filter, gain=gain, clamp=self.clamp)


class ToRGB(nn.Module):
    """Modulated 1 × 1 convolution to an image, without demodulation: equalised through its styles (appendix B)."""

    def __init__(self, cfg: Config, inputs: int) -> None:
        super().__init__()
        self.clamp, self.scale = cfg.clamp, 1 / math.sqrt(inputs)
        self.affine = EqualizedLinear(cfg.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(cfg.channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(cfg.channels))

    def forward(self, x: Float[Tensor, "n i h w"], w: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        x = modulated_conv2d(x, self.weight, self.affine(w) * self.scale, demodulate=False)
        return activate(x + self.bias.to(x.dtype)[:, None, None], "linear", clamp=self.clamp).float()


class SynthesisBlock(nn.Module):
    """One resolution of the synthesis network: the constant or an upsampling layer, a layer, and perhaps an image."""

    def __init__(self, cfg: Config, side: int) -> None:
        super().__init__()
        outputs, inputs = width(cfg, side), width(cfg, side // 2)
        self.first, self.residual = side == 4, cfg.g_architecture == "resnet" and side > 4
        self.in_half = in_half(cfg, side)
        self.register_buffer("resample_filter", fir_filter(BINOMIAL))
        if self.first:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            self.conv0 = StyleConv(cfg, inputs, outputs, side, up=True)
        self.conv1 = StyleConv(cfg, outputs, outputs, side, up=False)
        rgb = cfg.g_architecture == "skip" or side == cfg.resolution
        self.torgb = ToRGB(cfg, outputs) if rgb else None
        if self.residual:
            self.skip = ResampledConv2d(inputs, outputs, 1, bias=False, activation="linear", resample="up")

    def forward(
        self,
        x: Float[Tensor, "n i h w"] | None,
        image: Float[Tensor, "n c h w"] | None,
        ws: Sequence[Tensor],
        noise: str | Draw,
    ) -> tuple[Float[Tensor, "n o h2 w2"], Float[Tensor, "n c h2 w2"] | None]:
        """`ws`: of the layers in their order, then of the image, which shares it with the next block's first layer."""
        w0, w1, w_rgb = ws[0], ws[-2], ws[-1]
        with float32_unless(self.in_half, w1.device, training=self.training):
            if x is None:
                y = self.conv1(self.const.expand(w1.shape[0], -1, -1, -1), w1, noise)
            elif self.residual:
                y = self.conv1(self.conv0(x, w0, noise), w1, noise, math.sqrt(0.5))
                y = self.skip(x, math.sqrt(0.5)) + y
            else:
                y = self.conv1(self.conv0(x, w0, noise), w1, noise)
            rgb = None if self.torgb is None else self.torgb(y, w_rgb)
        if image is not None and rgb is not None:
            rgb = upsample2d(image, self.get_buffer("resample_filter")) + rgb
        return y, rgb


class Synthesis(nn.Module):
    """w to image, from 4 px up (fig. 2c, 7b): two layers for each resolution, one for the first."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.sides = sides(cfg)
        self.layers = 2 * len(self.sides)
        for side in self.sides:
            self.add_module(f"b{side}", SynthesisBlock(cfg, side))

    def forward(self, ws: Float[Tensor, "n l d"], noise: str | Draw = "const") -> Float[Tensor, "n c h w"]:
        """`noise`: "const", "none", or a function that draws it. The image is not cut to its range."""
        w = ws.unbind(1)
        x = image = None
        for i, side in enumerate(self.sides):
            x, image = self.get_submodule(f"b{side}")(x, image, w[max(0, 2 * i - 1) : 2 * i + 2], noise)
        assert image is not None
        return image


class Generator(nn.Module):
    """Mapping and synthesis networks. Satisfies StyleSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes) if cfg.classes else None
        self.z_dim = cfg.z_dim
        self.synthesis = Synthesis(cfg)
        sizes = cfg.z_dim, cfg.classes, cfg.w_dim, cfg.mapping_layers
        self.mapping = Mapping(*sizes, cfg.mapping_lr, cfg.w_beta, joint=cfg.joint_labels)

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return numpy_prior(seeds, self.z_dim)

    def map(
        self,
        z: Float[Tensor, "n z"],
        c: Int[Tensor, " n"] | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "n l w"]:
        return self.mapping.truncated(self.mapping(z, c), self.synthesis.layers, psi, cutoff)

    def synthesize(self, w: Float[Tensor, "n l w"], *, noise: Noise = "const") -> Float[Tensor, "n c h w2"]:
        return clip(self.synthesis(w, noise if isinstance(noise, str) else drawn_by(noise, w.device)))

    def sample(
        self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n c h w"]:
        return self.synthesize(self.map(z, c, psi=psi))


class DiscriminatorBlock(nn.Module):
    """One resolution of D, to half the size (fig. 7)."""

    def __init__(self, cfg: Config, side: int) -> None:
        super().__init__()
        hidden, outputs = width(cfg, side), width(cfg, side // 2)
        self.in_half, self.sum_images = in_half(cfg, side), cfg.d_architecture == "skip"
        self.register_buffer("resample_filter", fir_filter(BINOMIAL))
        first = self.sum_images or side == cfg.resolution
        self.fromrgb = ResampledConv2d(cfg.channels, hidden, 1, clamp=cfg.clamp) if first else None
        self.conv0 = ResampledConv2d(hidden, hidden, 3, clamp=cfg.clamp)
        self.conv1 = ResampledConv2d(hidden, outputs, 3, resample="down", clamp=cfg.clamp)
        residual = cfg.d_architecture == "resnet"
        self.skip = (
            ResampledConv2d(hidden, outputs, 1, bias=False, activation="linear", resample="down") if residual else None
        )

    def forward(
        self, x: Float[Tensor, "n i h w"] | None, image: Float[Tensor, "n c h2 w2"]
    ) -> tuple[Float[Tensor, "n o h3 w3"], Float[Tensor, "n c h4 w4"]]:
        # The block before may have computed in half precision.
        x = x if x is None or self.in_half else x.float()
        with float32_unless(self.in_half, image.device, training=self.training):
            if self.fromrgb is not None:
                y = self.fromrgb(image)
                x = y if x is None else x + y
            assert x is not None
            y = self.conv0(x)
            if self.skip is None:
                y = self.conv1(y)
            else:
                y = self.skip(x, math.sqrt(0.5)) + self.conv1(y, math.sqrt(0.5))
        return y, downsample2d(image, self.get_buffer("resample_filter")) if self.sum_images else image


class Epilogue(nn.Module):
    """4 px to a vector: minibatch standard deviation, a convolution, two fully connected layers."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n = width(cfg, 4)
        self.group, self.maps = cfg.mbstd_group, cfg.mbstd_channels
        self.fromrgb = ResampledConv2d(cfg.channels, n, 1) if cfg.d_architecture == "skip" else None
        self.conv = ResampledConv2d(n + cfg.mbstd_channels, n, 3, clamp=cfg.clamp)
        self.fc = EqualizedLinear(16 * n, n, activation="lrelu")
        self.out = EqualizedLinear(n, (cfg.classes if cfg.joint_labels else n) if cfg.classes else 1)

    def forward(self, x: Float[Tensor, "n i 4 4"], image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o"]:
        # In float32: minibatch deviations are small differences.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.out.weight.dtype)
            x = x if self.fromrgb is None else x + self.fromrgb(image)
            x = self.conv(minibatch_std(x, self.group, self.maps))
            return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """Image (and class) to a logit [N]: with classes, the inner product of features and mapped class, over √d.

    With `joint_labels` it is the class's own logit (Mescheder et al. 2018, arXiv:1801.04406, sec. 5).
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.sides, n = sides(cfg)[:0:-1], width(cfg, 4)
        for side in self.sides:
            self.add_module(f"b{side}", DiscriminatorBlock(cfg, side))
        self.b4 = Epilogue(cfg)
        self.classes, mapped = cfg.classes, cfg.classes and not cfg.joint_labels
        self.mapping = Mapping(0, cfg.classes, n, cfg.d_mapping_layers, 0.01) if mapped else None

    def forward(self, x: Float[Tensor, "n c h w"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        y, image = None, x
        for side in self.sides:
            y, image = self.get_submodule(f"b{side}")(y, image)
        logits = self.b4(y, image)
        if self.mapping is not None:
            mapped = self.mapping(None, c)
            logits = logits * mapped / math.sqrt(mapped.shape[1])
        elif (chosen := one_hot(c, self.classes)) is not None:
            logits = logits * chosen
        return logits.sum(1)


def first_layers(D: Discriminator) -> list[nn.Module]:
    """D's layers from the image on, those of its last resolution left out: what `freezed` counts (2006.06676, sec. 4.3;
    Mo et al. 2020, arXiv:2002.10964)."""
    blocks = [D.get_submodule(f"b{side}") for side in D.sides]
    return [layer for block in blocks for layer in block.children() if isinstance(layer, ResampledConv2d)]


class PathLength(nn.Module):
    """The running mean a of path lengths (eq. 4): not learned, but part of where training stands."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))


@dataclass
class Nets:
    G: Generator
    D: Discriminator
    path: PathLength


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg), PathLength())


def styles(
    n: Nets, c: Tensor | None, p: Progress, cfg: Config, count: int, *, track: bool = True
) -> Float[Tensor, "n l w"]:
    """w of `count` new images, some of them with a second w from a random layer on (Karras et al. 2019, sec. 3.1).

    `track` moves the mean of w towards theirs.
    Deviation: each image has a layer of its own, not the batch one, so that two ranks draw what one would.
    """
    layers = n.G.synthesis.layers
    c = None if c is None else c[:count]
    w = n.G.mapping(p.normal(count, n.G.z_dim), c, track=track)
    ws = w[:, None].repeat(1, layers, 1)
    if not cfg.style_mixing:
        return ws
    second = n.G.mapping(p.normal(count, n.G.z_dim), c)
    whether, where = p.uniform(count, 2).unbind(1)
    first = torch.where(whether < cfg.style_mixing, 1 + (where * (layers - 1)).floor(), float(layers))
    return mix(ws, second, first)


def mix(ws: Float[Tensor, "n l w"], second: Float[Tensor, "n w"], first: Float[Tensor, " n"]) -> Tensor:
    """ws with `second` from layer `first` on."""
    later = torch.arange(ws.shape[1], device=ws.device) >= first[:, None]
    return torch.where(later[:, :, None], second[:, None], ws)


def generated(n: Nets, b: Batch, p: Progress, cfg: Config, *, track: bool = True) -> Float[Tensor, "n c h w"]:
    """Images with fresh noise, of the real batch's classes: they are distributed as the data's."""
    return n.G.synthesis(styles(n, b.c, p, cfg, len(b.x), track=track), p.normal)


def logits(n: Nets, b: Batch, p: Progress, cfg: Config) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """D's of real and of generated images, as it is trained with them; nothing moves."""
    real = n.D(p.augment(b.x), b.c)
    return real, n.D(p.augment(generated(n, b, p, cfg, track=False)), b.c)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(x) - E log(1 - D(G(z)))  (Goodfellow et al. 2014, eq. 1); real and generated batches apart."""
    fake = generated(n, b, p, cfg)
    x, y = p.augment(b.x), p.augment(fake)
    real_logits, fake_logits = p.judged(n.D(x, b.c)), n.D(y, b.c)
    p.told_apart(real_logits, fake_logits)
    bcr = balanced_consistency(lambda x: n.D(x, b.c), p, (x, real_logits), (y, fake_logits))
    return {"D_loss": log_loss_d(real_logits, fake_logits), **bcr}


def d_r1(n: Nets, b: Batch, p: Progress, gamma: float) -> Terms:
    """γ / 2 E ‖∇ D(x)‖², x real  (Mescheder et al. 2018, eq. 9)."""
    _, penalty = logits_and_penalty(lambda x: n.D(p.augment(x), b.c), b.x)
    return {"D_r1": gamma / 2 * penalty.mean()}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(G(z))  (Goodfellow et al. 2014, sec. 3)."""
    return {"G_loss": non_saturating_g(n.D(p.augment(generated(n, b, p, cfg)), b.c))}


def g_pl(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E (‖J_wᵀ y‖₂ - a)², y ~ N(0, I)  (eq. 4), on a part of the batch (appendix B). In float32 under autocast too."""
    with torch.autocast(b.x.device.type, enabled=False):
        ws = styles(n, b.c, p, cfg, max(1, len(b.x) // cfg.pl_shrink))
        image = n.G.synthesis(ws, p.normal)
        lengths = path_lengths(image, ws, p.normal(*image.shape))
        penalty, a = path_length_penalty(lengths, n.path.get_buffer("mean"), cfg.pl_decay)
    n.path.get_buffer("mean").copy_(a.detach())
    return {"G_pl": cfg.pl_weight * penalty.mean()}


def phases(cfg: Config) -> list[Phase]:
    found = [Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg))]
    if cfg.r1_gamma:
        found.append(Phase("D_r1", ("D",), lambda n, b, p: d_r1(n, b, p, cfg.r1_gamma), every=cfg.r1_every))
    found.append(Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)))
    if cfg.pl_weight:
        found.append(Phase("G_pl", ("G",), lambda n, b, p: g_pl(n, b, p, cfg), every=cfg.pl_every))
    return found


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {
        "G": Adam(cfg.glr, cfg.beta1, cfg.beta2).lazy(cfg.pl_every if cfg.pl_weight else None),
        "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2).lazy(cfg.r1_every if cfg.r1_gamma else None),
    }


def from_upstream(state: dict[str, Tensor]) -> published.Networks | None:
    """G or D in a state dict of NVIDIA's (`synthesis.b4.const`), rosinality's or OpenMMLab's names (`to_rgbs.N`)."""
    return published.from_state(state)


def from_nvidia(net: PersistedModule | TfNetwork) -> published.Networks | None:
    """G or D in a snapshot of stylegan2-ada-pytorch, of stylegan3, or of the TensorFlow programs (version 4)."""
    return published.from_nvidia(net)
