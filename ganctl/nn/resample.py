"""Resampling by a FIR filter: zero insertion, padding, convolution, decimation, in plain PyTorch.

Every network of the StyleGAN line resamples so (Zhang 2019; Karras et al. 2019, sec. 2; 2020, appendix B): a picture
must not depend on where the pixel grid lies. All of it can be differentiated any number of times.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
"""The filter of StyleGAN2."""

Pair = int | tuple[int, int]
"""One number for both axes, or (x, y)."""
Padding = int | tuple[int, int, int, int]
"""One number for all sides, or (left, right, above, below); a negative one crops."""
Filter = Float[Tensor, " taps"] | Float[Tensor, "kh kw"]
"""One axis' taps, used along x and along y; or a whole two-dimensional filter."""


def fir_filter(taps: Sequence[float], *, separable: bool = False) -> Filter:
    """The taps normalised to sum 1: as they are where `separable`, else their outer product [k, k]."""
    f = torch.tensor(taps, dtype=torch.float32)
    f = f / f.sum()
    return f if separable else f.outer(f)


def upfirdn2d(
    x: Float[Tensor, "n c h w"],
    f: Filter,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    gain: float = 1.0,
    flip: bool = False,
) -> Float[Tensor, "n c h2 w2"]:
    """Zeros after each sample, padding or cropping, convolution with the filter, every `down`-th sample kept.

    Gives (h · up + above + below - kh) // down + 1 rows, and columns likewise. `gain` scales the whole filter. `flip`
    correlates instead of convolving. Keeps x's number format, whatever autocast is on.
    """
    return _UpFirDn.apply(x, f, _pair(up), _pair(down), _sides(padding), gain, flip)  # type: ignore[return-value]


class _UpFirDn(torch.autograd.Function):
    """The operation with its gradient, which is the operation again, up and down exchanged: so is the gradient's.

    Torch's own second derivative of a convolution for each channel takes one step per channel.
    """

    @staticmethod
    def forward(ctx, x: Tensor, f: Tensor, up: tuple, down: tuple, sides: tuple, gain: float, flip: bool) -> Tensor:  # type: ignore[override]
        taps = (f.flip(list(range(f.ndim))) if flip else f).to(x.dtype) * gain ** (f.ndim / 2)
        with torch.autocast(x.device.type, enabled=False):
            if taps.ndim == 2:
                y = _filter(x, taps, up, down, sides)
            else:
                y = _filter(x, taps[None, :], (up[0], 1), (down[0], 1), (*sides[:2], 0, 0))
                y = _filter(y, taps[:, None], (1, up[1]), (1, down[1]), (0, 0, *sides[2:]))
        ctx.save_for_backward(f)
        ctx.settings = (up, down, sides, gain, flip, x.shape[2:], y.shape[2:])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:  # type: ignore[override]
        (f,) = ctx.saved_tensors
        up, down, sides, gain, flip, (h, w), (h2, w2) = ctx.settings
        left = f.shape[-1] - 1 - sides[0], w * up[0] - w2 * down[0] + sides[0] - up[0] + 1
        above = f.shape[0] - 1 - sides[2], h * up[1] - h2 * down[1] + sides[2] - up[1] + 1
        return _UpFirDn.apply(grad, f, down, up, (*left, *above), gain, not flip), *[None] * 6  # type: ignore[misc]


def _filter(x: Tensor, taps: Tensor, up: tuple, down: tuple, sides: tuple) -> Tensor:
    """A true convolution with taps [kh, kw], the same for every channel. Zeros are never inserted to be multiplied."""
    (up_x, up_y), (down_x, down_y), (left, right, above, below) = up, down, sides
    c, (kh, kw) = x.shape[1], taps.shape
    if up_x == up_y == 1:
        weight = taps.flip(0, 1).expand(c, 1, kh, kw)
        if left == right >= 0 and above == below >= 0:
            return F.conv2d(x, weight, stride=(down_y, down_x), padding=(above, left), groups=c)
        return F.conv2d(F.pad(x, sides), weight, stride=(down_y, down_x), groups=c)
    # The transposed convolution reaches kernel - 1 samples out on either side, and lacks the last sample's zeros.
    sides = left + 1 - kw, right + up_x - kw, above + 1 - kh, below + up_y - kh
    crop_x, crop_y = max(0, -max(sides[:2])), max(0, -max(sides[2:]))
    weight = taps.expand(c, 1, kh, kw)
    y = F.conv_transpose2d(x, weight, stride=(up_y, up_x), padding=(crop_y, crop_x), groups=c)
    sides = sides[0] + crop_x, sides[1] + crop_x, sides[2] + crop_y, sides[3] + crop_y
    return (F.pad(y, sides) if any(sides) else y)[:, :, ::down_y, ::down_x]


def upsample2d(x: Float[Tensor, "n c h w"], f: Filter, *, up: int = 2) -> Float[Tensor, "n c h2 w2"]:
    """`up` times the size, the filter centred on each sample, brightness kept."""
    k = f.shape[-1]
    before, after = (k + up - 1) // 2, (k - up) // 2
    return upfirdn2d(x, f, up=up, padding=(before, after, before, after), gain=float(up**2))


def downsample2d(x: Float[Tensor, "n c h w"], f: Filter, *, down: int = 2) -> Float[Tensor, "n c h2 w2"]:
    """1 / `down` of the size, filtered first."""
    k = f.shape[-1]
    before, after = (k - down + 1) // 2, (k - down) // 2
    return upfirdn2d(x, f, down=down, padding=(before, after, before, after))


def conv_up2(
    x: Float[Tensor, "n i h w"], weight: Float[Tensor, "o i2 k k"], f: Filter, *, groups: int = 1
) -> Float[Tensor, "n o h2 w2"]:
    """Upsampling by 2, then an odd k × k convolution; computed the cheap way round.

    A true convolution, unlike `F.conv2d`: the transposed convolution of stride 2 uses the kernel as it stands, and the
    filter follows it on twice the size (Karras et al. 2020's code; zeros are never multiplied). 1 × 1 kernels go first.
    """
    k = weight.shape[-1]
    if k == 1:
        return upsample2d(F.conv2d(x, weight, groups=groups), f)
    o, i, _, _ = weight.shape
    swapped = weight.reshape(groups, o // groups, i, k, k).transpose(1, 2).reshape(groups * i, o // groups, k, k)
    x = F.conv_transpose2d(x, swapped, stride=2, groups=groups)
    # Upsampling's (taps + 1) // 2 before and (taps - 2) // 2 after, less what the kernel has added beyond its half.
    before, after = (f.shape[-1] + 1) // 2 - k // 2, (f.shape[-1] - 2) // 2 - k // 2 + 1
    return upfirdn2d(x, f, padding=(before, after, before, after), gain=4.0)


def conv_down2(x: Float[Tensor, "n i h w"], weight: Float[Tensor, "o i k k"], f: Filter) -> Float[Tensor, "n o h2 w2"]:
    """An odd k × k convolution of the filtered image, at every second pixel. Before a 1 × 1 kernel, decimation too."""
    k = weight.shape[-1]
    if k == 1:
        return F.conv2d(downsample2d(x, f), weight)
    before, after = (f.shape[-1] - 1) // 2 + k // 2, (f.shape[-1] - 2) // 2 + k // 2
    return F.conv2d(upfirdn2d(x, f, padding=(before, after, before, after)), weight, stride=2)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _sides(value: Padding) -> tuple[int, int, int, int]:
    return (value, value, value, value) if isinstance(value, int) else value
