"""The door for decoded pictures in the cache: uint8 pixels that are mapped into memory, one copy for all processes.

An entry is a folder of two files, made beside and renamed: `pixels`, the pictures one behind the other as [h, w, C]
bytes, and `facts.json`, their shapes and what was found while they were decoded. It may be removed at any time.
"""

import contextlib
import json
import math
import mmap
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.io.files import atomic_folder, cache_root

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VERSION = 1
UNUSED_DAYS = 30
"""What no run has opened for so long makes room when something new is kept."""
PIXELS, FACTS = "pixels", "facts.json"

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Decoded:
    """Pictures uint8 [h, w, C], and what their maker had to say of them (JSON)."""

    images: "np.ndarray | list[np.ndarray]"
    """[N, h, w, C] where all are of one shape, which may not be written to."""
    facts: Any


def folder() -> Path:
    return cache_root() / "decoded"


def room() -> int:
    """Bytes that the cache's disk has left; 0 where it cannot be written."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder()).free
    except OSError:
        return 0


@contextlib.contextmanager
def one_at_a_time(key: str) -> Iterator[None]:
    """Keeps other processes that would decode the same from doing so meanwhile; they find it done.

    Where there are no locks all of them decode it, and the last one's stays.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            lock = held.enter_context((folder() / f"{key}.lock").open("w"))
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_decoded(key: str) -> Decoded | None:
    """What is kept under a key, mapped and not read; None where nothing whole is."""
    import numpy as np

    path = folder() / key
    try:
        facts = json.loads((path / FACTS).read_bytes())
        shapes = [(int(h), int(w), int(c)) for h, w, c in facts["shapes"]]
        if facts["version"] != VERSION or not shapes or min(map(min, shapes)) < 1:
            return None
        sizes = [math.prod(shape) for shape in shapes]
        with (path / PIXELS).open("rb") as f:
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) != sum(sizes) * (facts["n"] if len(shapes) == 1 else 1):
            return None
        flat = np.frombuffer(mapped, np.uint8)
        # Its age tells when it was last used.
        with contextlib.suppress(OSError):
            (path / FACTS).touch()
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    if len(shapes) == 1:
        return Decoded(flat.reshape(-1, *shapes[0]), facts["told"])
    ends = np.cumsum(sizes)
    images = [flat[e - s : e].reshape(shape) for s, e, shape in zip(sizes, ends, shapes, strict=True)]
    return Decoded(images, facts["told"])


def write_decoded(key: str, pictures: "Iterable[np.ndarray]", told: Callable[[], Any]) -> None:
    """Keeps pictures as they come, and then what `told()` says of them. Raises GanctlError (disk full)."""
    import numpy as np

    _make_room()
    with atomic_folder(folder() / key) as temporary:
        shapes: list[Sequence[int]] = []
        with (temporary / PIXELS).open("wb") as f:
            for picture in pictures:
                f.write(np.ascontiguousarray(picture).data)
                shapes.append(picture.shape)
        same = len(set(shapes)) == 1
        facts = {"version": VERSION, "n": len(shapes), "shapes": shapes[:1] if same else shapes, "told": told()}
        (temporary / FACTS).write_text(json.dumps(facts))


def _make_room() -> None:
    """Removes what has not been used for UNUSED_DAYS. A process that has it mapped keeps it."""
    before = time.time() - UNUSED_DAYS * 24 * 3600
    with contextlib.suppress(OSError):
        for path in folder().iterdir():
            with contextlib.suppress(OSError):
                if path.name.startswith("."):
                    continue
                if path.suffix == ".lock" and path.stat().st_mtime < before:
                    path.unlink()
                elif path.is_dir() and (path / FACTS).stat().st_mtime < before:
                    shutil.rmtree(path)
