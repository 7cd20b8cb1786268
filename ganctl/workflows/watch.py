"""What a training run watches beside its losses: how varied its samples are, and what its log gives reason to fear."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.workflows.pictures import STEP, samples
from ganctl.workflows.recipe import Recipe
from ganctl.workflows.report import read_log

if TYPE_CHECKING:
    import numpy as np

    from ganctl.data import Dataset
    from ganctl.metrics.features import Extractor
    from ganctl.train.diagnosis import Finding

WEIGHTS = Path(__file__).parents[1] / "weights"
REALS = 5000
"""Training images that are looked at at most."""
SAMPLES, LEAST, SIDE = 256, 32, 64
"""Samples: 256 of up to 64 px, fewer of larger ones, 32 at least: half of what the sample grid shows."""


class Watch:
    """Numbers of `metrics.variety` over a small built-in classifier. The real side is looked at once."""

    def __init__(self, recipe: Recipe, data: "Dataset") -> None:
        self.recipe, self.data = recipe, data
        self.real: tuple[np.ndarray, np.ndarray] | None = None

    def look(self, net: Any) -> dict[str, float]:
        """Of the sampler's first seeds; empty for networks that draw no samples."""
        from ganctl.data import evenly
        from ganctl.data.toy import covered
        from ganctl.metrics.variety import variety
        from ganctl.workflows.plane import SHOWN, points_of

        if not hasattr(net, "sample"):
            return {}
        if net.x.is_point:
            assert self.recipe.data.path
            return covered(points_of(net, SHOWN, next(net.parameters()).device), self.recipe.data.path)
        extractor = self._classifier()
        if self.real is None:
            # Classes lie one behind the other.
            rows = evenly(len(self.data), min(REALS, len(self.data)))
            self.real = features(extractor, (self.data.x[rows[i : i + STEP]] for i in range(0, len(rows), STEP)))
        # As many at a time as in training: more might not fit.
        step = min(STEP, self.recipe.train.batch_gpu or self.recipe.train.batch)
        count = max(LEAST, min(SAMPLES, SAMPLES * SIDE**2 // math.prod(net.x.size)))
        (real, real_kinds), (fake, fake_kinds) = self.real, features(extractor, samples(net, count, step))
        return {name: round(value, 4) for name, value in variety(real, fake, real_kinds, fake_kinds).items()}

    def _classifier(self) -> "Extractor":
        """LeNet of the digits where a metric of the run is over it, else of the garments, whose eye is less narrow."""
        import torch

        from ganctl.io.bundle import read_bundle
        from ganctl.load import best_net, network
        from ganctl.metrics.features import classifier_extractor

        digits = any(name.endswith("-lenet") for name in self.recipe.train.metrics)
        name = "lenet-mnist" if digits else "lenet-fashion-mnist"
        # Not by way of the zoo: one of the user's own need not know it.
        bundle = read_bundle(WEIGHTS / name)
        return classifier_extractor(network(bundle, best_net(bundle)), name, "", device=torch.device("cpu"))


def features(extractor: "Extractor", batches: "Iterable[np.ndarray]") -> "tuple[np.ndarray, np.ndarray]":
    """Features [N, D] and classes [N] of batches uint8 [n, H, W, C]."""
    import numpy as np
    import torch

    assert extractor.logits is not None
    rows = torch.cat([extractor.extract([extractor.prepare(x) for x in batch]) for batch in batches])
    return rows.numpy().astype(np.float64), extractor.logits(rows).argmax(1).numpy()


def findings(log: Path, recipe: Recipe) -> "list[Finding]":
    """What the run's log gives reason to fear."""
    from ganctl.train.diagnosis import diagnose

    loss = getattr(recipe.config, "loss", None)
    return diagnose(read_log(log), kimg=recipe.train.kimg, loss=loss, aug=recipe.train.aug)
