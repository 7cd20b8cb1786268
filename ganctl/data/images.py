"""Images in a folder or archives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ganctl.data import DataConfig, Dataset, OnProgress, check_size
from ganctl.data.decode import decode_all
from ganctl.data.labels import SPLIT, labelled
from ganctl.errors import quoted
from ganctl.io.images import BadImage, center_crop_resize, read_image, to_channels
from ganctl.io.listing import ImageRef, Listing, no_images, scan


def open_images(cfg: DataConfig, resolution: int, channels: int, workers: int, on_progress: OnProgress) -> Dataset:
    """Every image, cropped to a centred square and resized, grey or on white as io.images has it."""
    assert cfg.path
    found = listed(cfg.path)

    def decode(ref: ImageRef) -> np.ndarray:
        pixels = read_image(ref.read(), name=ref.label).pixels
        return to_channels(center_crop_resize(pixels, (resolution, resolution)), channels)

    shape = (resolution, resolution, channels)
    refs, how = found.images[: cfg.subset], ("centre", *shape)
    got = decode_all(refs, decode, cfg, workers, on_progress, how=how, shape=shape)
    return labelled(Dataset(got.images, skipped=got.skipped + list(found.skipped)), found, got.kept)


def open_photos(cfg: DataConfig, resolution: int, channels: int, workers: int, on_progress: OnProgress) -> Dataset:
    """Every image at its own size, to be cropped at random, grey or on white; x holds their centres.

    Images with a side below `resolution` are left out and named.
    """
    assert cfg.path
    found = listed(cfg.path)

    def decode(ref: ImageRef) -> np.ndarray:
        pixels = to_channels(read_image(ref.read(), name=ref.label).pixels, channels)
        height, width = pixels.shape[:2]
        if min(height, width) < resolution:
            why = f"it is {width}x{height}, and crops are {resolution} px"
            raise BadImage(f"cannot crop {quoted(ref.label)}", why)
        return pixels

    refs, how = found.images[: cfg.subset], ("whole", resolution, channels)
    got = decode_all(refs, decode, cfg, workers, on_progress, how=how)
    whole = list(got.images)
    check_size(len(whole), resolution, resolution, channels)
    data = Dataset(centers(whole, resolution), skipped=got.skipped + list(found.skipped), whole=whole)
    return labelled(data, found, got.kept)


def centers(images: Sequence[np.ndarray], side: int) -> np.ndarray:
    """The central `side` × `side` pixels of each image, [N,H,W,C]."""
    corners = [((a.shape[0] - side) // 2, (a.shape[1] - side) // 2) for a in images]
    return np.stack([a[y : y + side, x : x + side] for a, (y, x) in zip(images, corners, strict=True)])


def listed(path: str) -> Listing:
    """What there is to train on: images in name order, of a data set with its splits only those under SPLIT.

    Raises UsageError when there is no image, naming the extensions that were found.
    """
    found = scan(path)
    if not found.images:
        raise no_images(path, found)
    inside = tuple(r for r in found.images if r.name.startswith(SPLIT))
    return replace(found, images=inside) if inside else found


def list_images(path: str) -> tuple[list[ImageRef], list[tuple[str, str]]]:
    """Images in name order, and what looks like one and was left out, with the reason."""
    found = listed(path)
    return list(found.images), list(found.skipped)
