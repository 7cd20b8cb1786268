"""Inception Score: Salimans et al., 2016. arXiv:1606.03498."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax


class ScoreSplits:
    """The Inception Score of n images, from logits that arrive in any order: memory does not grow with the features.

    Each split is a share of the images in random order, as in torch-fidelity: `RandomState(seed).permutation(n)` cut
    at ⌊i n / splits⌋; without a seed, the images in their own order.
    `sums`, float64 [splits, classes + 2], is all that is kept: per split the sum of p(y|x), then the sum of its
    negative entropy, then the number of images.
    """

    def __init__(self, n: int, *, classes: int, splits: int = 10, seed: int | None = 2020) -> None:
        """Raises ValueError, with the reason as a sentence, for fewer images than splits."""
        if splits < 1:
            raise ValueError(f"the Inception Score needs 1 split or more, not {splits}")
        if n < splits:
            raise ValueError(f"the Inception Score needs at least one image in each of {splits} splits; there are {n}")
        order = np.arange(n) if seed is None else np.random.RandomState(seed).permutation(n)
        cuts = np.arange(splits + 1) * n // splits
        self._split_of = np.empty(n, np.int32)
        self._split_of[order] = np.repeat(np.arange(splits), np.diff(cuts))
        self.sums = np.zeros((splits, classes + 2))

    def add(self, logits: Float[np.ndarray, "m classes"], positions: Int[np.ndarray, "m"]) -> None:
        """Logits of the images at these positions of the listing, each given once.

        Raises ValueError, with the reason as a sentence, for logits that are not finite or do not fit.
        """
        if logits.shape != (len(positions), self.sums.shape[1] - 2):
            raise ValueError(f"logits {logits.shape} do not fit {len(positions)} images")
        if not np.isfinite(logits).all():
            raise ValueError("logits hold NaN or infinity")
        log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
        p = np.exp(log_p)
        rows = np.hstack([p, (p * log_p).sum(1, keepdims=True), np.ones((len(p), 1))])
        np.add.at(self.sums, self._split_of[positions], rows)

    def score(self) -> tuple[float, float]:
        """Mean and population standard deviation over splits of exp(E KL(p(y|x) ‖ p(y)))  (Salimans et al. 2016,
        section 4), where images that were never added are missing from their split.

        Raises ValueError, with the reason as a sentence, when a split has no image.
        """
        count = self.sums[:, -1]
        if not count.all():
            raise ValueError(f"{np.count_nonzero(count == 0)} of {len(count)} splits have no readable image")
        q = self.sums[:, :-2] / count[:, None]
        # E KL = E Σ p log p - Σ q log q; a class that no image shows adds nothing to either.
        entropy = -(q * np.log(q, out=np.zeros_like(q), where=q > 0)).sum(1)
        scores = np.exp(self.sums[:, -2] / count + entropy)
        return float(scores.mean()), float(scores.std())


def inception_score(
    logits: Float[np.ndarray, "n classes"], *, splits: int = 10, seed: int | None = 2020
) -> tuple[float, float]:
    """Mean and population standard deviation over splits (see ScoreSplits), of logits that are all there."""
    running = ScoreSplits(len(logits), classes=logits.shape[1], splits=splits, seed=seed)
    positions = np.arange(len(logits))
    for first in range(0, len(logits), 1024):
        running.add(logits[first : first + 1024], positions[first : first + 1024])
    return running.score()
