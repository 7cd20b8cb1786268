"""Peak signal-to-noise ratio of a pair of images, and what super-resolution papers do to a pair before any score."""

import math

import numpy as np
from jaxtyping import Float, Num

PEAK = 255.0
STRIP = 50_000
"""Numbers compared at a time: they stay in the processor's cache, and memory does not grow with the image."""
LUMA = (65.481, 128.553, 24.966)
"""ITU-R BT.601 in studio swing: the weights of R, G and B, each 0..1."""


def psnr(x: Num[np.ndarray, "h w c"], y: Num[np.ndarray, "h w c"]) -> float:
    """10 log₁₀(255² / MSE) in dB, of pixels 0..255 (uint8 or float), the mean being over all pixels and channels.

    Symmetric. Equal images give `math.inf`; nothing is added to the error to avoid it. Raises ValueError, with the
    reason as a sentence, for shapes that differ and for values that are not finite.
    """
    check_pair(x, y)
    rows, total = max(1, STRIP // x[0].size), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for top in range(0, len(x), rows):
            strip = slice(top, top + rows)
            total += float(np.square(np.subtract(x[strip], y[strip], dtype=np.float64)).sum())
    error = total / x.size
    if not math.isfinite(error):
        raise ValueError("the images hold NaN or infinity")
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def luma(rgb: Num[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 1"]:
    """Y = 16 + 65.481 R + 128.553 G + 24.966 B, R, G and B being 0..1: float64 in 16..235, not rounded.

    The Y of MATLAB's rgb2ycbcr before its rounding, and so of the super-resolution papers; BasicSR's in float64.
    """
    y = np.full((*rgb.shape[:2], 1), 16.0)
    for k, weight in enumerate(LUMA):
        y += rgb[..., k : k + 1] * (weight / PEAK)
    return y


def shave(x: Num[np.ndarray, "h w c"], border: int) -> Num[np.ndarray, "h-2*border w-2*border c"]:
    """Without `border` pixels at each side. Papers shave as many as the scale, before any conversion.

    Raises ValueError, with the reason as a sentence, when nothing would be left.
    """
    h, w = x.shape[:2]
    if min(h, w) <= 2 * border:
        raise ValueError(f"a border of {border} pixels at each side leaves nothing of {w}x{h}")
    return x[border : h - border, border : w - border]


def check_pair(x: np.ndarray, y: np.ndarray) -> None:
    """Raises ValueError for arrays that are not two images [H, W, C] of one shape, with pixels."""
    if x.shape != y.shape:
        raise ValueError(f"the images differ in shape: {x.shape} and {y.shape}")
    if x.ndim != 3 or not x.size:
        raise ValueError(f"an image is [height, width, channels], not {x.shape}")
