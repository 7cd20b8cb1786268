"""Two sides: pairs in one file, in two folders, or made from the target alone; and images that are no pairs."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from ganctl.data import DataConfig, Dataset, OnProgress
from ganctl.data.decode import decode_all
from ganctl.data.images import list_images
from ganctl.data.label_maps import holds_label_maps
from ganctl.errors import UsageError, quoted
from ganctl.io.images import BadImage, center_crop_resize, read_image, to_channels
from ganctl.io.listing import ImageRef, scan

Pair = tuple[ImageRef, ImageRef]
SIDES = ("trainA", "trainB")
"""Folders that are found by themselves."""


def open_pairs(
    cfg: DataConfig, resolution: int, channels: int, source_channels: int, workers: int, on_progress: OnProgress
) -> Dataset:
    """Source x and target y, both `resolution + jitter` pixels wide: training crops them alike."""
    assert cfg.path
    size = (resolution + cfg.jitter, resolution + cfg.jitter)
    refs: list[ImageRef] | list[Pair]
    found = _two_folders(cfg) if cfg.pairs == "files" else None
    if found is None and cfg.pairs == "files" and holds_label_maps(cfg.path):
        hint = "pass --set label_nc=N, the number of classes, to a model that takes them: pix2pixhd"
        raise UsageError(f"{quoted(cfg.path)} holds label maps", "their pixels are numbers, and no picture", hint)
    refs, left_out = found or list_images(cfg.path)
    refs = refs[: cfg.subset]

    def fit(pixels: np.ndarray, c: int) -> np.ndarray:
        return to_channels(center_crop_resize(pixels, size), c)

    def decode(ref: ImageRef | Pair) -> np.ndarray:
        if isinstance(ref, tuple):
            a, b = (read_image(r.read(), name=r.label).pixels for r in ref)
        else:
            a, b = _halves(ref, cfg)
        x, y = (b, a) if cfg.direction == "BtoA" else (a, b)
        return np.concatenate([fit(x, source_channels), fit(y, channels)], axis=2)

    how = ("pairs", cfg.pairs, cfg.direction, size[0], source_channels, channels)
    shape = (*size, source_channels + channels)
    got = decode_all(refs, decode, cfg, workers, on_progress, how=how, shape=shape)
    x, y = got.images[..., :source_channels], got.images[..., source_channels:]
    return Dataset(x, y, skipped=got.skipped + left_out)


def open_unpaired(
    cfg: DataConfig, resolution: int, channels: int, source_channels: int, workers: int, on_progress: OnProgress
) -> Dataset:
    """All of A as x and all of B as y, whatever their names and numbers: two folders, or the halves of each file."""
    assert cfg.path
    size = (resolution + cfg.jitter, resolution + cfg.jitter)
    (a, left_a), (b, left_b) = sides = _sides(cfg) or [list_images(cfg.path)] * 2
    apart = sides[0] is not sides[1]
    turned = cfg.direction == "BtoA"

    def side(refs: Sequence[ImageRef], half: int, c: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
        def decode(ref: ImageRef) -> np.ndarray:
            pixels = read_image(ref.read(), name=ref.label).pixels if apart else _halves(ref, cfg)[half]
            return to_channels(center_crop_resize(pixels, size), c)

        how = ("side", None if apart else half, size[0], c)
        got = decode_all(refs, decode, cfg, workers, on_progress, how=how, shape=(*size, c))
        return got.images, got.skipped

    chosen = (a[: cfg.subset], 0), (b[: cfg.subset], 1)
    (first, i), (second, j) = reversed(chosen) if turned else chosen
    x, skipped_x = side(first, i, source_channels)
    y, skipped_y = side(second, j, channels)
    # A file of two halves that cannot be read is named once.
    left_out = dict.fromkeys([*left_a, *left_b, *skipped_x, *skipped_y])
    return Dataset(x, y, skipped=list(left_out), unpaired=True)


def _halves(ref: ImageRef, cfg: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    pixels = read_image(ref.read(), name=ref.label).pixels
    if cfg.pairs == "grey":
        return pixels, pixels
    height, width = pixels.shape[:2]
    if width % 2 or width < height:
        raise BadImage(
            f"cannot split {quoted(ref.label)} into a pair",
            f"it is {width}x{height}; two images side by side are twice as wide as one",
        )
    return pixels[:, : width // 2], pixels[:, width // 2 :]


def _two_folders(cfg: DataConfig) -> tuple[list[Pair], list[tuple[str, str]]] | None:
    """Files of both sides that share a name (without its ending), and the others; None if the data is one folder."""
    sides = _sides(cfg)
    if sides is None:
        return None
    names = (cfg.path, cfg.path_b) if cfg.path_b else SIDES
    (a, left_a), (b, left_b) = ((_by_stem(refs, cut=not cfg.path_b), left) for refs, left in sides)
    both = sorted(a.keys() & b.keys())
    if not both:
        raise UsageError(
            f"no pairs in {quoted(names[0])} and {quoted(names[1])}",
            f"of {len(a)} and {len(b)} images no two share a name",
            "give both images of a pair the same file name",
        )
    alone = [(refs[0], names[1]) for k, refs in sorted(a.items()) if k not in b]
    alone += [(refs[0], names[0]) for k, refs in sorted(b.items()) if k not in a]
    lonely = [(r.label, f"no image of that name in {quoted(other)}") for r, other in alone]
    twice = [(r.label, f"a second image named {quoted(k)}") for k in both for r in (*a[k][1:], *b[k][1:])]
    return [(a[k][0], b[k][0]) for k in both], left_a + left_b + lonely + twice


def _sides(cfg: DataConfig) -> list[tuple[list[ImageRef], list[tuple[str, str]]]] | None:
    """The images of A and of B, each with what was left out; None if the data is one folder without `SIDES`."""
    assert cfg.path
    if cfg.path_b:
        return [list_images(path) for path in (cfg.path, cfg.path_b)]
    found = scan(cfg.path)
    a, b = ([r for r in found.images if r.name.startswith(f"{n}/")] for n in SIDES)
    return [(a, list(found.skipped)), (b, [])] if a and b else None


def _by_stem(refs: Sequence[ImageRef], *, cut: bool) -> dict[str, list[ImageRef]]:
    found: dict[str, list[ImageRef]] = {}
    for ref in refs:
        found.setdefault(_stem(ref.name, cut=cut), []).append(ref)
    return found


def _stem(name: str, *, cut: bool) -> str:
    path = PurePosixPath(name)
    parts: Sequence[str] = path.parts[1:] if cut else path.parts
    return PurePosixPath(*parts).with_suffix("").as_posix()
