"""Batches in an order that depends on the seed and the number of images seen, and on nothing else."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ganctl.data import DataConfig, Dataset, evenly
from ganctl.io.threads import ordered
from ganctl.phase import Batch

AHEAD = 2
"""Batches that are ready, or being made, while the one before them is trained on."""


def batches(
    data: Dataset,
    cfg: DataConfig,
    *,
    size: int,
    resolution: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Endless uint8 batches [n,C,H,W]; of every `size` images this rank gets each `world`-th, from its own number on.

    So all ranks' first micro-batches together are the first images: two ranks with micro-batches of 8 see what one
    process with micro-batches of 16 sees. `start` images were seen before: the order goes on exactly where an
    undisturbed run would be. A thread of its own makes them, so that a step need not wait: what is in a batch depends
    on its place alone, and not on when it is made.
    """
    places = (position + np.arange(rank, size, world) for position in itertools.count(start, size))
    yield from ordered(lambda p: _batch(data, cfg, p, resolution, seed), places, 1, ahead=AHEAD)


def _batch(data: Dataset, cfg: DataConfig, places: np.ndarray, resolution: int, seed: int) -> Batch:
    index = np.array([_index(len(data), int(p), seed) for p in places])
    of_x = [None if of is None or data.unpaired else of[index] for of in (data.y, data.c)]
    x, (y, c), cy = data.x[index], of_x, None
    if data.whole is not None:
        parts = zip(index, places, strict=True)
        x = np.stack([_part(data.whole[i], resolution, cfg, (seed, 1, int(place))) for i, place in parts])
    elif cfg.pairs == "classes" and data.c is not None:
        other = [_of_another_class(data, int(p), i, seed) for i, p in zip(index, places, strict=True)]
        y, cy = data.x[other], data.c[other]
        _augment([x], cfg, places, (seed, 1))
        _augment([y], cfg, places, (seed, 1 + OTHER))
    elif data.unpaired and data.y is not None:
        # An order of its own, so that no image of A meets the same one of B every epoch.
        other = [_index(len(data.y), int(p), seed, OTHER) for p in places]
        # Classes, where there are any, are those of y; else each image is one of its own (CIN's styles).
        y, cy = data.y[other], np.array(other) if data.c is None else data.c[other]
        _augment([x], cfg, places, (seed, 1))
        _augment([y], cfg, places, (seed, 1 + OTHER))
    else:
        _augment([a for a in (x, y) if a is not None], cfg, places, (seed, 1))
    crop = np.s_[:, :resolution, :resolution]
    known = (None if of is None else torch.from_numpy(of) for of in (c, cy))
    return Batch(_tensor(x[crop]), None if y is None else _tensor(y[crop]), *known)


def _of_another_class(data: Dataset, place: int, image: int, seed: int) -> int:
    """The first image of another class than that of `image`, from a place in the other side's order on."""
    assert data.c is not None
    while data.c[found := _index(len(data), place, seed, OTHER)] == data.c[image]:
        place += 1
    return found


def _augment(sides: list[np.ndarray], cfg: DataConfig, places: np.ndarray, stream: tuple[int, int]) -> None:
    """Turns and moves the images of each place, those of a pair alike."""
    if not (cfg.mirror or cfg.jitter):
        return
    for row, place in enumerate(places):
        # One generator for each place in the order: an image's augmentation depends on no other image.
        rng = np.random.default_rng((*stream, int(place)))
        flip = cfg.mirror and rng.random() < 0.5
        top, left = rng.integers(0, cfg.jitter + 1, 2) if cfg.jitter else (0, 0)
        for a in sides:
            if flip:
                a[row] = a[row, :, ::-1]
            if top or left:
                # A random crop moves to the corner, where all crops are then cut at once.
                a[row] = np.roll(a[row], (-top, -left), (0, 1))


def _part(image: np.ndarray, side: int, cfg: DataConfig, stream: tuple[int, int, int]) -> np.ndarray:
    """A square of an image's own pixels, anywhere in it, perhaps turned; the stream is of its place in the order."""
    rng = np.random.default_rng(stream)
    flip = cfg.mirror and rng.random() < 0.5
    top, left = (rng.integers(0, length - side + 1) for length in image.shape[:2])
    part = image[top : top + side, left : left + side]
    return part[:, ::-1] if flip else part


def as_they_are(data: Dataset, count: int, resolution: int) -> Batch:
    """`count` images, spread evenly over the data and neither turned nor moved, as one batch."""
    rows = evenly(len(data), count)
    crop = np.s_[rows, :resolution, :resolution]
    y, c = None if data.y is None else _tensor(data.y[crop]), None if data.c is None else data.c[rows]
    return Batch(_tensor(data.x[crop]), y, None if c is None else torch.from_numpy(c))


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


OTHER = 2
"""Added to a stream of random numbers where it is that of the other side of unpaired images."""


def _index(n: int, place: int, seed: int, stream: int = 0) -> int:
    """The image at a place of the endless order: every epoch is a permutation of its own."""
    epoch, offset = divmod(place, n)
    return int(_order(n, epoch, seed, stream)[offset])


@functools.lru_cache(maxsize=8)
def _order(n: int, epoch: int, seed: int, stream: int) -> np.ndarray:
    return np.random.default_rng((seed, stream, epoch)).permutation(n)
