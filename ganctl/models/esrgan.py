"""ESRGAN: Wang et al., Enhanced Super-Resolution Generative Adversarial Networks, 2018. arXiv:1809.00219."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import relativistic_average
from ganctl.losses.perceptual import VGG19, Perceptual
from ganctl.nn.layers import for_pictures, halvings, numbered_convs
from ganctl.nn.norm import BatchNorm
from ganctl.nn.shrink import shrink
from ganctl.nn.spectral import SpectralConv
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

# Deviation: sec. 4.2 turns the photos by 90° too, which an image's mirroring alone does not.
DATA = {"crop": "random", "mirror": True}
TRAIN = {"batch": 16}


@config
class Config:
    resolution: Count = 128
    """Side of the high-resolution images of training (sec. 4.1: 128; the PSNR-oriented model had 192, suppl. 4)."""
    channels: Count = 3
    """Of images, on both sides."""
    network: Literal["rrdb", "compact"] = "rrdb"
    """rrdb: the paper's (sec. 3.1); compact: the small one of Real-ESRGAN's authors, a plain row of convolutions."""
    scale: Annotated[int, Ge(1), Le(8)] = 4
    """How much larger the output is (sec. 4.1: 4). RRDB: 1, 2, 4 or 8."""
    width: Count = 64
    """Channels of the generator (64 in the authors' code)."""
    num_blocks: Count = 23
    """RRDBs (sec. 4.1: 23), or the compact network's inner convolutions (16 or 32)."""
    growth: Count = 32
    """Channels that each convolution of a dense block adds (32 in the authors' code); of rrdb."""
    activation: Literal["prelu", "leaky_relu"] = "prelu"
    """Of the compact network."""
    discriminator: Literal["vgg", "unet"] = "vgg"
    """vgg: SRGAN's kind, one logit an image, as in the authors' code; unet: Real-ESRGAN's, a logit for every pixel."""
    ndf: Count = 64
    """Channels of the discriminator's first layer (64 in the authors' code)."""
    # Deviation: the paper's ESRGAN has 1 here and 0.01 below; VGG's weights are not ours to ship, so 0 needs no asking.
    perceptual_weight: Weight = 0.0
    """Of the perceptual loss (eq. 3), for which the weights of VGG-19 are needed; the paper's is 1."""
    l1_weight: Weight = 1.0
    """η, of the absolute error. Sec. 4.1 has 0.01 beside a perceptual loss of weight 1; Real-ESRGAN has 1 and 1."""
    adversarial_weight: Weight = 5e-3
    """λ (sec. 4.1: 0.005). 0 trains G by the absolute error alone: the PSNR-oriented model, with which the adversarial
    training begins (sec. 4.1), by `init_from`."""
    glr: Rate = 1e-4
    """Sec. 4.1: 10⁻⁴, halved after 1/8, 1/4, 1/2 and 3/4 of the training; for the PSNR-oriented model it is 2 · 10⁻⁴,
    halved after every fifth."""
    dlr: Rate = 1e-4
    """The same for D."""
    beta1: Moment = 0.9
    """Adam's first moment (sec. 4.1)."""


class Dense(nn.Module):
    """Five convolutions, each of everything before it, and x + 0.2 times the last (fig. 4; β: supplement, sec. 2)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 6):
            conv = nn.Conv2d(width + (i - 1) * growth, growth if i < 5 else width, 3, 1, 1)
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                # Supplement, sec. 2: a tenth of He's initialisation.
                conv.weight.mul_(0.1)
            self.add_module(f"conv{i}", conv)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        y, seen = x, [x]
        for name, conv in self.named_children():
            y = conv(torch.cat(seen, 1))
            if name != "conv5":
                y = F.leaky_relu(y, 0.2)
                seen.append(y)
        return x + 0.2 * y


class RRDB(nn.Module):
    """Residual in residual: x + 0.2 times three dense blocks (fig. 4)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(width, growth) for _ in range(3))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class Enlarger(nn.Module):
    """What both generators share. Satisfies Translator: the output is `scale` times larger."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source = self.target = Image(None, cfg.channels)
        self.stride, self.scale = 1, cfg.scale

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n c h2 w2"]:
        """Images on [-1, 1], `scale` times larger; what goes beyond is for the caller to cut off. Nothing is drawn."""
        return 2 * self((for_pictures(x) + 1) / 2) - 1


class RRDBNet(Enlarger):
    """The generator (sec. 3.1, fig. 3 and 4); keys are those of BasicSR, in which Real-ESRGAN is published.

    It enlarges by 4. For scales 2 and 1 the input's pixels are first laid out as channels, 2 × 2 or 4 × 4
    (Real-ESRGAN, Wang et al. 2021. arXiv:2107.10833, sec. 3.4); for 8 there is a third doubling, as in networks of
    ai-forever.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.stride = max(4 // cfg.scale, 1)
        # 15 convolutions a block, three more around them, and 1.25 pixels' worth in the enlarged part.
        self.halo = self.stride * (15 * cfg.num_blocks + 4) + self.stride - 1
        """Source pixels beyond which an output pixel depends on nothing."""
        w = cfg.width
        self.conv_first = nn.Conv2d(cfg.channels * self.stride**2, w, 3, 1, 1)
        self.body = nn.Sequential(*(RRDB(w, cfg.growth) for _ in range(cfg.num_blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(w, w, 3, 1, 1) for _ in range(4))
        if cfg.scale == 8:
            self.conv_up3 = nn.Conv2d(w, w, 3, 1, 1)
        self.conv_last = nn.Conv2d(w, cfg.channels, 3, 1, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Images on [0, 1] to larger ones, about on [0, 1]: nothing bounds them."""
        x = self.conv_first(F.pixel_unshuffle(x, self.stride))
        x = x + self.conv_body(self.body(x))
        for conv in (self.conv_up1, self.conv_up2, *([self.conv_up3] if self.scale == 8 else ())):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class Compact(Enlarger):
    """SRVGGNetCompact of the Real-ESRGAN repository: a row of convolutions at low resolution, shuffled into pixels.

    Added to the input, enlarged by its nearest pixels. Keys are the repository's.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.halo = cfg.num_blocks + 2
        """Source pixels beyond which an output pixel depends on nothing."""
        layers: list[nn.Module] = [nn.Conv2d(cfg.channels, cfg.width, 3, 1, 1)]
        for _ in range(cfg.num_blocks):
            layers += [self._activation(cfg), nn.Conv2d(cfg.width, cfg.width, 3, 1, 1)]
        layers += [self._activation(cfg), nn.Conv2d(cfg.width, cfg.channels * cfg.scale**2, 3, 1, 1)]
        self.body = nn.Sequential(*layers)

    @staticmethod
    def _activation(cfg: Config) -> nn.Module:
        return nn.PReLU(cfg.width) if cfg.activation == "prelu" else nn.LeakyReLU(0.1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Images on [0, 1] to larger ones, about on [0, 1]: nothing bounds them."""
        plain = F.interpolate(x, scale_factor=float(self.scale), mode="nearest")
        return plain + F.pixel_shuffle(self.body(x), self.scale)


class Discriminator(nn.Module):
    """SRGAN's kind, C of sec. 3.2, as the authors' code has it: at every side, down to 4 px, a convolution of stride 1
    and one of stride 2, then two dense layers. Returns one logit an image, of one size. Keys are BasicSR's.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        stages, side = halvings(cfg.resolution)
        width = cfg.channels
        for i in range(stages):
            wider = cfg.ndf * 2 ** min(i, 3)
            self.add_module(f"conv{i}_0", nn.Conv2d(width, wider, 3, 1, 1, bias=i == 0))
            if i:
                self.add_module(f"bn{i}_0", BatchNorm(wider))
            self.add_module(f"conv{i}_1", nn.Conv2d(wider, wider, 4, 2, 1, bias=False))
            self.add_module(f"bn{i}_1", BatchNorm(wider))
            width = wider
        self.linear1, self.linear2 = nn.Linear(width * side**2, 100), nn.Linear(100, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        layers = dict(self.named_children())
        for name, layer in layers.items():
            if name.startswith("conv"):
                norm = layers.get(name.replace("conv", "bn"), nn.Identity())
                x = F.leaky_relu(norm(layer(x)), 0.2)
        return self.linear2(F.leaky_relu(self.linear1(x.flatten(1)), 0.2)).flatten()


class UNet(nn.Module):
    """Real-ESRGAN's D, a U-Net with spectral normalisation (Wang et al. 2021, sec. 3.4): a logit for every pixel.

    Sides are multiples of 8. Keys are the Real-ESRGAN repository's.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        w = cfg.ndf
        self.conv0 = nn.Conv2d(cfg.channels, w, 3, 1, 1)
        self.conv1, self.conv2, self.conv3 = (SpectralConv(w * k, 2 * w * k, 4, 2, 1) for k in (1, 2, 4))
        self.conv4, self.conv5, self.conv6 = (SpectralConv(2 * w * k, w * k, 3, 1, 1) for k in (4, 2, 1))
        self.conv7, self.conv8 = (SpectralConv(w, w, 3, 1, 1) for _ in range(2))
        self.conv9 = nn.Conv2d(w, 1, 3, 1, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        levels = [F.leaky_relu(self.conv0(x), 0.2)]
        for down in (self.conv1, self.conv2, self.conv3):
            levels.append(F.leaky_relu(down(levels[-1]), 0.2))
        x = levels.pop()
        for up in (self.conv4, self.conv5, self.conv6):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = F.leaky_relu(up(x), 0.2) + levels.pop()
        x = F.leaky_relu(self.conv8(F.leaky_relu(self.conv7(x), 0.2)), 0.2)
        return self.conv9(x)


@dataclass
class Nets:
    G: RRDBNet | Compact
    D: Discriminator | UNet
    vgg: Perceptual | None = None
    """VGG-19's 4th convolution before the 5th pool, before its activation (sec. 3.3)."""


def build(cfg: Config) -> Nets:
    """Raises UsageError for a scale that RRDB has not, and for training images that D or the scale do not divide."""
    if cfg.network == "rrdb" and cfg.scale not in (1, 2, 4, 8):
        raise UsageError(f"cannot build esrgan for scale {cfg.scale}", "RRDB enlarges by 1, 2, 4 or 8", "--set scale=4")
    step = math.lcm(8 if cfg.discriminator == "unet" else 1, 4 if cfg.network == "rrdb" else 1, cfg.scale)
    if cfg.resolution % step:
        where = f"cannot build esrgan for {cfg.resolution} px"
        raise UsageError(where, f"the side must be a multiple of {step}", "choose another --resolution")
    D = Discriminator if cfg.discriminator == "vgg" else UNet
    vgg = Perceptual({"conv5_4": cfg.perceptual_weight}) if cfg.perceptual_weight else None
    return Nets((RRDBNet if cfg.network == "rrdb" else Compact)(cfg), D(cfg), vgg)


def given(cfg: Config) -> dict[str, str]:
    """VGG-19, where there is a perceptual loss."""
    return {"vgg.features": VGG19} if cfg.perceptual_weight else {}


def enlarged(n: Nets, b: Batch) -> Tensor:
    """G of the batch made smaller by a bicubic kernel (sec. 4.1), on [-1, 1]."""
    return n.G.translate(shrink(b.x, n.G.scale))


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-E log σ(C(x_r) - E C(x_f)) - E log(1 - σ(C(x_f) - E C(x_r)))  (eq. 1)."""
    return {"D_loss": relativistic_average(n.D(b.x), n.D(enlarged(n, b)))}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """L_percep + λ (-E log(1 - σ(C(x_r) - E C(x_f))) - E log σ(C(x_f) - E C(x_r))) + η ‖G(x) - y‖₁  (eq. 2 and 3).

    L_percep is the L1 distance of features, as the authors' code has it.
    """
    made = enlarged(n, b)
    terms = {"G_l1": cfg.l1_weight * F.l1_loss(made, b.x)}
    if n.vgg is not None:
        terms["G_vgg"] = n.vgg.distance(made, b.x)
    if cfg.adversarial_weight:
        terms["G_loss"] = cfg.adversarial_weight * relativistic_average(n.D(made), n.D(b.x))
    return terms


def phases(cfg: Config) -> list[Phase]:
    g = Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg))
    return [Phase("D", ("D",), d_loss), g] if cfg.adversarial_weight else [g]


GAN, PSNR = (1 / 8, 1 / 4, 1 / 2, 3 / 4), (1 / 5, 2 / 5, 3 / 5, 4 / 5)
"""After which shares of the training the rates are halved. Sec. 4.1: after 50, 100, 200 and 300 thousand updates, of
the PSNR-oriented model every 200 thousand; in all the authors' code has 400 thousand and a million."""


def halved(rate: float, shares: tuple[float, ...]) -> Callable[[int, int], float]:
    return lambda nimg, total: rate * 0.5 ** sum(nimg >= share * total for share in shares)


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    if not cfg.adversarial_weight:
        return {"G": Adam(halved(cfg.glr, PSNR), cfg.beta1)}
    return {"G": Adam(halved(cfg.glr, GAN), cfg.beta1), "D": Adam(halved(cfg.dlr, GAN), cfg.beta1)}


_ESRGAN = {"RRDB_trunk": "body", "trunk_conv": "conv_body", "upconv1": "conv_up1", "upconv2": "conv_up2",
           "HRconv": "conv_hr"}  # fmt: skip
_FIRST = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}
"""Names of ESRGAN's repository, and the places in one Sequential that its first release had."""


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """RRDBNet as BasicSR, ESRGAN (`RRDB_trunk.`) and its first release (`model.1.sub.`) name it; Real-ESRGAN's
    compact network; the discriminators of BasicSR and Real-ESRGAN.

    Whether a compact network without slopes has leaky or plain ReLUs cannot be seen in the keys; leaky is taken.
    """
    if "conv1.weight_orig" in state and "conv9.weight" in state:
        first = state.get("conv0.weight")
        if first is None or first.ndim != 4:
            return None
        return {"channels": first.shape[1], "ndf": first.shape[0], "discriminator": "unet"}, {"D": dict(state)}
    if "conv0_0.weight" in state and "linear2.weight" in state:
        return _discriminator(state)
    if state and all(re.fullmatch(r"body\.\d{1,4}\.(weight|bias)", k) for k in state):
        return _compact(state)
    found = {_basicsr(key): tensor for key, tensor in state.items()}
    blocks = 1 + max((int(m[1]) for k in found if (m := re.match(r"body\.(\d{1,4})\.rdb1\.", k))), default=-1)
    # The first release numbered the convolution after the blocks as one more of them.
    found = {re.sub(rf"^body\.{blocks}\.(weight|bias)$", r"conv_body.\1", k): v for k, v in found.items()}
    shapes = [found.get(f"{k}.weight") for k in ("conv_first", "conv_last", "body.0.rdb1.conv1")]
    if any(t is None or t.ndim != 4 for t in shapes):
        return None
    first, last, dense = (tuple(t.shape) for t in shapes if t is not None)
    scale = {16 * last[0]: 1, 4 * last[0]: 2, last[0]: 4}.get(first[1])
    if scale is None:
        return None
    scale = 8 if scale == 4 and "conv_up3.weight" in found else scale
    cfg = {"network": "rrdb", "channels": last[0], "scale": scale, "width": first[0], "growth": dense[0]}
    return {**cfg, "num_blocks": blocks}, {"G": found}


def _basicsr(key: str) -> str:
    if key.startswith("model."):
        key = re.sub(r"^model\.1\.sub\.(\d+\.)", r"body.\1", key)
        key = re.sub(r"^(body\.\d+\.)RDB(\d\.conv\d)\.0\.", r"\1rdb\2.", key)
        return re.sub(r"^model\.(\d+)\.", lambda m: f"{_FIRST.get(m[1], m[0][:-1])}.", key)
    name, dot, rest = key.partition(".")
    return _ESRGAN.get(name, name) + dot + rest.replace("RDB", "rdb")


def _discriminator(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    stages = sum(re.fullmatch(r"conv\d_0\.weight", k) is not None for k in state)
    ends = [state.get(k) for k in ("conv0_0.weight", f"conv{stages - 1}_1.weight", "linear1.weight")]
    if [t.ndim for t in ends if t is not None] != [4, 4, 2]:
        return None
    first, last, dense = (tuple(t.shape) for t in ends if t is not None)
    resolution = math.isqrt(dense[1] // max(last[0], 1)) << stages
    cfg = {"channels": first[1], "ndf": first[0], "discriminator": "vgg", "resolution": resolution}
    return cfg, {"D": dict(state)}


def _compact(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    convs = numbered_convs(state, r"body\.(\d{1,4})\.weight")
    if len(convs) < 3:
        return None
    channels, outputs = convs[0].shape[1], convs[-1].shape[0]
    scale = math.isqrt(outputs // channels)
    if channels * scale**2 != outputs:
        return None
    slopes = any(t.ndim == 1 and k.endswith("weight") for k, t in state.items())
    cfg = {"network": "compact", "channels": channels, "scale": scale, "width": convs[0].shape[0]}
    return {**cfg, "num_blocks": len(convs) - 2, "activation": "prelu" if slopes else "leaky_relu"}, {"G": dict(state)}
