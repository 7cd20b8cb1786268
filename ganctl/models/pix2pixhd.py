"""pix2pixHD: Wang, Liu, Zhu, Tao, Kautz & Catanzaro, High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs, 2018. arXiv:1711.11585."""  # noqa: E501

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import least_squares_d, least_squares_g
from ganctl.losses.perceptual import VGG19, Perceptual
from ganctl.nn.layers import halved, init_normal, uniform_from
from ganctl.nn.norm import NORMS, from_all_ranks, without_statistics
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms, falling
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 1}
LAYERS = {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1.0}
"""Of VGG-19, with their weights (the authors' code)."""
GROWN = ("network", "enhancers", "ngf", "num_d")
"""What differs on purpose where training goes from coarse to fine (sec. 3.2)."""


@config
class Config:
    resolution: Count = 512
    """Side of training images; the networks take any multiple of 2^num_downs, with enhancers of 2^(num_downs + 1) …"""
    source_channels: Count = 3
    """Channels of the image that is translated, where that is a picture."""
    channels: Count = 3
    """Channels of the target."""
    label_nc: Count | None = None
    """Classes of label maps, 35 in Cityscapes (sec. 4); none: pictures are translated."""
    boundaries: bool = True
    """With label maps: whether the boundaries of objects are one more channel (sec. 3.3)."""
    features: bool = False
    """With label maps: whether G also sees features of each object, which an encoder learns (sec. 3.4)."""
    network: Literal["global", "local"] = "global"
    """global: G1 alone, which is trained first; local: enhancers around it, G2 (sec. 3.2)."""
    enhancers: Annotated[int, Ge(1), Le(4)] = 1
    """Of local: each doubles the resolution (sec. 3.2)."""
    ngf: Count = 64
    """Width of the finest layer: 64 for global, 32 for local, whose G1 is then 64 wide (appendix B)."""
    num_downs: Annotated[int, Ge(1), Le(8)] = 4
    """Halvings in G1 (appendix B: d128, d256, d512, d1024)."""
    res_blocks: Annotated[int, Ge(1), Le(64)] = 9
    """Residual blocks of G1 (appendix B)."""
    local_blocks: Annotated[int, Ge(1), Le(64)] = 3
    """Residual blocks of each enhancer (appendix B)."""
    num_d: Annotated[int, Ge(1), Le(6)] = 3
    """Discriminators, each at half the scale of the one before (sec. 3.2: 3)."""
    ndf: Count = 64
    """Width of a discriminator's first layer (appendix C: C64)."""
    n_layers: Annotated[int, Ge(1), Le(8)] = 3
    """Of a discriminator: 3 is the 70 × 70 PatchGAN."""
    norm: Literal["instance", "batch"] = "instance"
    """instance is the paper's (appendix B)."""
    feature_channels: Count = 3
    """Channels of an object's features (sec. 4: 3)."""
    nef: Count = 16
    """Width of the encoder's first layer (16 in the authors' code)."""
    encoder_downs: Annotated[int, Ge(1), Le(8)] = 4
    """Halvings in the encoder (4 in the authors' code)."""
    bank: Annotated[int, Ge(1), Le(4096)] = 100
    """Features kept of each class, from which translation draws."""
    matching_weight: Weight = 10.0
    """λ of the feature matching loss (eq. 5): 10 (sec. 4)."""
    perceptual_weight: Weight = 10.0
    """Of the loss over VGG-19's features (sec. 4: 10). 0 leaves it out, and no VGG is needed."""
    enhancer_kimg: Weight = 0.0
    """Of local: for so many thousand images G1 stays as it is, then both are trained (sec. 3.2)."""
    glr: Rate = 2e-4
    """Appendix A: Adam, 0.0002 …"""
    dlr: Rate = 2e-4
    """The same for D."""
    decay_from: Annotated[float, Ge(0), Le(1)] = 0.5
    """… constant for this share of the run, then linearly to 0: 100 epochs and 100 more (appendix A)."""
    beta1: Moment = 0.5
    """Adam's first moment (the authors' code)."""


def conditions(cfg: Config) -> int:
    """Channels of what D sees beside an image: the source's, or one a class and one for the boundaries."""
    return cfg.source_channels if cfg.label_nc is None else cfg.label_nc + cfg.boundaries


