"""The metrics by name, as data: which features under which protocol, and how many images."""

from dataclasses import dataclass

from ganctl.errors import UsageError, did_you_mean, quoted

INCEPTION = "inception-2015-12-05"
"""The zoo entry of FID's network."""


@dataclass(frozen=True)
class Metric:
    """A Fréchet distance over the features of one network."""

    id: str
    features: str
    """The zoo entry of the network."""
    n: int
    """Images a model draws when nothing else is asked for."""
    real: int | None = None
    """Real images compared with; None is all of them."""
    training: bool = False
    """Whether the id is one of those used while training."""

    @property
    def inception(self) -> bool:
        """Only a distance over Inception's features is called FID."""
        return self.features == INCEPTION


METRICS = {
    m.id: m
    for m in (
        Metric("fid", INCEPTION, 50_000),
        Metric("fd-lenet", "lenet-mnist", 10_000),
        Metric("fd-lenet-fashion", "lenet-fashion-mnist", 10_000),
        Metric("fid5k", INCEPTION, 5_000, real=5_000, training=True),
        Metric("fid50k_full", INCEPTION, 50_000, training=True),
    )
}


def metric(name: str, *, training: bool = True) -> Metric:
    """The metric of that id. Raises UsageError with the nearest known one, of training too unless that is False."""
    if name not in METRICS:
        known = [m.id for m in METRICS.values() if training or not m.training]
        raise UsageError(f"unknown metric {quoted(name)}", f"known: {', '.join(known)}", did_you_mean(name, known))
    return METRICS[name]


def parse_metrics(names: str) -> list[Metric]:
    """`fid,fd-lenet` as metrics, in order, none twice. Raises UsageError."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("cannot use --metrics ''", "no metric is named", "pass --metrics fid")
    return [metric(name, training=False) for name in dict.fromkeys(wanted)]
