"""StyleGAN3: Karras, Aittala, Laine, Härkönen, Hellsten, Lehtinen & Aila, Alias-Free Generative Adversarial Networks, 2021. arXiv:2106.12423."""  # noqa: E501

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.losses.regularizers import balanced_consistency, logits_and_penalty
from ganctl.models import stylegan2
from ganctl.nn.clip import clip
from ganctl.nn.equalized import EqualizedLinear
from ganctl.nn.filtered_relu import filtered_relu, lowpass
from ganctl.nn.layers import numpy_prior
from ganctl.nn.mapping import Mapping
from ganctl.nn.modulated import demodulation
from ganctl.nn.norm import rank_mean
from ganctl.nn.precision import float32_unless
from ganctl.nn.resample import upfirdn2d
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.protocols import Noise
from ganctl.published import stylegan3 as published
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image, Label

AUGMENTS = True
POWER_OF_2 = True
HALF = {"num_fp16_res": 4}
"""What a training in fp16 or bf16 takes where it is told nothing else (the authors' code). Deviation: R1 stays in
float32, as in StyleGAN2's file."""
TRAIN = {"batch": 32, "ema_kimg": 10, "kimg": 25000}
"""Appendix F."""

Few = Annotated[int, Ge(1), Le(64)]
Base = Annotated[int, Ge(1), Le(1 << 20)]


