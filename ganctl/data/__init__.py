"""Training data: images, classes and pairs as uint8 arrays, each decoded once."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ganctl.config import config
from ganctl.errors import UsageError, quoted

MAX_DECODED_BYTES = 8 << 30
"""Of decoded images that are held in memory; in the cache there may be more (data/decode.py)."""

ROWS = 256
"""Images, or rows of one, that are looked at together."""

OnProgress = Callable[[str, int, int], None]


@config
class DataConfig:
    path: str | None = None
    """Folder, zip, tar, several tars (`shard-{000..003}.tar`) or IDX file. A top folder `train/` (or `trainA/` and
    `trainB/`) is found by itself. `toy:ring` and `toy:grid` are points of a plane."""
    path_b: str | None = None
    """The other side of pairs, or of what is unpaired, kept in two folders; then `path` holds side A."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which half of a pair is the source; A is the left one."""
    pairs: Literal["files", "grey", "unpaired", "classes"] = "files"
    """files: pairs are given, in two folders by their names; grey: the source is the target's luma (colouring needs no
    pairs); unpaired: images of A and of B that have nothing to do with each other, as many as there are of each;
    classes: beside each image, one of another class."""
    subset: int | None = None
    """The first N images only."""
    labels: int | None = None
    """Classes of so many images only, as many of each class: batches of these come beside those of all images, in an
    order of their own (semi-supervised learning)."""
    holdout: int = 0
    """Images kept from training, spread evenly over the others: D's view of them shows how far it overfits (r_v)."""
    crop: Literal["center", "random"] = "center"
    """center: the largest centred square, resized; random: a square of the image's own pixels, somewhere else each time
    (super-resolution)."""
    mirror: bool = False
    """Flip each image left to right with probability one half."""
    jitter: int = 0
    """Images are loaded this many pixels larger and cropped at random (pix2pix, appendix 6.2: 30 at 256 px)."""
    max_bad: float = 0.01
    """Share of unreadable images that is skipped and named; more is an error."""

    def __post_init__(self) -> None:
        if self.subset is not None and self.subset < 1:
            raise ValueError("subset must be 1 or more")
        if self.labels is not None and self.labels < 1:
            raise ValueError("labels must be 1 or more")
        if self.holdout < 0:
            raise ValueError("holdout must not be negative")
        if self.jitter < 0:
            raise ValueError("jitter must not be negative")
        if self.jitter and self.crop == "random":
            raise ValueError("jitter is of centred squares: crop random takes its place")
        if not 0 <= self.max_bad < 1:
            raise ValueError("max_bad must be a share from 0 to below 1")


@dataclass
class Dataset:
    """Decoded images, uint8: x and y [N,H,W,C], c [N]. x is the source and y the target where images come in pairs.

    Where they are unpaired, y has a number of its own; where both are given, y are those whose classes are known, c.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    c: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Images left out, with the reason."""
    unpaired: bool = False
    """x and y have nothing to do with each other."""
    numbers: bool = False
    """Whether x are label maps (io/label_maps.py)."""
    whole: list[np.ndarray] | None = None
    """The images at their own sizes [h,w,C], to be cropped at random; x then holds their centres."""
    held: "Dataset | None" = None
    """Images kept from training."""
    notes: tuple[str, ...] = ()
    """What else the user should know of how they were read."""

    def __len__(self) -> int:
        return len(self.x)

    def fingerprint(self) -> str:
        """sha256 of every pixel and label: the same data give the same run."""
        digest = hashlib.sha256()
        for a in (self.x, self.y, self.c, *(self.whole or ())):
            if a is not None:
                digest.update(f"{a.dtype} {a.shape}".encode())
                # Some at a time: sides of pairs are copied, and all together may not fit in memory.
                for i in range(0, len(a), ROWS):
                    digest.update(np.ascontiguousarray(a[i : i + ROWS]).data)
        return digest.hexdigest()


