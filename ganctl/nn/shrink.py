"""The low-resolution side of super-resolution: an image made k times smaller."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def shrink(x: Float[Tensor, "n c h w"], scale: int) -> Float[Tensor, "n c h2 w2"]:
    """Images on [-1, 1] whose sides are multiples of `scale`, made that much smaller, in the same range.

    The kernel is Pillow's bicubic (a = -0.5, widened by `scale`), which is also that of the papers' Matlab; what it
    overshoots is cut off and the rest rounded to 8 bits, as in a file. No gradient passes the rounding.
    """
    small = F.interpolate(x, scale_factor=1 / scale, mode="bicubic", antialias=True).clamp(-1, 1)
    return ((small + 1) * 127.5).round() / 127.5 - 1
