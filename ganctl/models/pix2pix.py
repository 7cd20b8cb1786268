"""pix2pix: Isola, Zhu, Zhou & Efros, Image-to-Image Translation with Conditional Adversarial Networks, 2017. arXiv:1611.07004."""  # noqa: E501

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.nn.layers import Uniform, dropout, init_normal, numbered_convs, uniform_from
from ganctl.nn.norm import NORMS, BatchNorm, without_statistics
from ganctl.nn.patchgan import PatchGAN
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 1}


@config
class Config:
    resolution: Count = 256
    """Side of training images; the networks take any multiple of 2^num_downs."""
    source_channels: Count = 3
    """Channels of the image that is translated."""
    channels: Count = 3
    """Channels of the target."""
    ngf: Count = 64
    """Width of the U-Net's first layer (appendix 6.1.1: C64)."""
    ndf: Count = 64
    """Width of PatchGAN's first layer (appendix 6.1.2: C64)."""
    num_downs: Annotated[int, Ge(2), Le(12)] = 8
    """Levels of the U-Net: 8 take 256 px to 1 px (appendix 6.1.1)."""
    n_layers: Annotated[int, Ge(1), Le(8)] = 3
    """Of PatchGAN: 3 is the 70 × 70 discriminator (appendix 6.1.2)."""
    norm: Literal["batch", "instance"] = "batch"
    """batch is the paper's (sec. 3.2); instance is its use at batch size 1 (sec. 3.3)."""
    dropout: bool = True
    """z enters as dropout alone, at training and at test time (sec. 3.2)."""
    test_time: Literal["paper", "stored"] = "paper"
    """paper: dropout stays on and batch norm uses the image's own statistics (sec. 3.3); stored: neither."""
    l1_weight: Weight = 100.0
    """λ (eq. 4): 100 (sec. 4.2)."""
    glr: Rate = 2e-4
    """Sec. 3.3: Adam, 0.0002, momenta 0.5 and 0.999."""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.5
    """Adam's first moment."""


class Level(nn.Module):
    """One level of the U-Net: down, everything below it, up; its input is appended to its output (sec. 3.2.1)."""

    def __init__(self, outer: int, inner: int, below: "Level | None", cfg: Config, *, drop: bool) -> None:
        super().__init__()
        bias = cfg.norm != "batch"
        norm = NORMS[cfg.norm]
        self.drop = drop
        down = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        middle = [norm(inner), below] if below else []
        width = 2 * inner if below else inner
        up = [nn.ReLU(), nn.ConvTranspose2d(width, outer, 4, 2, 1, bias=bias), norm(outer)]
        self.model = nn.Sequential(*down, *middle, *up)

    def forward(self, x: Float[Tensor, "n c h w"], noise: Uniform | None) -> Float[Tensor, "n c2 h w"]:
        y = x
        for layer in self.model:
            y = layer(y, noise) if isinstance(layer, Level) else layer(y)
        if self.drop and noise is not None:
            y = dropout(y, 0.5, noise)
        return torch.cat([x, y], 1)


class Outermost(nn.Module):
    """The U-Net's first and last layers: no norm at either end, tanh at the output."""

    def __init__(self, below: Level, cfg: Config) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(cfg.source_channels, cfg.ngf, 4, 2, 1, bias=cfg.norm != "batch"),
            below,
            nn.ReLU(),
            nn.ConvTranspose2d(2 * cfg.ngf, cfg.channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, x: Float[Tensor, "n c h w"], noise: Uniform | None) -> Float[Tensor, "n k h w"]:
        for layer in self.model:
            x = layer(x, noise) if isinstance(layer, Level) else layer(x)
        return x


