"""Images in a folder or archive; sub-folders are classes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ganctl.data import DataConfig, Dataset, OnProgress, check_size
from ganctl.errors import UsageError, quoted
from ganctl.io.images import BadImage, center_crop_resize, read_image, to_channels
from ganctl.io.listing import ImageRef, find_images


def open_images(cfg: DataConfig, resolution: int, channels: int, workers: int, on_progress: OnProgress) -> Dataset:
    """Every image, cropped to a centred square and resized, grey or on white as io.images has it."""
    assert cfg.path
    refs = training_part(find_images(cfg.path))[: cfg.subset]
    check_size(len(refs), resolution, resolution, channels)

    def decode(ref: ImageRef) -> np.ndarray:
        pixels = read_image(ref.read(), name=ref.label).pixels
        return to_channels(center_crop_resize(pixels, (resolution, resolution)), channels)

    images, kept, skipped = decode_all(refs, decode, cfg, workers, on_progress)
    folders = [PurePosixPath(r.name).parent.as_posix() for r in kept]
    classes = tuple(sorted(set(folders)))
    if len(classes) < 2 or "." in classes:
        return Dataset(np.stack(images), skipped=skipped)
    index = {name: i for i, name in enumerate(classes)}
    return Dataset(np.stack(images), None, np.array([index[f] for f in folders]), classes, skipped)


def training_part(refs: Sequence[ImageRef]) -> list[ImageRef]:
    """Where a data set comes with its splits, only what is under `train/`, named from there on."""
    inside = [r for r in refs if r.name.startswith("train/")]
    return inside or list(refs)


def decode_all(
    refs: Sequence[Any],
    decode: Callable[[Any], np.ndarray],
    cfg: DataConfig,
    workers: int,
    on_progress: OnProgress,
) -> tuple[list[np.ndarray], list[Any], list[tuple[str, str]]]:
    """Decodes in threads, in order. Unreadable images are skipped and named, up to `max_bad` of all."""
    images: list[np.ndarray] = []
    kept: list[Any] = []
    skipped: list[tuple[str, str]] = []

    def attempt(ref: Any) -> np.ndarray | BadImage:
        try:
            return decode(ref)
        except BadImage as e:
            return e

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for i, got in enumerate(pool.map(attempt, refs)):
            on_progress("decoding images", i + 1, len(refs))
            if isinstance(got, BadImage):
                skipped.append((got.what, got.why))
            else:
                images.append(got)
                kept.append(refs[i])
    if len(skipped) > cfg.max_bad * len(refs):
        first = "; ".join(f"{what}: {why}" for what, why in skipped[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        raise UsageError(
            f"{len(skipped)} of {len(refs)} images in {quoted(cfg.path)} are unreadable",
            f"{first}{more}",
            f"remove them, or allow more than {cfg.max_bad:.0%} with --set data.max_bad=0.05",
        )
    return images, kept, skipped
