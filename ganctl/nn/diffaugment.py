"""DiffAugment (Zhao, Liu, Lin, Zhu & Han 2020, arXiv:2006.10738): always on, for real and generated images alike."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ganctl.nn.augment import Draw

Policy = Literal["color", "translation", "cutout"]
ALL: tuple[Policy, ...] = ("color", "translation", "cutout")
"""What the paper takes for few images (sec. 4)."""
SHIFT = 1 / 8
"""Most of a side that an image is moved (sec. 3.3)."""
CUT = 1 / 2
"""Share of a side that the square takes."""


def diffaugment(x: Float[Tensor, "n c h w"], draw: Draw, policies: Sequence[Policy] = ALL) -> Float[Tensor, "n c h w"]:
    """Each image changed at random by each policy, in the order given; differentiable any number of times in x.

    x: in [-1, 1]; the answer may leave that range. All randomness is from `draw`.
    """
    change = {"color": color, "translation": translation, "cutout": cutout}
    for policy in policies:
        x = change[policy](x, draw.uniform(len(x), 3))
    return x


def color(x: Float[Tensor, "n c h w"], u: Float[Tensor, "n 3"]) -> Float[Tensor, "n c h w"]:
    """Brightness within ± 0.5, then saturation times 0 … 2, then contrast times 0.5 … 1.5."""
    brightness, saturation, contrast = u[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (contrast + 0.5)


def translation(x: Float[Tensor, "n c h w"], u: Float[Tensor, "n 3"]) -> Float[Tensor, "n c h w"]:
    """By whole pixels along both axes, 0 where nothing comes from."""
    for axis in (2, 3):
        side = x.shape[axis]
        most = int(side * SHIFT + 0.5)
        shift = whole(u[:, axis - 2], 2 * most + 1) - most
        source = torch.arange(side, device=x.device) + shift[:, None]
        inside = (source >= 0) & (source < side)
        along = (len(x), 1, side, 1) if axis == 2 else (len(x), 1, 1, side)
        index = source.clamp(0, side - 1).view(along).expand_as(x)
        x = x.gather(axis, index) * inside.view(along)
    return x


def cutout(x: Float[Tensor, "n c h w"], u: Float[Tensor, "n 3"]) -> Float[Tensor, "n c h w"]:
    """A square of half the sides set to 0; its centre is any pixel, so that it may stand over the border."""
    inside = []
    for axis in (2, 3):
        side = x.shape[axis]
        size = int(side * CUT + 0.5)
        first = whole(u[:, axis - 2], side + 1 - size % 2) - size // 2
        place = torch.arange(side, device=x.device) - first[:, None]
        inside.append((place >= 0) & (place < size))
    rows, columns = inside
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def whole(u: Float[Tensor, " n"], options: int) -> Int[Tensor, " n"]:
    """0 … options - 1, of U[0, 1)."""
    return (u * options).long().clamp(max=options - 1)
