"""Inception-v3, the 2015-12-05 graph behind FID and the Inception score: Szegedy et al., 2015. arXiv:1512.00567.

The graph of 2015-12-05 is not the one most libraries call Inception-v3. Its average pools leave padding out of the
count, its last block pools by maximum, it has 1008 outputs, and it takes 299 x 299 images in about [-1, 1]. Parameter
names are those of the published state dict (pytorch-fid, torch-fidelity).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

DIMS = (64, 192, 768, 2048)
"""Feature sizes: after the first pool, the second pool, block 6e and the last block."""


EPS = 0.001


class StoredNorm(nn.Module):
    """Batch norm that always uses its stored statistics; the published file has no batch counter."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPS)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: bool = True):
        super().__init__()
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (k[0] // 2, k[1] // 2) if padding else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, k, stride, pad, bias=False)
        self.bn = StoredNorm(outputs)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        return F.relu(self.bn(self.conv(x)))


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _means(x: Tensor) -> Tensor:
    """Spatial means, in float32 where activations are in half precision."""
    return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


class MixedA(nn.Module):
    """35 x 35 block: 1x1, 5x5, two 3x3 and a pooled branch (fig. 5)."""

    def __init__(self, inputs: int, pool_features: int):
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvNorm(inputs, 48, 1), ConvNorm(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(inputs, 64, 1), ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3)
        self.branch_pool = ConvNorm(inputs, pool_features, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average_pool(x))], 1)


class MixedB(nn.Module):
    """35 → 17 reduction (fig. 10)."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = ConvNorm(inputs, 384, 3, 2, padding=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(inputs, 64, 1), ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, 2, padding=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class MixedC(nn.Module):
    """17 x 17 block of 1x7 and 7x1 factors (fig. 6, n = 7)."""

    def __init__(self, inputs: int, c: int):
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = ConvNorm(inputs, c, 1), ConvNorm(c, c, (1, 7))
        self.branch7x7_3 = ConvNorm(c, 192, (7, 1))
        self.branch7x7dbl_1, self.branch7x7dbl_2 = ConvNorm(inputs, c, 1), ConvNorm(c, c, (7, 1))
        self.branch7x7dbl_3, self.branch7x7dbl_4 = ConvNorm(c, c, (1, 7)), ConvNorm(c, c, (7, 1))
        self.branch7x7dbl_5 = ConvNorm(c, 192, (1, 7))
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average_pool(x))], 1)


class MixedD(nn.Module):
    """17 → 8 reduction."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = ConvNorm(inputs, 192, 1), ConvNorm(192, 320, 3, 2, padding=False)
        self.branch7x7x3_1, self.branch7x7x3_2 = ConvNorm(inputs, 192, 1), ConvNorm(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = ConvNorm(192, 192, (7, 1)), ConvNorm(192, 192, 3, 2, padding=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class MixedE(nn.Module):
    """8 x 8 block whose 3x3 branches fan out into 1x3 and 3x1 (fig. 7); `pool` is the pooled branch's rule."""

    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self.pool = pool
        self.branch1x1 = ConvNorm(inputs, 320, 1)
        self.branch3x3_1 = ConvNorm(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = ConvNorm(384, 384, (1, 3)), ConvNorm(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(inputs, 448, 1), ConvNorm(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = ConvNorm(384, 384, (1, 3)), ConvNorm(384, 384, (3, 1))
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        fan = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        fan += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *fan, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """Features and logits of 299 x 299 RGB images, already normalised by one of the protocols of `metrics.resize`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2, padding=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, padding=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, padding=False)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128)
        self.Mixed_6c = MixedC(768, 160)
        self.Mixed_6d = MixedC(768, 160)
        self.Mixed_6e = MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280, _average_pool)
        self.Mixed_7c = MixedE(2048, _max_pool)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Float[Tensor, "n 3 299 299"], dims: int = 2048) -> Float[Tensor, "n dims"]:
        """Spatial means of the block that ends in `dims` channels (one of DIMS); later blocks are not computed."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        if dims == 64:
            return _means(x)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, 2)
        if dims == 192:
            return _means(x)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        if dims == 768:
            return _means(x)
        return _means(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))))

    def logits(self, features: Float[Tensor, "n 2048"], *, bias: bool = True) -> Float[Tensor, "n 1008"]:
        """Class logits from the last features. The Inception score of the original code leaves the bias out."""
        return F.linear(features, self.fc.weight, self.fc.bias if bias else None)
