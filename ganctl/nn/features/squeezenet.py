"""SqueezeNet 1.1: Iandola et al., 2016. arXiv:1602.07360, with the authors' later, cheaper arrangement of its pools.

Parameter names are torchvision's. The classifier is left out: only the convolutions serve as features.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Fire(nn.Module):
    """1x1 convolutions to few channels, then 1x1 and 3x3 ones side by side (sec. 3.2)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, 1, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """The convolutions of SqueezeNet 1.1."""

    CHANNELS = (64, 128, 256, 384, 384, 512, 512)
    """Of the first ReLU, the last Fire before each pool, and the last four Fires."""
    OUTPUTS = (1, 4, 7, 9, 10, 11, 12)
    """Their places in `features`."""
    MIN_SIDE = 17
    """Of an image: of a smaller one the pools, which round up, leave nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
