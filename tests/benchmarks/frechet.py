"""The Fréchet distance from two sets of moments: ganctl beside pytorch-fid, which goes over scipy.linalg.sqrtm.

    python -m tests.benchmarks.frechet [DIMS]

Moments of 2048 dimensions unless said. Printed are seconds, the median ratio of rounds with least and largest, and the
relative difference of the values, with more images than dimensions and with fewer. Needs pytorch-fid.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from ganctl.metrics.fid import frechet_distance
from tests.parity.peers import peers, quiet

ROUNDS = 3
Moments = tuple[np.ndarray, np.ndarray]


def moments(seed: int, n: int, d: int) -> Moments:
    """Of non-negative features whose variances fall over four decades, as Inception's do; sides differ by `seed`."""
    mixing = np.random.default_rng(9).standard_normal((d, d)) * np.logspace(0, -2, d)[:, None] / d**0.5
    x = np.random.default_rng(seed).standard_normal((n, d)) @ mixing + 0.1 * seed
    return np.maximum(x, 0).mean(0), np.cov(np.maximum(x, 0), rowvar=False)


def timed(work: Callable[..., float], a: Moments, b: Moments) -> tuple[float, float]:
    begun = time.perf_counter()
    with quiet():
        value = float(work(*a, *b))
    return time.perf_counter() - begun, value


def main() -> None:
    d = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    theirs = peers().pytorch_fid.calculate_frechet_distance
    for what, n in (("more images than dimensions", 4 * d), ("fewer", d // 2)):
        a, b = moments(1, n, d), moments(2, n, d)
        rounds = [(timed(frechet_distance, a, b), timed(theirs, a, b)) for _ in range(ROUNDS)]
        ours, other = ([r[k][0] for r in rounds] for k in (0, 1))
        ratios = [y / x for x, y in zip(ours, other, strict=True)]
        value, wanted = rounds[0][0][1], rounds[0][1][1]
        print(f"{what}: {n} images, {d} dimensions, {ROUNDS} rounds")
        print(f"  ganctl {statistics.median(ours):.2f} s   pytorch-fid {statistics.median(other):.2f} s", end="   ")
        print(f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})")
        print(f"  {value:.9f} and {wanted:.9f}, relative difference {abs(value / wanted - 1):.1e}")


if __name__ == "__main__":
    main()
