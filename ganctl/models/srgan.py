"""SRGAN: Ledig et al., Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network, 2017. arXiv:1609.04802."""  # noqa: E501

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.losses.perceptual import VGG19, Perceptual
from ganctl.nn.layers import for_pictures
from ganctl.nn.norm import BatchNorm
from ganctl.nn.shrink import shrink
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

DATA = {"crop": "random"}
TRAIN = {"batch": 16}


@config
class Config:
    resolution: Count = 96
    """Side of the high-resolution images of training (sec. 3.2: 96)."""
    channels: Count = 3
    """Of images, on both sides."""
    network: Literal["paper", "modified"] = "paper"
    """paper: SRResNet (fig. 4); modified: that of OpenMMLab, without batch norms, added to the enlarged input."""
    scale: Literal[2, 4, 8] = 4
    """How much larger the output is (sec. 3.1: 4); of the modified network 2 or 4."""
    width: Count = 64
    """Channels of the generator (sec. 2.1: 64)."""
    num_blocks: Count = 16
    """Residual blocks, B (sec. 3.2: 16)."""
    trunk: Literal["norm", "prelu"] = "norm"
    """What follows the convolution after the blocks: batch norm (fig. 4), or PReLU as in a published set of weights; of
    the paper's network."""
    ndf: Count = 64
    """Channels of the discriminator's first layer (sec. 2.1: 64)."""
    # Deviation: the paper's SRGAN is vgg54. The weights of that network are not ours to ship, so mse needs no asking.
    content: Literal["mse", "vgg22", "vgg54"] = "mse"
    """The content loss (sec. 3.4): the squared error of pixels (eq. 4), or of VGG-19's φ2,2 or φ5,4 (eq. 5)."""
    adversarial_weight: Weight = 1e-3
    """Of the adversarial loss (eq. 3). 0 trains G by the content loss alone: SRResNet, from which the adversarial
    training begins (sec. 3.2), by `init_from`."""
    glr: Rate = 1e-4
    """Sec. 3.2: 10⁻⁴, of SRResNet all the time; for the second half of SRGAN's training a tenth of it."""
    dlr: Rate = 1e-4
    """The same for D."""
    beta1: Moment = 0.9
    """Adam's first moment (sec. 3.2)."""


class Residual(nn.Module):
    """x + BN(conv(PReLU(BN(conv(x)))))  (fig. 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1), BatchNorm(width)
        self.prelu = nn.PReLU()
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1), BatchNorm(width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class Doubling(nn.Module):
    """A sub-pixel convolution (sec. 2.1): four times the channels, shuffled into twice the sides, PReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.prelu = nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return self.prelu(F.pixel_shuffle(self.conv(x), 2))


class Generator(nn.Module):
    """SRResNet (fig. 4). Satisfies Translator: the output is `scale` times larger."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source = self.target = Image(None, cfg.channels)
        self.stride, self.scale = 1, cfg.scale
        doublings = int(math.log2(cfg.scale))
        up = sum(2.0**-i for i in range(doublings)) + 4 / cfg.scale
        self.halo = 4 + 2 * cfg.num_blocks + 1 + math.ceil(up)
        """Source pixels beyond which an output pixel of a trained network depends on nothing."""
        self.head = nn.Sequential(nn.Conv2d(cfg.channels, cfg.width, 9, 1, 4), nn.PReLU())
        self.blocks = nn.Sequential(*(Residual(cfg.width) for _ in range(cfg.num_blocks)))
        after = BatchNorm(cfg.width) if cfg.trunk == "norm" else nn.PReLU()
        self.trunk = nn.Sequential(nn.Conv2d(cfg.width, cfg.width, 3, 1, 1), after)
        self.up = nn.Sequential(*(Doubling(cfg.width) for _ in range(doublings)))
        self.last = nn.Conv2d(cfg.width, cfg.channels, 9, 1, 4)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Low resolution on [0, 1] to high resolution on [-1, 1], the ranges of sec. 3.2."""
        x = self.head(x)
        # Deviation: fig. 4 ends in a convolution; tanh, which bounds the output, is that of all published weights.
        return self.last(self.up(x + self.trunk(self.blocks(x)))).tanh()

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n c h2 w2"]:
        """Images on [-1, 1], `scale` times larger. Nothing is drawn: the seed changes nothing."""
        return self((for_pictures(x) + 1) / 2)


