"""Precision, recall, density, coverage and realism over manifolds of k nearest neighbours.

Kynkäänniemi et al., 2019. arXiv:1904.06991. Naeem et al., 2020. arXiv:2002.09797.

A manifold is the union of balls, one around each point, each reaching to the point's k-th nearest neighbour, itself
not counted. Distances are squared, in float64, and made a block at a time: no matrix of all pairs is ever held. The
scores are ratios of counts, so equal distances have to compare as equal however they were computed: a distance below
rounding level is 0, and two within rounding of each other are the same.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ganctl.metrics.sides import check_sides

BLOCK = 1024
"""Rows and columns of a block of distances: 8 MB, beside 32 MB of features of 2048 numbers."""
ROUNDING = 1e-12
"""A squared distance below this part of |x|² + |y|² is rounding: hundreds of times what 2048 products leave."""
TIE = 1e-9
"""Relative difference of squared distances that are the same; features themselves are only known to 1e-7."""


def precision_recall(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], *, k: int = 3
) -> tuple[float, float]:
    """Precision: the share of generated points inside the real manifold; recall: the share of real points inside the
    generated one  (Kynkäänniemi et al. 2019, eq. 1 and 2). On the border is inside, as in the paper.

    Raises ValueError, with the reason as a sentence, for k or fewer images on a side or features that are not finite.
    """
    _check(real, fake, k, "precision and recall")
    centre = real.mean(0, dtype=np.float64)
    balls_real, balls_fake = (_radii(side, k, centre) * (1 + TIE) for side in (real, fake))
    inside_real, inside_fake = torch.zeros(len(fake), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for i, j, squared in _distances(fake, real, centre):
        inside_real[i] |= (squared <= balls_real[j]).any(1)
        inside_fake[j] |= (squared <= balls_fake[i, None]).any(0)
    return _share(inside_real), _share(inside_fake)


def density_coverage(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], *, k: int = 5
) -> tuple[float, float]:
    """Density: real balls around a generated point, on average, divided by k; coverage: the share of real balls that
    hold a generated point  (Naeem et al. 2020, section 3.1). On the border is outside, as in the authors' program, so a
    ball of radius 0 (an image with k copies of itself) holds nothing.

    Density may exceed 1. Raises ValueError as `precision_recall`.
    """
    _check(real, fake, k, "density and coverage")
    centre = real.mean(0, dtype=np.float64)
    balls = _radii(real, k, centre) * (1 - TIE)
    covered, pairs = torch.zeros(len(real), dtype=torch.bool), 0
    for _, j, squared in _distances(fake, real, centre):
        inside = squared < balls[j]
        covered[j] |= inside.any(0)
        pairs += int(inside.sum())
    return pairs / (k * len(fake)), _share(covered)


def realism(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], *, k: int = 3) -> Float[np.ndarray, "m"]:
    """How deep each generated point lies in the real manifold: the largest ratio of a real ball's radius to the point's
    distance from its middle  (Kynkäänniemi et al. 2019, the realism score of section 5). 1 or more is inside, infinity
    the middle itself. As in the paper, the half of the balls with the largest radii is left out, for those around lone
    images would take in nearly everything.

    Raises ValueError as `precision_recall`.
    """
    _check(real, fake, k, "realism")
    centre = real.mean(0, dtype=np.float64)
    balls = _radii(real, k, centre)
    balls[balls > balls.median()] = -1.0
    best = torch.zeros(len(fake), dtype=torch.float64)
    for i, j, squared in _distances(fake, real, centre):
        ratio = torch.where(squared > 0, balls[j] / squared, torch.inf)
        best[i] = torch.maximum(best[i], torch.where(balls[j] < 0, 0.0, ratio).amax(1))
    return best.sqrt().numpy()


def nearest(
    queries: Float[np.ndarray, "m d"], points: Float[np.ndarray, "n d"], count: int
) -> tuple[Int[np.ndarray, "m count"], Float[np.ndarray, "m count"]]:
    """For each query the `count` nearest points, nearest first, the earlier of equals first: indices and distances.

    Raises ValueError, with the reason as a sentence, for fewer points than `count`.
    """
    check_sides(points, queries, 1, "a nearest neighbour")
    if not 1 <= count <= len(points):
        raise ValueError(f"there are {len(points)} points to find {count} nearest among")
    best = np.full((len(queries), count), np.inf)
    index = np.zeros((len(queries), count), np.int64)
    for i, j, squared in _distances(queries, points, points.mean(0, dtype=np.float64)):
        # What was found before stands first and has the lower indices, and argmin takes the first of equals. A few
        # passes for the smallest are many times faster than a sort.
        among = np.concatenate([best[i], squared.numpy()], 1)
        columns = np.concatenate([index[i], np.broadcast_to(np.arange(j.start, j.stop), squared.shape)], 1)
        rows = np.arange(len(among))
        for place in range(count):
            at = among.argmin(1)
            best[i, place], index[i, place] = among[rows, at], columns[rows, at]
            among[rows, at] = np.inf
    return index, np.sqrt(best)


def _check(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], k: int, what: str) -> None:
    if k < 1:
        raise ValueError(f"{what} need 1 neighbour or more, not {k}")
    check_sides(real, fake, k + 1, f"{what} with {k} neighbours")


def _share(held: Tensor) -> float:
    return int(held.sum()) / len(held)


def _radii(points: Float[np.ndarray, "n d"], k: int, centre: Float[np.ndarray, "d"]) -> Float[Tensor, "n"]:
    """Squared distance from each point to its k-th nearest other one. Each block serves its rows and its columns."""
    best = torch.full((len(points), k), torch.inf, dtype=torch.float64)
    for i, j, squared in _distances(points, None, centre):
        if i == j:
            squared.fill_diagonal_(torch.inf)
        else:
            best[j] = torch.cat([best[j], squared.T], 1).topk(k, 1, largest=False).values
        best[i] = torch.cat([best[i], squared], 1).topk(k, 1, largest=False).values
    return best.amax(1)


def _distances(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"] | None, centre: Float[np.ndarray, "d"]
) -> Iterator[tuple[slice, slice, Float[Tensor, "rows columns"]]]:
    """Blocks of |x - y|² = |x|² + |y|² - 2 x·y, with their rows of `a` and columns of `b`; without `b`, those of `a`
    with itself on and above the diagonal. Taken about `centre`, so that little cancels.
    """

    def block(side: np.ndarray, start: int) -> tuple[slice, Tensor, Tensor]:
        rows = slice(start, min(start + BLOCK, len(side)))
        x = torch.from_numpy(side[rows].astype(np.float64) - centre)
        return rows, x, x.square().sum(1)

    other = a if b is None else b
    for row in range(0, len(a), BLOCK):
        i, x, xx = block(a, row)
        for column in range(0 if b is not None else row, len(other), BLOCK):
            j, y, yy = block(other, column)
            scale = xx[:, None] + yy
            squared = torch.addmm(scale, x, y.T, alpha=-2)
            squared[squared <= ROUNDING * scale] = 0.0
            yield i, j, squared
