"""A look at the first image, for recipes that leave the size to the data."""

import contextlib
from pathlib import Path

from ganctl.data import DataConfig
from ganctl.data.idx import find_idx
from ganctl.data.images import list_images
from ganctl.errors import UsageError, quoted
from ganctl.io.idx import read_idx
from ganctl.io.images import BadImage, read_image


def first_size(cfg: DataConfig, *, paired: bool) -> tuple[int, int]:
    """Shorter side in pixels and channels (1 grey, 3 colour) of the first training image that can be read, or of half a
    pair."""
    assert cfg.path
    if not paired and (idx := find_idx(Path(cfg.path))):
        shape = read_idx(idx).shape
        return min(shape[1:3]), shape[3] if len(shape) == 4 else 1
    for ref in list_images(cfg.path)[0]:
        with contextlib.suppress(BadImage):
            height, width, channels = read_image(ref.read(), name=ref.label).pixels.shape
            if paired and cfg.path_b is None and cfg.pairs != "grey" and width == 2 * height:
                width //= 2
            return min(height, width), 1 if channels == 1 else 3
    raise UsageError(f"cannot use {quoted(cfg.path)}", "none of its images can be read", "choose other data")
