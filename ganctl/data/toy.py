"""Points of a plane with known modes, on which a GAN can be watched: `toy:ring`, `toy:grid`.

A point is an image of one pixel with two channels, in the 256 values of any image; the plane is [-1, 1]².
"""

import numpy as np
from jaxtyping import Float

from ganctl.data import DataConfig, Dataset
from ganctl.errors import UsageError, did_you_mean, quoted

PREFIX = "toy:"
COUNT = 50_000
POINT = (1, 1, 2)
"""Height, width and channels of a point."""


def ring() -> tuple[Float[np.ndarray, "k 2"], float]:
    """Centres of eight Gaussians around a circle, and their deviation: 0.02 at a radius of 2 in the paper
    (Metz et al. 2017, arXiv:1611.02163, sec. 3.1).

    Deviation: three times as wide for its radius, so that a mode is more than two or three of the 256 values.
    """
    angles = 2 * np.pi * np.arange(8) / 8
    return 0.7 * np.stack([np.cos(angles), np.sin(angles)], 1), 0.02


def grid() -> tuple[Float[np.ndarray, "k 2"], float]:
    """Centres of 5 × 5 Gaussians and their deviation: at -4, -2, 0, 2, 4 and 0.05 in the experiments that have them
    (Srivastava et al. 2017, arXiv:1705.07761, sec. 4.1).
    """
    side = np.linspace(-0.8, 0.8, 5)
    return np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2), 0.015


TOYS = {"ring": ring, "grid": grid}


def is_toy(path: str | None) -> bool:
    return path is not None and path.startswith(PREFIX)


def modes(path: str) -> tuple[Float[np.ndarray, "k 2"], float]:
    """The centres of a toy's modes and their deviation. Raises UsageError for an unknown toy."""
    name = path.removeprefix(PREFIX)
    if name not in TOYS:
        known = [PREFIX + toy for toy in TOYS]
        raise UsageError(f"unknown toy {quoted(path)}", f"known: {', '.join(known)}", did_you_mean(path, known))
    return TOYS[name]()


def open_toy(cfg: DataConfig) -> Dataset:
    """50,000 points, or `subset` of them, of every mode alike; the same ones always."""
    assert cfg.path
    centres, deviation = modes(cfg.path)
    rng, count = np.random.default_rng(0), cfg.subset or COUNT
    points = centres[np.arange(count) % len(centres)] + deviation * rng.standard_normal((count, 2))
    pixels = np.rint((points.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return Dataset(pixels.reshape(-1, *POINT), classes=())


NEAR = 3.0
"""Deviations from a centre within which a point is of its mode (Srivastava et al. 2017, sec. 4.1)."""
RARE = 0.1
"""Of its share of the points, below which a mode counts as missing."""


def covered(points: Float[np.ndarray, "n 2"], path: str) -> dict[str, float]:
    """`missing`: share of the modes that hardly any of the points is near to; `near`: share of points near to one."""
    centres, deviation = modes(path)
    distances = np.linalg.norm(points[:, None] - centres[None], axis=2)
    near = distances.min(1) <= NEAR * deviation
    found = np.bincount(distances.argmin(1)[near], minlength=len(centres))
    missing = float((found < RARE * len(points) / len(centres)).mean())
    return {"missing": round(missing, 4), "near": round(float(near.mean()), 4)}
