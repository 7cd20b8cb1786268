"""Where a side's images come from: files, decoded in threads, or a sampler, straight from its tensors."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ganctl.errors import UsageError, quoted
from ganctl.io.idx import IdxImage
from ganctl.io.images import BadImage, Picture, center_crop_resize, read_image, to_pixels
from ganctl.io.listing import ImageRef
from ganctl.load import Model
from ganctl.metrics.features import Extractor, Prepared
from ganctl.metrics.statistics import Seen
from ganctl.nn.precision import inference
from ganctl.protocols import Sampler

CHANNELS = {1: "grey", 3: "rgb", 4: "rgba"}


class Watch:
    """What passes by on one side, counted; the images that could not be read, kept. Safe in threads."""

    def __init__(self) -> None:
        self.bad: list[tuple[str, BadImage]] = []
        self._counts = {name: Counter[str]() for name in ("sizes", "formats", "channels", "notes")}
        self._lock = threading.Lock()

    def count(self, pixels: np.ndarray, format: str = "", notes: Sequence[str] = ()) -> None:
        with self._lock:
            self._counts["sizes"][f"{pixels.shape[1]}x{pixels.shape[0]}"] += 1
            self._counts["channels"][CHANNELS[pixels.shape[2]]] += 1
            self._counts["notes"].update(notes)
            if format:
                self._counts["formats"][format] += 1

    def fail(self, ref: ImageRef | IdxImage, error: BadImage) -> None:
        with self._lock:
            self.bad.append((ref.label, error))

    def seen(self) -> Seen:
        return Seen(**{k: dict(c.most_common()) for k, c in self._counts.items()}, skipped=len(self.bad))


def prepared(
    pixels: np.ndarray, extractors: Sequence[Extractor], *, resolution: int | None = None, mirror: bool = False
) -> list[Prepared]:
    """One image, and its mirror image after it, as every extractor takes them."""
    if resolution is not None:
        pixels = center_crop_resize(pixels, (resolution, resolution))
    views = [pixels, np.ascontiguousarray(pixels[:, ::-1])] if mirror else [pixels]
    return [tuple(e.prepare(view) for e in extractors) for view in views]


def file_work(
    extractors: Sequence[Extractor],
    watch: Watch,
    *,
    resolution: int | None,
    mirror: bool,
    skip_bad: bool,
    only_check: bool = False,
) -> Callable[[ImageRef | IdxImage], list[Prepared]]:
    """What a thread does with one image. Unreadable ones go to `watch.bad`.

    Without `skip_bad` there will be no score once one is bad: the rest is then only decoded, to name every bad file.
    """

    def work(ref: ImageRef | IdxImage) -> list[Prepared]:
        try:
            picture, format = _decoded(ref)
        except BadImage as e:
            watch.fail(ref, e)
            return []
        watch.count(picture.pixels, format, picture.notes)
        if only_check or (watch.bad and not skip_bad):
            return []
        return prepared(picture.pixels, extractors, resolution=resolution, mirror=mirror)

    return work


def _decoded(ref: ImageRef | IdxImage) -> tuple[Picture, str]:
    if isinstance(ref, IdxImage):
        return Picture(ref.pixels), ""
    data = ref.read()
    return read_image(data, name=ref.label), format_of(data)


def format_of(data: bytes) -> str:
    """By content, as far as warnings need it: lossy or not."""
    if data[:2] == b"\xff\xd8":
        return "jpeg"
    if data[:4] == b"\x89PNG":
        return "png"
    return "webp" if data[8:12] == b"WEBP" else "other"


def check_sampler(model: Model) -> None:
    """Raises UsageError for a model that draws no images from noise."""
    if not isinstance(model.net, Sampler):
        why = f"{model.model} draws no images from noise"
        raise UsageError(f"cannot score {quoted(model.name)}", why, "score a folder of its results instead")


def sampled(model: Model, n: int, seed: int, batch_size: int) -> Iterator[np.ndarray]:
    """uint8 images [H, W, C] of seeds seed … seed + n - 1, rounded as a file would be, never written."""
    net: Any = model.net
    for start in range(seed, seed + n, batch_size):
        seeds = range(start, min(start + batch_size, seed + n))
        with inference(model.device):
            images = net.sample(net.prior(seeds).to(model.device))
        yield from to_pixels(images, net.x.range)
