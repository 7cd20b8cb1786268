"""Features of many images in constant memory: threads decode, one network reads, moments are kept."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ganctl.errors import DeviceError, WeightsError
from ganctl.io.bundle import Bundle
from ganctl.io.images import from_pixels, resize, to_channels
from ganctl.io.network import UnreachableError
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.tensors import load_into
from ganctl.load import best_net, network, open_bundle
from ganctl.metrics.catalog import INCEPTION, Metric
from ganctl.metrics.resize import inception_input, on_cpu
from ganctl.metrics.statistics import Moments, Stats
from ganctl.nn.features.inception import Inception
from ganctl.nn.precision import products

T = TypeVar("T")
Pixels = UInt8[np.ndarray, "h w c"]
Prepared = tuple[np.ndarray, ...]
"""One image as each extractor takes it."""

LARGE = 1 << 20
"""Pixels above which an image is shrunk beside its decoder, so that a batch of photographs fits in memory."""
TOGETHER = 8
"""Images resized at a time: at 1024 px, 64 of them in float32 would take gigabytes."""


@dataclass(frozen=True)
class Extractor:
    """A network under one protocol."""

    features: str
    """Its zoo entry."""
    mode: str
    dims: int
    weights_sha256: str
    prepare: Callable[[Pixels], np.ndarray]
    """One image, uint8 [H, W, 1 | 3 | 4], as the network's batches take it; runs in decoder threads."""
    extract: Callable[[Sequence[np.ndarray]], Float[Tensor, "n d"]]
    """Features of prepared images, in order."""

    def stats(self, moments: Moments, **stamp: Any) -> Stats:
        made = {"features": self.features, "mode": self.mode, "weights_sha256": self.weights_sha256}
        return moments.stats(**made, **stamp)


def open_extractor(
    metric: Metric, *, mode: str, dims: int, device: torch.device, reporter: Reporter = SILENT
) -> Extractor:
    """The extractor of a metric. Raises WeightsError when its weights are not at hand, naming the command."""
    if metric.inception:
        net, digest = inception(reporter)
        return inception_extractor(net, digest, mode=mode, dims=dims, device=device)
    bundle = _bundle(metric.features, reporter)
    net = network(bundle, best_net(bundle))
    return classifier_extractor(net, metric.features, tensors_sha256(net.state_dict()), device=device)


def inception(reporter: Reporter = SILENT) -> tuple[Inception, str]:
    """FID's network on the CPU, and the digest of its tensors. Raises WeightsError."""
    bundle = _bundle(INCEPTION, reporter)
    (name,) = bundle.nets
    # Some copies of the published file carry batch counters, which mean nothing here.
    state = {k: v for k, v in bundle.state(name).items() if not k.endswith("num_batches_tracked")}
    with torch.device("meta"):
        net = Inception()
    load_into(net, state, where=f"of {INCEPTION}")
    return net.eval().requires_grad_(False), tensors_sha256(state)


def _bundle(name: str, reporter: Reporter) -> Bundle:
    try:
        return open_bundle(name, reporter=reporter)[0]
    except UnreachableError as e:
        hint = f"with a network: ganctl zoo pull {name}"
        raise WeightsError(f"{name} not cached, and its source cannot be reached", e.message, hint) from e


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names, each followed by its tensor's float32 bytes: the same in any container."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].float().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def inception_extractor(
    net: Inception, weights_sha256: str, *, mode: str, dims: int, device: torch.device
) -> Extractor:
    """Inception in fp32 (no TF32) under one of `resize.MODES`, with features of one of its DIMS."""
    net = net.to(device)

    def prepare(pixels: Pixels) -> np.ndarray:
        rgb = on_cpu(to_channels(pixels, 3), mode)
        if rgb.dtype == np.uint8 and rgb.shape[0] * rgb.shape[1] > LARGE:
            # The same arithmetic on the CPU; [3, 299, 299] tells it apart from pixels.
            return inception_input(torch.from_numpy(rgb)[None], mode)[0].numpy()
        return rgb

    def extract(images: Sequence[np.ndarray]) -> Tensor:
        x = torch.empty((len(images), 3, 299, 299), device=device)
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        for shape, group in groups.items():
            for start in range(0, len(group), TOGETHER):
                members = group[start : start + TOGETHER]
                batch = torch.from_numpy(np.stack([images[i] for i in members])).to(device)
                x[torch.tensor(members, device=device)] = (
                    batch if shape[0] == 3 and shape[2] != 3 else inception_input(batch, mode)
                )
        return _features(lambda part: net(part, dims), x)

    return Extractor(INCEPTION, mode, dims, weights_sha256, prepare, extract)


def classifier_extractor(net: Any, name: str, weights_sha256: str, *, device: torch.device) -> Extractor:
    """A `protocols.Classifier` over its own domain: grey or RGB as it takes it, resized to its size."""
    net = net.to(device)
    size, channels = net.x.size, net.x.channels
    with torch.inference_mode():
        dims = net.features(torch.zeros(1, channels, *size, device=device)).shape[1]

    def prepare(pixels: Pixels) -> np.ndarray:
        return resize(to_channels(pixels, channels), size)

    def extract(images: Sequence[np.ndarray]) -> Tensor:
        return _in_halves(net.features, from_pixels(np.stack(images), net.x.range).to(device))

    return Extractor(name, f"{size[1]}x{size[0]}x{channels}", dims, weights_sha256, prepare, extract)


def _features(features: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Inception's features of a batch. A CPU takes few at a time: activations that fit its cache are twice as fast."""
    size = max(TOGETHER, torch.get_num_threads()) if x.device.type == "cpu" else len(x)
    return torch.cat([_in_halves(features, part) for part in x.split(size)])


@torch.inference_mode()
def _in_halves(features: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Features of a batch, halved as often as the device's memory asks for."""
    try:
        with products(tf32=False):
            return features(x).cpu()
    except torch.OutOfMemoryError as e:
        if len(x) == 1:
            raise DeviceError("out of memory", f"a batch of 1 does not fit on {x.device}", "try --device cpu") from e
    half = len(x) // 2
    return torch.cat([_in_halves(features, x[:half]), _in_halves(features, x[half:])])


def gather(
    items: Iterable[T],
    work: Callable[[T], list[Prepared]],
    extractors: Sequence[Extractor],
    *,
    batch_size: int,
    workers: int,
    done: Callable[[int], None] = lambda n: None,
) -> list[Moments]:
    """Moments of every extractor's features, one per extractor.

    `work` turns an item into its prepared images (none, one, or two when mirrored) in `workers` threads; order is kept,
    and at most a few batches are in memory. `done` hears the number of items finished.
    """
    moments = [Moments(e.dims) for e in extractors]
    pending: list[Prepared] = []

    def flush(size: int) -> None:
        while pending and len(pending) >= size:
            batch = pending[:batch_size]
            del pending[:batch_size]
            for k, extractor in enumerate(extractors):
                moments[k].add(extractor.extract([prepared[k] for prepared in batch]).numpy())

    for count, prepared in enumerate(ordered(work, items, workers), 1):
        pending.extend(prepared)
        flush(batch_size)
        done(count)
    flush(1)
    return moments


def ordered(work: Callable[[T], Any], items: Iterable[T], workers: int) -> Iterator[Any]:
    """Results of `work` in the order of `items`, computed in threads, a few ahead of the reader."""
    if workers < 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
