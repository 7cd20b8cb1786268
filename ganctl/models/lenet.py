"""LeNet-5: LeCun, Bottou, Bengio & Haffner, Gradient-Based Learning Applied to Document Recognition, 1998."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Rate
from ganctl.spec import Image, Label

TRAIN = {"batch": 100}


@config
class Config:
    resolution: Count = 28
    """Side of the images, enlarged to the paper's 32."""
    channels: Count = 1
    """1 grey, 3 colour."""
    classes: Count = 10
    """Digits (sec. III.A)."""
    lr: Rate = 1e-3
    """Deviation: Adam and cross-entropy in place of stochastic diagonal Levenberg-Marquardt (sec. III)."""


class Classifier(nn.Module):
    """C1, S2, C3, S4, C5, F6 and the output (sec. II.B); a small feature network for Fréchet distances on digits.

    Deviation: ReLU, max pooling and a full C3, as all present ports have it. Images are 28 × 28 in [-1, 1], enlarged
    to the paper's 32 × 32.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.c1 = nn.Conv2d(cfg.channels, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.f7 = nn.Linear(84, cfg.classes)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 84"]:
        """The 84 units of F6, after their ReLU."""
        y = F.interpolate((x + 1) / 2, (32, 32), mode="bilinear")
        y = F.max_pool2d(F.relu(self.c1(y)), 2)
        y = F.max_pool2d(F.relu(self.c3(y)), 2)
        y = F.relu(self.c5(y)).flatten(1)
        return F.relu(self.f6(y))

    def head(self, features: Float[Tensor, "n 84"]) -> Float[Tensor, "n k"]:
        """Class logits: the output layer."""
        return self.f7(features)

    def logits(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.head(self.features(x))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.logits(x)


@dataclass
class Nets:
    C: Classifier


def build(cfg: Config) -> Nets:
    return Nets(Classifier(cfg))


def loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-E log p(c|x), p the softmax of the logits."""
    assert b.c is not None
    return {"C_loss": F.cross_entropy(n.C(b.x), b.c)}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("C", ("C",), loss)]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"C": Adam(cfg.lr)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The layout with `convnet.c1 … convnet.c5`, `fc.f6`, `fc.f7`."""
    first, last = state.get("convnet.c1.weight"), state.get("fc.f7.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        return None
    cfg = {"channels": first.shape[1], "classes": last.shape[0]}
    return cfg, {"C": {k.removeprefix("convnet.").removeprefix("fc."): v for k, v in state.items()}}
