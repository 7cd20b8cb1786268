"""Metrics while training: the same features and protocol as `ganctl fid`, over batches of pixels already in memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import UInt8

from ganctl.errors import UsageError
from ganctl.io.progress import SILENT, Reporter
from ganctl.metrics.catalog import Metric, metric
from ganctl.metrics.features import Extractor, gather, open_extractor
from ganctl.metrics.fid import frechet_distance
from ganctl.metrics.statistics import Stats, check_fit

Batch = UInt8[np.ndarray, "n h w c"]
MODE = "legacy_tensorflow"
DIMS = 2048


def prepare(
    metric_id: str, pixels: Iterable[Batch], *, device: torch.device | None = None, reporter: Reporter = SILENT
) -> Stats:
    """Statistics of the real images, taken once per run; the first `Metric.real` of them, or all.

    `pixels` are uint8 batches [N, H, W, C]. Raises UsageError (unknown metric, fewer than 2 images), WeightsError.
    """
    found = metric(metric_id)
    return _stats(found, pixels, found.real, device, reporter)


def fits(metric_id: str, real: Stats, *, device: torch.device | None = None, reporter: Reporter = SILENT) -> bool:
    """Whether kept statistics were made by the metric's network as it is now. Raises WeightsError without it."""
    where = device or torch.device("cpu")
    extractor = open_extractor(metric(metric_id), mode=MODE, dims=DIMS, device=where, reporter=reporter)
    made = (extractor.features, extractor.mode, extractor.weights_sha256, extractor.dims)
    return made == (real.features, real.mode, real.weights_sha256, real.dims)


def score(
    metric_id: str,
    samples: Iterable[Batch],
    real: Stats,
    *,
    device: torch.device | None = None,
    reporter: Reporter = SILENT,
) -> float:
    """The distance of generated images to `real`. Reads `Metric.n` images, or as many as there are.

    Raises UsageError when `real` belongs to another metric or there are fewer than 2 images.
    """
    found = metric(metric_id)
    fake = _stats(found, samples, found.n, device, reporter)
    if real.features != fake.features or real.mode != fake.mode:
        raise UsageError(
            f"cannot score {metric_id}", f"the real statistics are of {real.features}, {real.mode}, not {fake.features}"
        )
    check_fit(real, source="real", features=fake.features or "", mode=fake.mode or "", dims=fake.dims)
    return frechet_distance(real.mu, real.sigma, fake.mu, fake.sigma)


def _stats(
    found: Metric, batches: Iterable[Batch], limit: int | None, device: torch.device | None, reporter: Reporter
) -> Stats:
    where = device or torch.device("cpu")
    extractor = open_extractor(found, mode=MODE, dims=DIMS, device=where, reporter=reporter)

    def work(pixels: np.ndarray) -> list[tuple[np.ndarray]]:
        return [(extractor.prepare(pixels),)]

    # Small networks cost little an image and much a call.
    batch_size = 64 if found.inception else 512
    (moments,) = gather(
        _images(batches, limit),
        work,
        [extractor],
        batch_size=batch_size,
        workers=2,
        done=lambda n: reporter.progress(f"features for {found.id}", n, 0),
    )
    return extractor.stats(moments)


def _images(batches: Iterable[Batch], limit: int | None) -> Iterator[np.ndarray]:
    """Single images. Batches are fetched only while images are still wanted, so an endless source is fine."""
    left = limit
    for batch in batches:
        yield from batch if left is None else batch[:left]
        if left is not None:
            left -= len(batch)
            if left <= 0:
                return


__all__ = ["Extractor", "prepare", "score"]
