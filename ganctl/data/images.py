"""Images in a folder or archive; sub-folders are classes."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ganctl.data import MAX_DECODED_BYTES, DataConfig, Dataset, OnProgress, check_size
from ganctl.errors import UsageError, quoted
from ganctl.io.images import BadImage, center_crop_resize, read_image, to_channels
from ganctl.io.listing import ImageRef, no_images, scan

SPLIT = "train/"


def open_images(cfg: DataConfig, resolution: int, channels: int, workers: int, on_progress: OnProgress) -> Dataset:
    """Every image, cropped to a centred square and resized, grey or on white as io.images has it."""
    assert cfg.path
    found, left_out = list_images(cfg.path)
    refs = found[: cfg.subset]
    check_size(len(refs), resolution, resolution, channels)

    def decode(ref: ImageRef) -> np.ndarray:
        pixels = read_image(ref.read(), name=ref.label).pixels
        return to_channels(center_crop_resize(pixels, (resolution, resolution)), channels)

    images, kept, skipped = decode_all(refs, decode, cfg, workers, on_progress)
    return _in_folders(Dataset(np.stack(images), skipped=skipped + left_out), kept)


def open_photos(cfg: DataConfig, resolution: int, channels: int, workers: int, on_progress: OnProgress) -> Dataset:
    """Every image at its own size, to be cropped at random, grey or on white; x holds their centres.

    Images with a side below `resolution` are left out and named. Raises UsageError beyond MAX_DECODED_BYTES.
    """
    assert cfg.path
    found, left_out = list_images(cfg.path)
    refs, lock, total = found[: cfg.subset], threading.Lock(), 0

    def decode(ref: ImageRef) -> np.ndarray:
        nonlocal total
        pixels = to_channels(read_image(ref.read(), name=ref.label).pixels, channels)
        height, width = pixels.shape[:2]
        if min(height, width) < resolution:
            why = f"it is {width}x{height}, and crops are {resolution} px"
            raise BadImage(f"cannot crop {quoted(ref.label)}", why)
        with lock:
            total += pixels.nbytes
        if total > MAX_DECODED_BYTES:
            why = f"decoded they take more than {MAX_DECODED_BYTES >> 30} GiB"
            raise UsageError(f"cannot hold the images of {quoted(cfg.path)}", why, "take fewer with --subset")
        return pixels

    images, kept, skipped = decode_all(refs, decode, cfg, workers, on_progress)
    return _in_folders(Dataset(centers(images, resolution), skipped=skipped + left_out, whole=images), kept)


def centers(images: Sequence[np.ndarray], side: int) -> np.ndarray:
    """The central `side` × `side` pixels of each image, [N,H,W,C]."""
    corners = [((a.shape[0] - side) // 2, (a.shape[1] - side) // 2) for a in images]
    return np.stack([a[y : y + side, x : x + side] for a, (y, x) in zip(images, corners, strict=True)])


def _in_folders(data: Dataset, kept: Sequence[ImageRef]) -> Dataset:
    """The data with its sub-folders as classes, where there are two or more and every image is in one."""
    folders = [PurePosixPath(r.name.removeprefix(SPLIT)).parent.as_posix() for r in kept]
    classes = tuple(sorted(set(folders)))
    if len(classes) >= 2 and "." not in classes:
        index = {name: i for i, name in enumerate(classes)}
        data.c, data.classes = np.array([index[f] for f in folders]), classes
    return data


def list_images(path: str) -> tuple[list[ImageRef], list[tuple[str, str]]]:
    """Images in name order, and what looks like one and was left out, with the reason.

    Where a data set comes with its splits, only what is under SPLIT. Raises UsageError when there is no image,
    naming the extensions that were found.
    """
    found = scan(path)
    if not found.images:
        raise no_images(path, found)
    inside = [r for r in found.images if r.name.startswith(SPLIT)]
    return inside or list(found.images), list(found.skipped)


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

    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for i, got in enumerate(pool.map(attempt, refs)):
            on_progress("decoding images", i + 1, len(refs))
            if isinstance(got, BadImage):
                skipped.append((got.what, got.why))
            else:
                images.append(got)
                kept.append(refs[i])
    finally:
        # Ctrl-C must not wait for a hundred thousand images that nobody will look at.
        pool.shutdown(cancel_futures=True)
    share = len(skipped) / len(refs)
    if share > cfg.max_bad:
        allow = min(0.99, math.ceil(share * 100) / 100)
        raise UsageError(
            f"{len(skipped)} of {len(refs)} images in {quoted(cfg.path)} unreadable ({share:.1%}), "
            f"more than the limit of {cfg.max_bad:.1%}",
            some(skipped),
            f"remove them, or allow them with --set max_bad={allow:g}" if len(images) > 1 else "choose other data",
        )
    return images, kept, skipped


def some(skipped: Sequence[tuple[str, str]]) -> str:
    """The first five names with their reasons, and how many more there are."""
    first = "; ".join(f"{what}: {why}" for what, why in skipped[:5])
    return first + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")
