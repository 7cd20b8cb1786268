"""ProGAN: Karras, Aila, Laine & Lehtinen, Progressive Growing of GANs for Improved Quality, Stability, and Variation, 2018. arXiv:1710.10196."""  # noqa: E501

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.losses.adversarial import wasserstein_d, wasserstein_g
from ganctl.losses.regularizers import gradient_penalty
from ganctl.nn.clip import clip
from ganctl.nn.equalized import EqualizedConv2d, EqualizedLinear
from ganctl.nn.layers import numbered_convs, numpy_prior
from ganctl.nn.minibatch_std import minibatch_std
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published import growing_tf
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image

POWER_OF_2 = True
COUNTED = ("D",)
"""Networks whose layers have numbers from the image on: other ones at another resolution."""
TRAIN = {"batch": 16, "ema_kimg": 10, "ema_rampup": None, "kimg": 15000}
"""The average decays by 0.999 a step of 16 images (appendix A.1). Deviation: one batch size for every resolution."""

HE = math.sqrt(2)
"""He's constant for rectifiers: weights are scaled by √(2 / inputs) at run time (sec. 4.1)."""


@config
class Config:
    """Networks of table 2, training of appendix A.1."""

    resolution: Count = 1024
    """Side of the images in the end: 4 doubled one or more times."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 512
    """Dimension of z (table 2)."""
    width: Count = 512
    """Feature maps at 4 to 32 px, and nowhere more."""
    width_base: Count = 16384
    """Feature maps times side beyond that: 256 at 64 px, 16 at 1024 px."""
    widths: Widths | None = None
    """Feature maps at 4, 8, 16 … px, where a published network has others; None follows the two numbers above."""
    grow_from: Count = 4
    """Side of the images at the beginning. Larger ones are grown to; at `resolution` nothing grows."""
    stage_kimg: Weight = 800.0
    """How long each resolution is trained, in thousands of images …"""
    fade_kimg: Weight = 800.0
    """… and how long the next one takes to fade in."""
    gp_weight: Weight = 10.0
    """λ of the gradient penalty."""
    drift: Weight = 1e-3
    """ε_drift: keeps D's output for real images near 0."""
    gan_zoo: bool = False
    """As pytorch_GAN_zoo has it: a bias for each pixel of the first layer, and the minibatch deviation of `zoo_std`."""
    glr: Rate = 1e-3
    """Adam's learning rate: constant."""
    dlr: Rate = 1e-3
    """The same for D."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.99
    """… and second."""


def level(side: int, resolution: int, *, what: str) -> int:
    """How often 4 px are doubled to give `side`. Raises UsageError for other sides and those beyond `resolution`."""
    n = (side // 4).bit_length() - 1
    if n < 0 or side != 4 << n or side > resolution:
        why = f"{what} must be 4 px doubled, such as 16, 64 or 256, and at most the resolution"
        raise UsageError(f"cannot grow a network with {what} {side}", why, f"choose another {what}")
    return n


def widths_of(resolution: int, width: int, width_base: int, given: Sequence[int] | None) -> list[int]:
    """Feature maps at 4, 8 … px: the given ones, or `width_base` over the side and at most `width` (table 2).

    Raises UsageError where there are more or fewer than sizes, and where 4 px is all.
    """
    sides = [4 << i for i in range(level(resolution, resolution, what="resolution") + 1)]
    if len(sides) < 2:
        raise UsageError("cannot build a network of 4 px", "the smallest one has 8", "choose another --resolution")
    if given is not None and len(given) != len(sides):
        why = f"there are {len(sides)} sizes from 4 px to {sides[-1]} px, and {len(given)} widths"
        raise UsageError("cannot use widths", why, "give one for each size, or none")
    return list(given or [max(1, min(width, width_base // side)) for side in sides])


def pixel_norm(x: Tensor) -> Tensor:
    """Each pixel's feature vector divided by its root mean square (sec. 4.2)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def enlarge(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Nearest neighbours (sec. 2)."""
    return x if x.shape[-1] == side else F.interpolate(x, scale_factor=float(side // x.shape[-1]))


def shrink(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Means of blocks (sec. 2)."""
    return x if x.shape[-1] == side else F.avg_pool2d(x, x.shape[-1] // side)


def lod_at(nimg: int, octaves: int, stage_kimg: float, fade_kimg: float) -> float:
    """How many octaves below the full side training is after `nimg` images: a function of that number alone.

    The smallest size is trained for a stage; then each next one fades in and is trained for a stage (fig. 2; appendix
    A.1). 2 is a quarter of the side; 1.3 lies between a quarter and a half, which has faded in to 0.7.
    """
    kimg, turn = nimg / 1000 - stage_kimg, stage_kimg + fade_kimg
    if kimg < 0:
        return float(octaves)
    whole, rest = divmod(kimg, turn) if turn else (octaves, 0.0)
    return max(0.0, octaves - whole - (min(rest / fade_kimg, 1.0) if fade_kimg else 1.0))


def split_lod(lod: float, levels: int) -> tuple[int, float]:
    """The highest level in use (0 is 4 px), and the share of the one below it."""
    return levels - 1 - math.floor(lod), lod - math.floor(lod)


def at_detail(x: Float[Tensor, "n c h w"], lod: float) -> Float[Tensor, "n c h2 w2"]:
    """Images as a network that has grown to `lod` sees them: pooled, and in a fade partly to half of that (fig. 2)."""
    whole, share = math.floor(lod), lod - math.floor(lod)
    x = shrink(x, x.shape[-1] >> whole)
    return torch.lerp(x, enlarge(shrink(x, x.shape[-1] // 2), x.shape[-1]), share) if share else x


def zoo_std(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
    """pytorch_GAN_zoo's minibatch deviation: of four neighbours (of all, where 4 does not divide n), unbiased."""
    n, c, h, w = x.shape
    size = 4 if n % 4 == 0 else n
    y = x.reshape(-1, size, c, h, w)
    var = y.var(1, unbiased=True) if size > 1 else torch.zeros_like(y[:, 0])
    std = (var + 1e-8).sqrt().mean((1, 2, 3)).repeat_interleave(size)
    return torch.cat([x, std.view(n, 1, 1, 1).expand(n, 1, h, w)], 1)


class First(nn.Module):
    """z → 4 × 4 px: a convolution of one pixel that is padded by 3 (table 2). `bias` is its bias's shape."""

    def __init__(self, inputs: int, outputs: int, bias: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = HE / math.sqrt(inputs * 16)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 4, 4))
        self.bias = nn.Parameter(torch.zeros(bias))

    def forward(self, z: Float[Tensor, "n z 1 1"]) -> Float[Tensor, "n c 4 4"]:
        x = F.conv2d(z, self.weight * self.scale, padding=3)
        return (x.flatten(2) + self.bias.view(len(self.bias), -1)).view_as(x)


class Generator(nn.Module):
    """Two convolutions at 4 px and at each doubling, 1 × 1 to colours (table 2). Satisfies Sampler.

    Names are those of the converted official networks: layer 2i, layer 2i + 1 and output i at 4 · 2^i px. The buffer
    `lod` says how far it has grown; 0 is full size, and smaller pictures are enlarged. Table 2 ends without a tanh:
    `forward` gives what the network gives, `sample` keeps it within [-1, 1].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        widths = widths_of(cfg.resolution, cfg.width, cfg.width_base, cfg.widths)
        first = level(cfg.grow_from, cfg.resolution, what="grow_from")
        self.x, self.z_dim, self.levels = Image((cfg.resolution, cfg.resolution), cfg.channels), cfg.z_dim, len(widths)
        for i, width in enumerate(widths):
            if i == 0:
                layer = First(cfg.z_dim, width, (width, 4, 4) if cfg.gan_zoo else (width,))
            else:
                layer = EqualizedConv2d(widths[i - 1], width, 3, gain=HE)
            self.add_module(f"layer{2 * i}", layer)
            self.add_module(f"layer{2 * i + 1}", EqualizedConv2d(width, width, 3, gain=HE))
            if i >= first:
                self.add_module(f"output{i}", EqualizedConv2d(width, cfg.channels, 1))
        self.register_buffer("lod", torch.zeros(()))

    def forward(self, z: Float[Tensor, "n z"], lod: float | None = None) -> Float[Tensor, "n c h w"]:
        x = self.grown(z, float(self.get_buffer("lod")) if lod is None else lod)
        return enlarge(x, 4 << (self.levels - 1))

    def grown(self, z: Float[Tensor, "n z"], lod: float) -> Float[Tensor, "n c side side"]:
        """The picture at the side that the network has grown to, the last size blended with the one before (fig. 2)."""
        top, share = split_lod(lod, self.levels)
        x, before = pixel_norm(z)[:, :, None, None], None
        for i in range(top + 1):
            if i == top and share:
                before = self.get_submodule(f"output{i - 1}")(x)
            x = enlarge(x, 4 << i) if i else x
            for j in (2 * i, 2 * i + 1):
                x = pixel_norm(F.leaky_relu(self.get_submodule(f"layer{j}")(x), 0.2))
        y = self.get_submodule(f"output{top}")(x)
        return y if before is None else torch.lerp(y, enlarge(before, 4 << top), share)

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return numpy_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return clip(self(z))


def pooled(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolution, leaky ReLU, and the mean of 2 × 2 pixels (table 2)."""
    return F.avg_pool2d(F.leaky_relu(layer(x), 0.2), 2)


class Discriminator(nn.Module):
    """G's mirror image: 1 × 1 from colours, two convolutions at each size, two linear layers (table 2).

    Names are again the official networks': input k, layer 2k and layer 2k + 1 at k octaves below the full side, then
    layer 2k + 2. `widths` are those of 4, 8 … px, `first` is the level that growth begins at; `down` applies the layer
    that halves the side, `std` appends the minibatch deviation. Takes images of any side from the one it has grown to
    upwards. Returns logits [N].

    Deviation: the deviation is that of groups of 4 images, not of the whole batch, as in the authors' code.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        first: int,
        down: Callable[[nn.Module, Tensor], Tensor] = pooled,
        std: Callable[[Tensor], Tensor] = minibatch_std,
    ) -> None:
        super().__init__()
        self.levels, self.down, self.std = len(widths), down, std
        for k, i in enumerate(reversed(range(self.levels))):
            width = widths[i]
            if i >= first:
                self.add_module(f"input{k}", EqualizedConv2d(channels, width, 1, gain=HE))
            self.add_module(f"layer{2 * k}", EqualizedConv2d(width if i else width + 1, width, 3, gain=HE))
            if i:
                self.add_module(f"layer{2 * k + 1}", EqualizedConv2d(width, widths[i - 1], 3, gain=HE))
            else:
                self.add_module(f"layer{2 * k + 1}", EqualizedLinear(16 * width, width, gain=HE))
        self.add_module(f"layer{2 * self.levels}", EqualizedLinear(widths[0], 1))
        self.register_buffer("lod", torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c h w"], lod: float | None = None) -> Float[Tensor, " n"]:
        top, share = split_lod(float(self.get_buffer("lod")) if lod is None else lod, self.levels)
        k = self.levels - 1 - top
        x = shrink(x, 4 << top)
        y = self.colours(k, x)
        for i in range(top, 0, -1):
            y = self.down(self.layer(2 * k + 1), F.leaky_relu(self.layer(2 * k)(y), 0.2))
            k += 1
            if i == top and share:
                y = torch.lerp(y, self.colours(k, shrink(x, 4 << (i - 1))), share)
        y = F.leaky_relu(self.layer(2 * k)(self.std(y)), 0.2)
        y = F.leaky_relu(self.layer(2 * k + 1)(y.flatten(1)), 0.2)
        return self.layer(2 * k + 2)(y).squeeze(1)

    def layer(self, i: int) -> nn.Module:
        return self.get_submodule(f"layer{i}")

    def colours(self, k: int, x: Tensor) -> Tensor:
        return F.leaky_relu(self.get_submodule(f"input{k}")(x), 0.2)


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    first = level(cfg.grow_from, cfg.resolution, what="grow_from")
    std = zoo_std if cfg.gan_zoo else minibatch_std
    widths = widths_of(cfg.resolution, cfg.width, cfg.width_base, cfg.widths)
    return Nets(Generator(cfg), Discriminator(widths, cfg.channels, first, pooled, std))


def detail(n: Nets, p: Progress, cfg: Config) -> float:
    """The lod that training has come to, which both networks are given to keep (so that snapshots are of it)."""
    octaves = n.G.levels - 1 - level(cfg.grow_from, cfg.resolution, what="grow_from")
    lod = lod_at(p.nimg, octaves, cfg.stage_kimg, cfg.fade_kimg)
    for net in (n.G, n.D):
        net.get_buffer("lod").fill_(lod)
    return lod


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E D(G(z)) - E D(x) + λ E (‖∇ D(x̂)‖₂ - 1)² + ε E D(x)²  (Gulrajani et al. 2017, eq. 3; appendix A.1).

    Deviation: the gradient is that with respect to the image at its full side, as in the authors' code: a picture of
    half the side, enlarged, has half the gradient.
    """
    lod = detail(n, p, cfg)
    real, fake = at_detail(b.x, lod), n.G.grown(p.normal(len(b.x), n.G.z_dim), lod)
    scale = 2.0 ** math.floor(lod)
    penalty = gradient_penalty(lambda x: n.D(x / scale, lod), scale * real, scale * fake, p.uniform(len(b.x)))
    logits = n.D(real, lod)
    return {
        "D_loss": wasserstein_d(logits, n.D(fake, lod)),
        "D_gp": cfg.gp_weight * penalty,
        "D_drift": cfg.drift * logits.square().mean(),
    }


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E D(G(z))  (Arjovsky et al. 2017, alg. 1)."""
    lod = detail(n, p, cfg)
    return {"G_loss": wasserstein_g(n.D(n.G.grown(p.normal(len(b.x), n.G.z_dim), lod), lod))}


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2), "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """GenForce's conversions of the official networks (keys `layerN`, `outputN`, `inputN`), pytorch_GAN_zoo's G and D
    (`formatLayer`, `decisionLayer`), and OpenMMLab's G (`noise2feat`).

    What is scaled at run time is rescaled, and the first layer's kernel turned. OpenMMLab's D is left out: it appends
    the minibatch deviation a layer later.
    """
    if any(".blur." in key for key in state):
        return None
    for read in (_official_g, _official_d, _zoo_g, _zoo_d, _mmlab_g):
        if (found := read(state)) is not None:
            return found
    return None


def from_nvidia(net: PersistedModule | TfNetwork) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G or D of the authors' TensorFlow snapshots (`G_paper`, `D_paper`), as GenForce converts them."""
    state = growing_tf.progan(net) if isinstance(net, TfNetwork) else None
    return None if state is None else from_upstream(state)


Found = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]


def grown_config(widths: Sequence[int], channels: int) -> dict[str, Any]:
    """The config of a published network: one set of colours for every size from 4 px."""
    return {"resolution": 2 << len(widths), "channels": channels, "widths": list(widths), "grow_from": 4}


def _official_g(state: Mapping[str, Tensor]) -> Found | None:
    layers, colours = (numbered_convs(state, rf"{kind}(\d{{1,2}})\.weight") for kind in ("layer", "output"))
    if len(colours) < 2 or len(layers) != 2 * len(colours):
        return None
    config = {**grown_config([w.shape[0] for w in layers[1::2]], colours[0].shape[0]), "z_dim": layers[0].shape[1]}
    return config, {"G": {"lod": torch.zeros(()), **state}}


def _official_d(state: Mapping[str, Tensor]) -> Found | None:
    if (config := official_d_config(state)) is None:
        return None
    return config, {"D": {"lod": torch.zeros(()), **state}}


def official_d_config(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The config of a converted official discriminator: of this network or, with blurs, of StyleGAN's."""
    layers, colours = (numbered_convs(state, rf"{kind}(\d{{1,2}})\.weight") for kind in ("layer", "input"))
    if len(colours) < 2 or len(layers) != 2 * len(colours) - 1:
        return None
    return grown_config([w.shape[0] for w in reversed(colours)], colours[0].shape[1])


def turned(weight: Tensor) -> Tensor:
    """A linear layer's weight [16 c, z] as the 4 × 4 kernel [c, z, 4, 4] that does the same to a padded pixel."""
    return weight.view(-1, 4, 4, weight.shape[1]).permute(0, 3, 1, 2).flip(2, 3)


def _of_4_px(weight: Tensor | None, bias: Tensor | None = None) -> TypeGuard[Tensor]:
    if weight is None or weight.ndim != 2 or weight.shape[0] % 16 or not weight.numel():
        return False
    return bias is None or bias.shape == weight.shape[:1]


def unscaled(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, float]]) -> dict[str, Tensor]:
    """pytorch_GAN_zoo's layers under our names, weights times a factor; it scales biases too, and by √(2 / inputs)."""
    found = {}
    for theirs, (ours, factor) in names.items():
        weight, bias = state[f"{theirs}.module.weight"], state[f"{theirs}.module.bias"]
        found[f"{ours}.weight"] = weight * factor
        found[f"{ours}.bias"] = bias * math.sqrt(2 / max(1, math.prod(weight.shape[1:])))
    return found


