"""R3GAN: Huang, Gokaslan, Kuleshov & Tompkin, The GAN is dead; long live the GAN! A Modern Baseline GAN, 2024. arXiv:2501.05441."""  # noqa: E501

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import relativistic
from ganctl.losses.regularizers import balanced_consistency, logits_and_penalty
from ganctl.nn.augment import SETS
from ganctl.nn.clip import clip
from ganctl.nn.layers import numpy_prior
from ganctl.nn.mapping import one_hot
from ganctl.nn.resample import BINOMIAL, downsample2d, fir_filter, upsample2d
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms, half_cosine
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image, Label

AUGMENTS = True
POWER_OF_2 = True
COUNTED = ("D",)
"""Networks whose layers have numbers from the image on: other ones at another resolution."""
AUGMENTATION = dict.fromkeys(SETS["bg"], 1.0) | dict.fromkeys(SETS["color"], 0.5) | {"cutout": 1.0}
TRAIN = {"batch": 256, "ema_kimg": 500, "ema_rampup": None, "burn_in_kimg": 20000}
TRAIN |= {"aug": "fixed", "aug_p": 0.3, "aug_pipe": AUGMENTATION}
"""FFHQ-256 (the authors' code)."""


@config
class Config:
    """Config E of the roadmap (sec. 4) for FFHQ-256; numbers that the paper leaves out are those of the authors' code.

    For CIFAR-10 they are resolution 32, classes 10, gamma 0.05, gamma_end 0.005, batches of 512, an average of
    5000 kimg and augmentation up to 0.55.
    """

    resolution: Count = 256
    """Side of the images: 4 doubled any number of times."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count | None = None
    """Of a conditional network; None: not conditional."""
    z_dim: Count = 64
    """Dimension of z, and of the class embedding beside it."""
    width: Count = 768
    """Feature maps at 4 to 32 px, halved at every doubling beyond."""
    widths: Widths | None = None
    """Feature maps at 4, 8, 16 … px, in G and in D, where they are others (ImageNet-64: 1536 everywhere)."""
    cardinalities: Widths | None = None
    """Groups of the 3 × 3 convolutions at 4, 8, 16 … px. None: one for every 8 feature maps."""
    blocks: Widths | None = None
    """Residual blocks at 4, 8, 16 … px. None: 2 everywhere."""
    expansion: Count = 2
    """How much wider a block is inside: the inverted bottleneck."""
    gamma: Weight = 150.0
    """γ of both penalties at the beginning …"""
    gamma_end: Weight = 15.0
    """… and after `decay_kimg`, between them half a cosine."""
    decay_kimg: Rate = 20000.0
    """How long the burn-in takes, in thousands of real images: of γ, of the learning rates and of β₂."""
    glr: Rate = 2e-4
    """Adam's learning rate at the beginning …"""
    dlr: Rate = 2e-4
    """… the same for D …"""
    lr_end: Rate = 0.25
    """… and the share of both that is left after the burn-in."""
    beta1: Moment = 0.0
    """Adam without momentum …"""
    beta2: Moment = 0.9
    """… and with a second moment that begins here …"""
    beta2_end: Moment = 0.99
    """… and ends here."""


@dataclass(frozen=True)
class Stage:
    """One resolution: its blocks and their sizes."""

    width: int
    groups: int
    blocks: int


