"""Fréchet distance between two Gaussians: Heusel et al., 2017. arXiv:1706.08500."""

import numpy as np
from jaxtyping import Float


def frechet_distance(
    mu1: Float[np.ndarray, "d"],
    sigma1: Float[np.ndarray, "d d"],
    mu2: Float[np.ndarray, "d"],
    sigma2: Float[np.ndarray, "d d"],
) -> float:
    """d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½)  (Heusel et al. 2017, eq. 6; Dowson & Landau 1982), in float64.

    The trace of the root is the sum of the singular values of Σ₁^½ Σ₂^½, which is real whatever the rank: with fewer
    images than dimensions the covariances are singular, and only the directions they span are multiplied. Symmetric
    in its two sides. Not clipped at zero: equal sides give a tiny number of either sign.
    Raises ValueError, with the reason as a sentence, for arrays that do not fit together, are not finite, or are no
    covariances, and for a distance too large for a number.
    """
    mu1, mu2 = np.asarray(mu1, np.float64), np.asarray(mu2, np.float64)
    sigma1, sigma2 = np.asarray(sigma1, np.float64), np.asarray(sigma2, np.float64)
    d = mu1.size
    if mu1.shape != (d,) or mu2.shape != (d,) or sigma1.shape != (d, d) or sigma2.shape != (d, d):
        raise ValueError(f"shapes do not fit: {mu1.shape}, {sigma1.shape} and {mu2.shape}, {sigma2.shape}")
    if not all(np.isfinite(a).all() for a in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("statistics hold NaN or infinity")
    with np.errstate(over="ignore", invalid="ignore"):
        product = _root(sigma1).T @ _root(sigma2)
        root = np.linalg.svd(product, compute_uv=False).sum() if np.isfinite(product).all() else np.inf
        distance = float(np.square(mu1 - mu2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root)
    if not np.isfinite(distance):
        raise ValueError("the distance is too large for a number")
    return distance


def _root(sigma: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """A factor A of rank r with A Aᵀ = Σ, from the eigenvalues above rounding level."""
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    top = values[-1] if values.size else 0.0
    if values.size and -values[0] > 1e-3 * max(top, 0.0) + 1e-12:
        raise ValueError(f"not a covariance: an eigenvalue is {values[0]:.3g}, the largest {top:.3g}")
    kept = values > top * values.size * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
