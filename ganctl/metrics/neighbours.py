"""How near real images are to each other: the measure of how near generated ones come to them."""

import numpy as np
from jaxtyping import Float, Int

from ganctl.metrics.precision_recall import nearest

MOST = 5000
"""Points of a side that are looked at."""
LEAST = 500
PRODUCTS = 2e11
"""Multiplications that a search may take, some ten seconds on two cores; at least LEAST points are looked at."""


def spacing(
    real: Float[np.ndarray, "n d"], images: Int[np.ndarray, "n"], rows: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "m"]:
    """Distance from each of these rows to the nearest row of another image, `images` telling which image a row is of.

    Raises ValueError, with the reason as a sentence, where all rows are of one image.
    """
    views = int(np.bincount(images).max())
    if views == len(real):
        raise ValueError("there is one real image, and no other to compare it with")
    index, distance = nearest(real[rows], real, views + 1)
    other = images[index] != images[rows, None]
    return distance[np.arange(len(rows)), other.argmax(1)]


def closer(distance: Float[np.ndarray, "m"], spacing: Float[np.ndarray, "n"], share: float = 0.99) -> np.ndarray:
    """Bool [m]: whether a distance is below that share of the spacings."""
    ordered = np.sort(spacing)
    return len(ordered) - np.searchsorted(ordered, distance, side="right") >= share * len(ordered)


def drawn(n: int, others: int, dims: int, rng: np.random.Generator) -> Int[np.ndarray, "m"]:
    """Rows of n to search neighbours of among `others` points, in order: all, or as many as take some seconds."""
    most = int(min(MOST, max(LEAST, PRODUCTS // (others * dims))))
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