class Generator(nn.Module):
    """The U-Net (sec. 3.2.1, appendix 6.1.1). Satisfies Translator; keys are those of the authors' PyTorch port."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.source, self.target = Image(None, cfg.source_channels), Image(None, cfg.channels)
        self.stride = 2**cfg.num_downs
        self.paper_test_time = cfg.test_time == "paper"
        self.dropout = cfg.dropout
        widths = [cfg.ngf * min(2**i, 8) for i in range(cfg.num_downs)]
        level = Level(widths[-2], widths[-1], None, cfg, drop=False)
        for i in reversed(range(1, cfg.num_downs - 1)):
            # Deviation: the decoder's three dropouts (appendix 6.1.1: CD512 three times) begin one level above the
            # innermost, as in the authors' PyTorch port and all published weights; the paper's begin with it.
            level = Level(widths[i - 1], widths[i], level, cfg, drop=cfg.dropout and i >= 4)
        self.model = Outermost(level, cfg)
        init_normal(self)
        for m in self.modules():
            if isinstance(m, BatchNorm):
                m.batch_statistics = self.paper_test_time

    def forward(self, x: Float[Tensor, "n c h w"], noise: Uniform | None = None) -> Float[Tensor, "n k h w"]:
        """`noise` None leaves dropout out."""
        return self.model(x, noise)

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h w"]:
        """Each image alone, with its own dropout mask from `seed`: the result does not depend on the batch."""
        if not self.paper_test_time:
            return self(x)
        return torch.cat([self(image[None], uniform_from(seed)) for image in x])


@dataclass
class Nets:
    G: Generator
    D: PatchGAN


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that the U-Net cannot halve, or of which PatchGAN sees no patch."""
    step = 2**cfg.num_downs
    where = f"cannot build pix2pix for {cfg.resolution} px"
    if cfg.resolution % step:
        raise UsageError(where, f"{cfg.num_downs} levels take multiples of {step} px", "choose another num_downs")
    if cfg.resolution < 3 * 2**cfg.n_layers:
        raise UsageError(where, f"n_layers = {cfg.n_layers} needs {3 * 2**cfg.n_layers} px", "choose fewer n_layers")
    D = PatchGAN(cfg.source_channels + cfg.channels, ndf=cfg.ndf, n_layers=cfg.n_layers, norm=cfg.norm)
    init_normal(D)
    return Nets(Generator(cfg), D)


def pair(b: Batch) -> tuple[Tensor, Tensor]:
    assert b.y is not None
    return b.x, b.y


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """½ max_D E log D(x, y) + E log(1 - D(x, G(x, z)))  (eq. 1; halved to slow D, sec. 3.3)."""
    x, y = pair(b)
    fake = n.G(x, p.uniform)
    return {"D_loss": 0.5 * log_loss_d(n.D(torch.cat([x, y], 1)), n.D(torch.cat([x, fake], 1)))}


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_G E log D(x, G(x, z)), and λ E ‖y - G(x, z)‖₁  (eq. 3 and 4, sec. 3.3)."""
    x, y = pair(b)
    fake = n.G(x, p.uniform)
    return {
        "G_loss": non_saturating_g(n.D(torch.cat([x, fake], 1))),
        "G_l1": cfg.l1_weight * F.l1_loss(fake, y),
    }


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), d_loss),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The authors' PyTorch port: the U-Net `model.model.1.model.3.model…`, one nesting a level, and PatchGAN `model.N`.

    Instance norms saved with running statistics by its oldest versions are read without them. Whether a batch-norm
    network had dropout cannot be seen in the keys; the authors' models have it.
    """
    if "model.0.weight" in state:
        return _patchgan(state)
    first, last = state.get("model.model.0.weight"), state.get("model.model.3.weight")
    if first is None or last is None or "model.model.1.model.1.weight" not in state:
        return None
    if first.ndim != 4 or last.ndim != 4:
        return None
    depth, prefix = 2, "model.model.1"
    while f"{prefix}.model.3.model.1.weight" in state:
        depth, prefix = depth + 1, f"{prefix}.model.3"
    batch_norm = any(re.search(r"model\.[26]\.weight$", k) and v.ndim == 1 for k, v in state.items())
    cfg = {
        "resolution": max(256, 2**depth),
        "source_channels": first.shape[1],
        "channels": last.shape[1],
        "ngf": first.shape[0],
        "num_downs": depth,
        "norm": "batch" if batch_norm else "instance",
        "dropout": batch_norm,
    }
    return cfg, {"G": dict(state) if batch_norm else without_statistics(state)}


def _patchgan(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    convs = numbered_convs(state, r"model\.(\d{1,4})\.weight")
    if len(convs) < 3 or convs[-1].shape[0] != 1 or any(c.shape[-1] != 4 for c in convs):
        return None
    batch_norm = "model.3.weight" in state
    cfg = {"ndf": convs[0].shape[0], "n_layers": len(convs) - 2, "norm": "batch" if batch_norm else "instance"}
    return cfg, {"D": dict(state) if batch_norm else without_statistics(state)}
