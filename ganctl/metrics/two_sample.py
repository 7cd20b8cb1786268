"""The two-sample test by a discriminator: can a fresh classifier tell generated images from real ones?

Lopez-Paz & Oquab, 2017. arXiv:1610.06545. As a score of a generator: the course's lecture on generative models.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import expit

from ganctl.metrics.sides import check_sides

BLOCK = 64
"""Rows taken to float64 at a time: 1 MB of 2048 numbers, which stay in a core's cache for both products."""

Blocks = Callable[[], Iterator[tuple[slice, Float[np.ndarray, "rows d"]]]]


def two_sample(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], *, folds: int = 5, seed: int = 0
) -> tuple[float, float]:
    """Log loss and area under the ROC curve of a logistic regression that tells real (1) from generated (0) features,
    both of predictions for images it has not seen  (Lopez-Paz & Oquab 2017, section 3, with these statistics in place
    of accuracy). Sides that cannot be told apart give log 2 = 0.693 and 0.5; a classifier that is always right and sure
    of it 0 and 1.

    Features are standardised over both sides together, which tells nothing of a side. Each of `folds` models is tested
    on one fold of images, calibrated on the next and fitted to the others, with a ridge of d / n on standardised
    weights: d noise directions, estimated from n images, then stay small whether n is far below d or far above.
    Calibration (Platt 1999, with his smoothed targets) undoes what the ridge shrinks, so that the log loss says how
    well the sides are told apart and not how many images there are. A model that does worse than chance on its
    calibration fold, as with the same images on both sides, predicts chance. Both sides weigh the same, whatever their
    numbers. The area is the mean of the folds' areas. The folds depend on `seed` alone.
    Raises ValueError, with the reason as a sentence, for fewer images on a side than folds, fewer than 3 folds, or
    features that are not finite.
    """
    if folds < 3:
        raise ValueError(f"the two-sample test needs 3 folds or more, not {folds}")
    check_sides(real, fake, folds, f"the two-sample test in {folds} folds")
    is_real = np.repeat([1.0, 0.0], [len(real), len(fake)])
    rng = np.random.RandomState(seed)
    fold = np.concatenate([rng.permutation(len(side)) % folds for side in (real, fake)])
    after = (fold[:, None] - np.arange(folds)) % folds  # [images, models]: 0 tests the model, 1 calibrates it
    scores = _fit(_standardised(real, fake), is_real, _even(is_real, after >= 2), real.shape[1])
    losses, areas = np.empty(len(is_real)), np.empty(folds)
    for model in range(folds):
        test, calibration = after[:, model] == 0, after[:, model] == 1
        slope, shift = _calibrate(scores[calibration, model], is_real[calibration])
        z = slope * scores[test, model] + shift
        losses[test] = np.logaddexp(0, z) - is_real[test] * z
        areas[model] = roc_auc(z, is_real[test] > 0)
    log_loss = (losses[is_real > 0].mean() + losses[is_real == 0].mean()) / 2
    return float(log_loss), float(areas.mean())


def roc_auc(scores: Float[np.ndarray, "n"], positive: Int[np.ndarray, "n"]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher, equal
    scores counting half  (Hanley & McNeil 1982; the Mann-Whitney statistic, by ranks).
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = np.count_nonzero(positive)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def _even(is_real: Float[np.ndarray, "n"], used: Float[np.ndarray, "n models"]) -> Float[np.ndarray, "n models"]:
    """Weights of the images that each model uses: half of the whole for each side."""
    sides = np.stack([is_real, 1 - is_real], 1)
    per_side = sides.T @ used
    return used * (sides @ (0.5 / per_side))


def _standardised(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"]) -> Blocks:
    """Blocks of both sides in turn, in float64, each feature of mean 0 and deviation 1; constant ones are 0."""
    n = len(real) + len(fake)

    def raw() -> Iterator[tuple[slice, Float[np.ndarray, "rows d"]]]:
        for side, offset in ((real, 0), (fake, len(real))):
            for start in range(0, len(side), BLOCK):
                rows = side[start : start + BLOCK].astype(np.float64)
                yield slice(offset + start, offset + start + len(rows)), rows

    mean = sum(rows.sum(0) for _, rows in raw()) / n
    deviation = np.sqrt(sum(np.square(rows - mean).sum(0) for _, rows in raw()) / n)
    varies = deviation > 1e-6 * np.abs(mean)  # float32 features are known to 1e-7
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)

    def blocks() -> Iterator[tuple[slice, Float[np.ndarray, "rows d"]]]:
        for where, rows in raw():
            rows -= mean
            rows *= scale
            yield where, rows

    return blocks


def _fit(
    blocks: Blocks, target: Float[np.ndarray, "n"], weight: Float[np.ndarray, "n models"], d: int
) -> Float[np.ndarray, "n models"]:
    """Scores of all images under each model, the minimum of Σ weight · log loss + ridge / 2 |w|².

    The models are fitted side by side, so that one pass over the features serves them all; none depends on another.
    """
    n, models = weight.shape
    # With unequal sides, n is the number of images that two equal sides of the same information would have.
    real = target.sum()
    ridge = d * n / (4 * real * (n - real))
    scores = np.empty((n, models))

    def objective(flat: Float[np.ndarray, "parameters"]) -> tuple[float, Float[np.ndarray, "parameters"]]:
        w = flat.reshape(d + 1, models)  # the last row holds the intercepts
        loss, gradient = ridge / 2 * np.square(w[:-1]).sum(), np.zeros_like(w)
        gradient[:-1] = ridge * w[:-1]
        for where, x in blocks():
            z, t = x @ w[:-1] + w[-1], target[where, None]
            scores[where] = z
            loss += (weight[where] * (np.logaddexp(0, z) - t * z)).sum()
            residual = weight[where] * (expit(z) - t)
            gradient[:-1] += x.T @ residual
            gradient[-1] += residual.sum(0)
        return loss, gradient.ravel()

    found = minimize(objective, np.zeros((d + 1) * models), jac=True, method="L-BFGS-B", options={"gtol": 1e-4})
    objective(found.x)
    return scores


def _calibrate(scores: Float[np.ndarray, "n"], target: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """Slope, never negative, and shift that make scores log-odds: logistic regression on one number, both sides
    weighing the same, towards Platt's targets (n₁ + 1) / (n₁ + 2) and 1 / (n₀ + 2), which keep it finite.
    """
    spread = scores.std()
    if spread == 0:
        return 0.0, 0.0
    x, n = (scores - scores.mean()) / spread, target.sum()
    smooth = np.where(target > 0, (n + 1) / (n + 2), 1 / (len(target) - n + 2))
    weight = _even(target, np.ones((len(target), 1)))[:, 0]

    def objective(v: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        z = v[0] * x + v[1]
        residual = weight * (expit(z) - smooth)
        return (weight * (np.logaddexp(0, z) - smooth * z)).sum(), np.array([residual @ x, residual.sum()])

    slope, shift = minimize(objective, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return slope / spread, shift - slope * scores.mean() / spread
