"""Structural similarity of a pair of images at one scale and at five: Wang et al., 2004 and 2003."""

import numpy as np
from jaxtyping import Float, Num

from ganctl.metrics.psnr import PEAK, STRIP, check_pair

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first: Wang et al. 2003, section 3.2."""
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def gaussian(size: int = 11, sigma: float = 1.5) -> Float[np.ndarray, "size"]:
    """A window of Gaussian weights that sum to 1; the papers' has 11 of σ = 1.5 in each direction."""
    at = np.arange(size) - (size - 1) / 2
    weights = np.exp(-np.square(at) / (2 * sigma**2))
    return weights / weights.sum()


WINDOW = gaussian()


def ssim(x: Num[np.ndarray, "h w c"], y: Num[np.ndarray, "h w c"], window: np.ndarray = WINDOW) -> float:
    """Mean SSIM of pixels 0..255 (Wang et al. 2004, eq. 13 and 17), in float64, at most 1 and symmetric.

    The window lies wholly inside the image, channels are scored alone and averaged: MATLAB's and BasicSR's convention.
    Raises ValueError, with the reason as a sentence, for shapes that differ, a side smaller than the window, and
    values that are not finite.
    """
    return float(similarity(x, y, window)[0].mean())


def ms_ssim(x: Num[np.ndarray, "h w c"], y: Num[np.ndarray, "h w c"], window: np.ndarray = WINDOW) -> float:
    """Mean multi-scale SSIM of pixels 0..255 (Wang et al. 2003, eq. 7), in float64.

    Between two of the five scales each 2 x 2 pixels become their mean. As in the authors' code and in pytorch-msssim,
    the luminance of the coarsest scale is averaged together with its contrast and structure, and a negative mean,
    which has no fractional power, counts as 0. A side of odd length gets a line of zeros in front, which is
    pytorch-msssim's rule (the authors' mirrors the last line).
    Raises ValueError, with the reason as a sentence, as `ssim` does, and for a side of 160 pixels or fewer: the
    coarsest scale would be smaller than the window.
    """
    check_pair(x, y)
    need = (len(window) - 1) * 2 ** (len(WEIGHTS) - 1)
    h, w = x.shape[:2]
    if min(h, w) <= need:
        raise ValueError(f"ms-ssim needs images of more than {need} pixels at each side, these are {w}x{h}")
    product = np.ones(x.shape[2])
    for scale, weight in enumerate(WEIGHTS, 1):
        whole, contrast_structure = similarity(x, y, window)
        product *= np.maximum(whole if scale == len(WEIGHTS) else contrast_structure, 0) ** weight
        if scale < len(WEIGHTS):
            x, y = halved(x), halved(y)
    return float(product.mean())


def similarity(
    x: Num[np.ndarray, "h w c"],
    y: Num[np.ndarray, "h w c"],
    window: Float[np.ndarray, "size"] = WINDOW,
    constants: tuple[float, float] = (C1, C2),
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Means over the image, per channel, of SSIM and of its contrast-structure factor (Wang et al. 2004, eq. 13).

    `window` is one direction of a separable, symmetric window of odd length, `constants` are C₁ and C₂.
    """
    check_pair(x, y)
    size = len(window)
    h, w = x.shape[0] - size + 1, x.shape[1] - size + 1
    if min(h, w) < 1:
        raise ValueError(f"ssim needs images of at least {size}x{size} pixels, these are {x.shape[1]}x{x.shape[0]}")
    rows = max(8, STRIP // x[0].size)
    sums = np.zeros((2, x.shape[2]))
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        for top in range(0, h, rows):
            a, b = (image[top : top + rows + size - 1].astype(np.float64) for image in (x, y))
            sums += _strip(a, b, window, *constants)
    if not np.isfinite(sums).all():
        raise ValueError("the images hold NaN or infinity")
    whole, contrast_structure = sums / (h * w)
    return whole, contrast_structure


def _strip(a: np.ndarray, b: np.ndarray, window: np.ndarray, c1: float, c2: float) -> tuple[np.ndarray, np.ndarray]:
    """The sums, per channel, of which `similarity` is the means."""
    # Both variances only ever appear as their sum.
    mu_a, mu_b, squares, product = _filtered(np.stack([a, b, a * a + b * b, a * b]), window)
    means, mean_squares = mu_a * mu_b, mu_a * mu_a + mu_b * mu_b
    contrast_structure = (2 * (product - means) + c2) / (squares - mean_squares + c2)
    luminance = (2 * means + c1) / (mean_squares + c1)
    return (luminance * contrast_structure).sum((0, 1)), contrast_structure.sum((0, 1))


def _filtered(maps: Float[np.ndarray, "k h w c"], window: Float[np.ndarray, "size"]) -> np.ndarray:
    """Weighted means under the window in both directions, where it lies wholly inside."""
    r = len(window) // 2
    for axis in (1, 2):
        shifted = np.moveaxis(maps, axis, 0)
        size = len(shifted) - 2 * r
        total = shifted[r : r + size] * window[r]
        pair = np.empty_like(total)
        for k in range(r):
            np.add(shifted[k : k + size], shifted[2 * r - k : 2 * r - k + size], out=pair)
            pair *= window[k]
            total += pair
        maps = np.moveaxis(total, 0, axis)
    return maps


def halved(x: Num[np.ndarray, "h w c"]) -> Float[np.ndarray, "h/2 w/2 c"]:
    """Means of each 2 x 2 pixels, a zero line in front of an odd side."""
    if x.shape[0] % 2 or x.shape[1] % 2:
        x = np.pad(x, ((x.shape[0] % 2, 0), (x.shape[1] % 2, 0), (0, 0)))
    total = np.add(x[::2, ::2], x[1::2, ::2], dtype=np.float64)
    total += x[::2, 1::2]
    total += x[1::2, 1::2]
    total /= 4
    return total
