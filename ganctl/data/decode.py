"""Decoding of all images of a set: in threads, in order, once; kept in the cache for the next run and other ranks."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ganctl.data import MAX_DECODED_BYTES, DataConfig, OnProgress
from ganctl.errors import GanctlError, UsageError, quoted
from ganctl.io.archives import Member
from ganctl.io.decoded import one_at_a_time, read_decoded, room, write_decoded
from ganctl.io.images import BadImage
from ganctl.io.listing import ImageRef
from ganctl.io.threads import ordered

SMALL = 16 << 20
"""Decoded bytes up to which nothing is kept: decoding them again takes no longer than a run's start."""
GROWTH = 10
"""How many times the size of its file a photo may be, where its size is not known before it is decoded."""
PROTOCOL = 1
"""To be raised when the same files shall give other pixels."""


@dataclass
class Found:
    """What decoding came to: pictures [N,H,W,C], or a list of them where sizes differ, and the items they are of."""

    images: Any
    kept: list[Any]
    skipped: list[tuple[str, str]]


@dataclass
class _Work:
    """One pass over the items: the places of those that could be read, and the others with the reason."""

    refs: Sequence[Any]
    decode: Callable[[Any], np.ndarray]
    workers: int
    on_progress: OnProgress
    kept: list[int] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[np.ndarray]:
        self.kept, self.skipped = [], []
        workers = max(1, self.workers)
        # Ctrl-C must not wait for a hundred thousand images that nobody will look at.
        with closing(ordered(self._attempt, self.refs, workers, ahead=2 * workers)) as results:
            for i, got in enumerate(results):
                self.on_progress("decoding images", i + 1, len(self.refs))
                if isinstance(got, BadImage):
                    self.skipped.append((got.what, got.why))
                else:
                    self.kept.append(i)
                    yield got

    def _attempt(self, ref: Any) -> np.ndarray | BadImage:
        try:
            return self.decode(ref)
        except BadImage as e:
            return e

    def told(self) -> dict[str, Any]:
        return {"kept": self.kept, "skipped": self.skipped}


def decode_all(
    refs: Sequence[Any],
    decode: Callable[[Any], np.ndarray],
    cfg: DataConfig,
    workers: int,
    on_progress: OnProgress,
    *,
    how: tuple[Any, ...],
    shape: tuple[int, int, int] | None = None,
) -> Found:
    """Decodes every item (an ImageRef, or a tuple of them) in threads, in order.

    `how` is all that decides on the pixels beside the files, `shape` [h,w,C] of each picture, None where sizes differ.
    More than SMALL bytes are kept in the cache and mapped, so that sets beyond the memory can be trained on; where the
    cache has no room for them, they are held in memory up to MAX_DECODED_BYTES.

    Unreadable images are skipped and named, up to `max_bad` of all. Raises UsageError for more, and for too many bytes.
    """
    work = _Work(refs, decode, workers, on_progress)
    guess = GROWTH * sum(_bytes_of(ref) for ref in refs)
    need = guess if shape is None else len(refs) * math.prod(shape)
    found = None
    if need > SMALL and (shape is None or need < room()):
        found = _by_way_of_the_cache(work, _key(refs, how))
    if found is None:
        if shape is not None:
            _check_memory(cfg, len(refs), need)
        found = _in_memory(work, cfg, together=shape is not None)
    _check_skipped(found.skipped, len(refs), cfg)
    return found


def _by_way_of_the_cache(work: _Work, key: str) -> Found | None:
    """None where the cache cannot be written, or nothing could be decoded."""
    with one_at_a_time(key):
        kept = read_decoded(key)
        if kept is None:
            try:
                write_decoded(key, work, work.told)
            except GanctlError:  # of an image, it comes up again in memory
                return None
            kept = read_decoded(key)
    if kept is None:
        return None
    skipped = [(str(what), str(why)) for what, why in kept.facts["skipped"]]
    return Found(kept.images, [work.refs[i] for i in kept.facts["kept"]], skipped)


def _in_memory(work: _Work, cfg: DataConfig, *, together: bool) -> Found:
    images, total = [], 0
    for picture in work:
        images.append(picture)
        total += picture.nbytes
        if total > MAX_DECODED_BYTES:
            _check_memory(cfg, len(work.refs), total)
    stacked = np.stack(images) if together and images else images
    return Found(stacked, [work.refs[i] for i in work.kept], work.skipped)


def _check_memory(cfg: DataConfig, n: int, need: int) -> None:
    """Refuses what neither the cache nor the memory has room for."""
    if need > MAX_DECODED_BYTES:
        limit, free = MAX_DECODED_BYTES / 2**30, room() / 2**30
        raise UsageError(
            f"cannot hold {n} images of {quoted(cfg.path)}",
            f"decoded they take {need / 2**30:.3g} GiB; the cache has {free:.3g} GiB free, and the limit in memory is "
            f"{limit:.3g} GiB",
            "free some space, point GANCTL_CACHE to a larger disk, or take fewer with --subset or smaller ones with "
            "--resolution",
        )


def _check_skipped(skipped: list[tuple[str, str]], n: int, cfg: DataConfig) -> None:
    share = len(skipped) / n
    if share > cfg.max_bad:
        allow = min(0.99, math.ceil(share * 100) / 100)
        raise UsageError(
            f"{len(skipped)} of {n} images in {quoted(cfg.path)} unreadable ({share:.1%}), "
            f"more than the limit of {cfg.max_bad:.1%}",
            some(skipped),
            f"remove them, or allow them with --set max_bad={allow:g}" if n - len(skipped) > 1 else "choose other data",
        )


def some(skipped: Sequence[tuple[str, str]]) -> str:
    """The first five names with their reasons, and how many more there are."""
    first = "; ".join(f"{what}: {why}" for what, why in skipped[:5])
    return first + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")


def _key(refs: Sequence[Any], how: tuple[Any, ...]) -> str:
    """Names the pixels: the files by place, size and time, how they are decoded, and by which Pillow."""
    digest = hashlib.sha256(json.dumps([PROTOCOL, PIL.__version__, how]).encode())
    places: dict[Path, list[Any]] = {}
    for ref in refs:
        parts = ref if isinstance(ref, tuple) else (ref,)
        rows = [None if part is None else _identity(part, places) for part in parts]
        digest.update(json.dumps(rows).encode() + b"\n")
    return digest.hexdigest()[:40]


def _identity(ref: ImageRef, places: dict[Path, list[Any]]) -> list[Any]:
    """Where it is, how long and how old; `places` has the folders and archives that were looked up before."""
    if isinstance(ref.source, Member):
        archive = ref.source.archive
        if archive not in places:
            info = archive.stat()
            places[archive] = [str(archive.resolve()), info.st_size, info.st_mtime_ns]
        return [*places[archive], ref.name, ref.source.offset, ref.size]
    assert ref.source
    folder = ref.source.parent
    if folder not in places:
        places[folder] = [str(folder.resolve())]
    return [*places[folder], ref.source.name, ref.size, ref.mtime]


def _bytes_of(ref: Any) -> int:
    return sum(part.size for part in ref if part is not None) if isinstance(ref, tuple) else ref.size
