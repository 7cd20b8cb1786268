"""Features of many images, block by block: threads decode, networks read, and an interruption costs one block."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt64

from ganctl.errors import UsageError
from ganctl.io.arrays import read_npz, write_npz
from ganctl.io.threads import ordered
from ganctl.metrics.features import Extractor, Prepared
from ganctl.metrics.statistics import Seen

T = TypeVar("T")
COUNTED = ("sizes", "formats", "channels", "notes")
"""The tables of Seen."""

BLOCK = 1024
"""Images of a block. Batches never cross its ends, so that features do not depend on where a run was interrupted, nor
on how many processes share it."""


@dataclass(frozen=True)
class Look:
    """One image, as a decoder thread hands it over."""

    views: Sequence[Prepared] = ()
    """The image, and its mirror image where that counts too, as every extractor takes them."""
    size: str = ""
    """`width x height`."""
    channels: str = ""
    format: str = ""
    notes: Sequence[str] = ()
    digest: int = 0
    """64 bits that name its pixels."""
    bad: tuple[str, str] | None = None
    """Name and reason, if it could not be read."""


@dataclass(frozen=True)
class Block:
    """What is kept of consecutive images of one side."""

    features: Sequence[Float[np.ndarray, "m d"]]
    """float32, one array per extractor."""
    positions: Int[np.ndarray, "m"]
    """Which image of the side each row is of; a mirrored one has two rows."""
    seen: Seen
    digests: UInt64[np.ndarray, "images"]
    """What names the pixels of each image."""
    bad: Sequence[tuple[str, str]] = ()


@dataclass
class _Filling:
    """A block in the making."""

    extractors: Sequence[Extractor]
    features: list[list[np.ndarray]] = field(default_factory=list)
    pending: list[Prepared] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.features = [[] for _ in self.extractors]
        self.counts = {name: Counter() for name in COUNTED}

    def add(self, position: int, look: Look) -> None:
        if look.bad:
            self.bad.append(look.bad)
            return
        for name, value in (("sizes", look.size), ("formats", look.format), ("channels", look.channels)):
            if value:
                self.counts[name][value] += 1
        self.counts["notes"].update(look.notes)
        self.digests.append(look.digest)
        self.pending.extend(look.views)
        self.positions.extend([position] * len(look.views))

    def flush(self, size: int) -> None:
        """Runs the networks over pending images, `size` at a time."""
        batch = self.pending[:size]
        del self.pending[:size]
        for k, extractor in enumerate(self.extractors):
            self.features[k].append(extractor.extract([view[k] for view in batch]).numpy())

    def block(self) -> Block:
        seen = Seen(**{k: dict(c.most_common()) for k, c in self.counts.items()}, skipped=len(self.bad))
        rows = [
            np.concatenate(parts) if parts else np.zeros((0, e.dims), np.float32)
            for e, parts in zip(self.extractors, self.features, strict=True)
        ]
        positions = np.array(self.positions[: len(rows[0]) if rows else 0], np.int64)
        return Block(rows, positions, seen, np.array(self.digests, np.uint64), tuple(self.bad))


def split(n: int) -> list[range]:
    """0 … n - 1 in blocks."""
    return [range(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def extract(
    todo: Sequence[range],
    items: Callable[[range], Iterable[T]],
    look: Callable[[T], Look],
    extractors: Sequence[Extractor],
    *,
    batch_size: int,
    workers: int,
    skip_bad: bool = False,
    fail_fast: bool = False,
    done: Callable[[int], None] = lambda n: None,
) -> Iterator[Block]:
    """The blocks `todo`, in order, in constant memory.

    `items` gives the images of a block, one per position; `look` reads one, in `workers` threads that run about a batch
    ahead. Without `skip_bad` there will be no score once one is bad: the others are then only read, so that every
    bad one can be named; with `fail_fast` the block ends at it, and no other follows. `done` hears the number of images
    finished.
    """
    looks = ordered(look, (item for block in todo for item in items(block)), workers, ahead=batch_size + 2 * workers)
    halted, count = False, 0
    for positions in todo:
        filling = _Filling(extractors)
        for position in positions:
            filling.add(position, next(looks))
            if fail_fast and filling.bad:
                yield filling.block()
                return
            halted = halted or bool(filling.bad and not skip_bad)
            while len(filling.pending) >= batch_size and not halted:
                filling.flush(batch_size)
            count += 1
            done(count)
        while filling.pending and not halted:
            filling.flush(batch_size)
        yield filling.block()


def write_block(path: Path, block: Block) -> None:
    """Keeps a block on the disk. Raises GanctlError."""
    arrays = {f"features{k}": rows for k, rows in enumerate(block.features)}
    seen = np.array(json.dumps(asdict(block.seen)))
    write_npz(path, {**arrays, "positions": block.positions, "digests": block.digests, "seen": seen})


def read_block(path: Path, extractors: Sequence[Extractor]) -> Block | None:
    """A block kept by an earlier run; None where there is none, or none that these extractors made."""
    try:
        arrays: dict[str, Any] = read_npz(path)
        seen = Seen(**json.loads(str(arrays["seen"].reshape(-1)[0])))
        rows = [arrays[f"features{k}"] for k in range(len(extractors))]
        positions, digests = arrays["positions"], arrays["digests"]
    except (UsageError, KeyError, TypeError, ValueError, IndexError):
        return None
    if any(r.shape != (len(positions), e.dims) for r, e in zip(rows, extractors, strict=True)):
        return None
    return Block(rows, positions, seen, digests)


def merged(parts: Iterable[Seen]) -> Seen:
    """What several blocks have seen, together."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    skipped = 0
    for part in parts:
        for name, counter in counts.items():
            counter.update(getattr(part, name))
        skipped += part.skipped
    return Seen(**{k: dict(c.most_common()) for k, c in counts.items()}, skipped=skipped)
