"""Batches in an order that depends on the seed and the number of images seen, and on nothing else."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ganctl.data import DataConfig, Dataset, evenly
from ganctl.phase import Batch


def batches(
    data: Dataset,
    cfg: DataConfig,
    *,
    size: int,
    resolution: int,
    seed: int,
    micro: int | None = None,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Endless uint8 batches [n,C,H,W]; of every `size` images this rank gets its rows.

    Where a rank takes them `micro` at a time, all ranks' first micro-batches together are the first images, and so on:
    two ranks with micro-batches of 8 see what one process with micro-batches of 16 sees. `start` images were seen
    before: the order goes on exactly where an undisturbed run would be.
    """
    rows = np.arange(size).reshape(-1, world, micro or size // world)[:, rank].ravel()
    position = start
    while True:
        yield _batch(data, cfg, position + rows, resolution, seed)
        position += size


def _batch(data: Dataset, cfg: DataConfig, places: np.ndarray, resolution: int, seed: int) -> Batch:
    index = np.array([_index(len(data), int(p), seed) for p in places])
    x, y = data.x[index], None if data.y is None else data.y[index]
    if cfg.mirror or cfg.jitter:
        for row, place in enumerate(places):
            # One generator for each place in the order: an image's augmentation depends on no other image.
            rng = np.random.default_rng((seed, 1, int(place)))
            flip = cfg.mirror and rng.random() < 0.5
            for a in (x,) if y is None else (x, y):
                a[row] = a[row, :, ::-1] if flip else a[row]
            if cfg.jitter:
                _shift(x, y, row, *rng.integers(0, cfg.jitter + 1, 2))
    crop = np.s_[:, :resolution, :resolution]
    c = None if data.c is None else torch.from_numpy(data.c[index])
    return Batch(_tensor(x[crop]), None if y is None else _tensor(y[crop]), c)


def as_they_are(data: Dataset, count: int, resolution: int) -> Batch:
    """`count` images, spread evenly over the data and neither turned nor moved, as one batch."""
    rows = evenly(len(data), count)
    crop = np.s_[rows, :resolution, :resolution]
    y, c = None if data.y is None else _tensor(data.y[crop]), None if data.c is None else data.c[rows]
    return Batch(_tensor(data.x[crop]), y, None if c is None else torch.from_numpy(c))


def _shift(x: np.ndarray, y: np.ndarray | None, row: int, top: int, left: int) -> None:
    """Moves a random crop to the corner, where all crops are then cut at once."""
    for a in (x,) if y is None else (x, y):
        a[row] = np.roll(a[row], (-top, -left), (0, 1))


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _index(n: int, place: int, seed: int) -> int:
    """The image at a place of the endless order: every epoch is a permutation of its own."""
    epoch, offset = divmod(place, n)
    key = (n, epoch, seed)
    if key not in _orders:
        while len(_orders) >= 2:
            _orders.pop(next(iter(_orders)))
        _orders[key] = np.random.default_rng((seed, 0, epoch)).permutation(n)
    return int(_orders[key][offset])
