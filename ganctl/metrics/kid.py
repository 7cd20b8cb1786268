"""Kernel Inception distance: Bińkowski et al., 2018. arXiv:1801.01401."""

import numpy as np
from jaxtyping import Float

from ganctl.metrics.sides import check_sides


def kernel_distance(
    real: Float[np.ndarray, "n d"],
    fake: Float[np.ndarray, "m d"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Mean and population standard deviation, over random subsets, of the unbiased MMD² with the cubic kernel
    k(x, y) = (x·y / d + 1)³  (Bińkowski et al. 2018, section 3.1), in float64.

    Each subset is drawn without replacement, generated images first, both from one RandomState(seed): the draws of
    torch-fidelity, and with seed 0 those of clean-fid's `kernel_distance(real, fake)`. A side with fewer images than
    `subset_size` makes all subsets as small as itself. Only one subset is held in float64 at a time. Unbiased, so often
    a little below zero for equal distributions.
    Raises ValueError, with the reason as a sentence, for fewer than two images on a side or in a subset, for no
    subsets, and for features that are not finite.
    """
    check_sides(real, fake, 2, "the kernel distance")
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"the kernel distance needs subsets of 2 images or more, not {subsets} of {subset_size}")
    size = min(subset_size, len(real), len(fake))
    if size == len(real) == len(fake):
        subsets = 1  # each would hold the same images
    rng = np.random.RandomState(seed)
    found = np.empty(subsets)
    for i in range(subsets):
        x = fake[rng.choice(len(fake), size, replace=False)].astype(np.float64)
        y = real[rng.choice(len(real), size, replace=False)].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # said in a sentence below
            found[i] = squared_mmd(_cubic(x, x), _cubic(y, y), _cubic(x, y))
    if not np.isfinite(found).all():
        raise ValueError("the distance is too large for a number")
    return float(found.mean()), float(found.std())


def squared_mmd(
    k_xx: Float[np.ndarray, "n n"], k_yy: Float[np.ndarray, "m m"], k_xy: Float[np.ndarray, "n m"]
) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy from kernel matrices (Gretton et al. 2012, eq. 3): the
    means of the kernel over pairs of different points on either side, less twice its mean across.
    """

    def within(k: Float[np.ndarray, "n n"]) -> float:
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return float(within(k_xx) + within(k_yy) - 2 * k_xy.mean())


def _cubic(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    k = x @ y.T
    k /= x.shape[1]
    k += 1
    return k * k * k
