"""Metrics while training: the same features, protocol and functions as `ganctl fid`, over pixels already in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from ganctl.errors import UsageError
from ganctl.io.progress import SILENT, Reporter
from ganctl.metrics.blocks import BLOCK, extract
from ganctl.metrics.catalog import Metric, metric
from ganctl.metrics.equivariance import sampler_equivariance
from ganctl.metrics.features import Extractor, open_extractor
from ganctl.metrics.inception_score import inception_score
from ganctl.metrics.path_length import named_path_length
from ganctl.metrics.perceptual import open_lpips
from ganctl.metrics.score import Score, compare
from ganctl.metrics.sources import looker
from ganctl.metrics.statistics import Moments, Stats, check_fit

Batch = UInt8[np.ndarray, "n h w c"]
MODE = "legacy_tensorflow"
DIMS = 2048
CPU = torch.device("cpu")


def prepare(
    metric_id: str, pixels: Iterable[Batch], *, device: torch.device = CPU, reporter: Reporter = SILENT
) -> Stats | None:
    """What is kept of the real images, once per run: the first `Metric.real` of them, or all. None for a metric
    of generated images alone, whose network is opened all the same: one that is missing is found at once.

    `pixels` are uint8 batches [N, H, W, C]. Raises UsageError (unknown metric, fewer than 2 images), WeightsError.
    """
    found = metric(metric_id)
    if not found.two_sided:
        _open(found, device, reporter)
        return None
    return _stats(found, pixels, found.real, device, reporter)


def fits(metric_id: str, real: Stats, *, device: torch.device = CPU, reporter: Reporter = SILENT) -> bool:
    """Whether kept statistics were made by the metric's network as it is now. Raises WeightsError without it."""
    found = metric(metric_id)
    extractor = _open(found, device, reporter)
    made = {name: getattr(real, name) for name in extractor.protocol}
    complete = real.feats is not None or not found.keeps_features
    return complete and (made, real.dims) == (extractor.protocol, extractor.dims)


def score(
    metric_id: str,
    samples: Iterable[Batch],
    real: Stats | None,
    *,
    device: torch.device = CPU,
    reporter: Reporter = SILENT,
) -> list[Score]:
    """The metric's numbers for generated images against `real`. Reads `Metric.n` images, or as many as there are.

    Raises UsageError when `real` belongs to another metric, or the images allow no score.
    """
    found = metric(metric_id)
    try:
        if found.kind == "is":
            extractor = _open(found, device, reporter)
            assert extractor.logits is not None
            logits = [
                extractor.logits(torch.from_numpy(r)) for r in _rows(found, samples, found.n, extractor, reporter)
            ]
            return [Score(found.id, *inception_score(torch.cat(logits).numpy()))]
        fake = _stats(found, samples, found.n, device, reporter)
        if real is None or real.features != fake.features or real.mode != fake.mode:
            made = f"{real.features}, {real.mode}" if real else "nothing"
            raise UsageError(f"cannot score {metric_id}", f"the real statistics are of {made}, not {fake.features}")
        check_fit(real, source="real", features=fake.features or "", mode=fake.mode or "", dims=fake.dims)
        return compare(found, real, fake)
    except ValueError as e:
        raise UsageError(f"cannot score {metric_id}", str(e)) from e


def path_length(metric_id: str, net: Any, *, device: torch.device = CPU, reporter: Reporter = SILENT) -> list[Score]:
    """The perceptual path length of a generator. Raises UsageError for a network without W, WeightsError."""
    found = metric(metric_id)
    lpips, _ = open_lpips("vgg", device=device, reporter=reporter)
    try:
        return [Score(found.id, *named_path_length(found.id, net, lpips.distance, n=found.n, device=device))]
    except ValueError as e:
        raise UsageError(f"cannot score {metric_id}", str(e), "pass --metrics none") from e


def equivariance(metric_id: str, net: Any, n: int, *, device: torch.device = CPU) -> list[Score]:
    """EQ-T or EQ-R of a generator, of n pictures, in dB. Raises UsageError where it cannot be taken."""
    kind = metric(metric_id).kind
    try:
        return [Score(metric_id, sampler_equivariance(net, kinds=(kind,), n=n, device=device)[kind])]
    except ValueError as e:
        raise UsageError(f"cannot score {metric_id}", str(e), "pass --metrics none") from e


def _open(found: Metric, device: torch.device, reporter: Reporter) -> Extractor:
    return open_extractor(found.features, mode=MODE, dims=DIMS, device=device, reporter=reporter)


def _stats(
    found: Metric, batches: Iterable[Batch], limit: int | None, device: torch.device, reporter: Reporter
) -> Stats:
    extractor = _open(found, device, reporter)
    moments, kept = Moments(extractor.dims), []
    for rows in _rows(found, batches, limit, extractor, reporter):
        moments.add(rows)
        kept += [rows] if found.keeps_features else []
    stats = moments.stats(**extractor.protocol)
    return replace(stats, feats=np.concatenate(kept)) if found.keeps_features else stats


def _rows(
    found: Metric, batches: Iterable[Batch], limit: int | None, extractor: Extractor, reporter: Reporter
) -> Iterator[np.ndarray]:
    """Features of consecutive images, BLOCK at a time."""
    # Small networks cost little an image and much a call.
    batch_size = 64 if found.training else 512
    look, count = looker([extractor]), 0
    for block in _chunks(_images(batches, limit)):
        (made,) = extract(
            [range(len(block))], lambda positions, b=block: b, look, [extractor], batch_size=batch_size, workers=2
        )
        yield made.features[0]
        count += len(block)
        reporter.progress(f"features for {found.id}", count, 0)


def _chunks(images: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    while chunk := list(islice(images, BLOCK)):
        yield chunk


def _images(batches: Iterable[Batch], limit: int | None) -> Iterator[np.ndarray]:
    """Single images. Batches are fetched only while images are still wanted, so an endless source is fine."""
    left = limit
    for batch in batches:
        yield from batch if left is None else batch[:left]
        if left is not None:
            left -= len(batch)
            if left <= 0:
                return
