"""StyleGAN: Karras, Laine & Aila, A Style-Based Generator Architecture for Generative Adversarial Networks, 2019. arXiv:1812.04948."""  # noqa: E501

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import MaxLen
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.losses.regularizers import logits_and_penalty
from ganctl.models import progan
from ganctl.models.progan import HE, at_detail, enlarge, level, lod_at, pixel_norm, split_lod, widths_of
from ganctl.nn.clip import clip
from ganctl.nn.equalized import EqualizedConv2d, EqualizedLinear
from ganctl.nn.layers import numbered_convs, numpy_prior
from ganctl.nn.noise import Draw, drawn_by
from ganctl.nn.norm import rank_mean
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.protocols import Noise
from ganctl.published import growing_tf
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image

POWER_OF_2 = True
COUNTED = ("D",)
"""Networks whose layers have numbers from the image on: other ones at another resolution."""
TRAIN = {"batch": 32, "ema_kimg": 10, "ema_rampup": None, "kimg": 25000}
"""Appendix C: 25 million images for FFHQ. Deviation: one batch size for every resolution."""


Factors = Annotated[tuple[Rate, ...], MaxLen(8)]


@config
class Config:
    """Configuration F of table 1; what it does not say is ProGAN's (Karras et al. 2018)."""

    resolution: Count = 1024
    """Side of the images in the end: 4 doubled one or more times."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 512
    """Dimension of z (sec. 2) …"""
    w_dim: Count = 512
    """… and of w."""
    mapping_layers: Count = 8
    """Layers of the mapping network (sec. 2)."""
    mapping_width: Count = 512
    """Width of its hidden layers."""
    mapping_lr: Rate = 0.01
    """Learning rate of the mapping network, as a share of the others' (appendix C)."""
    width: Count = 512
    """Feature maps at 4 to 32 px, and nowhere more (ProGAN, table 2)."""
    width_base: Count = 16384
    """Feature maps times side beyond that."""
    widths: Widths | None = None
    """Feature maps at 4, 8, 16 … px, where a published network has others; None follows the two numbers above."""
    fused_from: Count = 128
    """Side from which upsampling layers are transposed convolutions (the authors' code): the same, kernels turned."""
    blur: bool = True
    """Low-pass filter after upsampling and before downsampling (appendix C)."""
    mmlab: bool = False
    """OpenMMLab's order: bias and leaky ReLU stand before the filter, too; and 1e-5 under the root of AdaIN."""
    grow_from: Count = 8
    """Side of the images at the beginning (appendix C)."""
    stage_kimg: Weight = 600.0
    """How long each resolution is trained, in thousands of images (the authors' code) …"""
    fade_kimg: Weight = 600.0
    """… and how long the next one takes to fade in."""
    style_mixing: Moment = 0.9
    """Share of images that are made of two latents (sec. 3.1)."""
    w_beta: Moment = 0.995
    """Decay of the mean of w at each step (the authors' code)."""
    r1_gamma: Weight = 10.0
    """γ of the gradient penalty (appendix C)."""
    glr: Rate = 1e-3
    """Adam's learning rate below 128 px (appendix C) …"""
    dlr: Rate = 1e-3
    """… the same for D …"""
    lr_factors: Factors = (1.5, 2.0, 3.0, 3.0)
    """… and what both are multiplied by at 128, 256, 512 and 1024 px or more (the authors' code, on 8 GPUs)."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.99
    """… and second (ProGAN, appendix A.1)."""


class MappingNetwork(nn.Module):
    """z → w: fully connected layers after a normalisation (fig. 1b). Keeps the mean of w, which truncation draws to."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.depth, self.w_beta = cfg.mapping_layers, cfg.w_beta
        sizes = [cfg.z_dim, *[cfg.mapping_width] * (cfg.mapping_layers - 1), cfg.w_dim]
        for i in range(self.depth):
            self.add_module(f"dense{i}", EqualizedLinear(sizes[i], sizes[i + 1], lr=cfg.mapping_lr, gain=HE))
        self.register_buffer("w_avg", torch.zeros(cfg.w_dim))

    def forward(self, z: Float[Tensor, "n z"], *, track: bool = False) -> Float[Tensor, "n w"]:
        """`track` moves the mean towards this batch's."""
        x = pixel_norm(z)
        for i in range(self.depth):
            x = F.leaky_relu(self.get_submodule(f"dense{i}")(x), 0.2)
        if track:
            mean = rank_mean(x.detach().float().mean(0))
            self.get_buffer("w_avg").lerp_(mean, 1 - self.w_beta)
        return x


