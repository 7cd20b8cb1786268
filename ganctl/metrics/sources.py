"""Where a side's images come from: files, decoded in threads, or a sampler, straight from its tensors."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ganctl.errors import UsageError, quoted
from ganctl.io.idx import IdxImage
from ganctl.io.images import BadImage, Picture, center_crop_resize, read_image, to_pixels
from ganctl.io.listing import ImageRef
from ganctl.load import Model
from ganctl.metrics.blocks import Look
from ganctl.metrics.features import Extractor
from ganctl.nn.drawing import of_seeds
from ganctl.nn.precision import inference
from ganctl.protocols import Sampler

CHANNELS = {1: "grey", 3: "rgb", 4: "rgba"}
TOGETHER = 64
"""Images a sampler draws at a time."""


def looker(
    extractors: Sequence[Extractor], *, resolution: int | None = None, mirror: bool = False
) -> Callable[[Any], Look]:
    """What a thread does with one image: a file, an image of an IDX file, or pixels [H, W, C]."""

    def look(image: ImageRef | IdxImage | np.ndarray) -> Look:
        try:
            picture, format = (Picture(image), "") if isinstance(image, np.ndarray) else decoded(image)
        except BadImage as e:
            return Look(bad=(image.label, e.why))  # type: ignore[union-attr]
        pixels = picture.pixels
        digest = int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())
        size, channels = f"{pixels.shape[1]}x{pixels.shape[0]}", CHANNELS[pixels.shape[2]]
        if resolution is not None:
            pixels = center_crop_resize(pixels, (resolution, resolution))
        views = [pixels, np.ascontiguousarray(pixels[:, ::-1])] if mirror else [pixels]
        taken = [tuple(e.prepare(view) for e in extractors) for view in views]
        return Look(taken, size, channels, format, picture.notes, digest)

    return look


def decoded(ref: ImageRef | IdxImage) -> tuple[Picture, str]:
    """A picture and the format it was stored in, '' for none. Raises BadImage."""
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


def sampled(
    model: Model, seeds: range, *, psi: float = 1.0, classes: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """uint8 images [H, W, C] of these seeds, as `of_seeds` draws them, rounded as a file would be, never written."""
    net: Any = model.net
    for start in range(seeds.start, seeds.stop, TOGETHER):
        some = range(start, min(start + TOGETHER, seeds.stop))
        with inference(model.device):
            images = of_seeds(net, some, model.device, psi=psi, classes=classes)
        yield from to_pixels(images, net.x.range)
