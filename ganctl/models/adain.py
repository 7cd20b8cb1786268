"""AdaIN: Huang & Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, 2017. arXiv:1703.06868."""  # noqa: E501

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import MaxLen
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.nn.features.vgg import RELUS, reflected_vgg19
from ganctl.nn.layers import fixed
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 8, "ema_rampup": None}
DATA = {"pairs": "unpaired", "jitter": 256}
SIZE_FROM_DATA = False
SMALLEST = 9
"""Pixels: below, the reflected border at relu4_1 would be as wide as what it reflects."""
EPS = 1e-5


@config
class Config:
    resolution: Count = 256
    """Side of training images, cut at random from larger ones (sec. 6.1: 256 of 512); the networks take any size."""
    channels: Count = 3
    """Of content, style and result."""
    width: Count = 64
    """Channels of the encoder's first block: VGG-19 has 64, and the decoder mirrors it (sec. 5.1)."""
    layer: Literal["relu3_1", "relu4_1"] = "relu4_1"
    """Where the encoder ends and AdaIN is (fig. 2). In narrow networks the shallow one: by ReLUs and pools the deep one
    then loses half of what a picture's colours are."""
    encoder: Annotated[str, MaxLen(4096)] = "adain-vgg-normalised"
    """Whose convolutions training takes for the encoder: a zoo name, or a bundle or run of vgg."""
    style_weight: Weight = 10.0
    """λ (eq. 11), as in the PyTorch implementation whose decoder is published."""
    glr: Rate = 1e-4
    """Adam's learning rate (the authors' code) …"""
    decay: Weight = 6.25e-6
    """… over 1 + decay · images: there 5e-5 a step of 8."""

    @property
    def source_channels(self) -> int:
        """One encoder sees both."""
        return self.channels


def pools(cfg: Config) -> int:
    """Times that the encoder halves the side."""
    return 3 if cfg.layer == "relu4_1" else 2


def statistics(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 c"]:
    """μ and σ of each channel over its positions (eq. 5, 6)."""
    # Deviation: σ is the unbiased one, with 1e-5 under the root, as in the implementation whose weights are published.
    return torch.stack([x.mean((2, 3)), (x.flatten(2).var(2) + EPS).sqrt()], 1)


def adain(x: Float[Tensor, "n c h w"], style: Float[Tensor, "n 2 c"]) -> Float[Tensor, "n c h w"]:
    """σ(y) (x - μ(x)) / σ(x) + μ(y)  (eq. 8), `style` being the statistics of y."""
    (mean, std), (to_mean, to_std) = (s[..., None, None].unbind(1) for s in (statistics(x), style))
    return to_std * (x - mean) / std + to_mean


def decoder(cfg: Config) -> nn.Sequential:
    """The encoder mirrored, pools replaced by nearest up-sampling, reflection at borders, no normalisation (sec. 5.1).

    From relu4_1 modules have the numbers of the published file.
    """
    w = cfg.width
    deepest = (8 * w, 4 * w, "up", 4 * w, 4 * w) if cfg.layer == "relu4_1" else ()
    widths = (*deepest, 4 * w, 2 * w, "up", 2 * w, w, "up", w)
    layers: list[nn.Module] = []
    inputs = 0
    for width in widths:
        if width == "up":
            layers.append(nn.Upsample(scale_factor=2))
            continue
        if inputs:
            conv = nn.Conv2d(inputs, int(width), 3)
            # Without normalisation, PyTorch's own initialisation would shrink a signal by half in each layer.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [nn.ReflectionPad2d(1), conv, nn.ReLU()]
        inputs = int(width)
    last = nn.Conv2d(inputs, cfg.channels, 3)
    nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.ReflectionPad2d(1), last)


