"""Label maps and photographs of the same scenes: the layout of pix2pixHD's authors, or two folders."""

import re
from pathlib import PurePosixPath

import numpy as np

from ganctl.data import DataConfig, Dataset, OnProgress
from ganctl.data.decode import decode_all
from ganctl.data.images import list_images
from ganctl.errors import UsageError, quoted
from ganctl.io.images import center_crop_resize, read_image, to_channels
from ganctl.io.label_maps import NONE
from ganctl.io.listing import ImageRef, scan

LABELS, PHOTOS, OBJECTS = FOLDERS = ("train_label", "train_img", "train_inst")
"""Folders that are found by themselves; the third may be missing."""
KIND = re.compile(r"_(gtFine|gtCoarse)_(labelIds|instanceIds)$|_leftImg8bit$")
"""What Cityscapes' names say of a file beside its scene."""

Scene = tuple[ImageRef, ImageRef, ImageRef | None]
Found = tuple[list[Scene], list[tuple[str, str]]]


def open_label_maps(
    cfg: DataConfig, resolution: int, channels: int, classes: int, workers: int, on_progress: OnProgress
) -> Dataset:
    """Label maps x [N,H,W,3] as io/label_maps.py has them, and photographs y; `resolution + jitter` pixels wide.

    Raises UsageError: no such folders, no scene of which both are there, a class beyond `classes`.
    """
    size = (resolution + cfg.jitter, resolution + cfg.jitter)
    scenes, left_out = _scenes(cfg)
    scenes = scenes[: cfg.subset]

    def numbers(ref: ImageRef) -> np.ndarray:
        pixels = read_image(ref.read(), name=ref.label, numbers=True).pixels
        return center_crop_resize(pixels, size, "nearest")

    def decode(scene: Scene) -> np.ndarray:
        labels, photo, objects = scene
        x = numbers(labels)
        if objects is not None:
            x = np.concatenate([x[..., :1], numbers(objects)[..., 1:]], 2)
        y = center_crop_resize(read_image(photo.read(), name=photo.label).pixels, size)
        return np.concatenate([x, to_channels(y, channels)], 2)

    how, shape = ("labels", size[0], channels), (*size, 3 + channels)
    got = decode_all(scenes, decode, cfg, workers, on_progress, how=how, shape=shape)
    x, y = got.images[..., :3], got.images[..., 3:]
    # One scene at a time: all of them together may not fit in memory.
    highest = max(int(one[one != NONE].max(initial=0)) for one in x[..., 0])
    if highest >= classes:
        what, hint = f"{quoted(cfg.path)} has class {highest}", f"pass --set label_nc={highest + 1}"
        raise UsageError(what, f"label_nc is {classes}: classes 0 to {classes - 1}", hint)
    return Dataset(x, y, skipped=got.skipped + left_out, numbers=True)


def holds_label_maps(path: str) -> bool:
    """Whether it is a folder or archive in the layout of pix2pixHD's authors."""
    return any(r.name.startswith(f"{LABELS}/") for r in scan(path).images)


def _scenes(cfg: DataConfig) -> Found:
    assert cfg.path
    if cfg.pairs != "files":
        raise UsageError(f"cannot use pairs={cfg.pairs} with label maps", "both sides must be given", "leave it out")
    if cfg.path_b:
        (a, left_a), (b, left_b) = list_images(cfg.path), list_images(cfg.path_b)
        sides, left = {cfg.path: a, cfg.path_b: b}, left_a + left_b
        labels, photos = (cfg.path_b, cfg.path) if cfg.direction == "BtoA" else (cfg.path, cfg.path_b)
        return _matched(sides, labels, photos, None, left)
    found = scan(cfg.path)
    sides = {name: [r for r in found.images if r.name.startswith(f"{name}/")] for name in FOLDERS}
    if not sides[LABELS] or not sides[PHOTOS]:
        why = f"it has no folders {LABELS} and {PHOTOS}"
        hint = "make them, or give label maps and photographs by --data-a and --data-b"
        raise UsageError(f"no label maps in {quoted(cfg.path)}", why, hint)
    return _matched(sides, LABELS, PHOTOS, OBJECTS if sides[OBJECTS] else None, list(found.skipped))


def _matched(
    sides: dict[str, list[ImageRef]], labels: str, photos: str, objects: str | None, left: list[tuple[str, str]]
) -> Found:
    """Files that belong to one scene, in the order of its name; what has no counterpart is left out and named."""
    cut = objects is not None or labels in FOLDERS
    by_name = {side: _by_scene(refs, cut) for side, refs in sides.items()}
    wanted = [side for side in (labels, photos, objects) if side]
    names = set.intersection(*(set(by_name[side]) for side in wanted))
    if not names:
        why = f"no file of {' and '.join(quoted(s) for s in wanted)} share a name"
        raise UsageError("no pairs of label map and photograph", why, "give files of one scene the same name")
    lonely = [
        (ref.label, f"not in all of {', '.join(wanted)}")
        for side in wanted
        for name, ref in sorted(by_name[side].items())
        if name not in names
    ]
    scenes: list[Scene] = [
        (by_name[labels][n], by_name[photos][n], by_name[objects][n] if objects else None) for n in sorted(names)
    ]
    return scenes, left + lonely


def _by_scene(refs: list[ImageRef], cut: bool) -> dict[str, ImageRef]:
    """Of several files of one scene the first: instanceIds tell more than labelIds do."""
    found: dict[str, ImageRef] = {}
    for ref in refs:
        path = PurePosixPath(*PurePosixPath(ref.name).parts[1 if cut else 0 :])
        found.setdefault(KIND.sub("", path.with_suffix("").as_posix()), ref)
    return found