@config
class Config:
    """Configuration T of the paper (translation equivariance) by default.

    R (rotation too) has kernel 1, radial_filters, twice the channels (channel_base 65536, channel_max 1024) and
    blur_sigma 10 (fig. 3, configs "stylegan3-t" and "-r").
    """

    resolution: Count = 1024
    """Side of the images: a power of 2."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count | None = None
    """Number of classes, if the networks are to be conditional."""
    z_dim: Count = 512
    """Dimension of z."""
    w_dim: Count = 512
    """Dimension of w."""
    mapping_layers: Few = 2
    """Of the mapping network (sec. 3.2, "config D": StyleGAN2's 8 were of no use)."""
    channel_base: Base = 32768
    """G's feature maps at a cutoff of f cycles per image are channel_base / (2 f) …"""
    channel_max: Count = 512
    """… and at most these."""
    num_layers: Few = 14
    """N: layers between the Fourier features and the conversion to RGB, whatever the resolution (sec. 3.2)."""
    num_critical: Few = 2
    """Last layers that use the whole of their sampling rate (sec. 3.2, "config F")."""
    first_cutoff: Rate = 2.0
    """f_c of the first layer, in cycles per image (sec. 3.2)."""
    first_stopband: Rate = 2.0**2.1
    """f_t of the first layer (sec. 3.2)."""
    last_stopband_rel: Rate = 2.0**0.3
    """f_t of the last layer, over its cutoff (sec. 3.2)."""
    margin: Annotated[int, Ge(1), Le(256)] = 10
    """Pixels that every layer computes beyond each edge of the image (sec. 3.2, "boundaries")."""
    kernel: Literal[3, 1] = 3
    """Side of G's kernels: 3 (T) or 1 (R)."""
    radial_filters: bool = False
    """Rotation-invariant downsampling, except in the critical layers (R)."""
    filter_size: Few = 6
    """n: taps of a filter at the lower of its two rates (sec. 3.2)."""
    lrelu_upsampling: Annotated[int, Ge(1), Le(8)] = 2
    """m: rate of the leaky ReLU over that of its layer (sec. 3.2)."""
    clamp: Rate | None = 256.0
    """G's and D's activations are kept within ± this, for half precision; None: no bound."""
    output_scale: Rate = 0.25
    """Factor of the image at the very end (the authors' code)."""
    magnitude_ema_beta: Moment = 0.5 ** (32 / 20_000)
    """Decay of the running mean square of each layer's input, a step: half in 20,000 images (sec. 3.1, "config D")."""
    w_beta: Moment = 0.998
    """Decay of the running mean of w, a step."""
    num_fp16_res: Annotated[int, Ge(0), Le(16)] | None = None
    """Layers within so many doublings of the resolution may compute in half precision, others stay in fp32. None: all
    may."""
    d_channel_base: Base = 32768
    """D is StyleGAN2's: its feature maps times side where they are fewer than …"""
    d_channel_max: Count = 512
    """… the most."""
    mbstd_group: Count | None = 4
    """Samples D's minibatch standard deviation is taken over; None: the whole batch."""
    r1_gamma: Weight = 32.8
    """γ of R1: FFHQ's at 1024 px in T, 6.6 for few images, about 2 at 256 px (appendix F) …"""
    r1_every: Count = 16
    """… applied every so many steps."""
    blur_sigma: Weight = 0.0
    """σ of the Gaussian blur of all that D sees, px: 10 in R, else it learns high frequencies too early (sec. 3.2) …"""
    blur_kimg: Rate = 200.0
    """… falling to 0 over so many thousand images."""
    glr: Rate = 2.5e-3
    """Adam's learning rate (appendix F)."""
    dlr: Rate = 2e-3
    """The same for D, before the correction for lazy regularisation."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.99
    """… and second."""


@dataclass(frozen=True)
class Signal:
    """A band-limited image: what the Fourier features and each layer give (sec. 3.2, "flexible layer specifications").

    Frequencies and rates are per side of the image, not of the map, which is larger by its margins.
    """

    channels: int
    size: int
    """Side of the map."""
    rate: int
    """s, samples per side of the image."""
    cutoff: float
    """f_c."""
    half_width: float
    """f_h: the transition band is cutoff ± half_width."""


def signals(cfg: Config) -> list[Signal]:
    """What layers 0 … N give; the Fourier features give the first as well.

    Cutoffs and stopbands grow geometrically to those of the critical layers; each rate is the power of 2 that holds
    the stopband, at most the resolution. Raises UsageError for sizes that no such network has.
    """
    n, rising, side = cfg.num_layers, cfg.num_layers - cfg.num_critical, cfg.resolution
    if side < 8 or side & (side - 1):
        why = f"StyleGAN3's images have sides of 8, 16, 32 … px, not {side}"
        raise UsageError(f"cannot build stylegan3 for {side} px", why, "choose a power of 2 as --resolution")
    if rising < 1 or cfg.first_cutoff >= side / 2 or cfg.first_stopband <= cfg.first_cutoff:
        why = "cutoffs rise from first_cutoff, which lies below first_stopband, to half the resolution"
        hint = "choose a smaller num_critical, first_cutoff or first_stopband, or a higher --resolution"
        raise UsageError("cannot build stylegan3", why, hint)
    last_cutoff = side / 2
    last_stopband = last_cutoff * cfg.last_stopband_rel
    at = np.minimum(np.arange(n + 1) / rising, 1)
    cutoffs = cfg.first_cutoff * (last_cutoff / cfg.first_cutoff) ** at
    stopbands = cfg.first_stopband * (last_stopband / cfg.first_stopband) ** at
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, side))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    # Half to even, as published names have it.
    widths = np.rint(np.minimum(cfg.channel_base / 2 / cutoffs, cfg.channel_max)).clip(1)
    widths[-1] = cfg.channels
    sizes = rates + 2 * cfg.margin
    sizes[-2:] = side
    rows = zip(widths, sizes, rates, cutoffs, half_widths, strict=True)
    return [Signal(int(c), int(m), int(s), float(f), float(h)) for c, m, s, f, h in rows]


class Input(nn.Module):
    """Fourier features of a continuous plane, moved by what w says (sec. 3.2, "transformed Fourier features")."""

    transform: Tensor
    """The user's own movement of the plane, [3, 3]: the inverse of the image's (`transform_of`)."""
    freqs: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, signal: Signal) -> None:
        super().__init__()
        self.signal = signal
        n = signal.channels
        # Uniform in a disc of radius f_c (sec. 3.1): the normal direction, at the radius whose square is uniform.
        freqs = torch.randn(n, 2)
        radii = freqs.norm(dim=1, keepdim=True)
        self.weight = nn.Parameter(torch.randn(n, n))
        self.affine = EqualizedLinear(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.get_parameter("bias")[0] = 1
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs / (radii * radii.square().exp().pow(0.25)) * signal.cutoff)
        self.register_buffer("phases", torch.rand(n) - 0.5)

    def forward(self, w: Float[Tensor, "n w"]) -> Float[Tensor, "n c s s"]:
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        none, one = torch.zeros_like(x), torch.ones_like(x)
        rotation = torch.stack([cos, -sin, none, sin, cos, none, none, none, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, none, -x, none, one, -y, none, none, one], 1).view(-1, 3, 3)
        plane = rotation @ shift @ self.transform  # image → features' plane
        phases = self.phases + (self.freqs @ plane[:, :2, 2:]).squeeze(2)
        freqs = self.freqs @ plane[:, :2, :2]  # [n,c,2]
        # A user's transform can magnify: what leaves the band fades to nothing at half the rate.
        s = self.signal
        amplitudes = (1 - (freqs.norm(dim=2) - s.cutoff) / (s.rate / 2 - s.cutoff)).clamp(0, 1)
        at = (torch.arange(s.size, device=w.device) + 0.5 - s.size / 2) / s.rate  # image's sides at ±½
        u, v = freqs[..., None, 0:1] * at, freqs[..., 1:2, None] * at[:, None]  # along x [n,c,1,s]; along y [n,c,s,1]
        features = torch.sin(2 * math.pi * (u + v + phases[..., None, None])) * amplitudes[..., None, None]
        return F.conv2d(features, self.weight[:, :, None, None] / math.sqrt(s.channels))


class Layer(nn.Module):
    """Modulated convolution of the input at unit variance, then the filtered leaky ReLU (sec. 3.2, fig. 4b).

    The last layer makes RGB: 1 × 1, no demodulation, no leaky ReLU, no filters.
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, cfg: Config, before: Signal, after: Signal, *, critical: bool, rgb: bool) -> None:
        super().__init__()
        self.rgb, self.clamp, self.beta = rgb, cfg.clamp, cfg.magnitude_ema_beta
        self.in_half = cfg.num_fp16_res is None or after.rate << cfg.num_fp16_res > cfg.resolution
        kernel = 1 if rgb else cfg.kernel
        self.affine = EqualizedLinear(cfg.w_dim, before.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        rate = max(before.rate, after.rate) * (1 if rgb else cfg.lrelu_upsampling)
        self.up, self.down = rate // before.rate, rate // after.rate
        radial = cfg.radial_filters and not critical
        up_taps, up_filter = _filter(before, rate, 0 if rgb else cfg.filter_size * self.up)
        down_taps, down_filter = _filter(after, rate, 0 if rgb else cfg.filter_size * self.down, radial=radial)
        self.register_buffer("up_filter", up_filter)
        self.register_buffer("down_filter", down_filter)
        # What the high rate must hold, less what it is given, plus what the filters take off.
        total = (after.size - 1) * self.down + 1 - (before.size + kernel - 1) * self.up + up_taps + down_taps - 2
        low = (total + self.up) // 2  # samples lie at their pixels' centres (appendix C)
        self.padding = (low, total - low)

    def forward(
        self, x: Float[Tensor, "n i s s"], w: Float[Tensor, "n d"], *, track: bool = False
    ) -> Float[Tensor, "n o s2 s2"]:
        """`track` moves the running mean square towards this batch's first, over all ranks."""
        if track:
            self.magnitude_ema.copy_(rank_mean(x.detach().float().square().mean()).lerp(self.magnitude_ema, self.beta))
        d, s = self.styles(w)
        with float32_unless(self.in_half, x.device, training=self.training):
            x = x * (s * self.magnitude_ema.rsqrt()).to(x.dtype)[:, :, None, None]
            x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] - 1)
            x = x if d is None else x * d.to(x.dtype)[:, :, None, None]
        slope, gain = (1.0, 1.0) if self.rgb else (0.2, math.sqrt(2))
        return filtered_relu(
            x, self.bias, self.up_filter, self.down_filter,
            up=self.up, down=self.down, padding=self.padding, slope=slope, gain=gain, clamp=self.clamp,
        )  # fmt: skip

    def styles(self, w: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n o"] | None, Float[Tensor, "n i"]]:
        """Factors of the outputs (demodulation) and of the inputs."""
        with torch.autocast(w.device.type, enabled=False):
            s, scale = self.affine(w), 1 / math.sqrt(self.weight[0].numel())
            if self.rgb:
                return None, s * scale
            # Demodulation undoes any scale: this one keeps all between in half precision's range.
            s = s * (s.square().mean(1, keepdim=True) + 1e-8).rsqrt() * scale
            return demodulation(self.weight, s), s


def _filter(signal: Signal, rate: int, taps: int, *, radial: bool = False) -> tuple[int, Tensor | None]:
    """Taps and filter between a signal and a higher rate; 1 and None where they are the same."""
    if taps == 0 or rate == signal.rate:
        return 1, None
    return taps, lowpass(taps, signal.cutoff, 2 * signal.half_width, float(rate), radial=radial)


class Synthesis(nn.Module):
    """w to image: w[0] moves the Fourier features, each of the others styles one layer (fig. 4a)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        made = signals(cfg)
        self.output_scale = cfg.output_scale
        self.input = Input(cfg.w_dim, made[0])
        self.names: list[str] = []
        for i, (before, after) in enumerate(zip([made[0], *made[:-1]], made, strict=True)):
            self.names.append(f"L{i}_{after.size}_{after.channels}")
            critical, rgb = i >= cfg.num_layers - cfg.num_critical, i == cfg.num_layers
            self.add_module(self.names[-1], Layer(cfg, before, after, critical=critical, rgb=rgb))
        self.layers = 1 + len(self.names)

    def forward(self, ws: Float[Tensor, "n l d"], *, track: bool = False) -> Float[Tensor, "n c s s"]:
        """The image is not cut to its range. `track` moves the layers' running mean squares."""
        first, *others = ws.unbind(1)
        with torch.autocast(ws.device.type, enabled=False):
            x = self.input(first)
        for name, w in zip(self.names, others, strict=True):
            x = self.get_submodule(name)(x, w, track=track)
        return x.float() * self.output_scale


class Generator(nn.Module):
    """Mapping and synthesis networks. Satisfies StyleSampler; there is no noise."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes) if cfg.classes else None
        self.z_dim = cfg.z_dim
        self.synthesis = Synthesis(cfg)
        self.mapping = Mapping(cfg.z_dim, cfg.classes, cfg.w_dim, cfg.mapping_layers, 0.01, cfg.w_beta)

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
        return clip(self.synthesis(w))

    def sample(
        self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n c h w"]:
        return self.synthesize(self.map(z, c, psi=psi))


def transform_of(translate: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0) -> Float[Tensor, "3 3"]:
    """`Input.transform` for an image turned by `rotate` degrees about its centre, then moved by `translate` (x, y).

    Positive turns are counter-clockwise; x goes right and y goes down, in sides of the image. As in NVIDIA's scripts.
    """
    angle = math.radians(rotate)
    cos, sin, (x, y) = math.cos(angle), math.sin(angle), translate
    moved = torch.tensor([[cos, sin, x], [-sin, cos, y], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.linalg.inv(moved).float()


def transformed(G: Generator, translate: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0) -> Generator:
    """G itself, every image of which is from now on turned and moved (`transform_of`), whatever was set before.

    What comes in from beyond the edges is generated as the rest is; T was not trained to turn.
    """
    G.synthesis.input.transform.copy_(transform_of(translate, rotate))
    return G


@dataclass
class Nets:
    G: Generator
    D: stylegan2.Discriminator


def build(cfg: Config) -> Nets:
    """D is StyleGAN2's, with its clamp (sec. 4)."""
    d = stylegan2.Config(
        resolution=cfg.resolution,
        channels=cfg.channels,
        classes=cfg.classes,
        channel_base=cfg.d_channel_base,
        channel_max=cfg.d_channel_max,
        clamp=cfg.clamp,
        num_fp16_res=cfg.num_fp16_res,
        mbstd_group=cfg.mbstd_group,
    )
    return Nets(Generator(cfg), stylegan2.Discriminator(d))


first_layers = stylegan2.first_layers


def blur(x: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """x under the filter 2^-(t / σ)², |t| ≤ 3 σ, zeros beyond the edges  (the authors' code); x itself where σ < ⅓."""
    half = math.floor(3 * sigma)
    if half == 0:
        return x
    f = torch.exp2(-(torch.arange(-half, half + 1, device=x.device) / sigma).square())
    return upfirdn2d(x, f / f.sum(), padding=half)


def sigma_at(cfg: Config, nimg: int) -> float:
    return cfg.blur_sigma * max(1 - nimg / (cfg.blur_kimg * 1000), 0.0)


def generated(n: Nets, b: Batch, p: Progress, *, track: bool = False) -> Float[Tensor, "n c h w"]:
    """Images of the real batch's classes: they are distributed as the data's. No style mixing (sec. 3.1)."""
    w = n.G.mapping(p.normal(len(b.x), n.G.z_dim), b.c, track=track)
    return n.G.synthesis(w[:, None].expand(-1, n.G.synthesis.layers, -1), track=track)


def seen(x: Float[Tensor, "n c h w"], p: Progress, cfg: Config) -> Float[Tensor, "n c h w"]:
    """What D is shown of an image: blurred at the start of training, augmented."""
    return p.augment(blur(x, sigma_at(cfg, p.nimg)))


def logits(n: Nets, b: Batch, p: Progress, cfg: Config) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """D's of real and of generated images, as it is trained with them; nothing moves."""
    return n.D(seen(b.x, p, cfg), b.c), n.D(seen(generated(n, b, p), p, cfg), b.c)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(x) - E log(1 - D(G(z)))  (Goodfellow et al. 2014, eq. 1); G's running means move here."""
    fake = generated(n, b, p, track=True)
    x, y = seen(b.x, p, cfg), seen(fake, p, cfg)
    real_logits, fake_logits = p.judged(n.D(x, b.c)), n.D(y, b.c)
    p.told_apart(real_logits, fake_logits)
    bcr = balanced_consistency(lambda x: n.D(x, b.c), p, (x, real_logits), (y, fake_logits))
    return {"D_loss": log_loss_d(real_logits, fake_logits), **bcr}


def d_r1(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """γ / 2 E ‖∇ D(x)‖², x real  (Mescheder et al. 2018, eq. 9)."""
    _, penalty = logits_and_penalty(lambda x: n.D(seen(x, p, cfg), b.c), b.x)
    return {"D_r1": cfg.r1_gamma / 2 * penalty.mean()}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(G(z))  (Goodfellow et al. 2014, sec. 3). No path length regularisation (sec. 3.1)."""
    return {"G_loss": non_saturating_g(n.D(seen(generated(n, b, p), p, cfg), b.c))}


def phases(cfg: Config) -> list[Phase]:
    found = [Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg))]
    if cfg.r1_gamma:
        found.append(Phase("D_r1", ("D",), lambda n, b, p: d_r1(n, b, p, cfg), every=cfg.r1_every))
    return [*found, Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg))]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    """D's is corrected for the lazy penalty's updates (StyleGAN2, appendix B)."""
    adam = Adam(cfg.dlr, cfg.beta1, cfg.beta2)
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2), "D": adam.lazy(cfg.r1_every if cfg.r1_gamma else None)}


def from_upstream(state: dict[str, Tensor]) -> published.Networks | None:
    """G or D in a state dict of NVIDIA's names (`synthesis.L0_36_512`) or OpenMMLab's (`style_mapping`, BGR)."""
    return published.from_state(state)


def from_nvidia(net: PersistedModule | TfNetwork) -> published.Networks | None:
    """G or D in a snapshot of stylegan3, configurations T and R."""
    return published.from_nvidia(net)