class PlainResidual(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.conv2(self.conv1(x).relu())


class ModifiedGenerator(nn.Module):
    """MSRResNet of MMEditing: what is drawn is added to the input, enlarged bilinearly. Satisfies Translator.

    Keys are MMEditing's.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source = self.target = Image(None, cfg.channels)
        self.stride, self.scale, w = 1, cfg.scale, cfg.width
        doublings = int(math.log2(cfg.scale))
        self.halo = 1 + 2 * cfg.num_blocks + math.ceil(sum(2.0**-i for i in range(doublings)) + 2 / cfg.scale)
        """Source pixels beyond which an output pixel depends on nothing."""
        self.conv_first = nn.Conv2d(cfg.channels, w, 3, 1, 1)
        self.trunk_net = nn.Sequential(*(PlainResidual(w) for _ in range(cfg.num_blocks)))
        self.upsamples = [f"upsample{i + 1}" for i in range(doublings)]
        for name in self.upsamples:
            self.add_module(name, nn.ModuleDict({"upsample_conv": nn.Conv2d(w, 4 * w, 3, 1, 1)}))
        self.conv_hr, self.conv_last = nn.Conv2d(w, w, 3, 1, 1), nn.Conv2d(w, cfg.channels, 3, 1, 1)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)
                nn.init.zeros_(m.bias)  # type: ignore[arg-type]
                with torch.no_grad():
                    # Residual networks train more easily when their first variance is smaller (MMEditing: 0.1).
                    m.weight.mul_(0.1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Images on [0, 1] to larger ones, about on [0, 1]: nothing bounds them."""
        plain = F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        x = self.trunk_net(F.leaky_relu(self.conv_first(x), 0.1))
        for name in self.upsamples:
            x = F.pixel_shuffle(self.get_submodule(f"{name}.upsample_conv")(x), 2)
        return plain + self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n c h2 w2"]:
        """Images on [-1, 1], `scale` times larger; what goes beyond is for the caller to cut off. Nothing is drawn."""
        return 2 * self((for_pictures(x) + 1) / 2) - 1


class Discriminator(nn.Module):
    """Eight convolutions, every second of stride 2, then two dense layers (sec. 2.1, fig. 4). Returns logits."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(cfg.channels, cfg.ndf, 3, 1, 1), nn.LeakyReLU(0.2)]
        width = cfg.ndf
        for i in range(1, 8):
            wider = cfg.ndf * 2 ** (i // 2)
            layers += [nn.Conv2d(width, wider, 3, 1 + i % 2, 1), BatchNorm(wider), nn.LeakyReLU(0.2)]
            width = wider
        # Deviation: the dense layers see the mean over all positions, so that D takes any size, as in the PyTorch
        # implementation whose weights are published; fig. 4 lays out every position.
        layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2 * width, 1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(2 * width, 1, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        return self.net(x).flatten()


FEATURES = {"vgg22": "relu2_2", "vgg54": "relu5_4"}
"""φi,j: the j-th convolution before the i-th pool, after its activation (sec. 2.2.1)."""


@dataclass
class Nets:
    G: Generator | ModifiedGenerator
    D: Discriminator
    vgg: Perceptual | None = None
    """φ of eq. 5."""


def build(cfg: Config) -> Nets:
    """Raises UsageError for training images that cannot be made `scale` times smaller, and a scale G has not."""
    if cfg.network == "modified" and cfg.scale == 8:
        raise UsageError("cannot build srgan for scale 8", "the modified network enlarges by 2 or 4", "--set scale=4")
    if cfg.resolution % cfg.scale:
        where = f"cannot build srgan for {cfg.resolution} px"
        raise UsageError(where, f"the side must be a multiple of the scale, {cfg.scale}", "choose another --resolution")
    G = (Generator if cfg.network == "paper" else ModifiedGenerator)(cfg)
    return Nets(G, Discriminator(cfg), None if cfg.content == "mse" else Perceptual({FEATURES[cfg.content]: 0.006}))


def given(cfg: Config) -> dict[str, str]:
    """VGG-19, where the content loss is of its features."""
    return {} if cfg.content == "mse" else {"vgg.features": VGG19}


def enlarged(n: Nets, b: Batch) -> Tensor:
    """G of the batch made smaller: sec. 3.2 makes low resolution by a bicubic kernel."""
    return n.G.translate(shrink(b.x, n.G.scale))


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """max_D E log D(I_HR) + E log(1 - D(G(I_LR)))  (eq. 2)."""
    return {"D_loss": log_loss_d(n.D(b.x), n.D(enlarged(n, b)))}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """min_G l_X, and -10⁻³ E log D(G(I_LR))  (eq. 3 and 6), where l_X is ‖I_HR - G(I_LR)‖² / pixels (eq. 4) or, 0.006
    times (sec. 3.2), ‖φ(I_HR) - φ(G(I_LR))‖² / numbers (eq. 5).

    Deviation: without the total variation of weight 2·10⁻⁸ that SRResNet-VGG22 has beside (sec. 3.4).
    """
    made = enlarged(n, b)
    if n.vgg is None:
        terms = {"G_mse": F.mse_loss(made, b.x)}
    else:
        terms = {"G_vgg": n.vgg.distance(made, b.x, F.mse_loss)}
    if cfg.adversarial_weight:
        terms["G_loss"] = cfg.adversarial_weight * non_saturating_g(n.D(made))
    return terms


def phases(cfg: Config) -> list[Phase]:
    g = Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg))
    return [Phase("D", ("D",), d_loss), g] if cfg.adversarial_weight else [g]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    if not cfg.adversarial_weight:
        return {"G": Adam(cfg.glr, cfg.beta1)}
    return {
        "G": Adam(lambda nimg, total: cfg.glr if 2 * nimg < total else cfg.glr / 10, cfg.beta1),
        "D": Adam(lambda nimg, total: cfg.dlr if 2 * nimg < total else cfg.dlr / 10, cfg.beta1),
    }


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """leftthomas/SRGAN: G's `block1`, `block2` … of which the last two are trunk and tail, and D's `net.N`; MMEditing's
    MSRResNet (`trunk_net.N`).

    Its weights have a PReLU where the paper and its later code have the trunk's batch norm.
    """
    first = state.get("net.0.weight")
    if first is not None and "net.26.weight" in state:
        return ({"channels": first.shape[1], "ndf": first.shape[0]}, {"D": dict(state)}) if first.ndim == 4 else None
    if "trunk_net.0.conv1.weight" in state:
        return _modified(state)
    first = state.get("block1.0.weight")
    blocks = sum(re.fullmatch(r"block\d{1,3}\.conv1\.weight", k) is not None for k in state)
    trunk, tail = f"block{blocks + 2}.", f"block{blocks + 3}."
    doublings = sum(k.startswith(tail) and k.endswith(".conv.weight") for k in state)
    if first is None or first.ndim != 4 or not 1 <= doublings <= 3 or not blocks:
        return None
    cfg = {
        "channels": first.shape[1],
        "width": first.shape[0],
        "num_blocks": blocks,
        "scale": 2**doublings,
        "trunk": "norm" if f"{trunk}1.running_mean" in state else "prelu",
    }
    names = {"block1.": "head.", trunk: "trunk.", f"{tail}{doublings}.": "last.", tail: "up."}
    names |= {f"block{i + 2}.": f"blocks.{i}." for i in range(blocks)}
    found = {}
    for key, tensor in state.items():
        old = next((name for name in names if key.startswith(name)), "")
        found[names.get(old, "") + key.removeprefix(old)] = tensor
    return cfg, {"G": found}


def _modified(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    first, up = state.get("conv_first.weight"), state.get("upsample1.upsample_conv.weight")
    blocks = sum(re.fullmatch(r"trunk_net\.\d{1,4}\.conv1\.weight", k) is not None for k in state)
    if first is None or up is None or first.ndim != 4 or up.ndim != 4 or up.shape[0] != 4 * first.shape[0]:
        return None
    cfg = {
        "network": "modified",
        "channels": first.shape[1],
        "width": first.shape[0],
        "num_blocks": blocks,
        "scale": 4 if "upsample2.upsample_conv.weight" in state else 2,
    }
    return cfg, {"G": dict(state)}
