"""VGG: Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2015. arXiv:1409.1556."""  # noqa: E501

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.nn.features.vgg import reflected_vgg19, standardise
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Rate
from ganctl.spec import Image, Label

TRAIN = {"batch": 64, "ema_kimg": 2}


@config
class Config:
    resolution: Count = 64
    """Side of the images; the paper's is 224."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count = 1000
    """Those of ImageNet (sec. 2.1)."""
    width: Count = 64
    """Channels of the first block; the others have 2, 4 and 8 times as many (table 1)."""
    lr: Rate = 1e-3
    """Deviation: Adam in place of SGD with momentum (sec. 3.1)."""


class Classifier(nn.Module):
    """Configuration E (table 1) up to relu4_1, for classes of one's own: a feature network that AdaIN can be built on.

    Deviation: the mean over all positions and one linear layer stand for the fifth block and the three dense layers;
    borders are reflected, for a style transfer's pictures have none. Images are on [-1, 1].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.layers = reflected_vgg19(cfg.channels, cfg.width)
        self.dense = nn.Linear(8 * cfg.width, cfg.classes)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """relu4_1, its mean over all positions."""
        return self.layers((x + 1) / 2).mean((2, 3))

    def head(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Class logits."""
        return self.dense(features)

    def logits(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.head(self.features(x))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.logits(x)


@dataclass
class Nets:
    C: Classifier


def build(cfg: Config) -> Nets:
    return Nets(Classifier(cfg))


def prepare(n: Nets, b: Batch, cfg: Config) -> None:
    """Deviation: data-dependent initialisation, where the paper trains from shallow to deep in stages (sec. 3.1)."""
    standardise(n.C.layers, (b.x + 1) / 2)


def loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-E log p(c|x), p the softmax of the logits: multinomial logistic regression (sec. 3.1)."""
    assert b.c is not None
    return {"C_loss": F.cross_entropy(n.C(b.x), b.c)}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("C", ("C",), loss)]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"C": Adam(cfg.lr)}