class ApplyNoise(nn.Module):
    """One map of noise, added with a strength for each feature map: "B" in fig. 1b."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.register_buffer("noise", torch.randn(1, 1, side, side))

    def forward(self, x: Float[Tensor, "n c h w"], noise: str | Draw) -> Float[Tensor, "n c h w"]:
        if noise == "none":
            return x
        stored = self.get_buffer("noise")
        maps = noise(len(x), *stored.shape[1:]) if callable(noise) else stored
        return x + maps * self.weight[:, None, None]


def blurred(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The filter [1, 2, 1] / 4 along both axes (appendix C), as two means of neighbours; zeros beyond the edge."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 2, 1), 2, 1)


def upsampled(x: Float[Tensor, "n i h w"], weight: Float[Tensor, "o i 3 3"], fused: bool) -> Float[Tensor, "n o h2 w2"]:
    """Nearest neighbours and a convolution; `fused` as one transposed convolution, whose kernel is the other turned."""
    if not fused:
        return F.conv2d(enlarge(x, 2 * x.shape[-1]), weight, padding=1)
    # Each input pixel becomes a block of four, and the kernel the sum of itself at four places.
    kernel = F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, 1) * 4
    return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=1)


class Layer(nn.Module):
    """Convolution (or, first, the learned constant), noise, bias, leaky ReLU, AdaIN  (eq. 1, fig. 1b)."""

    def __init__(self, cfg: Config, inputs: int, outputs: int, side: int, kind: str) -> None:
        super().__init__()
        self.up, self.fused, self.blur = kind == "up", side >= cfg.fused_from, cfg.blur
        self.early, self.eps = cfg.mmlab and self.up, 1e-5 if cfg.mmlab else 1e-8
        self.scale = HE / math.sqrt(inputs * 9)
        if kind == "const":
            self.const = nn.Parameter(torch.ones(1, outputs, side, side))
        else:
            self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.apply_noise = ApplyNoise(outputs, side)
        # The style's scale starts at 1 (appendix C): it is 1 + what the affine map gives.
        self.style = EqualizedLinear(cfg.w_dim, 2 * outputs)

    def convolved(self, x: Tensor | None, n: int) -> Tensor:
        if x is None:
            return self.const.expand(n, -1, -1, -1)
        if not self.up:
            return F.conv2d(x, self.weight * self.scale, padding=1)
        x = upsampled(x, self.weight * self.scale, self.fused)
        if self.early:
            x = F.leaky_relu(x + self.bias[:, None, None], 0.2)
        return blurred(x) if self.blur else x

    def forward(self, x: Tensor | None, w: Float[Tensor, "n w"], noise: str | Draw) -> Float[Tensor, "n o h w2"]:
        y = self.apply_noise(self.convolved(x, w.shape[0]), noise)
        y = y if self.early else y + self.bias[:, None, None]
        scale, shift = self.style(w)[:, :, None, None].chunk(2, 1)
        return F.instance_norm(F.leaky_relu(y, 0.2).float(), eps=self.eps) * (scale + 1) + shift


class SynthesisNetwork(nn.Module):
    """w of every layer → image: two layers at 4 px and at each doubling, 1 × 1 to colours (fig. 1b).

    Names, `lod` and growth are ProGAN's. `noise` is "const" (the stored maps), "none", or a function that draws it.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        widths = widths_of(cfg.resolution, cfg.width, cfg.width_base, cfg.widths)
        first = level(cfg.grow_from, cfg.resolution, what="grow_from")
        self.levels = len(widths)
        for i, width in enumerate(widths):
            kind = "up" if i else "const"
            self.add_module(f"layer{2 * i}", Layer(cfg, widths[max(0, i - 1)], width, 4 << i, kind))
            self.add_module(f"layer{2 * i + 1}", Layer(cfg, width, width, 4 << i, "same"))
            if i >= first:
                self.add_module(f"output{i}", EqualizedConv2d(width, cfg.channels, 1))
        self.register_buffer("lod", torch.zeros(()))

    def forward(
        self, ws: Float[Tensor, "n l w"], lod: float | None = None, noise: str | Draw = "const"
    ) -> Float[Tensor, "n c h w2"]:
        x = self.grown(ws, float(self.get_buffer("lod")) if lod is None else lod, noise)
        return enlarge(x, 4 << (self.levels - 1))

    def grown(self, ws: Float[Tensor, "n l w"], lod: float, noise: str | Draw) -> Float[Tensor, "n c side side"]:
        """The picture at the side that the network has grown to."""
        top, share = split_lod(lod, self.levels)
        x = before = None
        for i in range(top + 1):
            if i == top and share:
                before = self.get_submodule(f"output{i - 1}")(x)
            for j in (2 * i, 2 * i + 1):
                x = self.get_submodule(f"layer{j}")(x, ws[:, j], noise)
        y = self.get_submodule(f"output{top}")(x)
        return y if before is None else torch.lerp(y, enlarge(before, 4 << top), share)


