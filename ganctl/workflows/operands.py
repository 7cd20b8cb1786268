"""The two sides of `ganctl fid`: what each one is, settled before anything slow is loaded."""

import hashlib
import json
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import catalog
from ganctl.errors import UsageError, did_you_mean, quoted
from ganctl.io.archives import kind_of
from ganctl.io.bundle import is_bundle
from ganctl.io.idx import IdxImage, idx_images
from ganctl.io.listing import ImageRef, no_images, scan
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.shards import shard_paths

if TYPE_CHECKING:
    from ganctl.metrics.statistics import Stats


STATISTICS = (".npz", ".pkl", ".pt")
"""Suffixes of files of statistics: ours and other tools'. A model's weights are a bundle or .safetensors here."""


@dataclass(frozen=True)
class Operand:
    """One side: statistics from a file, images, or a model."""

    ref: str
    kind: Literal["stats", "images", "model"]
    images: "tuple[ImageRef, ...] | tuple[IdxImage, ...]" = ()
    stats: "Stats | None" = None

    def rows(self, some: range | None = None) -> list[Any]:
        """The listing, or some of it: where the images are, their names, sizes and times."""
        images = self.images if some is None else self.images[some.start : some.stop]
        return [str(_path(self.ref).resolve()), *([r.name, r.size, r.mtime] for r in images)]

    def digest(self) -> str:
        """Names the listing."""
        return hashlib.sha256(json.dumps(self.rows()).encode()).hexdigest()


def operand(ref: str, reporter: Reporter = SILENT, *, least: int = 2) -> Operand:
    """Settles one side: statistics, zoo name, folder, archive, IDX file, bundle, run, or org/repo on the Hub.

    `least` is how many images there must be, 2 for a distance between sets.
    Raises UsageError: no such thing, no images (naming the extensions found), statistics that are none, a model that
    draws no images.
    """
    path = _path(ref)
    if ref.startswith("stats:"):
        hint = "use a folder, or an .npz made with: ganctl fid REAL --save-stats REAL.npz"
        raise UsageError(f"cannot use {quoted(ref)}", "this version publishes no reference statistics", hint)
    if "\0" in ref or not ref.strip():
        raise UsageError(f"cannot use {quoted(ref)}", "it is no path and no model")
    try:
        path.exists()
    except OSError as e:  # a name too long
        raise UsageError(f"cannot use {quoted(ref)}", e.strerror or "it is no path") from e
    name = catalog.split_revision(ref)[0]
    if name in catalog.entries():
        if path.exists():
            reporter.warn(f"{quoted(ref)} is taken as the model", "there is a path of that name too", f"write ./{ref}")
        return _sampler(ref, catalog.entries()[name].task)
    if path.suffix.lower() in STATISTICS:
        from ganctl.metrics.statistics import read_stats

        return Operand(ref, "stats", stats=read_stats(path))
    if path.is_dir() and (is_bundle(path) or catalog.snapshots(path)):
        return Operand(ref, "model")
    if path.exists():
        return Operand(ref, "model") if path.suffix.lower() == ".safetensors" else _images(ref, path, reporter, least)
    if shard_paths(path):
        return _images(ref, path, reporter, least)
    # `data/real` could be a Hub repository, but beside an existing `data/` it is a folder that is not there.
    if catalog.REPO.fullmatch(name) and not path.parent.is_dir():
        return Operand(ref, "model")
    near = did_you_mean(ref, [*catalog.entries(), *_neighbours(path)])
    hint = near or "pass a folder, a zip, an .npz, or a model of: ganctl zoo list"
    raise UsageError(f"no such path or model {quoted(ref)}", "nothing there has that name", hint)


def _sampler(ref: str, task: str) -> Operand:
    if task != "sample":
        hint = "models that do: ganctl zoo list --task sample"
        raise UsageError(f"cannot score {quoted(ref)}", f"its task is {task}: it draws no images from noise", hint)
    return Operand(ref, "model")


def _images(ref: str, path: Path, reporter: Reporter, least: int) -> Operand:
    from ganctl.data.idx import find_idx

    if idx := find_idx(path):
        # Named by the file, which of a folder's it is: the value belongs to that one.
        return _enough(Operand(ref if path.is_file() else str(idx), "images", tuple(idx_images(idx))), least)
    found = scan(path)
    if not found.images:
        raise no_images(ref, found)
    if found.skipped:
        name, why = found.skipped[0]
        others = f", and {len(found.skipped) - 1} more" if len(found.skipped) > 1 else ""
        reporter.warn(f"left out {quoted(name)} of {quoted(ref)}{others}", why, "")
    return _enough(Operand(ref, "images", found.images), least)


def _enough(side: Operand, least: int) -> Operand:
    if len(side.images) < least:
        what = "is one file" if _path(side.ref).is_file() and not kind_of(_path(side.ref)) else "holds 1 image"
        why = f"it {what}, a distance needs at least 2 images on each side"
        raise UsageError(f"cannot score {quoted(side.ref)}", why, "pass a folder, a zip, or IDX images (…-idx3-ubyte)")
    return side


def subset(side: Operand, n: int, seed: int) -> Operand:
    """`n` images of a side, drawn without repetition by the seed, in name order; all where it has no more."""
    if side.kind != "images" or n >= len(side.images):
        return side
    chosen = sorted(random.Random(seed).sample(range(len(side.images)), n))
    return replace(side, images=tuple(side.images[i] for i in chosen))


def same(a: Operand, b: Operand) -> bool:
    """Whether both sides are the same path or model."""
    if a.ref == b.ref:
        return True
    paths = _path(a.ref), _path(b.ref)
    return all(p.exists() for p in paths) and paths[0].samefile(paths[1])


def _path(ref: str) -> Path:
    return Path(os.path.expanduser(ref))  # noqa: PTH111 (Path's own fails on ~nobody)


def _neighbours(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    return [str(path.parent / p.name) if path.parent != Path() else p.name for p in path.parent.iterdir()][:1000]