def _zoo_g(state: Mapping[str, Tensor]) -> Found | None:
    colours = numbered_convs(state, r"toRGBLayers\.(\d{1,2})\.module\.weight")
    first = state.get("formatLayer.module.weight")
    n = len(colours)
    names = {"groupScale0.0": ("layer1", 1.0)} | {f"toRGBLayers.{i}": (f"output{i}", HE) for i in range(n)}
    names |= {f"scaleLayers.{i}.{j}": (f"layer{2 * i + 2 + j}", 1.0) for i in range(n - 1) for j in (0, 1)}
    if n < 2 or not zoo_whole(state, [*names, "formatLayer"]) or not _of_4_px(first, state["formatLayer.module.bias"]):
        return None
    tensors = {"lod": torch.zeros(()), **unscaled(state, names)}
    # Their layer has √(2 / z), ours as a convolution √(2 / 16 z).
    tensors["layer0.weight"] = turned(first) * 4
    tensors["layer0.bias"] = (state["formatLayer.module.bias"] * math.sqrt(2 / first.shape[1])).view(-1, 4, 4)
    config = grown_config([c.shape[1] for c in colours], colours[0].shape[0])
    return {**config, "z_dim": first.shape[1], "gan_zoo": True}, {"G": tensors}


def _zoo_d(state: Mapping[str, Tensor]) -> Found | None:
    colours = numbered_convs(state, r"fromRGBLayers\.(\d{1,2})\.module\.weight")
    n = len(colours)
    names = {f"groupScaleZero.{j}": (f"layer{2 * n - 2 + j}", 1.0) for j in (0, 1)}
    names |= {f"fromRGBLayers.{i}": (f"input{n - 1 - i}", 1.0) for i in range(n)}
    names |= {f"scaleLayers.{i}.{j}": (f"layer{2 * (n - 2 - i) + j}", 1.0) for i in range(n - 1) for j in (0, 1)}
    names["decisionLayer"] = (f"layer{2 * n}", HE)
    if n < 2 or not zoo_whole(state, names):
        return None
    config = grown_config([c.shape[0] for c in colours], colours[0].shape[1])
    return {**config, "gan_zoo": True}, {"D": {"lod": torch.zeros(()), **unscaled(state, names)}}


