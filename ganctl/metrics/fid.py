"""Fréchet distance between two Gaussians: Heusel et al., 2017. arXiv:1706.08500."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, eigvalsh, get_lapack_funcs


def frechet_distance(
    mu1: Float[np.ndarray, "d"],
    sigma1: Float[np.ndarray, "d d"],
    mu2: Float[np.ndarray, "d"],
    sigma2: Float[np.ndarray, "d d"],
) -> float:
    """d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½)  (Heusel et al. 2017, eq. 6; Dowson & Landau 1982), in float64.

    Symmetric in its two sides, and real whatever the rank. Not clipped at zero: equal sides give a tiny number of
    either sign.
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
        root = _trace_of_root(sigma1, sigma2)
        distance = float(np.square(mu1 - mu2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root)
    if not np.isfinite(distance):
        raise ValueError("the distance is too large for a number")
    return distance


def _trace_of_root(sigma1: Float[np.ndarray, "d d"], sigma2: Float[np.ndarray, "d d"]) -> float:
    """tr (Σ₁Σ₂)^½: the roots of the eigenvalues of Σ₁Σ₂, which are those of LᵀΣ₁L, where LLᵀ = Σ₂ (Cholesky).

    LAPACK's generalised symmetric problem of type 2 takes these eigenvalues alone: a tenth of the work of a matrix
    root, and never complex. It needs matrices of full rank. With fewer images than dimensions covariances are singular;
    then Σ = AAᵀ with as many columns as its rank, and tr (Σ₁Σ₂)^½ is the sum of the singular values of A₁ᵀA₂.
    """
    scale1, scale2 = (float(np.abs(sigma).max(initial=0)) for sigma in (sigma1, sigma2))
    if not (scale1 and scale2):
        return 0.0
    try:
        squares = eigvalsh(
            _scaled(sigma1, scale1), _scaled(sigma2, scale2), type=2, overwrite_a=True, overwrite_b=True, driver="gv"
        )
    except LinAlgError:
        squares = np.zeros(1)
    if squares[0] <= 0:
        product = _factor(_scaled(sigma1, scale1)).T @ _factor(_scaled(sigma2, scale2))
        wide = product if product.shape[0] <= product.shape[1] else product.T
        squares = np.maximum(np.linalg.eigvalsh(wide @ wide.T), 0)
    return float(np.sqrt(squares).sum() * np.sqrt(scale1) * np.sqrt(scale2))


def _scaled(sigma: Float[np.ndarray, "d d"], scale: float) -> Float[np.ndarray, "d d"]:
    """A new symmetric matrix of entries up to 1, in LAPACK's order of memory: no product overflows."""
    half = sigma / (2 * scale)
    return (half + half.T).T


def _factor(sigma: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """A of rank r with AAᵀ = Σ, by Cholesky with pivots down to rounding level (LAPACK's pstrf)."""
    (pstrf,) = get_lapack_funcs(("pstrf",), (sigma,))
    lower, pivots, rank, _ = pstrf(sigma, lower=1)
    factor = np.empty((len(sigma), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    if np.abs(factor @ factor.T - sigma).max() > 1e-3:
        raise ValueError("not a covariance: some of its eigenvalues are negative")
    return factor
