"""IDX files: MNIST, Fashion-MNIST and their kin, with the label file beside the images."""

from pathlib import Path

import numpy as np

from ganctl.data import DataConfig, Dataset, check_size
from ganctl.data.images import centers
from ganctl.errors import UsageError, quoted
from ganctl.io.idx import read_idx
from ganctl.io.images import center_crop_resize, to_channels


def find_idx(path: Path) -> Path | None:
    """The IDX image file itself, or the training images of a folder of such files; None for other data.

    Raises UsageError where a folder holds several and none says that it is the one to train on.
    """
    if path.is_file():
        is_idx = "-ubyte" in path.name or (path.suffix in (".idx", ".gz") and not path.name.endswith(".tar.gz"))
        return path if is_idx else None
    found = sorted(p for p in path.glob("*idx[34]-ubyte*") if p.is_file() and p.name.endswith(("ubyte", ".gz")))
    # The same file plain and packed is one.
    found = [p for p in found if p.suffix != ".gz" or p.with_suffix("") not in found]
    chosen = [p for p in found if "train" in p.name] or found
    if len(chosen) > 1:
        listed = ", ".join(quoted(p.name) for p in chosen[:5])
        raise UsageError(f"cannot choose from {quoted(path)}", f"it holds {listed}", "name one of these files")
    return chosen[0] if chosen else None


def open_idx(path: Path, cfg: DataConfig, resolution: int, channels: int) -> Dataset:
    """Images [N,H,W] or [N,H,W,C] and, where the label file lies beside them, classes."""
    images = read_idx(path)
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or len(images) == 0:
        raise UsageError(f"cannot use {quoted(path)}", f"it holds {images.dtype} of shape {images.shape}, not images")
    labels = labels_beside(path, len(images))
    images = images[: cfg.subset]
    if images.ndim == 3:
        images = images[..., None]
    whole = None
    if cfg.crop == "random":
        height, width = images.shape[1:3]
        if min(height, width) < resolution:
            why = f"they are {width}x{height}"
            raise UsageError(f"cannot crop {resolution} px of the images of {quoted(path)}", why, "pass --resolution")
        check_size(len(images), height, width, channels)
        whole = [to_channels(i, channels) for i in images]
        images = centers(whole, resolution)
    check_size(len(images), resolution, resolution, channels)
    if images.shape[1:] != (resolution, resolution, channels):
        size = (resolution, resolution)
        images = np.stack([to_channels(center_crop_resize(i, size), channels) for i in images])
    if labels is None:
        return Dataset(images, whole=whole)
    names = tuple(str(k) for k in range(int(labels.max()) + 1))
    return Dataset(images, c=labels[: cfg.subset], classes=names, whole=whole)


def labels_beside(path: Path, n: int) -> np.ndarray | None:
    """Class numbers [n] of the label file beside an image file, if any. Raises UsageError for another number."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    beside = path.with_name(name)
    if name == path.name or not beside.is_file():
        return None
    labels = read_idx(beside)
    if labels.shape != (n,):
        raise UsageError(f"cannot use {quoted(beside)}", f"it holds labels of shape {labels.shape} for {n} images")
    return labels.astype(np.int64)