def held_out(data: Dataset, count: int) -> Dataset:
    """The data without `count` images, spread evenly, which are its `held`. Raises UsageError for too many."""
    if 2 * count > len(data):
        raise UsageError(f"cannot hold out {count} images", f"there are {len(data)}", "hold out half of them at most")
    apart = np.zeros(len(data), bool)
    apart[evenly(len(data), count)] = True
    held, rest = (
        Dataset(
            data.x[rows],
            None if data.y is None else data.y[rows],
            None if data.c is None else data.c[rows],
            data.classes,
            data.skipped,
            whole=None if data.whole is None else [data.whole[i] for i in np.flatnonzero(rows)],
        )
        for rows in (apart, ~apart)
    )
    rest.held = held
    return rest


def few_labels(data: Dataset, count: int) -> Dataset:
    """The data with the classes of `count` images alone, in equal shares, which are its y: the first of each class.

    Raises UsageError for a count that is no multiple of the classes, or more than there are of one.
    """
    assert data.c is not None
    what, each = f"cannot label {count} images", np.unique(data.c, return_counts=True)
    share, rest = divmod(count, len(each[0]))
    if rest or not share:
        raise UsageError(what, f"there are {len(each[0])} classes of equal shares", "choose a multiple of that")
    if share > each[1].min():
        raise UsageError(what, f"one class has {each[1].min()} images", "choose fewer")
    rows = np.sort(np.concatenate([np.flatnonzero(data.c == k)[:share] for k in each[0]]))
    return Dataset(data.x, data.x[rows], data.c[rows], data.classes, data.skipped, unpaired=True)


def evenly(n: int, count: int) -> np.ndarray:
    """`count` of the places 0 … n - 1, as far from each other as can be."""
    return (np.arange(count) * n + n // 2) // max(count, 1)


def open_dataset(
    cfg: DataConfig,
    *,
    resolution: int,
    channels: int,
    source_channels: int | None = None,
    label_nc: int | None = None,
    labels: bool = False,
    workers: int = 4,
    on_progress: OnProgress = lambda *_: None,
) -> Dataset:
    """Reads the data a model asks for. `source_channels` given: pairs, with `label_nc` those of a label map and a
    picture; `labels`: class indices are needed.

    Raises UsageError: no such path, no images, too many unreadable ones, no pairs, no classes.
    """
    from ganctl.data.idx import find_idx, open_idx
    from ganctl.data.images import open_images, open_photos
    from ganctl.data.label_maps import open_label_maps
    from ganctl.data.paired import open_pairs, open_unpaired
    from ganctl.data.toy import is_toy, open_toy

    assert cfg.path
    # Where classes meet, as where two sides do, images are loaded larger and cropped at random.
    side = resolution + (cfg.jitter if cfg.pairs == "classes" else 0)
    if label_nc is not None:
        data = open_label_maps(cfg, resolution, channels, label_nc, workers, on_progress)
    elif source_channels is not None and cfg.pairs == "unpaired":
        data = open_unpaired(cfg, resolution, channels, source_channels, workers, on_progress)
    elif source_channels is not None:
        data = open_pairs(cfg, resolution, channels, source_channels, workers, on_progress)
    elif is_toy(cfg.path):
        data = open_toy(cfg)
    elif found := find_idx(Path(cfg.path)):
        data = open_idx(found, cfg, side, channels)
    elif cfg.crop == "random":
        data = open_photos(cfg, resolution, channels, workers, on_progress)
    else:
        data = open_images(cfg, side, channels, workers, on_progress)
    if labels and data.c is None:
        raise UsageError(
            f"no classes in {quoted(cfg.path)}",
            "this model learns classes",
            "sort the images into one folder for each class, or name them as docs/dataset.md has it",
        )
    if cfg.pairs == "classes" and (data.c is None or (data.c == data.c[0]).all()):
        where = f"cannot use the images in {quoted(cfg.path)}"
        raise UsageError(where, "all are of one class, and each needs one of another beside it", "add other classes")
    return data


def check_size(n: int, height: int, width: int, channels: int) -> None:
    """Refuses what would not fit in memory, before it is allocated."""
    need = n * height * width * channels
    if need > MAX_DECODED_BYTES:
        raise UsageError(
            f"cannot hold {n} images of {width}x{height}",
            f"decoded they take {need >> 30} GiB, the limit is {MAX_DECODED_BYTES >> 30} GiB",
            "take fewer with --subset, or smaller ones with --resolution",
        )
