"""A metric's numbers from what was kept of the two sides."""

from dataclasses import dataclass

from ganctl.metrics.catalog import Metric
from ganctl.metrics.fid import frechet_distance
from ganctl.metrics.kid import kernel_distance
from ganctl.metrics.precision_recall import density_coverage, precision_recall
from ganctl.metrics.statistics import Stats
from ganctl.metrics.two_sample import two_sample

PARTS = {"pr": ("precision", "recall"), "dc": ("density", "coverage"), "c2st": ("c2st_log_loss", "c2st_auc")}
"""The two numbers of a kind that has two."""


@dataclass(frozen=True)
class Score:
    name: str
    value: float
    spread: float | None = None
    """Standard deviation over subsets (kid), splits (is) or samples (ppl)."""


def names(metric: Metric) -> tuple[str, ...]:
    """What its numbers are called: `pr-vgg` gives precision-vgg and recall-vgg."""
    parts = PARTS.get(metric.kind, ())
    if metric.training:
        return tuple(f"{metric.id}_{part}" for part in parts) or (metric.id,)
    return tuple(part + metric.id.removeprefix(metric.kind) for part in parts) or (metric.id,)


def compare(
    metric: Metric, real: Stats, fake: Stats, *, kid_subsets: int = 100, kid_subset_size: int = 1000
) -> list[Score]:
    """Of a two-sided metric. Both sides keep their features if it needs them.

    Raises ValueError, with the reason as a sentence, for sides that cannot be scored.
    """
    if metric.kind == "fd":
        return [Score(metric.id, frechet_distance(real.mu, real.sigma, fake.mu, fake.sigma))]
    a, b = real.feats, fake.feats
    if a is None or b is None:
        raise ValueError("moments alone do not give it: the features themselves are needed")
    if metric.kind == "kid":
        return [Score(metric.id, *kernel_distance(a, b, subsets=kid_subsets, subset_size=kid_subset_size))]
    if metric.kind == "pr":
        pair = precision_recall(a, b, k=metric.k)
    elif metric.kind == "dc":
        pair = density_coverage(a, b, k=metric.k)
    else:
        pair = two_sample(a, b)
    return [Score(name, value) for name, value in zip(names(metric), pair, strict=True)]
