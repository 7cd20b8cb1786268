"""A picture through a network in tiles: memory goes with the tile, and what lies between two is blended.

All that is held of the whole is bytes: the picture, its translation, and one row of tiles.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from ganctl.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

WHOLE = "translated in tiles by a network that looks at the whole picture: colours may differ between them"
"""The note on a picture whose tiles are no parts of its translation."""


def check_tiles(tile: int, overlap: int) -> None:
    """Raises UsageError where neighbours would share more than half of a tile: work grows without end."""
    if tile and 2 * overlap > tile:
        what = f"cannot use --tile {tile} with --tile-overlap {overlap}"
        hint = f"pass --tile {2 * overlap} or more, or --tile-overlap {tile // 2}"
        raise UsageError(what, "neighbours can share half a tile at most", hint)


def starts(size: int, tile: int, overlap: int, stride: int) -> list[int]:
    """Where the fewest tiles begin that share at least `overlap` pixels: at multiples of the stride, evenly.

    `tile` and `overlap` are such multiples. What the stride lacks at the end of `size` counts, as whoever translates a
    picture reflects it there.
    """
    size += -size % stride
    steps = math.ceil(max(size - tile, 0) / (tile - overlap))
    return [k * (size - tile) // steps // stride * stride for k in range(steps + 1)] if steps else [0]


def tiled(
    pixels: "np.ndarray",
    one: "Callable[[np.ndarray], np.ndarray]",
    tile: int,
    overlap: int,
    stride: int = 1,
    halo: int | None = None,
) -> "np.ndarray":
    """uint8 [H, W, C] → uint8 [H', W', K] through `one`, which sees at most `tile` pixels (up to the stride) a side.

    `halo`: how far from an output pixel the network's view ends. Pixels that far from where tiles end are those of the
    whole picture; that are all, where the overlap is twice the halo.
    """
    import numpy as np

    tile, overlap = tile + -tile % stride, overlap // stride * stride
    tops, lefts = (starts(size, tile, overlap, stride) for size in pixels.shape[:2])
    rows = (
        joined((one(pixels[y : y + tile, x : x + tile]) for x in lefts), lefts, tile, pixels.shape[1], halo, axis=1)
        for y in tops
    )
    return np.ascontiguousarray(joined(rows, tops, tile, pixels.shape[0], halo, axis=0))


def joined(
    parts: "Iterable[np.ndarray]", begin: Sequence[int], tile: int, size: int, halo: int | None, *, axis: int
) -> "np.ndarray":
    """Translations of the tiles that begin at `begin` along an axis of `size` pixels, as one.

    Where two overlap, one goes over into the other. What the end of a tile spoils has no part in that, if the overlap
    is wide enough; else its outer quarters have none.
    """
    import numpy as np

    whole = scale = None
    for k, part in enumerate(parts):
        part = part.swapaxes(0, axis)
        if whole is None or scale is None:
            scale = Fraction(len(part), min(tile, size))
            whole = np.empty((int(size * scale), *part.shape[1:]), np.uint8)
            whole[: len(part)] = part
            continue
        at, end = int(begin[k] * scale), int((begin[k - 1] + tile) * scale)
        shared = end - at
        spoilt = shared // 4 if halo is None else math.ceil(halo * scale)
        if 2 * spoilt > shared:
            spoilt = shared // 4
        share = (np.arange(shared, dtype=np.float32) + 0.5 - spoilt) / max(shared - 2 * spoilt, 1)
        share = share.clip(0, 1).reshape(-1, *[1] * (part.ndim - 1))
        whole[at:end] = np.rint(whole[at:end] * (1 - share) + part[:shared] * share)
        whole[end : at + len(part)] = part[shared:]
    assert whole is not None
    return whole.swapaxes(0, axis)