class Generator(nn.Module):
    """g(AdaIN(f(c), f(s))): VGG-19 to `layer`, which stays as it is, and the decoder. Satisfies Styled.

    A style's code is the mean and deviation of its features: the weighted mean of several is eq. 15, the mean of a
    style's and the content's own is eq. 14, both exactly.
    """

    style_prior, own_style = False, True

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source = self.target = Image(None, cfg.channels)
        self.ends = RELUS[: pools(cfg) + 1]
        self.stride = 1 << pools(cfg)
        self.encoder = fixed(reflected_vgg19(cfg.channels, cfg.width, self.ends[-1]))
        self.decoder = decoder(cfg)

    def features(self, x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """relu1_1, relu2_1, relu3_1 and relu4_1, or without the last, of images on [0, 1]."""
        found = []
        for start, end in itertools.pairwise((0, *self.ends)):
            x = self.encoder[start:end](x)
            found.append(x)
        return found

    def encode_style(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 f"]:
        """Statistics of the encoder's last layer, of images on [-1, 1] of any size: small ones are continued by their
        last row."""
        h, w = x.shape[2:]
        x = F.pad(x, (0, max(SMALLEST - w, 0), 0, max(SMALLEST - h, 0)), "replicate")
        return statistics(self.encoder((x + 1) / 2))

    def translate(
        self, x: Float[Tensor, "n c h w"], *, seed: int = 0, style: Float[Tensor, "m 2 f"] | None = None
    ) -> Float[Tensor, "n c h2 w2"]:
        """In the style told, or without one in its own. Nothing is drawn: the seed changes nothing."""
        style = self.encode_style(x) if style is None else style
        h, w = x.shape[2:]
        least = 2 * self.stride
        x = F.pad(x, (0, max(least - w, 0), 0, max(least - h, 0)), "replicate")
        t = adain(self.encoder((x + 1) / 2), style.expand(x.shape[0], -1, -1))
        return (2 * self.decoder(t) - 1)[..., :h, :w].clamp(-1, 1)


@dataclass
class Nets:
    G: Generator


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that the encoder cannot halve as often as it does."""
    halvings = pools(cfg)
    stride = 1 << halvings
    if cfg.resolution % stride or cfg.resolution < 16:
        where = f"cannot build adain for {cfg.resolution} px"
        why = f"it halves the side {'three times' if halvings == 3 else 'twice'}"
        raise UsageError(where, why, f"choose a multiple of {stride}, 16 or more")
    return Nets(Generator(cfg))


def given(cfg: Config) -> dict[str, str]:
    """The encoder of a new run (sec. 5.1: pre-trained, fixed)."""
    return {"G.encoder": cfg.encoder}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """L_c + λ L_s  (eq. 11), t being the output of AdaIN, f relu4_1 and φᵢ relu1_1 … relu4_1, or all one less:

    L_c = ‖f(g(t)) - t‖²  (eq. 12), L_s = Σᵢ ‖μ(φᵢ(g(t))) - μ(φᵢ(s))‖² + ‖σ(φᵢ(g(t))) - σ(φᵢ(s))‖²  (eq. 13).
    Deviation: means of squares in place of norms, as the authors' code.
    """
    assert b.y is not None
    with torch.no_grad():
        style = n.G.features((b.y + 1) / 2)
        t = adain(n.G.encoder((b.x + 1) / 2), statistics(style[-1]))
    made = n.G.features(n.G.decoder(t))
    # Of μ and σ together the mean is half the sum of both means.
    errors = [2 * F.mse_loss(statistics(a), statistics(s)) for a, s in zip(made, style, strict=True)]
    return {"G_content": F.mse_loss(made[-1], t), "G_style": cfg.style_weight * torch.stack(errors).sum()}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg))]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(lambda nimg, total: cfg.glr / (1 + cfg.decay * nimg))}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """naoto0804/pytorch-AdaIN: two files of bare numbers, the decoder (`1.weight` … `28.weight`) and the encoder
    (`0.weight` … `51.weight`, of which relu4_1 ends with `29`); one model takes both.
    """
    numbers = {int(m[1]) for k in state if (m := re.fullmatch(r"(\d{1,2})\.weight", k))}
    if any(not re.fullmatch(r"\d{1,2}\.(weight|bias)", k) for k in state) or not numbers:
        return None
    if numbers == {1, 5, 8, 11, 14, 18, 21, 25, 28} and state["28.weight"].ndim == 4:
        last = state["28.weight"]
        return {"channels": last.shape[0], "width": last.shape[1]}, {"G": _named("decoder", state)}
    first, second = state.get("0.weight"), state.get("2.weight")
    if first is None or second is None or first.ndim != 4 or second.ndim != 4 or 29 not in numbers:
        return None
    used = {k: v for k, v in state.items() if int(k.partition(".")[0]) < RELUS[-1]}
    return {"channels": first.shape[1], "width": second.shape[0]}, {"G": _named("encoder", used)}


def _named(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{k}": v for k, v in state.items()}