def zoo_whole(state: Mapping[str, Tensor], names: Iterable[str]) -> bool:
    """Whether every layer is there, and no tensor besides; weights have two axes or more, biases one."""
    shapes = {f"{name}.module.{kind}" for name in names for kind in ("weight", "bias")}
    return shapes == set(state) and all(v.ndim == 1 if k.endswith("bias") else v.ndim > 1 for k, v in state.items())


def _mmlab_g(state: Mapping[str, Tensor]) -> Found | None:
    """OpenMMLab's generator: its upsampling kernels are those of a transposed convolution, its pictures blue first."""
    colours = numbered_convs(state, r"torgb_layers\.(\d{1,2})\.conv\.weight_orig")
    layers = numbered_convs(state, r"conv_blocks\.(\d{1,2})\.conv\.weight_orig")
    first = state.get("noise2feat.linear.weight_orig")
    n = len(colours)
    biases = ["noise2feat.bias", *(f"conv_blocks.{i}.conv.bias" for i in range(2 * n - 1))]
    biases += [f"torgb_layers.{i}.conv.bias" for i in range(n)]
    if n < 2 or len(layers) != 2 * n - 1 or len(state) != 6 * n or not all(key in state for key in biases):
        return None
    if not _of_4_px(first):
        return None
    found = {"lod": torch.zeros(()), "layer0.weight": turned(first), "layer0.bias": state[biases[0]].flatten()}
    for i, weight in enumerate(layers):
        if i % 2:
            # [inputs, outputs, 3, 3], scaled by √(2 / 9 outputs): torch takes the second axis for the inputs.
            weight = weight.transpose(0, 1).flip(2, 3) * math.sqrt(weight.shape[0] / max(1, weight.shape[1]))
        found |= {f"layer{i + 1}.weight": weight, f"layer{i + 1}.bias": state[biases[1 + i]]}
    for i, weight in enumerate(colours):
        found |= {f"output{i}.weight": weight.flip(0), f"output{i}.bias": state[biases[2 * n + i]].flip(0)}
    config = grown_config([c.shape[1] for c in colours], colours[0].shape[0])
    return {**config, "z_dim": first.shape[1]}, {"G": found}