def stages(cfg: Config) -> list[Stage]:
    """From 4 px up. Raises UsageError for sizes that do not fit together."""
    n = (cfg.resolution // 4).bit_length()
    if n == 0 or cfg.resolution != 4 << (n - 1):
        why = "the side must be 4 doubled any number of times, such as 32, 64, 128 or 256"
        raise UsageError(f"cannot build r3gan for {cfg.resolution} px", why, "choose another --resolution")
    widths = cfg.widths or tuple(max(cfg.width >> max(i - 3, 0), 1) for i in range(n))
    groups = cfg.cardinalities or tuple(max(w // 8, 1) for w in widths)
    blocks = cfg.blocks or (2,) * n
    for name, found in (("widths", widths), ("cardinalities", groups), ("blocks", blocks)):
        if len(found) != n:
            why = f"{name} has {len(found)} numbers, and there are {n} resolutions from 4 px up"
            raise UsageError(f"cannot build r3gan for {cfg.resolution} px", why, f"give {n} numbers")
    for w, g in zip(widths, groups, strict=True):
        if w * cfg.expansion % g:
            why = f"{w * cfg.expansion} feature maps cannot be cut into {g} groups"
            raise UsageError("cannot build r3gan", why, "choose other widths or cardinalities")
    return [Stage(*sizes) for sizes in zip(widths, groups, blocks, strict=True)]


# The names of modules and parameters are those of the authors' files.


class Convolution(nn.Module):
    """k × k without bias, of the same size; weights from N(0, gain² / inputs) for the inputs of one output."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.Layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        init(self.Layer.weight, gain)

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h w"]:
        return self.Layer(x)


def init(weight: Tensor, gain: float = 1.0) -> None:
    """N(0, gain² / fan-in)  (He et al. 2015)."""
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


class BiasedActivation(nn.Module):
    """Leaky ReLU 0.2 after a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return F.leaky_relu(x + self.Bias[:, None, None], 0.2)


class Block(nn.Module):
    """1 × 1 that widens, grouped 3 × 3, 1 × 1, and the input: ResNeXt's block turned inside out, without norm (sec. 4).

    `depth` is the number of blocks in the network: with Fix-up's initialisation, its variance does not grow with it.
    """

    def __init__(self, stage: Stage, expansion: int, depth: int) -> None:
        super().__init__()
        inner = stage.width * expansion
        # Zhang et al. 2019, sec. 3: depth^(-1 / (2m - 2)) for m = 3 layers, the last of which starts at 0.
        gain = math.sqrt(2 / (1 + 0.2**2)) * depth**-0.25
        self.LinearLayer1 = Convolution(stage.width, inner, gain=gain)
        self.LinearLayer2 = Convolution(inner, inner, 3, groups=stage.groups, gain=gain)
        self.LinearLayer3 = Convolution(inner, stage.width, gain=0.0)
        self.NonLinearity1 = BiasedActivation(inner)
        self.NonLinearity2 = BiasedActivation(inner)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        y = self.NonLinearity1(self.LinearLayer1(x))
        return x + self.LinearLayer3(self.NonLinearity2(self.LinearLayer2(y)))


class Resampler(nn.Module):
    """Twice or half the size, by bilinear interpolation (sec. 4)."""

    Kernel: Tensor

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("Kernel", fir_filter(BINOMIAL))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return upsample2d(x, self.Kernel) if self.up else downsample2d(x, self.Kernel)


class Transition(nn.Module):
    """To the next resolution, and by a 1 × 1 convolution to its width; this on the smaller side, if widths differ."""

    def __init__(self, inputs: int, outputs: int, *, up: bool) -> None:
        super().__init__()
        self.Resampler = Resampler(up=up)
        self.LinearLayer = Convolution(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h2 w2"]:
        return self.Resampler(self.LinearLayer(x)) if self.Resampler.up else self.LinearLayer(self.Resampler(x))


class GenerativeBasis(nn.Module):
    """A learned 4 × 4 map for each channel, scaled by a linear map of z."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.Basis = nn.Parameter(torch.empty(channels, 4, 4))
        self.LinearLayer = nn.Linear(inputs, channels, bias=False)
        nn.init.normal_(self.Basis)
        init(self.LinearLayer.weight)

    def forward(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c 4 4"]:
        return self.Basis * self.LinearLayer(z)[:, :, None, None]


class DiscriminativeBasis(nn.Module):
    """The inner product of each channel with a learned 4 × 4 map, then a linear map."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.Basis = nn.Conv2d(channels, channels, 4, groups=channels, bias=False)
        self.LinearLayer = nn.Linear(channels, outputs, bias=False)
        init(self.Basis.weight)
        init(self.LinearLayer.weight)

    def forward(self, x: Float[Tensor, "n c 4 4"]) -> Float[Tensor, "n k"]:
        return self.LinearLayer(self.Basis(x).flatten(1))


class Layers(nn.Module):
    """One stage's layers in a row."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.Layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.Layers(x)


def embedding(classes: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """Of one-hot classes, neither biased nor normalised."""
    layer = nn.Linear(classes, outputs, bias=False)
    init(layer.weight, gain)
    return layer


class Generator(nn.Module):
    """Basis, then blocks and doublings up to the resolution, then 1 × 1 to RGB. Satisfies ConditionalSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes) if cfg.classes else None
        self.z_dim = cfg.z_dim
        table = stages(cfg)
        depth = sum(stage.blocks for stage in table)
        rows, before = [], None
        for stage in table:
            first = (
                Transition(before.width, stage.width, up=True)
                if before
                else GenerativeBasis(cfg.z_dim * (2 if cfg.classes else 1), stage.width)
            )
            rows.append(Layers([first, *(Block(stage, cfg.expansion, depth) for _ in range(stage.blocks))]))
            before = stage
        self.Model = nn.ModuleDict(
            {"MainLayers": nn.Sequential(*rows), "AggregationLayer": Convolution(table[-1].width, cfg.channels)}
        )
        if cfg.classes:
            self.Model["EmbeddingLayer"] = embedding(cfg.classes, cfg.z_dim)

    def forward(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        """Not bounded: the network ends without a tanh."""
        if self.c is not None:
            z = torch.cat([z, self.Model["EmbeddingLayer"](one_hot(c, self.c.n))], 1)
        return self.Model["AggregationLayer"](self.Model["MainLayers"](z))

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return numpy_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n k h w"]:
        return clip(self(z, c))


class Discriminator(nn.Module):
    """1 × 1 from RGB, blocks and halvings down to 4 px, basis. Returns logits [N].

    With classes: the inner product of the basis' features and the class's embedding (Miyato & Koyama 2018).
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.c = Label(cfg.classes) if cfg.classes else None
        table = stages(cfg)[::-1]
        depth = sum(stage.blocks for stage in table)
        features = table[-1].width if cfg.classes else 1
        rows = []
        for stage, after in zip(table, [*table[1:], None], strict=True):
            last = (
                Transition(stage.width, after.width, up=False) if after else DiscriminativeBasis(stage.width, features)
            )
            rows.append(Layers([*(Block(stage, cfg.expansion, depth) for _ in range(stage.blocks)), last]))
        self.Model = nn.ModuleDict(
            {"ExtractionLayer": Convolution(cfg.channels, table[0].width), "MainLayers": nn.Sequential(*rows)}
        )
        if cfg.classes:
            self.Model["EmbeddingLayer"] = embedding(cfg.classes, features, 1 / math.sqrt(features))

    def forward(self, x: Float[Tensor, "n k h w"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        y = self.Model["MainLayers"](self.Model["ExtractionLayer"](x))
        if self.c is not None:
            y = y * self.Model["EmbeddingLayer"](one_hot(c, self.c.n))
        return y.sum(1)


def first_layers(D: Discriminator) -> list[nn.Module]:
    """D's layers from the image on, those at 4 px left out: what `freezed` counts, a block being one of them."""
    stages = list(D.Model["MainLayers"].children())[:-1]
    return [
        D.Model["ExtractionLayer"],
        *(layer for stage in stages for layer in stage.get_submodule("Layers").children()),
    ]


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg))


def logits(n: Nets, b: Batch, p: Progress, cfg: Config) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """D's of real and of generated images, as it is trained with them; nothing moves."""
    return n.D(p.augment(b.x), b.c), n.D(p.augment(n.G(p.normal(len(b.x), n.G.z_dim), b.c)), b.c)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E f(D(x) - D(G(z))) + γ/2 E ‖∇ D(x)‖² + γ/2 E ‖∇ D(G(z))‖², f(t) = log(1 + e⁻ᵗ)  (eq. 2 and 3).

    Deviation: all of it in float32, for the penalties' sake.
    """
    with torch.no_grad():
        fake = n.G(p.normal(len(b.x), n.G.z_dim), b.c)
    real_logits, r1 = logits_and_penalty(lambda x: n.D(p.augment(x), b.c), b.x)
    fake_logits, r2 = logits_and_penalty(lambda x: n.D(p.augment(x), b.c), fake)
    # The loss leaves the logits' level open: only differences have a sign that says something.
    p.judged(real_logits - fake_logits)
    p.told_apart(real_logits, fake_logits)
    half = burn_in(cfg, cfg.gamma, cfg.gamma_end, p.nimg) / 2
    with torch.autocast(b.x.device.type, enabled=False):
        bcr = balanced_consistency(lambda x: n.D(x, b.c), p, (b.x, real_logits), (fake.float(), fake_logits))
    return {
        "D_loss": relativistic(real_logits, fake_logits),
        "D_r1": half * r1.mean(),
        "D_r2": half * r2.mean(),
        **bcr,
    }


def g_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """E f(D(G(z)) - D(x))  (eq. 2). Deviation: x are the images that D has just seen, not a further batch."""
    with torch.no_grad():
        real_logits = n.D(p.augment(b.x), b.c)
    fake_logits = n.D(p.augment(n.G(p.normal(len(b.x), n.G.z_dim), b.c)), b.c)
    return {"G_loss": relativistic(fake_logits, real_logits)}


def burn_in(cfg: Config, start: float, end: float, nimg: int) -> float:
    """A number of the schedule after so many images (the authors' code; sec. 4 speaks of a "burn-in phase")."""
    return half_cosine(start, end, nimg / (cfg.decay_kimg * 1000))


def phases(cfg: Config) -> list[Phase]:
    return [Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)), Phase("G", ("G",), g_loss)]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    def adam(lr: float) -> Adam:
        return Adam(
            lambda nimg, _: burn_in(cfg, lr, lr * cfg.lr_end, nimg),
            cfg.beta1,
            lambda nimg, _: burn_in(cfg, cfg.beta2, cfg.beta2_end, nimg),
        )

    return {"G": adam(cfg.glr), "D": adam(cfg.dlr)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The authors' G or D (keys `Model.MainLayers.…`): the sizes of all stages stand in their tensors' shapes."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for key, first in state.items():
        match = re.fullmatch(r"(Model\.MainLayers\.(\d{1,2})\.Layers\.\d{1,3}\.LinearLayer)1\.Layer\.weight", key)
        second = state.get(f"{match[1]}2.Layer.weight") if match else None
        if match is None or second is None or first.ndim != 4 or second.ndim != 4 or 0 in (*first.shape, *second.shape):
            continue
        inner, width = first.shape[:2]
        found.setdefault(int(match[2]), []).append((width, inner // second.shape[1], inner // width))
    n = len(found)
    ends = {"G": "Model.AggregationLayer.Layer.weight", "D": "Model.ExtractionLayer.Layer.weight"}
    net = next((name for name, key in ends.items() if key in state and state[key].ndim == 4), None)
    if net is None or n == 0 or sorted(found) != list(range(n)) or n > 13:
        return None
    table = [(*found[i][0], len(found[i])) for i in (range(n) if net == "G" else reversed(range(n)))]
    widths, groups, expansions, blocks = (tuple(column) for column in zip(*table, strict=True))
    cfg: dict[str, Any] = {
        "resolution": 4 << (n - 1), "channels": state[ends[net]].shape[0 if net == "G" else 1],
        "widths": widths, "cardinalities": groups, "blocks": blocks, "expansion": expansions[0],
    }  # fmt: skip
    classes = state.get("Model.EmbeddingLayer.weight")
    if classes is not None:
        if classes.ndim != 2:
            return None
        cfg["classes"] = classes.shape[1]
    if net == "G":
        basis = state.get("Model.MainLayers.0.Layers.0.LinearLayer.weight")
        if basis is None or basis.ndim != 2:
            return None
        cfg["z_dim"] = basis.shape[1] // (1 if classes is None else 2)
    return cfg, {net: dict(state)}
