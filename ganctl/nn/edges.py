"""Edges of pictures: Canny's detector (Canny, 1986), with the steps and borders of OpenCV's, and pictures without them.

CartoonGAN (Chen, Lai & Liu, 2018, sec. 3.2.1) shows D drawings whose edges were smoothed, as what drawings are not.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

LOW, HIGH = 100.0, 200.0
"""Thresholds of |∂x| + |∂y|, of grey levels up to 255 (AnimeGAN's code)."""
SIDE = 5
"""Of the square that edges are widened by, and of the Gaussian (sec. 3.2.1's steps 2 and 3; AnimeGAN's code)."""
GAUSSIAN = (1.0, 4.0, 6.0, 4.0, 1.0)
TAN_22_5 = 2**0.5 - 1
LUMA = (0.299, 0.587, 0.114)


def luma(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """ITU-R 601's of RGB; of other numbers of channels their mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


@torch.no_grad()
def canny(grey: Float[Tensor, "n 1 h w"], low: float = LOW, high: float = HIGH) -> Bool[Tensor, "n 1 h w"]:
    """Thin edges: of gradients above `low`, those that reach one above `high` through their eight neighbours."""
    kernel = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    sobel = torch.stack([kernel, kernel.T])[:, None]
    dx, dy = F.conv2d(F.pad(grey, (1, 1, 1, 1), "replicate"), sobel).split(1, 1)
    strength = dx.abs() + dy.abs()
    h, w = strength.shape[2:]
    around = F.pad(strength, (1, 1, 1, 1))

    def beside(down: int, right: int) -> Tensor:
        return around[:, :, 1 + down : 1 + down + h, 1 + right : 1 + right + w]

    flat = dy.abs() < TAN_22_5 * dx.abs()
    steep = dx.abs() < TAN_22_5 * dy.abs()
    # A gradient down to the right has its neighbours on that diagonal.
    falling = dx * dy >= 0
    ridge = torch.where(
        flat,
        (strength > beside(0, -1)) & (strength >= beside(0, 1)),
        torch.where(
            steep,
            (strength > beside(-1, 0)) & (strength >= beside(1, 0)),
            torch.where(
                falling,
                (strength > beside(-1, -1)) & (strength > beside(1, 1)),
                (strength > beside(-1, 1)) & (strength > beside(1, -1)),
            ),
        ),
    )
    weak = ridge & (strength > low)
    edge = weak & (strength > high)
    while True:
        grown = widened(edge, 3) & weak
        if torch.equal(grown, edge):
            return edge
        edge = grown


def widened(mask: Bool[Tensor, "n 1 h w"], side: int) -> Bool[Tensor, "n 1 h w"]:
    """Every pixel with one of the mask's in the square around it."""
    return F.max_pool2d(mask.float(), side, 1, side // 2) > 0


@torch.no_grad()
def without_edges(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Pictures on [-1, 1], at and near their edges seen through a Gaussian of 5 × 5 pixels, elsewhere as they are."""
    near = widened(canny(((luma(x) + 1) * 127.5).round()), SIDE)
    row = x.new_tensor(GAUSSIAN) / sum(GAUSSIAN)
    kernel = torch.outer(row, row).expand(x.shape[1], 1, SIDE, SIDE)
    blurred = F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), kernel, groups=x.shape[1])
    return torch.where(near, blurred, x)
