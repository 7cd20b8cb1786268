"""Networks that take an image apart into content and style, and put one together (MUNIT, FUNIT).

Every convolution's border is reflected. The style enters as the affine numbers of instance norms (AdaIN; Huang &
Belongie 2017, arXiv:1703.06868, eq. 8).
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.nn.norm import InstanceNorm

Norm = Callable[[int], nn.Module]


def no_norm(channels: int) -> nn.Module:
    return nn.Identity()


class Conv(nn.Module):
    """A convolution, a norm, an activation. Of 4 × 4 pixels it halves the side; of others it keeps it."""

    def __init__(
        self, channels: int, out: int, kernel: int, norm: Norm = no_norm, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.border, stride = (kernel - 1) // 2, 2 if kernel == 4 else 1
        self.conv, self.norm, self.activation = nn.Conv2d(channels, out, kernel, stride), norm(out), activation()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        return self.activation(self.norm(self.conv(F.pad(x, [self.border] * 4, "reflect"))))


class Residual(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = Conv(width, width, 3, InstanceNorm), Conv(width, width, 3, InstanceNorm, nn.Identity)
        self.convs = nn.ModuleList([first, second])

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        first, second = self.convs
        return x + second(first(x))


def adain(
    x: Float[Tensor, "n c h w"], scale: Float[Tensor, "n c"], shift: Float[Tensor, "n c"]
) -> Float[Tensor, "n c h w"]:
    """γ (x - μ(x)) / σ(x) + β, statistics of each image and channel; γ and β of each image's style."""
    return F.instance_norm(x) * scale[..., None, None] + shift[..., None, None]


class StyledResidual(nn.Module):
    """x + AdaIN(conv(ReLU(AdaIN(conv(x))))). Its numbers: shift and scale of the first norm, then of the second."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([Conv(width, width, 3, activation=nn.Identity) for _ in range(2)])

    def forward(self, x: Float[Tensor, "n c h w"], numbers: Float[Tensor, "n c4"]) -> Float[Tensor, "n c h w"]:
        first, second = self.convs
        shift1, scale1, shift2, scale2 = numbers.chunk(4, 1)
        return x + adain(second(F.relu(adain(first(x), scale1, shift1))), scale2, shift2)


class LayerNorm(nn.Module):
    """(x - mean) / (std + ε) over all channels and positions of an image, γ and β for each channel (Ba et al. 2016).

    As the authors of MUNIT have it: the unbiased deviation, and ε added to it, not to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma, self.beta = nn.Parameter(torch.empty(channels).uniform_()), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        std, mean = torch.std_mean(x, (1, 2, 3), keepdim=True)
        return (x - mean) / (std + self.eps) * self.gamma[:, None, None] + self.beta[:, None, None]


def content_encoder(channels: int, width: int, downs: int, blocks: int) -> nn.Sequential:
    """c7s1-k, then d2k, d4k … and residual blocks, all with instance norms: content keeps the place of things."""
    layers: list[nn.Module] = [Conv(channels, width, 7, InstanceNorm)]
    layers += [Conv(width << i, width << i + 1, 4, InstanceNorm) for i in range(downs)]
    return nn.Sequential(*layers, nn.Sequential(*(Residual(width << downs) for _ in range(blocks))))


def style_encoder(channels: int, width: int, downs: int, style_dim: int) -> nn.Sequential:
    """c7s1-k, d2k, d4k, d4k …, the mean over all positions, a dense layer.

    No norms: they would take away the means and deviations that are the style.
    """
    widths = [width << min(i, 2) for i in range(downs + 1)]
    layers: list[nn.Module] = [Conv(channels, width, 7)]
    layers += [Conv(a, b, 4) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(widths[-1], style_dim, 1))


class Decoder(nn.Module):
    """Residual blocks with AdaIN, then twice the side and half the width (nearest neighbours, 5 × 5), c7s1-k, tanh."""

    def __init__(self, channels: int, width: int, ups: int, blocks: int, norm: Norm) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(StyledResidual(width) for _ in range(blocks))
        self.numbers = 4 * width * blocks
        """How many make up a style."""
        layers: list[nn.Module] = []
        for i in range(ups):
            layers += [nn.Upsample(scale_factor=2), Conv(width >> i, width >> i + 1, 5, norm)]
        self.up = nn.Sequential(*layers, Conv(width >> ups, channels, 7, activation=nn.Tanh))

    def forward(self, content: Float[Tensor, "n c h w"], numbers: Float[Tensor, "n m"]) -> Float[Tensor, "n k h2 w2"]:
        for block, own in zip(self.blocks, numbers.chunk(len(self.blocks), 1), strict=True):
            content = block(content, own)
        return self.up(content)


def at_least(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c h2 w2"]:
    """The image, continued by its last row and column where it is smaller than `side` pixels."""
    h, w = x.shape[2:]
    return F.pad(x, (0, max(side - w, 0), 0, max(side - h, 0)), "replicate")


def init_kaiming(net: nn.Module) -> None:
    """Weights of convolutions and dense layers from N(0, 2 / fan-in), biases 0 (He et al. 2015, eq. 10)."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