class Block(nn.Module):
    """x + f(x), two 3 × 3 convolutions of one width, reflection at the border (appendix B: Rk)."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        first, second = ([nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), NORMS[norm](width)] for _ in range(2))
        self.conv_block = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.conv_block(x)


def front(inputs: int, width: int, norm: str) -> list[nn.Module]:
    """c7s1-k (appendix B). Convolutions have a bias whatever the norm."""
    return [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7), NORMS[norm](width), nn.ReLU()]


def down(width: int, norm: str) -> list[nn.Module]:
    """d2k."""
    return [nn.Conv2d(width, 2 * width, 3, 2, 1), NORMS[norm](2 * width), nn.ReLU()]


def up(width: int, norm: str) -> list[nn.Module]:
    """u(k/2)."""
    conv = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1)
    return [conv, NORMS[norm](width // 2), nn.ReLU()]


def back(width: int, outputs: int) -> list[nn.Module]:
    """c7s1-3, tanh."""
    return [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]


def hourglass(inputs: int, width: int, downs: int, blocks: int, norm: str) -> list[nn.Module]:
    """Down, residual blocks, and up again to `width`."""
    widths = [width * 2**i for i in range(downs)]
    layers = front(inputs, width, norm)
    layers += [layer for w in widths for layer in down(w, norm)]
    layers += [Block(width * 2**downs, norm) for _ in range(blocks)]
    return layers + [layer for w in reversed(widths) for layer in up(2 * w, norm)]


def maps(x: Float[Tensor, "n 3 h w"]) -> tuple[Int[Tensor, "n h w"], Int[Tensor, "n h w"]]:
    """Classes, and the numbers of objects, of label maps on [-1, 1]: bytes of class, number ÷ 256 and remainder."""
    value = ((x.float() + 1) * 127.5).round().long()
    return value[:, 0], value[:, 1] * 256 + value[:, 2]


def outlines(objects: Int[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Pixels whose object is not that of all four neighbours (sec. 3.3)."""
    edge = torch.zeros_like(objects, dtype=torch.bool)
    across, along = objects[:, 1:] != objects[:, :-1], objects[:, :, 1:] != objects[:, :, :-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[:, :, 1:] |= along
    edge[:, :, :-1] |= along
    return edge


class Encoder(nn.Module):
    """E: features of each object, the means over its pixels (sec. 3.4). Keys are those of the authors' code."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        layers = hourglass(cfg.channels, cfg.nef, cfg.encoder_downs, 0, cfg.norm)
        self.model = nn.Sequential(*layers, *back(cfg.nef, cfg.feature_channels))

    def forward(self, image: Float[Tensor, "n c h w"], objects: Int[Tensor, "n h w"]) -> Float[Tensor, "n f h w"]:
        features = self.model(image).transpose(0, 1).flatten(1)  # [f, n h w]
        # One object of each image is one object, whatever its number is in others.
        number = objects + torch.arange(len(objects), device=objects.device).view(-1, 1, 1) * (int(objects.max()) + 1)
        _, place, count = number.flatten().unique(return_inverse=True, return_counts=True)
        sums = features.new_zeros(len(features), len(count)).index_add(1, place, features)
        means = (sums / count)[:, place].unflatten(1, objects.shape)
        return means.transpose(0, 1)


class Bank(nn.Module):
    """The last features seen of each class: what an object of it may look like. Part of where training stands.

    Deviation: sec. 3.4 encodes all objects once more after training and draws from the means of ten clusters a class.
    """

    values: Tensor
    count: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(classes, size, channels))
        self.register_buffer("count", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def keep(
        self, features: Float[Tensor, "n f h w"], classes: Int[Tensor, "n h w"], draws: Float[Tensor, "n k"]
    ) -> None:
        """Of each image and class that is in it, the features at one pixel, chosen by a draw from U[0, 1)."""
        n, f = features.shape[:2]
        found = features.new_zeros(n, len(self.count), f + 1)
        for i in range(n):
            for k in classes[i].unique().tolist():
                if k < len(self.count):
                    at = (classes[i] == k).flatten().nonzero().flatten()
                    chosen = at[int(float(draws[i, k]) * len(at))]
                    found[i, k, :f], found[i, k, f] = features[i].flatten(1)[:, chosen], 1
        # Every rank has the same bank.
        for row in from_all_ranks(found):
            for k in row[:, f].nonzero().flatten().tolist():
                self.values[k, int(self.count[k]) % self.values.shape[1]] = row[k, :f]
                self.count[k] += 1

    def draw(self, classes: Int[Tensor, "h w"], objects: Int[Tensor, "h w"], seed: int) -> Float[Tensor, "f h w"]:
        """Features for each object of one image, chosen by the seed; 0 where a class was never seen."""
        uniform, out = uniform_from(seed), self.values.new_zeros(self.values.shape[2], *objects.shape)
        for number in objects.unique().tolist():
            inside, draw = objects == number, float(uniform(1))
            k = int(classes[inside][0])
            held = min(int(self.count[k]), self.values.shape[1]) if k < len(self.count) else 0
            if held:
                out[:, inside] = self.values[k, int(draw * held), :, None]
        return out


class Generator(nn.Module):
    """G: G1, with enhancers around it where the config has them. Satisfies Translator; keys are the authors' code's.

    Label maps come as pictures of three bytes a pixel: see `maps`.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.label_nc, self.boundaries = cfg.label_nc, cfg.boundaries
        self.source = Image(None, 3 if cfg.label_nc else cfg.source_channels, numbers=bool(cfg.label_nc))
        self.target = Image(None, cfg.channels)
        self.enhancers = cfg.enhancers if cfg.network == "local" else 0
        self.stride = 2 ** (cfg.num_downs + self.enhancers)
        inputs, width = conditions(cfg), cfg.ngf * 2**self.enhancers
        self.E = self.bank = None
        if cfg.features and cfg.label_nc:
            self.E = Encoder(cfg)
            self.bank = Bank(cfg.label_nc, cfg.bank, cfg.feature_channels)
            inputs += cfg.feature_channels
        layers = hourglass(inputs, width, cfg.num_downs, cfg.res_blocks, cfg.norm)
        self.model = nn.Sequential(*layers, *([] if self.enhancers else back(width, cfg.channels)))
        for n in range(1, self.enhancers + 1):
            width //= 2
            blocks = [Block(2 * width, cfg.norm) for _ in range(cfg.local_blocks)]
            last = back(width, cfg.channels) if n == self.enhancers else []
            self.add_module(f"model{n}_1", nn.Sequential(*front(inputs, width, cfg.norm), *down(width, cfg.norm)))
            self.add_module(f"model{n}_2", nn.Sequential(*blocks, *up(2 * width, cfg.norm), *last))
        init_normal(self)

    def condition(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """The source as G and D see it: one channel a class, of which a pixel has one at most, and the boundaries."""
        if self.label_nc is None:
            return x
        classes, objects = maps(x)
        planes = classes[:, None] == torch.arange(self.label_nc, device=x.device).view(-1, 1, 1)
        return torch.cat([planes, outlines(objects)[:, None]] if self.boundaries else [planes], 1).to(x.dtype)

    def forward(self, s: Float[Tensor, "n k h w"], *, enhancers_only: bool = False) -> Float[Tensor, "n c h w"]:
        """Conditions, and features where G takes them, to images. `enhancers_only`: no gradient reaches G1."""
        pyramid = [s]
        for _ in range(self.enhancers):
            pyramid.append(halved(pyramid[-1]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not enhancers_only):
            y = self.model(pyramid.pop())
        for n in range(1, self.enhancers + 1):
            # Features of both resolutions are added (sec. 3.2, fig. 3).
            y = self.get_submodule(f"model{n}_2")(self.get_submodule(f"model{n}_1")(pyramid.pop()) + y)
        return y

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h w"]:
        """Each image alone. The seed draws the look of each object where there are features, and nothing else.

        Sides below twice the stride, whose innermost layer would be narrower than its border, are continued.
        """
        h, w = x.shape[2:]
        wide = (0, max(2 * self.stride - w, 0), 0, max(2 * self.stride - h, 0))
        x = F.pad(x, wide, "replicate")
        s = self.condition(x)
        if self.bank is not None:
            both = zip(*maps(x), strict=True)
            drawn = torch.stack([self.bank.draw(classes, objects, seed) for classes, objects in both])
            s = torch.cat([s, drawn.to(s.dtype)], 1)
        return self(s)[..., :h, :w]


class Discriminators(nn.Module):
    """D_1 … D_K: one PatchGAN a scale (sec. 3.2, appendix C). Returns every layer's features, the last being logits.

    C64-C128-C256-C512; leaky ReLU 0.2; no norm in the first and last layer. Keys are the authors' code's, which counts
    from the coarsest scale.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.num_d, self.layers = cfg.num_d, cfg.n_layers + 2
        for k in range(cfg.num_d):
            for j, layer in enumerate(patches(cfg)):
                self.add_module(f"scale{k}_layer{j}", nn.Sequential(*layer))
        init_normal(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[list[Tensor]]:
        """From the finest scale to the coarsest, each [n, c, h, w]."""
        scales = []
        for k in reversed(range(self.num_d)):
            features = [x]
            for j in range(self.layers):
                features.append(self.get_submodule(f"scale{k}_layer{j}")(features[-1]))
            scales.append(features[1:])
            x = halved(x)
        return scales


def patches(cfg: Config) -> list[list[nn.Module]]:
    width = cfg.ndf
    layers: list[list[nn.Module]] = [[nn.Conv2d(conditions(cfg) + cfg.channels, width, 4, 2, 2), nn.LeakyReLU(0.2)]]
    for i in range(1, cfg.n_layers + 1):
        # Twice as wide up to 512, whatever the first width (the authors' code).
        wider, stride = min(2 * width, 512), 2 if i < cfg.n_layers else 1
        layers += [[nn.Conv2d(width, wider, 4, stride, 2), NORMS[cfg.norm](wider), nn.LeakyReLU(0.2)]]
        width = wider
    return [*layers, [nn.Conv2d(width, 1, 4, 1, 2)]]


@dataclass
class Nets:
    G: Generator
    D: Discriminators
    vgg: Perceptual | None


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that G cannot halve, and for features without label maps."""
    step = 2 ** (cfg.num_downs + (cfg.enhancers if cfg.network == "local" else 0))
    where = f"cannot build pix2pixhd for {cfg.resolution} px"
    if cfg.resolution % step or cfg.resolution < 2 * step:
        raise UsageError(where, f"it takes multiples of {step} px from {2 * step} px on", "choose another --resolution")
    if cfg.features and cfg.label_nc is None:
        why = "objects are told apart in label maps alone"
        raise UsageError("cannot build pix2pixhd with features", why, "pass --set label_nc=N, the number of classes")
    return Nets(Generator(cfg), Discriminators(cfg), Perceptual(LAYERS) if cfg.perceptual_weight else None)


def given(cfg: Config) -> dict[str, str]:
    return {"vgg.features": VGG19} if cfg.perceptual_weight else {}


def seen(n: Nets, b: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Conditions s, targets y, and the features E finds in y."""
    assert b.y is not None
    found = None if n.G.E is None else n.G.E(b.y, maps(b.x)[1])
    return n.G.condition(b.x), b.y, found


def made(n: Nets, s: Tensor, features: Tensor | None, *, enhancers_only: bool = False) -> Tensor:
    return n.G(s if features is None else torch.cat([s, features], 1), enhancers_only=enhancers_only)


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """Σ_k ½ E (D_k(s, x) - 1)² + ½ E D_k(s, G(s))²  (eq. 3 with the least squares of sec. 4)."""
    with torch.no_grad():
        s, y, features = seen(n, b)
        fake = made(n, s, features)
    real, fakes = n.D(torch.cat([s, y], 1)), n.D(torch.cat([s, fake], 1))
    pairs = zip(real, fakes, strict=True)
    return {"D_loss": torch.stack([least_squares_d(a[-1], z[-1], 0.0, 1.0) for a, z in pairs]).sum()}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """Σ_k E (D_k(s, G(s)) - 1)², λ Σ_k Σ_i E |D_k^i(s, x) - D_k^i(s, G(s))|  (eq. 4 and 5), and

    λ Σ_i E |F^i(x) - F^i(G(s))|, F^i the layers of a VGG, weighted as in the authors' code  (sec. 4).
    """
    s, y, features = seen(n, b)
    if features is not None and n.G.bank is not None:
        n.G.bank.keep(features, maps(b.x)[0], p.uniform(len(s), len(n.G.bank.count)))
    fake = made(n, s, features, enhancers_only=p.nimg < 1000 * cfg.enhancer_kimg)
    fakes = n.D(torch.cat([s, fake], 1))
    with torch.no_grad():
        real = n.D(torch.cat([s, y], 1))
    terms = {"G_loss": torch.stack([2 * least_squares_g(z[-1], 1.0) for z in fakes]).sum()}
    if cfg.matching_weight:
        terms["G_matching"] = cfg.matching_weight * matching(real, fakes)
    if n.vgg is not None:
        terms["G_perceptual"] = cfg.perceptual_weight * n.vgg.distance(fake, y)
    return terms


def matching(real: list[list[Tensor]], fakes: list[list[Tensor]]) -> Tensor:
    """Σ_i E |D_k^i(s, x) - D_k^i(s, G(s))| over all layers but the logits  (eq. 4).

    Deviation: the mean over the discriminators where eq. 5 has their sum, and 4 / (layers + 1) times it, which is 1 for
    three layers: the authors' code.
    """
    pairs = ((a, z) for k, m in zip(real, fakes, strict=True) for a, z in zip(k[:-1], m[:-1], strict=True))
    layers = len(real[0]) - 1
    return torch.stack([F.l1_loss(z, a) for a, z in pairs]).sum() * 4 / layers / len(real)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), d_loss),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {name: Adam(falling(lr, cfg.decay_from), cfg.beta1) for name, lr in (("G", cfg.glr), ("D", cfg.dlr))}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The authors' networks: G (`model.1` …, with `model1_1`, `model1_2` of an enhancer) and D (`scale0_layer0.0` …).

    More than four input channels are those of label maps and their boundaries. A global generator of two halvings is
    CycleGAN's network under CycleGAN's names, and is left to that family. Instance norms saved with running statistics
    by old versions are read without them.
    """
    if "scale0_layer0.0.weight" in state or "layer0.0.weight" in state:
        return _discriminators(state)
    blocks = sorted(int(m[1]) for k in state if (m := re.fullmatch(r"model\.(\d{1,3})\.conv_block\.5\.weight", k)))
    enhancers = [int(m[1]) for k in state if (m := re.fullmatch(r"model(\d)_1\.1\.weight", k))]
    levels = max(enhancers, default=0)
    downs = (blocks[0] - 4) // 3 if blocks else 0
    if not levels and downs == 2:
        return None
    tail = f"model{levels}_2" if levels else "model"
    ends = [int(m[1]) for k in state if (m := re.fullmatch(rf"{tail}\.(\d{{1,3}})\.weight", k))]
    first, last = state.get("model.1.weight"), state.get(f"{tail}.{max(ends, default=0)}.weight")
    if downs < 1 or first is None or last is None or first.ndim != 4 or last.ndim != 4 or first.shape[0] % 2**levels:
        return None
    local = [k for k in state if re.fullmatch(r"model1_2\.\d{1,2}\.conv_block\.5\.weight", k)]
    inputs, batch_norm = first.shape[1], "model.2.weight" in state
    cfg = {
        **({"source_channels": inputs} if inputs <= 4 else {"label_nc": inputs - 1}),
        "channels": last.shape[0],
        "network": "local" if levels else "global",
        **({"enhancers": levels, "local_blocks": len(local)} if levels else {}),
        "ngf": first.shape[0] >> levels,
        "num_downs": downs,
        "res_blocks": len(blocks),
        "norm": "batch" if batch_norm else "instance",
    }
    return cfg, {"G": dict(state) if batch_norm else without_statistics(state)}


def _discriminators(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    found = {_layered(k): t for k, t in state.items()}
    places = [(int(m[1]), int(m[2])) for k in found if (m := re.fullmatch(r"scale(\d)_layer(\d{1,2})\.0\.weight", k))]
    first = found.get("scale0_layer0.0.weight")
    if first is None or first.ndim != 4 or len(places) < 3:
        return None
    batch_norm = "scale0_layer1.1.weight" in found
    cfg = {
        "num_d": 1 + max(k for k, _ in places),
        "ndf": first.shape[0],
        "n_layers": max(j for _, j in places) - 1,
        "norm": "batch" if batch_norm else "instance",
    }
    return cfg, {"D": found if batch_norm else without_statistics(found)}


def _layered(key: str) -> str:
    """`layer0.5.weight` of a discriminator in one sequence as `scale0_layer2.0.weight`."""
    match = re.fullmatch(r"layer(\d)\.(\d{1,2})\.(.+)", key)
    if match is None:
        return key
    layer, place = divmod(int(match[2]) + 1, 3) if int(match[2]) else (0, 0)
    return f"scale{match[1]}_layer{layer}.{place}.{match[3]}"