class Generator(nn.Module):
    """Mapping and synthesis networks. Satisfies StyleSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = None
        self.z_dim = cfg.z_dim
        self.mapping, self.synthesis = MappingNetwork(cfg), SynthesisNetwork(cfg)

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
        """w' = w̄ + ψ (w - w̄)  (appendix B)."""
        ws = self.mapping(z)[:, None].repeat(1, 2 * self.synthesis.levels, 1)
        if psi != 1:
            ws[:, :cutoff] = torch.lerp(self.mapping.get_buffer("w_avg").to(ws), ws[:, :cutoff], psi)
        return ws

    def synthesize(self, w: Float[Tensor, "n l w"], *, noise: Noise = "const") -> Float[Tensor, "n c h w2"]:
        return clip(self.synthesis(w, noise=noise if isinstance(noise, str) else drawn_by(noise, w.device)))

    def sample(
        self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n k h w"]:
        return self.synthesize(self.map(z, psi=psi))


def down(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolution, the mean of 2 × 2 pixels, leaky ReLU."""
    return F.leaky_relu(F.avg_pool2d(layer(x), 2), 0.2)


def blurred_down(layer: nn.Module, x: Tensor) -> Tensor:
    """The same of the low-passed image (appendix C)."""
    return down(layer, blurred(x))


@dataclass
class Nets:
    G: Generator
    D: progan.Discriminator


def build(cfg: Config) -> Nets:
    """D is ProGAN's (sec. 2), with filters before its downsampling."""
    widths = widths_of(cfg.resolution, cfg.width, cfg.width_base, cfg.widths)
    first = level(cfg.grow_from, cfg.resolution, what="grow_from")
    return Nets(Generator(cfg), progan.Discriminator(widths, cfg.channels, first, blurred_down if cfg.blur else down))


def lod_after(cfg: Config, nimg: int) -> float:
    octaves = (cfg.resolution // cfg.grow_from).bit_length() - 1
    return lod_at(nimg, octaves, cfg.stage_kimg, cfg.fade_kimg)


def detail(n: Nets, p: Progress, cfg: Config) -> float:
    """The lod that training has come to, which both networks are given to keep (so that snapshots are of it)."""
    lod = lod_after(cfg, p.nimg)
    for net in (n.G.synthesis, n.D):
        net.get_buffer("lod").fill_(lod)
    return lod


def styles(n: Nets, p: Progress, cfg: Config, count: int, lod: float) -> Float[Tensor, "n l w"]:
    """w of new images, some of them with a second w from a random layer on (sec. 3.1).

    Deviation: each image has a layer of its own, not the batch one, so that two ranks draw what one would.
    """
    layers = 2 * (split_lod(lod, n.D.levels)[0] + 1)
    w = n.G.mapping(p.normal(count, n.G.z_dim), track=True)[:, None]
    second = n.G.mapping(p.normal(count, n.G.z_dim))[:, None]
    whether, where = p.uniform(count, 2).unbind(1)
    start = 1 + (where * (layers - 1)).floor()
    later = (torch.arange(2 * n.D.levels, device=w.device) >= start[:, None]) & (whether < cfg.style_mixing)[:, None]
    return torch.where(later[:, :, None], second, w)


def generated(n: Nets, p: Progress, cfg: Config, count: int, lod: float) -> Float[Tensor, "n c side side"]:
    """Images with fresh noise, at the side that G has grown to."""
    return n.G.synthesis.grown(styles(n, p, cfg, count, lod), lod, p.normal)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(x) - E log(1 - D(G(z))) + γ / 2 E ‖∇ D(x)‖², x real  (Mescheder et al. 2018, eq. 9; appendix C).

    The gradient is that with respect to the image at its full side, as in the authors' code: a picture of half the
    side, enlarged, has half of it.
    """
    lod = detail(n, p, cfg)
    real, penalty = logits_and_penalty(lambda x: n.D(x, lod), at_detail(b.x, lod))
    fake = n.D(generated(n, p, cfg, len(b.x), lod), lod)
    return {"D_loss": log_loss_d(real, fake), "D_r1": cfg.r1_gamma / 2 * penalty.mean() / 4.0 ** math.floor(lod)}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(G(z))  (Goodfellow et al. 2014, sec. 3)."""
    lod = detail(n, p, cfg)
    return {"G_loss": non_saturating_g(n.D(generated(n, p, cfg, len(b.x), lod), lod))}


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def lr_factor(cfg: Config, nimg: int) -> float:
    """Of the size that is trained, or fading in, after so many images."""
    side = cfg.resolution >> math.floor(lod_after(cfg, nimg))
    factors = (1.0, *cfg.lr_factors)
    return factors[min(max((side // 64).bit_length() - 1, 0), len(factors) - 1)]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    def adam(lr: float) -> Adam:
        return Adam(lambda nimg, _: lr * lr_factor(cfg, nimg), cfg.beta1, cfg.beta2)

    return {"G": adam(cfg.glr), "D": adam(cfg.dlr)}


Found = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
KERNEL = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16


def from_upstream(state: Mapping[str, Tensor]) -> Found | None:
    """GenForce's conversions of the official networks and its own trainings (`mapping.denseN`, `synthesis.layerN`),
    pytorch_GAN_zoo's G (`mapping.FC.N`, `baseScale0`), and OpenMMLab's G (`style_mapping.N`, `convs.N.adain1`).

    A file does not say from which side on its upsampling kernels are those of transposed convolutions: from 128 px,
    as in the official networks, or give `fused_from`.
    """
    for read in (_official_g, _official_d, _zoo_g, _mmlab_g):
        if (found := read(state)) is not None:
            return found
    return None


def from_nvidia(net: PersistedModule | TfNetwork) -> Found | None:
    """G or D of the authors' TensorFlow snapshots (`G_style`, `D_basic`), as GenForce converts them."""
    state = growing_tf.stylegan(net) if isinstance(net, TfNetwork) else None
    return None if state is None else from_upstream(state)


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state without its filters, which are constants; None where one is not the paper's."""
    blurs = [v for k, v in state.items() if k.endswith(".blur.kernel")]
    if not all(v.shape[1:] == (1, 3, 3) and torch.allclose(v.float(), KERNEL.expand(v.shape)) for v in blurs):
        return None
    return {k: v for k, v in state.items() if not k.endswith(".blur.kernel")}


def _official_g(state: Mapping[str, Tensor]) -> Found | None:
    dense = _weights(state, r"mapping\.dense(\d{1,2})\.weight")
    layers = numbered_convs(state, r"synthesis\.layer(\d{1,2})\.weight")
    colours = numbered_convs(state, r"synthesis\.output(\d{1,2})\.weight")
    plain, w_avg = _plain(state), state.get("truncation.w_avg")
    if not dense or plain is None or w_avg is None or len(colours) < 2 or len(layers) != 2 * len(colours) - 1:
        return None
    del plain["truncation.w_avg"]
    tensors = {"synthesis.lod": torch.zeros(()), **plain, "mapping.w_avg": w_avg}
    return _config(dense, [w.shape[0] for w in layers[::2]], colours), {"G": tensors}


def _official_d(state: Mapping[str, Tensor]) -> Found | None:
    config, plain = progan.official_d_config(state), _plain(state)
    if config is None or plain is None or len(plain) == len(state):
        return None
    return config, {"D": {"lod": torch.zeros(()), **plain}}


def _weights(state: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    """The fully connected layers of a published file, by the number in their key."""
    found = {int(m[1]): v for k, v in state.items() if (m := re.fullmatch(pattern, k)) and v.ndim == 2}
    return [found[i] for i in sorted(found)]


def _config(dense: Sequence[Tensor], widths: Sequence[int], colours: Sequence[Tensor]) -> dict[str, Any]:
    return {
        **progan.grown_config(widths, colours[0].shape[0]),
        "z_dim": dense[0].shape[1],
        "w_dim": dense[-1].shape[0],
        "mapping_layers": len(dense),
        "mapping_width": dense[0].shape[0],
    }


def _zoo_g(state: Mapping[str, Tensor]) -> Found | None:
    """pytorch_GAN_zoo's generator: no filters, colours from 8 px, one strength a noise map, and no stored maps."""
    dense = _weights(state, r"mapping\.FC\.(\d{1,2})\.module\.weight")
    colours = numbered_convs(state, r"toRGBLayers\.(\d{1,2})\.module\.weight")
    n, const, mean = len(colours), state.get("baseScale0"), state.get("mean_w")
    names = {f"mapping.FC.{i}": (f"mapping.dense{i}", 1.0) for i in range(len(dense))}
    names |= {f"toRGBLayers.{i}": (f"synthesis.output{i + 1}", HE) for i in range(n)}
    convs = ["conv0", *(f"scaleLayers.{i}.{j}" for i in range(n) for j in (0, 2))]
    adains = ["adain00", "adain01", *(f"scaleLayers.{i}.{j}" for i in range(n) for j in (1, 3))]
    noises = ["noiseMod00", "noiseMod01", *(f"noiseModulators.{i}.{j}" for i in range(n) for j in (0, 1))]
    names |= {name: (f"synthesis.layer{i + 1}", 1.0) for i, name in enumerate(convs)}
    names |= {f"{name}.styleModulator": (f"synthesis.layer{i}.style", HE) for i, name in enumerate(adains)}
    strengths = {f"{name}.module.weight" for name in noises}
    rest = {k: v for k, v in state.items() if k not in strengths | {"baseScale0", "mean_w"}}
    if not n or not dense or const is None or mean is None or const.ndim != 4 or not strengths <= set(state):
        return None
    if not progan.zoo_whole(rest, names):
        return None
    tensors = {**progan.unscaled(state, names), "synthesis.lod": torch.zeros(()), "mapping.w_avg": mean.flatten()}
    widths = [const.shape[1], *(c.shape[1] for c in colours)]
    tensors |= {"synthesis.layer0.const": const, "synthesis.layer0.bias": torch.zeros(widths[0])}
    generator = torch.Generator().manual_seed(0)
    for i, name in enumerate(noises):
        layer, side = f"synthesis.layer{i}", 4 << i // 2
        tensors[f"{layer}.apply_noise.weight"] = state[f"{name}.module.weight"].flatten()[:1].repeat(widths[i // 2])
        tensors[f"{layer}.apply_noise.noise"] = torch.randn(1, 1, side, side, generator=generator)
        tensors[f"{layer}.style.bias"] = _less_one(tensors[f"{layer}.style.bias"])
    config = {**_config(dense, widths, colours), "grow_from": 8, "blur": False, "fused_from": 16384}
    return config, {"G": tensors}


def _less_one(bias: Tensor) -> Tensor:
    """Of a style that scales by y, for ours, which scales by 1 + y: the first half are scales."""
    return bias - (torch.arange(bias.numel()) < bias.numel() // 2).to(bias.dtype).view(bias.shape)


def _mmlab_g(state: Mapping[str, Tensor]) -> Found | None:
    """OpenMMLab's generator in RGB order: one strength a noise map, styles without the 1, the mean of w not stored."""
    dense = _weights(state, r"style_mapping\.(\d{1,2})\.linear\.weight_orig")
    colours = numbered_convs(state, r"to_rgbs\.(\d{1,2})\.conv\.weight_orig")
    n, const, found = len(colours), state.get("convs.0.conv1.input"), {"synthesis.lod": torch.zeros(())}
    names = {f"style_mapping.{i + 1}.bias": f"mapping.dense{i}.bias" for i in range(len(dense))}
    scaled = {f"style_mapping.{i + 1}.linear.weight_orig": f"mapping.dense{i}.weight" for i in range(len(dense))}
    for i in range(n):
        scaled[f"to_rgbs.{i}.conv.weight_orig"] = f"synthesis.output{i}.weight"
        names[f"to_rgbs.{i}.conv.bias"] = f"synthesis.output{i}.bias"
        for j in (0, 1):
            ours, conv = f"synthesis.layer{2 * i + j}", f"convs.{i}.conv{j + 1}" + (".0" if i and not j else "")
            scaled[f"convs.{i}.adain{j + 1}.affine.weight_orig"] = f"{ours}.style.weight"
            names[f"convs.{i}.adain{j + 1}.affine.bias"] = f"{ours}.style.bias"
            names[f"convs.{i}.noise_injector{j + 1}.weight"] = f"{ours}.apply_noise.weight"
            names[f"injected_noise_{2 * i + j}"] = f"{ours}.apply_noise.noise"
            if i or j:
                names |= {f"{conv}.conv.weight_orig": f"{ours}.weight", f"{conv}.conv.bias": f"{ours}.bias"}
    filters = {f"convs.{i}.conv1.1.kernel" for i in range(1, n)}
    if n < 2 or not dense or const is None or const.ndim != 4 or not names.keys() | scaled.keys() <= state.keys():
        return None
    if len(state) != len(names) + len(scaled) + len(filters) + 1:
        return None
    found |= {ours: state[theirs] for theirs, ours in names.items()} | {"synthesis.layer0.const": const}
    # Its linear maps to styles and colours have √2 where ours have 1, the mapping network 1 where ours has √2.
    found |= {o: state[t] * (1 / HE if o.startswith("mapping") else HE) for t, o in scaled.items()}
    widths = [const.shape[1], *(c.shape[1] for c in colours[1:])]
    for i in range(2 * n):
        layer = f"synthesis.layer{i}"
        found[f"{layer}.style.bias"] = _less_one(found[f"{layer}.style.bias"])
        found[f"{layer}.apply_noise.weight"] = found[f"{layer}.apply_noise.weight"].flatten()[:1].repeat(widths[i // 2])
    found["synthesis.layer0.bias"] = torch.zeros(widths[0])
    mean = _mean_w([(found[f"mapping.dense{i}.weight"], found[f"mapping.dense{i}.bias"]) for i in range(len(dense))])
    if mean is None:
        return None
    return {**_config(dense, widths, colours), "fused_from": 16384, "mmlab": True}, {
        "G": {**found, "mapping.w_avg": mean}
    }


def _mean_w(layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The mean of w over 4096 z, as OpenMMLab's code takes it; None for layers that do not fit each other."""
    x = pixel_norm(torch.randn(4096, layers[0][0].shape[1], generator=torch.Generator().manual_seed(0)))
    for weight, bias in layers:
        if weight.shape != (bias.numel(), x.shape[1]):
            return None
        x = F.leaky_relu(F.linear(x, weight.float() * (HE * 0.01 / math.sqrt(x.shape[1])), bias.float() * 0.01), 0.2)
    return x.mean(0)
